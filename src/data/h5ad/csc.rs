//! From CSC to rows: the file is read column by column, once for each window of rows.
//!
//! Memory: 20 bytes per entry of a window (12 while it is collected, 8 in its place). The first window takes under 1 GB,
//! including what is being read, since often only the first rows are wanted, and many files may be open; those that follow
//! take up to an eighth of the machine's memory.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use super::cells::{Cells, slice};
use super::sparse::{BLOCK_ENTRIES, Sparse, by_rows};
use crate::error::Result;
use crate::lock::lock;
use crate::memory;

/// Entries of the first window.
const FIRST_ENTRIES: u64 = 16 * BLOCK_ENTRIES;
/// Entries read at a time.
const READ_ENTRIES: u64 = 4 << 20;

pub(super) struct Csc {
    sparse: Sparse,
    shape: [usize; 2],
    /// Entries of the first window and of those that follow.
    sizes: [u64; 2],
    /// The last transposed window: neighbouring row blocks share it.
    window: Mutex<Option<(Range<usize>, Cells)>>,
}

impl Csc {
    pub(super) fn new(sparse: Sparse, shape: [usize; 2]) -> Csc {
        let sizes = [FIRST_ENTRIES, following(memory::installed())];
        Csc { sparse, shape, sizes, window: Mutex::new(None) }
    }

    pub(super) fn entries(&self) -> u64 {
        self.sparse.entries
    }

    /// Rows per block.
    pub(super) fn block_rows(&self) -> usize {
        self.rows_of(BLOCK_ENTRIES)
    }

    /// Rows with so many entries, from the mean number of entries per row.
    fn rows_of(&self, entries: u64) -> usize {
        let cells = self.shape[0] as u128;
        let rows = u128::from(entries) * cells / u128::from(self.sparse.entries.max(1));
        (rows.min(cells) as usize).max(1)
    }

    pub(super) fn rows(&self, path: &Path, range: Range<usize>) -> Result<Cells> {
        // Emptied before it is refilled: what a panicking thread leaves behind is consistent.
        let mut window = lock(&self.window);
        let (held, cells) = match window.take() {
            Some((held, cells)) if held.start <= range.start && range.end <= held.end => (held, cells),
            before => {
                // A window may end inside a block, which is then the first of the next.
                let follows = before.is_some_and(|(held, _)| (held.start..=held.end).contains(&range.start));
                let rows = self.rows_of(self.sizes[usize::from(follows)]);
                let wide = range.start..range.end.max(self.shape[0].min(range.start + rows));
                (wide.clone(), self.transpose(path, wide)?)
            }
        };
        let part = slice(&cells, range.start - held.start..range.end - held.start);
        // Whoever has read the last rows begins again with the first.
        if range.end < self.shape[0] || held.start == 0 {
            *window = Some((held, cells));
        }
        Ok(part)
    }

    fn transpose(&self, path: &Path, rows: Range<usize>) -> Result<Cells> {
        let starts = self.sparse.starts(0..self.shape[1])?;
        let share = self.sparse.entries as f64 * rows.len() as f64 / self.shape[0] as f64;
        // The size is only the file's claim, which may be false: reserve no more than a legitimate window needs.
        let room = (share as usize + 1).min(self.sizes[1] as usize);
        let mut found: Vec<(u32, u32, f32)> = Vec::with_capacity(room);
        let mut bounds = vec![0usize; rows.len() + 1];
        let mut column = 0;
        for from in (0..self.sparse.entries).step_by(READ_ENTRIES as usize) {
            let to = self.sparse.entries.min(from + READ_ENTRIES);
            // One after the other: the window is locked, and a waiting rayon worker could be given a
            // task that needs the window too.
            let positions = self.sparse.positions(from..to)?;
            let values = self.sparse.values(from..to)?;
            for (entry, (&row, &value)) in (from..to).zip(positions.iter().zip(&values)) {
                while entry >= starts[column + 1] {
                    column += 1;
                }
                if rows.contains(&(row as usize)) {
                    found.push((row - rows.start as u32, column as u32, value));
                    bounds[row as usize - rows.start + 1] += 1;
                }
            }
        }
        // Columns arrive in order, so each row comes out sorted.
        by_rows(path, rows.start, found, bounds, self.shape[1])
    }
}

/// Entries of the windows that follow the first, on a machine with so many bytes of memory.
fn following(installed: u64) -> u64 {
    // Unknown memory may be little.
    let share = if installed == u64::MAX { 0 } else { installed / 8 };
    (share / 20).max(FIRST_ENTRIES)
}

#[cfg(test)]
mod tests {
    use hdf5_pure::{File, FileBuilder};

    use super::*;
    use crate::data::h5ad::node::Node;

    /// Six cells and two genes: every cell has the first, every second cell the other.
    fn small(path: &Path, sizes: [u64; 2]) -> Csc {
        let mut file = FileBuilder::new();
        let mut x = file.create_group("X");
        x.create_dataset("data").with_f32_data(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1.0, 2.0, 3.0]);
        x.create_dataset("indices").with_i64_data(&[0, 1, 2, 3, 4, 5, 0, 2, 4]);
        x.create_dataset("indptr").with_i64_data(&[0, 6, 9]);
        file.add_group(x.finish());
        file.write(path).expect("written");
        let file = File::open(path).expect("opened");
        let node = Node::root(&file, path).inner("X").expect("a group");
        let sparse = Sparse::open(&node, [2, 6]).expect("a matrix");
        Csc { sparse, shape: [6, 2], sizes, window: Mutex::new(None) }
    }

    #[test]
    fn the_first_window_is_small_and_the_last_is_freed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.h5");
        let csc = small(&path, [5, 8]);
        let held = || csc.window.lock().expect("no panic").as_ref().map(|(held, _)| held.clone());
        let whole = small(&path, [9, 9]).rows(&path, 0..6).expect("rows");
        let aligned = [(0..1, Some(0..3)), (1..3, Some(0..3)), (3..4, Some(3..6)), (4..6, None)];
        let across = [(0..2, Some(0..3)), (2..4, Some(2..6)), (4..6, None)];
        for (rows, window) in aligned.into_iter().chain(across) {
            assert_eq!(csc.rows(&path, rows.clone()).expect("rows"), slice(&whole, rows.clone()));
            assert_eq!(held(), window, "after {rows:?}");
        }
        let csc = small(&path, [9, 9]);
        csc.rows(&path, 5..6).expect("the last row");
        csc.rows(&path, 0..6).expect("all rows");
        assert_eq!(csc.window.lock().expect("no panic").as_ref().map(|(held, _)| held.clone()), Some(0..6));
    }

    #[test]
    fn a_window_is_an_eighth_of_the_memory_where_that_is_more() {
        assert_eq!([1 << 30, u64::MAX].map(following), [FIRST_ENTRIES; 2]);
        assert_eq!(following(160 << 30), 1 << 30);
    }
}
