//! The discrepancy on a device: kernels/mmd.cu. On Hopper mmd_hopper.cu and mmd_hopper_backward.cu multiply, if they are quicker.

use super::{Saved, hopper};
use crate::config::MmdKernel;
use crate::gpu::{Buffer, Gpu, Grid, Real, Route, args};
use crate::ops::loss;
use crate::tensor::{Tensor, agree};

/// Rows and columns of a tile of pairs, rows of a block of sums, and bytes of a tile's operands: as in the kernels.
const TILE: usize = 128;
const CHUNK: usize = 32;
const TILE_SHARED: usize = 96 << 10;

/// The loss `[1]`, and what its gradient needs, if that is wanted.
pub fn forward(
    gpu: &Gpu,
    y: &Tensor,
    x: &Tensor,
    kernel: MmdKernel,
    wanted: bool,
) -> (Tensor, Option<Saved>) {
    let sizes @ [sets, rows, width] = y.dims("mmd");
    let (tiles, chunks) = (2 * rows.div_ceil(TILE), (2 * rows).div_ceil(CHUNK));
    let on = |what, shape: &[usize]| Tensor::on(gpu, what, shape, Real::F32);
    let (norms, columns) = (on("mmd norms", &[sets, 2 * rows]), on("mmd sums", &[sets, chunks, width]));
    let spreads = gpu.buffer("mmd spreads", 8 * sets * chunks);
    launch_rows([&norms, &columns], &spreads, [y, x], sizes);
    let scale = on("mmd scale", &[sets]);
    launch_scale(&scale, &columns, &spreads, sizes);

    let saved = wanted.then(|| Saved {
        weights: Tensor::on(gpu, "mmd weights", &[sets, rows, 2 * rows], y.real()),
        pulls: Some(on("mmd pulls", &[sets, rows, tiles])),
    });
    let [of_hopper, of_any] = [hopper::parts(sizes), sets * tiles * (tiles + 1) / 2];
    let parts = gpu.buffer("mmd parts", 8 * of_hopper.max(of_any));
    let kept = saved.as_ref().map(|saved| &saved.weights);
    let kept = [kept, saved.as_ref().and_then(|saved| saved.pulls.as_ref())];
    let of_rows = [&norms, &scale];
    let what = match (kernel, wanted) {
        (MmdKernel::Gaussian, false) => "mmd gaussian",
        (MmdKernel::Gaussian, true) => "mmd gaussian, kept",
        (MmdKernel::Energy, false) => "mmd energy",
        (MmdKernel::Energy, true) => "mmd energy, kept",
    };
    let ours = |blocks| hopper::launch_pairs(blocks, &parts, kept, [y, x], of_rows, sizes, kernel);
    let any = || launch_pairs(&parts, kept, [y, x], of_rows, sizes, kernel);
    let blocks = hopper::blocks(gpu, sizes, &[y, x]);
    let count = match gpu.either(Route::Any, what, sizes, blocks, ours, any) {
        true => of_hopper,
        false => of_any,
    };
    (loss::total("mmd loss", &parts, count, 1.0 / (sets * rows * rows) as f32), saved)
}

/// dy `[B, N, G]` from dL `[1]` and what forward saved.
pub fn backward(gpu: &Gpu, d: &Tensor, y: &Tensor, x: &Tensor, saved: &Saved) -> Tensor {
    let dy = y.like("mmd dy");
    let pulls = saved.pulls.as_ref().expect("kept by a device's forward");
    let (saved, sizes @ [sets, rows, _]) = ([&saved.weights, pulls], y.dims("mmd"));
    agree("mmd", &[(y, y.shape())], &[(pulls, &[sets, rows, 2 * rows.div_ceil(TILE)])]);
    let ours = |blocks| hopper::launch_backward(blocks, &dy, d, saved, [y, x], sizes);
    let any = || launch_backward(&dy, d, saved, [y, x], sizes);
    let blocks = hopper::blocks(gpu, sizes, &[y, x, saved[0]]);
    gpu.either(Route::Any, "mmd backward", sizes, blocks, ours, any);
    dy
}

fn launch_rows(
    [norms, columns]: [&Tensor; 2],
    spreads: &Buffer,
    [y, x]: [&Tensor; 2],
    [sets, rows, width]: [usize; 3],
) {
    let grid = Grid::of_sets(sets, (2 * rows).div_ceil(CHUNK), 256);
    let args = args![norms, columns, spreads, y, x, sets, rows, width];
    // SAFETY: norms hold one number for each of the 2 `rows` of a set, columns `width` sums and spreads one sum per block of rows.
    unsafe { y.device().launch("mmd", "mmd_rows", grid, &args) };
}

fn launch_scale(scale: &Tensor, columns: &Tensor, spreads: &Buffer, [sets, rows, width]: [usize; 3]) {
    let chunks = (2 * rows).div_ceil(CHUNK);
    let args = args![scale, columns, spreads, chunks, rows, width];
    // SAFETY: one number per set, from what `launch_rows` wrote.
    unsafe { scale.device().launch("mmd", "mmd_scale", Grid::new(sets, 1024), &args) };
}

fn launch_pairs(
    parts: &Buffer,
    [weights, pulls]: [Option<&Tensor>; 2],
    [y, x]: [&Tensor; 2],
    [norms, scale]: [&Tensor; 2],
    [sets, rows, width]: [usize; 3],
    kernel: MmdKernel,
) {
    let tiles = 2 * rows.div_ceil(TILE);
    let grid = Grid::of_sets(sets, tiles * (tiles + 1) / 2, 256).with_shared(TILE_SHARED);
    let (slope, energy) = (4.0 / (sets * rows * rows) as f32, kernel == MmdKernel::Energy);
    let args = args![parts, weights, pulls, y, x, norms, scale, slope, energy, sets, rows, width];
    // SAFETY: one sum per block; weights and pulls were made for `rows` and `tiles`; y and x have one shape.
    unsafe { y.device().launch("mmd", "mmd_pairs", grid, &args) };
}

fn launch_backward(
    dy: &Tensor,
    d: &Tensor,
    [weights, pulls]: [&Tensor; 2],
    [y, x]: [&Tensor; 2],
    [sets, rows, width]: [usize; 3],
) {
    let grid = Grid::of_sets(sets, rows.div_ceil(TILE) * width.div_ceil(TILE), 256).with_shared(TILE_SHARED);
    let args = args![dy, d, weights, pulls, y, x, sets, rows, width];
    // SAFETY: dy was made like y; x, weights, pulls and d were found to have the shapes that they have for this y.
    unsafe { y.device().launch("mmd", "mmd_backward", grid, &args) };
}
