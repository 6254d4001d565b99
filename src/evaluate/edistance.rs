//! Energy distances between single cells (Székely & Rizzo 2013), as in cell-eval 0.6.6 (`edistance`).
//!
//!   E(p) = 2 mean d(x, c) - mean d(x, x') - mean d(c, c')      x cells of p, c control cells, d Euclidean over all genes
//!
//! Means are over all pairs, including a cell with itself. |x - y|^2 = |x|^2 + |y|^2 - 2 x y: the products are matrix products of
//! blocks of cells in f32; blocks of a sparse matrix are made dense for them. If the three terms cancel, the difference is taken
//! gene by gene instead.

use std::cmp::Ordering;
use std::ops::Range;

use rayon::prelude::*;

use super::expression::sum_of_pairs;
use super::side::{Matrix, Rows};
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};

/// Cells of a block: what one thread multiplies at a time.
const BLOCK: usize = 512;

/// Numbers of the blocks on the right that are dense at a time (32 MiB), or one block's, if those are more. What is summed for all
/// threads has one such panel; each thread that sums within a group has its own.
const PANEL: usize = 1 << 23;

/// Below this share of |x|^2 + |y|^2 a squared distance has lost too many of its digits.
const CANCELLED: f32 = 1e-2;

/// E of every perturbation, `[P]`.
pub fn edistances(rows: Rows) -> Vec<f64> {
    let groups = rows.groups;
    let cells = |g: usize| groups.starts[g]..groups.starts[g + 1];
    let mean = |sums: &[f64], g: usize, other: usize| {
        sums.iter().sum::<f64>() / (groups.size(g) as f64 * groups.size(other) as f64)
    };
    let among = |g: usize| mean(&sums(rows, cells(g), cells(g)), g, g);
    let perturbed = cells(0).end;
    let to_control = sums(rows, perturbed..groups.cells.len(), cells(0));
    let among_controls = among(0);
    let e = |g: usize| {
        let own = cells(g).start - perturbed..cells(g).end - perturbed;
        2.0 * mean(&to_control[own], g, 0) - among(g) - among_controls
    };
    (1..groups.starts.len() - 1).into_par_iter().map(e).collect()
}

/// Sums of the distances from each of the cells `a` to all cells `b`; both are places in `rows.groups.cells`. Where the two are the same
/// cells, a pair in different blocks counts twice for the one and not for the other: only the sum over all of them is right then.
fn sums(rows: Rows, a: Range<usize>, b: Range<usize>) -> Vec<f64> {
    let mut sums = vec![0.0; a.len()];
    // Neither blocks nor panels depend on the number of threads, and so no sum does.
    for panel in pieces(b.clone(), (PANEL / rows.genes()).max(1).next_multiple_of(BLOCK)) {
        let block = |cells: Range<usize>| (cells.start, Block::of(rows, cells));
        let rights: Vec<(usize, Block)> =
            pieces(panel, BLOCK).collect::<Vec<_>>().into_par_iter().map(block).collect();
        sums.par_chunks_mut(BLOCK).zip(pieces(a.clone(), BLOCK).collect::<Vec<_>>()).for_each(
            |(sums, cells)| {
                let first = cells.start;
                if a == b && rights.last().is_some_and(|(start, _)| *start < first) {
                    return;
                }
                let left = Block::of(rows, cells);
                for (start, right) in &rights {
                    let times = match start.cmp(&first) {
                        _ if a != b => 1.0,
                        Ordering::Less => continue,
                        Ordering::Equal => 1.0,
                        Ordering::Greater => 2.0,
                    };
                    left.distances(right)
                        .zip(&mut *sums)
                        .for_each(|(distance, sum)| *sum += times * distance);
                }
            },
        );
    }
    sums
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
