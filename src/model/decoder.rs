//! Decoder, cell by cell (SCALE v1, eq. 10-12).

use super::build::{Build, Mlp};
use crate::config::{Activation, DecoderConfig};
use crate::params::{Params, Vars};
use crate::tape::{Tape, Var};

/// z [.., D] -> expression [.., G] on the network's scale.
pub struct Decoder {
    mlp: Mlp,
    activation: Activation,
}

impl Decoder {
    /// Adds its weights.
    pub fn new(build: &mut Build, config: &DecoderConfig, genes: usize, latent: usize) -> Self {
        Decoder { mlp: build.mlp("decoder", genes, config.width, latent), activation: config.activation }
    }

    /// [.., D] -> [.., G].
    pub fn forward(&self, t: &mut Tape, p: &Vars, z: Var) -> Var {
        let y = self.mlp.forward(t, p, z);
        t.activation(y, self.activation)
    }

    /// Sets the last bias so that the output starts at `mean` [G]: where a gene is rare, a random start leaves it dead.
    pub fn start_at(&self, params: &mut Params, mean: &[f32]) {
        // A gene that is never seen would ask for -infinity.
        let start = |m: f32| match self.activation {
            Activation::Softplus => m.exp_m1().ln(),
            _ => m,
        };
        let values: Vec<f32> = mean.iter().map(|m| start(m.max(1e-4))).collect();
        params.set(self.mlp.down.b.expect("the decoder has biases"), &values);
    }
}
