//! Size of the real effect against a score, one dot per perturbation.

use super::chart::{Axes, Mark, Scale, Svg, escape, legend, px};
use super::{Effect, Seen};
use crate::evaluate::board::{CEILING, title};
use crate::evaluate::registry::metric_of;
use crate::evaluate::table::Column;

/// How many of the largest effects are named.
const NAMED: usize = 6;

/// Measures worth a figure; the first two that are present get one.
const MEASURES: [&str; 6] =
    ["pearson_delta", "overlap_at_N", "discrimination_score_l1", "mae", "mse", "de_direction_match"];

/// The measures that get a figure.
pub fn measures(seen: &[Seen]) -> Vec<&'static str> {
    let there = |name: &&str| seen.iter().all(|seen| seen.board.report.column(name).is_some());
    MEASURES.into_iter().filter(there).take(2).collect()
}

/// One perturbation's place.
struct Dot<'a> {
    seen: &'a Seen<'a>,
    p: usize,
    effect: f64,
    score: f64,
}

/// `None` if there is nothing to measure an effect by, or no score. With `links`, a click chooses the perturbation.
pub fn figure(seen: &[Seen], measure: &str, links: bool) -> Option<Svg> {
    let effect = seen.first()?.effect?;
    let dots: Vec<Dot> = seen.iter().flat_map(|seen| dots(seen, measure)).collect();
    let ceilings: Vec<[f64; 2]> = seen.iter().flat_map(|seen| ceiling(seen, measure)).collect();
    if dots.is_empty() {
        return None;
    }
    let of = |at: fn(&Dot) -> f64| dots.iter().map(at);
    let effects =
        [of(|dot| dot.effect).fold(f64::INFINITY, f64::min), of(|dot| dot.effect).fold(0.0, f64::max)];
    let scores = || of(|dot| dot.score).chain(ceilings.iter().map(|c| c[1]));
    // Shares and correlations end at 1.
    let best = metric_of(measure).and_then(|metric| metric.best).unwrap_or(0.0);
    let range = [scores().fold(0.0, f64::min), scores().fold(best, f64::max)];
    let pixels = [46.0, 372.0];
    let axes = Axes {
        x: if effect == Effect::Significant {
            Scale::counts(effects, pixels)
        } else {
            Scale::linear([0.0, effects[1]], pixels)
        },
        y: Scale::linear(range, [350.0, 46.0]),
        below: effect.words(),
        beside: measure,
    };
    let title = title(measure);
    let description =
        format!("{title} of each perturbation against the size of its real effect: {}.", effect.words());
    let mut svg = Svg::new(392.0, &format!("Effect size against {title}"), &description);
    axes.draw(&mut svg);
    let mut entries = vec![("both", Mark::Cap, "perturbation".to_string())];
    if !ceilings.is_empty() {
        entries.push(("ceiling", Mark::Cross, "ceiling: real cells, one half against the other".to_string()));
    }
    legend(&mut svg, 34.0, &entries);
    svg.points("ceiling", Mark::Cross, ceilings.iter().map(|&[x, y]| axes.at(x, y)));
    let radius = if dots.len() > 150 { 2.8 } else { 4.0 };
    dots.iter().for_each(|dot| dot.draw(&mut svg, &axes, radius, seen.len() > 1, links));
    let mut largest: Vec<&Dot> = dots.iter().collect();
    largest.sort_by(|a, b| b.effect.total_cmp(&a.effect));
    let named = largest.iter().take(NAMED).map(|dot| (dot.name(), axes.at(dot.effect, dot.score)));
    let full = dots.iter().map(|dot| [dot.effect, dot.score]).chain(ceilings).map(|[x, y]| axes.at(x, y));
    axes.names(&mut svg, &named.collect::<Vec<_>>(), &full.collect::<Vec<_>>());
    Some(svg)
}

fn numbers<'a>(seen: &'a Seen, column: &'a Column) -> impl Iterator<Item = (usize, [f64; 2])> + 'a {
    let pair = |(p, value): (usize, &Option<f64>)| {
        let pair = [seen.size(p)?, (*value)?];
        pair.iter().all(|x| x.is_finite()).then_some((p, pair))
    };
    column.values.iter().enumerate().filter_map(pair)
}

fn dots<'a>(seen: &'a Seen<'a>, measure: &str) -> Vec<Dot<'a>> {
    let Some(column) = seen.board.report.column(measure) else { return Vec::new() };
    numbers(seen, column).map(|(p, [effect, score])| Dot { seen, p, effect, score }).collect()
}

fn ceiling(seen: &Seen, measure: &str) -> Vec<[f64; 2]> {
    let row = seen.board.rows.iter().find(|row| row.name == CEILING);
    let column = row.and_then(|row| row.columns.iter().find(|column| column.name == measure));
    let whole = column.filter(|column| column.values.len() == seen.board.report.perturbations.len());
    whole.map_or(Vec::new(), |column| numbers(seen, column).map(|(_, pair)| pair).collect())
}

impl Dot<'_> {
    fn name(&self) -> &str {
        &self.seen.board.report.perturbations[self.p]
    }

    fn draw(&self, svg: &mut Svg, axes: &Axes, radius: f64, many: bool, links: bool) {
        let [x, y] = axes.at(self.effect, self.score).map(px);
        let of = self.seen.board.cell_type.as_ref().filter(|_| many);
        let of = of.map_or(String::new(), |name| format!(" in {name}"));
        let effect = self.seen.effect.map_or("", Effect::words);
        let said =
            format!("{}{of}: {effect} {}, {} {:.3}", self.name(), px(self.effect), axes.beside, self.score);
        svg.push(&self.seen.open(self.p, links, &said));
        svg.push(&format!(
            "<title>{}</title><circle class=\"dot\" cx=\"{x}\" cy=\"{y}\" r=\"{radius}\"/>",
            escape(&said)
        ));
        svg.push(if links { "</a>" } else { "</g>" });
    }
}
