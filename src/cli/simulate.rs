//! `scale-engine simulate`

use std::path::PathBuf;

use serde_json::json;

use crate::data::h5ad::H5ad;
use crate::data::simulate::{CONTROL, Settings, simulate};
use crate::error::{Result, counted};

/// Write an h5ad of simulated cells whose true effects are known
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: a small data set, with its true effects under uns/simulation, and its data directory

  scale-engine simulate --out sim.h5ad --cells 5000 --genes 500 \\
      --perturbations 10
  scale-engine preprocess sim.h5ad --out data/sim --pert-col perturbation \\
      --control-pert non-targeting --celltype-col cell_type --batch-col batch \\
      --n-top-genes 500"
)]
pub struct Args {
    /// The file to write
    #[arg(long, value_name = "F.h5ad")]
    pub out: PathBuf,
    /// Cells, controls included
    #[arg(long, default_value_t = Settings::default().cells)]
    pub cells: usize,
    /// Skip the first N cells of the simulated world: with the same seed, a second file that shares no cell with the first
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: usize,
    /// Genes
    #[arg(long, default_value_t = Settings::default().genes)]
    pub genes: usize,
    /// Perturbations, the control not counted
    #[arg(long, default_value_t = Settings::default().perturbations)]
    pub perturbations: usize,
    /// Cell types
    #[arg(long, default_value_t = Settings::default().cell_types)]
    pub cell_types: usize,
    /// Batches
    #[arg(long, default_value_t = Settings::default().batches)]
    pub batches: usize,
    /// Seed; the same seed gives the same file
    #[arg(long, default_value_t = Settings::default().seed)]
    pub seed: u64,
    /// Print the outcome as JSON
    #[arg(long)]
    pub json: bool,
}

/// Draws the world, writes it and says what it holds.
pub fn run(args: Args) -> Result<()> {
    let settings = Settings {
        cells: args.cells,
        skip: args.skip,
        genes: args.genes,
        perturbations: args.perturbations,
        cell_types: args.cell_types,
        batches: args.batches,
        seed: args.seed,
    };
    H5ad::replaceable(&args.out)?;
    let world = simulate(&settings)?;
    world.write(&args.out)?;
    let zeros = 1.0 - world.counts.nnz() as f64 / (args.cells as f64 * args.genes as f64);
    let total: f64 = world.counts.data().iter().map(|&count| f64::from(count)).sum();
    let counts = total / args.cells as f64;
    let Settings { cells, genes, perturbations, cell_types, batches, .. } = settings;
    if args.json {
        let told = json!({
            "out": args.out,
            "cells": cells,
            "genes": genes,
            "perturbations": perturbations,
            "control": CONTROL,
            "cell_types": cell_types,
            "batches": batches,
            "counts_per_cell": counts,
            "zeros": zeros,
        });
        println!("{told}");
        return Ok(());
    }
    println!(
        "{}: {cells} cells x {genes} genes, {} and {CONTROL:?}, {}, {}; {counts:.0} counts per cell, {:.1} % zeros",
        args.out.display(),
        counted(perturbations, "perturbation"),
        counted(cell_types, "cell type"),
        if batches == 1 { "1 batch".into() } else { format!("{batches} batches") },
        100.0 * zeros
    );
    Ok(())
}
