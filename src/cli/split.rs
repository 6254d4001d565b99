//! `scale-engine split`: what a split file comes to, or the clause that is wrong.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::data::shard::Data;
use crate::data::split::{PartReport, Report, Split};
use crate::error::Result;

/// Checks a split file against a data directory.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n  scale-engine split split.toml --data kang/\n\n\
    split.toml (cell-load's format):\n  [datasets]\n  kang = \"kang.h5ad\"\n  [training]\n  kang = \"train\"\n  \
    [zeroshot]\n  \"kang.B cells\" = \"val\"\n  [fewshot.\"kang.CD4 T cells\"]\n  test = [\"IFNB1\"]")]
pub struct Args {
    /// Split file: cell-load TOML
    pub split: PathBuf,
    /// Data directory made by preprocess
    #[arg(long)]
    pub data: PathBuf,
    /// Print the counts as JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints cells, groups, perturbations and cell types of each part; warnings go to stderr. Errors name the clause.
pub fn run(args: Args) -> Result<()> {
    let data = Data::open(&args.data)?;
    let report = Split::load(&args.split, &data)?.report(&data);
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report).expect("a report is plain JSON"));
    } else {
        print!("{}", table(&report));
    }
    Ok(())
}

fn table(report: &Report) -> String {
    let head = ["part", "cells", "groups", "perturbations", "cell types", "control cells", "control groups"];
    let mut rows = vec![head.map(String::from)];
    let parts = [
        ("train", &report.train),
        ("val", &report.val),
        ("test", &report.test),
        ("dropped", &report.dropped),
    ];
    rows.extend(parts.map(|(name, part)| line(name, part)));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &w)| format!("{cell:>w$}")).collect();
        text.push_str(&format!("{}\n", cells.join("  ")));
    }
    text.push_str(&format!("sha256 {}\n", report.hash));
    text
}

fn line(name: &str, part: &PartReport) -> [String; 7] {
    let PartReport { cells, groups, perturbations, cell_types, control_cells, control_groups } = *part;
    let [cells, groups, perturbations, cell_types] =
        [cells, groups, perturbations, cell_types].map(|n| n.to_string());
    [
        name.into(),
        cells,
        groups,
        perturbations,
        cell_types,
        control_cells.to_string(),
        control_groups.to_string(),
    ]
}
