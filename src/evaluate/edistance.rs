//! Energy distances between single cells (Székely & Rizzo 2013), as in cell-eval 0.6.6 (`edistance`).
//!
//!   E(p) = 2 mean d(x, c) - mean d(x, x') - mean d(c, c')      x cells of p, c control cells, d Euclidean over all genes
//!
//! Means are over all pairs, including a cell with itself. |x - y|^2 = |x|^2 + |y|^2 - 2 x y: the products are matrix products of
//! blocks of cells in f32; blocks of a sparse matrix are made dense for them. If the three terms cancel, the difference is taken
//! gene by gene instead.

use std::ops::Range;

use rayon::prelude::*;

use super::expression::sum_of_pairs;
use super::side::{Matrix, Rows};
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};

/// Most cells of a block: what one thread multiplies at a time.
const BLOCK: usize = 512;

/// Most numbers of a block, or one cell's, if those are more: 32 MiB. Each thread holds two blocks, and all of them together a panel
/// of control cells, as large as this or as `BLOCK` cells.
const DENSE: usize = 1 << 23;

/// Below this share of |x|^2 + |y|^2 a squared distance has lost too many of its digits.
const CANCELLED: f32 = 1e-2;

/// Energy distances closer to each other than this share of the distances they are made of differ by rounding alone.
const ROUNDING: f64 = 1e-6;

/// E of every perturbation, `[P]`: all the same if they differ by rounding alone, as those of one profile for all perturbations do.
/// Their correlation with anything is then undefined, and not one of rounding errors.
pub fn edistances(rows: Rows) -> Vec<f64> {
    let groups = rows.groups;
    let cells = |g: usize| groups.starts[g]..groups.starts[g + 1];
    let mean = |sums: &[f64], g: usize, other: usize| {
        sums.iter().sum::<f64>() / (groups.size(g) as f64 * groups.size(other) as f64)
    };
    let perturbed = cells(0).end;
    let (to_control, among) = (to_control(rows), among(rows));
    let among = |g: usize| mean(&among[cells(g)], g, g);
    let among_controls = among(0);
    let to_control = |g: usize| {
        let own = cells(g).start - perturbed..cells(g).end - perturbed;
        2.0 * mean(&to_control[own], g, 0)
    };
    let perturbations = 1..groups.starts.len() - 1;
    let mut found: Vec<f64> =
        perturbations.clone().map(|g| to_control(g) - among(g) - among_controls).collect();
    let most = found.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = found.iter().copied().fold(f64::INFINITY, f64::min);
    if found.iter().all(|e| e.is_finite())
        && most - least <= ROUNDING * perturbations.map(to_control).fold(0.0, f64::max)
    {
        found.fill(least);
    }
    found
}

/// Cells of a block. It depends on the genes alone, not on the number of threads, and so no sum depends on that.
fn block(rows: Rows) -> usize {
    (DENSE / rows.genes()).clamp(1, BLOCK)
}

/// Sum of the distances from each perturbed cell to the control cells. These are made dense once for all threads, a panel at a time.
fn to_control(rows: Rows) -> Vec<f64> {
    let (block, controls, end) = (block(rows), rows.groups.size(0), rows.groups.cells.len());
    let lefts: Vec<Range<usize>> = pieces(controls..end, block).collect();
    let mut sums = vec![0.0; end - controls];
    for panel in pieces(0..controls, (DENSE / rows.genes()).max(BLOCK).next_multiple_of(block)) {
        let rights: Vec<Range<usize>> = pieces(panel, block).collect();
        let rights: Vec<Block> = rights.into_par_iter().map(|cells| Block::of(rows, cells)).collect();
        sums.par_chunks_mut(block).zip(&lefts).for_each(|(sums, cells)| {
            let left = Block::of(rows, cells.clone());
            for right in &rights {
                left.distances(right).zip(&mut *sums).for_each(|(distance, sum)| *sum += distance);
            }
        });
    }
    sums
}

/// Sums of the distances from each cell to those of its own group. A pair in two blocks counts twice for the cell in the first and not
/// for the other: only the sum over all cells of a group is right.
///
/// Blocks of all groups are shared out alike, and each makes those after it dense anew, which cost no time beside their products: groups
/// may be many or large, and no thread takes up other work with blocks in its hands.
fn among(rows: Rows) -> Vec<f64> {
    let (block, starts) = (block(rows), &rows.groups.starts);
    let lefts = starts.windows(2).flat_map(|group| {
        let end = group[1];
        pieces(group[0]..end, block).map(move |cells| (cells, end))
    });
    let sums = |(cells, end): (Range<usize>, usize)| {
        let after = pieces(cells.end..end, block);
        let left = Block::of(rows, cells);
        let mut sums: Vec<f64> = left.distances(&left).collect();
        for right in after {
            left.distances(&Block::of(rows, right))
                .zip(&mut sums)
                .for_each(|(distance, sum)| *sum += 2.0 * distance);
        }
        sums
    };
    lefts.collect::<Vec<_>>().into_par_iter().map(sums).collect::<Vec<_>>().concat()
}

/// A range in pieces of `most`; the last may be shorter.
fn pieces(range: Range<usize>, most: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(most).map(move |first| first..(first + most).min(end))
}

/// Cells made dense.
struct Block {
    genes: usize,
    /// `[n, G]`.
    x: Vec<f32>,
    /// |x|^2, `[n]`.
    squares: Vec<f32>,
}

impl Block {
    /// The cells at these places of `rows.groups.cells`: control cells or perturbed ones, not both.
    fn of(rows: Rows, places: Range<usize>) -> Block {
        let (groups, genes) = (rows.groups, rows.genes());
        let matrix = rows.matrix(usize::from(places.start >= groups.size(0)));
        let mut x = vec![0.0f32; places.len() * genes];
        for (&cell, x) in groups.cells[places].iter().zip(x.chunks_exact_mut(genes)) {
            let row = matrix.row(cell as usize);
            let values = &matrix.values()[row.clone()];
            match matrix {
                Matrix::Sparse(cells) => {
                    cells.indices()[row].iter().zip(values).for_each(|(&gene, &v)| x[gene as usize] += v);
                }
                Matrix::Dense { .. } => x.copy_from_slice(values),
            }
        }
        let squares = x.chunks_exact(genes).map(|x| sum_of_pairs(x, x, |x, _| x * x) as f32).collect();
        Block { genes, x, squares }
    }

    /// For each cell here, the sum of its distances to the cells of `other`.
    fn distances(&self, other: &Block) -> impl Iterator<Item = f64> {
        let (n, m, genes) = (self.squares.len(), other.squares.len(), self.genes);
        let mut products = vec![0.0f32; n * m];
        let (a, b) = (Mat::new(&self.x, n, genes), Mat::new(&other.x, m, genes));
        product(MatMut::new(&mut products, n, m), a, b.t(), Keep::Nothing, Threads::One);
        (0..n).map(move |i| {
            let (products, xx) = (&products[i * m..][..m], self.squares[i]);
            let cancelled = |(&xy, &yy): (&f32, &f32)| xx + yy - 2.0 * xy < CANCELLED * (xx + yy);
            // Both loops look at every number, whatever they find: eight at a time.
            if products.iter().zip(&other.squares).fold(false, |any, pair| any | cancelled(pair)) {
                return (0..m).map(|j| self.distance(i, other, j, products[j])).sum();
            }
            sum_of_pairs(products, &other.squares, |xy, yy| (f64::from(xx) + yy - 2.0 * xy).sqrt())
        })
    }

    /// The distance from cell `i` here to `j` in `other`, gene by gene if the three terms cancel.
    fn distance(&self, i: usize, other: &Block, j: usize, xy: f32) -> f64 {
        let squares = self.squares[i] + other.squares[j];
        let square = squares - 2.0 * xy;
        if square >= CANCELLED * squares {
            return f64::from(square).sqrt();
        }
        let [x, y] = [(self, i), (other, j)].map(|(block, i)| &block.x[i * self.genes..][..self.genes]);
        sum_of_pairs(x, y, |x, y| (x - y) * (x - y)).sqrt()
    }
}
