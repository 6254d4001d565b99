//! How hard each part of the loss pulls: the norm of its own gradient, before its weight.
//!
//! The parts differ by orders of magnitude and the clip sees only their sum, so that nothing else tells which of them the weights
//! listen to (model.md, section 8). Each part costs a pass of its own: this is for rare steps.

use crate::model::Model;
use crate::model::losses::{Draws, Examples};
use crate::optim::global_norm;
use crate::params::Params;
use crate::tape::Tape;

/// Norm of each part's gradient by all weights. Overwrites the gradients in `params`.
pub fn part_norms(
    model: &Model,
    params: &mut Params,
    examples: &Examples,
    draws: &Draws,
) -> Vec<(&'static str, f64)> {
    let mut norms = Vec::new();
    loop {
        let mut tape = Tape::new();
        let vars = params.bind(&mut tape);
        let parts = model.losses(&mut tape, &vars, examples, draws).parts;
        let (name, part, _) = parts[norms.len()];
        let found = tape.backward(part);
        params.collect(&vars, found);
        norms.push((name, global_norm(params.grads())));
        if norms.len() == parts.len() {
            return norms;
        }
    }
}
