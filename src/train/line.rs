//! A step's numbers on their way to the log.
//!
//! On a device they are queued behind the step and read once the next one is queued: a device that waited for the host to read,
//! write and prepare would idle for longer than a small step takes.

use super::learner::Computed;
use super::sent::Sent;
use crate::collective::Ranks;
use crate::error::Result;
use crate::model::losses::{latent_sums, variance_between_cells};
use crate::tensor::Tensor;

/// Numbers of one step.
pub struct Line {
    /// Steps done, this one included.
    pub step: u64,
    /// Weighted sum of the parts.
    pub loss: f32,
    /// The parts before their weights.
    pub parts: Vec<(&'static str, f32)>,
    /// The gradient's norm before the clip.
    pub norm: f32,
    /// Cell type, perturbation and batch of the step's sets.
    pub conditions: Vec<[u32; 3]>,
    /// Whether this step goes into the log.
    pub logs: bool,
    /// Means over cells of each latent number and of its square, `[2, D]`; empty if the step does not go into the log.
    moments: Vec<f32>,
}

impl Line {
    /// Replaces this rank's numbers by their means over all ranks.
    pub fn mean_over(&mut self, ranks: &Ranks) -> Result<()> {
        let mut numbers = vec![self.loss];
        numbers.extend(self.parts.iter().map(|(_, part)| part));
        numbers.extend(&self.moments);
        ranks.mean(&mut numbers)?;
        self.loss = numbers[0];
        self.parts.iter_mut().zip(&numbers[1..]).for_each(|((_, part), mean)| *part = *mean);
        self.moments = numbers.split_off(1 + self.parts.len());
        Ok(())
    }

    /// Share of the latent variance that lies between cells.
    pub fn latent_variance(&self) -> f32 {
        variance_between_cells(&self.moments)
    }
}

/// The line on its way; there is at most one.
#[derive(Default)]
pub struct Lines {
    sending: Option<Sending>,
    /// Loss, norm, parts; behind them, of steps that go into the log, sums of latents and of their squares.
    numbers: Sent,
}

/// What is known of a line before its numbers arrive.
struct Sending {
    step: u64,
    parts: Vec<&'static str>,
    conditions: Vec<[u32; 3]>,
    logs: bool,
    /// Number of cells that the sums of latents run over.
    cells: usize,
}

impl Lines {
    /// Sends the numbers of the step just done, the `step`-th; the line sent before must have been taken.
    pub fn send(&mut self, found: &Computed, norm: &Tensor, step: u64, conditions: &[[u32; 3]], logs: bool) {
        assert!(self.sending.is_none(), "lines: one was sent and not taken");
        // They cost two walks over all latents, and only the log reads them.
        let sums = logs.then(|| latent_sums(&found.latents));
        let scalars = [&found.loss, norm].into_iter().chain(found.parts.iter().map(|(_, part)| part));
        // The same for every step: page-locked memory takes long to allocate.
        let len = 2 + found.parts.len() + 2 * found.latents.width();
        self.numbers = std::mem::take(&mut self.numbers).room(len, norm.gpu());
        scalars.chain(sums.iter().flatten()).fold(0, |at, x| {
            self.numbers.put(at, x);
            at + x.len()
        });
        let parts = found.parts.iter().map(|(name, _)| *name).collect();
        let (conditions, cells) = (conditions.to_vec(), found.latents.rows());
        self.sending = Some(Sending { step, parts, conditions, logs, cells });
    }

    /// The line that was sent, if there is one; waits until its numbers have arrived.
    pub fn take(&mut self) -> Option<Line> {
        let Sending { step, parts, conditions, logs, cells } = self.sending.take()?;
        let (scalars, sums) = self.numbers.numbers().split_at(2 + parts.len());
        let (loss, norm) = (scalars[0], scalars[1]);
        let parts = parts.into_iter().zip(scalars[2..].iter().copied()).collect();
        let sums = if logs { sums } else { &[] };
        let moments = sums.iter().map(|sum| sum / cells as f32).collect();
        Some(Line { step, loss, parts, norm, conditions, logs, moments })
    }
}
