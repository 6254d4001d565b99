//! Fold change against certainty, real and predicted on the same axes.

use super::chart::{Axes, Scale, Svg, thousands};
use super::genes::Shown;
use crate::evaluate::significant::{Genes, THRESHOLD};

/// Real, then pred; `None` if there is no differential expression.
pub fn pair(perturbation: &str, shown: &Shown) -> Option<[Svg; 2]> {
    let tables = shown.tables.as_ref()?;
    let all = |of: fn(&Genes) -> &Vec<f64>| tables.iter().flat_map(of).copied();
    let widest =
        all(|genes| &genes.log_fold).filter(|x| x.is_finite()).fold(0.5, |most, x| x.abs().max(most));
    // The smallest fdr that is not 0: any place for 0 would be arbitrary, so zeros are put above all others.
    let surest = all(|genes| &genes.fdr).filter(|&q| q > 0.0).fold(THRESHOLD, f64::min);
    let certain = -surest.log10() * 1.08;
    let zeros = all(|genes| &genes.fdr).any(|q| q == 0.0);
    let axes = Axes {
        x: Scale::linear([-widest, widest], [46.0, 372.0]),
        y: Scale::linear([0.0, certain], [350.0, 46.0]),
        below: "",
        beside: "\u{2212}log10 fdr",
    };
    let one = |name: &str, genes: &Genes| {
        let up = genes.ranked.iter().filter(|&&g| genes.log_fold[g as usize] > 0.0).count();
        let down = genes.ranked.len() - up;
        let said = format!("{} up, {} down", thousands(up as i64), thousands(down as i64));
        let description = format!(
            "log2 fold change against -log10 fdr; {said} at an fdr below {THRESHOLD}. An fdr of 0 is drawn at the top."
        );
        let mut svg =
            Svg::new(392.0, &format!("{perturbation}: {name} differential expression"), &description);
        Axes { below: &format!("log2 fold change: {said} at fdr < {THRESHOLD}"), ..axes }.draw(&mut svg);
        let line = axes.y.at(-THRESHOLD.log10());
        svg.line("guide", [46.0, line], [372.0, line]);
        svg.text("said", 50.0, line - 4.0, &format!("fdr {THRESHOLD}"));
        if zeros {
            let top = axes.y.at(certain);
            svg.line("guide", [46.0, top], [372.0, top]);
            svg.text("said", 50.0, top + 12.0, "fdr 0");
        }
        let place = |g: usize| {
            let fold = genes.log_fold[g].clamp(-widest, widest);
            let sure = if genes.fdr[g] > 0.0 { -genes.fdr[g].log10() } else { certain };
            axes.at(if fold.is_nan() { 0.0 } else { fold }, if sure.is_nan() { 0.0 } else { sure })
        };
        shown.draw(&mut svg, place);
        let full: Vec<[f64; 2]> = shown.named.iter().map(|&g| place(g)).collect();
        axes.names(&mut svg, &shown.labels(place), &full);
        shown.legend(&mut svg);
        svg
    };
    Some([one("real", &tables[0]), one("predicted", &tables[1])])
}
