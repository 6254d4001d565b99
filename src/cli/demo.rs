//! `scale-engine demo`.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::{device, signal};
use crate::config::LARGEST_NUMBER;
use crate::demo::{CONFIG, Settings, demo};
use crate::error::Result;
use crate::evaluate::registry::paper;
use crate::evaluate::scores::Scores;
use crate::memory;
use crate::progress::Progress;

const EXAMPLE: &str = "\
Example:
  scale-engine demo --out demo

The folder then holds cells.h5ad (simulated), data, split.toml, run, the predictions (*.h5ad), real.h5ad, scores and table.csv. \
Each step is also a command of its own (`scale-engine --help` lists them), so that every command can be tried on these files.";

/// Run every step on simulated cells and print a table of scores: the model and the baselines
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Folder to write, new or empty [default: runs/demo-SEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    device: device::Choice,
    /// Seed for the simulated cells, the weights and everything that is drawn
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=LARGEST_NUMBER))]
    seed: u64,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// Measures in the printed table, those of the paper; table.csv has all.
const SHOWN: [&str; 7] = [
    "pearson_delta",
    "overlap_at_N",
    "precision_at_N",
    "de_spearman_lfc_sig",
    "de_direction_match",
    "mse",
    "mae",
];

/// Runs the demo and prints its table.
pub fn run(args: Args) -> Result<()> {
    let out = args.out.unwrap_or_else(|| PathBuf::from(format!("runs/demo-{}", args.seed)));
    let (gpu, progress) = (args.device.open()?, Progress::terminal());
    memory::keep(); // each step, and each block of rows, needs as much as the last one gave back
    let settings = Settings { out: out.clone(), seed: args.seed, gpu };
    signal::stop(&progress, "within this stage or after it (training: after this step, with a checkpoint)")?;
    let table = demo(&settings, &progress)?;
    if args.json {
        println!("{}", as_json(&table));
        return Ok(());
    }
    print(&table);
    let path = |name: &str| out.join(name).display().to_string();
    println!(
        "\nMeans over the held-out combinations of a cell type and a perturbation; training has seen both, but never together."
    );
    println!(
        "`counts drawn`: counts are drawn around the predicted means, as the model does by default (first row)."
    );
    println!("`means only`: the means that the model predicts, without drawing counts.");
    println!("all measures   {}", path("table.csv"));
    println!("split file     {}", path("split.toml"));
    println!("run            {}   (tiny with {})", path("run"), CONFIG.join(" "));
    println!("predictions    {}", path("*.h5ad"));
    println!("scores         {}", path("scores"));
    Ok(())
}

fn print(table: &[Scores]) {
    print!("\n{:34}", "");
    SHOWN.iter().for_each(|name| print!("{:>10}", paper(name).unwrap_or(name)));
    println!();
    for predictor in table {
        print!("{:34}", predictor.name);
        for measure in SHOWN {
            let mean = predictor.mean(measure).map_or("-".to_string(), |mean| format!("{mean:.4}"));
            print!("{mean:>10}");
        }
        println!();
    }
}

fn as_json(table: &[Scores]) -> Value {
    let row = |predictor: &Scores| {
        let means = predictor.scores.iter().map(|score| (score.measure.clone(), json!(score.mean)));
        (predictor.name.clone(), Value::Object(means.collect()))
    };
    Value::Object(table.iter().map(row).collect::<Map<_, _>>())
}
