//! Draws what is true of a simulated world before any cells are drawn: base profiles, programs, effects.

use super::Settings;
use crate::rng::Rng;

/// Programs of unperturbed variation within a type.
pub const LATENT: usize = 6;
/// Share of genes in a perturbation program, and in a pair's own part.
const PROGRAM_SHARE: f32 = 0.1;
/// Standard deviation of a pair's own part, which is 15 % of the variance.
const OWN: f32 = 0.489_897_95;
/// 1 + 0.36 + 0.24: the variance of all three parts before the strength.
const VARIANCE: f32 = 1.6;

/// Everything that the counts are drawn from. Index 0 of the perturbations is the control, whose effects are all 0.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Names, `[G]`.
    pub genes: Vec<String>,
    /// Names, `[P]`; the first is the control label.
    pub perturbations: Vec<String>,
    /// Names, `[C]`.
    pub cell_types: Vec<String>,
    /// Names, `[B]`.
    pub batches: Vec<String>,
    /// Natural log of a resting cell's expected share of counts, `[C, G]`.
    pub base: Vec<f32>,
    /// Natural log fold of each batch, `[B, G]`.
    pub batch: Vec<f32>,
    /// Loadings of the latent programs, `[6, G]`.
    pub loadings: Vec<f32>,
    /// Variance = mean + dispersion * mean^2, `[G]`.
    pub dispersion: Vec<f32>,
    /// Perturbation programs, `[K, G]`.
    pub programs: Vec<f32>,
    /// Mixing weights of each perturbation, `[P, K]`; squares of a row sum to 1 (control: 0).
    pub weights: Vec<f32>,
    /// How strongly a type responds to a program, `[C, K]`.
    pub gains: Vec<f32>,
    /// Scale of the log folds, `[P]`; 0 for the control and the null perturbations.
    pub strengths: Vec<f32>,
    /// Share of cells that respond, `[P]`.
    pub responders: Vec<f32>,
    /// Natural log fold of a responding cell's rates, `[C, P, G]`.
    pub effects: Vec<f32>,
    /// Median library of each type, counts, `[C]`.
    pub libraries: Vec<f32>,
    /// Chances of a cell's labels: types `[C]`, perturbations `[P]`, batches `[B]`; each sums to 1.
    pub chances: [Vec<f64>; 3],
}

impl Truth {
    /// The world for these settings: a pure function of them.
    pub fn draw(settings: &Settings, control: &str) -> Truth {
        let rng = Rng::new(settings.seed).at(1);
        let (genes, types) = (settings.genes, settings.cell_types);
        let perturbations = settings.perturbations + 1;
        let programs = (settings.perturbations / 2).clamp(4, 12);
        let mut names = vec![control.to_string()];
        names.extend(numbered("PERT", settings.perturbations, 3));
        let mut truth = Truth {
            genes: numbered("GENE", genes, 4),
            perturbations: names,
            cell_types: numbered("type-", types, 1),
            batches: numbered("batch-", settings.batches, 1),
            base: base(rng.at(1), types, genes),
            batch: (0..settings.batches * genes).map(|i| 0.1 * rng.at(2).normal(i as u64)).collect(),
            loadings: sparse(rng.at(3), LATENT * genes, 0.1, 0.4),
            dispersion: (0..genes as u64).map(|g| 0.2 * (0.5 * rng.at(4).normal(g)).exp()).collect(),
            programs: sparse(rng.at(5), programs * genes, PROGRAM_SHARE, 1.0),
            weights: weights(rng.at(6), perturbations, programs),
            gains: (0..types * programs).map(|i| gain(rng.at(7), i as u64)).collect(),
            strengths: strengths(rng.at(8), settings.perturbations),
            responders: (0..perturbations as u64).map(|p| responders(rng.at(9), p)).collect(),
            effects: Vec::new(),
            libraries: (0..types as u64)
                .map(|c| 1.5 * genes as f32 * (0.2 * rng.at(10).normal(c)).exp())
                .collect(),
            chances: chances(rng.at(11), settings),
        };
        truth.effects = truth.draw_effects(rng.at(12));
        truth
    }

    /// Log folds of one pair, `[G]`.
    ///
    /// # Panics
    /// If there is no such pair.
    pub fn effect(&self, cell_type: usize, perturbation: usize) -> &[f32] {
        let genes = self.genes.len();
        let first = (cell_type * self.perturbations.len() + perturbation) * genes;
        &self.effects[first..first + genes]
    }

    fn draw_effects(&self, rng: Rng) -> Vec<f32> {
        let (genes, programs) = (self.genes.len(), self.programs.len() / self.genes.len());
        let mut effects = vec![0.0; self.cell_types.len() * self.perturbations.len() * genes];
        for (pair, effect) in effects.chunks_exact_mut(genes).enumerate() {
            let (c, p) = (pair / self.perturbations.len(), pair % self.perturbations.len());
            if self.strengths[p] == 0.0 {
                continue;
            }
            effect.copy_from_slice(&sparse(rng.at(pair as u64), genes, PROGRAM_SHARE, OWN));
            for k in 0..programs {
                let factor = self.weights[p * programs + k] * self.gains[c * programs + k];
                let program = &self.programs[k * genes..(k + 1) * genes];
                effect.iter_mut().zip(program).for_each(|(e, x)| *e += factor * x);
            }
            let scale = self.strengths[p] / VARIANCE.sqrt();
            for (e, log_share) in effect.iter_mut().zip(&self.base[c * genes..]) {
                let mean = self.libraries[c] * log_share.exp();
                *e *= scale * mean / (mean + 0.05);
            }
        }
        effects
    }
}

/// `GENE0001`, ...: padded so that names sort by number.
fn numbered(stem: &str, count: usize, digits: usize) -> Vec<String> {
    let digits = digits.max(count.to_string().len());
    (1..=count).map(|i| format!("{stem}{i:0digits$}")).collect()
}

/// N(0, `sd`) with probability `share`, else 0.
fn sparse(rng: Rng, count: usize, share: f32, sd: f32) -> Vec<f32> {
    let (chosen, sizes) = (rng.at(1), rng.at(2));
    (0..count as u64).map(|i| if chosen.uniform(i) < share { sd * sizes.normal(i) } else { 0.0 }).collect()
}

fn base(rng: Rng, types: usize, genes: usize) -> Vec<f32> {
    let (common, own) = (rng.at(1), rng.at(2));
    let markers = sparse(rng.at(3), types * genes, 0.1, 2.0);
    let mut base: Vec<f32> = (0..types * genes)
        .map(|i| 2.2 * common.normal((i % genes) as u64) + 0.5 * own.normal(i as u64) + markers[i])
        .collect();
    for profile in base.chunks_exact_mut(genes) {
        let total: f64 = profile.iter().map(|&x| f64::from(x).exp()).sum();
        profile.iter_mut().for_each(|x| *x -= total.ln() as f32);
    }
    base
}

/// One to three programs per perturbation, squares of the weights summing to 1.
fn weights(rng: Rng, perturbations: usize, programs: usize) -> Vec<f32> {
    let mut weights = vec![0.0; perturbations * programs];
    for (p, row) in weights.chunks_exact_mut(programs).enumerate().skip(1) {
        let own = rng.at(p as u64);
        let count = 1 + own.below(0, 3) as usize;
        for k in own.at(1).sample(programs as u64, count) {
            row[k as usize] = own.at(2).normal(k);
        }
        let norm = row.iter().map(|w| w * w).sum::<f32>().sqrt().max(1e-6);
        row.iter_mut().for_each(|w| *w /= norm);
    }
    weights
}

/// Mean 1, variance 0.36; near zero for about one program in seven.
fn gain(rng: Rng, i: u64) -> f32 {
    if rng.at(1).uniform(i) < 0.15 { 0.05 } else { 1.1676 * (0.4 * rng.at(2).normal(i) - 0.08).exp() }
}

/// Geometric from 1.8 to 0.3 with one in ten at 0, shuffled; the control's 0 first.
fn strengths(rng: Rng, perturbations: usize) -> Vec<f32> {
    let null = if perturbations >= 4 { (perturbations / 10).max(1) } else { 0 };
    let steps = (perturbations - null).saturating_sub(1).max(1) as f32;
    let mut ladder: Vec<f32> = (0..perturbations - null)
        .map(|i| 1.8 * (0.3f32 / 1.8).powf(i as f32 / steps))
        .chain(std::iter::repeat_n(0.0, null))
        .collect();
    rng.shuffle(&mut ladder);
    ladder.insert(0, 0.0);
    ladder
}

fn responders(rng: Rng, p: u64) -> f32 {
    if p == 0 || rng.at(1).uniform(p) < 0.5 { 1.0 } else { 0.5 + 0.4 * rng.at(2).uniform(p) }
}

/// Log-normal weights; the control has 0.15 of the cells, whatever the number of perturbations.
fn chances(rng: Rng, settings: &Settings) -> [Vec<f64>; 3] {
    let draw = |stream: u64, count: usize, sd: f64| -> Vec<f64> {
        let weights: Vec<f64> =
            (0..count as u64).map(|i| (sd * f64::from(rng.at(stream).normal(i))).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    let mut perturbations = vec![0.15];
    perturbations.extend(draw(2, settings.perturbations, 0.5).into_iter().map(|w| 0.85 * w));
    [draw(1, settings.cell_types, 0.4), perturbations, draw(3, settings.batches, 0.2)]
}
