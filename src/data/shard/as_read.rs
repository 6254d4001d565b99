//! How the sources of a data directory were read, so that a user's control cells can be read alike.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// How sources were read, where that was not by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AsRead {
    /// The matrix, if it was not X.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Labels of unperturbed cells that became the control label.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub other_controls: Vec<String>,
    /// Whether all cells of a file were one cell type, named after the file.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub types_by_file: bool,
    /// Column of var by which genes were aligned, if not by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gene_id: Option<String>,
    /// What that column says of each gene, in the order of the genes; empty without it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gene_ids: Vec<String>,
}

impl AsRead {
    /// True if everything was read by default.
    pub(super) fn is_default(&self) -> bool {
        *self == AsRead::default()
    }

    /// Checks the ids of this many genes.
    pub(super) fn check(&self, genes: usize) -> Result<(), String> {
        let wanted = if self.gene_id.is_some() { genes } else { 0 };
        if self.gene_ids.len() != wanted {
            return Err(format!("as_read.gene_ids: {} ids, but there must be {wanted}", self.gene_ids.len()));
        }
        let mut seen = HashSet::new();
        match self.gene_ids.iter().find(|id| !seen.insert(id.as_str())) {
            Some(twice) => Err(format!("as_read.gene_ids: {twice:?} appears twice")),
            None => Ok(()),
        }
    }
}
