//! A step as one unit of device work: its buffers in one block ([`Arena`]), its kernels in one graph.

use std::cell::Cell;
use std::sync::{Arc, MutexGuard};

use super::arena::Arena;
use super::driver::DriverResult;
use super::dry::Dry;
use super::{Gpu, fail, or_fail};
use crate::error::{Error, Result};
use crate::lock::lock;

/// Buffers named in the error when a step does not fit.
const LARGEST: usize = 4;

thread_local! {
    /// The device whose work on this thread is only rehearsed, if there is one. Other threads' work on it is carried out.
    static REHEARSED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Whether this thread's work on that device, by its [`Gpu::key`], is only rehearsed.
pub(super) fn is_rehearsed(device: usize) -> bool {
    REHEARSED.get() == Some(device)
}

/// [`Gpu::in_block`] on a device, if there is one.
pub(crate) fn in_block<T>(gpu: Option<&Gpu>, work: impl FnOnce() -> T) -> T {
    match gpu {
        Some(gpu) => gpu.in_block(work),
        None => work(),
    }
}

impl Gpu {
    /// Runs a step as one unit. Before the first step of a shape the work is rehearsed without a device, which shows how long each
    /// buffer lives, and the buffers are laid out in one block. The first real step times alternative kernels; later steps are
    /// captured as a graph and queued whole. The work must request the same buffers for every step of one shape (after a step that
    /// does not, the next is rehearsed again), read nothing from the device, stay on this thread, and let buffers out only through
    /// its result.
    ///
    /// # Errors
    /// The work's own errors, after which none of it is queued; the driver's; sums with other ranks that were aborted; no room.
    pub(crate) fn as_one<T>(&self, shape: &[usize], mut work: impl FnMut() -> Result<T>) -> Result<T> {
        self.lay_out(shape, &mut work)?;
        let step = Step::begin(self);
        let made = work()?;
        step.end()?;
        Ok(made)
    }

    /// Rehearses a step and allocates its block, unless steps of this shape are already laid out: for work that comes before the
    /// first step and can use the block.
    ///
    /// # Errors
    /// The work's own errors; no room for the block.
    pub(crate) fn lay_out<T>(&self, shape: &[usize], work: impl FnOnce() -> Result<T>) -> Result<()> {
        if self.arena().knows(shape) {
            return Ok(());
        }
        let rehearsal = Rehearsal::begin(self);
        let outlives = work()?;
        let bytes = self.arena().end_rehearsal();
        drop(outlives);
        drop(rehearsal);
        self.move_block(bytes)
    }

    /// Does other work in the block's memory, if there is a block; what it makes must be freed before the next step.
    pub(crate) fn in_block<T>(&self, work: impl FnOnce() -> T) -> T {
        self.arena().begin_loose();
        let _step = Step { gpu: self, written: false };
        work()
    }

    /// Drops the layout: another way to a result proved quicker, so steps will not request what was rehearsed.
    pub(super) fn drop_layout(&self) {
        self.arena().forget();
    }

    /// Runs work that happens during a step but is not part of it, such as timing. It must free all buffers that it makes.
    pub(super) fn aside<T>(&self, work: impl FnOnce() -> T) -> T {
        // Calls may nest, and a kernel that fails unwinds.
        let _aside = Aside { gpu: self, outer: self.arena().set_aside(true) };
        work()
    }

    /// Bytes of the block that serves steps, once they are laid out.
    pub fn block(&self) -> Option<usize> {
        self.arena().block()
    }

    /// True once steps are laid out and the last one followed the layout: it requested no other memory.
    pub fn went_as_laid_out(&self) -> bool {
        self.arena().followed()
    }

    /// Replaces the block by one of another size.
    fn move_block(&self, bytes: usize) -> Result<()> {
        let Ok(old) = self.arena().give_block() else { return Ok(()) };
        let driver = &self.0.driver;
        if let Some(old) = old {
            // SAFETY: nothing in it is live.
            unsafe { driver.free(old) };
            // The pool would keep the old block, and the new one may be larger.
            driver.trim();
        }
        let block = driver.allocate(bytes.max(1)).map_err(|why| {
            self.arena().forget();
            self.no_room(bytes, &why)
        })?;
        self.arena().take_block(block);
        Ok(())
    }

    fn no_room(&self, bytes: usize, why: &str) -> Error {
        let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
        let most = self.peak().of;
        let most = most.iter().take(LARGEST).map(|&(what, bytes)| format!("{what} {}", gib(bytes)));
        Error::Device(format!(
            "no room for a step's buffers ({}) on {}: {why}; the largest at peak are {}; lower data.sets or data.cells, or use a \
             smaller preset",
            gib(bytes as u64),
            self.name(),
            most.collect::<Vec<_>>().join(", ")
        ))
    }

    pub(super) fn allocate(&self, bytes: usize) -> DriverResult<u64> {
        if let Some(address) = self.arena().take(bytes) {
            return Ok(address);
        }
        if self.rehearsing() && self.held().saturating_add(bytes as u64) > self.memory().1 {
            return Err("together with what the step already holds, this is more than the device has".into());
        }
        let address = self.driver().allocate(bytes)?;
        // Another thread's memory is no part of the step.
        if self.rehearsing() {
            self.arena().made(bytes, address);
        }
        Ok(address)
    }

    /// # Safety
    /// The address is from `allocate` and is not used again.
    pub(super) unsafe fn free(&self, address: u64) {
        // Memory from before a rehearsal may be freed during it.
        if !self.arena().give(address) && address < Dry::FAR {
            // SAFETY: the caller's contract.
            unsafe { self.0.driver.free(address) };
        }
    }

    /// Tells this device from others.
    pub(super) fn key(&self) -> usize {
        Arc::as_ptr(&self.0).addr()
    }

    pub(super) fn rehearsing(&self) -> bool {
        is_rehearsed(self.key())
    }

    fn arena(&self) -> MutexGuard<'_, Arena> {
        lock(&self.0.arena)
    }
}

/// A step that runs on no device.
struct Rehearsal<'a>(&'a Gpu);

impl<'a> Rehearsal<'a> {
    fn begin(gpu: &'a Gpu) -> Rehearsal<'a> {
        gpu.arena().begin_rehearsal();
        REHEARSED.set(Some(gpu.key()));
        Rehearsal(gpu)
    }
}

impl Drop for Rehearsal<'_> {
    fn drop(&mut self) {
        REHEARSED.set(None);
        self.0.arena().end();
    }
}

/// Work aside in progress: dropped, however the work ends, it restores the previous setting.
struct Aside<'a> {
    gpu: &'a Gpu,
    outer: bool,
}

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        self.gpu.arena().set_aside(self.outer);
    }
}

/// A step in progress. If an error leaves it early, what was recorded is discarded.
struct Step<'a> {
    gpu: &'a Gpu,
    written: bool,
}

impl<'a> Step<'a> {
    fn begin(gpu: &'a Gpu) -> Step<'a> {
        let turn = gpu.arena().begin();
        let mut step = Step { gpu, written: false };
        for bytes in turn.sizes {
            let made = gpu.0.driver.allocate(bytes).unwrap_or_else(|why| fail(gpu.no_room(bytes, &why)));
            gpu.arena().made_ready(bytes, made);
        }
        // Timing waits for the device, and so does the check of a fenced buffer when it is freed: neither can be recorded.
        if turn.followed && !gpu.0.fenced {
            or_fail(gpu.0.driver.write_down());
            step.written = true;
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
    fn drop(&mut self) {
        let driver = &self.gpu.0.driver;
        if self.written {
            driver.forget();
        }
        let left = self.gpu.arena().end();
        // SAFETY: from `allocate`, and never handed out.
        left.into_iter().for_each(|(_, address)| unsafe { driver.free(address) });
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::Path;

    use crate::error::Result;
    use crate::gpu::{Chip, Gpu, Real, guard};
    use crate::tensor::Tensor;

    /// Copies and fills need no compiled kernels.
    fn device() -> Gpu {
        // SAFETY: no kernel is launched.
        unsafe { Gpu::emulated(Path::new("none"), Real::F32, 1, Chip::Hopper) }
    }

    /// What comes back of numbers that are sent.
    fn echo(gpu: &Gpu) -> [f32; 2] {
        let mut back = [9.0; 2];
        gpu.upload("numbers", &[1.0f32, 2.0]).download(0, &mut back);
        back
    }

    const LEN: usize = 1000;

    /// Three buffers, the last of which outlives the step; counts how often the step is done.
    fn step(gpu: &Gpu, done: &RefCell<usize>, more: usize) -> Result<Tensor> {
        *done.borrow_mut() += 1;
        let make = |what, len| Tensor::on(gpu, what, &[len], Real::F32);
        let first = make("first", LEN);
        let second = make("second", 2 * LEN + more);
        drop(first);
        let third = make("third", LEN);
        third.copy_from(0, &second.part(0, &[LEN]));
        Ok(third)
    }

    #[test]
    fn a_step_is_laid_out_before_it_is_done_and_again_where_it_goes_another_way() {
        let gpu = device();
        let done = RefCell::new(0);
        let run = |shape: usize, more: usize| {
            let made = gpu.as_one(&[shape], || step(&gpu, &done, more)).expect("room");
            assert_eq!(made.len(), LEN);
            *done.borrow()
        };
        assert!(gpu.block().is_none());
        // Counted, then done.
        assert_eq!(run(1, 0), 2);
        let block = gpu.block().expect("laid out");
        assert!(gpu.went_as_laid_out() && (12 * LEN..16 * LEN).contains(&block), "{block} bytes");
        assert_eq!(run(1, 0), 3);
        // Larger than what was laid out: served from elsewhere, and rehearsed again at the next one.
        assert_eq!(run(1, 10 * LEN), 4);
        assert!(!gpu.went_as_laid_out());
        assert_eq!(run(1, 10 * LEN), 6);
        assert!(gpu.went_as_laid_out() && gpu.block() > Some(48 * LEN));
        // Another shape.
        assert_eq!(run(2, 0), 8);
        assert!(gpu.went_as_laid_out() && gpu.block() == Some(block));
        assert_eq!(gpu.overrun(), None);
    }

    #[test]
    fn a_step_that_does_not_fit_says_what_is_largest_before_it_is_begun() {
        let gpu = device();
        let mut done = 0;
        let work = || {
            done += 1;
            drop(gpu.buffer("scores of all pairs", 1 << 60));
            Ok(())
        };
        let said = guard(|| gpu.as_one(&[1], work)).expect_err("no machine has an exbibyte").to_string();
        assert!(
            said.contains("scores of all pairs 1073741824.00 GiB") && said.contains("data.sets"),
            "{said}"
        );
        assert_eq!((done, gpu.held()), (1, 0));
        // The device is as it was before.
        assert_eq!(echo(&gpu), [1.0, 2.0]);
    }

    #[test]
    fn while_a_step_is_only_rehearsed_other_threads_compute() {
        let gpu = device();
        let work = || {
            let counted = gpu.buffer("counted", 64);
            let elsewhere = std::thread::scope(|scope| scope.spawn(|| echo(&gpu)).join().expect("numbers"));
            assert_eq!((elsewhere, echo(&gpu)), ([1.0, 2.0], [0.0; 2]));
            Ok(counted)
        };
        gpu.lay_out(&[1], work).expect("room");
        assert_eq!(echo(&gpu), [1.0, 2.0]);
    }
}
