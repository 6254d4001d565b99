//! Tokens of a set side by side: stacked, picked out, joined by a learned one (SCALE v1, eq. 31).
//!
//!   forward    tokens   y[b,t] = part_t[b]        token   y[b] = x[b,i]         prepend   y[b,0] = w, y[b,1+t] = x[b,t]
//!   backward   tokens   dpart_t[b] = dy[b,t]      token   dx[b,i] = dy[b]       prepend   dw = sum_b dy[b,0], dx[b,t] = dy[b,1+t]
//!   tensors    part_t [B, D]     x [B, T, D]     w [D]         all gradients =, those of other tokens zero
//!   reference  the loops below: they only move numbers

use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

impl Tape {
    /// T values `[B, D]` as tokens `[B, T, D]`.
    pub fn tokens(&mut self, parts: &[Var]) -> Var {
        let first = parts.first().expect("tokens: at least one part");
        let [sets, width] = self.value(*first).dims("tokens");
        let count = parts.len();
        let mut y = vec![0.0; sets * count * width];
        for (t, &part) in parts.iter().enumerate() {
            let part = self.value(part);
            assert!(part.shape() == [sets, width], "tokens: {:?} beside [{sets}, {width}]", part.shape());
            for (set, row) in y.chunks_exact_mut(count * width).zip(part.data().chunks_exact(width)) {
                set[t * width..][..width].copy_from_slice(row);
            }
        }
        self.record(parts, Tensor::new(&[sets, count, width], y), move |dy| {
            (0..count).map(|t| Some(pick(dy, t))).collect()
        })
    }

    /// Token `i` of each set: x `[B, T, D]` to `[B, D]`.
    pub fn token(&mut self, x: Var, i: usize) -> Var {
        let [sets, count, width] = self.value(x).dims("token");
        assert!(i < count, "token: {i} of {count}");
        let y = pick(self.value(x), i);
        self.record(&[x], y, move |dy| {
            let mut dx = vec![0.0; sets * count * width];
            for (set, row) in dx.chunks_exact_mut(count * width).zip(dy.data().chunks_exact(width)) {
                set[i * width..][..width].copy_from_slice(row);
            }
            vec![Some(Tensor::new(&[sets, count, width], dx))]
        })
    }

    /// The same token before those of each set: token `[D]`, x `[B, T, D]` to `[B, T + 1, D]`.
    pub fn prepend(&mut self, token: Var, x: Var) -> Var {
        let [sets, count, width] = self.value(x).dims("prepend");
        let (w, xs) = (self.value(token), self.value(x));
        assert!(w.shape() == [width], "prepend: token {:?}, x {:?}", w.shape(), xs.shape());
        let mut y = Vec::with_capacity(sets * (count + 1) * width);
        for b in 0..sets {
            y.extend_from_slice(w.data());
            y.extend_from_slice(&xs.data()[b * count * width..][..count * width]);
        }
        self.record(&[token, x], Tensor::new(&[sets, count + 1, width], y), move |dy| {
            let (mut dw, mut dx) = (vec![0.0; width], Vec::with_capacity(sets * count * width));
            for set in dy.data().chunks_exact((count + 1) * width) {
                dw.iter_mut().zip(set).for_each(|(w, d)| *w += d);
                dx.extend_from_slice(&set[width..]);
            }
            vec![Some(Tensor::new(&[width], dw)), Some(Tensor::new(&[sets, count, width], dx))]
        })
    }
}

/// Token `i` of each set.
fn pick(x: &Tensor, i: usize) -> Tensor {
    let [sets, count, width] = x.dims("token");
    let rows = x.data().chunks_exact(count * width).flat_map(|set| &set[i * width..][..width]);
    Tensor::new(&[sets, width], rows.copied().collect())
}
