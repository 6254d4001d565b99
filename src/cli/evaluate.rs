//! `scale-engine evaluate`: predicted against measured cells.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::evaluate::files::{Files, evaluate_files, write};
use crate::evaluate::registry::{ABSENT, Profile, Rules, metric_of};
use crate::evaluate::{Report, Settings};

const EXAMPLE: &str = "\
Example:
  scale-engine evaluate --real real.h5ad --pred pred.h5ad --pert-col target_gene \\
      --control-pert non-targeting --out scores

Both files hold perturbed cells and control cells, the same genes in the same order, as log1p values or raw counts \
(`predict --with-controls --real-out` writes such a pair). The numbers are those of cell-eval 0.6.6: a gene list is \
significant at an fdr below 0.05, adjusted over all perturbations and genes together; a prediction's changes are taken \
from its own control cells.

scores then holds results.csv (a row a perturbation), agg_results.csv, results.json, real_de.csv and pred_de.csv.";

/// Score predicted against measured cells by the field's measures
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// Predicted cells
    #[arg(long, value_name = "PRED.h5ad")]
    pred: PathBuf,
    /// Measured cells
    #[arg(long, value_name = "REAL.h5ad")]
    real: PathBuf,
    /// obs column of the perturbations
    #[arg(long, value_name = "C", default_value = "target_gene")]
    pert_col: String,
    /// Label of the control cells
    #[arg(long, value_name = "L", default_value = "non-targeting")]
    control_pert: String,
    /// obs column to split by; each part is judged alone and its files are prefixed with its name
    #[arg(long, value_name = "C")]
    celltype_col: Option<String>,
    /// Folder of the results; files of an earlier run are replaced
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Whose definitions
    #[arg(long, default_value = "cell-eval-0.6.6")]
    rules: String,
    /// Which measures
    #[arg(long, value_enum, default_value = "full")]
    profile: Profile,
    /// Measures to leave out, by their names in results.csv (de_nsig_counts for both counts)
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    skip_metrics: Vec<String>,
    /// Threads; all cores if not given. The numbers do not depend on it
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print results.json instead of a table
    #[arg(long)]
    json: bool,
}

/// Evaluates, writes the files, prints the table.
pub fn run(args: Args) -> Result<()> {
    let settings = Settings {
        control: args.control_pert.clone(),
        rules: Rules::parse(&args.rules)?,
        profile: args.profile,
        skip: args.skip_metrics.clone(),
    };
    let files = Files {
        real: args.real.clone(),
        pred: args.pred.clone(),
        perturbation: args.pert_col.clone(),
        cell_type: args.celltype_col.clone(),
    };
    let threads = args.threads.unwrap_or(0);
    if args.threads == Some(0) {
        return Err(Error::setting("--threads", "must be at least 1"));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool =
        pool.map_err(|e| Error::setting("--threads", format!("{threads} threads do not start: {e}")))?;
    let reports = pool.install(|| -> Result<_> {
        let reports = evaluate_files(&files, &settings)?;
        for (name, report) in &reports {
            write(&args.out, name.as_deref(), report)?;
        }
        Ok(reports)
    })?;
    notes(&reports);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&combined_json(&reports)).expect("plain values"));
    } else {
        table(&reports);
    }
    Ok(())
}

/// One report's JSON, or an object of them by cell type.
fn combined_json(reports: &[(Option<String>, Report)]) -> Value {
    match reports {
        [(None, report)] => report.json(),
        parts => {
            let part =
                |(name, report): &(Option<String>, Report)| (name.clone().unwrap_or_default(), report.json());
            json!({ "cell_types": parts.iter().map(part).collect::<Map<String, Value>>() })
        }
    }
}

fn notes(reports: &[(Option<String>, Report)]) {
    for (name, report) in reports {
        let of = name.as_ref().map_or(String::new(), |name| format!("{name}: "));
        report.notes().iter().for_each(|note| eprintln!("note: {of}{note}"));
    }
    if reports.iter().any(|(_, report)| report.settings.profile == Profile::Full) {
        eprintln!("note: cell-eval's {} are not computed", ABSENT.join(" and "));
    }
}

/// Means over perturbations, one row a measure, one column a cell type.
fn table(reports: &[(Option<String>, Report)]) {
    let [(_, first), ..] = reports else { return };
    let split = reports[0].0.is_some();
    let counts =
        |report: &Report| format!("{} perturbations, {} genes", report.perturbations.len(), report.genes);
    match split {
        true => reports.iter().for_each(|(name, report)| {
            println!("{}: {}", name.as_deref().unwrap_or_default(), counts(report));
        }),
        false => println!("{}", counts(first)),
    }
    let heads: Vec<&str> = reports.iter().map(|(name, _)| name.as_deref().unwrap_or("mean")).collect();
    let widths: Vec<usize> = heads.iter().map(|head| head.chars().count().max(10)).collect();
    print!("\n{:37}", "");
    heads.iter().zip(&widths).for_each(|(head, width)| print!("  {head:>width$}"));
    println!("   best");
    for (i, column) in first.columns.iter().enumerate() {
        let metric = metric_of(&column.name);
        let title = match metric.map_or("", |metric| metric.paper) {
            "" => column.name.clone(),
            paper => format!("{paper} ({})", column.name),
        };
        print!("{title:37}");
        let mut gaps = Vec::new();
        for ((name, report), width) in reports.iter().zip(&widths) {
            let summary = report.columns[i].summary();
            let mean = summary.mean_of_numbers.map_or("-".to_string(), |mean| format!("{mean:.4}"));
            print!("  {mean:>width$}");
            for (number, word) in [(summary.null, "null"), (summary.nan, "NaN")] {
                if number > 0 {
                    let of = name.as_ref().map_or(String::new(), |name| format!("{name}: "));
                    gaps.push(format!("{of}{number} {word}"));
                }
            }
        }
        let best = metric.and_then(|metric| metric.best).map_or(String::new(), |best| format!("{best:.0}"));
        println!("   {best:4}  {}", gaps.join(", "));
    }
    println!(
        "\nMeans leave out null (nothing to measure) and NaN (undefined); in agg_results.csv a NaN makes the mean NaN."
    );
}
