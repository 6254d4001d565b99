//! `scale-engine bench`.

use std::time::Instant;

use serde_json::json;

use super::device;
use crate::config::Config;
use crate::error::Result;
use crate::gpu::{Gpu, guard};
use crate::memory;
use crate::model::Statistics;
use crate::model::condition::Vocabulary;
use crate::model::losses::Examples;
use crate::rng::Rng;
use crate::tensor::Tensor;
use crate::train::Learner;

const EXAMPLE: &str = "\
Example:
  scale-engine bench step --preset s184 --sets 32 --cells 512 --device cuda

Times whole training steps (losses, gradients, AdamW) on made-up cells that lie where the step is computed. The median counts;
the first steps, in which a GPU chooses its algorithms, do not.";

/// Time the engine on this machine
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    Step(Step),
}

/// Time whole training steps
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
struct Step {
    /// Sizes: tiny, s40, s184 or s280
    #[arg(long, default_value = "tiny")]
    preset: String,
    /// B, sets a step
    #[arg(long, default_value_t = 16)]
    sets: usize,
    /// N, cells a set on each side; a step trains B N pairs
    #[arg(long, default_value_t = 32)]
    cells: usize,
    /// G
    #[arg(long, default_value_t = 2000)]
    genes: usize,
    /// Timed steps
    #[arg(long, default_value_t = 20)]
    steps: u64,
    #[command(flatten)]
    device: device::Choice,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Steps before the clock starts.
const WARM: u64 = 3;

/// Runs what was asked for.
pub fn run(args: Args) -> Result<()> {
    let What::Step(step) = args.what;
    guard(|| time_steps(&step))
}

fn time_steps(args: &Step) -> Result<()> {
    memory::keep(); // as `train` does
    let gpu = args.device.open()?;
    let gpu = gpu.as_ref();
    let set = [format!("data.sets={}", args.sets), format!("data.cells={}", args.cells)];
    let config = Config::load(Some(&args.preset), None, &set)?;
    let statistics = Statistics { mean: vec![0.1; args.genes], std: vec![0.1; args.genes] };
    // The vocabularies that the presets' sizes are told for.
    let vocabulary = Vocabulary { cell_types: 50, perturbations: 1200, batches: 14 };
    let mut learner = Learner::new(&config, &vocabulary, statistics, gpu);
    let examples = examples(args, gpu);
    let wait = || gpu.inspect(|gpu| gpu.wait());
    for k in 0..WARM {
        learner.gradients(&examples, k);
        learner.update(k);
    }
    wait();
    let mut took: Vec<f64> = (WARM..WARM + args.steps.max(1))
        .map(|k| {
            let began = Instant::now();
            learner.gradients(&examples, k);
            learner.update(k);
            wait();
            began.elapsed().as_secs_f64()
        })
        .collect();
    took.sort_by(f64::total_cmp);
    let median = took[took.len() / 2];
    let pairs = args.sets * args.cells;
    let used = gpu.map(|gpu| {
        let (free, total) = gpu.memory();
        (total - free) as f64 / (1u64 << 30) as f64
    });
    if args.json {
        let figures = json!({
            "preset": args.preset, "sets": args.sets, "cells": args.cells, "genes": args.genes, "pairs": pairs,
            "device": gpu.map_or("cpu".into(), Gpu::name), "storage": gpu.map(Gpu::real), "weights": learner.params.count(),
            "steps": took.len(), "median_s": median, "min_s": took[0], "max_s": took[took.len() - 1],
            "pairs_per_s": pairs as f64 / median, "memory_gib": used,
        });
        println!("{figures}");
        return Ok(());
    }
    let device = gpu.map_or("CPU".into(), |gpu| format!("{}, {:?}", gpu.name(), gpu.real()));
    println!("{} ({} weights), {pairs} pairs a step, {device}", args.preset, learner.params.count());
    println!(
        "{:.2} ms a step, {:.0} pairs/s (median of {})",
        1e3 * median,
        pairs as f64 / median,
        took.len()
    );
    if let Some(used) = used {
        println!("{used:.1} GiB of the GPU's memory in use");
    }
    Ok(())
}

/// Cells of which four genes in five are zero, where the step is computed.
fn examples(args: &Step, gpu: Option<&Gpu>) -> Examples {
    let (b, n, g) = (args.sets, args.cells, args.genes);
    let rng = Rng::new(1);
    let cell = |i: u64| if rng.at(0).uniform(i) < 0.2 { rng.at(1).uniform(i) } else { 0.0 };
    let cells = Tensor::new(&[2 * b, n, g], (0..(2 * b * n * g) as u64).map(cell).collect());
    let cells = gpu.map_or(cells.clone(), |gpu| cells.to_gpu(gpu, "cells", gpu.real()));
    let ids: Vec<[u32; 3]> = (0..b as u32).map(|i| [i % 50, 1 + i % 1199, i % 14]).collect();
    Examples::new(cells, None, &ids)
}
