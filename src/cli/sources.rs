//! Options of the commands that read cells as they come: which files, what their values are, which genes vary.

use std::path::PathBuf;

use crate::data::preprocess::hvg::Flavor;
use crate::data::preprocess::{Filters, Genes, Settings, Target};
use crate::data::shard::Scale;
use crate::error::{Error, Result};

/// Heading of the options that most data sets do not need; they come after a command's own.
const READING: &str = "How files are read";

/// The files, and how they are read.
#[derive(Debug, clap::Args)]
pub(super) struct SourceArgs {
    /// h5ad files, 10x .h5 files or mtx folders, Tahoe's parquet shards or a folder of them; genes are matched by name
    #[arg(value_name = "IN.h5ad", required = true)]
    inputs: Vec<PathBuf>,
    /// Table of labels: .csv or .tsv with a header (.gz or not; R's write.table too), or .parquet. Cells are matched by name: by
    /// the column named like the index of obs (10x: barcode), else pandas' index (.parquet), else the first column. If several
    /// input files share a name, the table has it with the number of the file appended, from 0 (AAAC-1-0, AAAC-1-1). Columns of the
    /// table take precedence over those of obs
    #[arg(long, help_heading = READING, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// Align the genes of several files by this column of var, such as gene_ids, instead of by name
    #[arg(long, help_heading = READING, value_name = "COLUMN")]
    gene_id: Option<String>,
    /// Treat genes that a file lacks as zeros, instead of refusing the file
    #[arg(long, help_heading = READING)]
    fill_missing: bool,
    /// obs column with each cell's total counts, for files that hold only part of the measured genes [default: the sum of the counts]
    #[arg(long, help_heading = READING, value_name = "COLUMN")]
    size_col: Option<String>,
    /// Total to which counts are scaled: a number, median (of all cells) or median-nonzero (of cells with counts) [default: 10000].
    /// For log values: the total to which they were scaled, if the values do not show it
    #[arg(long, help_heading = READING, value_name = "TOTAL", value_parser = target)]
    target_sum: Option<Target>,
    /// Matrix to read: auto (X), X, raw, layers/NAME or obsm/NAME
    #[arg(long, help_heading = READING, default_value = "auto")]
    source: String,
    /// Scale of the values: raw counts, log1p (natural log), or log1p10 (log1p divided by 10); auto detects it
    #[arg(long, help_heading = READING, value_enum, default_value_t = AskedScale::Auto)]
    scale: AskedScale,
}

/// How genes are chosen.
#[derive(Debug, clap::Args)]
pub(super) struct GeneArgs {
    /// Keep this many of the most variable genes
    #[arg(long, value_name = "N", default_value_t = Genes::TOP)]
    n_top_genes: usize,
    /// How genes are ranked: scanpy's flavors
    #[arg(long, value_enum, default_value_t = Flavor::Seurat)]
    flavor: Flavor,
    /// Rank genes within each batch of this obs column, then merge the ranks
    #[arg(long, value_name = "COLUMN")]
    hvg_batch_key: Option<String>,
    /// Rank genes by log1p / 10 instead of by log1p: one reading of the paper's "rescaled by a constant factor of 10 before HVG
    /// selection"
    #[arg(long)]
    rescale_before_hvg: bool,
}

/// What is left out before the counts are normalised.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters, in this order")]
pub(super) struct FilterArgs {
    /// Leave out cells with fewer counts
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_counts: u64,
    /// Leave out cells that express fewer genes
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_genes: u64,
    /// Leave out genes that fewer of the remaining cells express
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_cells: u64,
}

/// What the user may say the values are.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum AskedScale {
    Auto,
    Counts,
    Log1p,
    Log1p10,
}

impl AskedScale {
    /// `None` if it is to be detected.
    pub(super) fn told(self) -> Option<Scale> {
        match self {
            AskedScale::Auto => None,
            AskedScale::Counts => Some(Scale::Counts),
            AskedScale::Log1p => Some(Scale::Log1p),
            AskedScale::Log1p10 => Some(Scale::Log1p10),
        }
    }
}

fn target(text: &str) -> std::result::Result<Target, String> {
    match text {
        "median" => Ok(Target::Median),
        "median-nonzero" => Ok(Target::MedianNonzero),
        number => {
            number.parse().map(Target::Sum).map_err(|_| "give a number, median or median-nonzero".to_string())
        }
    }
}

/// The matrix that `--source` names; `None` for auto.
pub(super) fn matrix(source: String) -> Result<Option<String>> {
    match source.as_str() {
        "auto" => Ok(None),
        "X" | "raw" => Ok(Some(source)),
        other if other.starts_with("layers/") || other.starts_with("obsm/") => Ok(Some(source)),
        other => {
            let what = format!("{other} is not supported; give auto, X, raw, layers/NAME or obsm/NAME");
            Err(Error::setting("--source", what))
        }
    }
}

/// What these options ask for; output and columns of labels are still empty.
pub(super) fn settings(source: SourceArgs, genes: GeneArgs, filters: &FilterArgs) -> Result<Settings> {
    let matrix = matrix(source.source)?.unwrap_or("X".into());
    let &FilterArgs { min_counts, min_genes, min_cells } = filters;
    Ok(Settings {
        inputs: source.inputs,
        labels: source.labels,
        gene_id: source.gene_id,
        fill_missing: source.fill_missing,
        filters: Filters { min_counts, min_genes, min_cells, ..Filters::default() },
        genes: Genes::Top(genes.n_top_genes),
        flavor: genes.flavor,
        hvg_batch: genes.hvg_batch_key,
        rescale_before_hvg: genes.rescale_before_hvg,
        size: source.size_col,
        target: source.target_sum,
        source: matrix,
        scale: source.scale.told(),
        ..Settings::default()
    })
}
