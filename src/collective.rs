//! Several ranks train one model: each takes its share of a step's sets, and what they find is summed.
//!
//! A rank is a GPU or, on a machine without one, a process. Whatever ranks have to tell each other is a sum: gradients, losses, "I
//! was asked to stop", the bytes by which NCCL's ranks find each other. So a [`Collective`] does one thing, in one order of ranks,
//! and every rank has the same bits afterwards. Gradients on GPUs go through NCCL where it is there, else the same way.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::gpu::{Gpu, NCCL_ID, Nccl};
use crate::params::Params;

mod launch;
mod threads;
mod wire;

pub use launch::Launch;
pub use threads::Threads;
pub use wire::Wire;

/// How ranks reach each other.
pub trait Collective: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;
    /// How many there are.
    fn ranks(&self) -> usize;
    /// Replaces the numbers by their sum over ranks, ((x0 + x1) + x2) and so on. All ranks call with as many numbers. Fails, on
    /// every rank, once one has failed or is gone.
    fn sum(&self, numbers: &mut [f32]) -> Result<()>;
    /// Tells the others that this rank ends, and why: their sums fail from here on.
    fn fail(&self, why: &str);
}

/// The only rank.
struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn ranks(&self) -> usize {
        1
    }

    fn sum(&self, _: &mut [f32]) -> Result<()> {
        Ok(())
    }

    fn fail(&self, _: &str) {}
}

/// What a training step asks of the other ranks.
pub struct Ranks {
    host: Arc<dyn Collective>,
    nccl: Option<Nccl>,
}

impl Ranks {
    /// The only rank.
    pub fn alone() -> Ranks {
        Ranks { host: Arc::new(Alone), nccl: None }
    }

    /// Joins the others; with a GPU, through NCCL if every rank can. All ranks call it.
    ///
    /// # Errors
    /// A rank that is gone, or NCCL's own.
    pub fn join(host: Arc<dyn Collective>, gpu: Option<&Gpu>) -> Result<Ranks> {
        let mut ranks = Ranks { host, nccl: None };
        if ranks.count() == 1 {
            return Ok(ranks);
        }
        let able = gpu.map_or(Err("there is no GPU".to_string()), Gpu::can_join);
        let mut missing = [f32::from(able.is_err())];
        ranks.host.sum(&mut missing)?;
        if missing != [0.0] {
            if let (Err(why), true) = (&able, gpu.is_some()) {
                eprintln!("note: rank {}: gradients are summed by the CPU: {why}", ranks.rank());
            }
            return Ok(ranks);
        }
        let gpu = gpu.expect("a rank without one is not able");
        // Bytes are whole numbers, which a sum of f32 keeps; all but rank 0 add nothing.
        let mut bytes = [0.0; NCCL_ID];
        if ranks.rank() == 0 {
            bytes = gpu.new_id().map_err(Error::Device)?.map(f32::from);
        }
        ranks.host.sum(&mut bytes)?;
        let id = bytes.map(|byte| byte as u8);
        ranks.nccl = Some(gpu.join(&id, ranks.rank(), ranks.count()).map_err(Error::Device)?);
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

    /// Gradients of the mean of all ranks' losses in the place of those of this rank's.
    pub fn mean_gradients(&self, params: &mut Params) -> Result<()> {
        match &self.nccl {
            _ if self.count() == 1 => Ok(()),
            Some(nccl) => {
                let grads = params.grads();
                // SAFETY: as many f32, of which no one else is reading or writing.
                unsafe { nccl.mean(grads.address(), grads.len()) }.map_err(Error::Device)
            }
            None => params.edit_grads(|numbers| self.mean(numbers)),
        }
    }

    /// Means over the ranks in the place of their numbers.
    pub fn mean(&self, numbers: &mut [f32]) -> Result<()> {
        if self.count() == 1 {
            return Ok(());
        }
        self.host.sum(numbers)?;
        let share = 1.0 / self.count() as f32;
        numbers.iter_mut().for_each(|x| *x *= share);
        Ok(())
    }

    /// Holds where all ranks have this number, a hash of what they are about to do.
    pub fn agree(&self, number: u64) -> Result<()> {
        // Pieces that a sum over up to 256 ranks keeps to the last bit.
        let own = [0, 16, 32, 48].map(|shift| ((number >> shift) & 0xffff) as f32);
        let mut sum = own;
        self.host.sum(&mut sum)?;
        match sum == own.map(|piece| piece * self.count() as f32) {
            true => Ok(()),
            false => Err(Error::Stopped("ranks differ in config, split, data or program".into())),
        }
    }

    /// True on every rank if it is on one.
    pub fn any(&self, flag: bool) -> Result<bool> {
        let mut flags = [f32::from(flag)];
        self.host.sum(&mut flags)?;
        Ok(flags != [0.0])
    }
}

/// What a rank hears of another that has failed.
fn stopped(rank: usize, why: &str) -> Error {
    Error::Stopped(format!("rank {rank} stopped, and this one with it: {why}"))
}
