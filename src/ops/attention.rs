//! Softmax attention within a set, with a seed token as start state (SCALE v1, eq. 34-36).
//!
//!   forward    s[i,j]  = q_i . k_j / sqrt(K)                                j over the N rows and, where given, the seed
//!              lse[i]  = ln sum_j exp(s[i,j])        p[i,j] = exp(s[i,j] - lse[i])
//!              y_i     = sum_j p[i,j] v_j
//!   backward   delta_i = dy_i . y_i                  ds[i,j] = p[i,j] (dy_i . v_j - delta_i) / sqrt(K)
//!              dq_i    = sum_j ds[i,j] k_j                                                              =
//!              dk_j    = sum_i ds[i,j] q_i           dv_j    = sum_i p[i,j] dy_i                        =
//!   tensors    qkv, dqkv [B, N, 3HK] packed q | k | v, heads are consecutive slices     y, dy [B, N, HK]
//!              seed, dseed [B, 3HK]: its k and v are one more row; its q part is not read and gets zero gradient
//!   bound by   compute: 4 N^2 K a head forward, 10 N^2 K backward; small sets (in a cell) by memory

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

mod device;
mod host;
pub mod reference;

impl Tape {
    /// Softmax attention of the rows of each set: qkv `[B, N, 3HK]`, seed `[B, 3HK]` to `[B, N, HK]`.
    pub fn attention(&mut self, qkv: Var, seed: Option<Var>, heads: usize) -> Var {
        let xs = self.value(qkv).clone();
        let ss = seed.map(|s| self.value(s).clone());
        let (y, lse) = forward(&xs, ss.as_ref(), heads);
        let out = y.clone();
        let inputs: Vec<Var> = [qkv].into_iter().chain(seed).collect();
        // Two products of N x N x K a head forward, five backward.
        let [sets, rows, _] = xs.dims("attention");
        let product = 2 * sets * rows * rows * y.width();
        self.costs(2 * product, 5 * product);
        self.record(&inputs, y, move |dy| {
            let (dx, ds) = backward(dy, &xs, ss.as_ref(), heads, &out, &lse);
            [Some(dx)].into_iter().chain(ds.map(Some)).collect()
        })
    }
}

/// One call: B sets of N rows, H heads of width K.
#[derive(Clone, Copy)]
struct Sizes {
    sets: usize,
    rows: usize,
    heads: usize,
    width: usize,
    scale: f32,
}

impl Sizes {
    fn of(qkv: &Tensor, seed: Option<&Tensor>, heads: usize) -> Sizes {
        let [sets, rows, packed] = qkv.dims("attention");
        assert!(
            heads > 0 && packed.is_multiple_of(3 * heads),
            "attention: qkv {:?}, {heads} heads",
            qkv.shape()
        );
        if let Some(s) = seed {
            assert!(s.shape() == [sets, packed], "attention: qkv {:?}, seed {:?}", qkv.shape(), s.shape());
        }
        let width = packed / (3 * heads);
        Sizes { sets, rows, heads, width, scale: 1.0 / (width as f32).sqrt() }
    }

    /// The width of a row of y.
    fn out(&self) -> usize {
        self.heads * self.width
    }
}

/// y `[B, N, HK]` and lse `[B, H, N]`.
pub fn forward(qkv: &Tensor, seed: Option<&Tensor>, heads: usize) -> (Tensor, Tensor) {
    let z = Sizes::of(qkv, seed, heads);
    let forward = if qkv.gpu().is_some() { device::forward } else { host::forward };
    forward(qkv, seed, z)
}

/// dqkv `[B, N, 3HK]` and, where there is a seed, dseed `[B, 3HK]`.
pub fn backward(
    dy: &Tensor,
    qkv: &Tensor,
    seed: Option<&Tensor>,
    heads: usize,
    y: &Tensor,
    lse: &Tensor,
) -> (Tensor, Option<Tensor>) {
    let z = Sizes::of(qkv, seed, heads);
    let backward = if qkv.gpu().is_some() { device::backward } else { host::backward };
    backward(dy, qkv, seed, z, y, lse)
}
