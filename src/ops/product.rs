//! Matrix products of whole tensors on a device.
//!
//! ```text
//!   out[r, c] = sum_d a[r, d] b[d, c]  (+ bias[c])  (+ residual[r, c] or out[r, c])          sums[r] = sum_d a[r, d]
//!   tensors    leading axes folded; each side a tensor's rows, or their transpose
//! ```

use crate::gpu::{Operand, Product, Real};
use crate::tensor::{Tensor, agree};

/// One side of a product.
#[derive(Clone, Copy, Debug)]
pub enum Side<'a> {
    /// The tensor's rows.
    Rows(&'a Tensor),
    /// Their transpose.
    Columns(&'a Tensor),
}

impl<'a> Side<'a> {
    fn tensor(self) -> &'a Tensor {
        match self {
            Side::Rows(x) | Side::Columns(x) => x,
        }
    }

    fn size(self) -> [usize; 2] {
        let x = self.tensor();
        match self {
            Side::Rows(_) => [x.rows(), x.width()],
            Side::Columns(_) => [x.width(), x.rows()],
        }
    }

    fn operand(self) -> Operand {
        match self {
            Side::Rows(x) => x.operand(),
            Side::Columns(x) => x.operand().t(),
        }
    }
}

/// What a product has besides its sides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plus<'a> {
    /// `[C]`, stored as activations are.
    pub bias: Option<&'a Tensor>,
    /// `[R, C]`, stored as activations are, not out itself.
    pub residual: Option<&'a Tensor>,
    /// True if the product is added to what `out` holds.
    pub more: bool,
    /// `[R]`, f32: written by some devices.
    pub sums: Option<&'a Tensor>,
}

/// Writes the product of a and b, stored as activations are, to `out`, stored so too or f32. True if `sums` were written as well;
/// otherwise the caller must compute them.
///
/// # Panics
/// If sizes do not fit, not all are on one device, or what is written overlaps what is read; the message names `op`.
pub fn multiply(op: &str, out: &Tensor, a: Side, b: Side, plus: Plus) -> bool {
    let ([rows, depth], [depth_of_b, cols]) = (a.size(), b.size());
    let fits = depth == depth_of_b && [out.rows(), out.width()] == [rows, cols];
    assert!(fits, "{op}: {:?} from [{rows}, {depth}] times [{depth_of_b}, {cols}]", out.shape());
    let Plus { bias, residual, more, sums } = plus;
    let [left, right] = [a, b].map(Side::tensor);
    let gpu = agree(op, &[(left, left.shape()), (right, right.shape())], &[]);
    let gpu = gpu.unwrap_or_else(|| panic!("{op}: {left:?} is not on a device"));
    let beside_left = |x, shape: &[usize], real| match real {
        Real::F32 => agree(op, &[(left, left.shape())], &[(x, shape)]),
        _ => agree(op, &[(left, left.shape()), (x, shape)], &[]),
    };
    beside_left(out, out.shape(), out.real());
    bias.map(|x| beside_left(x, &[cols], left.real()));
    residual.map(|x| beside_left(x, out.shape(), left.real()));
    sums.map(|x| beside_left(x, &[rows], Real::F32));
    let apart = |a: &Tensor, b: &Tensor| {
        a.address() + a.bytes() <= b.address() || b.address() + b.bytes() <= a.address()
    };
    let read = [Some(left), Some(right), bias, residual];
    let clear = |written: &Tensor| read.iter().flatten().all(|x| apart(x, written));
    let clear = clear(out) && sums.is_none_or(|sums| clear(sums) && apart(out, sums));
    assert!(clear, "{op}: {out:?}, or the sums {sums:?}, written over {read:?}");
    let product = Product {
        bias: bias.map(Tensor::operand),
        plus: residual.map(Tensor::operand),
        more,
        sums: sums.map(Tensor::address),
        ..Product::new(out.operand(), a.operand(), b.operand(), [rows, cols, depth])
    };
    // SAFETY: all matrices have these sizes, are on this device, and those written overlap no other, as was asserted.
    unsafe { gpu.product(&product) }
}
