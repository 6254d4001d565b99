//! `scale-engine baseline`

use std::path::{Path, PathBuf};

use serde_json::json;

use super::words;
use super::written::Written;
use crate::aside;
use crate::baseline::{Baselines, Kind, Settings};
use crate::config::Observe;
use crate::data::features::{FeatureTable, Features};
use crate::data::h5ad::H5ad;
use crate::data::population::{Beside, SPLIT, Unit, write_measured};
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{Error, Result};

/// Predict a part of a split with a simple baseline, for a model to beat
///
/// Control cells are those of the same cell type and batch; where the batch has none, of the cell type.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: predict the held-out groups and score them

  scale-engine baseline mean --data data/sim --split split.toml --subset test \\
      --observe poisson --out mean.h5ad --real-out real.h5ad
  scale-engine evaluate --pred mean.h5ad --real real.h5ad \\
      --celltype-col cell_type --out scores/mean")]
pub struct Args {
    /// The baseline
    #[arg(value_name = "KIND", value_enum)]
    pub kind: Kind,
    /// Data directory
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// Split file; baselines learn from its training part only
    #[arg(long, value_name = "S.toml")]
    pub split: PathBuf,
    /// File to write: the predicted cells (log1p values), then the control cells of their cell types and batches
    #[arg(long, value_name = "PRED.h5ad")]
    pub out: PathBuf,
    /// Also write what was measured of these groups, and the control cells, to compare with in `evaluate`
    #[arg(long, value_name = "REAL.h5ad")]
    pub real_out: Option<PathBuf>,
    /// Part of the split to predict
    #[arg(long, value_name = "train|val|test", default_value = "test")]
    pub subset: Part,
    /// poisson draws counts around the predicted means, as a model of the default recipe does, so that rank tests see as many zeros
    /// as in measured cells
    #[arg(long, value_name = "none|poisson", default_value = "none")]
    pub observe: Observe,
    /// Table of features, as for `train --perturbation-features`: `linear` uses them as the perturbations' factors, and so predicts
    /// those too that are not in training
    #[arg(long, value_name = "TABLE")]
    pub perturbation_features: Option<PathBuf>,
    /// Do not write the control cells
    #[arg(long)]
    pub without_controls: bool,
    /// Seed for drawing control cells and counts
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// What baselines learn from the training part, and from a table of features.
pub fn trained<'a>(data: &'a Data, split: &Split, features: Option<&Path>) -> Result<Baselines<'a>> {
    let trained = Baselines::on(data, split.part(Part::Train))?;
    let Some(path) = features else { return Ok(trained) };
    let features = Features::of(&FeatureTable::read(path)?, data.manifest(), &split.untrained(data))?;
    Ok(trained.with_features(&features))
}

/// Predicts, writes, and reports what had to be replaced.
pub fn run(args: Args) -> Result<()> {
    let outputs: Vec<&PathBuf> = [&args.out].into_iter().chain(&args.real_out).collect();
    let inputs: Vec<&PathBuf> =
        [&args.data, &args.split].into_iter().chain(&args.perturbation_features).collect();
    aside::apart(&outputs, &inputs)?;
    outputs.iter().try_for_each(|path| H5ad::replaceable(path))?;
    let data = Data::open(&args.data)?;
    let split = Split::load(&args.split, &data)?;
    if !args.json {
        split.warnings.iter().for_each(words::warning);
    }
    let settings = Settings {
        kind: args.kind,
        observe: args.observe,
        with_controls: !args.without_controls,
        seed: args.seed,
    };
    let features = args.perturbation_features.as_deref();
    if features.is_some() && args.kind != Kind::Linear {
        let what = format!("is only for `linear`; `{}` does not use features", args.kind.name());
        return Err(Error::setting("--perturbation-features", what));
    }
    let trained = trained(&data, &split, features)?;
    let mut answer = trained.predict_to(&args.out, split.part(args.subset), &settings)?;
    let notes: Vec<String> = answer.asked.note(&data).into_iter().chain(answer.fallbacks).collect();
    if !args.json {
        notes.iter().for_each(words::note);
    }
    answer.population.notes.push((SPLIT.into(), split.hash.clone()));
    let written = answer.population.close()?;
    let groups = &answer.asked.groups;
    let cells: usize = groups.iter().map(|&group| data.groups()[group as usize].cells as usize).sum();
    let (populations, control_cells) = (groups.len(), written - cells);
    let controls = if settings.with_controls { Beside::Own } else { Beside::Nothing };
    let measure = |path| write_measured(path, &data, groups, controls, Unit::Log1p, &split.hash);
    let measured_cells = args.real_out.as_deref().map(measure).transpose()?;
    if args.json {
        let told = json!({
            "kind": args.kind.name(),
            "out": args.out,
            "real_out": args.real_out,
            "populations": populations,
            "cells": cells,
            "control_cells": control_cells,
            "measured_cells": measured_cells,
            "warnings": split.warnings,
            "notes": notes,
        });
        words::print_json(&told);
        return Ok(());
    }
    let by = args.kind.name().to_string();
    let Args { out, real_out, .. } = args;
    Written { out, populations, cells, control_cells, by, real_out, measured_cells }.print();
    Ok(())
}
