//! Predicted against real change, one point per gene.

use super::chart::{Axes, Scale, Svg, thousands};
use super::genes::Shown;
use crate::correlation::pearson;

/// `None` if there are no changes.
pub fn figure(perturbation: &str, shown: &Shown) -> Option<Svg> {
    let [real, pred] = shown.changes?;
    let r = pearson(pred, real);
    let said = if r.is_nan() { "r undefined".to_string() } else { format!("r = {r:.3}") };
    let description = format!(
        "Change of mean log1p expression from the control, predicted against real, {} genes, {said}.",
        thousands(shown.names.len() as i64)
    );
    let mut svg = Svg::new(392.0, &format!("{perturbation}: predicted against real change"), &description);
    // The same scale for both: on the dashed line a prediction is right, not merely proportional.
    let both = || real.iter().chain(pred).map(|&x| f64::from(x));
    let range = [both().fold(0.0, f64::min), both().fold(0.0, f64::max)];
    let axes = Axes {
        x: Scale::linear(range, [46.0, 372.0]),
        y: Scale::linear(range, [350.0, 46.0]),
        below: "real change",
        beside: "predicted change",
    };
    axes.draw(&mut svg);
    let [low, high] = axes.x.domain;
    svg.line("guide", axes.at(low, low), axes.at(high, high));
    let place = |g: usize| axes.at(f64::from(real[g]), f64::from(pred[g]));
    shown.draw(&mut svg, place);
    // The corner where r is written is taken.
    let mut full: Vec<[f64; 2]> = shown.named.iter().map(|&g| place(g)).collect();
    full.extend((0..9).map(|i| [312.0 + 7.0 * f64::from(i), 341.0]));
    axes.names(&mut svg, &shown.labels(place), &full);
    svg.text("label end", 368.0, 344.0, &said);
    shown.legend(&mut svg);
    Some(svg)
}
