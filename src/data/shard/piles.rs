//! The groups of a future directory: known from the labels, before any cell is read.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use super::format::Kind;
use super::{Manifest, Scale};

/// A group on its way to a shard.
pub(super) struct Pile {
    /// Cell type, perturbation, batch.
    pub(super) label: [u32; 3],
    pub(super) cells: u32,
    pub(super) sizes: Sizes,
}

/// The space that the rows of some cells take.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sizes {
    /// Stored values.
    pub nonzeros: u64,
    /// Bytes of the cells' names.
    pub names: u64,
    /// The largest of the values.
    pub largest: f32,
}

impl Sizes {
    /// Combined with the sizes of other cells.
    pub(super) fn and(self, other: Sizes) -> Sizes {
        Sizes {
            nonzeros: self.nonzeros + other.nonzeros,
            names: self.names + other.names,
            largest: self.largest.max(other.largest),
        }
    }
}

/// The groups in the directory's order, controls first, and the group of each cell: 4 bytes per cell.
pub struct Piles {
    pub(super) all: Vec<Pile>,
    of_cell: Vec<u32>,
}

brief!(Piles, |piles| groups: piles.all.len(), cells: piles.of_cell.len());

impl Piles {
    /// From the labels of every cell (cell type, perturbation, batch), in source order.
    ///
    /// # Errors
    /// No cells, a condition of 2^32 cells or more, or a label that the manifest lacks; the message names the cell.
    pub fn of(
        manifest: &Manifest,
        labels: impl Iterator<Item = [u32; 3]> + Clone,
    ) -> std::result::Result<Piles, String> {
        let control = manifest.control_position();
        let key = |label: &[u32; 3]| (label[1] != control, *label);
        let mut counts = BTreeMap::new();
        for (cell, label) in labels.clone().enumerate() {
            if let Some((what, id, len)) = manifest.beyond(label) {
                return Err(format!(
                    "cell {cell} of the source has {what} {id}, but the vocabulary has only {len}"
                ));
            }
            let cells = counts.entry(key(&label)).or_insert(0u32);
            *cells = cells.checked_add(1).ok_or("a condition has more than 4294967295 cells")?;
        }
        if counts.is_empty() {
            return Err("there are no cells to write".into());
        }
        let numbers: HashMap<_, u32> = counts.keys().copied().zip(0u32..).collect();
        let of_cell = labels.map(|label| numbers[&key(&label)]).collect();
        let pile = |((_, label), cells)| Pile { label, cells, sizes: Sizes::default() };
        Ok(Piles { all: counts.into_iter().map(pile).collect(), of_cell })
    }

    /// Number of cells.
    pub fn cells(&self) -> usize {
        self.of_cell.len()
    }

    /// Pile of a cell.
    pub(super) fn of_cell(&self, cell: usize) -> u32 {
        self.of_cell[cell]
    }

    /// The piles of each shard: controls kept separate, each shard closed at `limit` bytes.
    pub(super) fn divide(&self, control: u32, scale: Scale, limit: u64) -> Vec<Range<usize>> {
        let mut shards = Vec::new();
        let (mut begin, mut rows, mut sizes) = (0, 0u64, Sizes::default());
        let is_control = |pile: &Pile| pile.label[1] == control;
        for (i, pile) in self.all.iter().enumerate() {
            let entries = sizes.nonzeros * (2 + Kind::of(scale, sizes.largest).width());
            let bytes = rows * 20 + sizes.names + entries;
            let apart = is_control(&self.all[begin]) != is_control(pile);
            if i > begin && (apart || bytes >= limit) {
                shards.push(begin..i);
                (begin, rows, sizes) = (i, 0, Sizes::default());
            }
            rows += u64::from(pile.cells);
            sizes = sizes.and(pile.sizes);
        }
        shards.push(begin..self.all.len());
        shards
    }
}
