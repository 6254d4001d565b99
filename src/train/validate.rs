//! PDCorr on the validation groups, without the observation step: cheap enough to run every few hundred steps.

use std::collections::BTreeMap;

use super::learner::Learner;
use crate::correlation::pearson;
use crate::data::controls::control_pool;
use crate::data::effects::Effects;
use crate::data::shard::{Data, Group};
use crate::data::split::{Part, Split};
use crate::error::Result;
use crate::predictor::{ControlCells, Predictor, Request};
use crate::tensor::Tensor;

/// At most this many groups are scored, evenly chosen.
const GROUPS: usize = 64;

/// At most this many control cells of a context are predicted from and this many cells of a group measured, evenly chosen: they
/// are laid out dense, and more would not move their means.
const CELLS: usize = 4096;

/// What predictions are compared with. It depends on data and split alone, so a run measures it once.
pub struct Measured {
    /// For each context that has groups to score and controls.
    contexts: Vec<Context>,
}

struct Context {
    controls: Vec<u64>,
    /// Mean of the control cells.
    resting: Vec<f64>,
    /// Each group, with the mean of its cells.
    groups: Vec<(Group, Vec<f64>)>,
}

impl Measured {
    /// The validation groups and their controls.
    pub fn of(data: &Data, split: &Split) -> Measured {
        let context_of = |g: u32| {
            let group = data.groups()[g as usize];
            (group.cell_type, group.batch)
        };
        // Groups of one context next to each other: its controls are laid out once.
        let mut groups = evenly(&split.perturbed(Part::Val, data), GROUPS);
        groups.sort_by_key(|&g| context_of(g));
        let mean = |cells: &[u64]| ControlCells::of(data, cells).mean();
        let measured = |&g: &u32| {
            let group = data.groups()[g as usize];
            (group, mean(&evenly(&group.range().collect::<Vec<_>>(), CELLS)))
        };
        let contexts = groups.chunk_by(|&a, &b| context_of(a) == context_of(b)).filter_map(|groups| {
            let controls = evenly(&control_pool(data, groups[0])?.iter().collect::<Vec<_>>(), CELLS);
            let resting = mean(&controls);
            Some(Context { controls, resting, groups: groups.iter().map(measured).collect() })
        });
        Measured { contexts: contexts.collect() }
    }
}

/// The correlation between predicted and measured mean effects of each (cell type, perturbation) pair that has validation groups;
/// NaN where the model predicts the same for every gene, or NaN. `average`: the averaged weights.
///
/// # Errors
/// The GPU failed.
pub fn pdcorr(
    learner: &Learner,
    effects: &Effects,
    data: &Data,
    measured: &Measured,
    average: Tensor,
) -> Result<Vec<f64>> {
    let params = learner.params.over(average).to_predict();
    let manifest = data.manifest();
    let predictor = Predictor { model: &learner.model, params: &params, effects, data: manifest, seed: 0 };
    let genes = manifest.genes.len();
    // Sums of predicted and measured effects over the batches of a pair, weighted by cells.
    let mut pairs: BTreeMap<(u32, u32), [Vec<f64>; 2]> = BTreeMap::new();
    for Context { controls, resting, groups } in &measured.contexts {
        let controls = ControlCells::of(data, controls);
        let context = predictor.context(&controls)?;
        for (group, after) in groups {
            let cells = (group.cells as usize).min(2 * learner.model.config().data.cells);
            let request = Request { conditions: group.ids(), cells };
            let predicted = context.predict(request, None, |_, _| Ok(()))?.mean();
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
    Ok(pairs.values().map(|[predicted, measured]| pearson(predicted, measured)).collect())
}

/// At most `most` of them, at equal distances; all of them, if they are no more.
fn evenly<T: Copy>(all: &[T], most: usize) -> Vec<T> {
    let count = all.len().min(most);
    (0..count).map(|i| all[i * all.len() / count]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_thinned_over_its_whole_length() {
        let all = |n: u64| (0..n).collect::<Vec<_>>();
        assert_eq!(evenly(&all(4096), CELLS), all(4096));
        assert_eq!(evenly(&all(0), CELLS), all(0));
        assert_eq!(evenly(&all(4097), CELLS), all(4096));
        let few = evenly(&all(10_000), CELLS);
        assert_eq!((few.len(), few[1], few[4095]), (CELLS, 2, 9997));
    }
}
