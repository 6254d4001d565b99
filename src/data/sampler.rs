//! Which cells make up step k: a pure function of (seed, k), so that resuming needs no state except k.
//!
//! ```text
//! weight of a group   cells^alpha                       alpha = 1 natural, 0 uniform
//! perturbed cells     N of the group (c, p, b)          all different if it has N
//! control cells       N of (c, b), else of c            all different if there are N
//! control -> control  two draws from the controls of (c, b), disjoint if there are 2 N
//! ```
//!
//! With epochs ([`SetOrder::Epoch`]) the sets cover every cell of the groups once, and only control cells are drawn.
//!
//! SCALE v1 leaves the weights open; these are ours. Cells come in random order: the flow pairs control i with perturbed cell
//! i, and pairing by position in the file would carry meaning.

mod epoch;

use std::collections::HashMap;
use std::ops::Range;

use super::controls::{Controls, control_pool, draw};
use super::shard::Data;
use crate::config::{DataConfig, SetOrder};
use crate::error::{Error, Result};
use crate::rng::{Rng, stream};

/// One set: N control cells and N perturbed cells of a context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetOfCells {
    /// Group of the perturbed cells.
    pub group: u32,
    /// Cell type, perturbation and batch ids.
    pub conditions: [u32; 3],
    /// Numbers of the control cells, `[N]`.
    pub controls: Vec<u64>,
    /// Numbers of the perturbed cells, `[N]`.
    pub perturbed: Vec<u64>,
}

/// A group that can be drawn.
#[derive(Clone, Debug)]
struct Source {
    group: u32,
    conditions: [u32; 3],
    cells: Range<u64>,
    /// Position in `pools`; `None` for a group of controls, which is its own pool.
    pool: Option<u32>,
}

/// Draws sets of cells.
#[derive(Clone, Debug)]
pub struct Sampler {
    /// The [`Data::crc`] of its data.
    data: u32,
    sources: Vec<Source>,
    /// Sum of the weights up to and including each source.
    cumulative: Vec<f64>,
    /// Sets per epoch up to and including each source.
    tiles: Vec<u64>,
    pools: Vec<Controls>,
    unmatched: Vec<u32>,
    settings: DataConfig,
    /// Which of a step's sets are drawn here.
    own: Range<u64>,
    rng: Rng,
}

impl Sampler {
    /// A sampler over the given groups.
    ///
    /// # Errors
    /// Empty sets, more cells than a batch can hold, an `alpha` that is not from 0 to 1, groups that the data does not have, and
    /// groups none of which can be used.
    pub fn new(data: &Data, groups: &[u32], settings: DataConfig, seed: u64) -> Result<Sampler> {
        check(data, &settings)?;
        data.check_groups(groups)?;
        let (mut sources, mut pools, mut unmatched) = (Vec::new(), Vec::new(), Vec::new());
        let mut pool_of = HashMap::new();
        for &number in groups {
            let group = &data.groups()[number as usize];
            let conditions = group.ids();
            let source = |pool| Source { group: number, conditions, cells: group.range(), pool };
            if data.is_control(number) {
                if settings.control_examples {
                    sources.push(source(None));
                }
                continue;
            }
            let pool = *pool_of.entry((group.cell_type, group.batch)).or_insert_with(|| {
                control_pool(data, number).map(|pool| {
                    pools.push(pool);
                    pools.len() as u32 - 1
                })
            });
            match pool {
                Some(pool) => sources.push(source(Some(pool))),
                None => unmatched.push(number),
            }
        }
        if sources.is_empty() {
            let what = match groups.len() {
                0 => "there are no groups to train on".to_string(),
                _ if unmatched.is_empty() => "there are no perturbed cells to train on".to_string(),
                all => {
                    let unmatched = unmatched.len();
                    format!(
                        "none of {all} groups can be used: {unmatched} have no controls of their cell type"
                    )
                }
            };
            return Err(Error::setting("groups", what));
        }
        let mut total = 0.0;
        let weigh = |source: &Source| {
            total += ((source.cells.end - source.cells.start) as f64).powf(settings.alpha);
            total
        };
        let cumulative = sources.iter().map(weigh).collect();
        let tiles = epoch::tiles(&sources, settings.cells);
        let (own, rng) = (0..settings.sets as u64, Rng::new(seed).at(stream::SETS));
        Ok(Sampler { data: data.crc(), sources, cumulative, tiles, pools, unmatched, settings, own, rng })
    }

    /// Whether the cell numbers that it draws are those of this data directory.
    pub(super) fn is_of(&self, data: &Data) -> bool {
        self.data == data.crc()
    }

    /// Draws only the sets of one of `ranks`: each rank gets equally many, no set is drawn twice, and together they draw all.
    ///
    /// # Errors
    /// A rank that is not one of them, or sets that cannot be shared evenly.
    pub fn share(mut self, rank: usize, ranks: usize) -> Result<Sampler> {
        if rank >= ranks {
            return Err(Error::setting("rank", format!("is {rank}, but {ranks} ranks count from 0")));
        }
        let share = sets_per_rank(self.settings.sets, ranks)? as u64;
        self.own = rank as u64 * share..(rank as u64 + 1) * share;
        Ok(self)
    }

    /// The sets of step `k`, `[B]`, or this rank's share of them.
    pub fn step(&self, k: u64) -> Vec<SetOfCells> {
        let rng = self.rng.at(k);
        let set = |set| match self.settings.order {
            SetOrder::Drawn => self.set(rng.at(set)),
            SetOrder::Epoch => self.tile(k * self.settings.sets as u64 + set, rng.at(set)),
        };
        self.own.clone().map(set).collect()
    }

    /// Sets per epoch, if the order has epochs.
    pub fn epoch(&self) -> Option<u64> {
        (self.settings.order == SetOrder::Epoch).then(|| self.tiles[self.tiles.len() - 1])
    }

    /// Index within the step of the first set that is drawn here.
    pub fn first(&self) -> usize {
        self.own.start as usize
    }

    /// Groups that were given but have no controls of their cell type: never drawn.
    pub fn unmatched(&self) -> &[u32] {
        &self.unmatched
    }

    /// What a step holds.
    pub fn settings(&self) -> &DataConfig {
        &self.settings
    }

    /// Groups that are drawn.
    pub fn groups(&self) -> impl Iterator<Item = u32> {
        self.sources.iter().map(|source| source.group)
    }

    fn set(&self, rng: Rng) -> SetOfCells {
        let n = self.settings.cells;
        let total = self.cumulative[self.cumulative.len() - 1];
        let mark = rng.at(0).uniform64(0) * total;
        // Rounding can put the mark at the very end.
        let drawn = self.cumulative.partition_point(|&sum| sum <= mark).min(self.sources.len() - 1);
        let Source { group, conditions, cells, pool } = &self.sources[drawn];
        let size = cells.end - cells.start;
        let number = |i: u64| cells.start + i;
        let (perturbed, controls) = match pool {
            Some(pool) => {
                let pool = &self.pools[*pool as usize];
                let controls = draw(rng.at(2), pool.cells(), n).into_iter().map(|i| pool.cell(i)).collect();
                (draw(rng.at(1), size, n).into_iter().map(number).collect(), controls)
            }
            None if size >= 2 * n as u64 => {
                let mut both: Vec<u64> = rng.at(1).sample(size, 2 * n).into_iter().map(number).collect();
                let controls = both.split_off(n);
                (both, controls)
            }
            // With fewer than 2 N controls the two draws may share cells.
            None => {
                let side = |stream| draw(rng.at(stream), size, n).into_iter().map(number).collect();
                (side(1), side(2))
            }
        };
        SetOfCells { group: *group, conditions: *conditions, controls, perturbed }
    }
}

/// How many of a step's sets each of `ranks` ranks takes.
///
/// # Errors
/// They cannot be shared evenly.
pub fn sets_per_rank(sets: usize, ranks: usize) -> Result<usize> {
    match sets.checked_rem(ranks) {
        Some(0) => Ok(sets / ranks),
        _ => {
            let what = format!(
                "{sets} sets per step cannot be shared evenly by {ranks} ranks; give a multiple of {ranks}"
            );
            Err(Error::setting("data.sets", what))
        }
    }
}

fn check(data: &Data, settings: &DataConfig) -> Result<()> {
    let DataConfig { sets, cells, alpha, .. } = *settings;
    if sets == 0 || cells == 0 {
        let field = if sets == 0 { "data.sets" } else { "data.cells" };
        return Err(Error::setting(field, "is 0, but a step needs at least one set of one cell"));
    }
    if !(0.0..=1.0).contains(&alpha) {
        return Err(Error::setting(
            "data.alpha",
            format!("is {alpha}; it must be from 0 (uniform) to 1 (natural)"),
        ));
    }
    // A batch indexes its stored values with 32 bits.
    let values = (sets as u128 * cells as u128).saturating_mul(2 * data.genes() as u128);
    if values > u128::from(u32::MAX) {
        let what = format!(
            "{sets} sets of 2 x {cells} cells of {} genes can have more than 4294967295 values; lower \
             data.sets or data.cells",
            data.genes()
        );
        return Err(Error::setting("data.sets", what));
    }
    Ok(())
}
