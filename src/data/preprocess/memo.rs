//! Row blocks kept from one pass to the next: those that fit are read and unpacked only once.
//!
//! Most counts are below 256 and most sources have fewer than 65,536 genes, so an entry takes three bytes instead of eight.
//! Which blocks are kept depends on the time each one took; the results do not.
//!
//! Except for counts above 255, blocks have pages of their own, outside the allocator, which keeps freed memory
//! (`memory.rs`): in the last pass they return to the system one by one, while the rows to be written grow.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

use bytemuck::{cast_slice, cast_slice_mut};
use memmap2::MmapMut;

use crate::data::h5ad::Cells;
use crate::data::shard::low_bits;
use crate::lock::lock;

/// Bytes that may be kept.
const ROOM: usize = 384 << 20;

/// Blocks by file and first row.
#[derive(Default)]
pub(super) struct Memo {
    kept: Mutex<Kept>,
    /// Whether a later pass will use them.
    keeping: AtomicBool,
}

#[derive(Default)]
struct Kept {
    blocks: HashMap<(usize, usize), Tight>,
    bytes: usize,
}

/// A compactly stored row block.
struct Tight {
    rows: usize,
    stored: usize,
    /// End of each row, u32; genes, u16; values, one byte each.
    pages: MmapMut,
    /// Values that do not fit in a byte: index and value.
    others: Vec<(u32, f32)>,
}

impl Memo {
    /// Sets whether blocks read from now on will be read again.
    pub fn set_keeping(&self, keeping: bool) {
        self.keeping.store(keeping, Ordering::Relaxed);
    }

    /// The block of a file that starts at a row, if it was kept; in the last pass it is then dropped.
    pub fn block(&self, place: (usize, usize), genes: usize) -> Option<Cells> {
        if self.keeping.load(Ordering::Relaxed) {
            return self.lock().blocks.get(&place).map(|block| block.cells(genes));
        }
        // The lock is released before unpacking.
        let block = self.lock().blocks.remove(&place)?;
        Some(block.cells(genes))
    }

    /// Keeps a block if there is room for it and it will be used.
    pub fn keep(&self, place: (usize, usize), cells: &Cells) {
        if !self.keeping.load(Ordering::Relaxed) || self.lock().bytes + Tight::pages(cells) > ROOM {
            return;
        }
        let Some(block) = Tight::of(cells) else { return };
        let bytes = block.bytes();
        let mut kept = self.lock();
        if kept.bytes + bytes <= ROOM {
            kept.bytes += bytes;
            kept.blocks.insert(place, block);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        lock(&self.kept)
    }
}

impl Tight {
    /// `None` for a block that is not worth keeping: too many genes, or values that are not small counts.
    fn of(cells: &Cells) -> Option<Tight> {
        let (starts, values) = (cells.indptr(), cells.data());
        let starts = starts.as_slice()?;
        let (rows, stored) = (starts.len() - 1, values.len());
        if cells.cols() > 1 << 16 || u32::try_from(stored).is_err() {
            return None;
        }
        // If no pages can be had, the block is read again.
        let mut pages = MmapMut::map_anon(Tight::pages(cells).max(1)).ok()?;
        let (ends, rest) = pages.split_at_mut(rows * 4);
        let (genes, rest) = rest.split_at_mut(stored * 2);
        let bytes = &mut rest[..stored];
        let narrow = |(end, &wide): (&mut u32, &usize)| *end = wide as u32;
        cast_slice_mut(ends).iter_mut().zip(&starts[1..]).for_each(narrow);
        let narrow = |(gene, &wide): (&mut u16, &u32)| *gene = wide as u16;
        cast_slice_mut(genes).iter_mut().zip(cells.indices()).for_each(narrow);
        // For anything but a small whole number this is an arbitrary byte.
        let low = |(byte, &value): (&mut u8, &f32)| *byte = low_bits(value) as u8;
        bytes.iter_mut().zip(values).for_each(low);
        // Compared bit by bit: -0 is not 0.
        let differs = |(byte, value): (&u8, &f32)| f32::from(*byte).to_bits() != value.to_bits();
        let mut others = Vec::new();
        for (run, (bytes, values)) in bytes.chunks(64).zip(values.chunks(64)).enumerate() {
            if bytes.iter().zip(values).fold(false, |any, pair| any | differs(pair)) {
                let found = bytes.iter().zip(values).enumerate().filter(|(_, pair)| differs(*pair));
                others.extend(found.map(|(at, (_, &value))| ((run * 64 + at) as u32, value)));
            }
        }
        (others.len() <= stored / 4).then_some(Tight { rows, stored, pages, others })
    }

    /// Bytes that the pages of a block take.
    fn pages(cells: &Cells) -> usize {
        cells.rows() * 4 + cells.nnz() * 3
    }

    fn bytes(&self) -> usize {
        self.pages.len() + self.others.capacity() * 8
    }

    fn cells(&self, genes: usize) -> Cells {
        let (ends, rest) = self.pages.split_at(self.rows * 4);
        let (columns, values) = rest.split_at(self.stored * 2);
        let starts =
            std::iter::once(0).chain(cast_slice(ends).iter().map(|&end: &u32| end as usize)).collect();
        let columns = cast_slice(columns).iter().map(|&gene: &u16| u32::from(gene)).collect();
        let mut values: Vec<f32> = values[..self.stored].iter().map(|&value| f32::from(value)).collect();
        self.others.iter().for_each(|&(at, value)| values[at as usize] = value);
        Cells::new((self.rows, genes), starts, columns, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(values: &[f32]) -> Cells {
        let half = values.len() / 2;
        let columns = (0..half as u32).chain(65_500..65_500 + (values.len() - half) as u32).collect();
        Cells::new((3, 1 << 16), vec![0, half, half, values.len()], columns, values.to_vec())
    }

    #[test]
    fn a_block_comes_back_as_it_was_until_the_last_pass_had_it() {
        let cells =
            block(&[1.0, 255.0, 256.0, 7.0, 0.5, 3.0, 1.0, 1.0, 9.0, 2.0, 16_777_216.0, 1.0, 1.0, 1.0]);
        let memo = Memo::default();
        memo.keep((0, 5), &cells);
        assert!(memo.block((0, 5), 1 << 16).is_none(), "no pass will ask again");
        memo.set_keeping(true);
        memo.keep((0, 5), &cells);
        for keeping in [true, true, false] {
            memo.set_keeping(keeping);
            assert_eq!(memo.block((0, 5), 1 << 16).as_ref(), Some(&cells));
            assert!(memo.block((1, 5), 1 << 16).is_none());
        }
        assert!(memo.block((0, 5), 1 << 16).is_none());
    }

    #[test]
    fn values_that_are_no_small_counts_are_not_kept() {
        assert!(Tight::of(&block(&[0.5, f32::NAN, 3.25, 1.0])).is_none());
        assert!(Tight::of(&Cells::new((1, 1 << 17), vec![0, 0], vec![], vec![])).is_none());
    }
}
