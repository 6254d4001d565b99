//! One side of the comparison: cells, their labels, their genes.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;

use crate::data::h5ad::{Cells, Labels};
use crate::error::{Error, Result, some_of, unknown_control};

/// Expression of `n` cells over `G` genes, in the form the file has it: the two forms are normalised by different medians.
#[derive(Clone)]
pub enum Matrix {
    /// Rows of stored values, `[n, G]`, CSR.
    Sparse(Cells),
    /// Every value, row by row, `[n, G]`.
    Dense {
        /// G.
        genes: usize,
        /// n * G numbers.
        values: Vec<f32>,
    },
}

brief!(Matrix, |x| shape: x.shape());

impl Matrix {
    /// (cells, genes).
    pub fn shape(&self) -> (usize, usize) {
        match self {
            Matrix::Sparse(x) => x.shape(),
            Matrix::Dense { genes, values } => (values.len() / (*genes).max(1), *genes),
        }
    }

    /// Stored values: all of a dense matrix.
    pub fn values(&self) -> &[f32] {
        match self {
            Matrix::Sparse(x) => x.data(),
            Matrix::Dense { values, .. } => values,
        }
    }

    /// Stored values, to change in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        match self {
            Matrix::Sparse(x) => x.data_mut(),
            Matrix::Dense { values, .. } => values,
        }
    }

    /// Stored values of each cell, to change in place.
    pub(super) fn rows_mut(&mut self) -> Vec<&mut [f32]> {
        let lengths: Vec<usize> = (0..self.shape().0).map(|cell| self.row(cell).len()).collect();
        let mut rest = self.values_mut();
        let row = |length: usize| rest.split_off_mut(..length).expect("rows make up the values");
        lengths.into_iter().map(row).collect()
    }

    /// Where the values of a cell are in [`Matrix::values`].
    ///
    /// # Panics
    /// If X is sparse and there is no such cell.
    pub fn row(&self, cell: usize) -> Range<usize> {
        match self {
            Matrix::Sparse(x) => x.indptr().outer_inds_sz(cell),
            Matrix::Dense { genes, .. } => cell * genes..(cell + 1) * genes,
        }
    }

    /// Cell and gene of stored value `i`, for messages.
    ///
    /// # Panics
    /// If X is sparse and there is no such value.
    pub fn place(&self, i: usize) -> (usize, usize) {
        match self {
            Matrix::Sparse(x) => {
                let cell = x.indptr().to_proper().partition_point(|&start| start <= i) - 1;
                (cell, x.indices()[i] as usize)
            }
            Matrix::Dense { genes, .. } => (i / genes, i % genes),
        }
    }

    /// The given cells, in the given order.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn subset(&self, cells: &[u32]) -> Matrix {
        let rows = cells.iter().map(|&cell| self.row(cell as usize));
        match self {
            Matrix::Sparse(x) => {
                let mut starts = vec![0];
                let (mut genes, mut values) = (Vec::new(), Vec::new());
                for row in rows {
                    genes.extend_from_slice(&x.indices()[row.clone()]);
                    values.extend_from_slice(&x.data()[row]);
                    starts.push(values.len());
                }
                Matrix::Sparse(Cells::new((cells.len(), x.cols()), starts, genes, values))
            }
            Matrix::Dense { genes, values } => {
                Matrix::Dense { genes: *genes, values: rows.flat_map(|row| &values[row]).copied().collect() }
            }
        }
    }
}

/// Cells with their labels and genes. `labels` has one entry per cell, `genes` one name per column.
#[derive(Clone, Debug)]
pub struct Side {
    /// What messages call it: the file it came from, or "real", "pred".
    pub source: PathBuf,
    /// Expression, `[n, G]`: log1p values, or raw counts, which are converted later (`lognorm`).
    pub x: Matrix,
    /// The perturbation of each cell.
    pub labels: Labels,
    /// Names of the columns.
    pub genes: Vec<String>,
    /// Total to which cells of log values were scaled, as their maker recorded it.
    pub total: Option<f64>,
}

impl Side {
    /// A side from memory: x `[n, G]`, one label per cell, one name per gene; `name` is what messages call it.
    pub fn new<S: AsRef<str>>(name: &str, x: Matrix, labels: &[S], genes: Vec<String>) -> Side {
        Side { source: PathBuf::from(name), x, labels: Labels::of(labels), genes, total: None }
    }

    /// The given cells, in the given order.
    ///
    /// # Panics
    /// If one of them does not exist.
    pub fn subset(&self, cells: &[u32]) -> Side {
        self.subset_of(&self.x, cells)
    }

    /// The same with the cells' values in another matrix `[n, G]` than the side's own.
    pub(super) fn subset_of(&self, x: &Matrix, cells: &[u32]) -> Side {
        let codes = cells.iter().map(|&cell| self.labels.codes[cell as usize]).collect();
        Side {
            source: self.source.clone(),
            x: x.subset(cells),
            labels: Labels { codes, names: self.labels.names.clone() },
            genes: self.genes.clone(),
            total: self.total,
        }
    }

    pub(super) fn error(&self, what: impl Into<String>) -> Error {
        Error::format(&self.source, what)
    }
}

/// Cells sorted into their groups; group 0 is the control, group `1 + p` perturbation `p`.
#[derive(Clone, Debug)]
pub struct Groups {
    /// Perturbations, sorted by code point; the control is not among them.
    pub perturbations: Vec<String>,
    /// Perturbations in the order in which the file first names them.
    pub appearance: Vec<usize>,
    /// Cell numbers, group by group, in file order within a group.
    pub cells: Vec<u32>,
    /// Group `g` is `cells[starts[g]..starts[g + 1]]`.
    pub starts: Vec<usize>,
}

impl Groups {
    /// Sorts the cells of a side.
    ///
    /// # Errors
    /// A cell without a label, no control cell, nothing but control cells, sizes that disagree.
    pub fn of(side: &Side, control: &str) -> Result<Groups> {
        let groups = Groups::perturbed(side, control)?;
        if groups.size(0) == 0 {
            let what = unknown_control("control label", control, &groups.perturbations);
            return Err(Error::setting("control", format!("{}: {what}", side.source.display())));
        }
        Ok(groups)
    }

    /// The same, with or without control cells.
    ///
    /// # Errors
    /// As [`Groups::of`], but for control cells.
    pub fn perturbed(side: &Side, control: &str) -> Result<Groups> {
        check_shape(side)?;
        if let Some(cell) = side.labels.codes.iter().position(|&code| code < 0) {
            let many = side.labels.codes.iter().filter(|&&code| code < 0).count();
            let what = format!(
                "{many} cells have no perturbation label (the first is cell {cell}); label or drop them"
            );
            return Err(side.error(what));
        }
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let names = &side.labels.names;
        for &code in &side.labels.codes {
            *counts.entry(&names[code as usize]).or_default() += 1;
        }
        let mut perturbations: Vec<String> =
            counts.keys().filter(|&&name| name != control).map(|name| name.to_string()).collect();
        if perturbations.is_empty() {
            return Err(side.error(format!("every cell is labelled {control:?}; nothing is perturbed")));
        }
        perturbations.sort_unstable();
        let mut starts = vec![0, counts.get(control).copied().unwrap_or(0)];
        for name in &perturbations {
            starts.push(starts[starts.len() - 1] + counts[name.as_str()]);
        }
        Ok(fill(side, perturbations, starts))
    }

    /// The same perturbations, with the control cells of another side instead of this one's.
    pub fn with_controls_of(&self, other: &Groups) -> Groups {
        let (own, theirs) = (self.size(0), other.size(0));
        let cells = other.group(0).iter().chain(&self.cells[own..]).copied().collect();
        let starts = std::iter::once(0).chain(self.starts[1..].iter().map(|s| s - own + theirs)).collect();
        Groups { cells, starts, ..self.clone() }
    }

    /// Cells of group `g`.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn group(&self, g: usize) -> &[u32] {
        &self.cells[self.starts[g]..self.starts[g + 1]]
    }

    /// Number of cells of group `g`.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn size(&self, g: usize) -> usize {
        self.starts[g + 1] - self.starts[g]
    }
}

/// The rows of sorted cells: the control's may be in another matrix than the perturbed cells'.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// Which cells.
    pub groups: &'a Groups,
    control: &'a Matrix,
    perturbed: &'a Matrix,
}

impl<'a> Rows<'a> {
    /// All groups in one matrix.
    pub fn of(x: &'a Matrix, groups: &'a Groups) -> Self {
        Rows { groups, control: x, perturbed: x }
    }

    /// Group 0 of `control`, the others of `perturbed`; see [`Groups::with_controls_of`].
    pub fn of_two(control: &'a Matrix, perturbed: &'a Matrix, groups: &'a Groups) -> Self {
        Rows { groups, control, perturbed }
    }

    /// Number of genes.
    pub fn genes(&self) -> usize {
        self.control.shape().1
    }

    /// The matrix that holds group `g`.
    pub fn matrix(&self, g: usize) -> &'a Matrix {
        if g == 0 { self.control } else { self.perturbed }
    }
}

/// Requires cells, genes, and a label and a name for each of them.
pub(super) fn check_shape(side: &Side) -> Result<()> {
    let n = side.x.shape().0;
    match &side.x {
        Matrix::Sparse(x) if x.is_csc() => {
            return Err(side.error("X is in CSC form, but must be in CSR form: convert it with to_csr()"));
        }
        Matrix::Dense { genes, values } if !values.len().is_multiple_of((*genes).max(1)) => {
            let what = format!("{} numbers do not make up whole cells of {genes} genes", values.len());
            return Err(side.error(what));
        }
        _ => (),
    }
    let (labels, genes, columns) = (side.labels.codes.len(), side.genes.len(), side.x.shape().1);
    if genes == 0 && columns == 0 {
        return Err(side.error("has no genes"));
    }
    if labels != n || genes != columns {
        let what = format!("{n} cells by {columns} genes, but {labels} labels and {genes} gene names");
        return Err(side.error(what));
    }
    let names = side.labels.names.len();
    if let Some(cell) = side.labels.codes.iter().position(|&code| code >= 0 && code as usize >= names) {
        let code = side.labels.codes[cell];
        return Err(side.error(format!("the label of cell {cell} is number {code} of {names} names")));
    }
    if n == 0 || genes == 0 {
        return Err(side.error(format!("{n} cells by {genes} genes: nothing to compare")));
    }
    Ok(())
}

fn fill(side: &Side, perturbations: Vec<String>, starts: Vec<usize>) -> Groups {
    let group_of: Vec<usize> =
        side.labels.names.iter().map(|name| perturbations.binary_search(name).map_or(0, |p| p + 1)).collect();
    let mut next = starts.clone();
    let mut cells = vec![0; side.labels.codes.len()];
    let mut appearance = Vec::with_capacity(perturbations.len());
    for (cell, &code) in side.labels.codes.iter().enumerate() {
        let group = group_of[code as usize];
        if group > 0 && next[group] == starts[group] {
            appearance.push(group - 1);
        }
        cells[next[group]] = cell as u32;
        next[group] += 1;
    }
    Groups { perturbations, appearance, cells, starts }
}

/// Requires the same genes in the same order and the same labels.
///
/// # Errors
/// Genes or labels that differ; the message names them.
pub fn check_match(real: &Side, pred: &Side, real_groups: &Groups, pred_groups: &Groups) -> Result<()> {
    if let Some(i) =
        (0..real.genes.len().max(pred.genes.len())).find(|&i| real.genes.get(i) != pred.genes.get(i))
    {
        return Err(pred.error(gene_difference(real, pred, i)));
    }
    let only = |a: &Groups, b: &Groups| {
        let missing = a.perturbations.iter().filter(|name| b.perturbations.binary_search(name).is_err());
        some(missing.map(String::as_str))
    };
    let here = only(pred_groups, real_groups);
    let there = only(real_groups, pred_groups);
    if here.is_none() && there.is_none() {
        return Ok(());
    }
    let mut what = "both files must have the same perturbations".to_string();
    for (names, file) in [(here, pred), (there, real)] {
        if let Some(names) = names {
            what += &format!("; only in {}: {names}", file.source.display());
        }
    }
    Err(pred.error(what))
}

fn gene_difference(real: &Side, pred: &Side, first: usize) -> String {
    let (a, b) = (real.genes.len(), pred.genes.len());
    let known: HashSet<&String> = real.genes.iter().collect();
    let ours: HashSet<&String> = pred.genes.iter().collect();
    let missing = some(real.genes.iter().filter(|g| !ours.contains(g)).map(String::as_str));
    let extra = some(pred.genes.iter().filter(|g| !known.contains(g)).map(String::as_str));
    let name = |side: &Side| side.genes.get(first).map_or("nothing".to_string(), |g| format!("{g:?}"));
    let mut what = format!("genes differ from {}: ", real.source.display());
    if missing.is_none() && extra.is_none() && a == b {
        what += &format!("gene {} is {} here and {} there", first + 1, name(pred), name(real));
        return what + "; the names are the same but in another order: reorder the columns";
    }
    what += &format!("{b} here, {a} there");
    let mut seen = HashSet::new();
    let twice = some(pred.genes.iter().filter(|g| !seen.insert(*g)).map(String::as_str));
    for (names, word) in [(missing, "missing here"), (extra, "only here"), (twice, "more than once here")] {
        if let Some(names) = names {
            what += &format!("; {word}: {names}");
        }
    }
    what + "; both files must list the same genes in the same order"
}

/// Some of the names, if there are any.
pub(super) fn some<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<&str> = names.collect();
    (!names.is_empty()).then(|| some_of(&names))
}
