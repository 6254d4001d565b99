//! Mean effects of the training perturbations, per context: the amount by which a shifted start is shifted.

use std::collections::BTreeMap;

use crate::data::bulk::{Resting, pairs};
use crate::data::shard::Data;

/// mean perturbed - mean control of every (cell type, perturbation) pair of the training groups, on the network's scale.
#[derive(Clone, Default, PartialEq)]
pub struct Effects {
    /// G.
    genes: usize,
    pairs: Vec<(u32, u32)>,
    values: Vec<f32>,
    sums: BTreeMap<u32, Sum>,
}

brief!(Effects, |effects| genes: effects.genes, pairs: effects.pairs.len());

/// A perturbation's effects summed over all its cell types, so that leaving one of them out needs no new sum for every set.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sum {
    cell_types: f64,
    /// `[G]`.
    effect: Vec<f64>,
}

impl Effects {
    /// From (cell type, perturbation) pairs, sorted and unique, and their effects `[pairs, G]`.
    ///
    /// # Panics
    /// If pairs are not sorted and unique, or have not `genes` values each.
    pub fn new(genes: usize, pairs: Vec<(u32, u32)>, values: Vec<f32>) -> Effects {
        let (count, all) = (pairs.len(), values.len());
        assert_eq!(count * genes, all, "effects: {count} pairs of {genes} genes, {all} values");
        assert!(pairs.is_sorted_by(|a, b| a < b), "effects: pairs are not sorted and unique");
        let mut sums = BTreeMap::<u32, Sum>::new();
        for (row, &(_, perturbation)) in pairs.iter().enumerate() {
            let sum = sums.entry(perturbation).or_default();
            sum.cell_types += 1.0;
            sum.effect.resize(genes, 0.0);
            let effect = &values[row * genes..][..genes];
            sum.effect.iter_mut().zip(effect).for_each(|(s, &e)| *s += f64::from(e));
        }
        Effects { genes, pairs, values, sums }
    }

    /// Measures the effects over the given groups, each batch against its own controls; a cell type without controls gets none.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn measure(data: &Data, groups: &[u32]) -> Effects {
        let factor = f64::from(data.manifest().factor);
        let measured = pairs(data, groups, &Resting::of(data)).expect("groups of this data").0;
        let values = measured.iter().flat_map(|pair| pair.effect.iter().map(|&e| (e / factor) as f32));
        let values = values.collect();
        let pairs = measured.iter().map(|pair| (pair.cell_type, pair.perturbation)).collect();
        Effects::new(data.genes(), pairs, values)
    }

    /// (cell type, perturbation) of each row of the values, sorted.
    pub fn pairs(&self) -> &[(u32, u32)] {
        &self.pairs
    }

    /// `[pairs, G]`.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// Mean over the contexts other than `cell_type` in which `perturbation` was seen, `[G]`, on the network's scale; zeros if
    /// there are none.
    pub fn elsewhere(&self, cell_type: u32, perturbation: u32) -> Vec<f32> {
        let genes = self.genes;
        let Some(sum) = self.sums.get(&perturbation) else { return vec![0.0; genes] };
        match self.pairs.binary_search(&(cell_type, perturbation)) {
            Err(_) => sum.effect.iter().map(|s| (s / sum.cell_types) as f32).collect(),
            Ok(_) if sum.cell_types == 1.0 => vec![0.0; genes],
            Ok(row) => {
                let own = &self.values[row * genes..][..genes];
                let others = sum.cell_types - 1.0;
                sum.effect.iter().zip(own).map(|(s, &e)| ((s - f64::from(e)) / others) as f32).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Effects;

    #[test]
    fn elsewhere_is_the_mean_over_the_other_cell_types() {
        // Perturbation 5 in cell types 0, 1 and 3; perturbation 6 in cell type 1 alone. Two genes.
        let pairs = vec![(0, 5), (1, 5), (1, 6), (3, 5)];
        let effects = Effects::new(2, pairs, vec![1.0, 0.5, 2.0, -0.5, 9.0, 9.0, 6.0, 3.0]);
        assert_eq!(effects.elsewhere(0, 5), [4.0, 1.25]);
        assert_eq!(effects.elsewhere(3, 5), [1.5, 0.0]);
        assert_eq!(effects.elsewhere(2, 5), [3.0, 1.0], "a cell type that never saw it: all of them");
        assert_eq!(effects.elsewhere(0, 6), [9.0, 9.0]);
        assert_eq!(effects.elsewhere(1, 6), [0.0, 0.0], "seen nowhere else");
        assert_eq!(effects.elsewhere(1, 7), [0.0, 0.0], "never seen");
        assert_eq!(Effects::new(2, vec![], vec![]).elsewhere(0, 0), [0.0, 0.0]);
    }
}
