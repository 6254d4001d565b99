//! Which cells and genes are left out before anything is normalised: one pass, run only if a filter is set.
//!
//! In this order: cells by counts, then by genes (scanpy's `filter_cells`), genes by the remaining cells
//! (`filter_genes`), perturbations and cells by knock-down (cell-load), perturbations by the remaining cells.
//! Control cells are exempt from the last two.

mod knockdown;

use std::path::Path;

use serde::Serialize;

use super::Settings;
use super::block::{Block, Part};
use super::input::{Inputs, PERTURBATION};
use super::scale;
use super::work::{Findings, Passed, Saved, Work};
use crate::data::scale::Found;
use crate::data::shard::Scale;
use crate::error::{Error, Result};
use crate::progress;

pub use knockdown::{Knockdown, KnockedDown};

/// The requested limits; 0 is no limit.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Fewest counts of a cell.
    pub min_counts: u64,
    /// Fewest expressed genes of a cell.
    pub min_genes: u64,
    /// Fewest cells that express a gene.
    pub min_cells: u64,
    /// Keep only perturbations and cells whose own gene is knocked down.
    pub knockdown: Option<Knockdown>,
    /// Fewest cells of a perturbation, other than the control.
    pub min_cells_per_pert: u64,
}

/// What was left out.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Filtered {
    /// Cells with too few counts.
    pub few_counts: u64,
    /// Among the others, cells with too few genes.
    pub few_genes: u64,
    /// Genes in too few cells.
    pub rare_genes: usize,
    /// What the knock-down filter found.
    pub knockdown: Option<KnockedDown>,
    /// Perturbations with too few cells.
    pub small_groups: usize,
    /// Their cells.
    pub small_group_cells: u64,
}

impl Filters {
    pub(super) fn any(&self) -> bool {
        let limits = [self.min_counts, self.min_genes, self.min_cells, self.min_cells_per_pert];
        self.knockdown.is_some() || limits.iter().any(|&limit| limit > 0)
    }
}

/// What the filters find in a part.
struct Judged {
    /// For each used cell: [`KEPT`], [`FEW_COUNTS`] or [`FEW_GENES`].
    cells: Vec<u8>,
    /// Kept cells that express each gene.
    cells_of_gene: Vec<u64>,
    /// The sums by which knock-down is judged, if requested.
    targets: Option<knockdown::Sums>,
}

const KEPT: u8 = 0;
const FEW_COUNTS: u8 = 1;
const FEW_GENES: u8 = 2;

impl Findings for Judged {
    fn save(&self, to: &mut Saved) {
        to.put("cells", &self.cells);
        to.put("cells_of_gene", &self.cells_of_gene);
        if let Some(targets) = &self.targets {
            targets.save(to);
        }
    }

    fn load(from: &Saved) -> Option<Judged> {
        let (cells, cells_of_gene) = (from.take("cells")?, from.take("cells_of_gene")?);
        Some(Judged { cells, cells_of_gene, targets: knockdown::Sums::load(from) })
    }
}

/// Leaves out cells and genes; `None` if no filter is set.
pub(super) fn apply(
    settings: &Settings,
    inputs: &mut Inputs,
    found: &Found,
    work: &Work,
) -> Passed<Option<Filtered>> {
    let filters = &settings.filters;
    if !filters.any() {
        return Ok(None);
    }
    if filters.min_counts > 0 && found.scale != Scale::Counts {
        let what = format!("the values are logs ({}), and their sum is not a number of counts", found.why);
        return Err(Error::setting("filters.min_counts", what).into());
    }
    let control = inputs.control(&settings.control);
    let mut filtered = Filtered::default();
    let mut targets = match (&filters.knockdown, control) {
        (Some(_), Some(control)) => Some(knockdown::Targets::of(inputs, control)?),
        _ => None,
    };
    let mut keep = Vec::with_capacity(inputs.labels.len());
    let mut cells_of_gene = vec![0u64; inputs.genes.len()];
    let judge = Judge { filters, found, inputs, targets: targets.as_ref() };
    let find = |part: &Part, _: &Path| judge.part(part, &work.progress);
    let mut sums = Vec::new();
    work.pass("filters", inputs, find, |part, _, judged| {
        let genes = inputs.genes.len();
        if judged.cells.len() != part.cells.len() || judged.cells_of_gene.len() != genes {
            return Err(Error::format(work.dir(), "has a part made from other cells or genes; remove it"));
        }
        keep.extend(judged.cells.iter().map(|&cell| cell == KEPT));
        let count = |of: u8| judged.cells.iter().filter(|&&cell| cell == of).count() as u64;
        filtered.few_counts += count(FEW_COUNTS);
        filtered.few_genes += count(FEW_GENES);
        cells_of_gene.iter_mut().zip(&judged.cells_of_gene).for_each(|(sum, cells)| *sum += cells);
        sums.extend(judged.targets);
        Ok(())
    })?;
    if let Some(targets) = &mut targets {
        sums.into_iter().for_each(|part| targets.join(part));
    }
    let rare: Vec<bool> = cells_of_gene.iter().map(|&cells| cells < filters.min_cells).collect();
    filtered.rare_genes = rare.iter().filter(|&&rare| rare).count();
    if let (Some(targets), Some(limits)) = (targets, &filters.knockdown) {
        filtered.knockdown = Some(targets.judge(limits, &rare, &inputs.labels, &mut keep));
    }
    if let Some(control) = control {
        small_groups(inputs, control, filters.min_cells_per_pert, &mut keep, &mut filtered);
    }
    left(settings, inputs, &keep, &rare, &filtered)?;
    inputs.retain(&keep, &rare);
    Ok(Some(filtered))
}

/// Judges each cell on its own.
struct Judge<'a> {
    filters: &'a Filters,
    /// What the values are.
    found: &'a Found,
    inputs: &'a Inputs,
    /// The target genes by which knock-down is judged, if requested.
    targets: Option<&'a knockdown::Targets>,
}

impl Judge<'_> {
    /// Judges one part, checking every value.
    fn part(&self, part: &Part, progress: &progress::Work) -> Result<Judged> {
        let Judge { found, inputs, .. } = *self;
        let mut cells = Vec::with_capacity(part.cells.len());
        let mut cells_of_gene = vec![0u64; inputs.genes.len()];
        let mut sums = self.targets.map(|_| knockdown::Sums::new(inputs.genes.len()));
        let check = |block: &Block| scale::check(block, found);
        inputs.walk(part, progress, check, |block, ()| {
            for (row, genes, values) in block.used() {
                let judged = self.cell(block.total(row, values), genes.len());
                if judged == KEPT {
                    genes.iter().for_each(|&gene| cells_of_gene[block.place(gene)] += 1);
                    if let Some((targets, sums)) = self.targets.zip(sums.as_mut()) {
                        let places = genes.iter().map(|&gene| block.place(gene));
                        let perturbation = inputs.labels[part.cells.start + cells.len()][PERTURBATION];
                        targets.add(sums, perturbation, places.zip(values.iter().copied()));
                    }
                }
                cells.push(judged);
            }
            Ok(())
        })?;
        Ok(Judged { cells, cells_of_gene, targets: sums })
    }

    /// Judges a cell with this many counts and expressed genes.
    fn cell(&self, counts: f32, genes: usize) -> u8 {
        if f64::from(counts) < self.filters.min_counts as f64 {
            FEW_COUNTS
        } else if (genes as u64) < self.filters.min_genes {
            FEW_GENES
        } else {
            KEPT
        }
    }
}

/// Perturbation of each cell that is kept.
fn perturbations(inputs: &Inputs, keep: &[bool]) -> impl Iterator<Item = u32> {
    let kept = inputs.labels.iter().zip(keep).filter(|(_, keep)| **keep);
    kept.map(|(label, _)| label[PERTURBATION])
}

/// Leaves out perturbations with too few remaining cells.
fn small_groups(inputs: &Inputs, control: u32, least: u64, keep: &mut [bool], filtered: &mut Filtered) {
    let mut cells = vec![0u64; inputs.vocabularies[PERTURBATION].len()];
    perturbations(inputs, keep).for_each(|perturbation| cells[perturbation as usize] += 1);
    cells[control as usize] = 0;
    let small = |perturbation: u32| (1..least).contains(&cells[perturbation as usize]);
    filtered.small_groups = (0..cells.len() as u32).filter(|&perturbation| small(perturbation)).count();
    for (label, keep) in inputs.labels.iter().zip(keep) {
        if *keep && small(label[PERTURBATION]) {
            *keep = false;
            filtered.small_group_cells += 1;
        }
    }
}

/// Refuses to leave out everything that can be learned from.
fn left(
    settings: &Settings,
    inputs: &Inputs,
    keep: &[bool],
    rare: &[bool],
    filtered: &Filtered,
) -> Result<()> {
    let control = inputs.control(&settings.control);
    let kept = || perturbations(inputs, keep);
    let several = inputs.vocabularies[PERTURBATION].len() > 1;
    let what = if rare.iter().all(|&rare| rare) {
        "no gene is expressed in that many cells".to_string()
    } else if kept().next().is_none() {
        "no cell is left".to_string()
    } else if control.is_some() && !kept().any(|perturbation| Some(perturbation) == control) {
        format!("no {:?} cell is left: there is nothing to compare perturbed cells with", settings.control)
    } else if several && !kept().any(|perturbation| Some(perturbation) != control) {
        match &filtered.knockdown {
            Some(found) => format!("no perturbed cell is left: {found}"),
            None => "no perturbed cell is left".to_string(),
        }
    } else {
        return Ok(());
    };
    let asked = [
        ("filters.min_counts", settings.filters.min_counts > 0),
        ("filters.min_genes", settings.filters.min_genes > 0),
        ("filters.min_cells", settings.filters.min_cells > 0),
        ("filters.knockdown", settings.filters.knockdown.is_some()),
        ("filters.min_cells_per_pert", settings.filters.min_cells_per_pert > 0),
    ];
    let asked: Vec<&str> = asked.iter().filter(|(_, asked)| *asked).map(|(field, _)| *field).collect();
    Err(Error::setting(asked.join(", "), what))
}
