//! A step as one piece of the device's work: its buffers in one block ([`Arena`]), its kernels in one graph.

use std::sync::MutexGuard;

use super::arena::{Arena, Turn};
use super::driver::Outcome;
use super::{Gpu, or_stop};
use crate::error::{Error, Result};

impl Gpu {
    /// Does a step's work; steps of one shape do alike. The first ones run as they come and are learnt from; those that follow
    /// are written down first and then queued whole. Nothing may be read from the device in it.
    ///
    /// # Errors
    /// Those of the work, of which nothing is queued then; the driver's, or sums with other ranks that were aborted.
    pub fn as_one<T>(&self, shape: &[usize], work: impl FnOnce() -> Result<T>) -> Result<T> {
        let step = Step::begin(self, shape);
        let made = work()?;
        step.end()?;
        Ok(made)
    }

    /// Does other work with the block's memory, as far as there is one; what it makes is to be given back before the next step.
    pub fn in_block<T>(&self, work: impl FnOnce() -> T) -> T {
        self.arena().begin_loose();
        let _step = Step { gpu: self, written: false };
        work()
    }

    /// Bytes of the block that steps are served from, once they are.
    pub fn block(&self) -> Option<usize> {
        self.arena().block()
    }

    pub(super) fn allocate(&self, bytes: usize) -> Outcome<u64> {
        if let Some(address) = self.arena().take(bytes) {
            return Ok(address);
        }
        let address = self.0.driver.allocate(bytes)?;
        self.arena().made(bytes, address);
        Ok(address)
    }

    /// # Safety
    /// The address is from `allocate` and is not used again.
    pub(super) unsafe fn free(&self, address: u64) {
        if !self.arena().give(address) {
            // SAFETY: the caller's.
            unsafe { self.0.driver.free(address) };
        }
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        self.0.arena.lock().expect("no panic under this lock")
    }
}

/// A step that was begun. Left early, by an error, what was written down is forgotten.
struct Step<'a> {
    gpu: &'a Gpu,
    written: bool,
}

impl<'a> Step<'a> {
    fn begin(gpu: &'a Gpu, shape: &[usize]) -> Step<'a> {
        let turn = gpu.arena().begin(shape);
        let mut step = Step { gpu, written: false };
        if let Turn::Serve(sizes) = turn {
            let make = |bytes| (bytes, or_stop(gpu.0.driver.allocate(bytes)));
            let made = sizes.into_iter().map(make).collect();
            gpu.arena().made_ready(made);
            // A guarded buffer is looked at when it is given back, which waits.
            if !gpu.0.guarded {
                or_stop(gpu.0.driver.write_down());
                step.written = true;
            }
        }
        step
    }

    fn end(mut self) -> Result<()> {
        match std::mem::take(&mut self.written) {
            true => self.gpu.0.driver.play().map_err(Error::Device),
            false => Ok(()),
        }
    }
}

impl Drop for Step<'_> {
    /// Closes the arena, and gives it its block when it knows how large that is to be.
    fn drop(&mut self) {
        let driver = &self.gpu.0.driver;
        if self.written {
            driver.forget();
        }
        let (left, wanted) = self.gpu.arena().end();
        // SAFETY: from `allocate`, and nobody has seen them.
        left.into_iter().for_each(|(_, address)| unsafe { driver.free(address) });
        let Some((bytes, old)) = wanted.and_then(|bytes| Some((bytes, self.gpu.arena().give_block()?)))
        else {
            return;
        };
        if let Some(old) = old {
            // SAFETY: nothing in it is live.
            unsafe { driver.free(old) };
        }
        // The buffers of the steps so far are what the pool keeps.
        driver.trim();
        let block = driver.allocate(bytes.max(1)).ok();
        self.gpu.arena().take_block(block);
    }
}
