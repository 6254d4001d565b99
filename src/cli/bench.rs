//! `scale-engine bench`.

use crate::error::Result;
use crate::gpu::guard;

mod loader;
pub mod ops;
mod place;
mod rows;
mod step;

/// Time the engine on this machine
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
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
        What::Step(args) => step::steps(&args),
        What::Predict(args) => step::predictions(&args),
        What::Ops(args) => ops::run(&args),
        What::Loader(args) => loader::run(&args),
    })
}
