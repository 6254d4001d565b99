//! `scale-engine split`: what a split file amounts to, or the clause that is wrong.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::words;
use crate::aside;
use crate::data::h5ad::H5ad;
use crate::data::shard::Data;
use crate::data::split::{FewShot, PartReport, Preset, Report, Split};
use crate::error::{Error, Result};

const EXAMPLE: &str = "\
Examples:
  scale-engine split held_out.toml --data DATA
  scale-engine split --preset tahoe --data DATA --out tahoe.toml
  scale-engine split --preset pbmc --few-shot 0.3 --data DATA --out pbmc.toml

The second writes a split file that holds out whole cell lines (pbmc: donors); the third trains on 30 % of their perturbations and \
holds out the others. Scores can be compared with the paper's Table 1 only under its protocol:
  tahoe      five whole cell lines. The paper uses none of their cells;
             here, as in cell-load, their control cells are trained on.
  pbmc       --few-shot 0.3 of four donors. Which perturbations it drew
             is not published.
  replogle   --few-shot of one cell line. What share is not published.
The paper names no line or donor; these are the ones that the field holds out.

DATA must have been made with these columns: for tahoe --celltype-col cell_line (cell_line_id from parquet), for pbmc \
--celltype-col donor --batch-col cell_type, for replogle --celltype-col cell_line. (A split file holds out only cell types, so \
donors must stand for them; controls are matched by both columns.) The files have no validation part, so no best \
checkpoint is selected.

An example of held_out.toml, in cell-load's format. Its one data set, here `kang`, stands for DATA, whatever it is called:
  [datasets]
  kang = \"kang.h5ad\"           # for cell-load, not opened here
  [training]
  kang = \"train\"               # everything not named below
  [zeroshot]
  \"kang.B cells\" = \"val\"       # a whole cell type, to choose the best checkpoint
  [fewshot.\"kang.CD4 T cells\"]
  test = [\"IFNB1\"]             # some perturbations of a cell type

Clauses that match nothing, overlapping parts, and held-out cell types without control cells are refused. A run keeps the file and its \
SHA-256 and cannot be resumed with another.";

/// Check a split file and count the cells of each part, or write the split file of a benchmark
#[derive(ClapArgs, Debug)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Split file in cell-load's TOML
    #[arg(value_name = "S.toml", required_unless_present = "preset")]
    pub split: Option<PathBuf>,
    /// Data directory, as `preprocess` writes it
    #[arg(long, value_name = "DATA")]
    pub data: PathBuf,
    /// File to write, with --preset
    #[arg(long, value_name = "S.toml", requires = "preset", conflicts_with = "split")]
    pub out: Option<PathBuf>,
    /// Benchmark whose split file is written, instead of checking one
    #[arg(long, value_enum, requires = "out", conflicts_with = "split")]
    pub preset: Option<Preset>,
    /// Train on this share of the perturbations of the held-out cell lines or donors, the same ones in each [default: hold out all
    /// their perturbations]
    #[arg(long, value_name = "SHARE", requires = "preset", value_parser = share)]
    pub few_shot: Option<f64>,
    /// Seed for drawing the perturbations of --few-shot
    #[arg(long, value_name = "N", default_value_t = 0, requires = "few_shot")]
    pub seed: u64,
    /// Print the counts as JSON
    #[arg(long)]
    pub json: bool,
}

fn share(text: &str) -> std::result::Result<f64, String> {
    let share = text.parse().ok().filter(|share| 0.0 < *share && *share < 1.0);
    share.ok_or_else(|| "give a number between 0 and 1, such as 0.3".to_string())
}

/// Prints cells, groups, perturbations and cell types of each part; warnings and notes go to stderr. Errors name the clause.
pub fn run(args: Args) -> Result<()> {
    let data = Data::open(&args.data)?;
    let split = match (args.split, args.preset, args.out) {
        (Some(path), ..) => Split::load(&path, &data)?,
        (None, Some(preset), Some(out)) => {
            aside::apart(&[&out], &[&args.data])?;
            H5ad::replaceable_by_text(&out)?;
            let few = args.few_shot.map(|share| FewShot { share, seed: args.seed });
            let text = preset.text(&data, few)?;
            // Checked first: nothing is written that `train` would refuse.
            let split = Split::of_text(&text, &out, &data)?;
            aside::whole(&out, &text)?;
            split
        }
        _ => return Err(Error::setting("split", "give a split file, or --preset with --out")),
    };
    let report = split.report(&data);
    report.warnings.iter().for_each(words::warning);
    report.notes.iter().for_each(words::note);
    if args.json {
        words::print_json(&report);
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
    text.push_str(&format!("sha256 {}\n", report.sha256));
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
