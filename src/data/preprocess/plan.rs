//! What preprocessing would do, found by reading only labels and a sample of values.

use std::collections::BTreeSet;

use serde::Serialize;

use super::block::Input;
use super::hvg::Flavor;
use super::input::{self, Inputs};
use super::{Genes, Joined, Parts, Settings, SharedGenes, Target, genes, scale, target, work};
use crate::data::shard::Scale;
use crate::error::{At, Result};

/// What [`super::preprocess`] would do.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Cells with all their labels, before filters.
    pub cells: u64,
    /// Cells left out because a label is missing.
    pub dropped: u64,
    /// Columns with missing labels, and how many cells lack each.
    pub missing: Vec<(String, u64)>,
    /// Genes of the sources.
    pub source_genes: usize,
    /// Most genes that would be kept.
    pub genes: usize,
    /// What the genes of several files have in common.
    pub shared: Option<SharedGenes>,
    /// How the table of labels was matched.
    pub joined: Option<Joined>,
    /// Groups: cells of one perturbation, cell type and batch.
    pub groups: usize,
    /// Perturbations, the control among them.
    pub perturbations: usize,
    /// Cell types.
    pub cell_types: usize,
    /// Batches.
    pub batches: usize,
    /// What the values are.
    pub scale: Scale,
    /// How the scale was determined.
    pub why: String,
    /// How often the sources would be read from end to end, and what for: the names used in `--part PASS/K`.
    pub passes: Vec<&'static str>,
    /// Parts of each pass.
    pub parts: usize,
    /// Size of the sources in bytes.
    pub source_bytes: u64,
    /// Largest possible size of the shards in bytes.
    pub bytes: u64,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// Bytes of a stored number: its gene, and the widest value type.
const NUMBER: u64 = 2 + 4;
/// Bytes of a cell: where its numbers and its name begin, and its library size.
const CELL: u64 = 8 + 8 + 4;
/// Cells per file from whose names the length of names is estimated.
const NAMES: usize = 1000;
/// Bytes of a group, and of the headers.
const GROUP: u64 = 16;
const HEADERS: u64 = 8192;

/// Opens the sources and reports what would be done. Errors: those of [`super::preprocess`] that need no pass over the cells.
pub fn plan(settings: &Settings, parts: &Parts) -> Result<Plan> {
    super::check(settings)?;
    let mut inputs = input::open(settings)?;
    let found = scale::find(&mut inputs, settings.scale)?;
    target::told(&found, settings.target)?;
    let kept = match &settings.genes {
        Genes::Listed(list) => genes::listed(&inputs, list)?.kept.len(),
        Genes::Top(count) => (*count).min(inputs.genes.len()),
    };
    let mut source_bytes = 0;
    for path in &settings.inputs {
        source_bytes += size(path)?;
    }
    let cells = inputs.labels.len() as u64;
    let numbers = stored(&inputs).min(cells * kept as u64);
    let [cell_types, perturbations, batches] = inputs.vocabularies.each_ref().map(Vec::len);
    let mut notes = inputs.notes.clone();
    notes.extend(super::without_controls(settings, &inputs));
    let groups = inputs.labels.iter().collect::<BTreeSet<_>>().len();
    Ok(Plan {
        cells,
        source_genes: inputs.genes.len(),
        genes: kept,
        groups,
        perturbations,
        cell_types,
        batches,
        passes: passes(settings, found.scale),
        parts: work::cut(&inputs, parts.cells).len(),
        scale: found.scale,
        why: found.why,
        source_bytes,
        bytes: numbers * NUMBER + cells * CELL + names(&inputs)? + groups as u64 * GROUP + HEADERS,
        dropped: inputs.dropped,
        missing: inputs.missing,
        shared: inputs.shared,
        joined: inputs.joined,
        notes,
    })
}

/// Names of the passes over the sources, in order.
pub(super) fn passes(settings: &Settings, scale: Scale) -> Vec<&'static str> {
    let counted = scale == Scale::Counts && !matches!(settings.target, None | Some(Target::Sum(_)));
    let chosen = matches!(settings.genes, Genes::Top(_));
    let clipped = chosen && settings.flavor == Flavor::SeuratV3;
    let made = [settings.filters.any(), counted, chosen, clipped, true];
    work::PASSES.into_iter().zip(made).filter(|(_, made)| *made).map(|(name, _)| name).collect()
}

/// Upper bound of the numbers that the sources store.
fn stored(inputs: &Inputs) -> u64 {
    let of = |input: &Input| {
        let (cells, genes) = input.file.shape();
        input.file.stored().unwrap_or((cells * genes) as u64)
    };
    inputs.files.iter().map(of).sum()
}

/// Bytes of all names, assuming that no cell has a longer one than the first of its file.
fn names(inputs: &Inputs) -> Result<u64> {
    // With several files, each name is followed by the file's number.
    let more = if inputs.files.len() > 1 { 1 + inputs.files.len().ilog10() as usize + 1 } else { 0 };
    let of = |input: &Input| {
        let first = input.names(0..input.file.shape().0.min(NAMES))?;
        Ok(input.cells * first.iter().map(|name| name.len() + more).max().unwrap_or(0) as u64)
    };
    inputs.files.iter().map(of).sum()
}

/// Size of a file, or of the files of a folder.
fn size(path: &std::path::Path) -> Result<u64> {
    let about = path.metadata().at(path)?;
    if !about.is_dir() {
        return Ok(about.len());
    }
    let entries = std::fs::read_dir(path).at(path)?;
    entries.map(|entry| entry.and_then(|entry| Ok(entry.metadata()?.len())).at(path)).sum()
}
