//! `scale-engine bench`.

use crate::error::Result;
use crate::gpu::guard;

mod all;
mod loader;
pub mod ops;
mod place;
mod rows;
mod step;

/// Time the engine on this machine: all of it in one table, or a part
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    all: all::Args,
}

#[derive(clap::Subcommand)]
enum What {
    Step(step::Args),
    Predict(step::Predict),
    Ops(ops::Args),
    Loader(loader::Args),
}

/// Runs what was asked for.
pub fn run(args: Args) -> Result<()> {
    guard(|| match args.what {
        None => all::run(&args.all),
        Some(What::Step(args)) => step::steps(&args),
        Some(What::Predict(args)) => step::predictions(&args),
        Some(What::Ops(args)) => ops::run(&args),
        Some(What::Loader(args)) => loader::run(&args),
    })
}
