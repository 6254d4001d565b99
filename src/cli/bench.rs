//! `scale-engine bench`.

use crate::error::Result;
use crate::gpu::guard;

mod all;
mod evaluate;
mod loader;
pub mod ops;
mod place;
mod rows;
mod step;

const EXAMPLE: &str = "\
Examples:
  scale-engine bench
  scale-engine bench step --preset s184 --sets 32 --cells 512 --device cuda

Without a subcommand: every op, a training step, a prediction, the loader and `evaluate`, at sizes that this machine can run. \
`share` is the op's rate as a share of this run's copy (GB/s) or matrix product (TFLOP/s), whichever share is larger; above 1, the \
op was faster than that reference. For where a step's time goes, see `scale-engine profile`.";

/// Time the engine on this machine: everything in one table, or one part of it
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = EXAMPLE)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    all: all::Args,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Step(step::Args),
    Predict(step::Predict),
    Ops(ops::Args),
    Loader(loader::Args),
    Evaluate(evaluate::Args),
}

/// Times everything, or one part.
pub fn run(args: Args) -> Result<()> {
    guard(|| match args.what {
        None => all::run(&args.all),
        Some(What::Step(args)) => step::run(&step::STEP, &args),
        Some(What::Predict(args)) => step::run(&step::PREDICTION, &args.of),
        Some(What::Ops(args)) => ops::run(&args),
        Some(What::Loader(args)) => loader::run(&args),
        Some(What::Evaluate(args)) => evaluate::run(&args),
    })
}
