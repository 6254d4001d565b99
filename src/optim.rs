//! AdamW over the flat buffers (Loshchilov & Hutter 2019), its schedule, the clip and the averaged weights.

use std::f64::consts::PI;

use crate::config::OptimConfig;
use crate::gpu::{PACK, Real};
use crate::ops::adamw::{self, Decay, Rates, State};
use crate::params::Params;
use crate::tensor::Tensor;

/// Moments and averaged weights: flat, f32, where the weights lie.
pub struct Optimizer {
    /// First moment.
    pub m: Tensor,
    /// Second moment.
    pub v: Tensor,
    /// Averaged weights, used for prediction.
    pub ema: Tensor,
    decay: Decay,
}

impl Optimizer {
    /// Zero moments; the average starts at the weights.
    pub fn new(params: &Params) -> Self {
        let zeros = || Tensor::zeros(&[params.len()]);
        let weights = Tensor::new(&[params.len()], params.weights().to_host().into_vec());
        Optimizer::resume(params, [zeros(), zeros()], weights)
    }

    /// As a checkpoint left it: moments and averaged weights, flat on the host.
    pub fn resume(params: &Params, [m, v]: [Tensor; 2], ema: Tensor) -> Self {
        let mut bytes = vec![0u8; params.len() / PACK];
        for entry in params.entries() {
            let range = entry.range();
            bytes[range.start / PACK..range.end.div_ceil(PACK)].fill(u8::from(entry.decay));
        }
        let Some(gpu) = params.gpu() else {
            return Optimizer { m, v, ema, decay: Decay::Host(bytes) };
        };
        Optimizer {
            m: m.to_gpu(gpu, "first moments", Real::F32),
            v: v.to_gpu(gpu, "second moments", Real::F32),
            ema: ema.to_gpu(gpu, "averaged weights", Real::F32),
            decay: Decay::Device(gpu.upload("where weights decay", &bytes)),
        }
    }

    /// Step k (from 0) of `steps`: clips the gradient, moves the weights, updates the average. Returns the norm before the clip,
    /// [1], where the weights lie: reading it waits for the step.
    pub fn step(&mut self, params: &mut Params, config: &OptimConfig, k: u64, steps: u64) -> Tensor {
        let clip = adamw::clip(params.grads(), config.clip);
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
        let flat = params.update();
        let state = State { weights: flat.weights, m: &mut self.m, v: &mut self.v, average: &mut self.ema };
        adamw::update(state, flat.grads, &self.decay, &clip, rates);
        clip.slice(0..1)
    }
}

/// Root of the gradients' sum of squares, [1], where they lie.
pub fn global_norm(grads: &Tensor) -> Tensor {
    adamw::clip(grads, f64::INFINITY).slice(0..1)
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
    use crate::params::Init;
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
        let mut params = Params::default();
        let w = params.add("w", &[1, 2], Init::Constant(0.5), true, Rng::new(0));
        let mut tape = Tape::new();
        let vars = params.bind(&mut tape);
        // loss = 3 a + 4 b: the gradient (3, 4) has norm 5 and is clipped to (0.6, 0.8).
        let x = tape.value(vars[w]).data().to_vec();
        let loss = tape.record(&[vars[w]], Tensor::scalar(3.0 * x[0] + 4.0 * x[1]), |dy| {
            vec![Some(Tensor::new(&[1, 2], vec![3.0 * dy.item(), 4.0 * dy.item()]))]
        });
        let found = tape.backward(loss);
        params.collect(&vars, found);
        let mut optimizer = Optimizer::new(&params);
        let norm = optimizer.step(&mut params, &config, 0, 1);
        assert_eq!(norm.item(), 5.0);
        // At the first step the corrected moments make the update the sign of the gradient.
        let expected = 0.5 * (1.0 - config.lr * 0.01) - config.lr;
        let moved = params.tensor(w);
        moved.data().iter().for_each(|&w| assert!((f64::from(w) - expected).abs() < 1e-6, "{w} {expected}"));
        // decay 1/10 at step 0: the average is mostly the new weight.
        assert!((f64::from(optimizer.ema.data()[0]) - (0.05 + 0.9 * expected)).abs() < 1e-6);
    }
}
