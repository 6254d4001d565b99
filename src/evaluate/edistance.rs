//! Energy distances between single cells (Székely & Rizzo 2013), as in cell-eval 0.6.6 (`edistance`).
//!
//!   E(p) = 2 mean d(x, c) - mean d(x, x') - mean d(c, c')      x cells of p, c control cells, d Euclidean over all genes
//!
//! Means are over all pairs, including a cell with itself. |x - y|^2 = |x|^2 + |y|^2 - 2 x y: the products are matrix products of
//! blocks of cells in f32; blocks of a sparse matrix are made dense for them. If the three terms cancel, the difference is taken
//! gene by gene instead.

use std::ops::Range;

use rayon::prelude::*;

use super::expression::sum_over_genes;
use super::side::{Matrix, Rows};
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};

/// Cells of a block on the left, which stays, and of one on the right.
const BLOCKS: [usize; 2] = [512, 256];

/// Below this share of |x|^2 + |y|^2 a squared distance has lost too many of its digits.
const CANCELLED: f32 = 1e-2;

/// E of every perturbation, `[P]`.
pub fn edistances(rows: Rows) -> Vec<f64> {
    let groups = rows.groups;
    let count = groups.starts.len() - 1;
    // (group, other group): the control with itself, then each perturbation with itself and with the control.
    let pairs: Vec<(usize, usize)> =
        std::iter::once((0, 0)).chain((1..count).flat_map(|g| [(g, g), (g, 0)])).collect();
    let blocks = |pair: usize| {
        let n = groups.size(pairs[pair].0);
        (0..n).step_by(BLOCKS[0]).map(move |first| (pair, first..(first + BLOCKS[0]).min(n)))
    };
    let jobs: Vec<(usize, Range<usize>)> = (0..pairs.len()).flat_map(blocks).collect();
    let sum_of = |(pair, cells): &(usize, Range<usize>)| sum(rows, pairs[*pair], cells.clone());
    let sums: Vec<f64> = jobs.par_iter().map(sum_of).collect();
    let mut means = vec![0.0; pairs.len()];
    jobs.iter().zip(&sums).for_each(|((pair, _), sum)| means[*pair] += sum);
    for (mean, &(a, b)) in means.iter_mut().zip(&pairs) {
        *mean /= groups.size(a) as f64 * groups.size(b) as f64;
    }
    means[1..].chunks_exact(2).map(|mean| 2.0 * mean[1] - mean[0] - means[0]).collect()
}

/// Sum of the distances from `cells` of the first group to the cells of the other: to all of them, or, within a group, to those of this
/// block and, counted twice, to those of later blocks.
fn sum(rows: Rows, (a, b): (usize, usize), cells: Range<usize>) -> f64 {
    let within = a == b;
    let left = Block::of(rows, a, cells.clone());
    let to = |range: Range<usize>| left.distances(&Block::of(rows, b, range));
    let steps = |range: Range<usize>| {
        range.clone().step_by(BLOCKS[1]).map(move |first| first..(first + BLOCKS[1]).min(range.end))
    };
    if !within {
        return steps(0..rows.groups.size(b)).map(to).sum();
    }
    let own: f64 = steps(cells.clone()).map(to).sum();
    let later: f64 = steps(cells.end..rows.groups.size(b)).map(to).sum();
    own + 2.0 * later
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
    fn of(rows: Rows, g: usize, range: Range<usize>) -> Block {
        let (matrix, genes) = (rows.matrix(g), rows.genes());
        let mut x = vec![0.0f32; range.len() * genes];
        for (&cell, x) in rows.groups.group(g)[range].iter().zip(x.chunks_exact_mut(genes)) {
            let row = matrix.row(cell as usize);
            let values = &matrix.values()[row.clone()];
            match matrix {
                Matrix::Sparse(cells) => {
                    cells.indices()[row].iter().zip(values).for_each(|(&gene, &v)| x[gene as usize] += v);
                }
                Matrix::Dense { .. } => x.copy_from_slice(values),
            }
        }
        let squares = x.chunks_exact(genes).map(|x| sum_over_genes(x, x, |x, _| x * x) as f32).collect();
        Block { genes, x, squares }
    }

    /// Sum of the distances from each cell here to each in `other`.
    fn distances(&self, other: &Block) -> f64 {
        let (n, m, genes) = (self.squares.len(), other.squares.len(), self.genes);
        let mut products = vec![0.0f32; n * m];
        let (a, b) = (Mat::new(&self.x, n, genes), Mat::new(&other.x, m, genes));
        product(MatMut::new(&mut products, n, m), a, b.t(), Keep::Nothing, Threads::One);
        let mut sum = 0.0;
        for (i, products) in products.chunks_exact(m).enumerate() {
            for (j, &xy) in products.iter().enumerate() {
                let squares = self.squares[i] + other.squares[j];
                let square = squares - 2.0 * xy;
                sum += match square < CANCELLED * squares {
                    true => self.apart(i, other, j),
                    false => f64::from(square).sqrt(),
                };
            }
        }
        sum
    }

    /// The distance from cell `i` here to `j` in `other`, gene by gene.
    fn apart(&self, i: usize, other: &Block, j: usize) -> f64 {
        let [x, y] = [(self, i), (other, j)].map(|(block, i)| &block.x[i * self.genes..][..self.genes]);
        sum_over_genes(x, y, |x, y| (x - y) * (x - y)).sqrt()
    }
}
