//! Epochs: sets that cover every cell once before any is repeated, in an order that needs no memory.
//!
//! ```text
//! tile j of a group   cells j N .. (j + 1) N of the group in the epoch's order, wrapping around to its first cells, so that
//!                     the last tile is filled up with the group's own cells, all different if it has N
//! set q of a run      tile q mod S of epoch q / S, the S tiles of all groups in the epoch's order
//! step k              sets k B .. (k + 1) B: an epoch may end within a step, and no set is ever short
//! ```
//!
//! Ranks share the sets of a step, so that each draws equally many and none is drawn twice. cell-load makes its sets once and
//! keeps them for the whole run; here the cells of a group are regrouped in each epoch.

use super::{Sampler, SetOfCells, Source, draw};
use crate::rng::Rng;

/// Random stream of the epochs' orders, a number that no step reaches.
const EPOCHS: u64 = u64::MAX;
/// Stream of the order of an epoch's tiles, apart from those of the groups.
const TILES: u64 = u64::MAX;

/// Number of tiles up to and including each group.
pub(super) fn tiles(sources: &[Source], n: usize) -> Vec<u64> {
    let mut sum = 0;
    let add = |source: &Source| {
        sum += (source.cells.end - source.cells.start).div_ceil(n as u64);
        sum
    };
    sources.iter().map(add).collect()
}

impl Sampler {
    /// Set `q` of the run; `rng` draws its control cells.
    pub(super) fn tile(&self, q: u64, rng: Rng) -> SetOfCells {
        let n = self.settings.cells as u64;
        let all = self.tiles[self.tiles.len() - 1];
        let epoch = self.rng.at(EPOCHS).at(q / all);
        let tile = epoch.at(TILES).order(all).at(q % all);
        let number = self.tiles.partition_point(|&sum| sum <= tile);
        let before = number.checked_sub(1).map_or(0, |number| self.tiles[number]);
        let Source { group, conditions, cells, pool } = &self.sources[number];
        let size = cells.end - cells.start;
        let order = epoch.at(number as u64).order(size);
        let begin = (tile - before) * n;
        let some = |begin: u64| (begin..begin + n).map(|i| cells.start + order.at(i % size)).collect();
        let controls = match pool {
            Some(pool) => {
                let pool = &self.pools[*pool as usize];
                draw(rng.at(2), pool.cells(), n as usize).into_iter().map(|i| pool.cell(i)).collect()
            }
            // The next cells in the order: different from those of this tile if there are 2 N.
            None => some(begin + n),
        };
        SetOfCells { group: *group, conditions: *conditions, controls, perturbed: some(begin) }
    }
}
