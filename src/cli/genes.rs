//! `scale-engine genes`: how variable each gene is.

use std::path::PathBuf;

use serde_json::json;

use super::preprocess::{print_filtered, print_notes, print_shared};
use super::sources::{FilterArgs, GeneArgs, SourceArgs, settings};
use super::{signal, words};
use crate::data::preprocess::{Ranking, Settings, rank_genes};
use crate::error::Result;
use crate::progress::Progress;

const EXAMPLE: &str = "\
Examples:
  scale-engine genes plate*.h5ad --out VAR.csv --n-top-genes 5000 \\
      --flavor cell_ranger
  scale-engine preprocess screen.h5ad --genes VAR.csv --out DATA \\
      --pert-col gene --control-pert non-targeting --celltype-col cell_line

Ranks the genes over all cells, labelled or not, and writes the table that preprocess writes to DATA/var.csv: means, dispersions and \
highly_variable, as scanpy.pp.highly_variable_genes has them in var. preprocess --genes takes the genes that it marks, from this table or \
from scanpy's (adata.var.to_csv).";

/// Rank genes by how variable they are, without making a data directory
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Table to write
    #[arg(long, value_name = "VAR.csv")]
    out: PathBuf,
    #[command(flatten)]
    genes: GeneArgs,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
}

/// Writes the table and prints what it ranks.
pub fn run(args: Args) -> Result<()> {
    let Args { out, source, genes, json, filters } = args;
    let settings = Settings { out, ..settings(source, genes, &filters)? };
    crate::memory::keep();
    crate::memory::share();
    signal::tell("stopped; the same command continues what was begun")?;
    let ranking = rank_genes(&settings, &Progress::terminal())?;
    if json {
        let mut told = serde_json::to_value(&ranking).expect("a ranking is plain JSON");
        told["out"] = json!(settings.out);
        words::print_json(&told);
    } else {
        print(&settings, &ranking);
    }
    Ok(())
}

fn print(settings: &Settings, ranking: &Ranking) {
    println!("table           {}", settings.out.display());
    println!("values          {}: {}", ranking.scale.name(), ranking.why);
    if let Some(target) = ranking.target {
        println!("cell total      {target}");
    }
    println!("cells           {}", ranking.cells);
    if let Some(filtered) = &ranking.filtered {
        print_filtered(filtered);
    }
    println!("genes           {} of {} are highly variable", ranking.genes, ranking.source_genes);
    print_shared(ranking.shared.as_ref());
    print_notes(&ranking.notes);
}
