//! The scores: one row per measure, one column per predictor or cell type.

use crate::evaluate::board::{Board, CEILING, PREDICTION};
use crate::evaluate::figures::chart::{escape, thousands};
use crate::evaluate::figures::strip::Strip;
use crate::evaluate::registry::{Metric, metric_of, paper};
use crate::evaluate::scores::{self, Score, Scores};

/// The predictors of one board, or of all boards together.
pub fn predictors(boards: &[&Board]) -> String {
    let columns = scores::predictors(boards);
    let beside = columns.len() > 1;
    let intervals = columns.iter().flat_map(|column| &column.scores).any(|cell| cell.interval.is_some());
    let mut said = Vec::new();
    if columns.iter().filter(|column| column.name != CEILING).count() > 1 {
        said.push("<b class=\"best\">Bold</b>: the best among the prediction and the baselines.");
    }
    if intervals && beside {
        said.push(
            "\u{2248}: cannot be told apart from the prediction; the 95 % interval of the resampled differences includes 0.",
        );
    }
    if boards.len() > 1 {
        said.push("Means are over all perturbations of all cell types.");
    }
    if beside {
        said.push(
            "Lines: the dot is the prediction, the ticks are the baselines, the diamond is the ceiling (one half of the real cells against the other); further right is better.",
        );
    }
    let said =
        if said.is_empty() { String::new() } else { format!("<p class=\"said\">{}</p>\n", said.join(" ")) };
    format!("<h3>Scores</h3>\n{said}{}", table("Scores", &columns, beside))
}

/// The predictions of all boards, next to each other.
pub fn cell_types(boards: &[&Board]) -> String {
    let title = "Prediction by cell type";
    format!("<h3>{title}</h3>\n{}", table(title, &scores::cell_types(boards), false))
}

fn table(caption: &str, columns: &[Scores], beside: bool) -> String {
    let Some(first) = columns.first() else { return String::new() };
    let head = |column: &Scores| format!("<th scope=\"col\">{}</th>", escape(&column.name));
    let heads: String = columns.iter().map(head).collect();
    let strip = if beside { "<th scope=\"col\" class=\"line\">worse \u{2192} better</th>" } else { "" };
    let gaps: Vec<String> = (0..first.scores.len()).map(|i| escape(&scores::left_out(columns, i))).collect();
    let complete = gaps.iter().all(String::is_empty);
    let left_out = if complete { "" } else { "<th scope=\"col\" class=\"gaps\">Left out</th>" };
    let width = columns.len() + 1 + usize::from(beside) + usize::from(!complete);
    let mut rows = String::new();
    let mut group = None;
    for (i, score) in first.scores.iter().enumerate() {
        let metric = metric_of(&score.measure);
        let de = metric.is_some_and(|metric| metric.de);
        if group != Some(de) {
            group = Some(de);
            let words = if de { "Significant genes" } else { "Profiles and cells" };
            rows += &format!(
                "<tr class=\"group\"><th scope=\"rowgroup\" colspan=\"{width}\"><span>{words}</span></th></tr>\n"
            );
        }
        let cells = row(&score.measure, metric, i, columns, beside);
        let gap = if complete { String::new() } else { format!("<td class=\"gaps\">{}</td>", gaps[i]) };
        rows += &format!("<tr>{cells}{gap}</tr>\n");
    }
    let narrow = if beside { "" } else { " narrow" };
    format!(
        "<div class=\"scroll{narrow}\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\"><table>\n<thead><tr><th scope=\"col\">Measure</th>\
         {strip}{heads}{left_out}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn row(name: &str, metric: Option<&Metric>, i: usize, columns: &[Scores], beside: bool) -> String {
    let goal = metric.and_then(|metric| metric.best);
    let broken = escape(name).replace('_', "_<wbr>");
    let title = match paper(name) {
        None => broken,
        Some(paper) => format!("{} <small>{broken}</small>", escape(paper)),
    };
    let distance = |cell: &Score| Some((cell.mean? - goal?).abs());
    let rivals = columns.iter().filter(|column| column.name != CEILING);
    let best = rivals.clone().filter_map(|column| distance(&column.scores[i])).reduce(f64::min);
    // Nothing is best if it is alone or all are equally good; cell types are not rivals.
    let worst = rivals.clone().filter_map(|column| distance(&column.scores[i])).reduce(f64::max);
    let contest = beside && best < worst;
    let decimals = decimals(i, goal, columns);
    let cell = |column: &Scores| {
        let cell = &column.scores[i];
        let wins = contest && column.name != CEILING && best.is_some() && distance(cell) == best;
        format!(
            "<td{}>{}</td>",
            if wins { " class=\"best\"" } else { "" },
            html(cell, column.name == PREDICTION, goal.is_some(), decimals)
        )
    };
    let cells: String = columns.iter().map(cell).collect();
    let strip =
        if beside { format!("<td class=\"line\">{}</td>", strip(i, goal, columns)) } else { String::new() };
    format!("<th scope=\"row\">{title}</th>{strip}{cells}")
}

fn strip(i: usize, goal: Option<f64>, columns: &[Scores]) -> String {
    // A count has no better side.
    let Some(goal) = goal else { return String::new() };
    let mean = |column: &Scores| column.scores[i].mean;
    let named = |name: &str| columns.iter().find(|column| column.name == name);
    let others = columns.iter().filter(|column| ![PREDICTION, CEILING].contains(&column.name.as_str()));
    let strip = Strip {
        prediction: named(PREDICTION).and_then(mean).unwrap_or(f64::NAN),
        interval: named(PREDICTION).and_then(|column| column.scores[i].interval),
        baselines: &others.filter_map(mean).collect::<Vec<_>>(),
        ceiling: named(CEILING).and_then(mean),
        falling: goal == 0.0,
    };
    strip.draw()
}

fn html(score: &Score, prediction: bool, judged: bool, decimals: usize) -> String {
    let number = |x: f64| number(x, decimals);
    let Some(mean) = score.mean else { return "<span class=\"none\">\u{2013}</span>".to_string() };
    let mean = number(mean);
    if let Some([low, high]) = score.interval.filter(|_| prediction) {
        return format!("{mean}<small>{} to {}</small>", number(low), number(high));
    }
    let Some([low, high]) = score.behind else { return mean };
    let same = if judged && low <= 0.0 && high >= 0.0 { "\u{2248}\u{a0}" } else { "" };
    format!("<span title=\"prediction minus this: {} to {}\">{same}{mean}</span>", number(low), number(high))
}

/// Decimals of a row: three for shares and correlations; for errors, the smallest of which is best, enough to tell them apart; for
/// counts none, or one if they are small.
fn decimals(i: usize, goal: Option<f64>, columns: &[Scores]) -> usize {
    let largest =
        columns.iter().filter_map(|column| column.scores[i].mean).fold(0.0, |most, x| x.abs().max(most));
    match goal {
        None => usize::from(largest < 100.0),
        Some(0.0) if largest >= 100.0 => 1,
        Some(0.0) if largest >= 0.05 || largest == 0.0 => 4,
        Some(0.0) if largest >= 0.005 => 5,
        Some(0.0) => 6,
        Some(_) => 3,
    }
}

fn number(x: f64, decimals: usize) -> String {
    let text = match decimals {
        0 => thousands(x.round() as i64),
        _ => format!("{x:.decimals$}"),
    };
    // A number rounded to zero has no sign.
    let zero = !text.contains(|c: char| ('1'..='9').contains(&c));
    text.replacen('-', if zero { "" } else { "\u{2212}" }, 1)
}
