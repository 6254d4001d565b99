//! `scale-engine bench`.

use serde_json::json;

use super::device;
use crate::error::Result;
use crate::gpu::{Gpu, guard};
use crate::profile::{MadeUp, Sizes};

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
    #[command(flatten)]
    sizes: Sizes,
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
    let gpu = args.device.open()?;
    let gpu = gpu.as_ref();
    let mut made = MadeUp::new(&args.sizes, gpu)?;
    made.seconds_of(0..WARM);
    let mut took = made.seconds_of(WARM..WARM + args.steps.max(1));
    took.sort_by(f64::total_cmp);
    let median = took[took.len() / 2];
    let Sizes { preset, sets, cells, genes } = &args.sizes;
    let (pairs, weights) = (sets * cells, made.learner.params.count());
    let used = gpu.map(|gpu| {
        let (free, total) = gpu.memory();
        (total - free) as f64 / (1u64 << 30) as f64
    });
    if args.json {
        let figures = json!({
            "preset": preset, "sets": sets, "cells": cells, "genes": genes, "pairs": pairs,
            "device": gpu.map_or("cpu".into(), Gpu::name), "storage": gpu.map(Gpu::real), "weights": weights,
            "steps": took.len(), "median_s": median, "min_s": took[0], "max_s": took[took.len() - 1],
            "pairs_per_s": pairs as f64 / median, "memory_gib": used,
        });
        println!("{figures}");
        return Ok(());
    }
    let device = gpu.map_or("CPU".into(), |gpu| format!("{}, {:?}", gpu.name(), gpu.real()));
    println!("{preset} ({weights} weights), {pairs} pairs a step, {device}");
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
