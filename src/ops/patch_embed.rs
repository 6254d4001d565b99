//! A cell cut into patches, each with a linear map of its own: gene tokens (SCALE v1, eq. 3).
//!
//! ```text
//!   forward    y[m,p,e]  = sum_s x[m, p S + s] w[p,s,e] + b[p,e]         x is zero beyond G
//!   backward   dx[m,g]   = sum_e dy[m,p,e] w[p,s,e],  g = p S + s        =
//!              dw[p,s,e] = sum_m x[m, p S + s] dy[m,p,e]                 =
//!              db[p,e]   = sum_m dy[m,p,e]                               =
//!   tensors    x, dx [M, G]     w, dw [P, S, E]     b, db [P, E]     y, dy [M, P, E]     (P - 1) S < G <= P S
//!   work       no padded copy: a patch is a window of x with row stride G, and the last one is shorter
//!   bound by   compute: 2 M G E per product
//! ```

use crate::ops::blocks;
use crate::ops::column_sums;
use crate::ops::gemm::{Keep, Mat, MatMut, Threads, product};
use crate::tape::{Flops, Op, Sink, Tape, Var};
use crate::tensor::{Tensor, agree};
use crate::trace;

mod device;

impl Tape {
    /// Tokens of patches: x `[M, G]`, w `[P, S, E]`, e `[P, E]` to `[M, P, E]`.
    pub fn patch_embed(&mut self, x: Var, w: Var, e: Var) -> Var {
        let _range = trace::range("patch_embed forward");
        let (xs, ws) = (self.value(x).clone(), self.value(w).clone());
        let y = forward(&xs, &ws, self.value(e));
        let (x_needs, w_needs, e_needs) = (self.needs(x), self.needs(w), self.needs(e));
        let sinks = [w, e].map(|x| self.sink(x));
        let product = 2 * xs.len() * y.width();
        let wanted = usize::from(x_needs) + usize::from(w_needs);
        let op = Op::of("patch_embed", Flops { forward: product, backward: product * wanted, reading: 0 });
        self.record(op, &[x, w, e], y, move |dy| {
            let [_, patches, width] = dy.dims("patch_embed");
            let [to_w, to_e] = sinks.each_ref().map(Option::as_ref);
            let cells = dy.reshape(&[dy.rows() / patches, patches * width]);
            let de = || column_sums::gradient(&cells, to_e).map(|de| de.reshape(&[patches, width]));
            vec![
                x_needs.then(|| backward_x(dy, &xs, &ws)),
                if w_needs { backward_w(dy, &xs, &ws, to_w) } else { None },
                if e_needs { de() } else { None },
            ]
        })
    }
}

/// Cells that one thread takes at a time.
const ROWS: usize = 128;

/// M, G, P, S, E of one call.
#[derive(Clone, Copy)]
struct Sizes {
    rows: usize,
    genes: usize,
    patches: usize,
    patch: usize,
    width: usize,
}

impl Sizes {
    fn of(x: &Tensor, w: &Tensor) -> Sizes {
        let ([rows, genes], [patches, patch, width]) = (x.dims("patch_embed"), w.dims("patch_embed"));
        assert!(genes.div_ceil(patch) == patches, "patch_embed: x {:?}, w {:?}", x.shape(), w.shape());
        Sizes { rows, genes, patches, patch, width }
    }
}

/// y `[M, P, E]`.
pub fn forward(x: &Tensor, w: &Tensor, e: &Tensor) -> Tensor {
    let z @ Sizes { rows, genes, patches, patch, width } = Sizes::of(x, w);
    let reals = [(x, x.shape()), (w, w.shape()), (e, &[patches, width])];
    if let Some(gpu) = agree("patch_embed", &reals, &[]) {
        return device::forward(gpu, x, w, e, z);
    }
    let y = blocks::make(rows * patches * width, ROWS * patches * width, |i, block| {
        let rows = block.len() / (patches * width);
        block.chunks_exact_mut(patches * width).for_each(|row| row.copy_from_slice(e.data()));
        for p in 0..patches {
            let taken = patch.min(genes - p * patch);
            let x = Mat::strided(&x.data()[i * ROWS * genes + p * patch..], rows, taken, genes);
            let w = Mat::new(&w.data()[p * patch * width..], taken, width);
            let y = MatMut::strided(&mut block[p * width..], rows, width, patches * width);
            product(y, x, w, Keep::Add, Threads::One);
        }
    });
    Tensor::new(&[rows, patches, width], y)
}

/// dx `[M, G]`.
pub fn backward_x(dy: &Tensor, x: &Tensor, w: &Tensor) -> Tensor {
    let z @ Sizes { rows, genes, patches, patch, width } = Sizes::of(x, w);
    let reals = [(dy, &[rows, patches, width][..]), (x, x.shape()), (w, w.shape())];
    if let Some(gpu) = agree("patch_embed", &reals, &[]) {
        return device::backward_x(gpu, dy, x, w, z);
    }
    let dx = blocks::make(x.len(), ROWS * genes, |i, block| {
        let rows = block.len() / genes;
        for p in 0..patches {
            let taken = patch.min(genes - p * patch);
            let first = i * ROWS * patches * width + p * width;
            let dy = Mat::strided(&dy.data()[first..], rows, width, patches * width);
            let w = Mat::new(&w.data()[p * patch * width..], taken, width);
            let dx = MatMut::strided(&mut block[p * patch..], rows, taken, genes);
            product(dx, dy, w.t(), Keep::Nothing, Threads::One);
        }
    });
    Tensor::new(x.shape(), dx)
}

/// dw `[P, S, E]`; on a device it is written to its place, if it has one.
pub fn backward_w(dy: &Tensor, x: &Tensor, w: &Tensor, sink: Option<&Sink>) -> Option<Tensor> {
    let z @ Sizes { rows, genes, patches, patch, width } = Sizes::of(x, w);
    let reals = [(dy, &[rows, patches, width][..]), (x, x.shape()), (w, w.shape())];
    if let Some(gpu) = agree("patch_embed", &reals, &[]) {
        return device::backward_w(gpu, dy, x, w, z, sink);
    }
    let dw = blocks::make(w.len(), patch * width, |p, block| {
        if rows == 0 {
            return;
        }
        let taken = patch.min(genes - p * patch);
        let x = Mat::strided(&x.data()[p * patch..], rows, taken, genes);
        let dy = Mat::strided(&dy.data()[p * width..], rows, width, patches * width);
        product(MatMut::new(block, taken, width), x.t(), dy, Keep::Nothing, Threads::One);
    });
    Some(Tensor::new(w.shape(), dw))
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// y `[M, P, E]`. Sizes are G, S, E.
    pub fn forward(x: &[f64], w: &[f64], e: &[f64], [genes, patch, width]: [usize; 3]) -> Vec<f64> {
        let mut y = Vec::new();
        for x in x.chunks(genes) {
            for (at, e) in e.iter().enumerate() {
                let (p, c) = (at / width, at % width);
                let cut = p * patch..genes.min((p + 1) * patch);
                y.push(e + cut.map(|g| x[g] * w[g * width + c]).sum::<f64>());
            }
        }
        y
    }

    /// dx, dw, de.
    pub fn backward(dy: &[f64], x: &[f64], w: &[f64], e: &[f64], sizes: [usize; 3]) -> [Vec<f64>; 3] {
        let [genes, patch, width] = sizes;
        let (mut dx, mut dw, mut de) = (vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; e.len()]);
        for (m, dy) in dy.chunks(e.len()).enumerate() {
            for (at, d) in dy.iter().enumerate() {
                let (p, c) = (at / width, at % width);
                de[at] += d;
                for g in p * patch..genes.min((p + 1) * patch) {
                    dx[m * genes + g] += d * w[g * width + c];
                    dw[g * width + c] += d * x[m * genes + g];
                }
            }
        }
        [dx, dw, de]
    }
}
