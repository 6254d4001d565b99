//! The products of the patches on a device: one batch over the whole patches, and one product for the last patch if it is shorter.

use super::Sizes;
use crate::gpu::{Gpu, Operand, Product, Real};
use crate::tape::Sink;
use crate::tensor::{Tensor, agree};

/// Calls `make(patches, S of them, first patch)` for the whole patches and for the shorter last one.
fn cut(Sizes { genes, patch, .. }: Sizes, mut make: impl FnMut(usize, usize, usize)) {
    let whole = genes / patch;
    if whole > 0 {
        make(whole, patch, 0);
    }
    if !genes.is_multiple_of(patch) {
        make(1, genes % patch, whole);
    }
}

/// Windows of x `[M, G]` from patch `p` on.
fn of_x(x: &Tensor, z: Sizes, p: usize) -> Operand {
    Operand { down: z.genes, ..x.operand() }.skip(p * z.patch).every(z.patch)
}

/// Windows of w `[P, S, E]`.
fn of_w(w: &Tensor, z: Sizes, p: usize) -> Operand {
    w.operand().skip(p * z.patch * z.width).every(z.patch * z.width)
}

/// Windows of y `[M, P, E]`.
fn of_y(y: &Tensor, z: Sizes, p: usize) -> Operand {
    Operand { down: z.patches * z.width, ..y.operand() }.skip(p * z.width).every(z.width)
}

/// y `[M, P, E]`.
pub fn forward(gpu: &Gpu, x: &Tensor, w: &Tensor, e: &Tensor, z: Sizes) -> Tensor {
    let Sizes { rows, patches, width, .. } = z;
    let y = Tensor::on(gpu, "patch_embed y", &[rows, patches, width], x.real());
    cut(z, |batch, depth, p| {
        let product = Product::new(of_y(&y, z, p), of_x(x, z, p), of_w(w, z, p), [rows, width, depth]);
        let bias = Some(e.operand().skip(p * width).every(width));
        // SAFETY: the windows are inside tensors whose shapes were asserted; y is fresh.
        unsafe { gpu.product(&Product { batch, bias, ..product }) };
    });
    y
}

/// dx `[M, G]`.
pub fn backward_x(gpu: &Gpu, dy: &Tensor, x: &Tensor, w: &Tensor, z: Sizes) -> Tensor {
    let Sizes { rows, width, .. } = z;
    let dx = x.like("patch_embed dx");
    cut(z, |batch, taken, p| {
        let product = Product::new(of_x(&dx, z, p), of_y(dy, z, p), of_w(w, z, p).t(), [rows, taken, width]);
        // SAFETY: as in `forward`; dx is fresh.
        unsafe { gpu.product(&Product { batch, ..product }) };
    });
    dx
}

/// dw `[P, S, E]`, f32; zero beyond G. `None` if it was written to its place.
pub fn backward_w(
    gpu: &Gpu,
    dy: &Tensor,
    x: &Tensor,
    w: &Tensor,
    z: Sizes,
    sink: Option<&Sink>,
) -> Option<Tensor> {
    let Sizes { rows, genes, patches, patch, width } = z;
    let place = Sink::place_once(sink, || Tensor::on(gpu, "patch_embed dw", w.shape(), Real::F32));
    let dw = &place.to;
    agree("patch_embed", &[(x, x.shape())], &[(dw, w.shape())]);
    if patches * patch > genes {
        dw.part(genes * width, &[(patches * patch - genes) * width]).zero();
    }
    cut(z, |batch, taken, p| {
        let product = Product::new(of_w(dw, z, p), of_x(x, z, p).t(), of_y(dy, z, p), [taken, width, rows]);
        // SAFETY: as in `forward`; dw is fresh, or the place of w's gradient, which has the shape of w and which nobody reads now.
        unsafe { gpu.product(&Product { batch, ..product }) };
    });
    place.gradient()
}
