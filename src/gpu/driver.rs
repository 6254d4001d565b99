//! What the drivers behind a [`Gpu`](super::Gpu) have in common.

use std::fmt::Display;
use std::time::Instant;

use super::choices::Algorithm;
use super::{Arg, Grid, NCCL_ID, Nccl, Product, Real, Stamp};

pub(super) type DriverResult<T> = std::result::Result<T, String>;

/// Error text: the call, and what the driver answered.
pub(super) fn said<E: Display>(call: &str) -> impl FnOnce(E) -> String {
    move |e| format!("{call}: {e}")
}

/// What every address from a driver is a multiple of, that of memory on the host too: the alignment of `cudaMalloc`.
pub(super) const ALIGN: usize = 256;

/// A point in the queue; calling it waits until the work queued before it is done.
pub(super) type Mark = Box<dyn FnOnce() -> DriverResult<()> + Send + Sync>;

/// What a device can do. Addresses are in memory from `allocate`. Everything is done in the order of the calls, except side copies
/// (`upload_beside`), which have a queue of their own. Methods that a device with synchronous calls need not implement have a
/// default.
pub(super) trait Driver: Send + Sync {
    /// The device, in words.
    fn name(&self) -> String;
    /// Whether there is memory behind its addresses.
    fn computes(&self) -> bool {
        true
    }
    /// Free and total bytes.
    fn memory(&self) -> (u64, u64);
    /// The most bytes that the allocator has held for this process; none if there is no such allocator.
    fn reserved(&self) -> Option<u64> {
        None
    }
    fn allocate(&self, bytes: usize) -> DriverResult<u64>;
    /// # Safety
    /// The address is from `allocate` and is not used again.
    unsafe fn free(&self, address: u64);
    /// Zeroed host memory, which `upload` may still read after it has returned.
    fn pin(&self, bytes: usize) -> DriverResult<u64>;
    /// # Safety
    /// The address is from `pin` and is not used again.
    unsafe fn unpin(&self, address: u64);
    /// # Safety
    /// `to` points to that many bytes of live device memory. Data in pinned memory must stay unchanged until a later `mark` is
    /// reached.
    unsafe fn upload(&self, to: u64, from: &[u8]) -> DriverResult<()>;
    /// A side copy: the same from pinned memory, beside the queued work and not after it, ordered only with other side copies.
    /// # Safety
    /// As above. All other work on `to` is done, or comes before a point given to `hold_beside`, or after `meet_beside`.
    unsafe fn upload_beside(&self, to: u64, from: &[u8]) -> DriverResult<()> {
        // SAFETY: the caller's contract.
        unsafe { self.upload(to, from) }
    }
    /// From here on, side copies wait for that point.
    fn hold_beside(&self, _point: &Stamp) -> DriverResult<()> {
        Ok(())
    }
    /// What is queued from here on waits for the side copies so far.
    fn meet_beside(&self) -> DriverResult<()> {
        Ok(())
    }
    /// A mark after the side copies so far.
    fn mark_beside(&self) -> DriverResult<Mark> {
        self.mark()
    }
    /// A mark after the work queued so far.
    fn mark(&self) -> DriverResult<Mark> {
        Ok(Box::new(|| Ok(())))
    }
    /// # Safety
    /// `from` points to that many bytes of live device memory; `to` is not read before a later `mark` or `wait` has returned.
    unsafe fn download(&self, to: &mut [u8], from: u64) -> DriverResult<()>;
    /// # Safety
    /// Both point to that many bytes of live device memory and do not overlap.
    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> DriverResult<()>;
    /// # Safety
    /// `at` points to that many bytes of live device memory.
    unsafe fn fill(&self, at: u64, byte: u8, bytes: usize) -> DriverResult<()>;
    /// # Safety
    /// The arguments match the kernel's parameters, and every pointer points to as many live numbers as the kernel touches.
    unsafe fn launch(
        &self,
        file: &'static str,
        kernel: &'static str,
        real: Real,
        grid: Grid,
        args: &[Arg],
    ) -> DriverResult<()>;
    /// Whether `sums` were written, if they were requested.
    /// # Safety
    /// Every operand is in live device memory; the written one overlaps no other.
    unsafe fn product(&self, product: &Product) -> DriverResult<bool>;
    /// What `product` would return, as far as that is known beforehand.
    fn fuses(&self, _product: &Product) -> bool {
        true
    }
    fn wait(&self) -> DriverResult<()> {
        Ok(())
    }
    /// What is queued from here on runs as one unit once `play` queues it; a device with synchronous calls runs it at once. Nothing
    /// may be read from the device until then.
    fn write_down(&self) -> DriverResult<()> {
        Ok(())
    }
    /// Queues what was recorded since `write_down`.
    fn play(&self) -> DriverResult<()> {
        Ok(())
    }
    /// Discards what was recorded.
    fn forget(&self) {}
    /// Gives back unused memory that the allocator keeps.
    fn trim(&self) {}
    /// The point after everything queued so far.
    fn stamp(&self) -> DriverResult<Stamp> {
        Ok(Stamp::Clock(Instant::now()))
    }
    /// Whether the time between its stamps says how fast it works.
    fn can_time(&self) -> bool {
        true
    }
    /// Tells a profiler that waits for it to watch from here on, or no longer.
    fn watch(&self, _on: bool) {}
    /// Queues work of a tenth of a millisecond that changes nothing, for the host to get ahead.
    fn keep_busy(&self) -> DriverResult<()> {
        Ok(())
    }
    /// Number of multiprocessors, if they have Hopper's copy engine and wgmma.
    fn hopper(&self) -> Option<usize> {
        None
    }
    /// The most bytes of shared memory that a block may request; the default is Hopper's.
    fn shared(&self) -> usize {
        227 << 10
    }
    /// Version of the matrix-product library, and the algorithm of each product that was timed to be quickest.
    fn algorithms(&self) -> (u64, Vec<(String, Algorithm)>) {
        (0, Vec::new())
    }
    /// Uses these algorithms instead of timing, each unless the library refuses it.
    fn adopt(&self, _algorithms: &[(String, Algorithm)]) {}
    /// Bytes of the level-2 cache; 0 if unknown.
    fn cache(&self) -> usize {
        0
    }
    /// Whether it can sum with other devices directly; if not, why.
    fn can_join(&self) -> DriverResult<()> {
        Err(format!("{} cannot sum with other devices", self.name()))
    }
    /// Joins the other ranks and waits for them; only if `can_join`.
    fn join(&self, _id: &[u8; NCCL_ID], _rank: usize, _ranks: usize) -> DriverResult<Nccl> {
        Err(format!("{} cannot sum with other devices", self.name()))
    }
}
