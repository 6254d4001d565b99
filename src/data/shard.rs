//! A data directory: cells grouped by condition, in files that are mapped into memory, not read.
//!
//! ```text
//! DATA/  manifest.json             genes, vocabularies, columns, scale, sources, and the shards with their sizes and checksums
//!        controls-0000.shard ..    unperturbed cells
//!        perturbed-0000.shard ..   perturbed cells
//! shard  prelude, header (JSON), then seven sections at 64-byte boundaries, zero bytes between:
//!        groups   [groups, 4] u32  cell type, perturbation, batch, cells: one block of rows each
//!        starts   [rows + 1]  u64  where each row begins in the two sections below
//!        genes    [nonzeros]  u16  gene ids, ascending inside a row
//!        values   [nonzeros]       u8 or u16 where the shard's counts fit, else f32
//!        library  [rows]      f32  total counts of the cell over all genes of the source
//!        name_starts [rows + 1] u64  where each cell's name begins in the last section
//!        names    [bytes]     u8   names of the cells in their sources (barcodes), UTF-8; training never touches them
//! ```
//!
//! All cells of a condition are adjacent, so that a set of cells is read from one range of one file. Everything that a file
//! could misstate is checked once, in [`Data::open`]; afterwards a row is three slices of the map. The check reads every byte
//! before any is used, checksums first and then rows: the price of never meeting a broken row in the middle of a run. It
//! keeps none of them in memory, which may be smaller than the data.

#[cfg(target_endian = "big")]
compile_error!(
    "shards are little-endian and mapped as they lie: this program does not run on big-endian machines"
);

mod as_read;
mod describe;
mod difference;
mod disk;
mod file;
mod format;
mod manifest;
mod normalise;
mod piles;
mod reader;
mod spill;
mod writer;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use as_read::AsRead;
pub use describe::describe;
pub(crate) use difference::Same;
pub(crate) use disk::bytes_read as disk_bytes_read;
pub(crate) use format::{VERSION, low_bits};
pub use manifest::{Columns, Manifest, Meaning, ShardEntry, Source};
pub(crate) use manifest::{parting, same_total};
pub(crate) use normalise::Normalise;
pub use piles::{Piles, Sizes};
pub use reader::{Data, Moments};
pub use spill::{Rows, RowsWriter};
pub use writer::{Limits, merge, write_cells};

/// Most genes that a data directory can hold: ids are 16 bits wide, and one is reserved.
pub const MOST_GENES: usize = u16::MAX as usize;

/// What the stored values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Whole numbers: molecules counted.
    Counts,
    /// ln(1 + counts scaled to a common total).
    Log1p,
    /// The same, already divided by 10.
    Log1p10,
}

impl Scale {
    /// As `--scale` and manifest.json have it.
    pub fn name(self) -> &'static str {
        match self {
            Scale::Counts => "counts",
            Scale::Log1p => "log1p",
            Scale::Log1p10 => "log1p10",
        }
    }
}

/// The cells of one condition: cells `first..first + cells` of the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Position in [`Manifest::cell_types`].
    pub cell_type: u32,
    /// Position in [`Manifest::perturbations`].
    pub perturbation: u32,
    /// Position in [`Manifest::batches`].
    pub batch: u32,
    /// Number of the group's first cell.
    pub first: u64,
    /// How many cells, never zero.
    pub cells: u32,
}

impl Group {
    /// Cell type, perturbation, batch.
    pub fn ids(&self) -> [u32; 3] {
        [self.cell_type, self.perturbation, self.batch]
    }

    /// The group's cell numbers.
    pub fn range(&self) -> Range<u64> {
        self.first..self.first + u64::from(self.cells)
    }

    /// The same in pieces of at most `cells` cells: what one task sums, or what is requested from disk at once.
    pub(crate) fn pieces(&self, cells: u64) -> impl Iterator<Item = Range<u64>> {
        let end = self.range().end;
        self.range().step_by(cells as usize).map(move |at| at..end.min(at + cells))
    }
}

/// The stored values of a row, as narrow as its shard allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Values<'a> {
    /// Counts below 256.
    U8(&'a [u8]),
    /// Counts below 65536.
    U16(&'a [u16]),
    /// Larger counts, or log values.
    F32(&'a [f32]),
}

impl Values<'_> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            Values::U8(v) => v.len(),
            Values::U16(v) => v.len(),
            Values::F32(v) => v.len(),
        }
    }

    /// True for a cell without stored values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Value `i`, widened.
    ///
    /// # Panics
    /// If there is no such value.
    pub fn get(&self, i: usize) -> f32 {
        match self {
            Values::U8(v) => f32::from(v[i]),
            Values::U16(v) => f32::from(v[i]),
            Values::F32(v) => v[i],
        }
    }
}

/// One cell, as stored in the map.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row<'a> {
    /// Gene ids, ascending.
    pub genes: &'a [u16],
    /// One value for each of them.
    pub values: Values<'a>,
    /// Total counts over all genes of the source. For log sources an estimate, target / smallest positive expm1(x), or NaN.
    pub library: f32,
}

impl Row<'_> {
    /// Bytes of genes and values.
    pub fn bytes(&self) -> usize {
        let values = match self.values {
            Values::U8(values) => size_of_val(values),
            Values::U16(values) => size_of_val(values),
            Values::F32(values) => size_of_val(values),
        };
        size_of_val(self.genes) + values
    }
}
