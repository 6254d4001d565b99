//! `scale-engine export`

use std::path::PathBuf;

use serde_json::json;

use super::words;
use crate::aside;
use crate::data::h5ad::H5ad;
use crate::data::population::{Population, SPLIT, Unit, push_groups};
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{Error, Result, counted};

/// Write a data directory, or a part of it, as an h5ad file
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: the measured test cells, on the scale that evaluate reads

  scale-engine export DATA --split held_out.toml --subset test \\
      --out test.h5ad")]
pub struct Args {
    /// Data directory
    #[arg(value_name = "DATA")]
    pub data: PathBuf,
    /// Split file, with --subset
    #[arg(long, value_name = "S.toml", requires = "subset")]
    pub split: Option<PathBuf>,
    /// File to write; cells are ordered by condition and keep their names from the source
    #[arg(long, value_name = "F.h5ad")]
    pub out: PathBuf,
    /// What values to write
    #[arg(long, value_enum, default_value_t = Unit::Log1p)]
    pub values: Unit,
    /// Write only this part of the split, with the control cells that the split puts into it
    #[arg(long, value_name = "train|val|test", requires = "split")]
    pub subset: Option<Part>,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Gathers the cells and writes them.
pub fn run(args: Args) -> Result<()> {
    let inputs: Vec<&PathBuf> = [&args.data].into_iter().chain(&args.split).collect();
    aside::apart(&[&args.out], &inputs)?;
    H5ad::replaceable(&args.out)?;
    let data = Data::open(&args.data)?;
    let mut notes = Vec::new();
    let groups = match (&args.split, args.subset) {
        (Some(path), Some(subset)) => {
            let split = Split::load(path, &data)?;
            split.warnings.iter().for_each(words::warning);
            notes.push((SPLIT.into(), split.hash.clone()));
            split.part(subset).to_vec()
        }
        _ => (0..data.groups().len() as u32).collect(),
    };
    if groups.is_empty() {
        return Err(Error::setting("--subset", "this part of the split has no cells"));
    }
    let mut population = Population::create(&args.out, data.manifest())?;
    (population.unit, population.notes) = (args.values, notes);
    push_groups(&mut population, &data, groups.iter().copied())?;
    let cells = population.close()?;
    let (out, genes, groups) = (&args.out, data.manifest().genes.len(), groups.len());
    match args.json {
        true => println!("{}", json!({ "out": out, "cells": cells, "genes": genes, "groups": groups })),
        false => println!("{}: {cells} cells x {genes} genes in {}", out.display(), counted(groups, "group")),
    }
    Ok(())
}
