//! What the drivers behind a [`Gpu`](super::Gpu) have in common.

use std::fmt::Display;
use std::time::Instant;

use super::choices::Algorithm;
use super::{Arg, Grid, NCCL_ID, Nccl, Product, Real, Stamp};

pub(super) type Outcome<T> = std::result::Result<T, String>;

/// What the driver answered to a call.
pub(super) fn said<E: Display>(call: &str) -> impl FnOnce(E) -> String {
    move |e| format!("{call}: {e}")
}

/// Waits until the work queued before it is done.
pub(super) type Mark = Box<dyn FnOnce() -> Outcome<()> + Send + Sync>;

/// What a device can do. Addresses are of memory from `allocate`; everything but what goes beside is done in the order of the
/// calls. What is not asked of a device whose calls return when their work is done has a default.
pub(super) trait Driver: Send + Sync {
    /// The device, in words.
    fn name(&self) -> String;
    /// Whether there is anything behind its addresses.
    fn computes(&self) -> bool {
        true
    }
    /// Free and total bytes.
    fn memory(&self) -> (u64, u64);
    /// The most bytes that the allocator held for this process; nothing where there is none.
    fn reserved(&self) -> Option<u64> {
        None
    }
    fn allocate(&self, bytes: usize) -> Outcome<u64>;
    /// # Safety
    /// The address is from `allocate` and is not used again.
    unsafe fn free(&self, address: u64);
    /// Host memory that `upload` reads after it has returned, zeroed.
    fn pin(&self, bytes: usize) -> Outcome<u64>;
    /// # Safety
    /// The address is from `pin` and is not used again.
    unsafe fn unpin(&self, address: u64);
    /// # Safety
    /// `to` begins that many bytes of live device memory. What lies in pinned memory must lie there until a `mark` that follows.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> Outcome<()>;
    /// The same from pinned memory, beside what is queued and not behind it: in order with other copies beside alone.
    /// # Safety
    /// As above. What reads or writes `to` is done, or before a point of `hold_beside`, or behind `meet_beside`.
    unsafe fn upload_beside(&self, to: u64, from: &[u8]) -> Outcome<()> {
        // SAFETY: the caller's.
        unsafe { self.upload(to, from) }
    }
    /// Copies beside begin behind that point from here on.
    fn hold_beside(&self, _point: &Stamp) -> Outcome<()> {
        Ok(())
    }
    /// What is queued from here on begins behind the copies beside so far.
    fn meet_beside(&self) -> Outcome<()> {
        Ok(())
    }
    /// The copies beside so far.
    fn mark_beside(&self) -> Outcome<Mark> {
        self.mark()
    }
    /// The work queued so far.
    fn mark(&self) -> Outcome<Mark> {
        Ok(Box::new(|| Ok(())))
    }
    /// # Safety
    /// `from` begins that many bytes of live device memory; `to` is not looked at before a `mark` or a `wait` that follows.
    unsafe fn download(&self, to: &mut [u8], from: u64) -> Outcome<()>;
    /// # Safety
    /// Both begin that many bytes of live device memory and do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> Outcome<()>;
    /// # Safety
    /// `at` begins that many bytes of live device memory.
    unsafe fn fill(&self, at: u64, byte: u8, bytes: usize) -> Outcome<()>;
    /// # Safety
    /// The arguments are those of the kernel and every pointer begins as many live numbers as the kernel touches.
    unsafe fn launch(
        &self,
        file: &'static str,
        kernel: &'static str,
        real: Real,
        grid: Grid,
        args: &[Arg],
    ) -> Outcome<()>;
    /// True if `sums` were written too, where they were asked for.
    /// # Safety
    /// Every operand lies in live device memory; the written one overlaps no other.
    unsafe fn product(&self, product: &Product) -> Outcome<bool>;
    /// What that would answer, as far as it is known before.
    fn fuses(&self, product: &Product) -> bool {
        product.check();
        true
    }
    fn wait(&self) -> Outcome<()> {
        Ok(())
    }
    /// What is queued from here on runs as one, once `play` queues it; a device whose calls return when their work is done does it at
    /// once. Nothing may be read from it until then.
    fn write_down(&self) -> Outcome<()> {
        Ok(())
    }
    /// Queues what was written down.
    fn play(&self) -> Outcome<()> {
        Ok(())
    }
    /// Forgets what was written down.
    fn forget(&self) {}
    /// Gives back the memory that the allocator keeps.
    fn trim(&self) {}
    /// The point behind all that is queued.
    fn stamp(&self) -> Outcome<Stamp> {
        Ok(Stamp::Clock(Instant::now()))
    }
    /// How many multiprocessors, if they have Hopper's copy engine and wgmma.
    fn hopper(&self) -> Option<usize> {
        None
    }
    /// The most bytes of shared memory that a block may ask for; here as Hopper has it.
    fn shared(&self) -> usize {
        227 << 10
    }
    /// The library of matrix products and its version, and what it was timed to be quickest by.
    fn algorithms(&self) -> (u64, Vec<(String, Algorithm)>) {
        (0, Vec::new())
    }
    /// Takes these where they are asked for, instead of timing.
    fn adopt(&self, _algorithms: &[(String, Algorithm)]) {}
    /// Bytes of the level-2 cache; 0 where nobody knows.
    fn cache(&self) -> usize {
        0
    }
    /// Whether it can sum with other devices by itself, or why not.
    fn can_join(&self) -> Outcome<()> {
        Err(format!("{} cannot sum with other devices", self.name()))
    }
    /// Waits for the other ranks. Only of one that can.
    fn join(&self, _id: &[u8; NCCL_ID], _rank: usize, _ranks: usize) -> Outcome<Nccl> {
        Err(format!("{} cannot sum with other devices", self.name()))
    }
}
