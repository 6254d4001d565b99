//! Compressed matrices: the three arrays in a file, and rows in memory.

use std::ops::Range;
use std::path::Path;

use super::array::Array;
use super::cells::{Cells, compress};
use super::node::Node;
use crate::error::{Error, Result};

/// Stored entries of a sparse row block, which take up to 20 bytes each while they are read.
pub(super) const BLOCK_ENTRIES: u64 = 2 << 20;

/// The three arrays of a compressed matrix.
pub(super) struct Sparse {
    pub(super) data: Array,
    indices: Array,
    indptr: Array,
    pub(super) entries: u64,
}

impl Sparse {
    /// `outer` is the number of rows of CSR, of columns of CSC.
    pub(super) fn open(node: &Node, outer: usize) -> Result<Sparse> {
        let [data, indices, indptr] = [node.array("data")?, node.array("indices")?, node.array("indptr")?];
        let (entries, indexed, pointers) = (data.length()?, indices.length()?, indptr.length()?);
        if indexed != entries || pointers != outer as u64 + 1 {
            return Err(node.wrong(format!(
                "has {entries} values, {indexed} indices and {pointers} pointers; there must be as many \
                 indices as values, and {} pointers",
                outer + 1
            )));
        }
        if let Some(part) = [&indices, &indptr]
            .into_iter()
            .find(|part| !matches!(part.word(), Ok(word) if !word.starts_with('f')))
        {
            return Err(part.wrong("does not contain whole numbers".to_string()));
        }
        let sparse = Sparse { data, indices, indptr, entries };
        let ends = [sparse.starts(0..0)?[0], sparse.starts(outer..outer)?[0]];
        if ends != [0, entries] {
            let what = format!("runs from {} to {}, not from 0 to {entries}", ends[0], ends[1]);
            return Err(sparse.indptr.wrong(what));
        }
        Ok(sparse)
    }

    /// Where each outer line of `range` starts in the data, and where the last one ends: `range.len() + 1` ascending offsets.
    pub(super) fn starts(&self, range: Range<usize>) -> Result<Vec<u64>> {
        let starts: Vec<i64> = self.indptr.numbers(range.start as u64, range.len() as u64 + 1)?;
        let rising = starts.windows(2).all(|pair| pair[0] <= pair[1]);
        if !rising || starts[0] < 0 || starts[starts.len() - 1] > self.entries as i64 {
            let what =
                format!("is out of order or out of range between rows {} and {}", range.start, range.end);
            return Err(self.indptr.wrong(what));
        }
        Ok(starts.into_iter().map(|start| start as u64).collect())
    }

    /// Inner positions (below `inner`) of a range of entries.
    pub(super) fn positions(&self, range: Range<u64>, inner: usize) -> Result<Vec<u32>> {
        let (start, count) = (range.start, range.end - range.start);
        // Half the memory of 64-bit positions; an invalid one has become the largest number.
        let places: Vec<u32> = self.indices.numbers(start, count)?;
        let most = places.iter().fold(0, |most, &place| most.max(place));
        if most as usize >= inner
            && let Some(at) = places.iter().position(|&place| place as usize >= inner)
        {
            let stored: Vec<i64> = self.indices.numbers(start + at as u64, 1)?;
            return Err(self.indices.wrong(format!("contains {}, outside 0..{inner}", stored[0])));
        }
        Ok(places)
    }

    /// Values of a range of entries.
    pub(super) fn values(&self, range: Range<u64>) -> Result<Vec<f32>> {
        self.data.values(range.start, range.end - range.start)
    }

    /// Rows, if the outer lines are cells.
    pub(super) fn csr_rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        let starts = self.starts(range.clone())?;
        let (first, last) = (starts[0], starts[starts.len() - 1]);
        // Decompression dominates the cost, and the two arrays are independent.
        let (columns, values) =
            rayon::join(|| self.positions(first..last, genes), || self.values(first..last));
        let (columns, values) = (columns?, values?);
        let bounds: Vec<usize> = starts.iter().map(|start| (start - first) as usize).collect();
        compressed(path, range.start, &bounds, columns, values, genes)
    }
}

/// Rows as [`Cells`]; `first` is the number of row 0. Errors: a gene that a row has twice.
pub(super) fn compressed(
    path: &Path,
    first: usize,
    bounds: &[usize],
    columns: Vec<u32>,
    values: Vec<f32>,
    genes: usize,
) -> Result<Cells> {
    compress(bounds, columns, values, genes).map_err(|[row, gene]| {
        let what = format!(
            "X stores gene number {gene} of cell number {} twice; sum or drop the copies (scipy: X.sum_duplicates()) and write it again",
            first + row
        );
        Error::format(path, what)
    })
}

/// Entries (row, column, value) in any order as rows; `bounds[i + 1]` is the number of entries of row `i`.
pub(super) fn by_rows(
    path: &Path,
    first: usize,
    found: Vec<(u32, u32, f32)>,
    mut bounds: Vec<usize>,
    genes: usize,
) -> Result<Cells> {
    for row in 1..bounds.len() {
        bounds[row] += bounds[row - 1];
    }
    let mut next = bounds.clone();
    let (mut columns, mut values) = (vec![0u32; found.len()], vec![0f32; found.len()]);
    for (row, column, value) in found {
        let place = &mut next[row as usize];
        (columns[*place], values[*place]) = (column, value);
        *place += 1;
    }
    compressed(path, first, &bounds, columns, values, genes)
}
