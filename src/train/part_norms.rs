//! How hard each part of the loss pulls: the norm of its own gradient, before its weight.
//!
//! The parts differ by orders of magnitude and the clip sees only their sum, so nothing else shows which of them the weights follow.
//! Each part costs a pass of its own: this is for rare steps.

use super::learner::Learner;
use crate::collective::Ranks;
use crate::error::Result;
use crate::gpu::in_block;
use crate::model::losses::Examples;

/// Norm of each part's gradient with respect to all weights, over all ranks, at step k. Overwrites the gradients in the parameters.
pub fn part_norms(
    learner: &mut Learner,
    examples: &Examples,
    k: u64,
    ranks: &Ranks,
) -> Result<Vec<(&'static str, f32)>> {
    let gpu = learner.params.gpu().cloned();
    // What runs in a step's block needs no further memory.
    learner.lay_out(examples, k, ranks)?;
    in_block(gpu.as_ref(), || {
        let mut norms = Vec::new();
        loop {
            let at = norms.len();
            let parts = learner.gradients_of(examples, k, |losses| losses.parts[at].value).parts;
            ranks.mean_gradients(&mut learner.params, learner.optimizer.share())?;
            norms.push((parts[at].0, learner.clip(f64::INFINITY, ranks)?.slice(0..1).item()));
            if norms.len() == parts.len() {
                return Ok(norms);
            }
        }
    })
}
