//! DeepSets over the cells of a set (SCALE v1, eq. 7-9): every cell learns which population it is in.

use super::build::{Build, Linear, Mlp};
use crate::config::Activation;
use crate::params::Vars;
use crate::tape::{Tape, Var};

/// h `[B, N, D]` -> z `[B, N, D]`; the latents of a cell have unit mean square.
#[derive(Debug)]
pub struct SetEncoder {
    phi: Mlp,
    rho: Mlp,
    psi_h: Linear,
    psi_s: Linear,
    psi_out: Linear,
}

impl SetEncoder {
    /// Adds its weights, all of width D.
    pub fn new(build: &mut Build, d: usize) -> Self {
        let mut b = build.within("set_encoder");
        SetEncoder {
            phi: b.mlp("phi", d, d, d),
            rho: b.mlp("rho", d, d, d),
            psi_h: b.linear("psi.h", d, d),
            psi_s: b.linear_unbiased("psi.s", d, d),
            psi_out: b.linear("psi.out", d, d),
        }
    }

    /// `[B, N, D]` -> `[B, N, D]`.
    pub fn forward(&self, t: &mut Tape, p: &Vars, h: Var) -> Var {
        let seen = self.phi.forward(t, p, h);
        let mean = t.pool(seen);
        let s = self.rho.forward(t, p, mean); // [B, D]
        let from_cell = self.psi_h.forward(t, p, h);
        let from_set = self.psi_s.forward(t, p, s);
        let both = t.add_to_set(from_cell, from_set);
        let both = t.activation(both, Activation::Silu);
        let z = t.linear_add(h, both, p[self.psi_out.w], self.psi_out.b.map(|b| p[b]));
        // No gain (ours): latents cannot shrink to make the flow's target easy.
        t.rms_norm(z, None)
    }
}
