//! Mean effects of the training perturbations, context by context: what a shifted start is shifted by.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::data::shard::{Data, Group};

/// mean perturbed - mean control of every (cell type, perturbation) pair of the training groups, on the network's scale.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Effects {
    /// (cell type, perturbation) of each row, sorted.
    pub pairs: Vec<(u32, u32)>,
    /// [pairs, G].
    pub values: Vec<f32>,
}

impl Effects {
    /// Measures the effects over the given groups; a cell type without controls there has none.
    pub fn measure(data: &Data, groups: &[u32]) -> Effects {
        let control = data.control_id();
        let mut members: BTreeMap<(u32, u32), Vec<Group>> = BTreeMap::new();
        for &g in groups {
            let group = data.groups()[g as usize];
            members.entry((group.cell_type, group.perturbation)).or_default().push(group);
        }
        let means: BTreeMap<(u32, u32), Vec<f64>> =
            members.into_par_iter().map(|(pair, groups)| (pair, mean(data, &groups))).collect();
        let mut effects = Effects::default();
        for (&(cell_type, perturbation), after) in &means {
            let Some(before) = means.get(&(cell_type, control)) else { continue };
            if perturbation != control {
                effects.pairs.push((cell_type, perturbation));
                effects.values.extend(after.iter().zip(before).map(|(a, b)| (a - b) as f32));
            }
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

/// Mean over all cells of the groups, in file order.
fn mean(data: &Data, groups: &[Group]) -> Vec<f64> {
    let genes = data.manifest().genes.len();
    let (mut sum, mut row, mut cells) = (vec![0.0; genes], vec![0.0f32; genes], 0u64);
    for group in groups {
        for cell in group.first..group.first + u64::from(group.cells) {
            data.fill(cell, &mut row);
            sum.iter_mut().zip(&row).for_each(|(s, &x)| *s += f64::from(x));
        }
        cells += u64::from(group.cells);
    }
    sum.iter_mut().for_each(|s| *s /= cells.max(1) as f64);
    sum
}
