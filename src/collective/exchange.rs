//! Gradients on their way to the other ranks, piece by piece, while a device still computes those of earlier layers.
//!
//! A piece is a stretch of the flat gradients. It is sent once the backward pass has finished everything in it, which happens at
//! the same point on every rank, so that pieces meet in one order. On a device that stores bf16, gradients travel as bf16: half the
//! bytes, and 8 bits of precision in what AdamW divides by its own size. If ranks share the optimizer, each receives only its part
//! of each piece.

use std::ops::Range;

use super::Ranks;
use crate::error::Result;
use crate::gpu::Real;
use crate::ops::cast::cast_into;
use crate::params::{Params, Pieces, Share};
use crate::tensor::Tensor;

/// The gradients of one step on their way. Dropped before its end, it leaves them undefined.
pub struct Exchange<'a> {
    ranks: &'a Ranks,
    /// The part of the means that this rank wants.
    share: Share,
    /// `None` on the host, and after the end.
    sent: Option<Sent>,
    failed: Result<()>,
}

brief!(Exchange<'_>, |exchange| ranks: exchange.ranks, share: exchange.share);

struct Sent {
    pieces: Pieces,
    /// All gradients, `[L]` f32.
    grads: Tensor,
    /// What they travel as: the same tensor, or `[L]` bf16.
    travelling: Tensor,
}

impl<'a> Exchange<'a> {
    pub(super) fn begin(ranks: &'a Ranks, params: &Params, share: &Share) -> Exchange<'a> {
        let sent = params.gpu().filter(|_| ranks.count() > 1).map(|gpu| {
            let grads = params.grads().clone();
            let travelling = match gpu.real() {
                Real::F32 => grads.clone(),
                Real::Bf16 => Tensor::on(gpu, "gradients as they travel", &[params.len()], Real::Bf16),
            };
            Sent { pieces: params.table().pieces(share), grads, travelling }
        });
        Exchange { ranks, share: share.clone(), sent, failed: Ok(()) }
    }

    /// The gradient of that entry is final: sends the pieces that this completes.
    pub fn finish(&mut self, entry: usize) {
        let whole = self.sent.as_mut().map_or(Vec::new(), |sent| sent.pieces.finish(entry));
        whole.into_iter().for_each(|range| self.send(range));
    }

    fn send(&mut self, range: Range<usize>) {
        let Some(Sent { grads, travelling, .. }) = &self.sent else { return };
        if self.failed.is_err() {
            return;
        }
        let [from, to] = [grads, travelling].map(|flat| flat.part(range.start, &[range.len()]));
        if to.real() != from.real() {
            cast_into(&to, &from);
        }
        let (at, len, real) = (to.address(), to.len(), to.real());
        self.failed = match &self.ranks.nccl {
            // SAFETY: the numbers live until `end` or `drop` has ordered the device's next work, such as freeing them, behind the
            // sum; nobody touches them before.
            Some(nccl) => match self.share.is_whole() {
                true => unsafe { nccl.begin_mean(at, len, real) },
                false => unsafe { nccl.begin_mean_part(at, len, real) },
            },
            None => {
                let means = self.ranks.mean_on_host(&self.share, &to);
                means.map(|means| grads.copy_from(self.share.part(&range).start, &means))
            }
        };
    }

    /// Sends the rest; work that is queued on the device after this finds the means in place of the share's gradients.
    ///
    /// # Errors
    /// A rank failed or is gone; or NCCL failed.
    pub fn end(mut self, params: &mut Params) -> Result<()> {
        if self.ranks.count() == 1 {
            return Ok(());
        }
        let Some(sent) = &self.sent else {
            let Exchange { ranks, share, .. } = &self;
            let numbers = params.grads_mut();
            let mut mean = |piece: &Range<usize>| ranks.mean_part(share, &mut numbers[piece.clone()]);
            return share.pieces().iter().try_for_each(&mut mean);
        };
        let rest: Vec<Range<usize>> = sent.pieces.unfinished().collect();
        rest.into_iter().for_each(|range| self.send(range));
        self.ranks.explain(std::mem::replace(&mut self.failed, Ok(())))?;
        if let Some(nccl) = &self.ranks.nccl {
            self.ranks.explain(nccl.end())?;
        }
        let Some(Sent { grads, travelling, .. }) = self.sent.take() else { return Ok(()) };
        let narrow = self.ranks.nccl.is_some() && travelling.real() != grads.real();
        for own in self.share.parts().into_iter().filter(|_| narrow) {
            let [to, from] = [&grads, &travelling].map(|flat| flat.part(own.start, &[own.len()]));
            cast_into(&to, &from);
        }
        Ok(())
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if let (Some(_), Some(nccl)) = (&self.sent, &self.ranks.nccl) {
            // If it fails, so has the device, which then sums no more.
            let _ = nccl.end();
        }
    }
}
