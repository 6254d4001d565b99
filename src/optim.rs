//! AdamW over the flat buffers (Loshchilov & Hutter 2019), its schedule, the clip and the averaged weights.
//!
//! Ranks may share it (ZeRO, Rajbhandari et al. 2020, stage 1, gradients arriving as in stage 2): this rank then moves only the
//! weights of its share, and holds moments, averages and lower halves only for those.
//!
//! It moves any weights bound to a tape, not only this crate's model:
//!
//! ```
//! use scale_engine::config::OptimConfig;
//! use scale_engine::model::build::Build;
//! use scale_engine::optim::Optimizer;
//! use scale_engine::params::{Params, Table};
//! use scale_engine::rng::Rng;
//! use scale_engine::tape::Tape;
//! use scale_engine::tensor::Tensor;
//!
//! let mut table = Table::default();
//! let linear = Build::new(&mut table).linear("linear", 1, 2);
//! let first = table.draw(Rng::new(0));
//! let mut params = Params::new(table, first).with_gradients();
//! let mut optimizer = Optimizer::alone(&mut params);
//! let config = OptimConfig { lr: 0.05, ..OptimConfig::default() };
//!
//! // The sum of two numbers, from four examples.
//! let x = Tensor::new(&[4, 2], vec![0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
//! let y = Tensor::new(&[4, 1], vec![0.0, 1.0, 1.0, 2.0]);
//! let mut last = f32::INFINITY;
//! for step in 0..200 {
//!     let mut tape = Tape::new();
//!     let weights = params.bind(&mut tape);
//!     let (x, y) = (tape.constant(x.clone()), tape.constant(y.clone()));
//!     let made = linear.forward(&mut tape, &weights, x);
//!     let loss = tape.squared_error(made, y);
//!     last = tape.value(loss).item();
//!     let gradients = tape.backward(loss);
//!     params.collect(&weights, gradients);
//!     optimizer.step(&mut params, &config, step, 200);
//! }
//! assert!(last < 1e-2, "{last}");
//! ```

use std::f64::consts::PI;
use std::ops::Range;

use crate::config::OptimConfig;
use crate::error::Result;
use crate::gpu::{Gpu, PACK, Real};
use crate::ops::adamw::{self, Decay, Part, Rates, Stretches};
use crate::params::{Entry, Params, Share};
use crate::tensor::Tensor;

/// Moments and averaged weights: f32, where the weights are.
pub struct Optimizer {
    share: Share,
    /// One per piece of the share.
    parts: Vec<Part>,
    /// Where the share's gradients are.
    stretches: Stretches,
    /// L.
    len: usize,
}

brief!(Optimizer, |optimizer| weights: optimizer.len, share: optimizer.share);

/// This range's part of moments and averaged weights: of `saved`, the average and both moments, flat on the host, or else as they
/// begin; `low` is given if ranks share the weights.
fn part(params: &Params, range: Range<usize>, saved: Option<[&Tensor; 3]>, low: Option<&Tensor>) -> Part {
    let (at, shape, gpu) = (range.start, [range.len()], params.gpu());
    let low = low.map(|low| low.part(at, &shape).copied("weights' lower halves"));
    let names = ["averaged weights", "first moments", "second moments"];
    let own = |flat: &Tensor, what| match gpu {
        Some(gpu) => flat.part(at, &shape).to_gpu(gpu, what, Real::F32),
        None => flat.part(at, &shape).copied(what),
    };
    let [average, m, v] = match saved {
        Some(flats) => [0, 1, 2].map(|i| own(flats[i], names[i])),
        None => {
            let weights = params.master(at, range.len(), low.as_ref());
            let zeros = |what| Tensor::zeros_on(gpu, what, &shape);
            [weights.copied(names[0]), zeros(names[1]), zeros(names[2])]
        }
    };
    Part { at, low, m, v, average, decay: decay(params.entries(), range, gpu) }
}

fn decay(entries: &[Entry], range: Range<usize>, gpu: Option<&Gpu>) -> Decay {
    let mut bytes = vec![0u8; range.len() / PACK];
    for entry in entries.iter().filter(|entry| entry.decay) {
        let of = entry.range();
        let (from, to) = (of.start.max(range.start), of.end.min(range.end));
        if from < to {
            bytes[(from - range.start) / PACK..(to - range.start).div_ceil(PACK)].fill(1);
        }
    }
    match gpu {
        Some(gpu) => Decay::Device(gpu.upload("where weights decay", &bytes)),
        None => Decay::Host(bytes),
    }
}

impl Optimizer {
    /// An optimizer that no other rank shares: zero moments, the average starts at the weights.
    pub fn alone(params: &mut Params) -> Self {
        let share = Share::whole(params.len());
        Optimizer::new(params, share)
    }

    /// The same for a share of the weights.
    ///
    /// # Panics
    /// If it is a share of other weights.
    pub fn new(params: &mut Params, share: Share) -> Self {
        Optimizer::of(params, share, None)
    }

    /// Continues from a checkpoint's averaged weights and first and second moments, flat on the host; `params` already holds its
    /// weights.
    ///
    /// # Panics
    /// If the share is of other weights, or a checkpoint's flat is shorter than the weights.
    pub fn resume(params: &mut Params, share: Share, average: &Tensor, moments: [&Tensor; 2]) -> Self {
        Optimizer::of(params, share, Some([average, moments[0], moments[1]]))
    }

    fn of(params: &mut Params, share: Share, saved: Option<[&Tensor; 3]>) -> Self {
        let end = share.pieces().last().map_or(0, |piece| piece.end);
        assert!(end == params.len(), "optim: a share of {end} numbers, of weights {}", params.len());
        let low = if share.is_whole() { None } else { params.take_low() };
        let own = |range| part(params, range, saved, low.as_ref());
        let parts = share.parts().into_iter().map(own).collect();
        let stretches = Stretches::new(share.parts(), params.gpu());
        Optimizer { parts, stretches, len: params.len(), share }
    }

    /// The part of the flat buffers that it moves.
    pub fn share(&self) -> &Share {
        &self.share
    }

    /// Step k (from 0) of `steps`, for an optimizer that is not shared: clips the gradient, moves the weights, updates the average.
    /// Returns the norm before the clip, `[1]`, where the weights are: reading it waits for the step. A gradient that is NaN makes
    /// all weights NaN: whoever wants to stop before that looks at [`Params::grads`] first.
    ///
    /// # Panics
    /// If it is shared or made for other weights, the parameters have no room for gradients, or anyone shares the weights, the
    /// moments or the average, as all that returns them does.
    pub fn step(&mut self, params: &mut Params, config: &OptimConfig, k: u64, steps: u64) -> Tensor {
        assert!(self.share.is_whole(), "optim: the norm of a share is not that of the whole");
        assert!(params.len() == self.len, "optim: made for {} weights, given {}", self.len, params.len());
        assert!(!params.grads().is_empty(), "optim: no gradients; make the parameters `with_gradients`");
        let clip = adamw::clip(&self.squares(params.grads()), config.clip);
        self.advance(params, &clip, config, k, steps, |_, _, _| Ok(())).expect("nobody else is asked");
        clip.slice(0..1)
    }

    /// Sums of squares of the share's gradients, for [`adamw::clip`]; those of the other shares must be gathered first.
    ///
    /// # Panics
    /// If they are shorter than the weights.
    pub fn squares(&self, grads: &Tensor) -> Tensor {
        let (rank, ranks) = self.share.place();
        adamw::squares(grads, &self.stretches, rank, ranks)
    }

    /// Step k of `steps` for the share, with the clip of all gradients. `moved` is called with each piece of the share in turn,
    /// once this rank's part of it has been moved: the other parts are to be gathered, as products read them.
    ///
    /// # Errors
    /// What `moved` returns: the pieces after it are not moved.
    ///
    /// # Panics
    /// If the parameters are fewer than it was made for or have no gradients, or anyone shares the weights, the moments or the
    /// average.
    pub fn advance(
        &mut self,
        params: &mut Params,
        clip: &Tensor,
        config: &OptimConfig,
        k: u64,
        steps: u64,
        mut moved: impl FnMut(&Share, &Range<usize>, &Params) -> Result<()>,
    ) -> Result<()> {
        let rate = learning_rate(config, k, steps);
        let correct = |beta: f64| 1.0 - beta.powf((k + 1) as f64);
        let rates = Rates {
            b1: config.beta1 as f32,
            b2: config.beta2 as f32,
            step: (rate / correct(config.beta1)) as f32,
            root: (1.0 / correct(config.beta2).sqrt()) as f32,
            eps: config.eps as f32,
            shrink: (1.0 - rate * config.weight_decay) as f32,
            keep: config.ema.min((1 + k) as f64 / (10 + k) as f64) as f32,
        };
        for (piece, part) in self.share.pieces().iter().zip(&mut self.parts) {
            let alone = [&part.m, &part.v, &part.average].iter().all(|own| own.is_alone());
            assert!(alone, "optim: a tensor shares moments or average; drop it, or keep `copied()` of it");
            let (weights, grads) = params.update();
            adamw::update(weights, grads, part, clip, rates);
            moved(&self.share, piece, params)?;
        }
        Ok(())
    }

    /// All weights in full precision, `[L]`; for a share only those that it moves: the others must be gathered.
    pub fn weights(&self, params: &Params) -> Tensor {
        match self.share.is_whole() {
            true => params.weights(),
            false => self.flat(|part| params.master(part.at, part.m.len(), part.low.as_ref())),
        }
    }

    /// Averaged weights, used for prediction: `[L]`, for a share as above. To keep them over a step, keep [`Tensor::copied`].
    pub fn average(&self) -> Tensor {
        self.flat(|part| part.average.clone())
    }

    /// First moments, likewise.
    pub fn m(&self) -> Tensor {
        self.flat(|part| part.m.clone())
    }

    /// Second moments, likewise.
    pub fn v(&self) -> Tensor {
        self.flat(|part| part.v.clone())
    }

    /// Bytes that it holds where the weights are.
    pub fn bytes(&self) -> u64 {
        let of = |part: &Part| {
            let low = part.low.as_ref().map_or(0, Tensor::bytes);
            part.m.bytes() + part.v.bytes() + part.average.bytes() + low + (part.m.len() / PACK) as u64
        };
        self.parts.iter().map(of).sum::<u64>() + self.stretches.bytes()
    }

    fn flat(&self, of: impl Fn(&Part) -> Tensor) -> Tensor {
        let first = &self.parts[0];
        if self.share.is_whole() {
            return of(first);
        }
        if let Some(gpu) = first.m.gpu() {
            let all = Tensor::on(gpu, "numbers of all shares", &[self.len], Real::F32);
            self.parts.iter().for_each(|part| all.copy_from(part.at, &of(part)));
            return all;
        }
        let mut all = vec![0.0; self.len];
        for part in &self.parts {
            all[part.at..part.at + part.m.len()].copy_from_slice(of(part).data());
        }
        Tensor::new(&[self.len], all)
    }
}

/// Rate of step k: linear warm-up over the first `warmup` share of the steps, then a cosine down to `final_lr`.
pub fn learning_rate(config: &OptimConfig, k: u64, steps: u64) -> f64 {
    let warm = (config.warmup * steps as f64).round() as u64;
    if k < warm {
        return config.lr * (k + 1) as f64 / warm as f64;
    }
    let done = (k - warm) as f64 / steps.saturating_sub(warm).max(1) as f64;
    let cosine = 0.5 * (1.0 + (PI * done.min(1.0)).cos());
    config.lr * (config.final_lr + (1.0 - config.final_lr) * cosine)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::params::{Init, Table};
    use crate::rng::Rng;
    use crate::tape::Tape;
    use crate::tensor::Tensor;

    #[test]
    fn the_rate_warms_up_then_falls_to_a_tenth() {
        let config = Config::new("tiny", "default").expect("a preset").optim;
        let rate = |k| learning_rate(&config, k, 100) / config.lr;
        assert!(
            (rate(0) - 0.5).abs() < 1e-12 && (rate(1) - 1.0).abs() < 1e-12 && (rate(2) - 1.0).abs() < 1e-12
        );
        assert!(rate(50) < rate(49) && (0.1..0.11).contains(&rate(99)));
    }

    #[test]
    fn one_step_is_the_textbook_step() {
        let config = Config::new("tiny", "default").expect("a preset").optim;
        let mut table = Table::default();
        let w = table.add("w", &[1, 2], Init::Constant(0.5), true);
        let weights = table.draw(Rng::new(0));
        let mut params = Params::new(table, weights).with_gradients();
        let mut tape = Tape::new();
        let vars = params.bind(&mut tape);
        // loss = 3 a + 4 b: the gradient (3, 4) has norm 5 and is clipped to (0.6, 0.8).
        let x = tape.value(vars[w]).data().to_vec();
        let loss = tape.record("loss", &[vars[w]], Tensor::scalar(3.0 * x[0] + 4.0 * x[1]), |dy| {
            vec![Some(Tensor::new(&[1, 2], vec![3.0 * dy.item(), 4.0 * dy.item()]))]
        });
        let found = tape.backward(loss);
        params.collect(&vars, found);
        let mut optimizer = Optimizer::alone(&mut params);
        let norm = optimizer.step(&mut params, &config, 0, 1);
        assert_eq!(norm.item(), 5.0);
        // At the first step the corrected moments make the update the sign of the gradient.
        let expected = 0.5 * (1.0 - config.lr * 0.01) - config.lr;
        let moved = params.tensor(w);
        moved.data().iter().for_each(|&w| assert!((f64::from(w) - expected).abs() < 1e-6, "{w} {expected}"));
        // decay 1/10 at step 0: the average is mostly the new weight.
        assert!((f64::from(optimizer.average().data()[0]) - (0.05 + 0.9 * expected)).abs() < 1e-6);
    }

    #[test]
    fn the_cosine_begins_where_the_warm_up_ends() {
        let config = OptimConfig { warmup: 0.5, final_lr: 0.1, ..OptimConfig::default() };
        let rate = learning_rate(&config, 75, 100) / config.lr;
        assert!((rate - 0.55).abs() < 1e-12, "half of the way down: {rate}");
    }

    #[test]
    fn weights_decay_at_the_rate_of_their_step() {
        let config = OptimConfig { warmup: 0.0, weight_decay: 0.5, lr: 0.1, ..OptimConfig::default() };
        let mut table = Table::default();
        let decaying = table.add("w", &[3], Init::Constant(1.0), true);
        let other = table.add("b", &[3], Init::Constant(1.0), false);
        let weights = table.draw(Rng::new(0));
        let mut params = Params::new(table, weights).with_gradients();
        Optimizer::alone(&mut params).step(&mut params, &config, 90, 100);
        let kept = (1.0 - learning_rate(&config, 90, 100) * 0.5) as f32;
        assert!(kept > 0.99);
        assert_eq!(
            (params.tensor(decaying).data(), params.tensor(other).data()),
            (&[kept; 3][..], &[1.0; 3][..])
        );
    }

    /// Two weights with gradients, and their optimizer.
    fn two() -> (Params, Optimizer) {
        let mut table = Table::default();
        table.add("w", &[2], Init::Constant(1.0), true);
        let weights = table.draw(Rng::new(0));
        let mut params = Params::new(table, weights).with_gradients();
        let optimizer = Optimizer::alone(&mut params);
        (params, optimizer)
    }

    #[test]
    fn a_copy_of_the_average_is_kept_over_a_step() {
        let (mut params, mut optimizer) = two();
        let config = OptimConfig { warmup: 0.0, weight_decay: 0.5, lr: 0.1, ..OptimConfig::default() };
        let kept = optimizer.average().copied("kept weights");
        optimizer.step(&mut params, &config, 0, 1);
        assert!(kept.data()[0] == 1.0 && optimizer.average().data()[0] < 1.0);
    }

    #[test]
    #[should_panic(expected = "optim: a tensor shares moments or average; drop it, or keep `copied()` of it")]
    fn an_average_that_a_step_would_change_is_not_kept() {
        let (mut params, mut optimizer) = two();
        let _kept = optimizer.average();
        optimizer.step(&mut params, &OptimConfig::default(), 0, 1);
    }

    #[test]
    #[should_panic(expected = "optim: made for 8 weights, given 16")]
    fn the_weights_of_another_model_are_refused() {
        let mut other = Table::default();
        other.add("w", &[9], Init::Constant(1.0), true);
        let weights = other.draw(Rng::new(0));
        let mut params = Params::new(other, weights).with_gradients();
        two().1.step(&mut params, &OptimConfig::default(), 0, 1);
    }
}
