//! From CSC to rows: the file is read column by column, once for each window of rows.
//!
//! Memory: 20 bytes per entry of a window (12 while it is collected, 8 in its place), under 1 GB including what is being
//! read; a matrix of up to [`WINDOW_BLOCKS`] row blocks is read once.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::Cells;
use super::sparse::{BLOCK_ENTRIES, Sparse, by_rows, slice};
use crate::error::Result;

/// Row blocks per window.
const WINDOW_BLOCKS: usize = 16;
/// Entries read at a time.
const READ_ENTRIES: u64 = 4 << 20;

pub(super) struct Csc {
    sparse: Sparse,
    shape: [usize; 2],
    /// The last transposed window: neighbouring row blocks share it.
    window: Mutex<Option<(Range<usize>, Cells)>>,
}

impl Csc {
    pub(super) fn new(sparse: Sparse, shape: [usize; 2]) -> Csc {
        Csc { sparse, shape, window: Mutex::new(None) }
    }

    pub(super) fn entries(&self) -> u64 {
        self.sparse.entries
    }

    /// Rows per block, from the mean number of entries per row.
    pub(super) fn block_rows(&self) -> usize {
        let cells = self.shape[0] as u128;
        let rows = u128::from(BLOCK_ENTRIES) * cells / u128::from(self.sparse.entries.max(1));
        (rows.min(cells) as usize).max(1)
    }

    pub(super) fn rows(&self, path: &Path, range: Range<usize>) -> Result<Cells> {
        // Emptied before it is refilled: what a panicking thread leaves behind is consistent.
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((held, cells)) = window.as_ref()
            && held.start <= range.start
            && range.end <= held.end
        {
            return Ok(slice(cells, range.start - held.start..range.end - held.start));
        }
        let end = range.end.max(self.shape[0].min(range.start + WINDOW_BLOCKS * self.block_rows()));
        let wide = range.start..end;
        *window = None;
        let cells = self.transpose(path, wide.clone())?;
        let part = slice(&cells, 0..range.len());
        *window = Some((wide, cells));
        Ok(part)
    }

    fn transpose(&self, path: &Path, rows: Range<usize>) -> Result<Cells> {
        let starts = self.sparse.starts(0..self.shape[1])?;
        let share = self.sparse.entries as f64 * rows.len() as f64 / self.shape[0] as f64;
        // The size is only the file's claim, which may be false: reserve no more than a legitimate window needs.
        let room = (share as usize + 1).min(WINDOW_BLOCKS * BLOCK_ENTRIES as usize);
        let mut found: Vec<(u32, u32, f32)> = Vec::with_capacity(room);
        let mut bounds = vec![0usize; rows.len() + 1];
        let mut column = 0;
        for from in (0..self.sparse.entries).step_by(READ_ENTRIES as usize) {
            let to = self.sparse.entries.min(from + READ_ENTRIES);
            // One after the other: the window is locked, and a waiting rayon worker could be given a
            // task that needs the window too.
            let positions = self.sparse.positions(from..to, self.shape[0])?;
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
