//! `scale-engine predict`.

use std::path::PathBuf;

use super::sources::{AskedScale, matrix};
use super::written::Written;
use super::{device, signal, words};
use crate::config::Observe;
use crate::data::population::Unit;
use crate::data::split::Part;
use crate::error::{Error, Result, counted, some_of};
use crate::predict::{ControlFile, Report, Settings, Source, predict};
use crate::progress::Progress;

const EXAMPLE: &str = "\
Examples:
  scale-engine predict RUN --data DATA --split held_out.toml --subset test \\
      --with-controls --out pred.h5ad --real-out real.h5ad
  scale-engine predict RUN-0 RUN-1 RUN-2 --data DATA --split held_out.toml \\
      --out pred.h5ad --effects-out effects.h5ad
  scale-engine predict RUN --controls my_controls.h5ad --request wanted.csv \\
      --out pred.h5ad

The first predicts the held-out cells of a split, for `evaluate`; the second averages three runs; the third predicts perturbations \
that the run was trained on, from your own control cells:
  wanted.csv         perturbation,cell_type,batch,cells
                     IFNB1,B,all,200
  my_controls.h5ad   counts or log1p values, and the run's columns of labels
batch is one of the run's, or `all` if it was trained without batches. In a file without the column of perturbations all cells count \
as controls. Genes are aligned as the run's were, by name or id, and missing ones reported. The prediction of a population does not depend on the other rows.";

/// Predict perturbed populations with a trained run
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Run directory (uses its best checkpoint, or its last if there is no best), or a checkpoint file. Give several, trained on the
    /// same data with different seeds, and their predictions are averaged cell by cell
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Data directory; the groups in one part of --split are predicted
    #[arg(long, value_name = "DATA", requires = "split", conflicts_with = "controls")]
    data: Option<PathBuf>,
    /// Split file
    #[arg(long, value_name = "S.toml", requires = "data", conflicts_with = "controls")]
    split: Option<PathBuf>,
    /// Control cells to predict from, instead of a data directory
    #[arg(long, value_name = "F.h5ad", requires = "request")]
    controls: Option<PathBuf>,
    /// Populations to predict, a .csv with the columns perturbation,cell_type,batch,cells (or a .tsv; .gz or not)
    #[arg(long, value_name = "R.csv", requires = "controls", conflicts_with = "data")]
    request: Option<PathBuf>,
    /// File to write
    #[arg(long, value_name = "PRED.h5ad")]
    out: PathBuf,
    /// Also write the mean effect of each population, before counts are drawn. X is the mean of its cells minus that of the control
    /// cells they were made from (log1p), which is layers/control; of several runs, layers/spread is the standard deviation of their
    /// effects, gene by gene, and the obs column agreement the mean correlation of two runs' effects
    #[arg(long, value_name = "EFFECTS.h5ad")]
    effects_out: Option<PathBuf>,
    /// Also write the measured cells of these groups and their control cells: the file for `evaluate --real`
    #[arg(long, value_name = "REAL.h5ad", requires = "data", conflicts_with = "controls")]
    real_out: Option<PathBuf>,
    /// Data directory whose control cells are written to --real-out in place of DATA's. It must have the same genes (`preprocess
    /// --genes DATA`) and hold control cells that training never saw, so that scores do not reward what training learned of the
    /// noise of its own control cells
    #[arg(long, value_name = "DATA2", requires = "real_out")]
    real_controls: Option<PathBuf>,
    /// Part of the split to predict
    #[arg(long, value_name = "train|val|test", default_value = "test", conflicts_with = "controls")]
    subset: Part,
    /// Matrix of the control cells: X, raw, layers/NAME or obsm/NAME; auto is the --source of the data that the run was trained on
    #[arg(long, default_value = "auto", requires = "controls", conflicts_with = "data")]
    source: String,
    /// Table of the control cells' labels, as for `preprocess`: its columns stand before those of the file
    #[arg(long, value_name = "FILE", requires = "controls", conflicts_with = "data")]
    labels: Option<PathBuf>,
    /// Column with the control cells' total counts, if their file lacks some of the measured genes [default: the --size-col of
    /// the data that the run was trained on]
    #[arg(long, value_name = "COLUMN", requires = "controls", conflicts_with = "data")]
    size_col: Option<String>,
    /// Scale of the control cells' values; auto detects it
    #[arg(long, value_enum, default_value_t = AskedScale::Auto, requires = "controls", conflicts_with = "data")]
    scale: AskedScale,
    /// Also write the control cells, which `evaluate` needs under cell-eval's rules (`baseline` writes them by default)
    #[arg(long)]
    with_controls: bool,
    /// `none` writes the predicted means, `poisson` draws counts around them [default: the run's own predict.observe]
    #[arg(long)]
    observe: Option<Observe>,
    /// Features of perturbations that the run's data do not have, in the same columns as in the table of `train
    /// --perturbation-features`
    #[arg(long, value_name = "TABLE")]
    perturbation_features: Option<PathBuf>,
    #[command(flatten)]
    device: device::Choice,
    /// What values to write, in --real-out too. Counts are those that `poisson` draws, and total_counts in obs is the total by which
    /// they were drawn, that of the control cell; `evaluate` scales each file of counts to its own median total
    #[arg(long, value_enum, default_value_t = Unit::Log1p)]
    values: Unit,
    /// Seed for drawing control cells, start noise and counts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// Predicts and prints a report.
pub fn run(args: Args) -> Result<()> {
    let source = match (args.data, args.split, args.controls, args.request) {
        (Some(data), Some(split), ..) => {
            let (real_out, real_controls) = (args.real_out, args.real_controls);
            Source::Data { data, split, part: args.subset, real_out, real_controls }
        }
        (_, _, Some(controls), Some(request)) => {
            let controls = ControlFile {
                path: controls,
                source: matrix(args.source)?,
                labels: args.labels,
                size: args.size_col,
                scale: args.scale.told(),
            };
            Source::File { controls, request }
        }
        _ => return Err(Error::setting("predict", "give --data with --split, or --controls with --request")),
    };
    let settings = Settings {
        gpu: args.device.open()?,
        runs: args.runs,
        out: args.out,
        effects_out: args.effects_out,
        source,
        with_controls: args.with_controls,
        observe: args.observe,
        unit: args.values,
        features: args.perturbation_features,
        seed: args.seed,
    };
    let progress = Progress::terminal();
    signal::stop(&progress, "at the next cell")?;
    let report = signal::ended(predict(&settings, &progress))?;
    if args.json {
        words::print_json(&report);
        return Ok(());
    }
    report.warnings.iter().for_each(words::warning);
    report.notes.iter().for_each(words::note);
    if !report.missing_genes.is_empty() {
        words::note(format_args!(
            "genes of the model that are missing and taken as zero: {} ({})",
            report.missing_genes.len(),
            some_of(&report.missing_genes)
        ));
    }
    let by = report.by();
    let Report { out, effects_out, real_out, populations, cells, control_cells, measured_cells, .. } = report;
    Written { out, populations, cells, control_cells, by, real_out, measured_cells }.print();
    if let Some(path) = effects_out {
        println!("{}: the mean effects of {}", path.display(), counted(populations, "population"));
    }
    Ok(())
}
