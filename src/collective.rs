//! Several ranks train one model: each takes its share of a step's sets, and what they find is summed.
//!
//! A rank is a GPU or, on a machine without one, a process. What ranks exchange is mostly sums: gradients, losses, "I was asked to
//! stop", the bytes by which NCCL's ranks find each other. A [`Collective`] adds in one order of ranks, and every rank has the same
//! bits afterwards. If ranks share the optimizer, each wants only its part of a sum, and parts are gathered. Numbers on GPUs go
//! through NCCL if it is there, else the same way.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::gpu::{self, Gpu, NCCL_ID, Nccl, Real};
use crate::params::{Params, Share};
use crate::progress::{Event, Progress};
use crate::tensor::Tensor;

mod exchange;
mod launch;
mod link;
mod meet;
mod threads;
mod watch;
mod wire;

pub(crate) use exchange::Exchange;
pub use launch::Launch;
pub use threads::Threads;
pub use wire::Wire;

use watch::{ABORT_WITHIN, Watch};

/// Time between two checks that all ranks are there.
const GLANCE: Duration = Duration::from_millis(200);

/// How ranks reach each other.
pub trait Collective: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn ranks(&self) -> usize;
    /// Replaces the numbers by their sum over ranks, ((x0 + x1) + x2) and so on. All ranks call it with equally many numbers.
    ///
    /// # Errors
    /// A rank that failed or is gone, told on every rank.
    fn sum(&self, numbers: &mut [f32]) -> Result<()>;
    /// The same for this rank's part, one of as many equal parts as there are ranks; the others then hold nothing of use.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    ///
    /// # Panics
    /// If there are no such parts.
    fn sum_part(&self, numbers: &mut [f32]) -> Result<()>;
    /// Fetches the other ranks' parts of the numbers; this rank has its own. Parts are equal, and moved bit by bit.
    ///
    /// # Errors
    /// As [`Collective::sum`].
    ///
    /// # Panics
    /// If there are no such parts.
    fn gather(&self, numbers: &mut [f32]) -> Result<()>;
    /// Tells the others that this rank ends, and why: from then on their sums fail.
    fn fail(&self, why: &str);
    /// True once another rank has failed or is gone. Does not wait; may be called from any thread.
    fn lost(&self) -> bool;
}

/// What a training step needs from the other ranks.
pub struct Ranks {
    host: Arc<dyn Collective>,
    nccl: Option<Arc<Nccl>>,
    _watch: Option<Watch>,
}

brief!(Ranks, |ranks| rank: ranks.rank(), ranks: ranks.count());

impl Ranks {
    /// The only rank: at a table with one seat every round is over at once.
    pub fn alone() -> Ranks {
        Ranks { host: Arc::new(Threads::seats(1).remove(0)), nccl: None, _watch: None }
    }

    /// Joins the others; with a GPU, through NCCL if every rank can use it. All ranks call it.
    ///
    /// # Errors
    /// A rank is gone, or NCCL failed.
    pub fn join(host: Arc<dyn Collective>, gpu: Option<&Gpu>, progress: &Progress) -> Result<Ranks> {
        let mut ranks = Ranks { host, nccl: None, _watch: None };
        if ranks.count() == 1 {
            return Ok(ranks);
        }
        let able = gpu.map_or(Err(Error::Device("there is no GPU".into())), Gpu::can_join);
        let mut missing = [f32::from(able.is_err())];
        ranks.host.sum(&mut missing)?;
        if missing != [0.0] {
            if let (Err(why), true) = (&able, gpu.is_some()) {
                progress.note(format_args!("rank {}: gradients are summed on the CPU: {why}", ranks.rank()));
            }
            return Ok(ranks);
        }
        let Some(gpu) = gpu else { unreachable!("a rank without one is not able") };
        // Bytes are whole numbers, which a sum of f32 keeps exact; all ranks but 0 add zeros.
        let mut bytes = [0.0; NCCL_ID];
        if ranks.rank() == 0 {
            bytes = gpu.new_id()?.map(f32::from);
        }
        ranks.host.sum(&mut bytes)?;
        let id = bytes.map(|byte| byte as u8);
        let told = progress.clone();
        let give_up = move |why: Error| {
            told.tell(Event::Error(&why.to_string()));
            gpu::end_process(1)
        };
        // Joining, too, would wait for a rank that is gone.
        let nothing_can = || std::thread::sleep(2 * ABORT_WITHIN);
        let joining = Watch::over(ranks.host.clone(), nothing_can, ABORT_WITHIN, give_up.clone());
        let nccl = Arc::new(gpu.join(&id, ranks.rank(), ranks.count())?);
        drop(joining);
        let sums = nccl.clone();
        ranks._watch = Some(Watch::over(ranks.host.clone(), move || sums.abort(), ABORT_WITHIN, give_up));
        ranks.nccl = Some(nccl);
        Ok(ranks)
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.host.rank()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.host.ranks()
    }

    /// True on the rank that writes files.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Begins a step's exchange of gradients, without sending any yet; `share` is the part of their means that this rank wants.
    pub(crate) fn exchange(&self, params: &Params, share: &Share) -> Exchange<'_> {
        Exchange::begin(self, params, share)
    }

    /// Replaces this rank's gradients, in the share, by those of the mean of all ranks' losses.
    pub(crate) fn mean_gradients(&self, params: &mut Params, share: &Share) -> Result<()> {
        self.exchange(params, share).end(params)
    }

    /// Fetches the other ranks' shares of these numbers; this rank has its own. With NCCL this is queued: nobody waits.
    ///
    /// # Errors
    /// A rank failed or is gone; or NCCL failed.
    pub fn gather(&self, share: &Share, numbers: &mut Tensor) -> Result<()> {
        // SAFETY: `numbers` is borrowed until `end_gather`, which is called in any case.
        let begin = |piece: &Range<usize>| unsafe { self.begin_gather(share, piece, numbers) };
        let begun = share.pieces().iter().try_for_each(begin);
        let ended = self.end_gather(share, numbers);
        begun.and(ended)
    }

    /// Begins to fetch a piece of them, after what is queued so far and alongside what follows. Without NCCL all pieces are fetched
    /// at the end.
    ///
    /// # Errors
    /// A rank is gone, or NCCL failed.
    ///
    /// # Safety
    /// Nothing that is queued from here on touches the piece, and the numbers live, until [`Ranks::end_gather`].
    pub(crate) unsafe fn begin_gather(
        &self,
        share: &Share,
        piece: &Range<usize>,
        numbers: &Tensor,
    ) -> Result<()> {
        let Some(nccl) = self.nccl.as_ref().filter(|_| numbers.gpu().is_some() && !share.is_whole()) else {
            return Ok(());
        };
        let part = numbers.part(piece.start, &[piece.len()]);
        // SAFETY: the caller's contract; `end_gather` orders the device's next work behind this.
        let begun = unsafe { nccl.begin_gather(part.address(), part.len(), part.real()) };
        self.explain(begun)
    }

    /// Orders what is queued from here on behind all pieces, each of which was begun.
    pub(crate) fn end_gather(&self, share: &Share, numbers: &mut Tensor) -> Result<()> {
        if share.is_whole() {
            return Ok(());
        }
        let by_host = |all: &mut [f32]| {
            share.pieces().iter().try_for_each(|piece| self.host.gather(&mut all[piece.clone()]))
        };
        let Some(gpu) = numbers.gpu() else { return by_host(numbers.data_mut()) };
        let Some(nccl) = &self.nccl else {
            let mut all = numbers.to_host().into_vec();
            by_host(&mut all)?;
            let all = Tensor::new(&[all.len()], all).to_gpu(gpu, "numbers of all ranks", numbers.real());
            numbers.copy_from(0, &all);
            return Ok(());
        };
        self.explain(nccl.end())
    }

    /// The error, unless a rank is gone: who is gone, and why, says more than that a sum could not be begun.
    pub(crate) fn explain<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.or_else(|error| self.check_sums().and(Err(error)))
    }

    /// True if a device's numbers are summed by work queued on it: nobody reads them first.
    pub(crate) fn queue_sums(&self) -> bool {
        self.count() == 1 || self.nccl.is_some()
    }

    /// Means over ranks of this rank's part of a device's numbers, by way of the host; f32 on the same device.
    fn mean_on_host(&self, share: &Share, numbers: &Tensor) -> Result<Tensor> {
        let mut mean = numbers.to_host().into_vec();
        self.mean_part(share, &mut mean)?;
        let own = mean[share.part(&(0..mean.len()))].to_vec();
        Ok(Tensor::new(&[own.len()], own).to_gpu(numbers.device(), "means of gradients", Real::F32))
    }

    /// Replaces this rank's part of the numbers by their means over the ranks.
    fn mean_part(&self, share: &Share, numbers: &mut [f32]) -> Result<()> {
        if share.is_whole() {
            return self.mean(numbers);
        }
        self.host.sum_part(numbers)?;
        let own = share.part(&(0..numbers.len()));
        self.divide(&mut numbers[own]);
        Ok(())
    }

    /// Replaces the numbers by their means over the ranks.
    ///
    /// # Errors
    /// A rank that failed or is gone.
    pub fn mean(&self, numbers: &mut [f32]) -> Result<()> {
        if self.count() == 1 {
            return Ok(());
        }
        self.host.sum(numbers)?;
        self.divide(numbers);
        Ok(())
    }

    /// Turns a sum over ranks into the mean.
    fn divide(&self, numbers: &mut [f32]) {
        let one = 1.0 / self.count() as f32;
        numbers.iter_mut().for_each(|x| *x *= one);
    }

    /// Compares numbers with the other ranks', by name: hashes of what they are about to do.
    ///
    /// # Errors
    /// Numbers that differ, by name, on every rank; a rank that failed or is gone.
    pub fn agree<S: AsRef<str>>(&self, what: &[(S, u64)]) -> Result<()> {
        // Bytes, whose sum over up to 65,793 ranks is exact to the last bit.
        let pieces = |(_, number): &(S, u64)| number.to_le_bytes().map(f32::from);
        let own: Vec<f32> = what.iter().flat_map(pieces).collect();
        let mut sum = own.clone();
        self.host.sum(&mut sum)?;
        let other = |i: usize| (8 * i..8 * i + 8).any(|k| sum[k] != own[k] * self.count() as f32);
        let differ: Vec<&str> = (0..what.len()).filter(|&i| other(i)).map(|i| what[i].0.as_ref()).collect();
        // A rank whose numbers are the mean of the others' would see no difference, so all are asked.
        match self.any(!differ.is_empty())? {
            false => Ok(()),
            true if differ.is_empty() => Err(Error::Rank("ranks differ in what they are about to do".into())),
            true => Err(Error::Rank(format!("ranks differ in their {}", differ.join(", ")))),
        }
    }

    /// Fails if a device's sums so far are not over all ranks: ask after waiting for the device, before its numbers are used.
    pub(crate) fn check_sums(&self) -> Result<()> {
        if self.nccl.as_ref().is_none_or(|nccl| !nccl.aborted()) {
            return Ok(());
        }
        // The next sum says who is gone, and why.
        self.any(false).and_then(|_| Err(Error::Rank("another rank was lost; this one stops too".into())))
    }

    /// True on every rank if `flag` is true on any.
    ///
    /// # Errors
    /// A rank that failed or is gone.
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut flags = [f32::from(flag)];
        self.host.sum(&mut flags)?;
        Ok(flags != [0.0])
    }
}

/// The error of a rank that stops because another has failed.
fn stopped(rank: usize, why: &str) -> Error {
    Error::Rank(format!("rank {rank} stopped, so this one stops too: {why}"))
}
