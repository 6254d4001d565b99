//! `scale-engine train`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::device;
use crate::collective::Launch;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::train::{Outcome, Settings, train};

const EXAMPLE: &str = "\
Examples:
  scale-engine train --data DATA --split held_out.toml --out RUN --preset tiny \\
      --steps 1000 --set flow.start=shifted --set optim.lr=0.002
  scale-engine train --data DATA --split held_out.toml --out RUN --resume

RUN then holds config.toml (every setting there is, as used), metrics.jsonl and TensorBoard events (losses, gradient norms, PDCorr), and \
checkpoints/{last,best}.safetensors: the best by the validation part's PDCorr, where the split has one.

Often set:
  recipe=default|paper                  what works on small data, or the paper to the letter
  encoder.kind=llama|attention|mlp
  flow.start=control|gaussian|mixed|shifted
  data.sets=16  data.cells=32           sets a step, cells a set
  optim.lr=0.002
  train.val_every=200  train.checkpoint_every=200 (larger presets: 1000)  train.log_every=10

Several GPUs: --gpus N. Several machines: start a process for each GPU with torchrun, srun or mpirun, which say who is who; their processes meet at MASTER_ADDR, one port above MASTER_PORT. Ranks share the data.sets sets of a step, so their number changes \
nothing but rounding: a run may go on with another. --set optim.shard=true lets each keep its part of the optimizer alone.

Ctrl-C writes a checkpoint and ends with exit code 1; --resume goes on to the same bits as a run that was never stopped.";

/// Train SCALE on a data directory
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Data directory, as `preprocess` writes it
    #[arg(long, value_name = "DATA")]
    data: PathBuf,
    /// Split file in cell-load's TOML
    #[arg(long, value_name = "S.toml")]
    split: PathBuf,
    /// Run directory to write
    #[arg(long, value_name = "RUN")]
    out: PathBuf,
    /// Sizes: tiny, s40, s184 or s280 [default: tiny]
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// Config file (TOML) laid over the preset
    #[arg(long, value_name = "C.toml")]
    config: Option<PathBuf>,
    /// One setting laid over the config, e.g. flow.start=mixed; may be repeated
    #[arg(long = "set", value_name = "SECTION.FIELD=VALUE")]
    set: Vec<String>,
    /// Steps in all (train.steps)
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Seed of weights, sets and noise (train.seed)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    device: device::Choice,
    /// GPUs of this machine that share each step's sets: a number or all
    #[arg(long, value_name = "N|all")]
    gpus: Option<device::Gpus>,
    /// Go on from RUN/checkpoints/last.safetensors with the run's own config; --steps and --set optim.shard=.. may change it
    #[arg(long)]
    resume: bool,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// Trains and prints the outcome.
pub fn run(args: Args) -> Result<()> {
    let (config, shard) = match args.resume {
        true => (None, shard(&args)?),
        false => (Some(config(&args)?), None),
    };
    let launch = Launch::find(&|name| std::env::var(name).ok())?;
    if let Some(launch) = &launch {
        eprintln!("note: rank {} of {} (started by {})", launch.rank, launch.ranks, launch.by);
    }
    let places = args.device.places(args.gpus, launch.as_ref())?;
    let settings = Settings {
        data: args.data,
        split: args.split,
        out: args.out.clone(),
        config,
        steps: args.steps,
        shard,
        places,
        launch,
    };
    let stop = stop_on_signal()?;
    let outcome = train(&settings, &stop)?;
    match args.json {
        _ if !settings.is_first() => (),
        true => println!("{}", serde_json::to_string(&outcome).expect("plain numbers")),
        false => print(&args.out, &outcome),
    }
    // What follows in a script would take the run for finished.
    match outcome.finished {
        true => Ok(()),
        false => Err(Error::Stopped(format!("stopped after step {}; --resume goes on", outcome.step))),
    }
}

fn print(out: &Path, outcome: &Outcome) {
    let &Outcome { step, finished, best, loss, cells_per_second, parameters, unmatched } = outcome;
    if unmatched > 0 {
        eprintln!(
            "note: {unmatched} groups were not used: their cell type has no control cells in the training part"
        );
    }
    let state = if finished { "trained" } else { "not finished" };
    match loss.is_nan() {
        true => println!("{state}: {step} steps, {parameters} weights; none was logged now"),
        false => println!(
            "{state}: {step} steps, {parameters} weights, loss {loss:.4}, {cells_per_second:.0} cells/s"
        ),
    }
    if let Some((score, step)) = best {
        println!("best validation PDCorr {score:.4} at step {step}");
    }
    println!("{}", out.display());
}

fn config(args: &Args) -> Result<Config> {
    for (option, field, given) in
        [("--steps", "train.steps", args.steps.is_some()), ("--seed", "train.seed", args.seed.is_some())]
    {
        if given && args.set.iter().any(|set| set.split('=').next().is_some_and(|name| name.trim() == field))
        {
            return Err(Error::setting(option, format!("beside --set {field}; leave one of them out")));
        }
    }
    let mut set = args.set.clone();
    set.extend(args.steps.map(|n| format!("train.steps={n}")));
    set.extend(args.seed.map(|n| format!("train.seed={n}")));
    Config::load(args.preset.as_deref(), args.config.as_deref(), &set)
}

/// What a run that goes on may have otherwise, beside its steps: where its optimizer lies.
fn shard(args: &Args) -> Result<Option<bool>> {
    let set: Vec<Option<bool>> =
        args.set.iter().map(|set| set.strip_prefix("optim.shard=")?.trim().parse().ok()).collect();
    if args.preset.is_some() || args.config.is_some() || args.seed.is_some() || set.contains(&None) {
        let what =
            "a resumed run keeps its own config; only --steps and --set optim.shard=true|false may change";
        return Err(Error::setting("--resume", what));
    }
    Ok(set.last().copied().flatten())
}

/// A flag that Ctrl-C or SIGTERM sets; a second Ctrl-C ends at once.
pub fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("stopping: after this step, if one has begun, with a checkpoint (again to end at once)");
    };
    match ctrlc::set_handler(handler) {
        // A test or a program that embeds us may have its own handler.
        Ok(()) | Err(ctrlc::Error::MultipleHandlers) => Ok(stop),
        Err(e) => Err(Error::Stopped(format!("no signal handler: {e}"))),
    }
}
