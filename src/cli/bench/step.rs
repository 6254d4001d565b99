//! `bench step` and `bench predict`: the whole model on made-up cells that lie where it is computed.

use std::time::Instant;

use serde_json::json;

use crate::cli::device;
use crate::config::Config;
use crate::error::Result;
use crate::gpu::Gpu;
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

const PREDICT_EXAMPLE: &str = "\
Example:
  scale-engine bench predict --preset s184 --sets 32 --cells 512 --device cuda

Times what a control cell costs to become a perturbed one: encoder, flow, decoder, once each, with cells and answer where they
are computed. B N cells are predicted at a time.";

/// Time whole training steps
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
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

/// Time predictions
#[derive(clap::Args)]
#[command(after_help = PREDICT_EXAMPLE)]
pub struct Predict {
    #[command(flatten)]
    of: Args,
}

/// Turns before the clock starts.
const WARM: u64 = 3;

/// Times training steps.
pub fn steps(args: &Args) -> Result<()> {
    let gpu = args.device.open()?;
    let mut learner = learner(args, gpu.as_ref())?;
    let examples = examples(args, gpu.as_ref(), 2 * args.sets);
    let took = time(args.steps, gpu.as_ref(), |k| {
        learner.gradients(&examples, k);
        learner.update(k);
    });
    print(args, "step", &took, learner.params.count(), gpu.as_ref());
    Ok(())
}

/// Times predictions.
pub fn predictions(Predict { of: args }: &Predict) -> Result<()> {
    let gpu = args.device.open()?;
    let learner = learner(args, gpu.as_ref())?;
    let Examples { cells, tokens, .. } = examples(args, gpu.as_ref(), args.sets);
    let starts: Vec<Rng> = (0..args.sets as u64).map(|set| Rng::new(set + 1)).collect();
    let took = time(args.steps, gpu.as_ref(), |_| {
        learner.model.generate(&learner.params, &cells, None, &tokens, 1, &starts);
    });
    print(args, "prediction", &took, learner.params.count(), gpu.as_ref());
    Ok(())
}

fn learner(args: &Args, gpu: Option<&Gpu>) -> Result<Learner> {
    memory::keep(); // as `train` does
    let set = [format!("data.sets={}", args.sets), format!("data.cells={}", args.cells)];
    let config = Config::load(Some(&args.preset), None, &set)?;
    let statistics = Statistics { mean: vec![0.1; args.genes], std: vec![0.1; args.genes] };
    // The vocabularies that the presets' sizes are told for.
    let vocabulary = Vocabulary { cell_types: 50, perturbations: 1200, batches: 14 };
    Ok(Learner::new(&config, &vocabulary, statistics, gpu))
}

/// Seconds of each turn, sorted; a turn ends when the device is done with it.
fn time(turns: u64, gpu: Option<&Gpu>, mut turn: impl FnMut(u64)) -> Vec<f64> {
    let wait = || gpu.inspect(|gpu| gpu.wait());
    (0..WARM).for_each(&mut turn);
    wait();
    let timed = |k| {
        let began = Instant::now();
        turn(k);
        wait();
        began.elapsed().as_secs_f64()
    };
    let mut took: Vec<f64> = (WARM..WARM + turns.max(1)).map(timed).collect();
    took.sort_by(f64::total_cmp);
    took
}

fn print(args: &Args, what: &str, took: &[f64], weights: usize, gpu: Option<&Gpu>) {
    let median = took[took.len() / 2];
    // A step trains pairs, a prediction makes cells.
    let (many, pairs) = (if what == "step" { "pairs" } else { "cells" }, args.sets * args.cells);
    let used = gpu.map(|gpu| {
        let (free, total) = gpu.memory();
        (total - free) as f64 / (1u64 << 30) as f64
    });
    if args.json {
        let mut figures = json!({
            "preset": args.preset, "sets": args.sets, "cells": args.cells, "genes": args.genes, "pairs": pairs,
            "device": gpu.map_or("cpu".into(), Gpu::name), "storage": gpu.map(Gpu::real), "weights": weights,
            "steps": took.len(), "median_s": median, "min_s": took[0], "max_s": took[took.len() - 1],
            "memory_gib": used,
        });
        figures[format!("{many}_per_s")] = json!(pairs as f64 / median);
        println!("{figures}");
        return;
    }
    let device = gpu.map_or("CPU".into(), |gpu| format!("{}, {:?}", gpu.name(), gpu.real()));
    println!("{} ({weights} weights), {pairs} {many} a {what}, {device}", args.preset);
    println!(
        "{:.2} ms a {what}, {:.0} {many}/s (median of {})",
        1e3 * median,
        pairs as f64 / median,
        took.len()
    );
    if let Some(used) = used {
        println!("{used:.1} GiB of the GPU's memory in use");
    }
}

/// So many sets of cells of which four genes in five are zero, where the step is computed; conditions of B sets.
fn examples(args: &Args, gpu: Option<&Gpu>, sets: usize) -> Examples {
    let (n, g) = (args.cells, args.genes);
    let rng = Rng::new(1);
    let cell = |i: u64| if rng.at(0).uniform(i) < 0.2 { rng.at(1).uniform(i) } else { 0.0 };
    let cells = Tensor::new(&[sets, n, g], (0..(sets * n * g) as u64).map(cell).collect());
    let cells = gpu.map_or(cells.clone(), |gpu| cells.to_gpu(gpu, "cells", gpu.real()));
    let ids: Vec<[u32; 3]> = (0..args.sets as u32).map(|i| [i % 50, 1 + i % 1199, i % 14]).collect();
    Examples::new(cells, None, &ids)
}
