//! One self-contained page that shows boards: the figures of [`super::figures`], and the scores as a table.
//!
//! Everything is drawn before the page is opened; the script only chooses what is shown. Without it, all cell types follow one
//! another, each with the perturbation of the largest effect.

mod head;
mod tables;

use std::path::Path;

use rayon::prelude::*;
use serde_json::Value;

use super::board::Board;
use super::figures::chart::{STYLE, escape, thousands};
use super::figures::{Effect, Seen, details, overlap, score};
use crate::aside;
use crate::error::Result;

/// Points drawn on a page; more would make a browser slow.
const BUDGET: usize = 240_000;

/// Fewer genes than this say nothing about a perturbation: perturbations of small effect are left out instead.
const LEAST: usize = 80;

/// Writes the page of all boards. `sources` are the files that were read, as [`super::files::fingerprints`] gives them.
///
/// # Errors
/// A file that cannot be written.
pub fn write(path: &Path, boards: &[Board], sources: &Value) -> Result<()> {
    aside::whole(path, html(boards, sources))
}

/// The page as text.
pub fn html(boards: &[Board], sources: &Value) -> String {
    let seen = Seen::all(boards);
    let budget = Budget::of(boards);
    let many = boards.len() > 1;
    let title = head::title(boards, sources);
    let sections: String = seen.iter().map(|seen| section(seen, &budget, many)).collect();
    let overview = if many { overview(&seen) } else { String::new() };
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{}</title>\n\
         <style>\n{STYLE}{}</style>\n</head>\n<body>\n{}{}<main>\n{overview}{sections}</main>\n{}\
         <script>\n{}</script>\n</body>\n</html>\n",
        escape(&title),
        include_str!("page/style.css"),
        head::header(boards, sources, &title),
        if many { chooser(boards) } else { String::new() },
        head::footer(boards),
        include_str!("page/script.js"),
    )
}

/// How much of each board is drawn.
struct Budget {
    genes: usize,
    perturbations: usize,
}

impl Budget {
    /// Shared evenly among the perturbations of all boards.
    fn of(boards: &[Board]) -> Budget {
        let figures = |board: &Board| {
            let report = &board.report;
            usize::from(report.changes.is_some()) + 2 * usize::from(report.tables.is_some())
        };
        let panels: usize =
            boards.iter().map(|board| figures(board) * board.report.perturbations.len()).sum();
        let genes = (BUDGET / panels.max(1)).max(LEAST);
        let most = boards.iter().map(figures).max().unwrap_or(0).max(1);
        Budget { genes, perturbations: BUDGET / genes / most / boards.len().max(1) }
    }
}

fn chooser(boards: &[Board]) -> String {
    let option = |(i, board): (usize, &Board)| {
        format!("<option value=\"{}\">{}</option>", i + 1, escape(board.cell_type.as_deref().unwrap_or("")))
    };
    let options: String = boards.iter().enumerate().map(option).collect();
    format!(
        "<nav class=\"choose needs-script\" aria-label=\"Cell type\"><label for=\"type\">Cell type</label>\
         <select id=\"type\"><option value=\"0\">All {}</option>{options}</select></nav>\n",
        boards.len()
    )
}

fn overview(seen: &[Seen]) -> String {
    let boards: Vec<&Board> = seen.iter().map(|seen| seen.board).collect();
    let count: usize = boards.iter().map(|board| board.report.perturbations.len()).sum();
    format!(
        "<section class=\"board\" aria-label=\"All cell types\">\n<h2>All cell types</h2>\n<p class=\"facts\">{} cell types, {} \
         pairs of cell type and perturbation</p>\n{}{}{}</section>\n",
        boards.len(),
        thousands(count as i64),
        tables::predictors(&boards),
        tables::cell_types(&boards),
        perturbations(seen),
    )
}

fn section(seen: &Seen, budget: &Budget, many: bool) -> String {
    let board = seen.board;
    let name = board.cell_type.as_deref().unwrap_or("");
    let heading = if many { format!("<h2>{}</h2>\n", escape(name)) } else { String::new() };
    format!(
        "<section class=\"board\" data-type=\"{}\" aria-label=\"{}\">\n{heading}<p class=\"facts\">{}</p>\n{}{}{}</section>\n",
        escape(name),
        escape(if name.is_empty() { "Scores" } else { name }),
        head::facts(board),
        tables::predictors(&[board]),
        perturbations(std::slice::from_ref(seen)),
        one_perturbation(seen, budget),
    )
}

/// Effect sizes and overlaps.
fn perturbations(seen: &[Seen]) -> String {
    let measures = score::measures(seen);
    let figures = measures.iter().filter_map(|measure| score::figure(seen, measure, true));
    let mut svgs: Vec<String> = figures.map(|svg| figure(&svg.inline())).collect();
    let mut said = Vec::new();
    match svgs.is_empty() {
        true => said.push("No effect size against score: there is no measure with a value per perturbation, or nothing to measure an effect by.".to_string()),
        false => said.push("Click a perturbation to see its genes.".to_string()),
    }
    if seen.first().is_some_and(|seen| seen.effect == Some(Effect::Significant)) {
        said.push("Effect sizes are on a scale of log10(1 + genes).".to_string());
    }
    match overlap::figure(seen, true) {
        Some(svg) => svgs.push(figure(&svg.inline())),
        None => said.push(
            "No overlap of significant genes: this profile computes no differential expression.".to_string(),
        ),
    }
    let all: usize = seen.iter().map(|seen| seen.order.len()).sum();
    if seen.iter().all(|seen| seen.overlaps.is_some()) && all > overlap::ROWS {
        let all = thousands(all as i64);
        said.push(format!(
            "The overlap shows the {} largest effects of {all}; results.csv has all of them.",
            overlap::ROWS
        ));
    }
    format!(
        "<h3>Perturbations</h3>\n<p class=\"said\">{}</p>\n<div class=\"row\">{}</div>\n",
        escape(&said.join(" ")),
        svgs.concat()
    )
}

fn figure(svg: &str) -> String {
    format!("<figure>{svg}</figure>\n")
}

/// The genes of every perturbation; the one with the largest effect is shown first.
fn one_perturbation(seen: &Seen, budget: &Budget) -> String {
    let report = &seen.board.report;
    let head = "<h3>One perturbation</h3>\n";
    if report.changes.is_none() && report.tables.is_none() {
        return format!(
            "{head}<p class=\"said\">No figures of genes: this profile computes neither changes nor differential expression.</p>\n"
        );
    }
    let mut drawn: Vec<usize> = seen.order.iter().copied().take(budget.perturbations.max(1)).collect();
    let first = drawn.first().copied();
    drawn.sort_unstable();
    let figures: Vec<String> = drawn
        .par_iter()
        .map(|&p| {
            let svgs: String = details(seen, p, budget.genes).iter().flatten().map(|svg| figure(&svg.inline())).collect();
            let hidden = if Some(p) == first { "" } else { " hidden" };
            let name = escape(&report.perturbations[p]);
            format!("<div class=\"row genes\" data-p=\"{p}\" aria-label=\"{name}\" role=\"group\"{hidden}>{svgs}</div>\n")
        })
        .collect();
    format!(
        "{head}{}<p class=\"said\">{}</p>\n{}",
        picker(seen, &drawn, first),
        said(seen, drawn.len(), budget),
        figures.concat()
    )
}

fn picker(seen: &Seen, drawn: &[usize], first: Option<usize>) -> String {
    let names = &seen.board.report.perturbations;
    let option = |&p: &usize| {
        let name = escape(&names[p]);
        let size = match (seen.effect, seen.size(p)) {
            (Some(Effect::Significant), Some(size)) => format!(" \u{b7} {} genes", thousands(size as i64)),
            _ => String::new(),
        };
        let selected = if Some(p) == first { " selected" } else { "" };
        format!("<option value=\"{p}\" data-name=\"{name}\"{selected}>{name}{size}</option>")
    };
    let options: String = drawn.iter().map(option).collect();
    format!(
        "<div class=\"choose needs-script\"><label>Perturbation <select class=\"perturbation\">{options}</select></label>\
         <button type=\"button\" data-step=\"-1\" aria-label=\"Previous perturbation\">\u{2190}</button>\
         <button type=\"button\" data-step=\"1\" aria-label=\"Next perturbation\">\u{2192}</button></div>\n"
    )
}

/// What the figures of genes show, and what they leave out.
fn said(seen: &Seen, drawn: usize, budget: &Budget) -> String {
    let report = &seen.board.report;
    let mut said = vec![
        "The genes that change most are named; a point on the dashed diagonal is predicted exactly."
            .to_string(),
    ];
    if report.changes.is_none() {
        said[0] = "No scatter of changes: this profile computes no mean profiles.".to_string();
    }
    if report.tables.is_none() {
        said.push("No volcano plots: this profile computes no differential expression.".to_string());
    }
    let (genes, all) = (report.genes.len(), report.perturbations.len());
    if genes > budget.genes {
        let (some, genes) = (thousands(budget.genes as i64), thousands(genes as i64));
        said.push(format!(
            "About {some} of {genes} genes are drawn: the significant ones with the largest changes, and a regular sample of the \
             others; r and the counts include all genes."
        ));
    }
    if drawn < all {
        let all = thousands(all as i64);
        said.push(format!(
            "Only the {drawn} largest effects of {all} can be chosen here; plots, in files of their own, show them all."
        ));
    }
    escape(&said.join(" "))
}
