//! Gradients on their way to the other ranks, piece by piece, while a device still computes those of earlier layers.
//!
//! A piece is a stretch of the flat gradients. It is sent when the backward pass has finished all in it, which it does at the same
//! point on every rank, so that pieces meet in one order. On a device that stores bf16 gradients travel as bf16: half the bytes,
//! 8 bits of precision in what AdamW divides by its own size.

use std::ops::Range;

use super::Ranks;
use crate::error::{Error, Result};
use crate::gpu::Real;
use crate::ops::cast::cast_into;
use crate::params::{Entry, Params};
use crate::tensor::Tensor;

/// Numbers at which a piece is full, 16 MiB of bf16: long enough for a network's full rate, short enough that little is left to
/// send when the last gradient is there.
const PIECE: usize = 8 << 20;
/// A smaller model's pieces are full at this part of it.
const PIECES: usize = 8;

/// The pieces of the flat gradients, and what of each is not finished yet.
pub struct Pieces {
    ranges: Vec<Range<usize>>,
    /// The piece of each entry.
    of: Vec<usize>,
    /// Entries of each piece that are not finished.
    left: Vec<usize>,
}

impl Pieces {
    /// Whole entries, in their order, as many as make `least` numbers; `len` numbers in all.
    pub fn new(entries: &[Entry], len: usize, least: usize) -> Pieces {
        let mut pieces = Pieces { ranges: Vec::new(), of: Vec::new(), left: Vec::new() };
        for entry in entries {
            match pieces.ranges.last_mut() {
                Some(last) if entry.offset - last.start < least => {
                    *pieces.left.last_mut().expect("one a range") += 1
                }
                last => {
                    if let Some(last) = last {
                        last.end = entry.offset;
                    }
                    pieces.ranges.push(entry.offset..len);
                    pieces.left.push(1);
                }
            }
            pieces.of.push(pieces.ranges.len() - 1);
        }
        pieces
    }

    /// An entry is finished: its piece, if that is now too.
    pub fn finish(&mut self, entry: usize) -> Option<Range<usize>> {
        let piece = self.of[entry];
        self.left[piece] -= 1;
        (self.left[piece] == 0).then(|| self.ranges[piece].clone())
    }

    /// The pieces that are not finished.
    pub fn unfinished(&self) -> impl Iterator<Item = Range<usize>> {
        self.ranges.iter().zip(&self.left).filter(|&(_, &left)| left > 0).map(|(range, _)| range.clone())
    }
}

/// The gradients of one step on their way.
pub struct Exchange<'a> {
    ranks: &'a Ranks,
    /// On a device: the pieces, all gradients, and as what they travel.
    sent: Option<(Pieces, Tensor, Tensor)>,
    failed: Result<()>,
}

impl<'a> Exchange<'a> {
    pub(super) fn begin(ranks: &'a Ranks, params: &Params) -> Exchange<'a> {
        let sent = params.gpu().filter(|_| ranks.count() > 1).map(|gpu| {
            let least = (params.len() / PIECES).min(PIECE);
            let (grads, pieces) =
                (params.grads().clone(), Pieces::new(params.entries(), params.len(), least));
            let travelling = match gpu.real() {
                Real::F32 => grads.clone(),
                Real::Bf16 => Tensor::on(gpu, "gradients as they travel", &[params.len()], Real::Bf16),
            };
            (pieces, grads, travelling)
        });
        Exchange { ranks, sent, failed: Ok(()) }
    }

    /// The gradient of that entry is final: what that completes sets off.
    pub fn finish(&mut self, entry: usize) {
        if let Some(range) = self.sent.as_mut().and_then(|(pieces, ..)| pieces.finish(entry)) {
            self.send(range);
        }
    }

    fn send(&mut self, range: Range<usize>) {
        let Some((_, grads, travelling)) = &self.sent else { return };
        if self.failed.is_err() {
            return;
        }
        let [from, to] = [grads, travelling].map(|flat| flat.part(range.start, &[range.len()]));
        if to.real() != from.real() {
            cast_into(&to, &from);
        }
        self.failed = match &self.ranks.nccl {
            // SAFETY: the numbers live until `end` has ordered the device's next work behind the sum; nobody touches them before.
            Some(nccl) => {
                unsafe { nccl.begin_mean(to.address(), to.len(), to.real()) }.map_err(Error::Device)
            }
            None => self.ranks.mean_on_host(&to).map(|mean| grads.copy_from(range.start, &mean)),
        };
    }

    /// Sends the rest; the device's work that is queued after this finds the means in the place of the gradients.
    ///
    /// # Errors
    /// A rank that failed or is gone; NCCL's own.
    pub fn end(mut self, params: &mut Params) -> Result<()> {
        if self.ranks.count() == 1 {
            return Ok(());
        }
        let Some((pieces, ..)) = &self.sent else {
            return params.edit_grads(|numbers| self.ranks.mean(numbers));
        };
        let rest: Vec<Range<usize>> = pieces.unfinished().collect();
        rest.into_iter().for_each(|range| self.send(range));
        if self.failed.is_err() {
            // Who is gone, and why, says more than that a sum could not be begun.
            self.ranks.whole()?;
        }
        self.failed?;
        let (_, grads, travelling) = self.sent.expect("just seen");
        if let Some(nccl) = &self.ranks.nccl {
            nccl.end().map_err(Error::Device)?;
            if travelling.real() != grads.real() {
                cast_into(&grads, &travelling);
            }
        }
        Ok(())
    }
}
