//! The table of genes alone: how variable each is, without labels and without a data directory.

use serde::Serialize;

use super::filter::{Filtered, Filters};
use super::{Genes, Parts, Settings, SharedGenes, choose, filled, genes, plan, worked};
use crate::aside;
use crate::data::h5ad::H5ad;
use crate::data::shard::Scale;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// What was ranked.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Ranking {
    /// Cells counted.
    pub cells: u64,
    /// Genes of the sources.
    pub source_genes: usize,
    /// Genes that are highly variable.
    pub genes: usize,
    /// What the genes of several files have in common.
    pub shared: Option<SharedGenes>,
    /// What the stored values are.
    pub scale: Scale,
    /// How the scale was determined.
    pub why: String,
    /// Total to which cells are scaled, if known.
    pub target: Option<f64>,
    /// What the filters left out, if there are any.
    pub filtered: Option<Filtered>,
    /// What else the user should know.
    pub notes: Vec<String>,
}

/// Ranks genes as [`preprocess`](super::preprocess) does, over all cells, and writes the table that it writes as var.csv to
/// `settings.out`, which may be replaced. Columns of labels and the control are not looked at.
///
/// # Errors
/// As [`preprocess`](super::preprocess); a given list of genes; filters that need labels.
pub fn rank_genes(settings: &Settings, progress: &Progress) -> Result<Ranking> {
    let Filters { knockdown, min_cells_per_pert, .. } = &settings.filters;
    if knockdown.is_some() || *min_cells_per_pert > 0 {
        let what = "needs labels, which are not read to rank genes; preprocess filters first and then ranks";
        return Err(Error::setting("filters.knockdown, filters.min_cells_per_pert", what));
    }
    if let Genes::Listed(_) = settings.genes {
        return Err(Error::setting("genes", "names the genes: there is nothing to rank"));
    }
    aside::apart(&[&settings.out], &settings.inputs)?;
    H5ad::replaceable_by_text(&settings.out)?;
    // All but the pass that stores rows.
    let passes = |scale| {
        let mut passes = plan::passes(settings, scale);
        passes.pop();
        passes
    };
    let made = worked(settings, &[], &Parts::default(), progress, passes, |mut inputs, found, work| {
        let (filtered, target, chosen) = choose(settings, &mut inputs, &found, work)?;
        work.all_done(&passes(found.scale))?;
        aside::file(&settings.out, |aside| genes::write_table(aside, &inputs.genes, &chosen))?;
        let notes = inputs.notes.iter().cloned().chain(chosen.notes).chain(filled(&inputs, &found)).collect();
        Ok(Ranking {
            cells: inputs.labels.len() as u64,
            source_genes: inputs.genes.len(),
            genes: chosen.kept.len(),
            shared: inputs.shared,
            scale: found.scale,
            why: found.why,
            target,
            filtered,
            notes,
        })
    })?;
    Ok(made.unwrap_or_else(|| unreachable!("no part was asked for by itself")))
}
