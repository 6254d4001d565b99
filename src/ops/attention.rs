//! Softmax attention within a set, with a seed token as start state, and the SwiGLU that reads the same rows (SCALE v1,
//! eq. 34-36).
//!
//! ```text
//!   forward    s[i,j]  = q_i . k_j / sqrt(K)                                j over the N rows and, if given, the seed
//!              lse[i]  = ln sum_j exp(s[i,j])        p[i,j] = exp(s[i,j] - lse[i])
//!              y_i     = sum_j p[i,j] v_j
//!   backward   delta_i = dy_i . y_i                  ds[i,j] = p[i,j] (dy_i . v_j - delta_i) / sqrt(K)
//!              dq_i    = sum_j ds[i,j] k_j                                                              =
//!              dk_j    = sum_i ds[i,j] q_i           dv_j    = sum_i p[i,j] dy_i                        =
//!   tensors    x, dx [B, N, 3HK + 2F] q | k | v | gate | up, heads are consecutive slices; F = 0 without a seed
//!              y, dy [B, N, HK + F] attention | silu(gate) up, as in swiglu.rs
//!              seed, dseed [B, 2HK] k | v: one more row
//!   bound by   compute: 4 N^2 K per head forward, 10 N^2 K backward; small sets (in a cell) by memory
//! ```

use crate::ops::gate;
use crate::tape::{Flops, Op, Tape, Var};
use crate::tensor::{Shaped, Tensor, agree};

mod device;
mod hopper;
mod host;
pub mod reference;

impl Tape {
    /// Softmax attention of the rows of each set: qkv `[B, N, 3HK]` to `[B, N, HK]`. With a seed `[B, 2HK]`, its key and value,
    /// rows may continue with gate | up `[.., 2F]`; rows of the result then continue with silu(gate) up `[.., F]`. The value may be
    /// forgotten.
    pub fn attention(&mut self, qkv: Var, seed: Option<Var>, heads: usize) -> Var {
        let xs = self.value(qkv).clone();
        let ss = seed.map(|s| self.value(s).clone());
        let z = Sizes::of(&xs, ss.as_ref(), heads);
        let (mixed, lse) = forward(&xs, ss.as_ref(), heads);
        let y = if z.gate > 0 { gate::forward(Some(&mixed), &xs, 3 * z.out()) } else { mixed.clone() };
        let inputs: Vec<Var> = [qkv].into_iter().chain(seed).collect();
        // Two products of N x N x K per head forward, five backward.
        let product = 2 * z.sets * z.rows * z.rows * z.out();
        let op = Op::of("attention", Flops { forward: 2 * product, backward: 5 * product, reading: 0 });
        self.record_remade(op, &inputs, y, move |back| {
            let given = Given { dy: back.dy, qkv: &xs, seed: ss.as_ref(), y: &mixed, lse: &lse };
            let Found { dx, dseed, y } = backward(&given, heads, back.again);
            ([Some(dx)].into_iter().chain(dseed.map(Some)).collect(), y)
        })
    }
}

/// One call: B sets of N rows, H heads of width K, gate and up of width F.
#[derive(Clone, Copy)]
struct Sizes {
    sets: usize,
    rows: usize,
    heads: usize,
    width: usize,
    gate: usize,
    scale: f32,
}

impl Sizes {
    fn of(qkv: &Tensor, seed: Option<&Tensor>, heads: usize) -> Sizes {
        let [sets, rows, packed] = qkv.dims("attention");
        let out = seed.map_or(packed / 3, |seed| seed.width() / 2);
        let gates = packed.checked_sub(3 * out);
        let fits = out > 0
            && heads > 0
            && out.is_multiple_of(heads)
            && gates.is_some_and(|two| two.is_multiple_of(2));
        assert!(fits, "attention: rows of {packed}, {out} of them values of {heads} heads");
        match seed {
            Some(s) => assert!(s.shape() == [sets, 2 * out], "attention: {sets} sets, seed {:?}", s.shape()),
            None => assert!(gates == Some(0), "attention: rows of {packed} without a seed"),
        }
        let width = out / heads;
        Sizes { sets, rows, heads, width, gate: gates.unwrap_or(0) / 2, scale: 1.0 / (width as f32).sqrt() }
    }

    /// Key under which timings are remembered.
    fn size(&self) -> [usize; 3] {
        [self.sets, self.rows, self.heads]
    }

    /// Numbers of all heads in a row: the distance from q to k, and from k to v.
    fn out(&self) -> usize {
        self.heads * self.width
    }

    /// The width of a row of x.
    fn packed(&self) -> usize {
        3 * self.out() + 2 * self.gate
    }

    /// The width of a row of dy.
    fn slope(&self) -> usize {
        self.out() + self.gate
    }
}

/// Attention's part of y, `[B, N, HK]`, and lse `[B, H, N]`.
pub fn forward(qkv: &Tensor, seed: Option<&Tensor>, heads: usize) -> (Tensor, Tensor) {
    let z = Sizes::of(qkv, seed, heads);
    let given: Vec<Shaped> = [qkv].into_iter().chain(seed).map(|x| (x, x.shape())).collect();
    let forward = if agree("attention", &given, &[]).is_some() { device::forward } else { host::forward };
    forward(qkv, seed, z)
}

/// What a backward reads.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// `[B, N, HK + F]`.
    pub dy: &'a Tensor,
    /// `[B, N, 3HK + 2F]`.
    pub qkv: &'a Tensor,
    /// `[B, 2HK]`.
    pub seed: Option<&'a Tensor>,
    /// Attention's part of y, `[B, N, HK]`.
    pub y: &'a Tensor,
    /// `[B, H, N]`.
    pub lse: &'a Tensor,
}

/// What a backward returns.
#[derive(Debug)]
pub struct Found {
    /// As qkv.
    pub dx: Tensor,
    /// As the seed.
    pub dseed: Option<Tensor>,
    /// All of y, if requested.
    pub y: Option<Tensor>,
}

/// Gradients, and with `again` the value of the whole op.
pub fn backward(given: &Given, heads: usize, again: bool) -> Found {
    let Given { dy, qkv, seed, y, lse } = *given;
    let z = Sizes::of(qkv, seed, heads);
    let (of_dy, of_y) = ([z.sets, z.rows, z.slope()], [z.sets, z.rows, z.out()]);
    let mut reals: Vec<Shaped> = [qkv].into_iter().chain(seed).map(|x| (x, x.shape())).collect();
    reals.extend([(dy, &of_dy[..]), (y, &of_y)]);
    let gpu = agree("attention", &reals, &[(lse, &[z.sets, z.heads, z.rows])]);
    let backward = if gpu.is_some() { device::backward } else { host::backward };
    backward(given, z, again)
}
