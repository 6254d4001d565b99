//! The cells' values gene by gene, one block after another. The matrix itself stays as it is, cell by cell.

use std::ops::Range;

use super::side::{Matrix, Rows};

/// Genes transposed at once: few enough that the places written next to each other stay in the cache, many enough that a cell's
/// next values are worth the walk to them.
const BLOCK: usize = 256;

/// A walk over a range of genes.
pub struct Columns<'a> {
    rows: Rows<'a>,
    /// Genes still to come.
    ahead: Range<usize>,
    /// Where the values of the genes ahead begin, for each of the groups' cells.
    next: Vec<usize>,
    /// How many values are stored for each gene of the whole range, from gene `first` on.
    counts: Vec<usize>,
    first: usize,
    /// The current block: where each of its genes begins and ends. Stored zeros leave gaps in between.
    spans: Vec<Range<usize>>,
    /// Place and value together: one write instead of two, as the writes jump from gene to gene.
    stored: Vec<(u32, f32)>,
}

brief!(Columns<'_>, |columns| ahead: columns.ahead);

impl<'a> Columns<'a> {
    /// Starts before the first block of these genes.
    pub fn new(rows: Rows<'a>, genes: Range<usize>) -> Columns<'a> {
        let mut counts = vec![0; genes.len()];
        let mut next = Vec::with_capacity(rows.groups.cells.len());
        for (x, places) in runs(&rows) {
            for &cell in &rows.groups.cells[places] {
                let window = window(x, cell as usize, &genes);
                match x {
                    Matrix::Sparse(x) => x.indices()[window.clone()]
                        .iter()
                        .for_each(|&gene| counts[gene as usize - genes.start] += 1),
                    // Counting zeros as well would reserve room that is never used.
                    Matrix::Dense { values, .. } => {
                        let found = values[window.clone()].iter().map(|&value| usize::from(value != 0.0));
                        counts.iter_mut().zip(found).for_each(|(count, found)| *count += found);
                    }
                }
                next.push(window.start);
            }
        }
        let first = genes.start;
        Columns { rows, ahead: genes, next, counts, first, spans: Vec::new(), stored: Vec::new() }
    }

    /// Turns to the next block: returns the number of its genes, `None` after the last.
    pub fn turn(&mut self) -> Option<usize> {
        let genes = self.ahead.start..self.ahead.end.min(self.ahead.start + BLOCK);
        self.ahead.start = genes.end;
        let mut room = 0;
        self.spans.clear();
        self.spans.extend(self.counts[genes.start - self.first..genes.end - self.first].iter().map(
            |count| {
                room += count;
                room - count..room - count
            },
        ));
        self.stored.resize(room, (0, 0.0));
        for (x, places) in runs(&self.rows) {
            for place in places {
                let next = &mut self.next[place];
                let cell = self.rows.groups.cells[place] as usize;
                *next = walk(x, cell, *next, &genes, |gene, value| {
                    let span = &mut self.spans[gene - genes.start];
                    self.stored[span.end] = (place as u32, value);
                    span.end += 1;
                });
            }
        }
        (!genes.is_empty()).then_some(genes.len())
    }

    /// The non-zeros of gene `i` of the block: places (indices into the groups' cells, rising) and values.
    ///
    /// # Panics
    /// If there is no such gene.
    pub fn gene(&self, i: usize) -> &[(u32, f32)] {
        &self.stored[self.spans[i].clone()]
    }
}

/// Two runs of places: the control's cells may be in a matrix of their own.
fn runs<'a>(rows: &Rows<'a>) -> [(&'a Matrix, Range<usize>); 2] {
    let groups = rows.groups;
    [(rows.matrix(0), 0..groups.starts[1]), (rows.matrix(1), groups.starts[1]..groups.cells.len())]
}

/// Where a cell's values of these genes are stored.
fn window(x: &Matrix, cell: usize, genes: &Range<usize>) -> Range<usize> {
    let row = x.row(cell);
    match x {
        Matrix::Sparse(x) => {
            let stored = &x.indices()[row.clone()];
            let before = |end: usize| row.start + stored.partition_point(|&gene| (gene as usize) < end);
            before(genes.start)..before(genes.end)
        }
        Matrix::Dense { .. } => row.start + genes.start..row.start + genes.end,
    }
}

/// Calls `take(gene, value)` for each non-zero value of a cell's `genes`, whose values begin at `start`: stored and unstored zeros
/// are treated alike. Returns where they end.
#[inline]
fn walk(
    x: &Matrix,
    cell: usize,
    start: usize,
    genes: &Range<usize>,
    mut take: impl FnMut(usize, f32),
) -> usize {
    let end = x.row(cell).end;
    match x {
        Matrix::Sparse(x) => {
            let stored = x.indices()[start..end].iter().zip(&x.data()[start..end]);
            let mut count = 0;
            for (&gene, &value) in stored.take_while(|(gene, _)| (**gene as usize) < genes.end) {
                if value != 0.0 {
                    take(gene as usize, value);
                }
                count += 1;
            }
            start + count
        }
        Matrix::Dense { values, .. } => {
            let window = start..start + genes.len();
            for (gene, &value) in genes.clone().zip(&values[window.clone()]) {
                if value != 0.0 {
                    take(gene, value);
                }
            }
            window.end
        }
    }
}
