//! Differential expression of every perturbation against the control: rank sums, ratios of means, Benjamini-Hochberg.
//!
//! By default done as cell-eval 0.6.6 has pdex 0.1.27 do it (`parallel_differential_expression`); the rest is in [`super::rules`].

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use rayon::prelude::*;

use super::columns::Columns;
use super::pairwise;
use super::ranksum::{RankSum, Test, counted};
use super::rules::{Definitions, Family, Fold, PSEUDOCOUNT};
use super::side::Rows;
use super::table::quoted;
use crate::aside;
use crate::error::{At, Result};

/// Stands for the ratio if only the control's mean is zero; its inverse if only the perturbed mean is.
const ONE_SIDED: f64 = 20.0;

/// Targets that a thread makes text of before they are written.
const RUN: usize = 4;

/// One row per (target, gene): target-major, genes in file order.
#[derive(Clone, PartialEq)]
pub struct Table {
    /// The control's label.
    pub control: String,
    /// Perturbations in the order in which the file first names them, `[T]`.
    pub targets: Vec<String>,
    /// `[G]`.
    pub genes: Vec<String>,
    /// Mean of the control cells, `[G]`: expm1 of the mean log1p value, or the latter itself ([`Fold`]).
    pub reference_mean: Vec<f32>,
    /// The same for the target's cells, `[T, G]`.
    pub target_mean: Vec<f32>,
    /// Ratio of the two means ([`Fold`]), `[T, G]`.
    pub fold_change: Vec<f64>,
    /// Mann-Whitney U of the target's cells, `[T, G]`.
    pub statistic: Vec<f64>,
    /// Its two-sided p, `[T, G]`.
    pub p_value: Vec<f64>,
    /// Benjamini-Hochberg over all rows or each target's own ([`Family`]), `[T, G]`.
    pub fdr: Vec<f64>,
}

brief!(Table, |table| genes: table.genes.len(), targets: table.targets.len());

/// One gene of one group.
#[derive(Clone, Copy)]
struct Entry {
    mean: f32,
    test: Test,
}

impl Table {
    /// Compares each group with group 0, labelled `control`. The rows hold log1p values, none negative.
    pub fn of(rows: Rows, genes: &[String], control: &str, definitions: &Definitions) -> Table {
        let groups = rows.groups;
        let (count, width) = (groups.perturbations.len(), genes.len());
        let entries = entries(rows, definitions.fold);
        let reference_mean: Vec<f32> = entries.iter().map(|(control, _)| *control).collect();
        let rows: Vec<Vec<Entry>> = groups
            .appearance
            .par_iter()
            .map(|&p| entries.iter().map(|(_, perturbed)| perturbed[p]).collect())
            .collect();
        drop(entries);
        let cells = || rows.iter().flatten();
        let target_mean: Vec<f32> = cells().map(|e| e.mean).collect();
        let ratio = |i: usize| fold_change(target_mean[i], reference_mean[i % width], definitions.fold);
        let fold_change = (0..count * width).map(ratio).collect();
        let p_value: Vec<f64> = cells().map(|e| e.test.p).collect();
        Table {
            control: control.to_string(),
            targets: groups.appearance.iter().map(|&p| groups.perturbations[p].clone()).collect(),
            genes: genes.to_vec(),
            fdr: match definitions.family {
                Family::Table => benjamini_hochberg(&p_value),
                Family::Perturbation => p_value.chunks(width).flat_map(benjamini_hochberg).collect(),
            },
            statistic: cells().map(|e| e.test.u).collect(),
            reference_mean,
            target_mean,
            fold_change,
            p_value,
        }
    }

    /// `(target_mean - reference_mean) / reference_mean` of a row, NaN if the reference is zero.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn percent_change(&self, row: usize) -> f32 {
        let reference = self.reference_mean[row % self.genes.len()];
        if reference == 0.0 { f32::NAN } else { (self.target_mean[row] - reference) / reference }
    }

    /// Writes `real_de.csv` or `pred_de.csv`.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let genes: Vec<String> = self.genes.iter().map(|name| quoted(name)).collect();
        // Text is twice as long as the numbers or more, so only some targets are text at a time.
        let run = RUN * rayon::current_num_threads();
        aside::file(path, |aside| {
            let mut file = std::io::BufWriter::new(std::fs::File::create(aside).at(aside)?);
            let header = "target,reference,feature,target_mean,reference_mean,percent_change,fold_change,p_value,\
                          statistic,fdr\n";
            file.write_all(header.as_bytes()).at(aside)?;
            for start in (0..self.targets.len()).step_by(run) {
                let targets = start..(start + run).min(self.targets.len());
                let lines: Vec<String> = targets.into_par_iter().map(|t| self.lines(t, &genes)).collect();
                lines.iter().try_for_each(|lines| file.write_all(lines.as_bytes())).at(aside)?;
            }
            file.flush().at(aside)
        })
    }

    /// The rows of a target, with numbers as [`super::table::number`] writes them; `genes` are csv fields.
    fn lines(&self, target: usize, genes: &[String]) -> String {
        let (name, control) = (quoted(&self.targets[target]), quoted(&self.control));
        let mut text = String::with_capacity(genes.len() * 160);
        for (g, gene) in genes.iter().enumerate() {
            let row = target * genes.len() + g;
            let (mean, reference) = (self.target_mean[row], self.reference_mean[g]);
            let percent = f64::from(self.percent_change(row));
            let mut put = |part: std::fmt::Arguments| text.write_fmt(part).expect("a string takes any text");
            put(format_args!("{name},{control},{gene},{mean:?},{reference:?},"));
            if !percent.is_nan() {
                put(format_args!("{percent:?}"));
            }
            for column in [&self.fold_change, &self.p_value, &self.statistic, &self.fdr] {
                put(format_args!(",{:?}", column[row]));
            }
            text.push('\n');
        }
        text
    }
}

/// For every gene, the control's mean and the groups' entries.
fn entries(rows: Rows, fold: Fold) -> Vec<(f32, Vec<Entry>)> {
    let genes = rows.genes();
    // Two walks per thread: each begins with a look at all cells, and nobody should wait long for the last one.
    let part = genes.div_ceil(rayon::current_num_threads() * 2).max(1);
    let counted = counted(rows.groups);
    let compare = |p: usize| -> Vec<(f32, Vec<Entry>)> {
        let mut columns = Columns::new(rows, p * part..((p + 1) * part).min(genes));
        let mut test = RankSum::new(rows.groups, &counted);
        let mut entries = Vec::with_capacity(part);
        while let Some(genes) = columns.turn() {
            entries.extend((0..genes).map(|i| gene(columns.gene(i), fold, &mut test)));
        }
        entries
    };
    (0..genes.div_ceil(part)).into_par_iter().flat_map_iter(compare).collect()
}

fn gene(stored: &[(u32, f32)], fold: Fold, test: &mut RankSum) -> (f32, Vec<Entry>) {
    let groups = test.groups();
    let mut before = 0;
    let mut mean = |g: usize| {
        let (start, n) = (groups.starts[g], groups.size(g));
        let count = stored[before..].partition_point(|&(place, _)| (place as usize) < start + n);
        let own = &stored[before..before + count];
        before += count;
        let mean = pairwise::sum(own, start as u32, n) / n as f32;
        if fold == Fold::Logs { mean } else { f64::from(mean).exp_m1() as f32 }
    };
    let control = mean(0);
    let mut entries = Vec::with_capacity(groups.perturbations.len());
    test.gene(stored, |test| entries.push(Entry { mean: mean(entries.len() + 1), test }));
    (control, entries)
}

fn fold_change(target: f32, reference: f32, fold: Fold) -> f64 {
    if fold != Fold::Substitutes {
        return (f64::from(target) + PSEUDOCOUNT) / (f64::from(reference) + PSEUDOCOUNT);
    }
    match (target == 0.0, reference == 0.0) {
        (true, true) => 1.0,
        (false, true) => ONE_SIDED,
        (true, false) => 1.0 / ONE_SIDED,
        (false, false) => f64::from(target / reference),
    }
}

/// Benjamini & Hochberg 1995: `p_(i) m / i`, the running minimum from the largest, at most 1.
///
/// # Panics
/// If there are 2^32 or more of them.
pub fn benjamini_hochberg(p: &[f64]) -> Vec<f64> {
    let m = p.len() as f64;
    assert!(u32::try_from(p.len()).is_ok(), "fdr: {} p-values, at most 2^32 - 1", p.len());
    // p >= 0, so its bits sort as it does; equal p get equal fdr, whatever their order.
    let mut order: Vec<(u64, u32)> = p.iter().zip(0..).map(|(p, i)| (p.to_bits(), i)).collect();
    order.par_sort_unstable();
    let mut fdr = vec![0.0; p.len()];
    let mut least = 1.0f64;
    for (rank, &(bits, i)) in order.iter().enumerate().rev() {
        least = least.min(f64::from_bits(bits) * (m / (rank + 1) as f64));
        fdr[i as usize] = least;
    }
    fdr
}
