//! `scale-engine predict`.

use std::path::PathBuf;

use super::device;
use crate::config::Observe;
use crate::data::split::Part;
use crate::error::{Error, Result};
use crate::predict::{Settings, Source, predict};

const EXAMPLE: &str = "\
Examples:
  scale-engine predict RUN --data DATA --split held_out.toml --subset test --real-out real.h5ad --with-controls --out pred.h5ad
  scale-engine predict RUN --controls my_controls.h5ad --request wanted.csv --out pred.h5ad

wanted.csv has the columns perturbation,cell_type,batch,cells. Genes are aligned by name; what is missing is reported.";

/// Predict perturbed populations with a trained run
#[derive(clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Run directory (its best checkpoint, else its last), or a checkpoint
    run: PathBuf,
    /// The .h5ad to write
    #[arg(long)]
    out: PathBuf,
    /// Data directory whose groups are predicted
    #[arg(long, requires = "split", conflicts_with = "controls")]
    data: Option<PathBuf>,
    /// Split file
    #[arg(long)]
    split: Option<PathBuf>,
    /// Part of the split
    #[arg(long, default_value = "test")]
    subset: Part,
    /// Also write what was measured for these groups, with their controls
    #[arg(long, requires = "data")]
    real_out: Option<PathBuf>,
    /// Control cells (.h5ad) to predict from
    #[arg(long, requires = "request")]
    controls: Option<PathBuf>,
    /// Populations wanted (CSV)
    #[arg(long, requires = "controls")]
    request: Option<PathBuf>,
    /// Write the control cells into the output too, as `evaluate` needs
    #[arg(long)]
    with_controls: bool,
    /// Instead of the run's own setting: `none` writes decoded means, `poisson` draws counts around them
    #[arg(long)]
    observe: Option<Observe>,
    /// Seed of control draws, start noise and counts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    device: device::Args,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Predicts and prints a report.
pub fn run(args: Args) -> Result<()> {
    let source = match (args.data, args.split, args.controls, args.request) {
        (Some(data), Some(split), ..) => {
            Source::Data { data, split, part: args.subset, real_out: args.real_out }
        }
        (_, _, Some(controls), Some(request)) => Source::File { controls, request },
        _ => return Err(Error::setting("predict", "give --data with --split, or --controls with --request")),
    };
    let settings = Settings {
        run: args.run,
        out: args.out.clone(),
        source,
        with_controls: args.with_controls,
        observe: args.observe,
        seed: args.seed,
        gpu: args.device.open()?,
    };
    let report = predict(&settings)?;
    if args.json {
        println!("{}", serde_json::to_string(&report).expect("plain values"));
        return Ok(());
    }
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    if !report.missing_genes.is_empty() {
        let some: Vec<&str> = report.missing_genes.iter().take(5).map(String::as_str).collect();
        eprintln!(
            "note: {} genes of the model are missing and taken as zero: {} ..",
            report.missing_genes.len(),
            some.join(", ")
        );
    }
    println!(
        "{} populations, {} cells and {} control cells from {}",
        report.populations,
        report.cells,
        report.control_cells,
        report.checkpoint.display()
    );
    println!("{}", args.out.display());
    Ok(())
}
