//! `scale-engine evaluate`: predicted against measured cells.

mod beside;
mod table;

use std::path::{Path, PathBuf};

use beside::baselines;
use serde_json::{Map, Value, json};

use super::words;
use crate::aside;
use crate::config::Observe;
use crate::data::h5ad::H5ad;
use crate::data::population::{CONTROL_PERT, OBSERVE, PERT_COL, WARNING};
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{Error, Result, some_of};
use crate::evaluate::Settings;
use crate::evaluate::board::{Board, notes};
use crate::evaluate::files::{Files, check_unit, evaluate_files, fingerprints};
use crate::evaluate::registry::Profile;
use crate::evaluate::rules::Rules;
use crate::evaluate::{figures, page, scores};
use crate::folder::names_in;
use crate::memory;

const EXAMPLE: &str = "\
Example:
  scale-engine evaluate --real real.h5ad --pred pred.h5ad \\
      --pert-col target_gene --control-pert non-targeting \\
      --celltype-col cell_line --out scores --report scores.html

Both files hold perturbed cells and control cells, the same genes in the same order, as log1p values or raw counts \
(`predict --with-controls --real-out` writes such a pair, which also records the perturbation column and the control label). The \
scores are those of cell-eval 0.6.6: a gene counts as changed at an FDR below 0.05, adjusted over all perturbations and genes \
together, and predicted cells are compared with the control cells of their own file. `--rules fixed` corrects the defects of these \
rules, `--rules paper` follows the paper's appendix A; both compare the cells of both files with the measured control cells.

The folder `scores` then holds, for each cell type T, T_results.csv (one row per perturbation), T_agg_results.csv, T_real_de.csv and \
T_pred_de.csv and T_results.json (without --celltype-col the names have no prefix); with --baselines or --ceiling also table.csv, one row \
per predictor.

The same with baselines, a ceiling and intervals to compare with:
  scale-engine evaluate --real real.h5ad --pred pred.h5ad --out scores \\
      --baselines DATA --split split.toml --ceiling --bootstrap 1000";

/// Score predicted cells against measured ones, by cell-eval's measures
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Predicted cells
    #[arg(long, value_name = "PRED.h5ad")]
    pred: PathBuf,
    /// Measured cells
    #[arg(long, value_name = "REAL.h5ad")]
    real: PathBuf,
    /// obs column of the perturbations [default: what predict, baseline or export recorded in the files, else target_gene]
    #[arg(long, value_name = "COLUMN")]
    pert_col: Option<String>,
    /// Label of the control cells [default: what these commands recorded, else non-targeting]
    #[arg(long, value_name = "LABEL", allow_hyphen_values = true)]
    control_pert: Option<String>,
    /// obs column of cell types; each is scored separately, into files prefixed with its name. Without it all cells are scored together
    #[arg(long, value_name = "COLUMN")]
    celltype_col: Option<String>,
    /// Folder for the results; files of an earlier run are replaced if they have the same name, else kept and listed
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Definitions of the measures
    #[arg(long, value_enum, default_value_t)]
    rules: Rules,
    /// Which measures to compute, by the names of cell-eval's profiles. None of them computes cell-eval's clustering_agreement,
    /// whose random numbers cannot be reproduced outside the libraries that it uses
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Measures to leave out, by their names in results.csv (de_nsig_counts stands for its two columns)
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    skip_metrics: Vec<String>,
    /// Also score every baseline, trained on the training part of this data directory
    #[arg(long, value_name = "DATA", requires = "split")]
    baselines: Option<PathBuf>,
    /// Split file for --baselines
    #[arg(long, value_name = "S.toml", requires = "baselines")]
    split: Option<PathBuf>,
    /// Part of the split that the baselines predict: the same one that PRED.h5ad predicts
    #[arg(long, value_name = "train|val|test", default_value = "test", requires = "baselines")]
    subset: Part,
    /// Table of features, as for `train --perturbation-features`, for the baseline `linear`
    #[arg(long, value_name = "TABLE", requires = "baselines")]
    perturbation_features: Option<PathBuf>,
    /// Whether to draw counts around the baselines' means [default: as PRED.h5ad was made, if it says so; else none]
    #[arg(long, value_name = "none|poisson", requires = "baselines")]
    observe: Option<Observe>,
    /// Also score one half of the measured cells against the other: about what a perfect prediction would score
    #[arg(long)]
    ceiling: bool,
    /// Resample the perturbations N times (1,000 is usual) for 95 % intervals of the means
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true, value_parser = resamples)]
    bootstrap: usize,
    /// HTML report to write: tables and figures in one self-contained file
    #[arg(long, value_name = "F.html")]
    report: Option<PathBuf>,
    /// Folder to write the figures of the report to, as .svg files
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    /// Print results.json instead of a table
    #[arg(long)]
    json: bool,
}

/// cell-eval's name for the column of the perturbations.
const PERTURBATIONS: &str = "target_gene";

/// The means of all are kept in memory, 8 bytes for each column of each predictor.
const MOST_RESAMPLES: usize = 100_000;

/// With a single resample every interval would have no width.
fn resamples(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(count) if count > MOST_RESAMPLES => Err(format!("at most {MOST_RESAMPLES}; 1,000 is usual")),
        Ok(1) => Err("needs two or more resamples; 1,000 is usual, 0 turns intervals off".into()),
        Ok(count) => Ok(count),
        Err(_) => Err("expected a whole number".into()),
    }
}

/// Evaluates, writes the files, prints the table.
pub fn run(args: Args) -> Result<()> {
    memory::keep(); // each block of genes or of rows needs as much as the last one gave back
    let [perturbation, control] = check(&args)?;
    let settings = Settings {
        control,
        rules: args.rules,
        profile: args.profile,
        skip_metrics: args.skip_metrics.clone(),
        ceiling: args.ceiling,
        bootstrap: args.bootstrap,
    };
    let files = Files {
        real: args.real.clone(),
        pred: args.pred.clone(),
        perturbation,
        cell_type: args.celltype_col.clone(),
    };
    let Outcome { boards, sources, written } = evaluate(&args, &files, &settings)?;
    notes(&boards).iter().for_each(words::note);
    let left = earlier(&args.out, &written)?;
    if !left.is_empty() {
        words::note(format_args!(
            "{} also contains results of an earlier run: {}",
            args.out.display(),
            some_of(&left)
        ));
    }
    match args.json {
        true => println!("{}", combined_json(&boards, sources)),
        false => table::print(&boards),
    }
    Ok(())
}

/// The column of the perturbations and the label of the control cells: as told, else as the files record them, else cell-eval's.
fn labels(args: &Args, real: &H5ad, pred: &H5ad) -> Result<[String; 2]> {
    let record = |file: &H5ad| Some((file.told(PERT_COL)?, file.told(CONTROL_PERT)?));
    let recorded = record(real).or_else(|| record(pred));
    let column = args.pert_col.clone().or_else(|| recorded.as_ref().map(|(column, _)| column.clone()));
    // A label was recorded of its own column alone.
    let label = recorded.filter(|(own, _)| column.as_ref() == Some(own)).map(|(_, label)| label);
    let control = args.control_pert.clone().or(label).unwrap_or_else(|| Settings::default().control);
    if let Some(column) = column {
        return Ok([column, control]);
    }
    let way = format!("; {PERTURBATIONS} is the default of --pert-col: name the column of the perturbations");
    for file in [real, pred] {
        H5ad::open_columns(file.path(), &[PERTURBATIONS], "X").map_err(|e| e.followed_by(&way))?;
    }
    Ok([PERTURBATIONS.into(), control])
}

/// Refuses what is better known before long work than after it; returns the column of the perturbations and the label of the
/// control cells.
fn check(args: &Args) -> Result<[String; 2]> {
    let inputs = [Some(&args.real), Some(&args.pred), args.baselines.as_ref(), args.split.as_ref()];
    let inputs: Vec<&PathBuf> = inputs.into_iter().flatten().chain(&args.perturbation_features).collect();
    aside::apart(args.report.as_slice(), &inputs)?;
    args.report.iter().try_for_each(|report| H5ad::replaceable_by_text(report))?;
    if Data::is_at(&args.out) {
        return Err(Error::format(&args.out, "is a data directory; choose another folder for the scores"));
    }
    let real = H5ad::open_columns(&args.real, &[], "X")?;
    if real.told(OBSERVE).is_some() {
        let real = args.real.display();
        words::note(format_args!("{real} is marked as a prediction: are --real and --pred swapped?"));
    }
    let pred = H5ad::open_columns(&args.pred, &[], "X")?;
    if let Some(warning) = pred.told(WARNING) {
        words::warning(format_args!("{}: {warning}", args.pred.display()));
    }
    for file in [&real, &pred] {
        check_unit(file)?;
        if args.rules == Rules::CellEval066 && file.storage().ends_with("f64") {
            words::note(format_args!(
                "{}: X is float64 and is read as float32: values that cell-eval distinguishes may tie here, which moves \
                 their p-values",
                file.path().display()
            ));
        }
    }
    labels(args, &real, &pred)
}

/// What was found, and the files that hold it.
struct Outcome {
    boards: Vec<Board>,
    /// The files that were read.
    sources: Value,
    /// Files written to the folder of the scores.
    written: Vec<PathBuf>,
}

fn evaluate(args: &Args, files: &Files, settings: &Settings) -> Result<Outcome> {
    let learned = match (&args.baselines, &args.split) {
        (Some(data), Some(split)) => {
            let data = Data::open(data)?;
            Some((Split::load(split, &data)?, data))
        }
        _ => None,
    };
    let features = args.perturbation_features.as_deref();
    let beside = learned.as_ref().map(|(split, data)| {
        let trained = super::baseline::trained(data, split, features)?;
        baselines(trained, data, split, args.subset, args.observe, files)
    });
    let beside = beside.transpose()?.into_iter().flatten();
    let (boards, sources) = rayon::join(|| evaluate_files(files, beside, settings), || fingerprints(files));
    let (boards, sources) = (boards?, sources?);
    let written = boards.iter().map(|board| board.write(&args.out, &sources));
    let mut written = written.collect::<Result<Vec<_>>>()?.concat();
    if boards.iter().any(|board| board.rows.len() > 1) {
        let table = args.out.join("table.csv");
        scores::write(&table, &scores::predictors(&boards))?;
        written.push(table);
    }
    if let Some(path) = &args.report {
        page::write(path, &boards, &sources)?;
    }
    if let Some(dir) = &args.plots {
        figures::write(dir, &boards)?;
    }
    Ok(Outcome { boards, sources, written })
}

/// The files that a run writes, with a cell type before their names or not.
const RESULTS: [&str; 6] =
    ["results.csv", "agg_results.csv", "real_de.csv", "pred_de.csv", "results.json", "table.csv"];

/// Results in a folder that this run did not write.
fn earlier(dir: &Path, written: &[PathBuf]) -> Result<Vec<String>> {
    let mut names = names_in(dir)?;
    names.retain(|name| RESULTS.iter().any(|end| name.ends_with(end)) && !written.contains(&dir.join(name)));
    Ok(names)
}

/// One board's JSON, or an object of them by cell type.
fn combined_json(boards: &[Board], sources: Value) -> Value {
    let mut all = match boards {
        [board] if board.cell_type.is_none() => board.json(),
        boards => {
            let part = |board: &Board| (board.cell_type.clone().unwrap_or_default(), board.json());
            json!({ "cell_types": boards.iter().map(part).collect::<Map<String, Value>>() })
        }
    };
    all["files"] = sources;
    all
}
