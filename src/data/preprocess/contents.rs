//! What the sources hold: told by a plan, and in a summary of what was made from them.

use std::collections::BTreeSet;

use serde::Serialize;

use super::align::SharedGenes;
use super::input::{CELL_TYPE, Inputs, PERTURBATION};
use crate::data::labels::Joined;
use crate::data::scale::Found;
use crate::data::shard::Scale;

/// Cells, genes and labels of the sources, or of what was kept of them.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Contents {
    /// Cells with all their labels; in a plan before filters, in a summary after them.
    pub cells: u64,
    /// Cells left out because a label is missing.
    pub dropped: u64,
    /// Columns with missing labels, and how many cells lack each.
    pub missing: Vec<(String, u64)>,
    /// Genes of the sources.
    pub source_genes: usize,
    /// Genes kept; in a plan at most.
    pub genes: usize,
    /// What the genes of several files have in common.
    pub shared: Option<SharedGenes>,
    /// How cells were matched to rows of the table of labels, if there is one.
    pub joined: Option<Joined>,
    /// Groups: cells of one perturbation, cell type and batch.
    pub groups: usize,
    /// Perturbations, the control among them.
    pub perturbations: usize,
    /// Cell types.
    pub cell_types: usize,
    /// Batches.
    pub batches: usize,
    /// What the stored values are.
    pub scale: Scale,
    /// How the scale was determined.
    pub why: String,
    /// What else the user should know.
    pub notes: Vec<String>,
}

impl Contents {
    /// `genes` are kept; `more` is what became known after the sources were opened.
    pub(super) fn of(
        inputs: Inputs,
        found: Found,
        control: &str,
        genes: usize,
        more: Vec<String>,
    ) -> Contents {
        let [cell_types, perturbations, batches] = inputs.vocabularies.each_ref().map(Vec::len);
        let without = without_controls(&inputs, control);
        Contents {
            cells: inputs.labels.len() as u64,
            dropped: inputs.dropped,
            missing: inputs.missing,
            source_genes: inputs.genes.len(),
            genes,
            shared: inputs.shared,
            joined: inputs.joined,
            groups: inputs.labels.iter().collect::<BTreeSet<_>>().len(),
            perturbations,
            cell_types,
            batches,
            scale: found.scale,
            why: found.why,
            notes: inputs.notes.into_iter().chain(more).chain(without).collect(),
        }
    }
}

/// Names cell types whose perturbed cells have nothing to be compared with.
fn without_controls(inputs: &Inputs, control: &str) -> Option<String> {
    let control = inputs.control(control)?;
    let controls = inputs.labels.iter().filter(|label| label[PERTURBATION] == control);
    let with: BTreeSet<u32> = controls.map(|label| label[CELL_TYPE]).collect();
    let without =
        inputs.vocabularies[CELL_TYPE].iter().zip(0u32..).filter(|(_, cell_type)| !with.contains(cell_type));
    let without: Vec<&str> = without.map(|(name, _)| name.as_str()).collect();
    if without.is_empty() {
        return None;
    }
    Some(format!("no control cells in {}: perturbations there cannot be learned", without.join(", ")))
}
