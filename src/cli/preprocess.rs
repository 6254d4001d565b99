//! `scale-engine preprocess`: h5ad files to a data directory.

use std::path::PathBuf;

use super::sources::{self, FilterArgs, GeneArgs, SourceArgs};
use super::{signal, words};
use crate::data::preprocess::{
    Contents, Filtered, Filters, Genes, Knockdown, PartName, Parts, Plan, Settings, SharedGenes, Summary,
    plan, preprocess_parts,
};
use crate::error::{Result, some_of};
use crate::profile::positive;
use crate::progress::Progress;

const EXAMPLE: &str = "\
Examples:
  scale-engine preprocess screen.h5ad --out DATA --pert-col gene \\
      --control-pert non-targeting --celltype-col cell_line \\
      --batch-col gem_group
  scale-engine preprocess filtered_feature_bc_matrix.h5 --labels guides.csv \\
      --out DATA --pert-col guide --control-pert non-targeting \\
      --celltype-col cell_line
  scale-engine preprocess Tahoe-100M/data --out DATA \\
      --pert-col drugname_drugconc --control-pert \"[('DMSO_TF', 0.0, 'uM')]\" \\
      --celltype-col cell_line_id --batch-col plate

Inputs may be .h5ad files of any anndata version, Cell Ranger's .h5 files, folders with matrix.mtx, or Tahoe's parquet shards: one file, or \
a folder of them beside the release's folder `metadata`. X may hold raw counts or log1p of normalised counts; the program detects which, \
says so and records it, and refuses anything else. Cells without a perturbation, cell type or batch label are left out and counted.

To continue a run that was killed, give the same command again. On a cluster each part can be a job: first all parts of one pass, in any \
order and on any machine, then those of the next. At the end, the command without --part makes what is missing and merges the parts.

  scale-engine preprocess plate*.h5ad ... --out DATA --work WORK \\
      --part moments/0

split, train, predict, baseline and export then read DATA. DATA/var.csv says how variable each gene is.";

/// Turn h5ad files or 10x output into a data directory: choose genes, group cells by condition, write shards
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,
    /// Data directory to make
    #[arg(long, value_name = "DATA")]
    out: PathBuf,
    /// obs column of perturbations
    #[arg(long, value_name = "COLUMN")]
    pert_col: String,
    /// Label of unperturbed cells in that column; may be repeated: all these labels are then renamed to the first
    #[arg(long, value_name = "LABEL", required = true, allow_hyphen_values = true)]
    control_pert: Vec<String>,
    /// obs column of cell types; without it all cells of a file are one cell type, named after the file (K562.h5ad: K562)
    #[arg(long, value_name = "COLUMN")]
    celltype_col: Option<String>,
    /// obs column of batches; without it all cells form one batch
    #[arg(long, value_name = "COLUMN")]
    batch_col: Option<String>,
    #[command(flatten)]
    choice: GeneArgs,
    /// Keep these genes instead: those of another data directory, of a file with one name per line, in its order, or of a table with a
    /// column highly_variable, as `genes` and scanpy write it
    #[arg(long, value_name = "FILE|DATA", conflicts_with_all = ["n_top_genes", "flavor", "hvg_batch_key", "rescale_before_hvg"])]
    genes: Option<PathBuf>,
    /// Only say what would be done and how much disk space it would take at most
    #[arg(long)]
    dry_run: bool,
    /// Print the summary as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    filters: FilterArgs,
    #[command(flatten)]
    more: GroupFilterArgs,
    #[command(flatten)]
    parts: PartArgs,
}

/// How the work is cut.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Work in parts")]
struct PartArgs {
    /// Folder for intermediate results; the same command continues from what is there [default: `.DATA.parts`, which is removed
    /// unless the run is killed]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
    /// Make only part K (from 0) of this pass; --dry-run lists the passes and the number of parts
    #[arg(long, value_name = "PASS/K", requires = "work")]
    part: Option<PartName>,
    /// Cells per part, at most
    #[arg(long, value_name = "N", default_value_t = Parts::default().cells, value_parser = positive)]
    part_cells: usize,
}

/// Filters that need labels; they follow the others.
#[derive(Debug, clap::Args)]
struct GroupFilterArgs {
    /// Keep only perturbations that lower the expression of the gene they are named after, and only cells in which it is low, by
    /// cell-load's rules
    #[arg(long)]
    knockdown_filter: bool,
    /// Highest mean expression of the target gene that may remain under a perturbation, as a share of the control cells' mean
    #[arg(long, value_name = "SHARE", default_value_t = Knockdown::default().residual, requires = "knockdown_filter")]
    residual_expression: f64,
    /// The same limit for a single cell
    #[arg(long, value_name = "SHARE", default_value_t = Knockdown::default().cell_residual, requires = "knockdown_filter")]
    cell_residual_expression: f64,
    /// Leave out perturbations with fewer cells in all cell types together [default: 30 with --knockdown-filter, else 0]
    #[arg(long, value_name = "N")]
    min_cells_per_pert: Option<u64>,
}

impl GroupFilterArgs {
    fn add_to(&self, filters: &mut Filters) {
        let (residual, cell_residual) = (self.residual_expression, self.cell_residual_expression);
        filters.knockdown = self.knockdown_filter.then_some(Knockdown { residual, cell_residual });
        filters.min_cells_per_pert =
            self.min_cells_per_pert.unwrap_or(if self.knockdown_filter { 30 } else { 0 });
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
    signal::tell("stopped; the same command continues what was begun")?;
    let Some(summary) = preprocess_parts(&settings, &parts, &Progress::terminal())? else { return Ok(()) };
    if summary.contents.perturbations < 2 {
        words::note(format_args!(
            "all cells are controls ({:?}): nothing can be trained on them",
            settings.control
        ));
    }
    if json {
        words::print_json(&summary);
    } else {
        print(&summary);
    }
    Ok(())
}

/// `--dry-run`.
fn tell(settings: &Settings, parts: &Parts, json: bool) -> Result<()> {
    let plan = plan(settings, parts)?;
    if json {
        words::print_json(&plan);
        return Ok(());
    }
    let Plan { out, contents, passes, parts, source_bytes, bytes } = &plan;
    println!("would make      {}", out.display());
    println!("values          {}: {}", contents.scale.name(), contents.why);
    println!("cells           {} before filters", contents.cells);
    print_labels(contents);
    print_genes_and_groups(contents);
    println!("reads           {:.1} MB {} times", *source_bytes as f64 / 1e6, passes.len());
    println!("passes          {}, in {parts} parts each", passes.join(", "));
    println!("shards          at most {:.1} MB, twice that while they are made", *bytes as f64 / 1e6);
    print_notes(&contents.notes);
    Ok(())
}

fn print_labels(contents: &Contents) {
    if let Some(joined) = &contents.joined {
        println!("labels          {} cells with a row, {} without", joined.matched, joined.unmatched);
        if joined.unused > 0 {
            let first = some_of(&joined.first_unused);
            println!("                {} rows without a cell, such as {first}", joined.unused);
        }
    }
    if contents.dropped > 0 {
        let missing = contents.missing.iter();
        let columns: Vec<String> = missing.map(|(column, cells)| format!("{column}: {cells}")).collect();
        println!("left out        {} cells without a label ({})", contents.dropped, columns.join(", "));
    }
}

fn print_genes_and_groups(contents: &Contents) {
    println!("genes           {} of {}", contents.genes, contents.source_genes);
    print_shared(contents.shared.as_ref());
    println!("perturbations   {} including the control", contents.perturbations);
    println!("cell types      {}", contents.cell_types);
    println!("batches         {}", contents.batches);
    println!("groups          {}", contents.groups);
}

/// What the genes of several files have in common.
pub(super) fn print_shared(shared: Option<&SharedGenes>) {
    let Some(shared) = shared else { return };
    let lacking: Vec<String> =
        shared.lacking.iter().map(|(file, genes)| format!("{file} lacks {genes}")).collect();
    let lacking = if lacking.is_empty() { String::new() } else { format!(" ({})", lacking.join(", ")) };
    println!("                {} in all files, {} only in some{lacking}", shared.common, shared.partial);
}

pub(super) fn print_notes(notes: &[String]) {
    notes.iter().for_each(|note| println!("note            {}", words::in_options(note)));
}

fn settings(args: Args) -> Result<Settings> {
    let mut controls = args.control_pert.into_iter();
    let mut settings = Settings {
        out: args.out,
        perturbation: args.pert_col,
        control: controls.next().expect("a required option"),
        other_controls: controls.collect(),
        cell_type: args.celltype_col,
        batch: args.batch_col,
        ..sources::settings(args.source, args.choice, &args.filters)?
    };
    args.more.add_to(&mut settings.filters);
    if let Some(list) = args.genes {
        settings.genes = Genes::Listed(list);
    }
    Ok(settings)
}

fn print(summary: &Summary) {
    let Summary { out, contents, target, filtered, bytes } = summary;
    println!("data directory  {}", out.display());
    println!("values          {}: {}", contents.scale.name(), contents.why);
    if let Some(target) = target {
        println!("cell total      {target}");
    }
    println!("cells           {}", contents.cells);
    print_labels(contents);
    if let Some(filtered) = filtered {
        print_filtered(filtered);
    }
    print_genes_and_groups(contents);
    println!("shards          {:.1} MB", *bytes as f64 / 1e6);
    print_notes(&contents.notes);
}

pub(super) fn print_filtered(filtered: &Filtered) {
    println!(
        "filtered        {} cells with few counts, {} with few genes; {} genes in few cells",
        filtered.few_counts, filtered.few_genes, filtered.rare_genes
    );
    if let Some(found) = &filtered.knockdown {
        println!("knock-down      {found}");
        println!(
            "                {} cells of those left out, {} cells of the kept ones that do not lower it",
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
