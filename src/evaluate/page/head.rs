//! What was compared, by whose rules, and what a reader should know about it.

use serde_json::Value;

use crate::evaluate::board::{self, Board};
use crate::evaluate::figures::chart::{escape, thousands};
use crate::evaluate::lognorm::Held;
use crate::evaluate::report::Counts;

/// `pred.h5ad against real.h5ad`.
pub fn title(boards: &[Board], sources: &Value) -> String {
    let source = |i: usize, side: &str| {
        let board = boards.first().map(|board| board.report.sides[i].source.display().to_string());
        let path = sources[side]["path"].as_str().map(String::from).or(board).unwrap_or_default();
        path.rsplit(['/', '\\']).next().unwrap_or_default().to_string()
    };
    format!("{} against {}", source(1, "pred"), source(0, "real"))
}

/// The head of the page.
pub fn header(boards: &[Board], sources: &Value, title: &str) -> String {
    let Some(first) = boards.first() else {
        return "<header><h1>Nothing was compared</h1></header>".to_string();
    };
    let settings = &first.report.settings;
    let mut facts = vec![
        ("Rules", settings.rules.name().to_string()),
        ("Compared with", settings.rules.definitions().controls.words().to_string()),
        ("Control label", settings.control.clone()),
        ("Genes", thousands(first.report.genes.len() as i64)),
    ];
    if settings.bootstrap > 0 {
        let single = boards.iter().all(|board| board.report.perturbations.len() < 2);
        let draws = thousands(settings.bootstrap as i64);
        let said = match single {
            true => "none: a single perturbation cannot be resampled".to_string(),
            false => format!("95 % intervals of the means, from {draws} resamplings of the perturbations"),
        };
        facts.push(("Intervals", said));
    }
    for (name, side) in [("Real file", "real"), ("Predicted file", "pred")] {
        if let (Some(path), Some(hash)) = (sources[side]["path"].as_str(), sources[side]["sha256"].as_str()) {
            facts.push((name, format!("{path} (sha256 {}\u{2026})", hash.get(..12).unwrap_or(hash))));
        }
    }
    let fact =
        |(name, value): &(&str, String)| format!("<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    let facts: String = facts.iter().map(fact).collect();
    format!(
        "<header>\n<p class=\"kind\">Predicted against measured cells</p>\n<h1>{}</h1>\n<dl>{facts}</dl>\n{}</header>\n",
        escape(title),
        notes(boards)
    )
}

fn notes(boards: &[Board]) -> String {
    let mut notes = board::notes(boards);
    let settings = boards.first().map(|board| &board.report.settings);
    if let Some(skipped) =
        settings.map(|settings| settings.skip_metrics.join(", ")).filter(|names| !names.is_empty())
    {
        notes.push(format!("left out as requested: {skipped}"));
    }
    let items: String = notes.iter().map(|note| format!("<li>{}</li>", escape(note))).collect();
    let open = if notes.len() < 4 { " open" } else { "" };
    match notes.len() {
        0 => String::new(),
        n => format!(
            "<details class=\"notes\"{open}><summary>Notes ({n})</summary><ul>{items}</ul></details>\n"
        ),
    }
}

/// What one board compares and how much of it, as a line of HTML.
pub fn facts(board: &Board) -> String {
    let side = |name: &str, side: &Counts| {
        let held = if side.held == Held::Counts { "counts" } else { "log1p values" };
        let [cells, controls, fewest] =
            [side.cells, side.control_cells, side.fewest_cells].map(|n| thousands(n as i64));
        format!(
            "{name} {cells} cells as {held}, {controls} of them control, {fewest} or more per perturbation"
        )
    };
    let [real, pred] = &board.report.sides;
    let n = board.report.perturbations.len();
    let word = if n == 1 { "perturbation" } else { "perturbations" };
    let genes = thousands(board.report.genes.len() as i64);
    escape(&format!(
        "{} {word}, {genes} genes; {}; {}",
        thousands(n as i64),
        side("real", real),
        side("predicted", pred)
    ))
}

/// What made the page.
pub fn footer(boards: &[Board]) -> String {
    let rules = boards.first().map_or("", |board| board.report.settings.rules.name());
    format!(
        "<footer>{}, rules {rules}. Means leave out null (nothing to measure) and NaN (undefined); in \
         agg_results.csv any NaN makes the mean NaN.</footer>\n",
        crate::PROGRAM
    )
}
