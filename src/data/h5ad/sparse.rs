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
    /// The most entries of a line, one for each place in it.
    inner: u64,
}

impl Sparse {
    /// `outer` is the number of rows of CSR, of columns of CSC; `inner` that of the others.
    pub(super) fn open(node: &Node, [outer, inner]: [usize; 2]) -> Result<Sparse> {
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
        let sparse = Sparse { data, indices, indptr, entries, inner: inner as u64 };
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
        let starts: Vec<u64> = starts.into_iter().map(|start| start as u64).collect();
        if let Some(at) = starts.windows(2).position(|pair| pair[1] - pair[0] > self.inner) {
            let what = format!(
                "gives row {} {} entries, but there are {} places in it",
                range.start + at,
                starts[at + 1] - starts[at],
                self.inner
            );
            return Err(self.indptr.wrong(what));
        }
        Ok(starts)
    }

    /// Inner positions of a range of entries.
    pub(super) fn positions(&self, range: Range<u64>) -> Result<Vec<u32>> {
        let inner = self.inner as usize;
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
    pub(super) fn csr_rows(&self, path: &Path, range: Range<usize>) -> Result<Cells> {
        let starts = self.starts(range.clone())?;
        let (first, last) = (starts[0], starts[starts.len() - 1]);
        // Decompression dominates the cost, and the two arrays are independent.
        let (columns, values) = rayon::join(|| self.positions(first..last), || self.values(first..last));
        let (columns, values) = (columns?, values?);
        let bounds: Vec<usize> = starts.iter().map(|start| (start - first) as usize).collect();
        compressed(path, range.start, &bounds, columns, values, self.inner as usize)
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

#[cfg(test)]
mod tests {
    use hdf5_pure::{File, FileBuilder};

    use super::*;

    /// What reading two lines of three places says of such arrays.
    fn refused(data: &[u64], indices: &[i64], indptr: &[i64]) -> String {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("x.h5");
        let mut file = FileBuilder::new();
        let mut x = file.create_group("X");
        x.create_dataset("data").with_u64_data(data);
        x.create_dataset("indices").with_i64_data(indices);
        x.create_dataset("indptr").with_i64_data(indptr);
        file.add_group(x.finish());
        file.write(&path).expect("written");
        let file = File::open(&path).expect("opened");
        let node = Node::root(&file, &path).inner("X").expect("a group");
        let sparse = Sparse::open(&node, [2, 3]).expect("a matrix");
        sparse.csr_rows(&path, 0..2).expect_err("refused").to_string()
    }

    #[test]
    fn a_line_has_no_more_entries_than_places() {
        let told = refused(&[1; 5], &[0, 1, 2, 2, 0], &[0, 4, 5]);
        assert!(told.contains("gives row 0 4 entries, but there are 3 places in it"), "{told}");
    }

    #[test]
    fn minus_one_without_a_sign_is_no_count() {
        let told = refused(&[1, u64::MAX], &[0, 1], &[0, 1, 2]);
        assert!(told.contains("contains 18446744073709551615, a whole number above"), "{told}");
    }
}
