//! The driver of a device that does nothing: its addresses have no memory behind them, its kernels do not run, and what is read
//! from it is zero. Everything above works as on a GPU, so buffers and their sizes, launches and bytes can be counted for models of
//! any size without a GPU.

use std::sync::atomic::{AtomicU64, Ordering};

use super::driver::{ALIGN, DriverResult};
use super::{Arg, Driver, Grid, Product, Real};

pub struct Dry {
    next: AtomicU64,
}

impl Dry {
    /// No other device has memory at or above this address.
    pub const FAR: u64 = 1 << 62;

    pub fn near() -> Dry {
        Dry { next: AtomicU64::new(ALIGN as u64) }
    }

    /// One whose addresses can be told apart from any other device's.
    pub fn far() -> Dry {
        Dry { next: AtomicU64::new(Dry::FAR) }
    }
}

impl Driver for Dry {
    fn name(&self) -> String {
        "no device, only counted".into()
    }

    fn computes(&self) -> bool {
        false
    }

    fn can_time(&self) -> bool {
        false
    }

    fn memory(&self) -> (u64, u64) {
        (u64::MAX, u64::MAX)
    }

    fn allocate(&self, bytes: usize) -> DriverResult<u64> {
        Ok(self.next.fetch_add((bytes as u64).next_multiple_of(ALIGN as u64), Ordering::Relaxed))
    }

    unsafe fn free(&self, _address: u64) {}

    fn pin(&self, _bytes: usize) -> DriverResult<u64> {
        Err("nothing can be sent".into())
    }

    unsafe fn unpin(&self, _address: u64) {}

    unsafe fn upload(&self, _to: u64, _from: &[u8]) -> DriverResult<()> {
        Ok(())
    }

    unsafe fn download(&self, to: &mut [u8], _from: u64) -> DriverResult<()> {
        to.fill(0);
        Ok(())
    }

    unsafe fn copy(&self, _to: u64, _from: u64, _bytes: usize) -> DriverResult<()> {
        Ok(())
    }

    unsafe fn fill(&self, _at: u64, _byte: u8, _bytes: usize) -> DriverResult<()> {
        Ok(())
    }

    unsafe fn launch(
        &self,
        _: &'static str,
        _: &'static str,
        _: Real,
        _: Grid,
        _: &[Arg],
    ) -> DriverResult<()> {
        Ok(())
    }

    unsafe fn product(&self, _: &Product) -> DriverResult<bool> {
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::gpu::{Gpu, Real};

    #[test]
    fn a_range_whose_end_wraps_and_a_size_without_end_are_refused() {
        let gpu = Gpu::dry(Real::F32);
        let (buffer, other, last) = (gpu.buffer("numbers", 8), gpu.buffer("others", 8), usize::MAX);
        let refused = |work: &dyn Fn()| assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
        refused(&|| buffer.download(last - 3, &mut [0f32]));
        refused(&|| buffer.write(last - 3, &[0f32]));
        refused(&|| buffer.copy_from(last - 3, &other, 0, 4));
        refused(&|| buffer.copy_from(0, &other, last - 3, 4));
        refused(&|| buffer.zero(last - 3, 4));
        refused(&|| drop(gpu.buffer("all", last)));
    }
}
