//! Decoder, cell by cell (SCALE v1, eq. 10-12).

use super::build::{Build, Linear, Mlp};
use crate::config::{Activation, DecoderConfig};
use crate::params::Vars;
use crate::tape::{Tape, Var};

/// z `[.., D]` -> expression `[.., G]` on the network's scale.
#[derive(Debug)]
pub struct Decoder {
    mlp: Mlp,
    activation: Activation,
}

impl Decoder {
    /// Adds its weights. Given a mean `[G]`, the output starts there: a random start leaves rare genes dead.
    pub fn new(
        build: &mut Build,
        config: &DecoderConfig,
        mean: Option<&[f32]>,
        genes: usize,
        latent: usize,
    ) -> Self {
        let mut inner = build.within("decoder");
        let up = inner.linear("0", config.width, latent);
        let mut last = inner.within("1");
        // A gene that is never seen would need -infinity.
        let start = |m: &f32| match config.activation {
            Activation::Softplus => m.max(1e-4).exp_m1().ln(),
            _ => m.max(1e-4),
        };
        let w = last.matrix("w", genes, config.width);
        let b = match mean {
            Some(mean) => last.bias_at("b", mean.iter().map(start).collect()),
            None => last.bias("b", genes),
        };
        Decoder { mlp: Mlp { up, down: Linear { w, b: Some(b) } }, activation: config.activation }
    }

    /// `[.., D]` -> `[.., G]`.
    pub fn forward(&self, t: &mut Tape, p: &Vars, z: Var) -> Var {
        let y = self.mlp.forward(t, p, z);
        t.activation(y, self.activation)
    }
}
