//! Mean effects of the training perturbations, context by context: what a shifted start is shifted by.

use crate::data::bulk::{Resting, pairs};
use crate::data::shard::Data;

/// mean perturbed - mean control of every (cell type, perturbation) pair of the training groups, on the network's scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// (cell type, perturbation) of each row, sorted.
    pub pairs: Vec<(u32, u32)>,
    /// [pairs, G].
    pub values: Vec<f32>,
}

impl Effects {
    /// Measures the effects over the given groups, each batch against its own controls; a cell type without controls has none.
    pub fn measure(data: &Data, groups: &[u32]) -> Effects {
        let factor = f64::from(data.manifest().factor);
        let mut effects = Effects::default();
        for pair in pairs(data, groups, &Resting::of(data)).0 {
            effects.pairs.push((pair.cell_type, pair.perturbation));
            effects.values.extend(pair.effect.iter().map(|&e| (e / factor) as f32));
        }
        effects
    }

    /// Mean over the contexts other than `cell_type` in which `perturbation` was seen, [G]; zero where there are none.
    pub fn elsewhere(&self, cell_type: u32, perturbation: u32, genes: usize) -> Vec<f32> {
        let mut sum = vec![0.0; genes];
        let mut seen = 0.0;
        for (row, &(c, p)) in self.pairs.iter().enumerate() {
            if p == perturbation && c != cell_type {
                seen += 1.0;
                let effect = &self.values[row * genes..][..genes];
                sum.iter_mut().zip(effect).for_each(|(s, e)| *s += e);
            }
        }
        if seen > 0.0 {
            sum.iter_mut().for_each(|s| *s /= seen);
        }
        sum
    }
}
