//! One learned query over a few tokens: condition tokens to a seed (SCALE v1, eq. 32-33), patch tokens to a cell.
//!
//! ```text
//!   forward    p[b,t]  = softmax_t(q . k[b,t] / sqrt(K))        y[b] = sum_t p[b,t] v[b,t]            per head
//!   backward   dp[b,t] = dy[b] . v[b,t]                         ds[b,t] = p (dp - sum_t p dp) / sqrt(K)
//!              dq      = sum_{b,t} ds[b,t] k[b,t]                                                     =
//!              dk[b,t] = ds[b,t] q                              dv[b,t] = p[b,t] dy[b]                =
//!   tensors    q, dq [HK]     kv, dkv [B, T, 2HK] packed k | v     y, dy [B, HK]     p [B, H, T] f32
//!   bound by   memory: kv is read once forward and once backward
//!   repeatable yes: dq is summed in blocks of sets, then block by block
//! ```

use crate::gpu::{Grid, Real, args};
use crate::ops::blocks;
use crate::ops::column_sums;
use crate::ops::vector::{add_scaled, dot, exp};
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// Softmax attention of one query: q `[HK]`, kv `[B, T, 2HK]` to `[B, HK]`.
    pub fn seed_attention(&mut self, q: Var, kv: Var, heads: usize) -> Var {
        let (qs, kvs) = (self.value(q).clone(), self.value(kv).clone());
        let (y, p) = forward(&qs, &kvs, heads);
        self.record("seed_attention", &[q, kv], y, move |dy| {
            let (dq, dkv) = backward(dy, &qs, &kvs, heads, &p);
            vec![Some(dq), Some(dkv)]
        })
    }
}

/// B, T, H, K of one call.
#[derive(Clone, Copy)]
struct Sizes {
    sets: usize,
    tokens: usize,
    heads: usize,
    width: usize,
}

impl Sizes {
    fn of(kv: &Tensor, heads: usize) -> Sizes {
        let [sets, tokens, packed] = kv.dims("seed_attention");
        let fits = tokens > 0 && packed > 0 && heads > 0 && packed.is_multiple_of(2 * heads);
        assert!(fits, "seed_attention: kv {:?}, {heads} heads", kv.shape());
        Sizes { sets, tokens, heads, width: packed / 2 / heads }
    }

    /// HK.
    fn out(self) -> usize {
        self.heads * self.width
    }

    /// What scores are multiplied by.
    fn scale(self) -> f32 {
        1.0 / (self.width as f32).sqrt()
    }

    /// Lanes that share a head: one per pack of its columns, rounded up to a power of two, at most a warp.
    fn lanes(self, real: Real) -> usize {
        let (width, pack) = (self.width, real.pack());
        let packs = if width.is_multiple_of(pack) { width / pack } else { width };
        packs.next_power_of_two().min(32)
    }
}

/// y `[B, HK]` and p `[B, H, T]`, f32.
pub fn forward(q: &Tensor, kv: &Tensor, heads: usize) -> (Tensor, Tensor) {
    let z @ Sizes { sets, tokens, width, .. } = Sizes::of(kv, heads);
    let (out, packed) = (z.out(), kv.width());
    if let Some(gpu) = agree("seed_attention", &[(kv, kv.shape()), (q, &[out])], &[]) {
        let y = Tensor::on(gpu, "seed_attention y", &[sets, out], kv.real());
        let p = Tensor::on(gpu, "seed_attention p", &[sets, heads, tokens], Real::F32);
        launch_forward(&y, &p, q, kv, z);
        return (y, p);
    }
    let scale = z.scale();
    let group = blocks::rows(tokens * packed);
    let (y, p) = blocks::make_fold(sets * out, group * out, |i, block| {
        let mut p = vec![0.0; block.len() / width * tokens];
        let kvs = kv.data()[i * group * tokens * packed..].chunks_exact(tokens * packed);
        let sets = block.chunks_exact_mut(out).zip(p.chunks_exact_mut(heads * tokens)).zip(kvs);
        for ((y, p), kv) in sets {
            for (h, p) in p.chunks_exact_mut(tokens).enumerate() {
                let head = h * width..(h + 1) * width;
                for (p, row) in p.iter_mut().zip(kv.chunks_exact(packed)) {
                    *p = scale * dot(&q.data()[head.clone()], &row[head.clone()]);
                }
                softmax(p);
                for (&p, row) in p.iter().zip(kv.chunks_exact(packed)) {
                    add_scaled(&mut y[head.clone()], p, &row[out..][head.clone()]);
                }
            }
        }
        p
    });
    (Tensor::new(&[sets, out], y), Tensor::new(&[sets, heads, tokens], p.concat()))
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|s| *s = exp(*s - top));
    let total: f32 = row.iter().sum();
    row.iter_mut().for_each(|p| *p /= total);
}

/// dq `[HK]`, f32, and dkv `[B, T, 2HK]`.
pub fn backward(dy: &Tensor, q: &Tensor, kv: &Tensor, heads: usize, p: &Tensor) -> (Tensor, Tensor) {
    let z @ Sizes { sets, tokens, width, .. } = Sizes::of(kv, heads);
    let (out, packed) = (z.out(), kv.width());
    let reals = [(dy, &[sets, out][..]), (q, &[out]), (kv, kv.shape())];
    if let Some(gpu) = agree("seed_attention", &reals, &[(p, &[sets, heads, tokens])]) {
        let dkv = kv.like("seed_attention dkv");
        let ds = Tensor::on(gpu, "seed_attention ds", p.shape(), Real::F32);
        let slots = slots(sets, heads * z.lanes(kv.real()));
        let partial = Tensor::on(gpu, "seed_attention dq of slots", &[slots, out], Real::F32);
        launch_backward([&dkv, &partial, &ds], dy, q, kv, p, z);
        return (column_sums::total(&partial), dkv);
    }
    let scale = z.scale();
    let size = blocks::rows(tokens * packed) * tokens * packed;
    let (dkv, parts) = blocks::make_fold(kv.len(), size, |i, block| {
        let first = i * size / (tokens * packed);
        let mut dq = vec![0.0; out];
        let mut ds = vec![0.0; tokens];
        let sets =
            block.chunks_exact_mut(tokens * packed).zip(kv.data()[i * size..].chunks_exact(tokens * packed));
        let sets = sets.zip(dy.data()[first * out..].chunks_exact(out));
        for (((dkv, kv), dy), p) in sets.zip(p.data()[first * heads * tokens..].chunks_exact(heads * tokens))
        {
            for (h, p) in p.chunks_exact(tokens).enumerate() {
                let head = h * width..(h + 1) * width;
                for (ds, row) in ds.iter_mut().zip(kv.chunks_exact(packed)) {
                    *ds = dot(&dy[head.clone()], &row[out..][head.clone()]);
                }
                let delta = dot(&ds, p);
                let rows = dkv.chunks_exact_mut(packed).zip(kv.chunks_exact(packed));
                for ((drow, row), (&p, &dp)) in rows.zip(p.iter().zip(&ds)) {
                    let ds = scale * p * (dp - delta);
                    add_scaled(&mut drow[head.clone()], ds, &q.data()[head.clone()]);
                    add_scaled(&mut drow[out..][head.clone()], p, &dy[head.clone()]);
                    add_scaled(&mut dq[head.clone()], ds, &row[head.clone()]);
                }
            }
        }
        dq
    });
    (Tensor::new(q.shape(), blocks::sum(&parts, out)), Tensor::new(kv.shape(), dkv))
}

/// Groups among which the sets are dealt out, if a set takes `lanes` lanes. Only sizes decide, so that every device sums dq in the
/// same order.
fn slots(sets: usize, lanes: usize) -> usize {
    // Enough threads for a few waves of blocks on any GPU, few enough that the traffic of the slots' sums is negligible.
    const THREADS: usize = 1 << 18;
    let rounds = sets.div_ceil((THREADS / lanes).max(1)).max(1);
    sets.div_ceil(rounds)
}

fn launch_forward(y: &Tensor, p: &Tensor, q: &Tensor, kv: &Tensor, z: Sizes) {
    let lanes = z.lanes(kv.real());
    let args = args![y, p, q, kv, z.sets, z.tokens, z.heads, z.width, lanes, z.scale()];
    let grid = Grid::elements(z.sets * z.heads * lanes);
    // SAFETY: kv is [sets, tokens, 2 heads width], q was found to have its columns; y and p were made for them.
    unsafe { y.device().launch("seed_attention", "seed_attention_forward", grid, &args) };
}

fn launch_backward(
    [dkv, partial, ds]: [&Tensor; 3],
    dy: &Tensor,
    q: &Tensor,
    kv: &Tensor,
    p: &Tensor,
    z: Sizes,
) {
    let (Sizes { sets, tokens, heads, width }, lanes, slots) = (z, z.lanes(kv.real()), partial.rows());
    let args = args![dkv, partial, ds, dy, q, kv, p, sets, tokens, heads, width, lanes, slots, z.scale()];
    let grid = Grid::elements(slots * heads * lanes);
    // SAFETY: dkv was made like kv, ds like p, partial for `slots` rows of q's columns; dy, q and p were found to have the shapes
    // that they have for this kv.
    unsafe { dkv.device().launch("seed_attention", "seed_attention_backward", grid, &args) };
}

/// The definition, in plain loops over f64.
pub mod reference {
    /// p `[B, H, T]`.
    fn probabilities(q: &[f64], kv: &[f64], tokens: usize, heads: usize) -> Vec<f64> {
        let (out, width) = (q.len(), q.len() / heads);
        let mut all = Vec::new();
        for kv in kv.chunks(tokens * 2 * out) {
            for h in 0..heads {
                let score = |row: &[f64]| (h * width..(h + 1) * width).map(|c| q[c] * row[c]).sum::<f64>();
                let weight = |row| (score(row) / (width as f64).sqrt()).exp();
                let weights: Vec<f64> = kv.chunks(2 * out).map(weight).collect();
                let total: f64 = weights.iter().sum();
                all.extend(weights.iter().map(|w| w / total));
            }
        }
        all
    }

    /// y `[B, HK]`.
    pub fn forward(q: &[f64], kv: &[f64], tokens: usize, heads: usize) -> Vec<f64> {
        let (out, width) = (q.len(), q.len() / heads);
        let p = probabilities(q, kv, tokens, heads);
        let mut y = vec![0.0; kv.len() / (tokens * 2)];
        for (b, y) in y.chunks_mut(out).enumerate() {
            for (c, y) in y.iter_mut().enumerate() {
                for t in 0..tokens {
                    *y += p[(b * heads + c / width) * tokens + t] * kv[(b * tokens + t) * 2 * out + out + c];
                }
            }
        }
        y
    }

    /// dq and dkv.
    pub fn backward(dy: &[f64], q: &[f64], kv: &[f64], tokens: usize, heads: usize) -> (Vec<f64>, Vec<f64>) {
        let (out, width) = (q.len(), q.len() / heads);
        let p = probabilities(q, kv, tokens, heads);
        let (mut dq, mut dkv) = (vec![0.0; out], vec![0.0; kv.len()]);
        for b in 0..kv.len() / (tokens * 2 * out) {
            for h in 0..heads {
                let p = &p[(b * heads + h) * tokens..][..tokens];
                let row = |t: usize| (b * tokens + t) * 2 * out;
                let columns = h * width..(h + 1) * width;
                let dp: Vec<f64> = (0..tokens)
                    .map(|t| columns.clone().map(|c| dy[b * out + c] * kv[row(t) + out + c]).sum())
                    .collect();
                let delta: f64 = p.iter().zip(&dp).map(|(p, dp)| p * dp).sum();
                for t in 0..tokens {
                    let ds = p[t] * (dp[t] - delta) / (width as f64).sqrt();
                    for c in columns.clone() {
                        dq[c] += ds * kv[row(t) + c];
                        dkv[row(t) + c] += ds * q[c];
                        dkv[row(t) + out + c] += p[t] * dy[b * out + c];
                    }
                }
            }
        }
        (dq, dkv)
    }
}
