//! Draws the cells of a simulated world: labels, then counts. Every cell has its own stream of random numbers.

use std::ops::Range;

use rayon::prelude::*;

use super::truth::{LATENT, Truth};
use crate::data::draws::{negative_binomial, open_unit};
use crate::rng::Rng;

/// Cells that one task draws: large enough to keep a thread busy, small enough that all threads get some.
const BLOCK: usize = 128;

/// One cell before its counts.
#[derive(Clone, Copy, Debug)]
pub struct Draw {
    /// Position in [`Truth::cell_types`].
    pub cell_type: u32,
    /// Position in [`Truth::perturbations`].
    pub perturbation: u32,
    /// Position in [`Truth::batches`].
    pub batch: u32,
    /// Expected counts at rest.
    pub library: f32,
    /// Whether the perturbation acts on this cell.
    pub responds: bool,
}

/// CSR parts of the counts: row starts, genes, counts.
pub struct Counts {
    /// `[cells + 1]`, the first 0.
    pub starts: Vec<usize>,
    /// Rising within a cell.
    pub genes: Vec<u32>,
    /// Whole numbers above 0.
    pub values: Vec<f32>,
}

/// Labels, library and response of the cells with these numbers.
pub fn labels(truth: &Truth, cells: Range<u64>, rng: Rng) -> Vec<Draw> {
    let pick = |chances: &[f64], u: f64| {
        let mut left = u;
        for (i, chance) in chances.iter().enumerate() {
            left -= chance;
            if left < 0.0 {
                return i as u32;
            }
        }
        chances.len() as u32 - 1
    };
    cells
        .map(|i| {
            let [cell_type, perturbation, batch] =
                [0, 1, 2].map(|kind| pick(&truth.chances[kind], rng.at(kind as u64).uniform64(i)));
            Draw {
                cell_type,
                perturbation,
                batch,
                library: truth.libraries[cell_type as usize] * (0.35 * rng.at(3).normal(i)).exp(),
                responds: rng.at(4).uniform(i) < truth.responders[perturbation as usize],
            }
        })
        .collect()
}

/// Counts of the cells, numbered from `first`, in their order, whatever the number of threads.
pub fn counts(truth: &Truth, cells: &[Draw], first: u64, rng: Rng) -> Counts {
    let loadings = Loadings::of(truth);
    let blocks: Vec<Counts> = cells
        .par_chunks(BLOCK)
        .enumerate()
        .map(|(block, cells)| {
            let mut counts = Counts { starts: vec![0], genes: Vec::new(), values: Vec::new() };
            let mut rates = vec![0.0; truth.genes.len()];
            for (i, cell) in cells.iter().enumerate() {
                let own = rng.at(first + (block * BLOCK + i) as u64);
                fill_rates(truth, &loadings, cell, own, &mut rates);
                draw_counts(&rates, &truth.dispersion, own, &mut counts);
                counts.starts.push(counts.genes.len());
            }
            counts
        })
        .collect();
    let stored = blocks.iter().map(|block| block.genes.len()).sum();
    let mut counts =
        Counts { starts: vec![0], genes: Vec::with_capacity(stored), values: Vec::with_capacity(stored) };
    for block in blocks {
        let before = counts.genes.len();
        counts.starts.extend(block.starts[1..].iter().map(|start| before + start));
        counts.genes.extend(block.genes);
        counts.values.extend(block.values);
    }
    counts
}

/// The latent loadings as a list of the non-zeros, and half the sum of squares per gene.
struct Loadings {
    entries: Vec<(u32, u8, f32)>,
    half_square: Vec<f32>,
}

impl Loadings {
    fn of(truth: &Truth) -> Loadings {
        let genes = truth.genes.len();
        let (mut entries, mut half_square) = (Vec::new(), vec![0.0; genes]);
        for (i, &x) in truth.loadings.iter().enumerate().filter(|(_, x)| **x != 0.0) {
            entries.push(((i % genes) as u32, (i / genes) as u8, x));
            half_square[i % genes] += 0.5 * x * x;
        }
        Loadings { entries, half_square }
    }
}

/// Expected counts of one cell, `[G]`.
fn fill_rates(truth: &Truth, loadings: &Loadings, cell: &Draw, rng: Rng, rates: &mut [f32]) {
    let genes = rates.len();
    let (c, b) = (cell.cell_type as usize, cell.batch as usize);
    let base = &truth.base[c * genes..(c + 1) * genes];
    let batch = &truth.batch[b * genes..(b + 1) * genes];
    let start = cell.library.ln();
    for (g, rate) in rates.iter_mut().enumerate() {
        *rate = start + base[g] + batch[g] - loadings.half_square[g];
    }
    let state: [f32; LATENT] = std::array::from_fn(|l| rng.at(1).normal(l as u64));
    for &(gene, program, loading) in &loadings.entries {
        rates[gene as usize] += state[program as usize] * loading;
    }
    if cell.responds {
        let effect = truth.effect(c, cell.perturbation as usize);
        rates.iter_mut().zip(effect).for_each(|(rate, e)| *rate += e);
    }
    rates.iter_mut().for_each(|rate| *rate = rate.exp());
}

/// Appends one cell's counts.
fn draw_counts(rates: &[f32], dispersion: &[f32], rng: Rng, counts: &mut Counts) {
    let uniform = rng.at(2);
    for first in (0..rates.len()).step_by(4) {
        let words = uniform.block(first as u64 / 4);
        for (gene, word) in (first..rates.len().min(first + 4)).zip(words) {
            let count =
                negative_binomial(f64::from(rates[gene]), f64::from(dispersion[gene]), open_unit(word));
            if count > 0 {
                counts.genes.push(gene as u32);
                counts.values.push(count as f32);
            }
        }
    }
}
