//! The command line: a table of contents.

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, Result};

mod baseline;
pub mod bench;
mod choices;
mod demo;
mod device;
mod evaluate;
mod export;
mod genes;
mod inspect;
mod predict;
mod preprocess;
mod profile;
mod selftest;
mod settings;
mod signal;
mod simulate;
mod sources;
mod split;
mod terminal;
mod train;
pub mod words;
mod written;

/// Train and run SCALE, a model of how a population of single cells responds to a perturbation.
#[derive(Debug, Parser)]
#[command(name = "scale-engine", version, max_term_width = 110, after_help = WAY)]
pub struct Cli {
    /// Number of threads to compute with [default: all cores]; results do not depend on it
    #[arg(long, global = true, display_order = 99, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MOST_THREADS))]
    threads: Option<u16>,
    #[command(subcommand)]
    command: Command,
}

/// More than any machine has cores; each thread costs a stack.
const MOST_THREADS: i64 = 1024;

const WAY: &str = "\
From cells to scores (held_out.toml: see `scale-engine split --help`):
  scale-engine preprocess cells.h5ad --out DATA --pert-col gene \\
      --control-pert non-targeting --celltype-col cell_line
  scale-engine split held_out.toml --data DATA
  scale-engine train --data DATA --split held_out.toml --out RUN
  scale-engine predict RUN --data DATA --split held_out.toml --subset test \\
      --with-controls --out pred.h5ad --real-out real.h5ad
  scale-engine evaluate --pred pred.h5ad --real real.h5ad \\
      --celltype-col cell_line --out SCORES

All of this on simulated cells: scale-engine demo
What a file or folder holds:    scale-engine inspect PATH

Exit codes: 0 done; 2 an option or setting is wrong, or names a column or label that does not exist; 1 any other failure, \
including bad contents of a file; 130 stopped by Ctrl-C; 141 nobody reads the output any more. `train` and `demo` stop \
cleanly at the first Ctrl-C, with exit code 1 (`train` writes a checkpoint), and at once at the second, with \
130; so does `predict`, with 130 and without a file.";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Args),
    Simulate(simulate::Args),
    Inspect(inspect::Args),
    Preprocess(preprocess::Args),
    Genes(genes::Args),
    Export(export::Args),
    Split(split::Args),
    Settings(settings::Args),
    Train(train::Args),
    Predict(predict::Args),
    Baseline(baseline::Args),
    Evaluate(evaluate::Args),
    Selftest(selftest::Args),
    Bench(bench::Args),
    Profile(profile::Args),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  scale-engine completions bash \\\n      > ~/.local/share/bash-completion/completions/scale-engine"
    )]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that was asked for.
pub fn run(cli: Cli) -> Result<()> {
    if let Some(threads) = cli.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global();
        pool.map_err(|e| Error::setting("--threads", format!("cannot start {threads} threads: {e}")))?;
    }
    match cli.command {
        Command::Demo(args) => demo::run(args),
        Command::Simulate(args) => simulate::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Preprocess(args) => preprocess::run(args),
        Command::Genes(args) => genes::run(args),
        Command::Export(args) => export::run(args),
        Command::Split(args) => split::run(args),
        Command::Settings(args) => settings::run(args),
        Command::Train(args) => train::run(args),
        Command::Predict(args) => predict::run(args),
        Command::Baseline(args) => baseline::run(args),
        Command::Evaluate(args) => evaluate::run(args),
        Command::Selftest(args) => selftest::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "scale-engine", &mut script);
            print!("{}", String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}
