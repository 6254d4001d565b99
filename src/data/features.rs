//! Numbers that describe perturbations: embeddings of genes or drugs, targets, doses. A model that knows perturbations by them, and
//! not by their names, can predict one that it was never trained on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::h5ad::H5ad;
use super::shard::{Manifest, parting};
use super::table::Table;
use crate::config::WIDEST;
use crate::error::{Error, Result, some_of};
use crate::folder::name_of;
use crate::memory;

/// A row of features for each of some perturbations, as a file has them.
#[derive(Clone, PartialEq)]
pub struct FeatureTable {
    path: PathBuf,
    /// The name of the column of names: a perturbation's, if the file lacks its header.
    corner: String,
    columns: Vec<String>,
    rows: BTreeMap<String, Vec<f32>>,
}

brief!(FeatureTable, |table| path: table.path, shape: (table.rows.len(), table.columns.len()));

/// Which features a run was trained with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureId {
    /// Name of the table's file, without its folder.
    pub name: String,
    /// Names of the features, `[F]`.
    pub columns: Vec<String>,
    /// CRC-32 of the names and features of the run's perturbations.
    pub crc: u32,
}

impl FeatureTable {
    /// Reads a .csv (commas) or a .tsv or .txt (tabs), packed with gzip or not, whose first line names the columns, with the
    /// perturbation in the first one and numbers in all others; or an .h5ad, whose observations are the perturbations and whose X
    /// has the numbers. Of a text, blanks around numbers do not count, nor those around a name, unless a perturbation has them too.
    ///
    /// # Errors
    /// A file that cannot be read; a name that is empty or comes twice, that of a column among them; what is not a finite number;
    /// nothing but names.
    pub fn read(path: &Path) -> Result<FeatureTable> {
        let (corner, columns, rows) = (String::new(), Vec::new(), BTreeMap::new());
        let mut table = FeatureTable { path: path.to_path_buf(), corner, columns, rows };
        match path.extension().is_some_and(|end| end == "h5ad") {
            true => table.read_h5ad()?,
            false => table.read_text()?,
        }
        match table.columns.len() {
            0 => Err(table.wrong("has no numbers behind the names; commas separate columns, in a .tsv tabs")),
            width if width > WIDEST => {
                Err(table.wrong(format!("has more than {WIDEST} numbers per perturbation")))
            }
            _ if table.rows.is_empty() => Err(table.wrong("has no row below the names of the columns")),
            _ => Ok(table),
        }
    }

    fn read_h5ad(&mut self) -> Result<()> {
        let file = H5ad::open(&self.path)?;
        self.columns = file.var().index.clone();
        let numbers = (file.shape().0 as u64).saturating_mul(file.shape().1 as u64);
        memory::check_file(&self.path, "its features", numbers.saturating_mul(4))?;
        let names = file.cell_names(0..file.shape().0)?.1;
        for block in file.blocks() {
            let (range, cells) = block?;
            for (name, cell) in names[range].iter().zip(cells.outer_iterator()) {
                let mut row = vec![0.0; self.columns.len()];
                cell.iter().for_each(|(at, &x)| row[at] = x);
                self.add(name, row)?;
            }
        }
        Ok(())
    }

    fn read_text(&mut self) -> Result<()> {
        let mut file = Table::open(&self.path)?;
        let mut header = file.header().iter().cloned();
        self.corner = header.next().unwrap_or_default();
        self.columns = header.collect();
        while let Some(row) = file.next()? {
            let number = |(column, text): (&String, &str)| {
                let wrong = || {
                    row.wrong(format!(
                        "{:?} has {text:?} in column {column:?}, which is not a number",
                        row.at(0)
                    ))
                };
                text.parse::<f32>().map_err(|_| wrong())
            };
            let numbers = self.columns.iter().zip(row.iter().skip(1)).map(number).collect::<Result<_>>()?;
            self.add(row.exact(0), numbers)?;
        }
        // A perturbation's name has such blanks too, or is meant without them.
        let (plain, blank): (Vec<String>, Vec<String>) =
            self.rows.keys().cloned().partition(|name| name.trim() == name.as_str());
        for name in blank
            .iter()
            .filter(|name| plain.binary_search_by(|other| other.as_str().cmp(name.trim())).is_err())
        {
            self.add(name.trim(), self.rows[name].clone())?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, row: Vec<f32>) -> Result<()> {
        if name.trim().is_empty() {
            return Err(self.wrong("has a row without a name"));
        }
        if let Some(bad) = row.iter().find(|x| !x.is_finite()) {
            return Err(self.wrong(format!("{name:?} has the feature {bad}; each must be a finite number")));
        }
        match self.rows.insert(name.to_string(), row) {
            None => Ok(()),
            Some(_) => Err(self.wrong(format!("has two rows for {name:?}; keep one"))),
        }
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::format(&self.path, what)
    }

    /// The table's rows for these names, one behind the other; zeros for the control label.
    fn rows(&self, names: &[String], control: &str) -> Vec<f32> {
        let blank = vec![0.0; self.columns.len()];
        let row = |name: &String| if name == control { &blank } else { &self.rows[name] };
        names.iter().flat_map(row).copied().collect()
    }

    /// What a run on these data notes of it.
    ///
    /// # Errors
    /// A perturbation has no row; what the table says of the control label is not used.
    pub fn id(&self, data: &Manifest) -> Result<FeatureId> {
        let absent = |name: &&String| **name != data.control && !self.rows.contains_key(*name);
        let absent: Vec<&String> = data.perturbations.iter().filter(absent).collect();
        if !absent.is_empty() {
            let what = format!("has no row for these perturbations of the data: {}", some_of(&absent));
            return Err(self.wrong(match absent.contains(&&self.corner) {
                true => format!("{what}; its first line must name the columns"),
                false => format!(
                    "{what}; add them, or make the data directory without their cells (preprocess leaves out cells without a label)"
                ),
            }));
        }
        let mut crc = crc32fast::Hasher::new();
        for name in &data.perturbations {
            crc.update(name.as_bytes());
            crc.update(&[0]);
        }
        crc.update(bytemuck::cast_slice(&self.rows(&data.perturbations, &data.control)));
        Ok(FeatureId { name: name_of(&self.path), columns: self.columns.clone(), crc: crc.finalize() })
    }
}

/// Standard deviations from which on a prediction is a guess.
const FAR: f64 = 10.0;
/// Standard deviations that a network reads at most: its sums stay finite.
const FARTHEST: f64 = 1e6;

/// What a run knows of its perturbations: P of them, F numbers each.
#[derive(Clone, PartialEq)]
pub struct Features {
    /// Where they come from.
    pub id: FeatureId,
    /// `[P, F]`, as they were read, in the order of the vocabulary; zeros for the control label.
    pub values: Vec<f32>,
    /// `[F]`, over the perturbations that the run is trained on.
    pub mean: Vec<f32>,
    /// `[F]`, over the same; 0 where all are alike, so that nothing can be learned of that feature.
    pub std: Vec<f32>,
}

brief!(Features, |features| name: features.id.name, columns: features.id.columns.len());

impl Features {
    /// The features of the perturbations of a data directory, of which a run is not trained on those in `untrained`, sorted.
    ///
    /// # Errors
    /// As [`FeatureTable::id`]; there are fewer than two perturbations to learn from, or no feature differs between them.
    pub fn of(table: &FeatureTable, data: &Manifest, untrained: &[String]) -> Result<Features> {
        let id = table.id(data)?;
        let is_trained = |name: &&String| **name != data.control && untrained.binary_search(name).is_err();
        let trained: Vec<&[f32]> =
            data.perturbations.iter().filter(is_trained).map(|name| &table.rows[name][..]).collect();
        if trained.len() < 2 {
            return Err(table.wrong("cannot be used: fewer than two perturbations are trained on"));
        }
        let mean = |of: &dyn Fn(&[f32]) -> f64| {
            trained.iter().map(|row| of(row)).sum::<f64>() / trained.len() as f64
        };
        let moments = |at: usize| {
            let centre = mean(&|row| row[at].into());
            let std = mean(&|row| (f64::from(row[at]) - centre).powi(2)).sqrt();
            // Rounding alone makes some variance of numbers that are all alike.
            (centre as f32, if std > 1e-6 * centre.abs() { std as f32 } else { 0.0 })
        };
        let (mean, std): (Vec<f32>, Vec<f32>) = (0..table.columns.len()).map(moments).unzip();
        if std.iter().all(|&std| std == 0.0) {
            return Err(
                table.wrong("describes nothing: each column is the same for all perturbations trained on")
            );
        }
        Ok(Features { id, values: table.rows(&data.perturbations, &data.control), mean, std })
    }

    /// A note on features of which nothing can be learned, if there are some.
    pub(crate) fn constant(&self) -> Option<String> {
        let names: Vec<&String> = self
            .id
            .columns
            .iter()
            .zip(&self.std)
            .filter(|(_, std)| **std == 0.0)
            .map(|(name, _)| name)
            .collect();
        (!names.is_empty()).then(|| {
            format!(
                "features ignored, as they are the same for all perturbations trained on: {}",
                some_of(&names)
            )
        })
    }

    /// Refuses a table that says other things than these features, which are those of `data`.
    ///
    /// # Errors
    /// It has other columns, or other numbers for a perturbation that is known.
    pub fn check(&self, table: &FeatureTable, data: &Manifest) -> Result<()> {
        let FeatureId { name, columns, .. } = &self.id;
        let other = |what: String| {
            Err(table.wrong(format!("is not like {name:?}, which the run was trained with: {what}")))
        };
        if let Some((alike, names)) = parting(&table.columns, columns) {
            let [here, there] = names.map(|name| name.map_or("none", String::as_str));
            return other(format!("feature {} is {here:?}, but there it is {there:?}", alike + 1));
        }
        let known = data.perturbations.iter().zip(self.values.chunks(columns.len()));
        let differs = |(name, known): &(&String, &[f32])| {
            **name != data.control && table.rows.get(*name).is_some_and(|row| row != known)
        };
        match known.into_iter().find(differs) {
            Some((name, _)) => other(format!("it has other numbers for {name:?}")),
            None => Ok(()),
        }
    }

    /// These features, standardised with another run's means and deviations because its weights are reused. A feature that was
    /// constant in that run keeps this run's deviation: that run learned nothing from it.
    pub fn as_in(mut self, other: &Features) -> Features {
        self.mean.clone_from(&other.mean);
        let known = self.std.iter_mut().zip(&other.std).filter(|(_, theirs)| **theirs > 0.0);
        known.for_each(|(std, theirs)| *std = *theirs);
        self
    }

    /// The same, and those of perturbations that `table` has besides: their names are added to `data`.
    ///
    /// # Errors
    /// As [`Features::check`].
    pub fn extended(mut self, table: &FeatureTable, data: &mut Manifest) -> Result<Features> {
        self.check(table, data)?;
        // Blanks around a name that the data do not have say nothing: `read` has the name without them too.
        let is_new =
            |name: &&String| name.trim() == name.as_str() && data.perturbations.binary_search(name).is_err();
        data.unmeasured = table.rows.keys().filter(is_new).cloned().collect();
        self.values.truncate(data.perturbations.len() * self.id.columns.len());
        self.values.extend(table.rows(&data.unmeasured, &data.control));
        Ok(self)
    }

    /// Warnings about predictions for the perturbations with these ids, by a run that was not trained on those in `untrained`,
    /// sorted: features that were constant in training differ in them, or others lie far from the mean, farther than in all
    /// perturbations trained on.
    pub fn doubts(&self, data: &Manifest, untrained: &[String], asked: &BTreeSet<u32>) -> Vec<String> {
        let columns = &self.id.columns;
        let rows = || {
            let named = data.all_perturbations().zip(0u32..).zip(self.values.chunks(columns.len()));
            named.filter(|((name, _), _)| **name != data.control)
        };
        let off = |row: &[f32], at: usize| (f64::from(row[at]) - f64::from(self.mean[at])).abs();
        let mut reach = vec![0.0f64; columns.len()];
        for ((name, id), row) in rows() {
            if (id as usize) < data.perturbations.len() && untrained.binary_search(name).is_err() {
                reach.iter_mut().enumerate().for_each(|(at, reach)| *reach = reach.max(off(row, at)));
            }
        }
        let (mut ignored, mut far) = (BTreeSet::new(), BTreeSet::new());
        for ((name, _), row) in rows().filter(|((_, id), _)| asked.contains(id)) {
            for at in (0..columns.len()).filter(|&at| off(row, at) > reach[at]) {
                if self.std[at] == 0.0 {
                    ignored.insert(at);
                } else if off(row, at) > FAR * f64::from(self.std[at]) {
                    far.insert(name);
                }
            }
        }
        let ignored: Vec<&String> = ignored.into_iter().map(|at| &columns[at]).collect();
        let far: Vec<&String> = far.into_iter().collect();
        let ignored = (!ignored.is_empty()).then(|| {
            format!(
                "features ignored, as they are the same for all perturbations that were trained on: {}",
                some_of(&ignored)
            )
        });
        let far = (!far.is_empty()).then(|| {
            format!(
                "features more than {FAR} standard deviations from the mean of those trained on: {}",
                some_of(&far)
            )
        });
        ignored.into_iter().chain(far).collect()
    }

    /// What the network reads, F' and numbers `[P, F']`: features less their mean in units of their deviation, and a last number
    /// that is 1 for the control label alone; zeros then fill F' up to a multiple of 8.
    pub fn inputs(&self, data: &Manifest) -> (usize, Vec<f32>) {
        let width = self.id.columns.len();
        let padded = (width + 1).next_multiple_of(8);
        let mut inputs = vec![0.0; self.values.len() / width * padded];
        for ((row, inputs), name) in
            self.values.chunks(width).zip(inputs.chunks_mut(padded)).zip(data.all_perturbations())
        {
            if *name == data.control {
                inputs[width] = 1.0;
                continue;
            }
            for (y, ((x, mean), std)) in inputs.iter_mut().zip(row.iter().zip(&self.mean).zip(&self.std)) {
                // In f64, as the difference of two f32 may be beyond f32; what is far beyond all that training saw is as far as can be.
                let off = (f64::from(*x) - f64::from(*mean)) / f64::from(*std);
                *y = if *std > 0.0 { off.clamp(-FARTHEST, FARTHEST) as f32 } else { 0.0 };
            }
        }
        (padded, inputs)
    }
}
