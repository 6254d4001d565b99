//! AdamW over the flat buffers (Loshchilov & Hutter 2019), its schedule, the clip and the averaged weights.

use std::f64::consts::PI;

use rayon::prelude::*;

use crate::config::OptimConfig;
use crate::params::Params;

/// Numbers a thread takes at once: fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Moments and averaged weights, flat as the weights are.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    /// First moment.
    pub m: Vec<f32>,
    /// Second moment.
    pub v: Vec<f32>,
    /// Averaged weights, used for prediction.
    pub ema: Vec<f32>,
}

impl Optimizer {
    /// Zero moments; the average starts at the weights.
    pub fn new(params: &Params) -> Self {
        Optimizer { m: vec![0.0; params.len()], v: vec![0.0; params.len()], ema: params.weights().to_vec() }
    }

    /// Step k (from 0) of `steps`: clips the gradient, moves the weights, updates the average. Returns the norm before the clip.
    pub fn step(&mut self, params: &mut Params, config: &OptimConfig, k: u64, steps: u64) -> f64 {
        let norm = global_norm(params.grads());
        let clip = (config.clip / (norm + 1e-6)).min(1.0) as f32;
        let rate = learning_rate(config, k, steps);
        let (b1, b2) = (config.beta1, config.beta2);
        let correct = |beta: f64| 1.0 - beta.powf((k + 1) as f64);
        let step = (rate / correct(b1)) as f32;
        let root = (1.0 / correct(b2).sqrt()) as f32;
        let ema = config.ema.min((1 + k) as f64 / (10 + k) as f64) as f32;
        let (b1, b2, eps) = (b1 as f32, b2 as f32, config.eps as f32);
        let shrink = (1.0 - rate * config.weight_decay) as f32;

        let (weights, grads, entries) = params.update();
        for entry in entries {
            let range = entry.range();
            let shrink = if entry.decay { shrink } else { 1.0 };
            (&mut weights[range.clone()], &grads[range.clone()])
                .into_par_iter()
                .zip(&mut self.m[range.clone()])
                .zip((&mut self.v[range.clone()], &mut self.ema[range]))
                .with_min_len(CHUNK)
                .for_each(|(((w, g), m), (v, average))| {
                    let g = g * clip;
                    *m = b1 * *m + (1.0 - b1) * g;
                    *v = b2 * *v + (1.0 - b2) * g * g;
                    *w = shrink * *w - step * *m / (v.sqrt() * root + eps);
                    *average = ema * *average + (1.0 - ema) * *w;
                });
        }
        norm
    }
}

/// Root of the sum of squares, summed in f64 in a fixed order.
pub fn global_norm(grads: &[f32]) -> f64 {
    let square = |chunk: &[f32]| chunk.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let sums: Vec<f64> = grads.par_chunks(CHUNK).map(square).collect();
    sums.iter().sum::<f64>().sqrt()
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
        assert!((norm - 5.0).abs() < 1e-12);
        // At the first step the corrected moments make the update the sign of the gradient.
        let expected = 0.5 * (1.0 - config.lr * 0.01) - config.lr;
        params
            .weights()
            .iter()
            .for_each(|&w| assert!((f64::from(w) - expected).abs() < 1e-6, "{w} {expected}"));
        // decay 1/10 at step 0: the average is mostly the new weight.
        assert!((f64::from(optimizer.ema[0]) - (0.05 + 0.9 * expected)).abs() < 1e-6);
    }
}
