//! Where a training step's time goes: op by op, compared with what this machine can do.

use serde::Serialize;

use crate::error::Result;
use crate::gpu::{Gpu, Peak};
use crate::laps::{Lap, Laps, Pass};

mod ceilings;
mod made_up;
mod times;

pub use ceilings::Ceilings;
pub use made_up::{MOST_REPEATS, MadeUp, Sizes, positive, repeats, vocabulary};
pub use times::Times;

/// What a step is made of.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    /// The device, or "cpu".
    pub device: String,
    /// How it stores activations.
    pub precision: Option<crate::gpu::Real>,
    /// Threads of the host.
    pub threads: usize,
    /// What was trained.
    pub sizes: Sizes,
    /// Number of weights.
    pub weights: usize,
    /// Pairs of a control and a perturbed cell per step.
    pub pairs: usize,
    /// Median seconds of a step whose ops are not timed, as `bench step` tells it.
    pub step_s: f64,
    /// Mean seconds of a step whose ops are timed: what the rows add up to. On a device its kernels are queued one by one with two
    /// events each, not as one graph.
    pub watched_s: f64,
    /// What the same machine reached just before.
    pub ceilings: Ceilings,
    /// Share of the watched step in which the device was idle, larger than in a step that is not watched; `None` on the CPU.
    pub idle: Option<f64>,
    /// Memory of a device.
    pub memory: Option<Memory>,
    /// Ops, the slowest first.
    pub rows: Vec<Row>,
    /// Kernels of a device, the slowest first.
    pub kernels: Vec<Kernel>,
}

/// What a step holds of a device's memory: requested bytes, without the matrix products' workspace.
#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    /// Between steps: weights, gradients, moments, average, the cells of a batch.
    pub between: u64,
    /// What the forward pass leaves for the backward pass.
    pub kept: u64,
    /// The most held at any time.
    pub peak: Peak,
    /// The block in which a step's buffers are laid out.
    pub block: usize,
}

/// An op in one direction, over a step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The op's file.
    pub op: String,
    /// Shape of its value, if the op's rows are told apart by it.
    pub shape: Vec<usize>,
    /// Forward, backward or update.
    pub pass: Pass,
    /// Calls per step.
    pub calls: f64,
    /// Seconds per step.
    pub seconds: f64,
    /// Share of the watched step.
    pub share: f64,
    /// Bytes that must be moved per step: inputs and outputs, once each.
    pub bytes: f64,
    /// Multiplications and additions per step, for ops that are made of them.
    pub flops: f64,
    /// Bytes that must be moved per second, in GB.
    pub gb_per_s: f64,
    /// The same as a share of the copy ceiling.
    pub of_copy: f64,
    /// For ops that are made of arithmetic.
    pub tflop_per_s: Option<f64>,
    /// The same as a share of the matrix product ceiling.
    pub of_matmul: Option<f64>,
}

/// A kernel over a step.
#[derive(Clone, Debug, Serialize)]
pub struct Kernel {
    /// Its name at launch; a matrix product with its sizes.
    pub name: String,
    /// Launches per step.
    pub launches: f64,
    /// Seconds per step.
    pub seconds: f64,
    /// Share of the watched step.
    pub share: f64,
    /// Bytes and multiplications and additions per step, as its ops count them; none if it shares an op with other kernels.
    pub work: Option<[f64; 2]>,
}

impl Kernel {
    fn add(&mut self, more: &Kernel) {
        self.launches += more.launches;
        self.seconds += more.seconds;
        self.share += more.share;
        self.work = self.work.zip(more.work).map(|([b, f], [more_b, more_f])| [b + more_b, f + more_f]);
    }
}

/// Times `steps` steps unwatched and as many watched, on made-up cells.
///
/// # Errors
/// Sizes that cannot run, or do not fit in memory.
///
/// # Panics
/// If `steps` is 0.
pub fn profile(sizes: &Sizes, steps: u64, gpu: Option<&Gpu>) -> Result<Profile> {
    assert!(steps > 0, "profile: no steps");
    let ceilings = Ceilings::measure(gpu);
    let mut made = MadeUp::new(sizes, gpu)?;
    let step_s = made.times(steps)?.median();
    let (between, block) = (gpu.map(Gpu::held), gpu.and_then(Gpu::block).unwrap_or(0));
    gpu.inspect(|gpu| gpu.forget_peak());
    if let Some(gpu) = gpu {
        gpu.watch(true);
    }
    let laps = Laps::start(gpu);
    made.learner.laps = Some(laps.clone());
    for k in 0..steps {
        laps.skip();
        made.step(k)?;
        gpu.inspect(|gpu| gpu.wait());
    }
    if let Some(gpu) = gpu {
        gpu.watch(false);
    }
    made.learner.laps = None;
    let laps = laps.end();
    let watched: f64 = laps.iter().map(|lap| lap.seconds).sum();
    let memory = gpu.zip(between).map(|(gpu, between)| {
        let kept = laps.iter().rev().find(|lap| lap.pass == Pass::Forward).map_or(between, |lap| lap.held);
        Memory { between, kept: kept - between, peak: gpu.peak(), block }
    });
    let launched: f64 = laps.iter().flat_map(|lap| &lap.kernels).map(|(_, seconds)| seconds).sum();
    Ok(Profile {
        device: gpu.map_or("cpu".into(), Gpu::name),
        precision: gpu.map(Gpu::real),
        threads: rayon::current_num_threads(),
        sizes: sizes.clone(),
        weights: made.learner.params.table().count(),
        pairs: sizes.sets * sizes.cells,
        step_s,
        watched_s: watched / steps as f64,
        memory,
        idle: gpu.map(|_| (1.0 - launched / watched).max(0.0)),
        rows: rows(&laps, steps, watched, &ceilings),
        kernels: kernels(&laps, steps, watched),
        ceilings,
    })
}

fn rows(laps: &[Lap], steps: u64, watched: f64, ceilings: &Ceilings) -> Vec<Row> {
    let mut sums: Vec<(Lap, u64)> = Vec::new();
    for lap in laps {
        let same =
            |(sum, _): &&mut (Lap, u64)| (&sum.op, &sum.shape, sum.pass) == (&lap.op, &lap.shape, lap.pass);
        match sums.iter_mut().find(same) {
            Some((sum, calls)) => {
                sum.seconds += lap.seconds;
                sum.bytes += lap.bytes;
                sum.flops += lap.flops;
                *calls += 1;
            }
            None => sums.push((lap.clone(), 1)),
        }
    }
    let row = |(sum, calls): (Lap, u64)| {
        let gb_per_s = sum.bytes as f64 / sum.seconds / 1e9;
        let tflop_per_s = (sum.flops > 0).then(|| sum.flops as f64 / sum.seconds / 1e12);
        Row {
            calls: calls as f64 / steps as f64,
            seconds: sum.seconds / steps as f64,
            share: sum.seconds / watched,
            bytes: sum.bytes as f64 / steps as f64,
            flops: sum.flops as f64 / steps as f64,
            gb_per_s,
            of_copy: gb_per_s / ceilings.copy_gb_per_s,
            tflop_per_s,
            of_matmul: tflop_per_s.map(|rate| rate / ceilings.matmul_tflop_per_s),
            op: sum.op,
            shape: sum.shape,
            pass: sum.pass,
        }
    };
    let mut rows: Vec<Row> = sums.into_iter().map(row).collect();
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    rows
}

fn kernels(laps: &[Lap], steps: u64, watched: f64) -> Vec<Kernel> {
    let mut sums: Vec<Kernel> = Vec::new();
    let of_each = |lap| move |kernel| (lap, kernel);
    for (lap, (name, seconds)) in laps.iter().flat_map(|lap| lap.kernels.iter().map(of_each(lap))) {
        let one = Kernel {
            name: name.clone(),
            launches: 1.0 / steps as f64,
            seconds: seconds / steps as f64,
            share: seconds / watched,
            work: (lap.kernels.len() == 1).then(|| [lap.bytes, lap.flops].map(|n| n as f64 / steps as f64)),
        };
        match sums.iter_mut().find(|sum| sum.name == *name) {
            Some(sum) => sum.add(&one),
            None => sums.push(one),
        }
    }
    sums.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    sums
}
