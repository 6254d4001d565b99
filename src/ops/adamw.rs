//! Clip and AdamW over flat buffers (Loshchilov & Hutter 2019, alg. 2), with averaged weights.
//!
//!   norm     n     = sqrt(sum_i g[i]^2)              c = min(1, limit / (n + 1e-6))
//!   update   g     = c g[i]
//!            m[i]  = b1 m[i] + (1 - b1) g            v[i] = b2 v[i] + (1 - b2) g^2
//!            w[i]  = shrink w[i] - step m[i] / (sqrt(v[i]) root + eps)            shrink is 1 where there is no decay
//!            a[i]  = keep a[i] + (1 - keep) w[i]     the average
//!   tensors  w, a, m, v, g [L] f32     clip [2] f32: n, c     decay [L / 8] bytes
//!            on a device that stores bf16 w lies in two halves, of which products read the upper
//!   bound by memory: 36 L bytes moved, 4 L more for the norm

use rayon::prelude::*;

use crate::gpu::{Buffer, Grid, PACK, Real};
use crate::tensor::Tensor;

/// Numbers a thread takes at once: fixed, so that sums do not depend on the number of threads.
const CHUNK: usize = 1 << 14;

/// Partial sums of the norm at most; fixed, so that every device adds in one order.
const PARTIALS: usize = 1024;

/// Numbers of a block of the norm: a thread's four packs of four.
const BLOCK: usize = 256 * 16;

/// Where weight decay applies: one byte, 1 or 0, for each [`PACK`] numbers.
pub enum Decay {
    /// For buffers on the host.
    Host(Vec<u8>),
    /// For buffers on a device.
    Device(Buffer),
}

/// f32 weights [L] where they are updated.
#[derive(Clone)]
pub enum Weights {
    /// As they are.
    Whole(Tensor),
    /// On a device that stores bf16.
    Split(Halves),
}

/// f32 numbers [L] in two halves: rounded to bf16, ties away from zero, and the lower 16 bits. Nothing is lost.
#[derive(Clone)]
pub struct Halves {
    /// As products read them.
    pub rounded: Tensor,
    /// 16 bits each, no numbers by themselves.
    pub low: Tensor,
}

impl Weights {
    /// f32 weights in the form that products on their device want.
    pub fn of(weights: Tensor) -> Weights {
        match weights.gpu() {
            Some(gpu) if gpu.real() == Real::Bf16 => {
                let half = |what| Tensor::on(gpu, what, weights.shape(), Real::Bf16);
                let halves = Halves { rounded: half("weights"), low: half("weights' lower halves") };
                launch_split(&halves, &weights);
                Weights::Split(halves)
            }
            _ => Weights::Whole(weights),
        }
    }

    /// All of them as f32, where they lie.
    pub fn whole(&self) -> Tensor {
        match self {
            Weights::Whole(weights) => weights.clone(),
            Weights::Split(halves) => {
                let Halves { rounded, .. } = halves;
                let weights = Tensor::on(rounded.device(), "weights as f32", rounded.shape(), Real::F32);
                launch_join(&weights, halves);
                weights
            }
        }
    }

    /// As products read them.
    pub fn read(&self) -> &Tensor {
        match self {
            Weights::Whole(weights) => weights,
            Weights::Split(halves) => &halves.rounded,
        }
    }

    /// True if nobody else shares them.
    pub fn is_alone(&self) -> bool {
        match self {
            Weights::Whole(weights) => weights.is_alone(),
            Weights::Split(halves) => halves.rounded.is_alone() && halves.low.is_alone(),
        }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Weights::Whole(Tensor::default())
    }
}

/// What a step moves, [L] each.
pub struct State<'a> {
    /// Moved.
    pub weights: &'a mut Weights,
    /// First moment, f32.
    pub m: &'a mut Tensor,
    /// Second moment, f32.
    pub v: &'a mut Tensor,
    /// Averaged weights, f32.
    pub average: &'a mut Tensor,
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
    /// Below the fraction.
    pub eps: f32,
    /// 1 - learning rate * weight decay.
    pub shrink: f32,
    /// Decay of the average.
    pub keep: f32,
}

/// Norm of the gradients and the factor that clips it to `limit`: [2] f32, where the gradients lie.
pub fn clip(grads: &Tensor, limit: f64) -> Tensor {
    if let Some(gpu) = grads.gpu() {
        let blocks = grads.len().div_ceil(BLOCK).clamp(1, PARTIALS);
        let partial = gpu.buffer("partial sums of the norm", blocks * 8);
        let clip = Tensor::on(gpu, "the norm", &[2], Real::F32);
        launch_norm(&partial, grads, blocks);
        launch_clip(&clip, &partial, blocks, limit as f32);
        return clip;
    }
    let sums: Vec<f64> = grads.data().par_chunks(CHUNK).map(squares).collect();
    let norm = sums.iter().sum::<f64>().sqrt();
    Tensor::new(&[2], vec![norm as f32, (limit / (norm + 1e-6)).min(1.0) as f32])
}

/// Sum of squares in f64, in a fixed order. Sixteen sums side by side: one alone would wait for each addition.
fn squares(x: &[f32]) -> f64 {
    let (wide, rest) = x.as_chunks::<16>();
    let mut lanes = [0.0f64; 16];
    for x in wide.iter().map(|x| x.map(f64::from)) {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += x * x;
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>()
}

/// One step. All buffers lie on the host, or all on one device.
pub fn update(state: State, grads: &Tensor, decay: &Decay, clip: &Tensor, rates: Rates) {
    let State { weights, m, v, average } = state;
    let len = weights.read().len();
    let fits = [&*m, &*v, &*average, grads].iter().all(|x| x.len() == len) && len.is_multiple_of(PACK);
    assert!(fits, "adamw: {len} weights, {} gradients", grads.len());
    let bytes = match decay {
        Decay::Device(bytes) => {
            assert!(bytes.bytes() == len / PACK, "adamw: {len} weights, {} bytes of decay", bytes.bytes());
            let state = State { weights, m, v, average };
            return launch_update(&state, grads, bytes, clip, rates);
        }
        Decay::Host(bytes) => bytes,
    };
    assert!(bytes.len() == len / PACK, "adamw: {len} weights, {} bytes of decay", bytes.len());
    let factor = clip.data()[1];
    let Weights::Whole(weights) = weights else { panic!("adamw: halves on the host") };
    (weights.data_mut().par_chunks_mut(CHUNK), average.data_mut().par_chunks_mut(CHUNK))
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

fn launch_split(halves: &Halves, weights: &Tensor) {
    let Halves { rounded, low } = halves;
    let args = [rounded.into(), low.into(), weights.into(), (weights.len() as u64).into()];
    assert!(weights.len().is_multiple_of(PACK), "adamw: {} weights", weights.len());
    // SAFETY: both halves were made for `len` numbers of 16 bits.
    unsafe { weights.device().launch("adamw", "adamw_split", Grid::elements(weights.len() / 4), &args) };
}

fn launch_join(weights: &Tensor, halves: &Halves) {
    let Halves { rounded, low } = halves;
    let args = [weights.into(), rounded.into(), low.into(), (weights.len() as u64).into()];
    // SAFETY: as for the split; the weights were made for as many.
    unsafe { weights.device().launch("adamw", "adamw_join", Grid::elements(weights.len() / 4), &args) };
}

fn launch_norm(partial: &Buffer, grads: &Tensor, blocks: usize) {
    let args = [partial.into(), grads.into(), (grads.len() as u64).into()];
    // SAFETY: one partial sum, in f64, a block; the gradients hold `len` numbers.
    unsafe { partial.gpu().launch("adamw", "adamw_norm", Grid::new(blocks, 256), &args) };
}

fn launch_clip(clip: &Tensor, partial: &Buffer, blocks: usize, limit: f32) {
    let args = [clip.into(), partial.into(), blocks.into(), limit.into()];
    // SAFETY: clip was made for two numbers, partial for one of each block.
    unsafe { clip.device().launch("adamw", "adamw_clip", Grid::new(1, 256), &args) };
}

fn launch_update(state: &State, grads: &Tensor, decay: &Buffer, clip: &Tensor, rates: Rates) {
    let State { weights, m, v, average } = state;
    let len = weights.read().len();
    let (whole, rounded, low) = match weights {
        Weights::Whole(weights) => (Some(weights), None, None),
        Weights::Split(Halves { rounded, low }) => (None, Some(rounded), Some(low)),
    };
    let Rates { b1, b2, step, root, eps, shrink, keep } = rates;
    let args = [
        whole.into(),
        rounded.into(),
        low.into(),
        (&**m).into(),
        (&**v).into(),
        (&**average).into(),
        grads.into(),
        decay.into(),
        clip.into(),
        (len as u64).into(),
        b1.into(),
        b2.into(),
        step.into(),
        root.into(),
        eps.into(),
        shrink.into(),
        keep.into(),
    ];
    // SAFETY: every buffer holds `len` numbers, decay a byte for each 8 of them; the weights are whole or in halves.
    unsafe { m.device().launch("adamw", "adamw_update", Grid::elements(len / 4), &args) };
}
