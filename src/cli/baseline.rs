//! `scale-engine baseline`

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::aside;
use crate::baseline::{Kind, Settings, baseline};
use crate::config::Observe;
use crate::data::h5ad::H5ad;
use crate::data::population::write_measured;
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::Result;

/// Predict a part of a split without a model, to have something to beat
///
/// mean: the perturbation's mean training effect over cell types, added to control cells of the context.
/// mean-per-cell-type, mean-per-batch, mean-overall: copies of the mean perturbed training cell.
/// linear: the linear model of Ahlmann-Eltze, Huber & Anders (2025), its effect added to control cells.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: predict the held-out groups and score them

  scale-engine baseline mean --data data/sim --split split.toml --subset test \\
      --observe poisson --out mean.h5ad --real-out real.h5ad
  scale-engine evaluate --pred mean.h5ad --real real.h5ad --pert-col perturbation \\
      --control-pert non-targeting --celltype-col cell_type --out scores/mean")]
pub struct Args {
    /// mean, mean-per-cell-type, mean-per-batch, mean-overall or linear
    #[arg(value_name = "KIND")]
    pub kind: Kind,
    /// Data directory
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// Split file; only its training part is learnt from
    #[arg(long, value_name = "S.toml")]
    pub split: PathBuf,
    /// Part to predict
    #[arg(long, value_name = "train|val|test", default_value = "test")]
    pub subset: Part,
    /// The predicted cells, log1p scale, followed by the control cells of their contexts
    #[arg(long, value_name = "PRED.h5ad")]
    pub out: PathBuf,
    /// Also write what was measured, for evaluate
    #[arg(long, value_name = "REAL.h5ad")]
    pub real_out: Option<PathBuf>,
    /// Draw counts around the predicted means, so that rank tests meet zeros as in measured cells: what a model of the default recipe does
    #[arg(long, value_name = "none|poisson", default_value = "none")]
    pub observe: Observe,
    /// Leave the control cells out
    #[arg(long)]
    pub without_controls: bool,
    /// Seed of the drawn control cells and counts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Predicts, writes, and says what had to be replaced.
pub fn run(args: Args) -> Result<()> {
    let outputs: Vec<&Path> = [&args.out].into_iter().chain(&args.real_out).map(PathBuf::as_path).collect();
    aside::apart(&outputs, &[&args.data, &args.split])?;
    outputs.iter().try_for_each(|path| H5ad::replaceable(path))?;
    let data = Data::open(&args.data)?;
    let split = Split::load(&args.split, &data)?;
    split.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let asked = split.part(args.subset);
    let settings = Settings {
        kind: args.kind,
        observe: args.observe,
        with_controls: !args.without_controls,
        seed: args.seed,
    };
    let mut answer = baseline(&data, split.part(Part::Train), asked, &settings)?;
    if !args.json {
        answer.fallbacks.iter().for_each(|fallback| eprintln!("note: {fallback}"));
    }
    answer.population.notes.push(("split".into(), split.hash.clone()));
    answer.population.write(&args.out)?;
    let measure = |path| write_measured(path, &data, asked, settings.with_controls, &split.hash);
    let measured = args.real_out.as_deref().map(measure).transpose()?;
    let cells = answer.population.len();
    if args.json {
        let told = json!({
            "kind": args.kind.name(),
            "out": args.out,
            "cells": cells,
            "real_out": args.real_out,
            "measured_cells": measured,
            "notes": answer.fallbacks,
        });
        println!("{told}");
        return Ok(());
    }
    println!("{}: {cells} cells by {}", args.out.display(), args.kind.name());
    if let (Some(path), Some(cells)) = (&args.real_out, measured) {
        println!("{}: {cells} measured cells", path.display());
    }
    Ok(())
}
