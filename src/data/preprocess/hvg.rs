//! Highly variable genes as scanpy 1.11 finds them: flavours `seurat` (Satija et al. 2015) and `cell_ranger` (Zheng et al.
//! 2017), over all cells or merged over batches; `seurat_v3` is a separate method.
//!
//! Both rank genes by dispersion (variance / mean) relative to genes of similar mean: `seurat` by the z-score within one
//! of 20 bins of equal width over ln(1 + mean), `cell_ranger` by the distance from the median within 20 bins of equal
//! size, in units of the median absolute deviation.

use crate::correlation::median;
use crate::error::{Error, Result};

/// How genes are ranked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Flavor {
    /// From normalised counts: log dispersion, z-scored within bins of equal width.
    Seurat,
    /// From log values: dispersion, robust z-score within bins of equal size.
    CellRanger,
    /// From raw counts: variance after dividing by the standard deviation usual for the gene's mean.
    SeuratV3,
}

impl Flavor {
    /// As scanpy names it.
    pub fn name(self) -> &'static str {
        match self {
            Flavor::Seurat => "seurat",
            Flavor::CellRanger => "cell_ranger",
            Flavor::SeuratV3 => "seurat_v3",
        }
    }
}

/// Sums over cells, one number per gene: of the values and of their squares.
///
/// Each square is rounded to f32 before it is added: scanpy does so, and it decides ties.
#[derive(Clone, Debug)]
pub struct Moments {
    /// Cells seen, whether or not they express a gene.
    pub cells: u64,
    /// Sum of values, `[G]`.
    pub sum: Vec<f64>,
    /// Sum of squares, `[G]`.
    pub squares: Vec<f64>,
    /// Whether any cell has a value above zero, `[G]`.
    pub expressed: Vec<bool>,
}

impl Moments {
    /// No cells yet.
    pub fn new(genes: usize) -> Moments {
        Moments { cells: 0, sum: vec![0.0; genes], squares: vec![0.0; genes], expressed: vec![false; genes] }
    }

    /// Adds the moments of other cells.
    pub fn join(&mut self, other: &Moments) {
        self.cells += other.cells;
        self.sum.iter_mut().zip(&other.sum).for_each(|(a, b)| *a += b);
        self.squares.iter_mut().zip(&other.squares).for_each(|(a, b)| *a += b);
        self.expressed.iter_mut().zip(&other.expressed).for_each(|(a, b)| *a |= b);
    }

    /// Mean and variance (n - 1) of a gene, zeros included.
    pub fn mean_and_variance(&self, gene: usize) -> (f64, f64) {
        let n = self.cells as f64;
        let mean = self.sum[gene] / n;
        let variance = self.squares[gene] / n - mean * mean;
        (mean, if self.cells > 1 { variance * (n / (n - 1.0)) } else { variance })
    }
}

/// A flavour's results for each gene, `[G]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneTable {
    /// By scanpy's names. `seurat`, `cell_ranger`: means, dispersions, dispersions_norm; `seurat_v3`: means, variances,
    /// variances_norm, highly_variable_rank. NaN where one is undefined.
    pub columns: Vec<(&'static str, Vec<f64>)>,
    /// Chosen genes. If ranked by dispersion without batches, genes that tie with the last one are all chosen.
    pub highly_variable: Vec<bool>,
    /// Batches that chose the gene; empty without batches.
    pub batches: Vec<u32>,
}

/// Dispersions of one population's genes.
struct Ranked {
    /// `seurat`: ln(1 + mean of the normalised counts); `cell_ranger`: mean of the log values.
    means: Vec<f64>,
    /// `seurat`: ln(variance / mean); `cell_ranger`: variance / mean.
    dispersions: Vec<f64>,
    /// Dispersion relative to genes of similar mean; NaN if undefined.
    norm: Vec<f64>,
    highly_variable: Vec<bool>,
}

fn columns(means: Vec<f64>, dispersions: Vec<f64>, norm: Vec<f64>) -> Vec<(&'static str, Vec<f64>)> {
    vec![("means", means), ("dispersions", dispersions), ("dispersions_norm", norm)]
}

/// Ranks the genes of one population and chooses `count` of them (more where genes tie with the last one).
///
/// # Errors
/// Means that are not finite, or (`cell_ranger`) so many unexpressed genes that the bins of equal size collapse.
///
/// # Panics
/// For `seurat_v3`, which ranks raw counts and no dispersions.
pub fn table(moments: &Moments, flavor: Flavor, count: usize) -> Result<GeneTable> {
    let every: Vec<usize> = (0..moments.sum.len()).collect();
    let Ranked { means, dispersions, norm, highly_variable } = ranked(moments, &every, flavor, count)?;
    Ok(GeneTable { columns: columns(means, dispersions, norm), highly_variable, batches: Vec::new() })
}

/// Ranks the genes in each batch and merges: first by the number of batches that chose the gene, then by the mean normalised
/// dispersion, then by name. Chooses exactly `count`. Batches without cells are ignored.
///
/// # Errors
/// As [`table`], in any batch.
///
/// # Panics
/// As [`table`]; if there are fewer names than genes.
pub fn table_over_batches(
    batches: &[Moments],
    names: &[String],
    flavor: Flavor,
    count: usize,
) -> Result<GeneTable> {
    let genes = names.len();
    let mut merged = [Mean::new(genes), Mean::new(genes), Mean::new(genes)];
    let mut chosen_in = vec![0u32; genes];
    for moments in batches.iter().filter(|moments| moments.cells > 0) {
        let expressed: Vec<usize> = (0..genes).filter(|&gene| moments.expressed[gene]).collect();
        let part = ranked(moments, &expressed, flavor, count)?;
        // A gene without expression in the batch counts as 0 in the means, not as missing.
        let mut spread = vec![[0.0; 3]; genes];
        for (i, &gene) in expressed.iter().enumerate() {
            spread[gene] = [part.means[i], part.dispersions[i], part.norm[i]];
            chosen_in[gene] += u32::from(part.highly_variable[i]);
        }
        for (gene, numbers) in spread.into_iter().enumerate() {
            merged.iter_mut().zip(numbers).for_each(|(mean, number)| mean.add(gene, number));
        }
    }
    let [means, dispersions, dispersions_norm] = merged.map(Mean::finish);
    let mut order: Vec<usize> = (0..genes).collect();
    let score = |gene: usize| {
        if dispersions_norm[gene].is_nan() { f64::NEG_INFINITY } else { dispersions_norm[gene] }
    };
    order.sort_by(|&a, &b| {
        chosen_in[b]
            .cmp(&chosen_in[a])
            .then(dispersions_norm[a].is_nan().cmp(&dispersions_norm[b].is_nan()))
            .then(score(b).total_cmp(&score(a)))
            .then(names[a].cmp(&names[b]))
    });
    let mut highly_variable = vec![false; genes];
    order.iter().take(count).for_each(|&gene| highly_variable[gene] = true);
    Ok(GeneTable {
        columns: columns(means, dispersions, dispersions_norm),
        highly_variable,
        batches: chosen_in,
    })
}

/// A mean that skips NaN; NaN if there was nothing else.
struct Mean {
    sum: Vec<f64>,
    count: Vec<u32>,
}

impl Mean {
    fn new(len: usize) -> Mean {
        Mean { sum: vec![0.0; len], count: vec![0; len] }
    }

    fn add(&mut self, i: usize, number: f64) {
        if !number.is_nan() {
            self.sum[i] += number;
            self.count[i] += 1;
        }
    }

    fn finish(self) -> Vec<f64> {
        self.sum.iter().zip(&self.count).map(|(sum, &count)| sum / f64::from(count)).collect()
    }
}

fn ranked(moments: &Moments, genes: &[usize], flavor: Flavor, count: usize) -> Result<Ranked> {
    let (mut means, mut dispersions) = (Vec::with_capacity(genes.len()), Vec::with_capacity(genes.len()));
    for &gene in genes {
        let (mean, variance) = moments.mean_and_variance(gene);
        let mean = if mean == 0.0 { 1e-12 } else { mean };
        let dispersion = variance / mean;
        match flavor {
            Flavor::SeuratV3 => unreachable!("seurat_v3 ranks no dispersions"),
            Flavor::Seurat => {
                means.push(mean.ln_1p());
                dispersions.push(if dispersion == 0.0 { f64::NAN } else { dispersion.ln() });
            }
            Flavor::CellRanger => {
                means.push(mean);
                dispersions.push(dispersion);
            }
        }
    }
    let edges = match flavor {
        Flavor::Seurat => equal_width(&means)?,
        _ => equal_size(&means)?,
    };
    let mut bins: Vec<Vec<usize>> = vec![Vec::new(); edges.len() - 1];
    for (i, mean) in means.iter().enumerate() {
        // Bins are open below and closed above.
        let bin = edges.partition_point(|edge| edge < mean).saturating_sub(1);
        bins[bin].push(i);
    }
    let mut norm = vec![f64::NAN; genes.len()];
    for bin in &bins {
        let inside: Vec<f64> = bin.iter().map(|&i| dispersions[i]).filter(|d| !d.is_nan()).collect();
        if inside.is_empty() {
            continue;
        }
        let (centre, spread) = match flavor {
            Flavor::Seurat => mean_and_deviation(&inside),
            _ => median_and_deviation(&inside),
        };
        bin.iter().for_each(|&i| norm[i] = (dispersions[i] - centre) / spread);
    }
    let highly_variable = choose(&norm, count);
    Ok(Ranked { means, dispersions, norm, highly_variable })
}

/// 20 bins of equal width from the smallest to the largest mean, the first slightly wider so that it includes its own edge.
fn equal_width(means: &[f64]) -> Result<Vec<f64>> {
    const BINS: usize = 20;
    let (mut low, mut high) =
        means.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &m| (l.min(m), h.max(m)));
    if means.is_empty() {
        return Ok(vec![f64::NEG_INFINITY, f64::INFINITY]);
    }
    if !low.is_finite() || !high.is_finite() {
        return Err(Error::setting(
            "scale",
            "a gene's mean is not finite: the values are too large to be log1p data; are they counts?",
        ));
    }
    let single = low == high;
    if single {
        let margin = if low == 0.0 { 0.001 } else { 0.001 * low.abs() };
        (low, high) = (low - margin, high + margin);
    }
    let step = (high - low) / BINS as f64;
    let mut edges: Vec<f64> = (0..=BINS).map(|i| i as f64 * step + low).collect();
    edges[BINS] = high;
    if !single {
        edges[0] -= 0.001 * (high - low);
    }
    Ok(edges)
}

/// Below the 10th percentile, then in steps of 5, up to above the largest mean.
fn equal_size(means: &[f64]) -> Result<Vec<f64>> {
    let mut sorted = means.to_vec();
    sorted.sort_by(f64::total_cmp);
    let percentile = |percent: u32| {
        let place = f64::from(percent) / 100.0 * (sorted.len() - 1) as f64;
        let (below, t) = (place.floor() as usize, place.fract());
        let (a, b) = (sorted[below], sorted[(below + 1).min(sorted.len() - 1)]);
        // numpy interpolates from the nearer end.
        if t >= 0.5 { b - (b - a) * (1.0 - t) } else { a + (b - a) * t }
    };
    let mut edges = vec![f64::NEG_INFINITY];
    if !sorted.is_empty() {
        edges.extend((10..=100).step_by(5).map(percentile));
    }
    edges.push(f64::INFINITY);
    if edges.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Error::setting(
            "flavor",
            "cell_ranger ranks within bins of equal size, which collapse here: too many genes have the same \
             mean (15 % without any expression is enough); use seurat, or leave out the unexpressed genes with `filters.min_cells = 1`",
        ));
    }
    Ok(edges)
}

/// Mean and sample deviation; a bin with a single gene gives it the score 1 (centre 0, spread its own dispersion).
fn mean_and_deviation(inside: &[f64]) -> (f64, f64) {
    let n = inside.len() as f64;
    let mean = inside.iter().sum::<f64>() / n;
    if inside.len() == 1 {
        return (0.0, mean);
    }
    let deviation = (inside.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    // Equal dispersions: the remainder is rounding noise, and a score made of it would be noise too.
    if deviation < 1e-12 * mean.abs() { (mean, f64::NAN) } else { (mean, deviation) }
}

/// Median, and the median absolute deviation scaled to a normal distribution's standard deviation.
fn median_and_deviation(inside: &[f64]) -> (f64, f64) {
    const NORMAL_QUARTILE: f64 = 0.674_489_750_196_081_7;
    let of = |mut numbers: Vec<f64>| median(&mut numbers).unwrap_or(f64::NAN);
    let centre = of(inside.to_vec());
    (centre, of(inside.iter().map(|d| (d - centre).abs()).collect()) / NORMAL_QUARTILE)
}

/// All genes whose score reaches the `count`-th largest. Those without a score count as -inf: they
/// are included only if the cut is -inf.
fn choose(scores: &[f64], count: usize) -> Vec<bool> {
    let mut sorted: Vec<f64> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    match sorted.get(count.min(sorted.len()).wrapping_sub(1)) {
        Some(&cut) => scores.iter().map(|&score| score >= cut || cut == f64::NEG_INFINITY).collect(),
        None => vec![false; scores.len()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_at_the_cut_are_all_chosen() {
        assert_eq!(choose(&[1.0, 3.0, 2.0, 2.0, f64::NAN], 2), [false, true, true, true, false]);
        assert_eq!(choose(&[1.0, f64::NAN], 5), [true, false]);
        assert_eq!(choose(&[1.0, f64::NEG_INFINITY, f64::NAN], 2), [true, true, true]);
        assert_eq!(choose(&[f64::NAN], 1), [false]);
    }

    #[test]
    fn equal_means_share_one_bin() {
        let edges = equal_width(&[2.0, 2.0]).expect("edges");
        assert!(edges[0] < 2.0 && edges[20] > 2.0);
        assert!(equal_width(&[f64::INFINITY]).is_err() && equal_size(&[1.0; 30]).is_err());
    }

    #[test]
    fn genes_that_batches_rank_alike_are_chosen_by_name() {
        // The first two have no dispersion to compare; the third is alone in its bin.
        let moments = Moments {
            cells: 10,
            sum: vec![10.0, 10.0, 90.0],
            squares: vec![30.0, 30.0, 900.0],
            expressed: vec![true; 3],
        };
        let names = ["b", "a", "c"].map(String::from);
        let table =
            table_over_batches(&[moments.clone(), moments], &names, Flavor::Seurat, 2).expect("a table");
        assert_eq!(table.highly_variable, [false, true, true]);
    }
}
