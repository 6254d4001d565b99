//! What Cell Ranger writes as `.h5`: genes times barcodes by columns, so the three arrays are the rows of cells times genes.
//!
//! Version 3 and later: group `matrix` with `barcodes` and `features`; version 2: one group per genome, with `barcodes`,
//! `genes` and `gene_names`. Only features of kind "Gene Expression" are kept, as scanpy does. Cells carry no labels.

use std::collections::BTreeMap;
use std::path::Path;

use hdf5_pure::File;

use super::matrix::{Kept, Matrix};
use super::node::Node;
use super::{Column, Format, Frame, H5ad, make_unique};
use crate::error::{Error, Result, some_of};
use crate::folder::name_of;

/// Kind of the features that are genes.
const EXPRESSION: &str = "Gene Expression";

/// Names of the group or groups that make a file one of Cell Ranger's; empty if it is not.
pub(super) fn groups(file: &File) -> Vec<String> {
    let mut names = file.root().groups().unwrap_or_default();
    names.retain(|name| {
        file.group(name)
            .is_ok_and(|group| group.dataset("barcodes").is_ok() && group.dataset("indptr").is_ok())
    });
    names.sort();
    names
}

/// Opens one of Cell Ranger's files; `groups` as returned by [`groups`].
pub(super) fn open(file: File, path: &Path, groups: &[String]) -> Result<H5ad> {
    let [name] = groups else {
        let what = format!("contains several genomes ({}); give a file with only one", some_of(groups));
        return Err(Error::format(path, what));
    };
    let node = Node::root(&file, path).inner(name)?;
    let index = texts(&node, "barcodes")?;
    let features = match node.find_inner("features")? {
        Some(inner) => {
            let kinds = inner.find("feature_type")?.is_some();
            Features {
                ids: texts(&inner, "id")?,
                names: texts(&inner, "name")?,
                kinds: if kinds { Some(texts(&inner, "feature_type")?) } else { None },
            }
        }
        None => Features { ids: texts(&node, "genes")?, names: texts(&node, "gene_names")?, kinds: None },
    };
    let (kept, var, notes) = features.genes(path)?;
    let matrix = Matrix::by_cells(&node, [index.len(), kept.all], kept)?;
    Ok(H5ad {
        path: path.to_path_buf(),
        format: Format::TenX,
        file: Some(file),
        cells: index.len(),
        obs: Frame { index, columns: Vec::new() },
        var,
        matrix,
        notes,
    })
}

fn texts(node: &Node, name: &str) -> Result<Vec<String>> {
    Ok(node.array(name)?.column()?.texts())
}

/// What a 10x matrix has in its rows, as lists of equal length.
pub(super) struct Features {
    pub ids: Vec<String>,
    pub names: Vec<String>,
    /// Genes, antibodies, guides; `None`, if not stated, means all are genes.
    pub kinds: Option<Vec<String>>,
}

impl Features {
    /// The genes among them, as a frame with `gene_ids`, and messages for the user.
    pub(super) fn genes(&self, path: &Path) -> Result<(Kept, Frame, Vec<String>)> {
        let all = self.ids.len();
        if self.names.len() != all || self.kinds.as_ref().is_some_and(|kinds| kinds.len() != all) {
            return Err(Error::format(path, "describes its features in lists of different lengths"));
        }
        let is_gene = |&i: &usize| self.kinds.as_ref().is_none_or(|kinds| kinds[i] == EXPRESSION);
        let genes: Vec<usize> = (0..all).filter(is_gene).collect();
        let mut notes = Vec::new();
        let name = name_of(path);
        if genes.len() < all {
            let mut others: BTreeMap<&str, usize> = BTreeMap::new();
            let kinds = self.kinds.iter().flatten().filter(|kind| *kind != EXPRESSION);
            kinds.for_each(|kind| *others.entry(kind).or_default() += 1);
            let others: Vec<String> = others.iter().map(|(kind, count)| format!("{kind}: {count}")).collect();
            notes.push(format!(
                "{name}: {} features that are not genes are left out ({})",
                all - genes.len(),
                others.join(", ")
            ));
        }
        if genes.is_empty() {
            return Err(Error::format(
                path,
                format!("has no features of type {EXPRESSION:?}, and so no genes"),
            ));
        }
        let mut index: Vec<String> = genes.iter().map(|&i| self.names[i].clone()).collect();
        let renamed = make_unique(&mut index);
        if renamed > 0 {
            notes.push(format!(
                "{name}: {renamed} genes share a name with another; -1, -2, ... are appended to theirs"
            ));
        }
        let ids = genes.iter().map(|&i| self.ids[i].clone()).collect();
        let mut place = vec![None; all];
        genes.iter().enumerate().for_each(|(i, &gene)| place[gene] = Some(i as u32));
        let frame = Frame { index, columns: vec![("gene_ids".to_string(), Column::Text(ids))] };
        Ok((Kept { all, place }, frame, notes))
    }
}

/// Refuses requests for what 10x output does not have: label columns, and other matrices.
pub(super) fn plain(path: &Path, columns: Option<&[&str]>, source: &str) -> Result<()> {
    if source != "X" {
        let what = format!("is 10x output, which has a single matrix and no {source}: omit `source`");
        return Err(Error::format(path, what));
    }
    match columns.and_then(|columns| columns.first()) {
        Some(column) => Err(Error::setting(
            format!("column {column:?}"),
            format!(
                "not in {}, which is 10x output and carries no labels; give them in a table: `preprocess::Settings::labels = FILE.csv`",
                path.display()
            ),
        )),
        None => Ok(()),
    }
}
