//! Numbers that describe perturbations: embeddings of genes or drugs, targets, doses. A model that knows perturbations by them, and
//! not by their names, can predict one that it was never trained on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gzip;
use super::h5ad::H5ad;
use super::shard::Manifest;
use crate::error::{Error, Result, some_of};
use crate::folder::name_of;

/// Most numbers per perturbation, as for other widths.
const MOST: usize = 1 << 23;

/// A row of features for each of some perturbations, as a file has them.
#[derive(Clone, PartialEq)]
pub struct FeatureTable {
    path: PathBuf,
    width: usize,
    rows: BTreeMap<String, Vec<f32>>,
}

brief!(FeatureTable, |table| path: table.path, shape: (table.rows.len(), table.width));

/// Which table of features a run was trained with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FeatureFile {
    /// Its file's name, without the folder.
    pub name: String,
    /// F, numbers per perturbation.
    pub width: usize,
    /// CRC-32 of its names and numbers, to tell apart two tables of the same name.
    pub crc: u32,
}

impl FeatureTable {
    /// Reads a .csv (commas) or a .tsv or .txt (tabs), packed with gzip or not, whose first line names the columns, with the
    /// perturbation in the first one and numbers in all others; or an .h5ad, whose observations are the perturbations and whose X
    /// has the numbers.
    ///
    /// # Errors
    /// A file that cannot be read; a name that is empty or comes twice; what is not a finite number; nothing but names.
    pub fn read(path: &Path) -> Result<FeatureTable> {
        let mut table = FeatureTable { path: path.to_path_buf(), width: 0, rows: BTreeMap::new() };
        match path.extension().is_some_and(|end| end == "h5ad") {
            true => table.read_h5ad()?,
            false => table.read_text()?,
        }
        match (1..=MOST).contains(&table.width) && !table.rows.is_empty() {
            true => Ok(table),
            false => {
                let (rows, width) = (table.rows.len(), table.width);
                Err(Error::format(
                    path,
                    format!("has {rows} rows of {width} numbers; at least one of each is needed"),
                ))
            }
        }
    }

    fn read_h5ad(&mut self) -> Result<()> {
        let file = H5ad::open(&self.path)?;
        self.width = file.shape().1;
        let names = file.cell_names(0..file.shape().0)?.1;
        for block in file.blocks() {
            let (range, cells) = block?;
            for (name, cell) in names[range].iter().zip(cells.outer_iterator()) {
                let mut row = vec![0.0; self.width];
                cell.iter().for_each(|(at, &x)| row[at] = x);
                self.add(name, row)?;
            }
        }
        Ok(())
    }

    fn read_text(&mut self) -> Result<()> {
        let path = self.path.clone();
        let wrong = |what: String| Error::format(&path, what);
        let no_table =
            |error: csv::Error| wrong(format!("{error}; features are read from a .csv, .tsv or .h5ad"));
        let packed = path.extension().is_some_and(|end| end == "gz");
        let plain = if packed { path.with_extension("") } else { path.clone() };
        let tabs = plain.extension().is_some_and(|end| end == "tsv" || end == "txt");
        let delimiter = if tabs { b'\t' } else { b',' };
        let mut file = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(gzip::open(&path)?);
        let header = file.headers().map_err(no_table)?.clone();
        self.width = header.len().saturating_sub(1);
        for record in file.records() {
            let record = record.map_err(no_table)?;
            let number = |(column, text): (&str, &str)| {
                text.trim().parse::<f32>().map_err(|_| {
                    let line = record.position().map_or(0, csv::Position::line);
                    wrong(format!("line {line}: {text:?} in column {column:?} is not a number"))
                })
            };
            let row = header.iter().zip(&record).skip(1).map(number).collect::<Result<_>>()?;
            self.add(record[0].trim(), row)?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, row: Vec<f32>) -> Result<()> {
        let wrong = |what: String| Err(Error::format(&self.path, what));
        if name.is_empty() {
            return wrong("has a row without a name".into());
        }
        if let Some(bad) = row.iter().find(|x| !x.is_finite()) {
            return wrong(format!("{name:?} has the feature {bad}; each must be a finite number"));
        }
        match self.rows.insert(name.to_string(), row) {
            None => Ok(()),
            Some(_) => wrong(format!("has two rows for {name:?}; keep one")),
        }
    }

    /// What a run notes of it.
    pub fn file(&self) -> FeatureFile {
        let mut crc = crc32fast::Hasher::new();
        for (name, row) in &self.rows {
            crc.update(name.as_bytes());
            crc.update(&[0]);
            crc.update(bytemuck::cast_slice(row));
        }
        FeatureFile { name: name_of(&self.path), width: self.width, crc: crc.finalize() }
    }
}

/// What a run knows of its perturbations: P of them, F numbers each.
#[derive(Clone, PartialEq)]
pub struct Features {
    /// The table that they came from.
    pub file: FeatureFile,
    /// `[P, F]`, as they were read, in the order of the vocabulary; zeros for the control label.
    pub values: Vec<f32>,
    /// `[F]`, over the perturbations that the run is trained on.
    pub mean: Vec<f32>,
    /// `[F]`, over the same; 0 where all are alike, so that nothing can be learned of that feature.
    pub std: Vec<f32>,
}

brief!(Features, |features| file: features.file);

impl Features {
    /// The features of the perturbations of a data directory, of which a run is not trained on those in `untrained`. What the table
    /// says of the control label is not used.
    ///
    /// # Errors
    /// A perturbation has no row; there are fewer than two to learn from.
    pub fn of(table: &FeatureTable, data: &Manifest, untrained: &[String]) -> Result<Features> {
        let width = table.width;
        let others = || data.perturbations.iter().filter(|name| **name != data.control);
        let absent: Vec<&String> = others().filter(|name| !table.rows.contains_key(*name)).collect();
        if !absent.is_empty() {
            let what = format!("has no row for {} of the data's perturbations", some_of(&absent));
            return Err(Error::format(&table.path, format!("{what}; give each one, or leave out its cells")));
        }
        let trained: Vec<&[f32]> =
            others().filter(|name| !untrained.contains(name)).map(|name| &table.rows[name][..]).collect();
        if trained.len() < 2 {
            let what = "tells nothing apart: the training part has fewer than two perturbations";
            return Err(Error::format(&table.path, what));
        }
        let mean_of = |of: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let sum = |at: usize| trained.iter().map(|row| of(at, row[at].into())).sum::<f64>();
            (0..width).map(|at| sum(at) / trained.len() as f64).collect()
        };
        let mean = mean_of(&|_, x| x);
        let variance = mean_of(&|at, x| (x - mean[at]).powi(2));
        // Rounding alone makes some variance of numbers that are all alike.
        let std = |(mean, variance): (&f64, &f64)| match variance.sqrt() {
            std if std > 1e-6 * mean.abs() => std as f32,
            _ => 0.0,
        };
        let std = mean.iter().zip(&variance).map(std).collect();
        let mean = mean.iter().map(|&mean| mean as f32).collect();
        let features = Features { file: table.file(), values: Vec::new(), mean, std };
        Ok(Features { values: rows(table, &data.perturbations, &data.control), ..features })
    }

    /// The same, for perturbations that `table` has besides: they are added to `data`.
    ///
    /// # Errors
    /// It is another kind of table: it has other numbers for a perturbation that is known, or another count of them.
    pub fn with(mut self, table: &FeatureTable, data: &mut Manifest) -> Result<Features> {
        let FeatureFile { name, width, .. } = &self.file;
        let other = |what: String| {
            Error::format(
                &table.path,
                format!("is not like {name:?}, which the run was trained with: {what}"),
            )
        };
        if table.width != *width {
            return Err(other(format!("it has {} numbers per perturbation, not {width}", table.width)));
        }
        for (name, known) in data.perturbations.iter().zip(self.values.chunks(*width)) {
            if *name != data.control && table.rows.get(name).is_some_and(|row| row != known) {
                return Err(other(format!("it has other numbers for {name:?}")));
            }
        }
        let is_new = |name: &&String| data.perturbations.binary_search(name).is_err();
        data.unmeasured = table.rows.keys().filter(is_new).cloned().collect();
        self.values.truncate(data.perturbations.len() * width);
        self.values.extend(rows(table, &data.unmeasured, &data.control));
        Ok(self)
    }

    /// What the network sees, F' and numbers `[P, F']`: features less their mean in units of their deviation, and a last number that is 1 for the
    /// control label alone; zeros then fill F' up to a multiple of 8.
    pub fn seen(&self, data: &Manifest) -> (usize, Vec<f32>) {
        let width = self.file.width;
        let padded = (width + 1).next_multiple_of(8);
        let names = data.perturbations.iter().chain(&data.unmeasured);
        let mut seen = vec![0.0; self.values.len() / width * padded];
        for ((row, seen), name) in self.values.chunks(width).zip(seen.chunks_mut(padded)).zip(names) {
            if *name == data.control {
                seen[width] = 1.0;
                continue;
            }
            for (y, ((x, mean), std)) in seen.iter_mut().zip(row.iter().zip(&self.mean).zip(&self.std)) {
                *y = if *std > 0.0 { (x - mean) / std } else { 0.0 };
            }
        }
        (padded, seen)
    }
}

/// The table's rows for these names, one behind the other.
fn rows(table: &FeatureTable, names: &[String], control: &str) -> Vec<f32> {
    let blank = vec![0.0; table.width];
    let row = |name: &String| if name == control { &blank } else { &table.rows[name] };
    names.iter().flat_map(row).copied().collect()
}
