//! Attention's kernels for Hopper: when they are used, and their launches.

use super::device::{KEYS, OfQueries, QUERIES, sums_of_dq};
use super::{Given, Sizes};
use crate::gpu::{Arg, Gpu, Grid, Map, Route, args};
use crate::tensor::Tensor;

/// How many blocks run at once, if the kernels can be used. Up to 32 rows, one warp of attention.cu does everything, and they have
/// nothing to gain.
pub fn blocks(gpu: &Gpu, z: Sizes, read: &[&Tensor]) -> Option<usize> {
    let fits = z.width == 128 && z.rows > 32 && read.iter().all(|x| Map::can(&x.operand()));
    gpu.hopper_blocks().filter(|_| fits)
}

/// One block per multiprocessor, but no more than there are tiles: of 128 queries, or of two heads of up to 64. Shared memory as in
/// `Slots` of attention_hopper.cu: two tiles of queries and five of keys or values (four for two heads), 32 KiB each; per head, two
/// keys and four values of seeds; barriers; and slack to align to 1024 bytes.
pub fn launch_forward(
    blocks: usize,
    y: &Tensor,
    lse: &Tensor,
    qkv: &Tensor,
    seed: Option<&Tensor>,
    z: Sizes,
) {
    let items = z.sets * z.heads;
    let (kernel, heads, tiles) = match z.rows <= 64 {
        true => ("attention_hopper_forward_pairs", 2, items.div_ceil(2)),
        false => ("attention_hopper_forward", 1, items * z.rows.div_ceil(128)),
    };
    let ring = 6 - heads;
    let shared = (2 + ring) * (32 << 10) + heads * 6 * 256 + (6 + 2 * ring) * 8 + 1024;
    let grid = Grid::new(blocks.min(tiles), 384).with_shared(shared);
    let map = Map::new(qkv.operand(), [z.sets * z.rows, z.packed()], 128 / heads);
    let args = args![y, lse, map, seed, items, z.rows, z.heads, z.scale];
    // SAFETY: y and lse were made for these sizes; `Sizes::of` has checked seed against them; the map ends where qkv does.
    unsafe { y.device().launch("attention_hopper", kernel, grid, &args) };
}

/// Passes over keys, 128 each, of the longest sets whose keys are split between blocks.
const APART_PASSES: usize = 8;

/// dqkv. A block takes a whole head, or 128 of its keys at a time if that leaves fewer blocks idle and is quicker.
pub fn backward(blocks: usize, dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let (heads, passes) = (z.sets * z.heads, z.rows.div_ceil(KEYS));
    let whole = || launch_backward(blocks, dqkv, given, of_queries, z);
    let apart = |blocks| launch_backward_apart(blocks, dqkv, given, of_queries, z);
    // The sums of dq left to add grow with N^2: for longer sets they would take too much memory.
    let fits = passes <= APART_PASSES;
    let pays = fits && (heads * passes).div_ceil(blocks) < heads.div_ceil(blocks) * passes;
    let (what, blocks) = ("attention backward: keys apart", pays.then_some(blocks));
    dqkv.device().either(Route::Hopper, what, z.size(), blocks, apart, whole);
}

/// One block per multiprocessor, but no more than there are tasks. Shared memory as in `Slots` of attention_hopper_backward.cuh:
/// values and dq once; keys, queries, dy, ds, lse and delta twice; barriers; and slack to align to 1024 bytes.
fn backward_grid(blocks: usize, tasks: usize) -> Grid {
    let shared = 4 * (32 << 10) + 2 * (3 * (16 << 10) + 2 * 64 * 4) + 20 * 8 + 1024;
    Grid::new(blocks.min(tasks), 384).with_shared(shared)
}

fn launch_backward(blocks: usize, dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let heads = z.sets * z.heads;
    let sums = sums_of_dq(dqkv.device(), z, blocks.min(heads), KEYS);
    let grid = backward_grid(blocks, heads);
    let args = backward_args(dqkv, sums.as_ref(), given, of_queries, z);
    // SAFETY: dqkv was made like qkv; lse, delta and t have one number per query of a head; sums has whole blocks of 64 queries for
    // each block, and is given if there is more than one pass over keys; the maps end where qkv and dy do.
    unsafe {
        dqkv.device().launch("attention_hopper_backward", "attention_hopper_backward", grid, &args);
    };
}

fn launch_backward_apart(blocks: usize, dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let (heads, passes) = (z.sets * z.heads, z.rows.div_ceil(KEYS));
    let sums = sums_of_dq(dqkv.device(), z, heads * passes, KEYS);
    let grid = backward_grid(blocks, heads * passes);
    let args = backward_args(dqkv, sums.as_ref(), given, of_queries, z);
    let of_sum = args![dqkv, &sums, given.seed, &of_queries.t, heads, z.rows, z.heads, z.packed(), z.scale];
    let tiles = Grid::plane(heads, z.rows.div_ceil(QUERIES), 256);
    // SAFETY: as for whole heads, but sums has as much for every 128 keys; one stream runs the kernels one after the other.
    unsafe {
        dqkv.device().launch("attention_hopper_backward", "attention_hopper_backward_apart", grid, &args);
        dqkv.device().launch("attention_hopper_backward", "attention_hopper_sum_dq", tiles, &of_sum);
    };
}

fn backward_args(
    dqkv: &Tensor,
    sums: Option<&Tensor>,
    given: &Given,
    of_queries: &OfQueries,
    z: Sizes,
) -> [Arg; 14] {
    let map = |x: &Tensor, width, tall| Map::new(x.operand(), [z.sets * z.rows, width], tall);
    let (Given { dy, qkv, seed, lse, .. }, OfQueries { delta, t }) = (*given, of_queries);
    let (heads, packed) = (z.sets * z.heads, z.packed());
    let [of_128, of_64, dys] = [map(qkv, packed, 128), map(qkv, packed, 64), map(dy, z.slope(), 64)];
    args![dqkv, sums, of_128, of_64, dys, seed, lse, delta, t, heads, z.rows, z.heads, packed, z.scale]
}
