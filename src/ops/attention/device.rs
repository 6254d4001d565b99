//! Attention on a device: which kernels take a call, and their launches.
//!
//! ```text
//!   cell       attention_cell.cu: bf16, few rows, no seed; one warp per head of a set
//!   set        attention.cu, attention_backward.cu: bf16, K = 64 or 128; one block per 128 queries, backward per head of a set.
//!              On Hopper attention_hopper.cu and attention_hopper_backward.cu, if they are quicker
//!   plain      attention_plain.cu: everything else
//!   queries    attention_queries.cu, before the backwards of set and plain: row sums, and all of the seed's gradient
//! ```

use super::hopper;
use super::{Found, Given, Sizes};
use crate::error::Error;
use crate::gpu::{Gpu, Grid, PROCESSORS, Real, Route, args, fail};
use crate::ops::gate;
use crate::tensor::Tensor;

/// The kernels that take a call.
enum Kernels {
    Cell(&'static Kernel),
    Set(&'static Kernel),
    Plain,
}

/// Two kernels for heads of one width and sets of up to `rows` rows.
struct Kernel {
    width: usize,
    rows: usize,
    forward: &'static str,
    backward: &'static str,
}

const fn kernel(width: usize, rows: usize, forward: &'static str, backward: &'static str) -> Kernel {
    Kernel { width, rows, forward, backward }
}

const CELLS: [Kernel; 4] = [
    kernel(64, 16, "attention_cell_forward_64x16", "attention_cell_backward_64x16"),
    kernel(64, 32, "attention_cell_forward_64x32", "attention_cell_backward_64x32"),
    kernel(64, 64, "attention_cell_forward_64x64", "attention_cell_backward_64x64"),
    kernel(128, 16, "attention_cell_forward_128x16", "attention_cell_backward_128x16"),
];

const SETS: [Kernel; 2] = [
    kernel(64, usize::MAX, "attention_forward_64", "attention_backward_64"),
    kernel(128, usize::MAX, "attention_forward_128", "attention_backward_128"),
];

impl Kernels {
    /// Tensor cores need bf16, rows at multiples of 16 bytes, and a width that there is a kernel for.
    fn of(z: Sizes, seed: Option<&Tensor>, tensors: &[&Tensor]) -> Kernels {
        let fits = |x: &Tensor| x.real() == Real::Bf16 && x.address().is_multiple_of(16);
        let takes = |kernel: &&Kernel| kernel.width == z.width && z.rows <= kernel.rows;
        let rows = [z.packed(), z.slope()].iter().all(|row| row.is_multiple_of(8));
        if !rows || !tensors.iter().copied().chain(seed).all(fits) {
            return Kernels::Plain;
        }
        let cell = CELLS.iter().find(takes).filter(|_| seed.is_none()).map(Kernels::Cell);
        cell.or_else(|| SETS.iter().find(takes).map(Kernels::Set)).unwrap_or(Kernels::Plain)
    }
}

/// y and lse.
pub fn forward(qkv: &Tensor, seed: Option<&Tensor>, z: Sizes) -> (Tensor, Tensor) {
    let gpu = qkv.device();
    let y = Tensor::on(gpu, "attention y", &[z.sets, z.rows, z.out()], qkv.real());
    let lse = Tensor::on(gpu, "attention lse", &[z.sets, z.heads, z.rows], Real::F32);
    match Kernels::of(z, seed, &[qkv]) {
        Kernels::Cell(cell) => launch_cell_forward(cell, &y, &lse, qkv, z),
        Kernels::Set(set) => set_forward(set, &y, &lse, qkv, seed, z),
        Kernels::Plain => launch_plain_forward(&y, &lse, qkv, seed, z),
    }
    (y, lse)
}

fn set_forward(set: &Kernel, y: &Tensor, lse: &Tensor, qkv: &Tensor, seed: Option<&Tensor>, z: Sizes) {
    let any = || launch_set_forward(set, y, lse, qkv, seed, z);
    let ours = |blocks| hopper::launch_forward(blocks, y, lse, qkv, seed, z);
    let what = if seed.is_some() { "attention, seeded" } else { "attention" };
    let gpu = y.device();
    gpu.either(Route::Any, what, z.size(), hopper::blocks(gpu, z, &[qkv]), ours, any);
}

fn set_backward(set: &Kernel, dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let any = || launch_set_backward(set, dqkv, given, of_queries, z);
    let ours = |blocks| hopper::backward(blocks, dqkv, given, of_queries, z);
    let gpu = dqkv.device();
    let blocks = hopper::blocks(gpu, z, &[given.qkv, given.dy]);
    gpu.either(Route::Any, "attention backward", z.size(), blocks, ours, any);
}

/// What attention_queries.cu computes: delta, and t if there is a seed.
pub(super) struct OfQueries {
    /// `[B, H, N]`.
    pub delta: Tensor,
    /// As delta.
    pub t: Option<Tensor>,
}

/// dqkv, dseed, and y if requested.
pub fn backward(given: &Given, z: Sizes, again: bool) -> Found {
    let Given { dy, qkv, seed, y, lse } = *given;
    let gpu = qkv.device();
    let dqkv = qkv.like("attention dqkv");
    let kernels = Kernels::of(z, seed, &[qkv, dy]);
    if let Kernels::Cell(cell) = kernels {
        launch_cell_backward(cell, &dqkv, given, z);
        return Found { dx: dqkv, dseed: None, y: again.then(|| y.clone()) };
    }
    let of_rows = |what: &'static str| Tensor::on(gpu, what, lse.shape(), Real::F32);
    let of_queries = OfQueries { delta: of_rows("attention delta"), t: seed.map(|_| of_rows("attention t")) };
    let dseed = seed.map(|seed| seed.like("attention dseed"));
    launch_queries(&of_queries, dseed.as_ref(), given, z);
    match kernels {
        Kernels::Set(set) => set_backward(set, &dqkv, given, &of_queries, z),
        _ => {
            launch_plain_dq(&dqkv, given, &of_queries, z);
            launch_plain_dkv(&dqkv, given, &of_queries, z);
        }
    }
    let y = match z.gate {
        0 => again.then(|| y.clone()),
        _ => gate::backward_on(&dqkv, dy, Some(y), qkv, 3 * z.out(), again),
    };
    Found { dx: dqkv, dseed, y }
}

/// Queries and keys that a block of attention_backward.cu, or of the Hopper kernel, holds at a time.
pub(super) const QUERIES: usize = 64;
pub(super) const KEYS: usize = 128;

/// Room for the sums of dq of `heads` heads. None for sets that take one pass over their keys: they carry no sums from pass to
/// pass.
pub(super) fn sums_of_dq(gpu: &Gpu, z: Sizes, heads: usize, keys: usize) -> Option<Tensor> {
    let shape = [heads, z.rows.next_multiple_of(QUERIES), z.width];
    (z.rows > keys).then(|| Tensor::on(gpu, "attention sums of dq", &shape, Real::F32))
}

/// Four warps per block, or two if the tiles of four leave a multiprocessor room for only one block.
fn cell_grid(z: Sizes, bytes: usize) -> Grid {
    let warps = if 4 * bytes <= 100 << 10 { 4 } else { 2 };
    Grid::new((z.sets * z.heads).div_ceil(warps), 32 * warps as u32).with_shared(warps * bytes)
}

fn launch_cell_forward(cell: &Kernel, y: &Tensor, lse: &Tensor, qkv: &Tensor, z: Sizes) {
    let grid = cell_grid(z, 3 * cell.rows * z.width * 2);
    let items = z.sets * z.heads;
    let args = args![y, lse, qkv, items, z.rows, z.heads, z.scale];
    // SAFETY: y and lse were made for these sizes; `Sizes::of` has checked qkv against them, `Kernels::of` for bf16 and its
    // address.
    unsafe { y.device().launch("attention_cell", cell.forward, grid, &args) };
}

fn launch_cell_backward(cell: &Kernel, dqkv: &Tensor, given: &Given, z: Sizes) {
    // Tiles of q, k, v and dy, 16 rows of dq to be written; lse and delta.
    let grid = cell_grid(z, (4 * cell.rows + 16) * z.width * 2 + 2 * cell.rows * 4);
    let items = z.sets * z.heads;
    let args = args![dqkv, given.dy, given.qkv, given.lse, items, z.rows, z.heads, z.scale];
    // SAFETY: dqkv was made like qkv; dy and lse were found to have the shapes that they have for these sizes, dy to be bf16.
    unsafe { dqkv.device().launch("attention_cell", cell.backward, grid, &args) };
}

fn launch_set_forward(set: &Kernel, y: &Tensor, lse: &Tensor, qkv: &Tensor, seed: Option<&Tensor>, z: Sizes) {
    // 128 queries, and 64 keys and values twice.
    let grid =
        Grid::new(z.sets * z.heads * z.rows.div_ceil(128), 128).with_shared((128 + 4 * 64) * z.width * 2);
    let args = args![y, lse, qkv, seed, z.rows, z.heads, z.packed(), z.scale];
    // SAFETY: y and lse were made for these sizes; `Sizes::of` has checked qkv and seed against them, `Kernels::of` for bf16 and
    // addresses.
    unsafe { y.device().launch("attention", set.forward, grid, &args) };
}

/// Shared memory for keys and values; queries and dy, in one buffer or two; p and ds.
fn set_backward_grid(z: Sizes, keys: usize, buffers: usize) -> Grid {
    let shared = (2 * keys + 2 * buffers * QUERIES) * z.width * 2 + 2 * QUERIES * keys * 2;
    Grid::new(z.sets * z.heads, 256).with_shared(shared)
}

fn launch_set_backward(set: &Kernel, dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let gpu = dqkv.device();
    let wide = set_backward_grid(z, KEYS, 2);
    // For K = 128 that is 160 KiB, and some devices have 99 per block.
    let (kernel, keys, grid) = match gpu.has_shared_for(wide) {
        true => (set.backward, KEYS, wide),
        false if z.width != 128 => unreachable!("every device with bf16 has 96 KiB for K = {}", z.width),
        false => ("attention_backward_128_small", 64, set_backward_grid(z, 64, 1)),
    };
    let sums = sums_of_dq(gpu, z, z.sets * z.heads, keys);
    let (Given { dy, qkv, seed, lse, .. }, OfQueries { delta, t }) = (*given, of_queries);
    let (packed, of_dy) = (z.packed(), z.slope());
    let args = args![dqkv, &sums, dy, qkv, seed, lse, delta, t, z.rows, z.heads, packed, of_dy, z.scale];
    // SAFETY: dqkv was made like qkv; dy was found to have a row for each of its rows; lse, delta and t have one number per query
    // of a head; sums has whole blocks of queries, and is given if there is more than one pass over keys.
    unsafe { gpu.launch("attention_backward", kernel, grid, &args) };
}

fn launch_queries(of_queries: &OfQueries, dseed: Option<&Tensor>, given: &Given, z: Sizes) {
    let tensors = [given.dy, given.y, given.qkv].into_iter().chain(given.seed);
    let bytes = 4 * given.qkv.real().bytes() as u64;
    let whole = [z.width, z.packed(), z.slope()].iter().all(|row| row.is_multiple_of(4));
    let packs = whole && tensors.into_iter().all(|x| x.address().is_multiple_of(bytes));
    let pack = if packs { 4 } else { 1 };
    let columns = if dseed.is_some() { z.width.div_ceil(32 * pack) } else { 1 };
    // Aims at four resident blocks per multiprocessor, so that some read while others sum, each with enough rows for its warps. The
    // target counts only the largest power of two within the number of multiprocessors: numbers of heads are mostly powers of two,
    // and one more slice each would not run together with the others.
    const BLOCKS: usize = 4 << PROCESSORS.ilog2();
    const SLICE: usize = 32;
    const SLICES: usize = 32;
    let heads = z.sets * z.heads;
    let wanted = BLOCKS.div_ceil((heads * columns).max(1));
    let slices = wanted.clamp(1, (z.rows / SLICE).clamp(1, SLICES));
    let warps = z.rows.div_ceil(slices).div_ceil(2).clamp(1, 8) as u32; // each takes two rows at a time
    let grid = Grid::plane(heads, slices * columns, 32 * warps);
    let gpu = given.qkv.device();
    let parts = given.seed.filter(|_| slices > 1).map(|seed| {
        Tensor::on(gpu, "attention parts of dseed", &[slices, seed.rows(), seed.width()], Real::F32)
    });
    let (Given { dy, y, qkv, seed, lse }, OfQueries { delta, t }) = (*given, of_queries);
    let (Sizes { rows, heads, width, scale, .. }, packed, of_dy) = (z, z.packed(), z.slope());
    let args = args![
        delta, t, dseed, &parts, dy, y, qkv, seed, lse, rows, heads, width, packed, of_dy, pack, slices,
        scale
    ];
    // SAFETY: delta and t were made like lse, one number per query of a head; dseed like seed, parts like dseed for each slice; t,
    // dseed and, for several slices, parts are given if seed is.
    unsafe { gpu.launch("attention_queries", "attention_queries", grid, &args) };
    if let (Some(dseed), Some(parts)) = (dseed, parts) {
        let args = args![dseed, &parts, slices, dseed.len()];
        // SAFETY: one number of dseed per thread, and as many of each slice's part.
        unsafe {
            gpu.launch(
                "attention_queries",
                "attention_queries_total",
                Grid::new(dseed.len().div_ceil(128), 128),
                &args,
            )
        };
    }
}

/// One warp per row of a head; shared memory holds a tile and, per warp, `weights` numbers for each row it meets. Stops with an
/// error if the device's blocks cannot hold that many: with 99 KiB, from 12,145 rows on, backward.
fn plain_grid(gpu: &Gpu, z: Sizes, weights: usize) -> Grid {
    let (tile, bytes) = (32 * 33 * 4, weights * z.rows * 4);
    let warps = ((64 << 10) / bytes.max(1)).clamp(1, 8);
    let blocks = z.sets * z.heads * z.rows.div_ceil(warps);
    let grid = Grid::new(blocks, 32 * warps as u32).with_shared(tile + warps * bytes);
    if !gpu.has_shared_for(grid) {
        fail(Error::setting(
            "data.cells",
            format!("sets of {} cells are too large for this GPU's attention", z.rows),
        ));
    }
    grid
}

fn launch_plain_forward(y: &Tensor, lse: &Tensor, qkv: &Tensor, seed: Option<&Tensor>, z: Sizes) {
    let args = args![y, lse, qkv, seed, z.rows, z.heads, z.width, z.packed(), z.scale];
    let (gpu, grid) = (y.device(), plain_grid(y.device(), z, 1));
    // SAFETY: y and lse were made for these sizes; `Sizes::of` has checked qkv and seed against them.
    unsafe { gpu.launch("attention_plain", "attention_plain_forward", grid, &args) };
}

fn launch_plain_dq(dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let (Given { dy, qkv, seed, lse, .. }, OfQueries { delta, t }) = (*given, of_queries);
    let (Sizes { rows, heads, width, scale, .. }, packed, of_dy) = (z, z.packed(), z.slope());
    let args = args![dqkv, dy, qkv, seed, lse, delta, t, rows, heads, width, packed, of_dy, scale];
    let (gpu, grid) = (dqkv.device(), plain_grid(dqkv.device(), z, 2));
    // SAFETY: dqkv was made like qkv; dy was found to have a row for each of its rows; lse, delta and t have one number per query
    // of a head.
    unsafe { gpu.launch("attention_plain", "attention_plain_dq", grid, &args) };
}

fn launch_plain_dkv(dqkv: &Tensor, given: &Given, of_queries: &OfQueries, z: Sizes) {
    let (Given { dy, qkv, lse, .. }, delta) = (*given, &of_queries.delta);
    let (Sizes { rows, heads, width, scale, .. }, packed, of_dy) = (z, z.packed(), z.slope());
    let args = args![dqkv, dy, qkv, lse, delta, rows, heads, width, packed, of_dy, scale];
    let (gpu, grid) = (dqkv.device(), plain_grid(dqkv.device(), z, 2));
    // SAFETY: as for dq.
    unsafe { gpu.launch("attention_plain", "attention_plain_dkv", grid, &args) };
}
