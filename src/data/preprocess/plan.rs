//! What preprocessing would do, found by reading only labels and a sample of values.

use std::path::PathBuf;

use serde::Serialize;

use super::block::{Input, cut};
use super::hvg::Flavor;
use super::input::{self, Inputs};
use super::{Contents, Genes, Parts, Settings, Target, genes, scale, target, work};
use crate::data::shard::Scale;
use crate::error::{At, Result};
use crate::folder::files_of;

/// What [`super::preprocess`] would do.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Plan {
    /// The data directory that would be made.
    pub out: PathBuf,
    /// What the sources hold.
    #[serde(flatten)]
    pub contents: Contents,
    /// How often the sources would be read from end to end, and what for: the names used in `--part PASS/K`.
    pub passes: Vec<&'static str>,
    /// Parts of each pass.
    pub parts: usize,
    /// Size of the sources in bytes.
    pub source_bytes: u64,
    /// Largest possible size of the shards in bytes.
    pub bytes: u64,
}

/// Bytes of a stored number: its gene, and the widest value type.
const NUMBER: u64 = 2 + 4;
/// Bytes of a cell: where its numbers and its name begin, and its library size.
const CELL: u64 = 8 + 8 + 4;
/// Cells per file from whose names the length of names is estimated.
const NAMES: usize = 1000;
/// Bytes of the name of a cell without one: its row.
const NAMED_BY_ROW: usize = "cell1000000".len();
/// Bytes of a group, and of the headers.
const GROUP: u64 = 16;
const HEADERS: u64 = 8192;

/// Opens the sources and reports what would be done.
///
/// # Errors
/// Those of [`super::preprocess`] that need no pass over the cells.
pub fn plan(settings: &Settings, parts: &Parts) -> Result<Plan> {
    super::check(settings)?;
    let mut inputs = input::open(settings, &settings.label_columns())?;
    let found = scale::find(&mut inputs, settings.scale)?;
    target::told(&found, settings.target)?;
    let genes = match &settings.genes {
        Genes::Listed(list) => genes::listed(&inputs, list, &genes::names(list)?)?.kept.len(),
        Genes::Top(count) => (*count).min(inputs.genes.len()),
    };
    let mut source_bytes = 0;
    for path in &settings.inputs {
        for file in files_of(path)? {
            source_bytes += file.metadata().at(&file)?.len();
        }
    }
    let (stored, names) = (stored(&inputs), names(&inputs));
    let (passes, parts) = (passes(settings, found.scale), cut(&inputs.files, parts.cells).len());
    let contents = Contents::of(inputs, found, &settings.control, genes, Vec::new());
    let numbers = stored.min(contents.cells * genes as u64);
    let bytes = numbers * NUMBER + contents.cells * CELL + names + contents.groups as u64 * GROUP + HEADERS;
    Ok(Plan { out: settings.out.clone(), contents, passes, parts, source_bytes, bytes })
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
fn names(inputs: &Inputs) -> u64 {
    // With several files, each name is followed by the file's number.
    let more = if inputs.files.len() > 1 { 1 + inputs.files.len().ilog10() as usize + 1 } else { 0 };
    let of = |input: &Input| {
        let first = input.file.cell_names(0..input.file.shape().0.min(NAMES));
        let named = first.map_or(NAMED_BY_ROW, |(_, names)| names.iter().map(String::len).max().unwrap_or(0));
        input.cells * (named + more) as u64
    };
    inputs.files.iter().map(of).sum()
}
