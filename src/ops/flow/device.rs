//! The flow on a device: kernels/flow.cu.

use super::Stream;
use crate::gpu::{Buffer, Gpu, Grid, PROCESSORS, Real, args};
use crate::ops::loss;
use crate::tensor::Tensor;

/// The streams, one per set, as kernel `flow_start` takes them.
pub fn upload(gpu: &Gpu, streams: &[Stream]) -> Buffer {
    let words = |stream: &Stream| {
        let ((seed, noise), (_, holes)) = (stream.noise.words(), stream.holes.words());
        [seed, noise, holes, stream.first]
    };
    gpu.upload("streams of the flow's start", &streams.iter().map(words).collect::<Vec<_>>())
}

/// The start from z `[B, N, D]`, or, without noise, its gradient from dy.
pub fn start(z: &Tensor, streams: &Buffer, share: f32, noisy: bool, mask: f32) -> Tensor {
    let y = z.like("flow start");
    launch_start(&y, z, streams, share, noisy, mask);
    y
}

/// Sum of one or two tensors `[B, N, D]`, each times its set's factor `[B]`.
pub fn combine(terms: &[(&Tensor, &Tensor)]) -> Tensor {
    assert!(terms.len() <= 2, "flow: a sum of {} tensors on a device", terms.len());
    let (p, by_p) = terms[0];
    let y = p.like("flow sum");
    launch_combine(&y, (p, by_p), terms.get(1).copied());
    y
}

/// Three inputs `[B, N, D]` and their factors in the error, and in its gradient.
pub struct SquaredError {
    inputs: [Tensor; 3],
    /// `[2, 3, B]`: zero for an input that does not count.
    factors: Tensor,
    /// True for an input with a factor other than zero in the error, and in its gradient.
    counts: [[bool; 3]; 2],
}

impl SquaredError {
    /// `factors` are those of the error and of its gradient, one number per set.
    pub fn new(gpu: &Gpu, inputs: &[Tensor; 3], factors: [&[Vec<f32>; 3]; 2]) -> SquaredError {
        let [sets, _, _] = inputs[0].dims("flow loss");
        let counts = factors.map(|factors| std::array::from_fn(|k| super::any(&factors[k])));
        let numbers = factors.iter().flat_map(|f| f.concat()).collect();
        let factors =
            Tensor::new(&[2, 3, sets], numbers).to_gpu(gpu, "factors of the flow's loss", Real::F32);
        SquaredError { inputs: inputs.clone(), factors, counts }
    }

    /// The loss `[1]`.
    pub fn mean_square(&self) -> Tensor {
        let (gpu, [sets, size]) = (self.inputs[0].device(), self.size());
        // As many blocks as run at once, five per multiprocessor: each strides over its share of a set.
        let blocks = size.div_ceil(2048).min((5 * PROCESSORS / sets).max(1));
        let parts = gpu.buffer("flow loss parts", 8 * blocks * sets);
        launch_loss_forward(&parts, self, blocks);
        loss::total("flow loss", &parts, blocks * sets, 1.0 / self.inputs[0].len() as f32)
    }

    /// The gradients of the inputs that need one and count, from dL `[1]`.
    pub fn gradients(&self, d: &Tensor, needs: [bool; 3]) -> [Option<Tensor>; 3] {
        let gradient = |k: usize| {
            let x = &self.inputs[k];
            (needs[k] && self.counts[1][k]).then(|| x.like("flow gradient"))
        };
        let found = std::array::from_fn(gradient);
        launch_loss_backward(&found, d, self, 2.0 / self.inputs[0].len() as f32);
        found
    }

    /// The inputs that count in the error.
    fn terms(&self) -> [Option<&Tensor>; 3] {
        std::array::from_fn(|k| self.counts[0][k].then_some(&self.inputs[k]))
    }

    /// Sets, and numbers per set.
    fn size(&self) -> [usize; 2] {
        let [sets, rows, width] = self.inputs[0].dims("flow loss");
        [sets, rows * width]
    }
}

/// A grid of one thread per eight neighbours of a set; sets, and numbers per set.
fn eights(x: &Tensor) -> (Grid, [usize; 2]) {
    let [sets, rows, width] = x.dims("flow");
    (Grid::of_sets(sets, (rows * width).div_ceil(8 * 256), 256), [sets, rows * width])
}

fn launch_start(y: &Tensor, z: &Tensor, streams: &Buffer, share: f32, noisy: bool, mask: f32) {
    let [sets, rows, width] = z.dims("flow start");
    let size = rows * width;
    // A set of I numbers touches at most ceil(I / 4) + 1 blocks of four.
    let grid = Grid::of_sets(sets, (size.div_ceil(4) + 1).div_ceil(256), 256);
    let args = args![y, z, streams, share, noisy, mask, sets, size];
    // SAFETY: y was made like z, which is the value that the streams were made for, with four words of `streams` per set, or its
    // gradient, which the tape gives the same shape and place.
    unsafe { y.device().launch("flow", "flow_start", grid, &args) };
}

fn launch_combine(y: &Tensor, (p, by_p): (&Tensor, &Tensor), second: Option<(&Tensor, &Tensor)>) {
    let (grid, [sets, size]) = eights(y);
    let (q, by_q) = second.unzip();
    let args = args![y, p, by_p, q, by_q, sets, size];
    // SAFETY: all tensors have one shape, their factors one number per set.
    unsafe { y.device().launch("flow", "flow_combine", grid, &args) };
}

fn launch_loss_forward(parts: &Buffer, error: &SquaredError, blocks: usize) {
    let ([a, b, c], [sets, size]) = (error.terms(), error.size());
    let args = args![parts, a, b, c, &error.factors, sets, size];
    // SAFETY: one sum for each of `blocks` blocks per set; the inputs have one shape, the factors [2, 3, B].
    unsafe { parts.gpu().launch("flow", "flow_loss_forward", Grid::of_sets(sets, blocks, 256), &args) };
}

fn launch_loss_backward(gradients: &[Option<Tensor>; 3], d: &Tensor, error: &SquaredError, scale: f32) {
    let (grid, [sets, size]) = eights(&error.inputs[0]);
    let ([da, db, dc], [a, b, c]) = (gradients, error.terms());
    let args = args![da, db, dc, d, a, b, c, &error.factors, scale, sets, size];
    // SAFETY: gradients were made like the inputs, the factors are [2, 3, B]; the tape gives d the shape and the place of the loss.
    unsafe { d.device().launch("flow", "flow_loss_backward", grid, &args) };
}
