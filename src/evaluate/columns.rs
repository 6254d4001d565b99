//! A block of genes, turned from cell by cell to gene by gene. The matrix as a whole stays as it is.

use std::ops::Range;

use super::side::{Matrix, Rows};

/// The non-zero values of some genes, gene by gene, cells in the order of [`super::side::Groups::cells`].
pub struct Columns {
    starts: Vec<usize>,
    places: Vec<u32>,
    values: Vec<f32>,
}

impl Columns {
    /// Genes `range` of all cells.
    pub fn of(rows: Rows, range: Range<usize>) -> Columns {
        let genes = range.len();
        let groups = rows.groups;
        // Two runs of places: the control's cells may lie in a matrix of their own.
        let runs =
            [(rows.matrix(0), 0..groups.starts[1]), (rows.matrix(1), groups.starts[1]..groups.cells.len())];
        let mut windows: Vec<Range<usize>> = Vec::with_capacity(groups.cells.len());
        let mut starts = vec![0; genes + 1];
        for (x, places) in &runs {
            for &cell in &groups.cells[places.clone()] {
                let window = window(x, cell as usize, &range);
                each(x, &window, range.start, |gene, _| starts[gene + 1] += 1);
                windows.push(window);
            }
        }
        for gene in 0..genes {
            starts[gene + 1] += starts[gene];
        }
        let mut next = starts.clone();
        let mut places = vec![0; starts[genes]];
        let mut values = vec![0.0; starts[genes]];
        for (x, run) in runs {
            for place in run {
                each(x, &windows[place], range.start, |gene, value| {
                    places[next[gene]] = place as u32;
                    values[next[gene]] = value;
                    next[gene] += 1;
                });
            }
        }
        Columns { starts, places, values }
    }

    /// Places (indices into the groups' cells, rising) and values of the block's gene `i`.
    pub fn gene(&self, i: usize) -> (&[u32], &[f32]) {
        let range = self.starts[i]..self.starts[i + 1];
        (&self.places[range.clone()], &self.values[range])
    }
}

/// Where a cell's values of the genes in `range` are stored.
fn window(x: &Matrix, cell: usize, range: &Range<usize>) -> Range<usize> {
    let row = x.row(cell);
    match x {
        Matrix::Sparse(x) => {
            let genes = &x.indices()[row.clone()];
            let first = genes.partition_point(|&gene| (gene as usize) < range.start);
            let count = genes[first..].partition_point(|&gene| (gene as usize) < range.end);
            row.start + first..row.start + first + count
        }
        Matrix::Dense { .. } => row.start + range.start..row.start + range.end,
    }
}

/// Calls `take(gene in block, value)` for the values that are not zero: stored and unstored zeros are one.
#[inline]
fn each(x: &Matrix, window: &Range<usize>, first: usize, mut take: impl FnMut(usize, f32)) {
    let values = &x.values()[window.clone()];
    match x {
        Matrix::Sparse(x) => {
            for (&gene, &value) in x.indices()[window.clone()].iter().zip(values) {
                if value != 0.0 {
                    take(gene as usize - first, value);
                }
            }
        }
        Matrix::Dense { .. } => {
            for (gene, &value) in values.iter().enumerate() {
                if value != 0.0 {
                    take(gene, value);
                }
            }
        }
    }
}
