//! Means over cells: profiles, contexts at rest, and the effects of (cell type, perturbation) pairs.

use std::collections::BTreeMap;

use rayon::prelude::*;

use crate::data::population::log1p;
use crate::data::shard::Data;
use crate::error::Result;

/// Sums are split into this many fixed parts, so that threads can share the work while the order of addition never changes.
const PARTS: usize = 64;
/// Cells whose rows are requested from disk at once: a group may be larger than memory.
const SWEPT: u64 = 2048;

/// Mean log1p profile of the cells of these groups, `[G]`, and the number of cells; zeros if there are none.
///
/// # Errors
/// The number of a group that the data does not have.
pub fn mean(data: &Data, groups: &[u32]) -> Result<(Vec<f64>, u64)> {
    data.check_groups(groups)?;
    let genes = data.manifest().genes.len();
    let part = groups.len().div_ceil(PARTS).max(1);
    let sums: Vec<(Vec<f64>, u64)> = groups.par_chunks(part).map(|part| sum(data, part)).collect();
    let (mut total, mut cells) = (vec![0.0; genes], 0);
    for (sum, count) in sums {
        total.iter_mut().zip(sum).for_each(|(t, x)| *t += x);
        cells += count;
    }
    total.iter_mut().for_each(|t| *t /= (cells as f64).max(1.0));
    Ok((total, cells))
}

fn sum(data: &Data, groups: &[u32]) -> (Vec<f64>, u64) {
    let (mut sum, mut cells) = (vec![0.0; data.manifest().genes.len()], 0);
    for &group in groups {
        let group = &data.groups()[group as usize];
        for piece in group.pieces(SWEPT) {
            let _sweep = data.sweep(piece.clone());
            for cell in piece {
                let row = data.row(cell);
                for (&gene, x) in row.genes.iter().zip(log1p(data, &row)) {
                    sum[usize::from(gene)] += f64::from(x);
                }
            }
        }
        cells += u64::from(group.cells);
    }
    (sum, cells)
}

/// Mean control profiles: per cell type and batch, and per cell type over all its control cells.
pub struct Resting {
    by_batch: BTreeMap<(u32, u32), Vec<f64>>,
    /// `[G]` for each cell type that has controls.
    pub by_type: BTreeMap<u32, Vec<f64>>,
}

impl Resting {
    /// From the controls of the whole directory: a split gives the controls of a held-out context to training too.
    pub fn of(data: &Data) -> Resting {
        let (mut by_batch, mut by_type) = (BTreeMap::new(), BTreeMap::<u32, Vec<u32>>::new());
        for (number, group) in (0..).zip(data.groups()).filter(|(number, _)| data.is_control(*number)) {
            by_batch.insert((group.cell_type, group.batch), vec![number]);
            by_type.entry(group.cell_type).or_default().push(number);
        }
        let own = "groups of this data";
        Resting { by_batch: means(data, by_batch).expect(own), by_type: means(data, by_type).expect(own) }
    }

    /// The resting mean that a group is compared with: its own batch's, else its cell type's, else
    /// none. The same rule as for drawn controls.
    pub fn at(&self, cell_type: u32, batch: u32) -> Option<&[f64]> {
        let own = self.by_batch.get(&(cell_type, batch));
        own.or_else(|| self.by_type.get(&cell_type)).map(Vec::as_slice)
    }
}

/// The mean profile of each key's groups.
///
/// # Errors
/// The number of a group that the data does not have.
pub fn means<K: Ord + Send>(data: &Data, groups: BTreeMap<K, Vec<u32>>) -> Result<BTreeMap<K, Vec<f64>>> {
    groups.into_par_iter().map(|(key, groups)| Ok((key, mean(data, &groups)?.0))).collect()
}

/// What a perturbation did to a cell type in training.
pub struct Pair {
    /// Its id.
    pub cell_type: u32,
    /// Its id.
    pub perturbation: u32,
    /// Mean of its cells' log1p values minus the resting mean of each cell's context, `[G]`.
    pub effect: Vec<f64>,
}

/// The pairs that these groups cover, sorted by cell type, then perturbation. Each batch is weighted by its number of cells
/// and compared with its own controls, so that its offset cancels. Control groups are skipped; so are groups whose cell type
/// has no controls, which the second value counts.
///
/// # Errors
/// The number of a group that the data does not have.
pub fn pairs(data: &Data, groups: &[u32], resting: &Resting) -> Result<(Vec<Pair>, usize)> {
    let mut keys = BTreeMap::<(u32, u32), Vec<u32>>::new();
    let mut unmatched = 0;
    for group in data.perturbed(groups)? {
        let found = &data.groups()[group as usize];
        match resting.at(found.cell_type, found.batch) {
            Some(_) => keys.entry((found.cell_type, found.perturbation)).or_default().push(group),
            None => unmatched += 1,
        }
    }
    let keys: Vec<_> = keys.into_iter().collect();
    let pairs = keys
        .into_par_iter()
        .map(|((cell_type, perturbation), groups)| {
            let mut effect = vec![0.0; data.manifest().genes.len()];
            let mut cells = 0.0;
            for group in groups {
                let (sum, count) = sum(data, &[group]);
                let batch = data.groups()[group as usize].batch;
                let rest = resting.at(cell_type, batch).expect("groups without controls were left out above");
                for ((e, x), r) in effect.iter_mut().zip(sum).zip(rest) {
                    *e += x - count as f64 * r;
                }
                cells += count as f64;
            }
            effect.iter_mut().for_each(|e| *e /= cells);
            Pair { cell_type, perturbation, effect }
        })
        .collect();
    Ok((pairs, unmatched))
}
