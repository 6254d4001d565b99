//! Clip and AdamW over flat buffers (Loshchilov & Hutter 2019, alg. 2), with averaged weights.
//!
//! ```text
//!   norm     n     = sqrt(sum_i g[i]^2)              c = min(1, limit / (n + 1e-6))
//!   update   g     = c g[i]
//!            m[i]  = b1 m[i] + (1 - b1) g            v[i] = b2 v[i] + (1 - b2) g^2
//!            w[i]  = shrink w[i] - step m[i] / (sqrt(v[i]) root + eps)            shrink is 1 without decay
//!            a[i]  = keep a[i] + (1 - keep) w[i]     the average
//!   tensors  w, a, m, v, g [L] f32     clip [2] f32: n, c     decay [L / 8] bytes
//!            on a device that stores bf16, w is two halves, of which products read the upper
//!   bound by memory: 36 L bytes moved, 4 L more for the norm
//! ```

use std::ops::Range;

use rayon::prelude::*;

use crate::gpu::{Buffer, Gpu, Grid, PACK, Real, args};
use crate::tensor::{Shaped, Tensor, agree};

mod weights;

pub use weights::{Halves, Weights};

/// Numbers a thread takes at once: fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Partial sums of a rank's norm, or slightly more; fixed, so that every device adds in the same order.
const PARTIALS: usize = 1024;

/// Numbers per block of the norm: four packs of four per thread.
const BLOCK: usize = 256 * 16;

/// Where weight decay applies: one byte, 1 or 0, per [`PACK`] numbers.
pub enum Decay {
    /// For buffers on the host.
    Host(Vec<u8>),
    /// For buffers on a device.
    Device(Buffer),
}

brief!(Decay, |decay| on: match decay { Decay::Host(_) => None, Decay::Device(bits) => Some(bits) });

/// What is kept of K weights from step to step; `[K]` each.
#[derive(Debug)]
pub struct Part {
    /// The first of them among all weights.
    pub at: usize,
    /// Their lower halves, if the weights do not hold them.
    pub low: Option<Tensor>,
    /// First moment, f32.
    pub m: Tensor,
    /// Second moment, f32.
    pub v: Tensor,
    /// Averaged weights, f32.
    pub average: Tensor,
    /// Which of them decay.
    pub decay: Decay,
}

/// Scalars of a step, as in the formulas above.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Decay of the first moment.
    pub b1: f32,
    /// Decay of the second moment.
    pub b2: f32,
    /// Learning rate / (1 - b1^k).
    pub step: f32,
    /// 1 / sqrt(1 - b2^k).
    pub root: f32,
    /// Added to the denominator.
    pub eps: f32,
    /// 1 - learning rate * weight decay.
    pub shrink: f32,
    /// Decay of the average.
    pub keep: f32,
}

/// Stretches of the flat buffers; if those are on a device, a table of the stretches is there too.
#[derive(Debug)]
pub struct Stretches {
    ranges: Vec<Range<usize>>,
    table: Option<Buffer>,
}

impl Stretches {
    /// One or more ranges.
    ///
    /// # Panics
    /// If the start or end of one is not a multiple of [`PACK`].
    pub fn new(ranges: Vec<Range<usize>>, gpu: Option<&Gpu>) -> Stretches {
        let packed = |range: &Range<usize>| [range.start, range.end].iter().all(|at| at.is_multiple_of(PACK));
        assert!(ranges.iter().all(packed), "adamw: stretches {ranges:?}");
        let table: Vec<u64> =
            ranges.iter().flat_map(|range| [range.start as u64, range.len() as u64]).collect();
        let table = gpu.map(|gpu| gpu.upload("stretches of the gradients", &table));
        Stretches { ranges, table }
    }

    /// Bytes of their table on a device.
    pub fn bytes(&self) -> u64 {
        self.table.as_ref().map_or(0, |table| table.bytes() as u64)
    }
}

/// Sums of squares of these stretches of the gradients, in f64, each in the place of two numbers. The result has `ranks` equal
/// parts, of which only this rank's is written; the others are to be gathered.
///
/// # Panics
/// If a stretch goes beyond the gradients, `rank` is not below `ranks`, or the stretches were made for another device.
pub fn squares(grads: &Tensor, of: &Stretches, rank: usize, ranks: usize) -> Tensor {
    let Stretches { ranges, table } = of;
    let Some(gpu) = agree("adamw", &[], &[(grads, grads.shape())]) else {
        let chunks = ranges.iter().flat_map(|range| grads.data()[range.clone()].chunks(CHUNK));
        let sums: Vec<f64> = chunks.collect::<Vec<_>>().into_par_iter().map(squared).collect();
        let mut all = vec![[0.0f32; 2]; ranks];
        all[rank] = bytemuck::cast(sums.iter().sum::<f64>());
        return Tensor::new(&[2 * ranks], all.concat());
    };
    assert!(ranges.iter().all(|range| range.end <= grads.len()), "adamw: {ranges:?} of {}", grads.len());
    let longest = ranges.iter().map(Range::len).max().unwrap_or(0);
    let grid = [longest.div_ceil(BLOCK).clamp(1, PARTIALS.div_ceil(ranges.len())), ranges.len()];
    let own = 2 * grid[0] * grid[1];
    let sums = Tensor::on(gpu, "partial sums of the norm", &[ranks * own], Real::F32);
    let table = table.as_ref().filter(|table| gpu.same(table.gpu())).expect("on the gradients' device");
    launch_norm(&sums.part(rank * own, &[own]), grads, table, grid);
    sums
}

/// Norm of the gradients, from their sums of squares, and the factor that clips it to `limit`: `[2]` f32, on the host or
/// device of `squares`.
pub fn clip(squares: &Tensor, limit: f64) -> Tensor {
    if let Some(gpu) = agree("adamw", &[], &[(squares, squares.shape())]) {
        let clip = Tensor::on(gpu, "the norm", &[2], Real::F32);
        launch_clip(&clip, squares, limit as f32);
        return clip;
    }
    let sums = squares.data().as_chunks::<2>().0.iter().map(|&bits| bytemuck::cast::<_, f64>(bits));
    let norm = sums.sum::<f64>().sqrt();
    Tensor::new(&[2], vec![norm as f32, (limit / (norm + 1e-6)).min(1.0) as f32])
}

/// Sum of squares in f64, in a fixed order. Sixteen independent sums: a single one would wait for each addition.
fn squared(x: &[f32]) -> f64 {
    let (wide, rest) = x.as_chunks::<16>();
    let mut lanes = [0.0f64; 16];
    for x in wide.iter().map(|x| x.map(f64::from)) {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += x * x;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
}

/// One step of the part's weights. All buffers are on the host, or all on one device; all weights and gradients `[L]`.
///
/// # Panics
/// If the lengths differ, or the part goes beyond the weights or does not begin and end at multiples of [`PACK`].
pub fn update(weights: &mut Weights, grads: &Tensor, part: &mut Part, clip: &Tensor, rates: Rates) {
    let &mut Part { at, ref low, ref mut m, ref mut v, ref mut average, ref decay } = part;
    let (len, all) = (m.len(), weights.read().len());
    let packed = len.is_multiple_of(PACK) && at.is_multiple_of(PACK);
    let fits = v.len() == len
        && average.len() == len
        && grads.len() == all
        && at <= all
        && len <= all - at
        && packed;
    assert!(fits, "adamw: {len} from {at} on of {all} weights, {} gradients", grads.len());
    let grads = grads.part(at, &[len]);
    let bytes = match decay {
        Decay::Device(bytes) => {
            let fits = bytes.bytes() == len / PACK && m.is_on(Some(bytes.gpu()));
            assert!(fits, "adamw: weights {m:?}, {} bytes of decay on {:?}", bytes.bytes(), bytes.gpu());
            let weights = weights.window(at, len, low.as_ref());
            return launch_update(&weights, [m, v, average, &grads], bytes, clip, rates);
        }
        Decay::Host(bytes) => bytes,
    };
    assert!(bytes.len() == len / PACK, "adamw: {len} weights, {} bytes of decay", bytes.len());
    let factor = clip.data()[1];
    let Weights::Whole(weights) = weights else { panic!("adamw: halves on the host") };
    (weights.data_mut()[at..at + len].par_chunks_mut(CHUNK), average.data_mut().par_chunks_mut(CHUNK))
        .into_par_iter()
        .zip((m.data_mut().par_chunks_mut(CHUNK), v.data_mut().par_chunks_mut(CHUNK)))
        .zip((grads.data().par_chunks(CHUNK), bytes.par_chunks(CHUNK / PACK)))
        .for_each(|(((w, a), (m, v)), (g, bytes))| {
            let (w, a) = (w.as_chunks_mut::<PACK>().0, a.as_chunks_mut::<PACK>().0);
            let (m, v) = (m.as_chunks_mut::<PACK>().0, v.as_chunks_mut::<PACK>().0);
            let rows = w.iter_mut().zip(a).zip(m.iter_mut().zip(v)).zip(g.as_chunks::<PACK>().0);
            for ((((w, a), (m, v)), g), &byte) in rows.zip(bytes) {
                let shrink = if byte == 0 { 1.0 } else { rates.shrink };
                pack(w, a, m, v, g, Rates { shrink, ..rates }, factor);
            }
        });
}

#[inline(always)]
fn pack(
    w: &mut [f32; PACK],
    average: &mut [f32; PACK],
    m: &mut [f32; PACK],
    v: &mut [f32; PACK],
    g: &[f32; PACK],
    rates: Rates,
    factor: f32,
) {
    let Rates { b1, b2, step, root, eps, shrink, keep } = rates;
    for i in 0..PACK {
        let g = g[i] * factor;
        m[i] = b1 * m[i] + (1.0 - b1) * g;
        v[i] = b2 * v[i] + (1.0 - b2) * g * g;
        w[i] = shrink * w[i] - step * m[i] / (v[i].sqrt() * root + eps);
        average[i] = keep * average[i] + (1.0 - keep) * w[i];
    }
}

fn launch_norm(partial: &Tensor, grads: &Tensor, stretches: &Buffer, [blocks, rows]: [usize; 2]) {
    let args = args![partial, grads, stretches];
    // SAFETY: one partial sum per block, in f64; as many stretches as rows of blocks, all within the gradients.
    unsafe { partial.device().launch("adamw", "adamw_norm", Grid::plane(blocks, rows, 256), &args) };
}

fn launch_clip(clip: &Tensor, squares: &Tensor, limit: f32) {
    let args = args![clip, squares, squares.len() / 2, limit];
    // SAFETY: clip was made for two numbers; a sum of squares takes the place of two.
    unsafe { clip.device().launch("adamw", "adamw_clip", Grid::new(1, 256), &args) };
}

fn launch_update(weights: &Weights, flats: [&Tensor; 4], decay: &Buffer, clip: &Tensor, rates: Rates) {
    let [m, v, average, grads] = flats;
    let len = m.len();
    let (whole, rounded, low) = match weights {
        Weights::Whole(weights) => (Some(weights), None, None),
        Weights::Split(Halves { rounded, low }) => (None, Some(rounded), Some(low)),
        Weights::Rounded(_) => panic!("adamw: no lower halves"),
    };
    let all = [len];
    let halves: Vec<Shaped> = [rounded, low].into_iter().flatten().map(|x| (x, &all[..])).collect();
    let mut singles: Vec<Shaped> = flats.into_iter().chain(whole).map(|x| (x, &all[..])).collect();
    singles.push((clip, &[2]));
    agree("adamw", &halves, &singles);
    let Rates { b1, b2, step, root, eps, shrink, keep } = rates;
    let args = args![
        whole, rounded, low, m, v, average, grads, decay, clip, len as u64, b1, b2, step, root, eps, shrink,
        keep
    ];
    // SAFETY: every flat tensor was found to hold `len` numbers, decay one byte per 8 of them; the weights are whole or in halves.
    unsafe { m.device().launch("adamw", "adamw_update", Grid::elements(len / 4), &args) };
}
