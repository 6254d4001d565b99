//! `bench step` and `bench predict`: the whole model on made-up cells, placed where it is computed.

use serde_json::json;

use crate::cli::device;
use crate::error::Result;
use crate::gpu::Gpu;
use crate::model::losses::Examples;
use crate::profile::{MOST_REPEATS, MadeUp, Sizes, Times};
use crate::rng::Rng;
use crate::train::Learner;

const EXAMPLE: &str = "\
Example:
  scale-engine bench step --preset s184 --sets 32 --cells 512 --device cuda

Times whole training steps (losses, gradients, AdamW) on made-up cells that are already in the memory of the device. Reports the median; \
the first steps, in which a GPU chooses its algorithms, are left out.";

const PREDICT_EXAMPLE: &str = "\
Example:
  scale-engine bench predict --preset s184 --sets 32 --cells 512 --device cuda

Times predictions: encoder, flow and decoder, once each, with input and output in the memory of the device. Each of the --steps \
predictions has B x N control cells (--sets x --cells).";

/// Time whole training steps
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    sizes: Sizes,
    /// Timed steps
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=MOST_REPEATS))]
    steps: u64,
    #[command(flatten)]
    device: device::Choice,
    /// Print the figures as JSON
    #[arg(long)]
    json: bool,
}

/// Time predictions
#[derive(Debug, clap::Args)]
#[command(after_help = PREDICT_EXAMPLE)]
pub struct Predict {
    #[command(flatten)]
    pub of: Args,
}

/// What is timed of the whole model.
pub struct Work {
    /// One turn of it.
    pub name: &'static str,
    /// What it handles sets x cells of.
    pub many: &'static str,
    /// Of its rate.
    pub unit: &'static str,
    /// Times so many turns.
    pub time: fn(&Sizes, u64, Option<&Gpu>) -> Result<Timed>,
}

/// Times of the turns, and the number of weights.
type Timed = (Times, usize);

/// A step trains pairs of a control and a perturbed cell.
pub const STEP: Work = Work { name: "step", many: "pairs", unit: "pairs/s", time: time_steps };

/// A prediction makes cells.
pub const PREDICTION: Work =
    Work { name: "prediction", many: "cells", unit: "cells/s", time: time_predictions };

/// Times as many turns of it as asked for and prints their median.
pub fn run(work: &Work, args: &Args) -> Result<()> {
    let gpu = args.device.open()?;
    let (took, weights) = (work.time)(&args.sizes, args.steps, gpu.as_ref())?;
    print(args, work, &took, weights, gpu.as_ref());
    Ok(())
}

fn time_steps(sizes: &Sizes, steps: u64, gpu: Option<&Gpu>) -> Result<Timed> {
    let mut made = MadeUp::new(sizes, gpu)?;
    Ok((made.times(steps)?, made.learner.params.table().count()))
}

fn time_predictions(sizes: &Sizes, turns: u64, gpu: Option<&Gpu>) -> Result<Timed> {
    // Made on the host, so that a device holds only what predicting needs: no moments, no gradients, no cells to compare with; and
    // of weights in two halves, the upper.
    let MadeUp { learner: Learner { model, params, .. }, examples } = MadeUp::to_predict(sizes)?;
    let (Examples { cells, tokens, .. }, params) = (examples, params.to_predict());
    let controls = cells.slice(0..sizes.sets);
    let (model, params, controls) = match gpu {
        Some(gpu) => {
            (model.to_gpu(gpu), params.to_gpu(gpu).to_predict(), controls.to_gpu(gpu, "cells", gpu.real()))
        }
        None => (model, params, controls),
    };
    let starts: Vec<Rng> = (0..sizes.sets as u64).map(|set| Rng::new(set + 1)).collect();
    let took = Times::of_turns(turns, gpu, |_| {
        model.generate(&params, &controls, None, &tokens, 1, &starts);
        Ok(())
    })?;
    Ok((took, params.table().count()))
}

fn print(args: &Args, work: &Work, took: &Times, weights: usize, gpu: Option<&Gpu>) {
    let Sizes { preset, sets, cells, genes } = &args.sizes;
    let median = took.median();
    let (Work { name, many, unit, .. }, pairs) = (work, sets * cells);
    let used = gpu.map(|gpu| gpu.reserved() as f64 / (1u64 << 30) as f64);
    if args.json {
        let mut figures = json!({
            "preset": preset, "sets": sets, "cells": cells, "genes": genes,
            "device": gpu.map_or("cpu".into(), Gpu::name), "precision": gpu.map(Gpu::real), "weights": weights,
            "steps": took.turns(), "median_s": median, "min_s": took.least(), "max_s": took.most(),
            "memory_gib": used,
        });
        figures[format!("{many}_per_s")] = json!(pairs as f64 / median);
        println!("{figures}");
        return;
    }
    let device = gpu.map_or("cpu".into(), |gpu| format!("{}, {}", gpu.name(), gpu.real().name()));
    println!("{preset} ({weights} weights), {pairs} {many} per {name}, {device}");
    println!(
        "{:.2} ms per {name}, {:.0} {unit} (median of {})",
        1e3 * median,
        pairs as f64 / median,
        took.turns()
    );
    if let Some(used) = used {
        println!("{used:.1} GiB of GPU memory used at peak");
    }
}
