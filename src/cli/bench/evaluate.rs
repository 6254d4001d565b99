//! `bench evaluate`: how long scoring takes.

use std::hint::black_box;
use std::time::Instant;

use serde_json::json;

use crate::data::h5ad::Labels;
use crate::data::simulate::{self, CONTROL, Simulated, simulate};
use crate::error::Result;
use crate::evaluate::registry::Profile;
use crate::evaluate::{Matrix, Settings, Side, evaluate};
use crate::profile::{Times, positive, repeats};

const EXAMPLE: &str = "\
Example:
  scale-engine bench evaluate --cells 40000 --perturbations 100

Times `evaluate` without reading and writing: raw counts of simulated cells are scored against as many others of the same world. \
One row for each `evaluate --profile` that does different work: `full` everything, `de` differential expression of both sides and \
the measures based on it, `anndata` mean profiles and energy distances, `pds` mean profiles only.";

/// Time scoring
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Cells on each side
    #[arg(long, default_value_t = 10_000, value_parser = positive)]
    cells: usize,
    /// Genes
    #[arg(long, default_value_t = 2000, value_parser = positive)]
    genes: usize,
    /// Perturbations besides the control
    #[arg(long, default_value_t = 50, value_parser = positive)]
    perturbations: usize,
    /// Timings of each row; their median is reported
    #[arg(long, default_value_t = 3, value_parser = repeats)]
    turns: usize,
    /// Print a line of JSON for each row
    #[arg(long)]
    json: bool,
}

/// Times and prints.
pub fn run(args: &Args) -> Result<()> {
    let &Args { cells, genes, perturbations, turns, json } = args;
    let [real, pred] = sides(cells, genes, perturbations)?;
    if !json {
        println!("{:<10} {:>12} {:>14} {:>20}", "profile", "s", "cells/s", "genes x pert/s");
    }
    for profile in [Profile::Full, Profile::De, Profile::Anndata, Profile::Pds] {
        let took = time(&real, &pred, profile, turns)?;
        let seconds = took.median();
        let [of_cells, of_tests] = [2 * cells, genes * perturbations].map(|many| many as f64 / seconds);
        if json {
            let figures = json!({
                "profile": profile, "cells": cells, "genes": genes, "perturbations": perturbations, "turns": turns,
                "threads": rayon::current_num_threads(), "median_s": seconds, "min_s": took.least(), "max_s": took.most(),
                "cells_per_s": of_cells,
            });
            println!("{figures}");
        } else {
            println!("{:<10} {seconds:>12.3} {of_cells:>14.0} {of_tests:>20.0}", profile.name());
        }
    }
    Ok(())
}

/// How many cells are scored, both sides counted, and the times that the full profile takes.
pub fn made_up(turns: usize) -> Result<(usize, Times)> {
    let (cells, genes, perturbations) = (10_000, 2000, 50);
    let [real, pred] = sides(cells, genes, perturbations)?;
    Ok((2 * cells, time(&real, &pred, Profile::Full, turns)?))
}

/// Two draws of cells from one world, as raw counts.
fn sides(cells: usize, genes: usize, perturbations: usize) -> Result<[Side; 2]> {
    let settings = simulate::Settings {
        cells: 2 * cells,
        skip: 0,
        genes,
        perturbations,
        cell_types: 1,
        batches: 1,
        seed: 0,
    };
    let Simulated { counts, cells: drawn, truth, .. } = simulate(&settings)?;
    let codes = drawn.iter().map(|cell| cell.perturbation as i32).collect();
    let (x, labels) = (Matrix::Sparse(counts), Labels { codes, names: truth.perturbations });
    let both = Side { source: "".into(), x, labels, genes: truth.genes, total: None };
    let side = |name: &str, first: usize| {
        let cells: Vec<u32> = (first as u32..(first + cells) as u32).collect();
        Side { source: name.into(), ..both.subset(&cells) }
    };
    Ok([side("the measured cells", 0), side("the predicted cells", cells)])
}

fn time(real: &Side, pred: &Side, profile: Profile, turns: usize) -> Result<Times> {
    let settings = Settings { control: CONTROL.to_string(), profile, ..Settings::default() };
    let turn = |_| {
        let began = Instant::now();
        black_box(evaluate(real, pred, &settings)?);
        Ok(began.elapsed().as_secs_f64())
    };
    (0..turns).map(turn).collect::<Result<_>>().map(Times::of)
}
