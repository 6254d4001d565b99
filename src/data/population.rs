//! Cells with their labels: what predict, baseline and export produce and evaluate reads. [`measured`] takes them from a data
//! directory, as they are scored and written.
//!
//! Expression values are either streamed to a file, with only the labels in memory, or held as a CSR matrix: 50,000 cells x 2000
//! genes with 25 % non-zeros take 200 MB.

mod measured;
mod rows;

use std::path::Path;

use rayon::prelude::*;

use crate::data::h5ad::{self, Cells, Column, Extra, Frame, Growing, Labels, Writer, X, make_unique};
use crate::data::normalise::LogValues;
use crate::data::shard::{Columns, Data, Manifest, Row};
use crate::error::Result;

pub use measured::{Beside, measured, other_controls, push_controls, push_groups, write_measured};
pub use rows::Rows;

/// Rows made in parallel before they are appended in order; also the measured rows requested from disk at once.
const BLOCK: usize = 2048;

/// Bytes that memory takes for a cell whose numbers go to a file: name and labels, and how they are written (measured, 195).
pub(crate) const LABELS: u64 = 200;

/// Under `uns/scale_engine`: the column of the cells' total counts.
pub(crate) const TOTALS: &str = "totals";
/// Under `uns/scale_engine`: the name of the numbers' unit.
pub(crate) const UNIT: &str = "unit";
/// What a file of mean effects, which holds no cells, gives as its unit.
pub(crate) const EFFECTS: &str = "effects";
/// Under `uns/scale_engine`: the column of the perturbations.
pub(crate) const PERT_COL: &str = "pert_col";
/// Under `uns/scale_engine`: the label of the control cells.
pub(crate) const CONTROL_PERT: &str = "control_pert";
/// Under `uns/scale_engine`: what made the cells.
pub(crate) const MADE_BY: &str = "made_by";
/// Under `uns/scale_engine`: how predicted cells were made of means ([`Observe`](crate::config::Observe)).
pub(crate) const OBSERVE: &str = "observe";
/// Under `uns/scale_engine`: the checksum of the split that held the cells out.
pub(crate) const SPLIT: &str = "split";
/// Under `uns/scale_engine`: what is wrong with some of the predictions.
pub(crate) const WARNING: &str = "warning";
/// Column of obs that names the control cell behind a predicted one.
const PREDICTED_FROM: &str = "predicted_from";

/// What the numbers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Counts, as measured.
    Counts,
    /// ln(1 + counts scaled to the target): what evaluate reads.
    #[default]
    Log1p,
    /// The log1p values divided by the data's factor (10): what the network sees, but for the last bits
    /// ([`Data::fill`](crate::data::shard::Data::fill)).
    Scaled,
}

impl Unit {
    /// `counts`, `log1p` or `scaled`, as in `--values` and in files.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Counts => "counts",
            Unit::Log1p => "log1p",
            Unit::Scaled => "scaled",
        }
    }
}

/// Cells, on the log1p scale unless said otherwise, with their labels; in memory, or on their way to a file.
#[derive(Clone)]
pub struct Population<R = Cells> {
    /// Names, `[G]`.
    pub genes: Vec<String>,
    /// Names of the label columns; if none is named for batches, batches are not written.
    pub columns: Columns,
    /// Label of the control cells, if known.
    pub control: Option<String>,
    /// What the numbers are.
    pub unit: Unit,
    /// Total to which cells are scaled, if known.
    pub target: Option<f64>,
    /// Where the cells come from: pairs of name and text, written under `uns/scale_engine`. `split` is the SHA-256 of the split
    /// file that chose the cells, `trained_split` of the one that a model was trained with.
    pub notes: Vec<(String, String)>,
    /// The numbers, `[cells, G]`; what follows has an entry for each cell.
    rows: R,
    /// Empty for measured cells without a name in their source.
    names: Vec<String>,
    /// Cell type, perturbation, batch.
    labels: [Growing; 3],
    /// Total counts over all measured genes, of cells held as counts; of drawn counts the total by which they were drawn; else 0.
    totals: Vec<f64>,
    /// Name of the control cell that a model made it from; missing if none did.
    predicted_from: Growing,
}

impl Population {
    /// No cells yet; log1p scale, control label and target unknown.
    pub fn new(genes: Vec<String>, columns: Columns) -> Population {
        let cells = Cells::empty(sprs::CompressedStorage::CSR, genes.len());
        Population::empty(cells, genes, columns)
    }

    /// No cells yet, with the genes, columns, control label and target of a data directory.
    pub fn like(manifest: &Manifest) -> Population {
        let cells = Cells::empty(sprs::CompressedStorage::CSR, manifest.genes.len());
        Population::of(cells, manifest)
    }

    /// The numbers, `[cells, G]`.
    pub fn cells(&self) -> &Cells {
        &self.rows
    }

    /// The numbers, moved out.
    pub fn into_cells(self) -> Cells {
        self.rows
    }

    /// Writes them as an h5ad: X as CSR f32; in obs the label columns under their own names and, if X holds counts, the cells'
    /// totals; `uns/log1p` if the unit is log1p; the unit's name in `uns/scale_engine/unit`. Unnamed cells are numbered, and repeated
    /// names get `-1`, `-2` .., as anndata's `obs_names_make_unique` does.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(self, path: &Path) -> Result<()> {
        self.described(|cells, obs, var, extras| h5ad::write(path, obs, var, X::Sparse(&cells), extras))
    }
}

brief!(impl [R] Population [R], |all| genes: all.genes.len(), cells: all.totals.len(), unit: all.unit);

impl Population<Writer> {
    /// A file to be, without cells yet, like [`Population::like`].
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn create(path: &Path, manifest: &Manifest) -> Result<Population<Writer>> {
        Ok(Population::of(Writer::create(path, manifest.genes.len())?, manifest))
    }

    /// Writes what belongs to the cells, as [`Population::write`] does, and puts the file in its place. Returns the number of cells.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn close(self) -> Result<usize> {
        let cells = self.len();
        self.described(|file, obs, var, extras| file.finish(obs, var, extras))?;
        Ok(cells)
    }
}

impl<R> Population<R> {
    fn of(rows: R, manifest: &Manifest) -> Population<R> {
        let population = Population::empty(rows, manifest.genes.clone(), manifest.columns.clone());
        Population { control: Some(manifest.control.clone()), target: manifest.target, ..population }
    }

    fn empty(rows: R, genes: Vec<String>, columns: Columns) -> Population<R> {
        Population {
            genes,
            columns,
            control: None,
            unit: Unit::Log1p,
            target: None,
            notes: Vec::new(),
            rows,
            names: Vec::new(),
            labels: Default::default(),
            totals: Vec::new(),
            predicted_from: Growing::default(),
        }
    }

    /// Passes the numbers on, with what an h5ad has beside them.
    fn described<T>(
        self,
        write: impl FnOnce(R, &Frame, &Frame, &[(String, Extra)]) -> Result<T>,
    ) -> Result<T> {
        let mut columns = labelled(&self.columns, self.label_columns());
        let mut names: Vec<String> = columns.iter().map(|(name, _)| name.clone()).collect();
        let mut add = |name: &str, column: Column| {
            if columns.iter().all(|(other, _)| other != name) {
                columns.push((name.to_string(), column));
            }
        };
        // Labels may have that name already, such as those of a batch column `total_counts`.
        names.push(self.columns.size.clone().unwrap_or("total_counts".into()));
        make_unique(&mut names);
        let totals = names.pop().expect("just pushed");
        if self.unit == Unit::Counts {
            add(&totals, Column::Float(self.totals));
        }
        let predicted_from = self.predicted_from.finish();
        if !predicted_from.names.is_empty() {
            add(PREDICTED_FROM, Column::Categorical(predicted_from));
        }
        let mut index = self.names;
        for (i, name) in index.iter_mut().enumerate().filter(|(_, name)| name.is_empty()) {
            *name = format!("cell{}", i + 1);
        }
        make_unique(&mut index);
        let obs = Frame { index, columns };
        let var = Frame { index: self.genes, columns: Vec::new() };
        let target = self.target.map(|target| target as f32);
        let told = self.notes.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let told = told
            .chain([(PERT_COL, self.columns.perturbation.as_str())])
            .chain(self.control.as_deref().map(|label| (CONTROL_PERT, label)))
            .chain([("program", crate::PROGRAM), (UNIT, self.unit.name())])
            .chain((self.unit == Unit::Counts).then_some((TOTALS, totals.as_str())));
        let mut extras = recorded(told);
        if self.unit == Unit::Log1p {
            // scanpy takes uns/log1p/base for the logarithm's base, and its absence for e: only other names may be used here.
            let target = match &target {
                Some(target) => Extra::Numbers { shape: vec![1], values: std::slice::from_ref(target) },
                None => Extra::Text("unknown".into()),
            };
            extras.push(("uns/log1p/target_sum".into(), target));
        }
        write(self.rows, &obs, &var, &extras)
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there are no cells.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Cell type, perturbation and batch of cell i.
    ///
    /// # Panics
    /// If there is no such cell.
    pub fn labels(&self, i: usize) -> [&str; 3] {
        self.labels.each_ref().map(|column| column.get(i))
    }

    /// Cell types, perturbations and batches of all cells, names sorted.
    pub fn label_columns(&self) -> [Labels; 3] {
        self.labels.each_ref().map(|column| column.clone().finish().sorted())
    }
}

impl<R: Rows> Population<R> {
    /// Appends a measured cell given only its non-zeros, genes ascending; labels are cell type, perturbation, batch.
    ///
    /// # Errors
    /// Genes and values that do not form a row; a file that cannot be written.
    pub fn push_measured(
        &mut self,
        name: &str,
        labels: [&str; 3],
        genes: &[u32],
        values: &[f32],
    ) -> Result<()> {
        self.push(name.to_string(), labels, (genes, values), "")
    }

    /// Appends a predicted cell, x `[G]`, and the name of the control cell that it was made from.
    ///
    /// # Errors
    /// A file that cannot be written.
    ///
    /// # Panics
    /// If `x` has another number of genes.
    pub fn push_predicted(&mut self, labels: [&str; 3], x: &[f32], from: &str) -> Result<()> {
        assert!(x.len() == self.genes.len(), "push: {} numbers for {} genes", x.len(), self.genes.len());
        let (genes, values) = nonzero(x);
        self.push(self.next_name(), labels, (&genes, &values), from)
    }

    fn push(
        &mut self,
        name: String,
        labels: [&str; 3],
        (genes, values): (&[u32], &[f32]),
        from: &str,
    ) -> Result<()> {
        self.rows.push(genes, values)?;
        self.names.push(name);
        self.labels.iter_mut().zip(labels).for_each(|(column, label)| column.push(label));
        self.totals.push(0.0);
        self.predicted_from.push(from);
        Ok(())
    }

    /// Gives the cell that was appended last its total counts.
    pub(crate) fn set_total(&mut self, total: f32) {
        *self.totals.last_mut().expect("a cell") = total.into();
    }

    /// Predicted cells are numbered.
    fn next_name(&self) -> String {
        format!("predicted{}", self.len() + 1)
    }

    /// Appends `count` predicted cells with the same labels, using all threads: `fill(i, x)` writes
    /// every number of cell i, x `[G]`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn extend(
        &mut self,
        labels: [&str; 3],
        count: usize,
        fill: impl Fn(usize, &mut [f32]) + Sync,
    ) -> Result<()> {
        let genes = self.genes.len();
        for first in (0..count).step_by(BLOCK) {
            let block = first..count.min(first + BLOCK);
            let rows: Vec<_> = block
                .into_par_iter()
                .map_init(
                    || vec![0.0; genes],
                    |x, i| {
                        fill(i, x);
                        nonzero(x)
                    },
                )
                .collect();
            for (genes, values) in &rows {
                self.push(self.next_name(), labels, (genes, values), "")?;
            }
        }
        Ok(())
    }
}

/// Columns of obs for cell types, perturbations and batches, under the names of the source, where one column may be two of them.
pub(crate) fn labelled(names: &Columns, labels: [Labels; 3]) -> Vec<(String, Column)> {
    let [cell_type, perturbation, batch] = labels.map(Column::Categorical);
    let mut columns: Vec<(String, Column)> = Vec::new();
    let named = [(Some(&names.perturbation), perturbation), (Some(&names.cell_type), cell_type)];
    for (name, column) in named.into_iter().chain([(names.batch.as_ref(), batch)]) {
        if let Some(name) = name.filter(|name| columns.iter().all(|(other, _)| other != *name)) {
            columns.push((name.clone(), column));
        }
    }
    columns
}

/// Names and texts as what `uns/scale_engine` holds.
pub(crate) fn recorded<'a>(told: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<(String, Extra<'static>)> {
    told.map(|(name, text)| (format!("uns/scale_engine/{name}"), Extra::Text(text.to_string()))).collect()
}

/// The non-zeros of a dense row (NaN counts as one).
pub(crate) fn nonzero(x: &[f32]) -> (Vec<u32>, Vec<f32>) {
    x.iter().enumerate().filter(|(_, x)| **x != 0.0).map(|(gene, x)| (gene as u32, *x)).unzip()
}

/// The stored values of a row as log1p(count / (library / target)), not divided by the factor, rounded as scanpy's: what is written
/// and scored. [`Data::fill`] is quicker, and differs in the last bits.
pub fn log1p<'a>(data: &Data, row: &'a Row<'a>) -> impl Iterator<Item = f32> + use<'a> {
    let mut logs = LogValues::new(data.manifest().scale, data.row_scale(row.library));
    (0..row.genes.len()).map(move |i| logs.of(row.values.get(i)))
}
