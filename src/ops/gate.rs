//! SwiGLU of the last 2F columns of each row, next to the result of the row's other branch: what ops swiglu and attention share.
//! The formula is in `swiglu.rs`.

use crate::gpu::{Grid, args};
use crate::ops::blocks;
use crate::ops::vector::sigmoid;
use crate::tensor::{Shaped, Tensor, agree};

/// How rows of x, `[.., C + 2F]`, and of y, `[.., E + F]`, are split.
#[derive(Clone, Copy)]
struct Cut {
    rows: usize,
    /// C: columns of x before gate and value.
    first: usize,
    /// E: columns of y before the product of the two.
    beside: usize,
    /// F.
    width: usize,
}

impl Cut {
    fn of(x: &Tensor, first: usize, beside: usize) -> Cut {
        let gated = x.width().saturating_sub(first);
        assert!(gated > 0 && gated.is_multiple_of(2), "swiglu: x {:?}, gate from {first}", x.shape());
        Cut { rows: x.rows(), first, beside, width: gated / 2 }
    }

    /// Numbers that a thread of the device moves at once: 16 bytes if all parts, and where all tensors begin, are multiples of that,
    /// else one.
    fn pack(&self, tensors: &[Shaped]) -> usize {
        let pack = tensors[0].0.real().pack();
        let whole = [self.first, self.beside, self.width].iter().all(|n| n.is_multiple_of(pack));
        let aligned = tensors.iter().all(|(x, _)| x.address().is_multiple_of(16));
        if whole && aligned { pack } else { 1 }
    }
}

/// The shape of y, `[.., E + F]`, for x `[.., C + 2F]`, gate from column C on, and `beside` = E columns before their product.
pub fn shape(x: &Tensor, first: usize, beside: usize) -> Vec<usize> {
    let out = beside + Cut::of(x, first, beside).width;
    [&x.shape()[..x.shape().len() - 1], &[out]].concat()
}

/// y = `[left | silu(gate) value]`, `[.., E + F]`: left `[.., E]`, if given, and x `[.., C + 2F]`, gate from column C on.
pub fn forward(left: Option<&Tensor>, x: &Tensor, first: usize) -> Tensor {
    let cut = Cut::of(x, first, left.map_or(0, Tensor::width));
    let out = cut.beside + cut.width;
    let shape = shape(x, first, cut.beside);
    if x.gpu().is_some() {
        let y = Tensor::on(x.device(), "swiglu y", &shape, x.real());
        forward_into(&y, left, x, first);
        return y;
    }
    let rows = blocks::rows(out);
    let y = blocks::make(cut.rows * out, rows * out, |i, block| {
        let xs = x.data()[i * rows * x.width()..].chunks_exact(x.width());
        for (at, (y, x)) in block.chunks_exact_mut(out).zip(xs).enumerate() {
            let (beside, y) = y.split_at_mut(cut.beside);
            if let Some(left) = left {
                beside.copy_from_slice(&left.data()[(i * rows + at) * cut.beside..][..cut.beside]);
            }
            let (a, u) = x[first..].split_at(cut.width);
            for ((y, &a), &u) in y.iter_mut().zip(a).zip(u) {
                *y = a * sigmoid(a) * u;
            }
        }
    });
    Tensor::new(&shape, y)
}

/// The same on a device, into a tensor y of that shape.
pub fn forward_into(y: &Tensor, left: Option<&Tensor>, x: &Tensor, first: usize) {
    for part in blocks::parts(x.rows(), most_rows(y.width())) {
        let of = |x: &Tensor| x.part_of_rows(&part);
        let (y, left, x) = (of(y), left.map(of), of(x));
        launch_forward(&y, left.as_ref(), &x, Cut::of(&x, first, left.as_ref().map_or(0, Tensor::width)));
    }
}

/// On the host, for one row: dx `[2F]` from dy `[F]` and x `[2F]`.
pub fn backward_row(dx: &mut [f32], dy: &[f32], x: &[f32]) {
    let (da, du) = dx.split_at_mut(dy.len());
    let (a, u) = x.split_at(dy.len());
    for ((((da, du), &a), &u), &dy) in da.iter_mut().zip(du).zip(a).zip(u).zip(dy) {
        let s = sigmoid(a);
        *da = dy * u * s * (1.0 + a * (1.0 - s));
        *du = dy * a * s;
    }
}

/// On a device: the last 2F columns of dx, which is shaped as x, from the last F of dy `[.., E + F]`; the others are left as they
/// are. With `again`, also returns y as [`forward`] made it from the same `left`.
pub fn backward_on(
    dx: &Tensor,
    dy: &Tensor,
    left: Option<&Tensor>,
    x: &Tensor,
    first: usize,
    again: bool,
) -> Option<Tensor> {
    let y = again.then(|| dy.like("swiglu y"));
    backward_into(dx, y.as_ref(), dy, left, x, first);
    y
}

/// The same, with y, if requested, written into a tensor shaped as dy.
///
/// # Panics
/// If shapes do not fit, or the tensors are not on one device.
pub fn backward_into(
    dx: &Tensor,
    y: Option<&Tensor>,
    dy: &Tensor,
    left: Option<&Tensor>,
    x: &Tensor,
    first: usize,
) {
    let width = x.width().saturating_sub(first) / 2;
    let beside = dy.width().checked_sub(width);
    let beside = beside.unwrap_or_else(|| panic!("swiglu: dy {:?}, x {:?}", dy.shape(), x.shape()));
    for part in blocks::parts(x.rows(), most_rows(dy.width())) {
        let of = |x: &Tensor| x.part_of_rows(&part);
        let (dx, y, dy, left, x) = (of(dx), y.map(of), of(dy), left.map(of), of(x));
        launch_backward([&dx, &dy, &x], y.as_ref(), left.as_ref(), Cut::of(&x, first, beside));
    }
}

/// Most rows per launch: it numbers their packs, which may be single numbers, in 32 bits.
fn most_rows(across: usize) -> usize {
    (u32::MAX as usize / across.max(1)).max(1)
}

fn launch_forward(y: &Tensor, left: Option<&Tensor>, x: &Tensor, cut: Cut) {
    let Cut { rows, first, beside, width } = cut;
    let (of_x, of_y, of_left) = ([rows, first + 2 * width], [rows, beside + width], [rows, beside]);
    let mut given: Vec<Shaped> = vec![(y, &of_y), (x, &of_x)];
    given.extend(left.map(|left| (left, &of_left[..])));
    agree("swiglu", &given, &[]);
    let pack = cut.pack(&given);
    let grid = Grid::elements(rows * ((beside + width) / pack)); // one thread per pack
    let args = args![y, left, x, rows, first, beside, width, pack];
    // SAFETY: rows of y were found to have E + F numbers, those of x C + 2F, those of left E; without left E is 0.
    unsafe { y.device().launch("swiglu", "swiglu_forward", grid, &args) };
}

fn launch_backward([dx, dy, x]: [&Tensor; 3], y: Option<&Tensor>, left: Option<&Tensor>, cut: Cut) {
    let Cut { rows, first, beside, width } = cut;
    let columns = width + if y.is_some() { beside } else { 0 };
    let (of_x, of_y, of_left) = ([rows, first + 2 * width], [rows, beside + width], [rows, beside]);
    let mut given: Vec<Shaped> = vec![(dx, &of_x), (dy, &of_y), (x, &of_x)];
    given.extend(y.map(|y| (y, &of_y[..])).into_iter().chain(left.map(|left| (left, &of_left[..]))));
    agree("swiglu", &given, &[]);
    assert!(y.is_none() || left.is_some() || beside == 0, "swiglu: y {of_y:?} without its other branch");
    let pack = cut.pack(&given);
    let args = args![dx, y, dy, left, x, rows, first, beside, width, pack];
    let grid = Grid::elements(rows * (columns / pack));
    // SAFETY: rows of dx and x were found to have C + 2F numbers, those of dy and y E + F, those of left E.
    unsafe { dx.device().launch("swiglu", "swiglu_backward", grid, &args) };
}
