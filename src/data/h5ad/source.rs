//! Where the matrix of a source is stored, and which genes its columns are.

use super::matrix::{Matrix, width};
use super::node::Node;
use super::{Column, Frame, frame};
use crate::error::Result;

/// Genes and matrix of `X`, `raw`, `layers/NAME` or `obsm/NAME`.
pub(super) fn read(root: &Node, source: &str, cells: usize) -> Result<(Frame, Matrix)> {
    let (genes, matrix) = match source {
        // Before anndata 0.7.
        "raw" if root.find("raw.var")?.is_some() => ("raw.var", "raw.X"),
        "raw" if root.find_inner("raw")?.is_none() => {
            return Err(
                root.wrong("has no raw; choose X, layers/NAME or obsm/NAME (`h5ad::describe` lists them)")
            );
        }
        "raw" => ("raw/var", "raw/X"),
        other => ("var", other),
    };
    let mut var = frame::read(root, genes, None)?.0;
    if source.starts_with("obsm/") {
        var = obsm(root, source, var)?;
    }
    let matrix = Matrix::open(root, matrix, [cells, var.index.len()])?;
    Ok((var, matrix))
}

/// The genes of an array other than X: those of a table are its columns, those of `X_hvg` the highly variable ones,
/// as marked in var, else as named in uns.
fn obsm(root: &Node, source: &str, var: Frame) -> Result<Frame> {
    let (columns, names) = width(root, source)?;
    if let Some(index) = names {
        return Ok(Frame { index, columns: Vec::new() });
    }
    if source.rsplit('/').next() != Some("X_hvg") {
        let what = format!(
            "{source} does not say which genes its {columns} columns are; only tables with named columns (a \
             pandas DataFrame) and X_hvg can be read"
        );
        return Err(root.wrong(what));
    }
    let marked = match var.column("highly_variable") {
        Some(Column::Boolean(variable)) => (0..variable.len()).filter(|&gene| variable[gene]).collect(),
        Some(Column::Unread(why)) => return Err(root.wrong(why)),
        _ => Vec::new(),
    };
    if marked.len() == columns {
        return Ok(var.rows(&marked));
    }
    // State and cell-load name them beside it.
    let named = root
        .find("uns/hvg_names")?
        .map(|names| names.column())
        .transpose()?
        .map_or(Vec::new(), Column::texts);
    if named.len() == columns {
        return Ok(Frame { index: named, columns: Vec::new() });
    }
    let what = format!(
        "{source} has {columns} columns, but var/highly_variable is true for {} genes and uns/hvg_names names {}: \
         there is no way to tell which genes they are",
        marked.len(),
        named.len()
    );
    Err(root.wrong(what))
}
