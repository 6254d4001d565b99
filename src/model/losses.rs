//! One training step's losses (SCALE v1, eq. 13-16, 18-30).

use std::ops::Range;

use super::Model;
use super::condition::{self, Tokens};
use crate::ops::column_sums::{column_squares, column_sums};
use crate::params::Vars;
use crate::rng::{Rng, stream};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// B sets of N control cells and N perturbed cells, dense, on the network's scale.
#[derive(Debug)]
pub struct Examples {
    /// Controls, then perturbed cells: `[2B, N, G]`.
    pub cells: Tensor,
    /// The perturbation's mean effect in other contexts `[B, G]`; used only by `flow.start = "shifted"`.
    pub effect: Option<Tensor>,
    /// T condition tokens per set.
    pub tokens: Tokens,
    /// Number of the first set within the step: above 0 if ranks share the step.
    pub first: usize,
}

impl Examples {
    /// Examples with three condition tokens per set: cell type, perturbation and batch ids.
    pub fn new(cells: Tensor, effect: Option<Tensor>, conditions: &[[u32; 3]]) -> Self {
        Examples { cells, effect, tokens: condition::three(conditions), first: 0 }
    }

    /// B.
    pub fn sets(&self) -> usize {
        self.cells.shape()[0] / 2
    }
}

/// The loss and its parts, as scalars on the tape.
#[derive(Debug)]
pub struct Losses {
    /// L = L_MSE + w_mmd L_MMD + w_flow L_flow (+ terms that are not in the paper).
    pub total: Var,
    /// The weighted sum's terms.
    pub parts: Vec<LossPart>,
    /// Latents of the batch, `[2B, N, D]`.
    pub latents: Var,
}

/// One term of the loss.
#[derive(Clone, Copy, Debug)]
pub struct LossPart {
    /// As in metrics.jsonl.
    pub name: &'static str,
    /// Before its weight, `[1]`.
    pub value: Var,
    /// What it is multiplied by in the sum.
    pub weight: f32,
}

/// The random choices of a step: one time per set, and the stream of the start's noise.
#[derive(Debug)]
pub struct Draws {
    /// t of each set, 0 to 1.
    pub times: Vec<f32>,
    /// Noise and mask of the start.
    pub start: Rng,
}

impl Draws {
    /// The draws for some of a step's sets, a pure function of seed, step and set: a share `t_zero` of the sets is drawn at t = 0,
    /// where prediction starts.
    pub fn at(seed: u64, step: u64, sets: Range<usize>, t_zero: f32) -> Draws {
        let rng = Rng::new(seed).at(stream::FLOW).at(step);
        let time = |b: u64| if rng.at(1).uniform(b) < t_zero { 0.0 } else { rng.at(0).uniform(b) };
        let times = sets.map(|set| time(set as u64)).collect();
        Draws { times, start: rng.at(2) }
    }
}

impl Model {
    /// Losses of one batch.
    ///
    /// # Panics
    /// If a shifted start has no mean effects, or shapes differ from those of [`Examples`].
    pub fn losses(&self, t: &mut Tape, p: &Vars, examples: &Examples, draws: &Draws) -> Losses {
        let (config, weights) = (self.config(), &self.config().loss);
        let b = examples.sets();
        let cells = t.constant(examples.cells.clone());
        let (x0, x1) = (t.slice(cells, 0..b), t.slice(cells, b..2 * b));

        let z = self.encode(t, p, cells);
        let (z0, z1) = (t.slice(z, 0..b), t.slice(z, b..2 * b));

        let decoded = self.decode(t, p, z); // [2B, N, G]
        let resting = t.slice(decoded, 0..b);
        // Means over 2B sets, doubled: the paper adds the mean over the controls' B sets and that over the perturbed ones'.
        let mse = t.squared_error(decoded, cells);
        let mmd = t.scope("mmd", |t| t.mmd(decoded, cells, weights.kernel));
        let (mse, mmd) = (t.scale(mse, 2.0), t.scale(mmd, 2.0));
        let part = |name, value, weight| LossPart { name, value, weight };
        let mut parts = vec![part("mse", mse, 1.0), part("mmd", mmd, weights.w_mmd)];

        let from = self.moved(t, p, x0, examples.effect.as_ref()).unwrap_or(z0);
        let size = t.value(from).len() / b;
        let streams: Vec<_> =
            (0..b).map(|set| (draws.start, ((examples.first + set) * size) as u64)).collect();
        let zs = t.flow_start(from, config.flow.start, config.flow.mask, &streams);
        let zt = t.flow_path(zs, z1, &draws.times);
        let answer = t.scope("flow", |t| self.flow.forward(t, p, zt, &draws.times, &examples.tokens));
        let variant = config.flow.variant();
        let flow = t.flow_loss(answer, zs, z1, zt, &draws.times, variant);
        parts.push(part("flow", flow, weights.w_flow));

        if weights.effect > 0.0 || weights.w_endpoint > 0.0 {
            let endpoint = t.flow_endpoint(answer, zs, zt, &draws.times, variant);
            let predicted = self.decode(t, p, endpoint); // [B, N, G]
            if weights.w_endpoint > 0.0 {
                let mmd = t.scope("mmd", |t| t.mmd(predicted, x1, weights.kernel));
                parts.push(part("endpoint", mmd, weights.w_endpoint));
            }
            if weights.effect > 0.0 {
                // Differences first: an effect is far smaller than the means, whose rounding to bf16 would drown it.
                let [change, truth] = [(predicted, resting), (x1, x0)].map(|(after, before)| {
                    let moved = t.sub(after, before);
                    t.pool(moved) // [B, G]
                });
                parts.push(part("effect", t.squared_error(change, truth), weights.effect));
            }
        }
        // A part of weight 0 is only logged: its gradients would be zeros, or NaN where it is not finite.
        let weighing = parts.iter().filter(|part| part.weight > 0.0);
        let weighted: Vec<(Var, f32)> = weighing.map(|part| (part.value, part.weight)).collect();
        Losses { total: t.weighted_sum(&weighted), parts, latents: z }
    }
}

/// Sums over cells of each latent number and of its square, `[D]` f32 each, where the latents are.
pub(crate) fn latent_sums(z: &Tensor) -> [Tensor; 2] {
    [column_sums(z), column_squares(z)]
}

/// Share of the latent variance that lies between cells, from the means of each latent number and of its square, `[2, D]`: near
/// zero, the encoder has collapsed. Latents have mean square 1, so their variance over cells, averaged over D, is a share.
pub(crate) fn variance_between_cells(moments: &[f32]) -> f32 {
    let (means, squares) = moments.split_at(moments.len() / 2);
    let between: f64 = means.iter().zip(squares).map(|(m, s)| f64::from(*s) - f64::from(*m).powi(2)).sum();
    (between / means.len() as f64) as f32
}
