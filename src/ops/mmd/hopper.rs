//! The discrepancy's kernels for Hopper: when they are used, and their launches.

use crate::config::MmdKernel;
use crate::gpu::{Buffer, Gpu, Grid, Map, args};
use crate::tensor::Tensor;

/// Rows of a tile of pairs or of dy; columns of a tile of dy; warps of a block that multiply: as in the kernels.
const SIDE: usize = 128;
const COLUMNS: usize = 256;
const WARPS: usize = 8;

/// As in `Slots` of mmd_hopper.cuh: four slots of three boxes of 16 KiB, sums of columns, barriers, and slack to align to 1024
/// bytes.
const SHARED: usize = 12 * (16 << 10) + 16 * SIDE * 4 + 10 * 8 + 1024;

/// How many blocks run at once, if the kernels can be used. Up to 64 rows most of a tile would be empty, and they have nothing to
/// gain.
pub fn blocks(gpu: &Gpu, [_, rows, width]: [usize; 3], read: &[&Tensor]) -> Option<usize> {
    let whole = rows.is_multiple_of(8) && width.is_multiple_of(8);
    let fits = rows > 64 && whole && read.iter().all(|x| Map::can(&x.operand()));
    gpu.hopper_blocks().filter(|_| fits)
}

/// Blocks come in clusters of two, and so do tiles.
fn grid(blocks: usize, tiles: usize) -> Grid {
    Grid::new((blocks / 2 * 2).min(tiles), 384).with_shared(SHARED)
}

/// Tiles of pairs: two for each square of 256 rows by 256 columns in the upper triangle.
fn tiles([sets, rows, _]: [usize; 3]) -> usize {
    let across = rows.div_ceil(SIDE);
    sets * across * (across + 1)
}

/// How many sums `launch_pairs` writes.
pub fn parts(sizes: [usize; 3]) -> usize {
    tiles(sizes) * WARPS
}

/// Weights and pulls are `None` if no gradient is wanted.
pub fn launch_pairs(
    blocks: usize,
    parts: &Buffer,
    [weights, pulls]: [Option<&Tensor>; 2],
    [y, x]: [&Tensor; 2],
    [norms, scale]: [&Tensor; 2],
    sizes @ [sets, rows, width]: [usize; 3],
    kernel: MmdKernel,
) {
    let tiles = tiles(sizes);
    let map = |x: &Tensor| Map::new(x.operand(), [sets * rows, width], SIDE);
    let [of_y, of_x] = [y, x].map(map);
    let (slope, energy) = (4.0 / (sets * rows * rows) as f32, kernel == MmdKernel::Energy);
    let args =
        args![parts, weights, pulls, y, x, of_y, of_x, norms, scale, slope, energy, tiles, rows, width];
    // SAFETY: one sum for each warp of each tile; weights and pulls were made for `rows` and its tiles; y and x have one shape, and
    // the maps end where y and x do.
    unsafe { y.device().launch("mmd_hopper", "mmd_hopper_pairs", grid(blocks, tiles), &args) };
}

/// dy from dL and what either kernel of pairs has written.
pub fn launch_backward(
    blocks: usize,
    dy: &Tensor,
    d: &Tensor,
    [weights, pulls]: [&Tensor; 2],
    [y, x]: [&Tensor; 2],
    [sets, rows, width]: [usize; 3],
) {
    let tiles = sets * rows.div_ceil(SIDE).next_multiple_of(2) * width.div_ceil(COLUMNS);
    let map = |x: &Tensor| Map::new(x.operand(), [sets * rows, width], 64);
    // Two matrices, so that a box reads zeros beyond the rows of y, and of x.
    let half = |first| Map::new(weights.operand().skip(first), [sets * rows, rows], SIDE);
    let args = args![dy, d, half(0), half(rows), pulls, y, map(y), map(x), tiles, rows, width];
    // SAFETY: dy was made like y; x, weights, pulls and d were found to have the shapes that they have for this y; the maps end
    // where the tensors do.
    unsafe { y.device().launch("mmd_hopper_backward", "mmd_hopper_backward", grid(blocks, tiles), &args) };
}
