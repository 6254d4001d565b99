//! Cells as the encoder sees them: standardised, or shifted by their set's mean effect. They are data: there is no backward.
//!
//! ```text
//!   forward    standardize   y[m,g]   = (x[m,g] - mean[g]) scale[g]
//!              shifted       y[b,i,g] = max(x[b,i,g] + e[b,g], 0)
//!   tensors    x, y [.., G], shifted [B, N, G]     mean, scale [G], f32 on a device too     e [B, G]
//!   bound by   memory: 2 numbers per element
//! ```

use crate::gpu::{Grid, args};
use crate::ops::blocks;
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// (x - mean) scale, gene by gene: x `[.., G]`, mean and scale `[G]` f32, where x is, to a constant `[.., G]`.
    pub fn standardize(&mut self, x: Var, mean: &Tensor, scale: &Tensor) -> Var {
        let y = standardized(self.value(x), mean, scale);
        self.constant(y)
    }

    /// relu(x + e), cell by cell: x `[B, N, G]`, e `[B, G]`, to a constant `[B, N, G]`.
    pub fn shifted(&mut self, x: Var, effect: Var) -> Var {
        let y = shifted(self.value(x), self.value(effect));
        self.constant(y)
    }
}

fn standardized(x: &Tensor, mean: &Tensor, scale: &Tensor) -> Tensor {
    let genes = x.width();
    if agree("standardize", &[(x, x.shape())], &[(mean, &[genes]), (scale, &[genes])]).is_some() {
        let y = x.like("standardised cells");
        launch_standardize(&y, x, mean, scale);
        return y;
    }
    let size = blocks::rows(genes) * genes;
    let y = blocks::make(x.len(), size, |i, block| {
        for (y, x) in block.chunks_exact_mut(genes).zip(x.data()[i * size..].chunks_exact(genes)) {
            for (((y, x), mean), scale) in y.iter_mut().zip(x).zip(mean.data()).zip(scale.data()) {
                *y = (x - mean) * scale;
            }
        }
    });
    Tensor::new(x.shape(), y)
}

fn shifted(x: &Tensor, effect: &Tensor) -> Tensor {
    let [sets, cells, genes] = x.dims("shifted");
    if agree("shifted", &[(x, x.shape()), (effect, &[sets, genes])], &[]).is_some() {
        let y = x.like("shifted cells");
        launch_shifted(&y, x, effect, [cells, genes]);
        return y;
    }
    let y = blocks::make(x.len(), cells * genes, |b, set| {
        let effect = &effect.data()[b * genes..][..genes];
        for (y, x) in set.chunks_exact_mut(genes).zip(x.data()[b * cells * genes..].chunks_exact(genes)) {
            y.iter_mut().zip(x).zip(effect).for_each(|((y, x), e)| *y = (x + e).max(0.0));
        }
    });
    Tensor::new(x.shape(), y)
}

/// Cells along x; along y one thread per 16 bytes of a cell.
fn grid(x: &Tensor) -> Grid {
    Grid::plane(x.rows(), x.width().div_ceil(256 * x.real().pack()), 256)
}

fn launch_standardize(y: &Tensor, x: &Tensor, mean: &Tensor, scale: &Tensor) {
    let args = args![y, x, mean, scale, x.width()];
    // SAFETY: y was made like x; mean and scale hold an f32 for each number of a row.
    unsafe { y.device().launch("cells", "cells_standardize", grid(x), &args) };
}

fn launch_shifted(y: &Tensor, x: &Tensor, effect: &Tensor, [cells, genes]: [usize; 2]) {
    let args = args![y, x, effect, cells, genes];
    // SAFETY: y was made like x; effect holds one row for each set of `cells` rows.
    unsafe { y.device().launch("cells", "cells_shifted", grid(x), &args) };
}
