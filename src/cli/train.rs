//! `scale-engine train`.

use std::path::{Path, PathBuf};

use super::{device, settings, signal, words};
use crate::checkpoint::{Best, Checkpoint, Described};
use crate::collective::Launch;
use crate::config::{Config, LARGEST_NUMBER};
use crate::data::features::{FeatureId, FeatureTable};
use crate::error::{Error, Result};
use crate::memory;
use crate::progress::Progress;
use crate::run_folder::{RunFolder, checkpoint_of};
use crate::train::{Begin, Outcome, Settings, train};

const EXAMPLE: &str = "\
Examples:
  scale-engine train --data DATA --split held_out.toml --out RUN --preset tiny \\
      --steps 1000 --set encoder.kind=mlp --set flow.start=shifted
  scale-engine train --data DATA --split held_out.toml --out RUN --resume
  scale-engine train --data MINE --split mine.toml --out TUNED --init-from RUN \\
      --steps 300 --set optim.lr=0.0005

RUN then holds config.toml (every setting, as used), metrics.jsonl and TensorBoard events (losses, gradient norms, PDCorr), and \
checkpoints/{last,best}.safetensors. best has the highest PDCorr, the correlation of predicted and measured changes, on the split's \
validation part, if there is one.

Common settings, given with --set (all of them: `scale-engine settings`; of several choices the first is the default; numbers are those of tiny):
  recipe=default|paper          what works on small data, or the paper's
  encoder.kind=llama|attention|mlp
  flow.start=control|gaussian|mixed|shifted
  data.sets=16  data.cells=32   sets per step, cells per set
  optim.lr=0.002
  train.val_every=200  train.checkpoint_every=200   (larger presets: 1000)
  train.log_every=10

Several GPUs: --gpus N. Several machines: start a process for each GPU with torchrun, srun or mpirun, which tell each process its \
rank; the processes meet at MASTER_ADDR, one port above MASTER_PORT. The ranks share out the data.sets sets of a step (a multiple \
of the number of ranks), so the number of ranks changes nothing but rounding, and a run can be resumed with another number. With \
--set optim.shard=true each rank keeps only its own part of the optimizer's state.

Ctrl-C writes a checkpoint and ends with exit code 1; with --resume the run then ends with the same bits as if it had never been stopped.";

/// Train SCALE on a data directory
#[derive(Debug, clap::Args)]
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
    #[command(flatten)]
    choice: settings::Choice,
    /// Total number of steps (train.steps)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=LARGEST_NUMBER))]
    steps: Option<u64>,
    /// Seed for weights, sets and noise (train.seed)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..=LARGEST_NUMBER))]
    seed: Option<u64>,
    #[command(flatten)]
    device: device::Choice,
    /// Number of GPUs of this machine to train on, or all
    #[arg(long, value_name = "N|all")]
    gpus: Option<device::Gpus>,
    /// Fine-tune: start from the weights and config of another run (its best checkpoint, or its last if there is no best). Cell
    /// types, perturbations and batches are matched by name; new ones start from random values
    #[arg(long, value_name = "RUN", conflicts_with = "preset")]
    init_from: Option<PathBuf>,
    /// Table of numbers that describe each perturbation, such as embeddings of genes or drugs: a .csv or .tsv (a header, then name and
    /// numbers), or an .h5ad (obs_names and X). The run then knows perturbations by their numbers, not by their names, and `predict`
    /// can be asked for perturbations that it was never trained on. Not with flow.start=shifted
    #[arg(long, value_name = "TABLE")]
    perturbation_features: Option<PathBuf>,
    /// Continue from RUN/checkpoints/last.safetensors with the run's own config and features; only --steps and --set
    /// optim.shard=true|false may differ. `--resume auto` resumes if that checkpoint exists and starts a new run otherwise, so that
    /// a job that is restarted can use one command; its settings must equal those of the run
    #[arg(long, num_args = 0..=1, default_missing_value = "always", hide_possible_values = true, value_name = "auto")]
    resume: Option<Resume>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// When to continue a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Resume {
    Always,
    /// If it has a last checkpoint.
    Auto,
}

/// Trains and prints the outcome.
pub fn run(args: Args) -> Result<()> {
    let begin = begin(&args)?;
    let launch = Launch::find(&|name| std::env::var(name).ok())?;
    if let Some(launch) = &launch {
        words::note(format_args!("rank {} of {} (started by {})", launch.rank, launch.ranks, launch.by));
    }
    let place = args.device.place(args.gpus, launch)?;
    let progress = Progress::terminal();
    memory::keep(); // each step needs as much as the last one gave back
    let settings = Settings { place, ..Settings::new(&args.data, &args.split, &args.out, begin) };
    signal::stop(&progress, "after this step, with a checkpoint")?;
    let outcome = train(&settings, &progress)?;
    if settings.is_first() {
        match args.json {
            true => println!("{}", serde_json::to_string(&outcome).expect("plain numbers")),
            false => print(&args.out, &outcome),
        }
    }
    // A script would otherwise take the run for finished.
    match outcome.finished {
        true => Ok(()),
        false => Err(Error::Stopped(format!("stopped after step {}; continue with --resume", outcome.step))),
    }
}

fn print(out: &Path, outcome: &Outcome) {
    let &Outcome { step, finished, best, loss, cells_per_second, weights, unmatched } = outcome;
    if unmatched > 0 {
        words::note(format_args!(
            "{unmatched} groups were not used: their cell type has no control cells in the data"
        ));
    }
    let state = if finished { "trained" } else { "not finished" };
    match loss {
        None => println!("{state}: {step} steps, {weights} weights; no step was logged this time"),
        Some(loss) => println!(
            "{state}: {step} steps, {weights} weights, loss {loss:.4}, {cells_per_second:.0} cells/s"
        ),
    }
    if let Some(Best { pdcorr, step }) = best {
        println!("best validation PDCorr {pdcorr:.4} at step {step}");
    }
    println!("{}", out.display());
}

fn begin(args: &Args) -> Result<Begin> {
    if args.resume == Some(Resume::Always) {
        return Ok(Begin::Resume { steps: args.steps, shard: shard(args)? });
    }
    let (config, last) = (config(args)?, RunFolder::at(&args.out).last());
    if args.resume.is_none() || !last.exists() {
        let (init_from, features) = (args.init_from.clone(), args.perturbation_features.clone());
        return Ok(Begin::Anew { config: Box::new(config), init_from, features });
    }
    // What is wrong with a checkpoint that cannot be described is told where it is read.
    if let Ok(Described { header, .. }) = Checkpoint::describe(&last) {
        let mut fields = config.fields().into_iter().zip(header.config.fields());
        if let Some(((field, asked), (_, own))) = fields.find(|(asked, own)| asked != own) {
            let run = args.out.display();
            let what = format!("{asked}, but {run} has {own}; --resume auto continues a run only as it is");
            return Err(Error::setting(field, what));
        }
        let table = args.perturbation_features.as_deref().map(FeatureTable::read).transpose()?;
        let asked = table.map(|table| table.id(&header.data)).transpose()?;
        let same = |a: &FeatureId, b: &FeatureId| (&a.columns, a.crc) == (&b.columns, b.crc);
        let run = args.out.display();
        let other = match (&asked, &header.features) {
            (Some(asked), Some(own)) if !same(asked, own) => {
                format!("{run} was begun with other ones ({:?})", own.name)
            }
            (None, Some(own)) => format!("{run} was begun with {:?}: give it again", own.name),
            (Some(_), None) => format!("{run} was begun without, and knows perturbations by name"),
            _ => return Ok(Begin::RESUME),
        };
        let what = format!("{other}; --resume auto continues a run only as it is");
        return Err(Error::setting("--perturbation-features", what));
    }
    Ok(Begin::RESUME)
}

fn config(args: &Args) -> Result<Config> {
    let settings::Choice { preset, config, set } = &args.choice;
    for (option, field, given) in
        [("--steps", "train.steps", args.steps.is_some()), ("--seed", "train.seed", args.seed.is_some())]
    {
        if given && set.iter().any(|set| set.split('=').next().is_some_and(|name| name.trim() == field)) {
            return Err(Error::setting(
                option,
                format!("cannot be combined with --set {field}; give only one of them"),
            ));
        }
    }
    let mut set = set.clone();
    set.extend(args.steps.map(|n| format!("train.steps={n}")));
    set.extend(args.seed.map(|n| format!("train.seed={n}")));
    match &args.init_from {
        Some(run) => {
            Checkpoint::describe(&checkpoint_of(run)?)?.header.config.load_over(config.as_deref(), &set)
        }
        None => Config::load(preset.as_deref(), config.as_deref(), &set),
    }
}

/// What a resumed run may change besides its steps: where its optimizer is kept.
fn shard(args: &Args) -> Result<Option<bool>> {
    let settings::Choice { preset, config, set } = &args.choice;
    let shard = |set: &String| {
        let (field, value) = set.split_once('=')?;
        (field.trim() == "optim.shard").then(|| value.trim().parse().ok())?
    };
    let set: Vec<Option<bool>> = set.iter().map(shard).collect();
    let own = args.init_from.is_some() || args.perturbation_features.is_some();
    let others = [preset.is_some(), config.is_some(), own, args.seed.is_some()];
    if others.contains(&true) || set.contains(&None) {
        let what = "a resumed run keeps its own config and features; only --steps and --set optim.shard=true|false \
                    may differ";
        return Err(Error::setting("--resume", what));
    }
    Ok(set.last().copied().flatten())
}
