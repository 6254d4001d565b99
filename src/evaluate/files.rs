//! Evaluation from file to file.

use std::path::{Path, PathBuf};

use super::side::{Matrix, Side, some};
use super::{Report, Settings, evaluate};
use crate::data::h5ad::{Cells, H5ad, Labels};
use crate::error::{Error, Result};

/// Where the cells are and what their columns are called.
#[derive(Clone, Debug)]
pub struct Files {
    /// h5ad of measured cells.
    pub real: PathBuf,
    /// h5ad of predicted cells.
    pub pred: PathBuf,
    /// `obs` column of the perturbations, in both.
    pub perturbation: String,
    /// `obs` column to split by, in both; each part is judged alone.
    pub cell_type: Option<String>,
}

/// Reads both files and evaluates them: one report, without a name, or one a cell type, in the order in which the real
/// file first names them. Errors: what [`evaluate`] refuses, and cell types in one file only.
pub fn evaluate_files(files: &Files, settings: &Settings) -> Result<Vec<(Option<String>, Report)>> {
    // Labels are read and compared first: a wrong column name must not cost the time of reading two matrices.
    let real = H5ad::open(&files.real)?;
    let pred = H5ad::open(&files.pred)?;
    let labels = |file: &H5ad, column: &str| file.obs().labels(file.path(), column);
    let perturbations = [labels(&real, &files.perturbation)?, labels(&pred, &files.perturbation)?];
    let types = match &files.cell_type {
        Some(column) => {
            let types = [labels(&real, column)?, labels(&pred, column)?];
            check_types(&types, files, column)?;
            Some(types)
        }
        None => None,
    };
    let [real_labels, pred_labels] = perturbations;
    let real = read(real, real_labels)?;
    let pred = read(pred, pred_labels)?;
    let Some([real_types, pred_types]) = types else {
        return Ok(vec![(None, evaluate(&real, &pred, settings)?)]);
    };
    let part = |side: &Side, types: &Labels, name: &str| {
        let mut part = side.subset(&cells_of(types, name));
        part.source = PathBuf::from(format!("{} ({name})", side.source.display()));
        part
    };
    let one = |name: String| {
        let report = evaluate(&part(&real, &real_types, &name), &part(&pred, &pred_types, &name), settings)?;
        Ok((Some(name), report))
    };
    in_order(&real_types).into_iter().map(one).collect()
}

/// A file's X as it is stored: dense stays dense, for its memory and for the median of its totals.
fn read(file: H5ad, labels: Labels) -> Result<Side> {
    let (cells, genes) = file.shape();
    let x = if file.storage().starts_with("dense") {
        let mut values = vec![0.0; cells * genes];
        for block in file.blocks() {
            let (range, rows) = block?;
            for (cell, row) in range.zip(rows.outer_iterator()) {
                row.iter().for_each(|(gene, &value)| values[cell * genes + gene] = value);
            }
        }
        Matrix::Dense { genes, values }
    } else {
        let mut starts = vec![0];
        let (mut columns, mut values) = (Vec::new(), Vec::new());
        for block in file.blocks() {
            let (_, rows) = block?;
            starts.extend(rows.outer_iterator().scan(values.len(), |end, row| {
                *end += row.nnz();
                Some(*end)
            }));
            columns.extend_from_slice(rows.indices());
            values.extend_from_slice(rows.data());
        }
        Matrix::Sparse(Cells::new((cells, genes), starts, columns, values))
    };
    Ok(Side { source: file.path().to_path_buf(), x, labels, genes: file.var().index.clone() })
}

fn check_types(types: &[Labels; 2], files: &Files, column: &str) -> Result<()> {
    let [real, pred] = [in_order(&types[0]), in_order(&types[1])];
    let only =
        |a: &[String], b: &[String]| some(a.iter().filter(|name| !b.contains(name)).map(String::as_str));
    for (names, path) in [(only(&pred, &real), &files.pred), (only(&real, &pred), &files.real)] {
        if let Some(names) = names {
            return Err(Error::format(
                path,
                format!("column {column:?}: {names} only in this file; both need the same"),
            ));
        }
    }
    for (labels, path) in types.iter().zip([&files.real, &files.pred]) {
        if let Some(cell) = labels.codes.iter().position(|&code| code < 0) {
            return Err(Error::format(path, format!("column {column:?}: cell {cell} has no label")));
        }
    }
    Ok(())
}

/// Labels in the order of first appearance.
fn in_order(labels: &Labels) -> Vec<String> {
    let mut seen = vec![false; labels.names.len()];
    let mut names = Vec::new();
    for &code in labels.codes.iter().filter(|&&code| code >= 0) {
        if !std::mem::replace(&mut seen[code as usize], true) {
            names.push(labels.names[code as usize].clone());
        }
    }
    names
}

fn cells_of(labels: &Labels, name: &str) -> Vec<u32> {
    (0..labels.codes.len()).filter(|&i| labels.get(i) == Some(name)).map(|i| i as u32).collect()
}

/// Writes a report's files: results.csv, agg_results.csv, results.json, and real_de.csv, pred_de.csv where there are
/// tables. `name` goes before each file's name, as cell-eval does.
pub fn write(dir: &Path, name: Option<&str>, report: &Report) -> Result<()> {
    let prefix = name.map_or(String::new(), |name| format!("{}_", name.replace('/', "-")));
    let path = |file: &str| dir.join(format!("{prefix}{file}"));
    if let Some([real, pred]) = &report.tables {
        real.write(&path("real_de.csv"))?;
        pred.write(&path("pred_de.csv"))?;
    }
    super::table::write_results(&path("results.csv"), &report.perturbations, &report.columns)?;
    super::table::write_summary(&path("agg_results.csv"), &report.columns)?;
    report.write_json(&path("results.json"))
}
