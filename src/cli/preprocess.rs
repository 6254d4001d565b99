//! `scale-engine preprocess`: h5ad files to a data directory.

use std::path::PathBuf;

use super::signal;
use crate::data::preprocess::hvg::Flavor;
use crate::data::preprocess::{
    Filtered, Filters, Genes, Joined, Knockdown, PartName, Parts, Plan, Settings, SharedGenes, Summary,
    Target, plan, preprocess_parts,
};
use crate::data::shard::Scale;
use crate::error::{Error, Result, some_of};
use crate::profile::positive;
use crate::progress;

const EXAMPLE: &str = "\
Examples:
  scale-engine preprocess screen.h5ad --out DATA --pert-col gene \\
      --control-pert non-targeting --celltype-col cell_line --batch-col gem_group
  scale-engine preprocess filtered_feature_bc_matrix.h5 --labels guides.csv --out DATA \\
      --pert-col guide --control-pert non-targeting --celltype-col cell_line
  scale-engine preprocess Tahoe-100M/data --out DATA --pert-col drugname_drugconc \\
      --control-pert \"[('DMSO_TF', 0.0, 'uM')]\" --celltype-col cell_line_id --batch-col plate

Files may be .h5ad of any age, Cell Ranger's .h5, a folder with matrix.mtx, or Tahoe's parquet shards: one, or a folder of them beside the release's folder metadata. X may hold raw counts or log1p of normalised counts; which of them is found out, said and recorded, and anything else is \
refused. Cells without a perturbation, cell type or batch label are left out and counted.

A run that was killed goes on where the same command is given again. On a cluster each part is a job: first those of a pass, in any \
order and on any machine, then those of the next; the command without --part does what is missing, and merges.

  scale-engine preprocess plate*.h5ad ... --out DATA --work WORK --part moments/0

DATA then serves split, train, predict, baseline and export. DATA/var.csv tells of every gene how variable it is.";

/// Turn h5ad files or 10x output into a data directory: genes chosen, cells grouped by condition, in shards
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// h5ad files, .h5 files or mtx folders of 10x, parquet shards of Tahoe or a folder of them; genes are matched by name
    #[arg(value_name = "IN.h5ad", required = true)]
    inputs: Vec<PathBuf>,
    /// Data directory to make
    #[arg(long, value_name = "DATA")]
    out: PathBuf,
    /// Table of labels, .parquet, or .csv or .tsv with a header, cell names first: its columns go before those of obs
    #[arg(long, value_name = "FILE")]
    labels: Option<PathBuf>,
    /// obs column of perturbations
    #[arg(long, value_name = "COLUMN")]
    pert_col: String,
    /// Label of unperturbed cells in that column
    #[arg(long, value_name = "LABEL", allow_hyphen_values = true)]
    control_pert: String,
    /// obs column of cell types
    #[arg(long, value_name = "COLUMN")]
    celltype_col: String,
    /// obs column of batches; without it all cells are of one batch
    #[arg(long, value_name = "COLUMN")]
    batch_col: Option<String>,
    /// Align the genes of several files by this column of var, such as gene_ids, instead of by name
    #[arg(long, value_name = "COLUMN")]
    gene_id: Option<String>,
    /// Take zeros for genes that a file lacks, instead of refusing it
    #[arg(long)]
    fill_missing: bool,
    /// Keep this many of the most variable genes
    #[arg(long, value_name = "N", default_value_t = 2000)]
    n_top_genes: usize,
    /// Keep the genes of this file instead, one name a line, in its order; or those of another data directory
    #[arg(long, value_name = "FILE|DATA", conflicts_with = "n_top_genes")]
    genes: Option<PathBuf>,
    /// How genes are ranked, as scanpy does
    #[arg(long, value_enum, default_value_t = Flavor::Seurat)]
    flavor: Flavor,
    /// Rank genes within the batches of this obs column, then merge
    #[arg(long, value_name = "COLUMN")]
    hvg_batch_key: Option<String>,
    /// Rank genes by log1p / 10, as the paper's words have it, instead of by log1p
    #[arg(long, conflicts_with = "genes")]
    rescale_before_hvg: bool,
    /// obs column of a cell's total counts, where the file holds a part of the genes that were measured; else they are summed
    #[arg(long, value_name = "COLUMN")]
    size_col: Option<String>,
    /// Total to which counts are scaled: a number, median (all cells) or median-nonzero (cells with counts) [default: 10000]; of
    /// log values the number to which they were scaled, where their cells do not tell
    #[arg(long, value_name = "TOTAL", value_parser = target)]
    target_sum: Option<Target>,
    /// Matrix to read: auto (X), X, raw, layers/NAME or obsm/NAME
    #[arg(long, default_value = "auto")]
    source: String,
    /// What the values are; auto finds out
    #[arg(long, value_enum, default_value_t = AskedScale::Auto)]
    scale: AskedScale,
    /// Tell what would be done and how much disk it takes at most, without doing it
    #[arg(long)]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    parts: PartArgs,
}

/// What values are, as the user may tell.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(super) enum AskedScale {
    Auto,
    Counts,
    Log1p,
    Log1p10,
}

impl AskedScale {
    /// None where it is to be found out.
    pub(super) fn told(self) -> Option<Scale> {
        match self {
            AskedScale::Auto => None,
            AskedScale::Counts => Some(Scale::Counts),
            AskedScale::Log1p => Some(Scale::Log1p),
            AskedScale::Log1p10 => Some(Scale::Log1p10),
        }
    }
}

/// How the work is cut.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "In parts")]
struct PartArgs {
    /// Folder of what is made before DATA; the same command goes on with what lies there. Without it `.DATA.parts`, which only a
    /// killed run leaves
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Make this part alone, the first is 0: the passes and the number of parts are told by --dry-run
    #[arg(long, value_name = "PASS/K", requires = "work")]
    part: Option<PartName>,
    /// Cells of a part, at most
    #[arg(long, value_name = "N", default_value_t = Parts::default().cells, value_parser = positive)]
    part_cells: usize,
}

/// What is left out before the counts are normalised.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters, in this order")]
struct FilterArgs {
    /// Leave out cells with fewer counts
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_counts: u64,
    /// Leave out cells that express fewer genes
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_genes: u64,
    /// Leave out genes that fewer of those cells express
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_cells: u64,
    /// Keep perturbations and cells that lower the gene they are named for, by cell-load's rules
    #[arg(long)]
    knockdown_filter: bool,
    /// What a perturbation may leave of its gene, as a share of the control cells' mean
    #[arg(long, value_name = "SHARE", default_value_t = 0.3, requires = "knockdown_filter")]
    residual_expression: f64,
    /// What one cell may leave of it
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, requires = "knockdown_filter")]
    cell_residual_expression: f64,
    /// Leave out perturbations with fewer cells, over all cell types [default: 30 with --knockdown-filter]
    #[arg(long, value_name = "N")]
    min_cells_per_pert: Option<u64>,
}

impl FilterArgs {
    fn filters(&self) -> Filters {
        let (residual, cell_residual) = (self.residual_expression, self.cell_residual_expression);
        Filters {
            min_counts: self.min_counts,
            min_genes: self.min_genes,
            min_cells: self.min_cells,
            knockdown: self.knockdown_filter.then_some(Knockdown { residual, cell_residual }),
            min_cells_per_pert: self.min_cells_per_pert.unwrap_or(if self.knockdown_filter { 30 } else { 0 }),
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

/// Makes the data directory and prints what it holds.
///
/// # Errors
/// As [`preprocess`](crate::data::preprocess::preprocess), and options that are not supported.
pub fn run(args: Args) -> Result<()> {
    let (json, dry) = (args.json, args.dry_run);
    let PartArgs { work, part, part_cells } = &args.parts;
    let parts = Parts { cells: *part_cells, work: work.clone(), only: part.clone() };
    let settings = settings(args)?;
    if dry {
        return tell(&settings, &parts, json);
    }
    crate::memory::keep();
    crate::memory::share();
    signal::tell("stopped; the same command goes on where it was")?;
    let bar = progress::bar("preprocess", 0, "cells");
    let Some(summary) = preprocess_parts(&settings, &parts, &bar)? else { return Ok(()) };
    if summary.perturbations < 2 {
        eprintln!("note: all cells are controls ({:?}): nothing can be trained on them", settings.control);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&summary).expect("a summary is plain JSON"));
    } else {
        print(&settings, &summary);
    }
    Ok(())
}

/// `--dry-run`.
fn tell(settings: &Settings, parts: &Parts, json: bool) -> Result<()> {
    let plan = plan(settings, parts)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&plan).expect("a plan is plain JSON"));
        return Ok(());
    }
    println!("would make      {}", settings.out.display());
    println!("values          {}: {}", words(plan.scale), plan.why);
    println!("cells           {} before filters", plan.cells);
    print_labels(plan.joined.as_ref(), plan.dropped, &plan.missing);
    println!("genes           {} of {}", plan.genes, plan.source_genes);
    print_shared(plan.shared.as_ref());
    let Plan { groups, perturbations, cell_types, batches, .. } = plan;
    print_groups(&Counted { perturbations, cell_types, batches, groups });
    println!("reads           {:.1} MB {} times", plan.source_bytes as f64 / 1e6, plan.passes.len());
    println!("passes          {}, of {} parts each", plan.passes.join(", "), plan.parts);
    println!("shards          at most {:.1} MB, twice that while they are made", plan.bytes as f64 / 1e6);
    plan.notes.iter().for_each(|note| println!("note            {note}"));
    Ok(())
}

fn words(scale: Scale) -> &'static str {
    match scale {
        Scale::Counts => "counts",
        Scale::Log1p => "log1p",
        Scale::Log1p10 => "log1p / 10",
    }
}

fn print_labels(joined: Option<&Joined>, dropped: u64, missing: &[(String, u64)]) {
    if let Some(joined) = joined {
        println!("labels          {} cells with a row, {} without", joined.matched, joined.unmatched);
        if joined.unused > 0 {
            let first: Vec<&str> = joined.first_unused.iter().map(String::as_str).collect();
            println!("                {} rows without a cell, such as {}", joined.unused, some_of(&first));
        }
    }
    if dropped > 0 {
        let columns: Vec<String> =
            missing.iter().map(|(column, cells)| format!("{column}: {cells}")).collect();
        println!("left out        {dropped} cells without a label ({})", columns.join(", "));
    }
}

/// Labels that occur, and groups of cells that share all three.
struct Counted {
    perturbations: usize,
    cell_types: usize,
    batches: usize,
    groups: usize,
}

fn print_groups(counted: &Counted) {
    println!("perturbations   {} with the control", counted.perturbations);
    println!("cell types      {}", counted.cell_types);
    println!("batches         {}", counted.batches);
    println!("groups          {}", counted.groups);
}

fn print_shared(shared: Option<&SharedGenes>) {
    if let Some(shared) = shared {
        let lacking: Vec<String> =
            shared.lacking.iter().map(|(file, genes)| format!("{file} lacks {genes}")).collect();
        let lacking = if lacking.is_empty() { String::new() } else { format!(" ({})", lacking.join(", ")) };
        println!("                {} in all files, {} only in some{lacking}", shared.common, shared.partial);
    }
}

fn settings(args: Args) -> Result<Settings> {
    let source = match args.source.as_str() {
        "auto" => "X".to_string(),
        "X" | "raw" => args.source,
        other if other.starts_with("layers/") || other.starts_with("obsm/") => args.source,
        other => {
            let what = format!("{other} is not supported; give auto, X, raw, layers/NAME or obsm/NAME");
            return Err(Error::setting("--source", what));
        }
    };
    Ok(Settings {
        inputs: args.inputs,
        labels: args.labels,
        gene_id: args.gene_id,
        fill_missing: args.fill_missing,
        out: args.out,
        perturbation: args.pert_col,
        control: args.control_pert,
        cell_type: args.celltype_col,
        batch: args.batch_col,
        filters: args.filters.filters(),
        genes: args.genes.map_or(Genes::Top(args.n_top_genes), Genes::Listed),
        flavor: args.flavor,
        hvg_batch: args.hvg_batch_key,
        rescale_before_hvg: args.rescale_before_hvg,
        size: args.size_col,
        target: args.target_sum,
        source,
        scale: args.scale.told(),
    })
}

fn print(settings: &Settings, summary: &Summary) {
    println!("data directory  {}", settings.out.display());
    println!("values          {}: {}", words(summary.scale), summary.why);
    if let Some(target) = summary.target {
        println!("cell total      {target}");
    }
    println!("cells           {}", summary.cells);
    print_labels(summary.joined.as_ref(), summary.dropped, &summary.missing);
    if let Some(filtered) = &summary.filtered {
        print_filtered(filtered);
    }
    println!("genes           {} of {}", summary.genes, summary.source_genes);
    print_shared(summary.shared.as_ref());
    let Summary { groups, perturbations, cell_types, batches, .. } = *summary;
    print_groups(&Counted { perturbations, cell_types, batches, groups });
    println!("shards          {:.1} MB", summary.bytes as f64 / 1e6);
    for note in &summary.notes {
        println!("note            {note}");
    }
}

fn print_filtered(filtered: &Filtered) {
    println!(
        "filtered        {} cells with few counts, {} with few genes; {} genes in few cells",
        filtered.few_counts, filtered.few_genes, filtered.rare_genes
    );
    if let Some(found) = &filtered.knockdown {
        println!("knock-down      {found}");
        println!(
            "                {} cells of those left out, {} of the kept that do not lower it",
            found.cells_of_others, found.cells_not_lowered
        );
    }
    if filtered.small_groups > 0 {
        println!(
            "small groups    {} perturbations with {} cells left out",
            filtered.small_groups, filtered.small_group_cells
        );
    }
}
