//! Whether a perturbation lowers the gene it is named after, by the rules of cell-load's `filter_on_target_knockdown`.
//!
//! Uses the values as they are stored, counts or logs. With m the mean of a gene over all control cells, whatever their cell
//! type and file: a perturbation is kept if the mean of its own gene over its cells is below `residual` of m, and then only
//! its cells with less than `cell_residual` of m. Perturbations whose name is not a gene are left out.

use std::collections::HashMap;
use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::data::preprocess::input::{Inputs, PERTURBATION};
use crate::data::preprocess::work::{Findings, Saved};
use crate::error::{Error, Result};

/// Means up to this count as 0, as in numpy's `isclose`.
const ZERO: f64 = 1e-8;
/// Columns of var that may hold gene names if its index holds ids.
const NAMES: [&str; 5] = ["gene_name", "gene_names", "gene_symbol", "gene_symbols", "feature_name"];
/// Marks a label that names no gene.
const NO_GENE: u32 = u32::MAX;

/// The limits, as shares of the expression in control cells.
#[derive(Clone, Debug)]
pub struct Knockdown {
    /// A perturbation's mean must be below this.
    pub residual: f64,
    /// A cell must be below this.
    pub cell_residual: f64,
}

/// cell-load's limits.
impl Default for Knockdown {
    fn default() -> Knockdown {
        Knockdown { residual: 0.3, cell_residual: 0.5 }
    }
}

/// What the filter found, not counting the control.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct KnockedDown {
    /// Where the gene names were found: `index` or a column of var.
    pub names: String,
    /// Perturbations that lower their gene.
    pub kept: usize,
    /// Perturbations that are not genes of the data.
    pub no_gene: usize,
    /// Perturbations whose gene no control cell expresses.
    pub not_expressed: usize,
    /// Perturbations that do not lower their gene enough.
    pub not_lowered: usize,
    /// Cells of those three groups.
    pub cells_of_others: u64,
    /// Cells of kept perturbations that do not lower the gene enough.
    pub cells_not_lowered: u64,
}

impl Display for KnockedDown {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let KnockedDown { names, kept, no_gene, not_expressed, not_lowered, .. } = self;
        write!(
            f,
            "{kept} perturbations kept; {not_lowered} do not lower their gene, {not_expressed} have one that \
             control cells do not express, {no_gene} are not genes (var: {names})"
        )
    }
}

/// The gene that each perturbation is named after, and the sums so far.
pub(super) struct Targets {
    names: String,
    control: u32,
    /// Gene of each perturbation.
    genes: Vec<u32>,
    all: Sums,
}

/// Sums over some cells.
pub(super) struct Sums {
    /// Sum of every gene over the control cells.
    controls_of_gene: Vec<f64>,
    controls: u64,
    /// For each added cell: its perturbation, and its value of the perturbation's gene.
    perturbation: Vec<u32>,
    own: Vec<f32>,
}

impl Sums {
    pub(super) fn new(genes: usize) -> Sums {
        Sums { controls_of_gene: vec![0.0; genes], controls: 0, perturbation: Vec::new(), own: Vec::new() }
    }
}

impl Findings for Sums {
    fn save(&self, to: &mut Saved) {
        to.put("controls_of_gene", &self.controls_of_gene);
        to.put("controls", &[self.controls]);
        to.put("perturbation", &self.perturbation);
        to.put("own", &self.own);
    }

    fn load(from: &Saved) -> Option<Sums> {
        Some(Sums {
            controls_of_gene: from.take("controls_of_gene")?,
            controls: *from.take("controls")?.first()?,
            perturbation: from.take("perturbation")?,
            own: from.take("own")?,
        })
    }
}

impl Targets {
    pub(super) fn of(inputs: &Inputs, control: u32) -> Result<Targets> {
        let labels = &inputs.vocabularies[PERTURBATION];
        let index: HashMap<String, u32> =
            inputs.genes.iter().enumerate().map(|(gene, name)| (name.clone(), gene as u32)).collect();
        let columns = NAMES.iter().filter_map(|column| Some((*column, named(inputs, column)?)));
        let matches = |names: &HashMap<String, u32>| labels.iter().filter(|l| names.contains_key(*l)).count();
        // The first of the columns that match the most labels.
        let (mut best, mut names) = ("index", index);
        for (column, other) in columns {
            if matches(&other) > matches(&names) {
                (best, names) = (column, other);
            }
        }
        let mut genes: Vec<u32> =
            labels.iter().map(|label| names.get(label).copied().unwrap_or(NO_GENE)).collect();
        genes[control as usize] = NO_GENE;
        if genes.iter().all(|&gene| gene == NO_GENE) {
            let what = format!(
                "no perturbation has the name of a gene, either in the index of var or in its columns {}",
                NAMES.join(", ")
            );
            return Err(Error::setting("filters.knockdown", what));
        }
        Ok(Targets { names: best.to_string(), control, genes, all: Sums::new(inputs.genes.len()) })
    }

    /// Adds a cell to some sums: its perturbation, and its genes with their values.
    pub(super) fn add(
        &self,
        sums: &mut Sums,
        perturbation: u32,
        mut values: impl Iterator<Item = (usize, f32)>,
    ) {
        let mut own = 0.0;
        if perturbation == self.control {
            sums.controls += 1;
            values.for_each(|(gene, value)| sums.controls_of_gene[gene] += f64::from(value));
        } else {
            let target = self.genes[perturbation as usize] as usize;
            own = values.find(|(gene, _)| *gene == target).map_or(0.0, |(_, value)| value);
        }
        sums.perturbation.push(perturbation);
        sums.own.push(own);
    }

    /// Adds the sums of the next cells.
    pub(super) fn join(&mut self, part: Sums) {
        self.all.controls += part.controls;
        self.all.controls_of_gene.iter_mut().zip(part.controls_of_gene).for_each(|(sum, more)| *sum += more);
        self.all.perturbation.extend(part.perturbation);
        self.all.own.extend(part.own);
    }

    /// Clears `keep` for cells that are not knocked down. The cells that `keep` holds now are those that were added; genes
    /// that are `left_out` do not count as genes.
    pub(super) fn judge(
        mut self,
        limits: &Knockdown,
        left_out: &[bool],
        labels: &[[u32; 3]],
        keep: &mut [bool],
    ) -> KnockedDown {
        let perturbations = self.genes.len();
        for gene in &mut self.genes {
            if *gene != NO_GENE && left_out[*gene as usize] {
                *gene = NO_GENE;
            }
        }
        let mean = |gene: u32| self.all.controls_of_gene[gene as usize] / self.all.controls as f64;
        let (mut sums, mut cells) = (vec![0.0; perturbations], vec![0u64; perturbations]);
        for (&perturbation, &own) in self.all.perturbation.iter().zip(&self.all.own) {
            sums[perturbation as usize] += f64::from(own);
            cells[perturbation as usize] += 1;
        }
        let mut found = KnockedDown { names: self.names, ..KnockedDown::default() };
        let mut passes = vec![false; perturbations];
        for perturbation in (0..perturbations).filter(|&p| p != self.control as usize && cells[p] > 0) {
            let gene = self.genes[perturbation];
            let count = if gene == NO_GENE {
                &mut found.no_gene
            } else if mean(gene).is_nan() || mean(gene) <= ZERO {
                &mut found.not_expressed
            } else if sums[perturbation] / cells[perturbation] as f64 / mean(gene) < limits.residual {
                passes[perturbation] = true;
                &mut found.kept
            } else {
                &mut found.not_lowered
            };
            *count += 1;
        }
        let added = labels.iter().zip(keep).filter(|(_, keep)| **keep);
        for ((label, keep), own) in
            added.zip(&self.all.own).filter(|((label, _), _)| label[PERTURBATION] != self.control)
        {
            let perturbation = label[PERTURBATION] as usize;
            if !passes[perturbation] {
                *keep = false;
                found.cells_of_others += 1;
            } else if f64::from(*own) / mean(self.genes[perturbation]) >= limits.cell_residual {
                *keep = false;
                found.cells_not_lowered += 1;
            }
        }
        found
    }
}

/// Positions of genes by a column of names; for a repeated name the first. `None` if no file has the column.
fn named(inputs: &Inputs, column: &str) -> Option<HashMap<String, u32>> {
    let mut places = HashMap::new();
    for input in &inputs.files {
        let Ok(names) = input.file.var().labels(input.file.path(), column) else { continue };
        for gene in 0..names.len() {
            if let Some(name) = names.get(gene) {
                places.entry(name.to_string()).or_insert(input.place(gene as u32) as u32);
            }
        }
    }
    (!places.is_empty()).then_some(places)
}
