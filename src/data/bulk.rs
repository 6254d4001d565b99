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

/// Sums of log1p values over the cells of each context (cell type, batch): `[G]`, and the number of cells.
pub struct Sums(BTreeMap<(u32, u32), (Vec<f64>, u64)>);

brief!(Sums, |sums| contexts: sums.0.len());

impl Sums {
    /// Over the cells of these groups.
    ///
    /// # Errors
    /// The number of a group that the data does not have.
    pub fn of(data: &Data, groups: &[u32]) -> Result<Sums> {
        data.check_groups(groups)?;
        let mut contexts = BTreeMap::<(u32, u32), Vec<u32>>::new();
        for &number in groups {
            let group = &data.groups()[number as usize];
            contexts.entry((group.cell_type, group.batch)).or_default().push(number);
        }
        let sums = contexts.into_par_iter().map(|(context, groups)| (context, sum_in_parts(data, &groups)));
        Ok(Sums(sums.collect()))
    }

    /// Mean profiles, `[G]`, of the contexts that have the same key.
    pub fn means<K: Ord>(&self, key: impl Fn((u32, u32)) -> K) -> BTreeMap<K, Vec<f64>> {
        let mut joined = BTreeMap::<K, (Vec<f64>, u64)>::new();
        for (&context, (sum, count)) in &self.0 {
            let (total, cells) = joined.entry(key(context)).or_insert_with(|| (vec![0.0; sum.len()], 0));
            total.iter_mut().zip(sum).for_each(|(t, x)| *t += x);
            *cells += count;
        }
        let mean = |(key, (mut total, cells)): (K, (Vec<f64>, u64))| {
            total.iter_mut().for_each(|t| *t /= cells as f64);
            (key, total)
        };
        joined.into_iter().map(mean).collect()
    }
}

/// By all threads: the sum over the groups' cells, and their number.
fn sum_in_parts(data: &Data, groups: &[u32]) -> (Vec<f64>, u64) {
    let parts = groups.par_chunks(groups.len().div_ceil(PARTS));
    let sums: Vec<(Vec<f64>, u64)> = parts.map(|part| sum(data, part)).collect();
    let (mut total, mut cells) = (vec![0.0; data.genes()], 0);
    for (sum, count) in sums {
        total.iter_mut().zip(sum).for_each(|(t, x)| *t += x);
        cells += count;
    }
    (total, cells)
}

fn sum(data: &Data, groups: &[u32]) -> (Vec<f64>, u64) {
    let (mut sum, mut cells) = (vec![0.0; data.genes()], 0);
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

brief!(Resting, |resting| cell_types: resting.by_type.len());

impl Resting {
    /// From the controls of the whole directory: a split gives the controls of a held-out context to training too.
    pub fn of(data: &Data) -> Resting {
        let all = 0..data.groups().len() as u32;
        let controls: Vec<u32> = all.filter(|&group| data.is_control(group)).collect();
        let sums = Sums::of(data, &controls).unwrap_or_else(|e| unreachable!("groups of this data: {e}"));
        Resting { by_batch: sums.means(|context| context), by_type: sums.means(|(cell_type, _)| cell_type) }
    }

    /// The resting mean that a group is compared with: its own batch's, else its cell type's, else
    /// none. The same rule as for drawn controls.
    pub fn at(&self, cell_type: u32, batch: u32) -> Option<&[f64]> {
        let own = self.by_batch.get(&(cell_type, batch));
        own.or_else(|| self.by_type.get(&cell_type)).map(Vec::as_slice)
    }
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

brief!(Pair, |pair| cell_type: pair.cell_type, perturbation: pair.perturbation);

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
            let mut effect = vec![0.0; data.genes()];
            let mut cells = 0.0;
            for group in groups {
                let (sum, count) = sum(data, &[group]);
                let batch = data.groups()[group as usize].batch;
                let Some(rest) = resting.at(cell_type, batch) else { unreachable!("left out above") };
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
