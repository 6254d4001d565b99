//! Sparse cells to dense rows on the network's scale, on a device. The host's counterpart is `data::loader::Rows::dense`.
//!
//! ```text
//!   formula    y[r,g]  = by ln(1 + v / scale[r])     for counts
//!              y[r,g]  = by v                        for log values
//!              y[r,g]  = 0                           if the row stores nothing for gene g
//!   tensors    y [R, G]
//!   bound by   memory: writes R G numbers, reads 4 bytes (6 with f32 values) per stored one
//! ```
//!
//! The arrays of a whole data set may stay on the device for a run: then a step sends only its spans.

use bytemuck::{Pod, Zeroable};

use crate::gpu::{Arg, Buffer, Grid, args};
use crate::tensor::Tensor;

/// Genes of a row that are expanded at once.
const TILE: usize = 8192;

/// Shared memory per block: what every device grants without opting in.
const SHARED: usize = 48 << 10;

/// Stored numbers of many cells, row after row, on a device.
#[derive(Clone, Copy, Debug)]
pub struct Cells<'a> {
    /// How many are stored; the buffers may be longer.
    pub stored: usize,
    /// Gene ids, u16, ascending inside a row.
    pub genes: &'a Buffer,
    /// One value per gene id.
    pub values: &'a Buffer,
    /// True if the values are f32, false if they are counts in u16.
    pub wide: bool,
}

/// Where a row's stored numbers are.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub struct Span {
    /// Its first stored number.
    pub begin: u64,
    /// How many there are.
    pub count: u32,
    /// What counts are divided by before the logarithm.
    pub scale: f32,
}

/// What the stored values become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// True for counts: ln(1 + v / scale). False for values that are logarithms already.
    pub log: bool,
    /// Factor of the result.
    pub by: f32,
}

/// y `[rows, genes]`, in the device's storage, from the first `rows` of `spans`, a buffer of [`Span`]s. What a span has beyond the
/// stored numbers counts as not stored.
///
/// # Panics
/// If the buffers are on several devices or hold less than they are said to, or the values are narrow and no counts.
pub fn gather(cells: &Cells, spans: &Buffer, rows: usize, genes: usize, scaling: Scaling) -> Tensor {
    let width = if cells.wide { 4 } else { 2 };
    let gpu = spans.gpu();
    let fits = cells.genes.bytes() / 2 >= cells.stored
        && cells.values.bytes() / width >= cells.stored
        && spans.bytes() / size_of::<Span>() >= rows
        && [cells.genes, cells.values].iter().all(|buffer| gpu.same(buffer.gpu()));
    assert!(
        fits && (cells.wide || scaling.log),
        "gather: {} stored, {} genes, {} values, {rows} rows of {} bytes, {scaling:?}",
        cells.stored,
        cells.genes.bytes() / 2,
        cells.values.bytes() / width,
        spans.bytes()
    );
    let y = Tensor::on(gpu, "cells", &[rows, genes], gpu.real());
    launch(&y, cells, spans, [rows, genes], scaling);
    y
}

fn launch(y: &Tensor, cells: &Cells, spans: &Buffer, [rows, genes]: [usize; 2], scaling: Scaling) {
    let (tile, bytes, pack) = (genes.min(TILE), y.real().bytes(), y.real().pack());
    // A row may begin at any number within a pack of 16 bytes, as its place in y does.
    let room = (tile + pack - 1).next_multiple_of(pack);
    let warps = (SHARED / (room * bytes)).clamp(1, 8);
    let grid = Grid::new(rows.div_ceil(warps), 32 * warps as u32).with_shared(warps * room * bytes);
    let values = Arg::from(cells.values);
    let [counts, values] = if cells.wide { [Arg::Pointer(0), values] } else { [values, Arg::Pointer(0)] };
    let (Cells { genes: ids, .. }, stored, Scaling { log, by }) = (*cells, cells.stored as u64, scaling);
    let args = args![y, ids, counts, values, spans, stored, rows, genes, tile, room, log, by];
    // SAFETY: y was made for rows x genes; both arrays hold `stored` numbers, and the kernel reads nothing past them, whatever a
    // span says; `spans` holds one span per row. An id that is not a gene of y is skipped.
    unsafe { y.device().launch("gather", "gather_rows", grid, &args) };
}
