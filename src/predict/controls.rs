//! A user's file of control cells, read as the files were that the run learned from.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::{Job, Pool, Report, Runs};
use crate::data::h5ad::{H5ad, Labels};
use crate::data::labels::{self, Given, Table};
use crate::data::shard::{Columns, Manifest, Scale};
use crate::error::{Error, Result, counted, some_of};
use crate::folder::title_of;

/// The matrix that is read if nobody names one.
const DEFAULT: &str = "X";
/// Mean of control cells' values by that of the cells that a run learned from. Ten times the total doubles them.
const USUAL: RangeInclusive<f64> = 0.67..=1.5;

/// A file of control cells, and how it is read.
#[derive(Clone, Debug)]
pub struct ControlFile {
    /// The .h5ad.
    pub path: PathBuf,
    /// `X`, `raw`, `layers/NAME` or `obsm/NAME`, instead of the matrix that the run's data were read from.
    pub source: Option<String>,
    /// Table of labels, one row per cell, as for `preprocess`: its columns stand before those of obs.
    pub labels: Option<PathBuf>,
    /// Column of the cells' total counts, instead of the run's own.
    pub size: Option<String>,
    /// What the values are; detected if not given.
    pub scale: Option<Scale>,
}

impl ControlFile {
    /// A file that is read as the run and its values indicate.
    pub fn new(path: impl Into<PathBuf>) -> ControlFile {
        ControlFile { path: path.into(), source: None, labels: None, size: None, scale: None }
    }
}

/// Opens the file with the matrix that the user names, else the one that the run's data were read from.
fn open(manifest: &Manifest, controls: &ControlFile, notes: &mut Vec<String>) -> Result<H5ad> {
    let own = manifest.as_read.source.as_deref().unwrap_or(DEFAULT);
    let source = controls.source.as_deref().unwrap_or(own);
    let file = H5ad::open_source(&controls.path, source).map_err(|error| match &controls.source {
        None if own != DEFAULT => error.followed_by(&format!(
            "; the run's data were read from {own}: name the matrix of these cells with `source`"
        )),
        _ => error,
    })?;
    if source != DEFAULT {
        notes.push(format!("{}: values are read from {source}", controls.path.display()));
    }
    Ok(file)
}

/// A file of control cells, with the table of its labels if there is one.
pub struct Labelled {
    pub file: H5ad,
    given: Option<Given>,
}

impl Labelled {
    /// Opens both.
    pub fn open(manifest: &Manifest, controls: &ControlFile, notes: &mut Vec<String>) -> Result<Labelled> {
        let file = open(manifest, controls, notes)?;
        let Some(path) = &controls.labels else { return Ok(Labelled { file, given: None }) };
        let Columns { perturbation, cell_type, batch, size } = &manifest.columns;
        let columns =
            [Some(perturbation), Some(cell_type), batch.as_ref(), controls.size.as_ref().or(size.as_ref())];
        let columns: Vec<&str> = columns.into_iter().flatten().map(String::as_str).collect();
        let (given, joined) = Table::open(path)?.join(&columns, std::slice::from_ref(&file))?;
        if joined.unmatched > 0 {
            let cells = counted(joined.unmatched as usize, "cell");
            notes.push(format!("{}: {cells} of {} without a row", path.display(), file.path().display()));
        }
        Ok(Labelled { file, given: Some(given) })
    }

    /// Whether the table or obs has a column.
    fn has(&self, column: &str) -> bool {
        self.given.as_ref().is_some_and(|given| given.has(column)) || self.file.obs().column(column).is_some()
    }

    fn labels(&self, column: &str) -> Result<Labels> {
        let found = labels::labels(column, std::slice::from_ref(&self.file), self.given.as_ref());
        found.map(|mut one| one.remove(0)).map_err(|error| match (self.has(column), &self.given) {
            (false, None) => error.followed_by("; a table may give the labels, with `labels`"),
            (false, Some(given)) => {
                error.followed_by(&format!("; {} does not have it either", given.path().display()))
            }
            (true, _) => error,
        })
    }

    /// Each cell's number in a column.
    pub fn numbers(&self, column: &str) -> Result<Vec<f32>> {
        let found = labels::numbers(column, std::slice::from_ref(&self.file), self.given.as_ref());
        found.map(|mut one| one.remove(0))
    }

    /// What has no such column.
    fn lacks(&self, column: &str) -> String {
        let file = self.file.path().display();
        match &self.given {
            None => format!("{file}: obs has no column {column:?}"),
            Some(given) => {
                format!("{file}: neither obs nor {} has a column {column:?}", given.path().display())
            }
        }
    }
}

/// A warning if the total to which the control cells were scaled is unknown and their values are not of the size of the run's.
pub fn other_scale(runs: &Runs, job: &Job) -> Option<String> {
    let target = runs.data().target.filter(|_| job.untold)?;
    let mean = |of: &[f32]| of.iter().map(|&x| f64::from(x)).sum::<f64>() / of.len() as f64;
    let own = mean(&runs.first().trained.model.statistics().mean);
    let cells = job.pools.iter().map(|pool| pool.controls.len()).sum::<usize>() as f64;
    let of_pool = |pool: &Pool| pool.controls.len() as f64 / cells * mean(&pool.controls.rows);
    let times = job.pools.iter().filter(|pool| !pool.controls.is_empty()).map(of_pool).sum::<f64>() / own;
    (!USUAL.contains(&times)).then(|| {
        format!(
            "nothing shows that the control cells were scaled to {target} counts, as the run's cells were, and their values are \
             {times:.2} times those: if they were scaled to another total, predictions are wrong"
        )
    })
}

/// What identifies genes in a file and in a model.
pub struct GeneKeys<'a> {
    /// Of the file's genes, in order.
    pub file: Vec<String>,
    /// Of the model's, in order.
    pub model: &'a [String],
}

/// Ids where the run's genes were aligned by a column of them that the file has too, else names: the model may call a gene by its id
/// because another had its name.
pub fn gene_keys<'a>(manifest: &'a Manifest, file: &H5ad) -> Result<GeneKeys<'a>> {
    let as_read = &manifest.as_read;
    match as_read.gene_id.as_deref().filter(|column| file.var().column(column).is_some()) {
        Some(column) => Ok(GeneKeys { file: file.gene_keys(Some(column))?, model: &as_read.gene_ids }),
        None => Ok(GeneKeys { file: file.var().index.clone(), model: &manifest.genes }),
    }
}

/// Labels of the cells of a file of controls.
pub struct ControlLabels {
    cell_type: Labels,
    batch: Option<Labels>,
    /// Which cells are controls: all of them if the file does not say.
    control: Vec<bool>,
    all_controls: bool,
}

impl ControlLabels {
    pub fn read(manifest: &Manifest, cells: &Labelled) -> Result<ControlLabels> {
        let (columns, file) = (&manifest.columns, &cells.file);
        let optional = |column: &str| cells.has(column).then(|| cells.labels(column)).transpose();
        let cell_type = match (&manifest.cell_types[..], cells.has(&columns.cell_type)) {
            // Where the run knows one type only, the file need not name it.
            ([one], false) => all_of_type(file, one.clone()),
            (types, false) if manifest.as_read.types_by_file => {
                let name = title_of(file.path());
                if !types.contains(&name) {
                    let what = format!(
                        "obs has no column {:?}, and no cell type of the run, which were files, is named {name:?}: add the \
                         column, or rename the file to one of {}",
                        columns.cell_type,
                        some_of(types)
                    );
                    return Err(Error::format(file.path(), what));
                }
                all_of_type(file, name)
            }
            _ => cells.labels(&columns.cell_type)?,
        };
        let batch = columns.batch.as_deref().map(optional).transpose()?.flatten();
        let perturbation = optional(&columns.perturbation)?;
        let is_control = |i| match perturbation.as_ref().map(|labels| labels.get(i)) {
            None => true,
            Some(label) => label.is_some_and(|label| manifest.is_control(label)),
        };
        let control = (0..cell_type.len()).map(is_control).collect();
        Ok(ControlLabels { cell_type, batch, control, all_controls: perturbation.is_none() })
    }

    /// Reports what the file does not say.
    pub fn tell(&self, manifest: &Manifest, cells: &Labelled, report: &mut Report) {
        let columns = &manifest.columns;
        let lacks = |column: &str| cells.lacks(column);
        if self.all_controls {
            report
                .notes
                .push(format!("{}; all its cells are taken as controls", lacks(&columns.perturbation)));
        }
        if !cells.has(&columns.cell_type) {
            let one = &self.cell_type.names[0];
            report.notes.push(format!("{}; all its cells are taken as {one:?}", lacks(&columns.cell_type)));
        }
        if let Some(column) = columns.batch.as_deref().filter(|_| self.batch.is_none()) {
            report.notes.push(format!("{}; controls are taken from the whole cell type", lacks(column)));
        }
    }

    /// Reports batches without controls of their own; `keys` and `members` are the pools' names and cells.
    pub fn tell_of_batches(
        &self,
        keys: &[(String, String)],
        members: &[Vec<usize>],
        controls: &ControlFile,
        report: &mut Report,
    ) {
        for ((cell_type, batch), cells) in keys.iter().zip(members) {
            if self.batch.is_some() && self.batch(cells[0]) != Some(batch) {
                let what = format!("no control cells of cell type {cell_type:?} in batch {batch:?}");
                let path = controls.path.display();
                report.notes.push(format!("{path}: {what}; those of all its batches are used"));
            }
        }
    }

    /// The batch of a cell, if the file has it.
    pub fn batch(&self, cell: usize) -> Option<&str> {
        self.batch.as_ref().and_then(|labels| labels.get(cell))
    }

    /// Control cells of (cell type, batch), else of the cell type in any batch.
    pub fn pool(&self, (c, b): &(String, String)) -> Vec<usize> {
        let of_type = |&i: &usize| self.control[i] && self.cell_type.get(i) == Some(c.as_str());
        let of_type: Vec<usize> = (0..self.cell_type.len()).filter(of_type).collect();
        if self.batch.is_none() {
            return of_type;
        }
        let of_batch: Vec<usize> =
            of_type.iter().copied().filter(|&i| self.batch(i) == Some(b.as_str())).collect();
        if of_batch.is_empty() { of_type } else { of_batch }
    }
}

/// The labels of cells that are all of one type.
fn all_of_type(file: &H5ad, name: String) -> Labels {
    Labels { codes: vec![0; file.shape().0], names: vec![name] }
}
