//! PDCorr on the validation groups, without the observation step: cheap enough to run every few hundred steps.

use std::collections::BTreeMap;

use super::run::Run;
use crate::correlation::pearson;
use crate::data::controls::control_pool;
use crate::data::split::Part;
use crate::predictor::{ControlCells, Predictor, Request};
use crate::tensor::Tensor;

/// At most this many groups are scored, evenly chosen.
const GROUPS: usize = 64;

/// Mean over (cell type, perturbation) pairs of the correlation between predicted and measured mean effects; `None` without
/// validation groups. `average`: the averaged weights.
pub fn pdcorr(run: &Run, average: Tensor) -> Option<f64> {
    let data = &run.data;
    let perturbed = run.split.perturbed(Part::Val, data);
    let stride = perturbed.len().div_ceil(GROUPS).max(1);
    let params = run.learner.params.over(average);
    let manifest = data.manifest();
    let predictor = Predictor {
        model: &run.learner.model,
        params: &params,
        effects: &run.effects,
        data: manifest,
        seed: 0,
    };
    let genes = manifest.genes.len();
    let context_of = |g: u32| {
        let group = data.groups()[g as usize];
        (group.cell_type, group.batch)
    };
    // Groups of one context next to each other: its controls are laid out once.
    let mut groups: Vec<u32> = perturbed.iter().step_by(stride).copied().collect();
    groups.sort_by_key(|&g| context_of(g));
    // Sums of predicted and measured effects over the batches of a pair, weighted by cells.
    let mut pairs: BTreeMap<(u32, u32), [Vec<f64>; 2]> = BTreeMap::new();
    for groups in groups.chunk_by(|&a, &b| context_of(a) == context_of(b)) {
        let Some(pool) = control_pool(data, groups[0]) else { continue };
        let controls = ControlCells::of(data, &pool.iter().collect::<Vec<_>>());
        let (context, resting) =
            (predictor.context(&controls).expect("a pool of the data's own cells"), controls.mean());
        for &g in groups {
            let group = data.groups()[g as usize];
            let cells = (group.cells as usize).min(2 * run.learner.model.config().data.cells);
            let mut predicted = vec![0.0f64; genes];
            let conditions = [group.cell_type, group.perturbation, group.batch];
            let answered = context.predict(Request { conditions, cells }, None, |row, _| {
                predicted.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x) / cells as f64);
            });
            answered.expect("a group of the data's own");
            let after = ControlCells::of(data, &group.range().collect::<Vec<_>>()).mean();
            let factor = f64::from(manifest.factor);
            let sums = pairs
                .entry((group.cell_type, group.perturbation))
                .or_insert_with(|| [vec![0.0; genes], vec![0.0; genes]]);
            let weight = f64::from(group.cells);
            for gene in 0..genes {
                sums[0][gene] += weight * (predicted[gene] - factor * resting[gene]);
                sums[1][gene] += weight * factor * (after[gene] - resting[gene]);
            }
        }
    }
    let scores: Vec<f64> = pairs.values().map(|[predicted, measured]| pearson(predicted, measured)).collect();
    let defined: Vec<f64> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
    if defined.is_empty() && !scores.is_empty() {
        // The model predicts the same for every gene, or NaN.
        let (step, pairs) = (run.step, scores.len());
        run.reporter.note(format_args!("step {step}: PDCorr is undefined for all {pairs} predicted changes"));
    }
    (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64)
}
