//! Host memory that a device reads and writes directly.
//!
//! A copy from other memory is complete when its call returns, so the call waits if the device still has a step's work to do. A
//! copy from here is only queued: the host continues, and waits only before overwriting what has not been read.

use std::ops::Range;

use bytemuck::Pod;

use super::driver::ALIGN;
use super::{Buffer, Gpu, Mark, fail, or_fail};
use crate::error::{Error, Result};

/// Page-locked memory, freed when dropped. Two, used alternately, let a step's data be written while the previous step's are sent.
pub(crate) struct Pinned {
    gpu: Gpu,
    address: u64,
    bytes: usize,
    /// After the last copy from or to here.
    sent: Option<Mark>,
}

brief!(Pinned, |pinned| gpu: pinned.gpu, bytes: pinned.bytes);

impl Gpu {
    /// Zeroed host memory of that many bytes; `what` names it in the error if there is no room.
    pub(crate) fn pinned(&self, what: &str, bytes: usize) -> Pinned {
        self.try_pinned(bytes).unwrap_or_else(|why| {
            let mib = bytes as f64 / (1 << 20) as f64;
            fail(Error::Device(format!(
                "cannot allocate page-locked host memory for {what} ({mib:.1} MiB): {why}"
            )))
        })
    }

    /// The same.
    ///
    /// # Errors
    /// No room.
    pub(crate) fn try_pinned(&self, bytes: usize) -> Result<Pinned> {
        let address = self.0.driver.pin(bytes.max(1)).map_err(Error::Device)?;
        Ok(Pinned { gpu: self.clone(), address, bytes, sent: None })
    }
}

impl Pinned {
    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// All of it, as plain numbers; trailing bytes that make no whole number are left out. Waits for copies from and to it. Not for
    /// [`Gpu::upload`] or [`Buffer::write`], which would read it after they have returned.
    pub fn numbers<T: Pod>(&mut self) -> &mut [T] {
        const { assert!(align_of::<T>() <= ALIGN, "page-locked memory begins at multiples of ALIGN") };
        self.wait();
        // SAFETY: `address` points to that many bytes, zeroed when made and aligned for any plain number; they are ours alone while
        // `self` is borrowed, since the device has read what was sent.
        unsafe { std::slice::from_raw_parts_mut(self.address as *mut T, self.bytes / size_of::<T>().max(1)) }
    }

    /// Queues a copy of some of its bytes to the start of a buffer of its device, beside the work queued there: see
    /// [`Post`](super::Post).
    pub(super) fn send_beside(&mut self, bytes: Range<usize>, to: &Buffer) {
        self.check("send", &bytes, to, 0);
        // SAFETY: the ranges were checked; nobody writes here before `numbers` or `drop` has waited for the mark.
        unsafe {
            let from = std::slice::from_raw_parts((self.address as *const u8).add(bytes.start), bytes.len());
            or_fail(self.gpu.0.driver.upload_beside(to.address(), from));
        }
        self.sent = Some(or_fail(self.gpu.0.driver.mark_beside()));
    }

    /// Queues a copy of a buffer of its device, from byte `at` there on, to some of its bytes. Does not wait.
    ///
    /// # Panics
    /// If the bytes go beyond an end, or the buffer is of another device.
    pub fn receive(&mut self, bytes: Range<usize>, from: &Buffer, at: usize) {
        self.check("receive", &bytes, from, at);
        // SAFETY: the ranges were checked; nobody reads here before `numbers` or `drop` has waited for the mark.
        unsafe {
            let to = std::slice::from_raw_parts_mut((self.address as *mut u8).add(bytes.start), bytes.len());
            or_fail(self.gpu.0.driver.download(to, from.address() + at as u64));
        }
        self.sent = Some(or_fail(self.gpu.0.driver.mark()));
    }

    fn check(&self, what: &str, bytes: &Range<usize>, buffer: &Buffer, at: usize) {
        let fits = bytes.start <= bytes.end && bytes.end <= self.bytes;
        assert!(fits && buffer.gpu().same(&self.gpu), "{what}: bytes {bytes:?} of {}", self.bytes);
        buffer.check(what, at, bytes.len());
    }

    fn wait(&mut self) {
        if let Some(sent) = self.sent.take() {
            or_fail(sent());
        }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // A failed device reads no more, and there is nobody left to tell.
        let _ = self.sent.take().map(|sent| sent());
        // SAFETY: this is the only owner, and the device has read what was sent.
        unsafe { self.gpu.0.driver.unpin(self.address) };
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::path::Path;

    use crate::gpu::{Chip, Gpu, Real};

    fn device() -> Gpu {
        // SAFETY: no kernel is launched.
        unsafe { Gpu::emulated(Path::new("none"), Real::F32, 1, Chip::Hopper) }
    }

    #[test]
    fn pinned_memory_receives_parts_and_is_read_again() {
        let gpu = device();
        let mut host = gpu.pinned("a step's losses", 101);
        assert!(host.bytes() == 101 && host.numbers::<u8>().iter().all(|&byte| byte == 0));
        assert_eq!(host.numbers::<u64>().len(), 12);
        for step in 0..3u16 {
            let told: Vec<u16> = (0..32).map(|i| 100 * step + i).collect();
            let device = gpu.upload("a step's losses", &told);
            host.receive(16..64, &device, 0);
            host.receive(0..16, &device, 48);
            let found = &host.numbers::<u16>()[..32];
            assert!(found[8..].iter().chain(&found[..8]).eq(&told), "step {step}: {found:?}");
        }
        drop(host);
        assert_eq!(gpu.overrun(), None);
    }

    #[test]
    fn more_than_a_buffer_holds_is_refused() {
        let gpu = device();
        for (at, told) in
            [(4, "receive: 16 bytes at 4 of 16"), (usize::MAX - 15, "receive: 16 bytes at 1844")]
        {
            let receive = || gpu.pinned("numbers", 24).receive(8..24, &gpu.buffer("numbers", 16), at);
            let refused = catch_unwind(AssertUnwindSafe(receive)).expect_err("more than the buffer holds");
            let found = refused.downcast_ref::<String>().expect("words");
            assert!(found.contains(told), "{found}");
        }
    }
}
