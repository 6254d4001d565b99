//! One learned query over a few tokens: condition tokens to a seed (SCALE v1, eq. 32-33), patch tokens to a cell.
//!
//!   forward    p[b,t]  = softmax_t(q . k[b,t] / sqrt(K))        y[b] = sum_t p[b,t] v[b,t]            per head
//!   backward   dp[b,t] = dy[b] . v[b,t]                         ds[b,t] = p (dp - sum_t p dp) / sqrt(K)
//!              dq      = sum_{b,t} ds[b,t] k[b,t]                                                     =
//!              dk[b,t] = ds[b,t] q                              dv[b,t] = p[b,t] dy[b]                =
//!   tensors    q, dq [HK]     kv, dkv [B, T, 2HK] packed k | v     y, dy [B, HK]
//!   bound by   memory: kv is read once forward and once backward
//!   repeatable yes: dq is summed in blocks of sets, then block by block

use crate::ops::blocks;
use crate::ops::vector::{add_scaled, dot, exp};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// Softmax attention of one query: q `[HK]`, kv `[B, T, 2HK]` to `[B, HK]`.
    pub fn seed_attention(&mut self, q: Var, kv: Var, heads: usize) -> Var {
        let (qs, kvs) = (self.value(q).clone(), self.value(kv).clone());
        let (y, p) = forward(&qs, &kvs, heads);
        self.record(&[q, kv], y, move |dy| {
            let (dq, dkv) = backward(dy, &qs, &kvs, heads, &p);
            vec![Some(dq), Some(dkv)]
        })
    }
}

/// y `[B, HK]` and p `[B, H, T]`.
pub fn forward(q: &Tensor, kv: &Tensor, heads: usize) -> (Tensor, Vec<f32>) {
    let [sets, tokens, packed] = kv.dims("seed_attention");
    let out = packed / 2;
    let fits = heads > 0 && q.shape() == [out] && packed.is_multiple_of(2 * heads) && tokens > 0;
    assert!(fits, "seed_attention: q {:?}, kv {:?}, {heads} heads", q.shape(), kv.shape());
    let width = out / heads;
    let scale = 1.0 / (width as f32).sqrt();
    let mut y = vec![0.0; sets * out];
    let group = blocks::rows(tokens * packed);
    let p = blocks::fold(&mut y, group * out, |i, block| {
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
    (Tensor::new(&[sets, out], y), p.concat())
}

fn softmax(row: &mut [f32]) {
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|s| *s = exp(*s - top));
    let total: f32 = row.iter().sum();
    row.iter_mut().for_each(|p| *p /= total);
}

/// dq `[HK]` and dkv `[B, T, 2HK]`.
pub fn backward(dy: &Tensor, q: &Tensor, kv: &Tensor, heads: usize, p: &[f32]) -> (Tensor, Tensor) {
    let [_, tokens, packed] = kv.dims("seed_attention");
    let out = packed / 2;
    let width = out / heads;
    let scale = 1.0 / (width as f32).sqrt();
    let mut dkv = vec![0.0; kv.len()];
    let size = blocks::rows(tokens * packed) * tokens * packed;
    let parts = blocks::fold(&mut dkv, size, |i, block| {
        let first = i * size / (tokens * packed);
        let mut dq = vec![0.0; out];
        let mut ds = vec![0.0; tokens];
        let sets =
            block.chunks_exact_mut(tokens * packed).zip(kv.data()[i * size..].chunks_exact(tokens * packed));
        let sets = sets.zip(dy.data()[first * out..].chunks_exact(out));
        for (((dkv, kv), dy), p) in sets.zip(p[first * heads * tokens..].chunks_exact(heads * tokens)) {
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
