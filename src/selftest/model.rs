//! The whole model on a device, compared with the CPU: the loss, every gradient, some steps of training. Then steps of training
//! twice, the second time each as one piece of the device's work.

use crate::collective::Ranks;
use crate::config::Config;
use crate::error::Result;
use crate::gpu::{Gpu, Real};
use crate::model::Statistics;
use crate::model::condition::Vocabulary;
use crate::model::losses::Examples;
use crate::rng::Rng;
use crate::tensor::Tensor;
use crate::train::Learner;

use super::Check;
use super::case::{error, wide};

/// Sizes that the emulator can handle, or those of preset tiny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// A few thousand weights.
    Small,
    /// Two million weights.
    Tiny,
}

impl Size {
    /// B, N, G.
    fn batch(self) -> [usize; 3] {
        match self {
            Size::Small => [2, 9, 97],
            Size::Tiny => [4, 64, 500],
        }
    }

    fn config(self, steps: u64) -> Result<Config> {
        let small = [
            "encoder.patch=32",
            "encoder.width=64",
            "encoder.heads=1",
            "encoder.ffn=40",
            "flow.width=64",
            "flow.layers=1",
            "flow.heads=1",
            "flow.ffn=40",
            "decoder.width=40",
            "conditions.width=24",
        ];
        let steps = format!("train.steps={steps}");
        let common = ["flow.start=shifted", "loss.w_endpoint=0.5", &steps];
        let set: Vec<String> = match self {
            Size::Small => small.iter().chain(&common).map(|s| s.to_string()).collect(),
            Size::Tiny => common.iter().map(|s| s.to_string()).collect(),
        };
        Config::load(Some("tiny"), None, &set)
    }
}

/// A model in training on made-up cells.
struct Training {
    learner: Learner,
    examples: Examples,
}

impl Training {
    fn new(size: Size, steps: u64, gpu: Option<&Gpu>) -> Result<Training> {
        let ([b, n, g], rng) = (size.batch(), Rng::new(11));
        let vocabulary = Vocabulary { cell_types: 3, perturbations: 5, batches: 2, features: None };
        // About a third of a cell's genes are zero, as in real cells.
        let cell = |i: u64| (0.1 + 0.2 * rng.at(0).normal(i)).max(0.0);
        let statistics = Statistics { mean: vec![0.15; g], std: vec![0.12; g] };
        let learner = Learner::new(&size.config(steps)?, &vocabulary, statistics, gpu)?;
        let cells = Tensor::new(&[2 * b, n, g], (0..(2 * b * n * g) as u64).map(cell).collect());
        let effect = Tensor::new(&[b, g], (0..(b * g) as u64).map(|i| 0.05 * rng.at(2).normal(i)).collect());
        let ids: Vec<[u32; 3]> = (0..b as u32).map(|i| [i % 3, 1 + i % 4, i % 2]).collect();
        Ok(Training { learner, examples: Examples::new(cells, Some(effect), &ids) })
    }

    /// The loss of step k; leaves its gradients in the parameters.
    fn loss(&mut self, k: u64) -> f32 {
        self.learner.gradients(&self.examples, k).loss.item()
    }

    /// The losses of `steps` steps of training, op by op.
    fn train(&mut self, steps: u64) -> Vec<f32> {
        let step = |k| {
            let loss = self.loss(k);
            let Learner { model, params, optimizer, .. } = &mut self.learner;
            optimizer.step(params, &model.config().optim, k, steps);
            loss
        };
        (0..steps).map(step).collect()
    }

    /// The same, each step as one piece of the device's work.
    fn train_in_pieces(&mut self, steps: u64) -> Result<Vec<f32>> {
        let ranks = Ranks::alone();
        (0..steps).map(|k| Ok(self.learner.step(&self.examples, k, &ranks)?.0.loss.item())).collect()
    }

    /// What the first weights predict from the first half of the cells, in two steps.
    fn predict(&self) -> Vec<f64> {
        let Examples { cells, tokens, .. } = &self.examples;
        let b = cells.shape()[0] / 2;
        let starts: Vec<Rng> = (0..b as u64).map(Rng::new).collect();
        let Learner { model, params, .. } = &self.learner;
        let made =
            model.generate(params, &cells.slice(0..b), self.examples.effect.as_ref(), tokens, 2, &starts);
        wide(made.to_host().data())
    }

    fn weights(&self) -> Tensor {
        self.learner.params.weights().to_host()
    }
}

/// How far a device's losses, predicted cells and gradients may be from the CPU's.
struct Bounds {
    loss: f64,
    cells: f64,
    gradient: f64,
    after_steps: f64,
}

impl Bounds {
    /// f32: the bounds that the CPU itself is held to against the twin. bf16: every number that passes between ops is rounded to
    /// 2^-9 of itself; some thirty roundings in a row make about 1 % of a loss and, there and back, a few per cent of a gradient.
    fn of(real: Real) -> Bounds {
        match real {
            Real::F32 => Bounds { loss: 2e-5, cells: 1e-4, gradient: 1e-3, after_steps: 1e-3 },
            Real::Bf16 => Bounds { loss: 1e-2, cells: 2e-2, gradient: 5e-2, after_steps: 5e-2 },
        }
    }
}

fn relative(found: f32, truth: f32) -> f64 {
    (f64::from(found) - f64::from(truth)).abs() / f64::from(truth).abs()
}

/// Compares the device with the CPU: checks, each with its worst error.
///
/// # Errors
/// Steps that [`Config::validate`] refuses.
pub fn beside_cpu(gpu: &Gpu, size: Size, steps: u64) -> Result<Vec<Check>> {
    let bounds = Bounds::of(gpu.real());
    let (mut host, mut device) = (Training::new(size, steps, None)?, Training::new(size, steps, Some(gpu))?);
    let check = |name: &str, output: String, error: f64, allowed: f64, rows: usize| Check {
        name: name.into(),
        real: gpu.real(),
        rows,
        output,
        error,
        allowed,
    };
    let (truth, found) = (host.loss(0), device.loss(0));
    let mut made = vec![check("model loss", format!("{truth:.4}"), relative(found, truth), bounds.loss, 1)];
    let (name, off) = worst_gradient(&host.learner, &device.learner);
    let count = host.learner.params.entries().len();
    made.push(check("model gradients", name, off, bounds.gradient, count));

    let off = error(&device.predict(), &host.predict());
    made.push(check("model prediction", "cells".into(), off, bounds.cells, 1));

    let (truth, found) = (host.train(steps), device.train(steps));
    let off = found.iter().zip(&truth).map(|(&f, &t)| relative(f, t)).enumerate();
    let (at, off) =
        off.fold((0, 0.0f64), |worst, (i, e)| if e.is_nan() || e > worst.1 { (i, e) } else { worst });
    let what = format!("step {at}: {:.4} and {:.4}", found[at], truth[at]);
    made.push(check("model training", what, off, bounds.after_steps, steps as usize));
    Ok(made)
}

/// Training op by op and in pieces must give the same bits. `second`: the same device, opened again for work as in training.
///
/// # Errors
/// As [`beside_cpu`]; a device that failed.
pub fn in_pieces(gpu: &Gpu, second: &Gpu, size: Size, steps: u64) -> Result<Check> {
    let mut once = Training::new(size, steps, Some(gpu))?;
    let losses = once.train(steps);
    // Another algorithm would round differently.
    second.adopt(&gpu.choices());
    let mut again = Training::new(size, steps, Some(second))?;
    let pieces = again.train_in_pieces(steps)?;
    let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
    let same = bits(&losses) == bits(&pieces) && bits(again.weights().data()) == bits(once.weights().data());
    let output = match second.block() {
        Some(bytes) if second.went_as_laid_out() => {
            format!("a step's buffers in {:.1} MiB", bytes as f64 / (1 << 20) as f64)
        }
        _ => "a step did not run as it was laid out".into(),
    };
    let error = if same && second.went_as_laid_out() { 0.0 } else { 1.0 };
    let (name, rows) = ("graph, the same bits".into(), steps as usize);
    Ok(Check { name, real: gpu.real(), rows, output, error, allowed: 0.0 })
}

/// The parameter whose gradient on the device is farthest from the host's, and how far.
fn worst_gradient(host: &Learner, device: &Learner) -> (String, f64) {
    let (told, found) = (host.params.grads().to_host(), device.params.grads().to_host());
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    let whole = norm(&wide(told.data()));
    let mut worst = (String::new(), 0.0f64);
    for entry in host.params.entries() {
        let (found, told) = (wide(&found.data()[entry.range()]), wide(&told.data()[entry.range()]));
        // A gradient that is next to nothing compared with the others is judged on their scale.
        let size = norm(&told);
        let off = error(&found, &told) * (size / size.max(1e-4 * whole));
        if off.is_nan() || off > worst.1 {
            worst = (entry.name.clone(), off);
        }
    }
    worst
}
