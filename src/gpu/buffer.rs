//! Memory on a device.

use super::{Gpu, or_stop, stop};
use crate::error::Error;

/// Bytes behind a guarded buffer. A multiple of what the pool aligns to.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xA5;

impl Gpu {
    /// Memory for `bytes`; `what` names it if there is no room. Its content is not yet written.
    pub fn buffer(&self, what: &str, bytes: usize) -> Buffer {
        let guard = if self.0.guarded { GUARD } else { 0 };
        let address = self.0.driver.allocate(bytes.max(1) + guard).unwrap_or_else(|why| {
            stop(Error::Device(format!(
                "no room for {what} ({:.1} MiB) on {}: {why}; lower data.sets or data.cells, or take a smaller preset",
                bytes as f64 / (1 << 20) as f64,
                self.name()
            )))
        });
        let buffer = Buffer {
            gpu: self.clone(),
            address,
            bytes,
            what: if guard > 0 { what.into() } else { String::new() },
        };
        if guard > 0 {
            // SAFETY: both ranges lie in what was just allocated.
            unsafe {
                or_stop(self.0.driver.fill(address, 0xFF, bytes));
                or_stop(self.0.driver.fill(address + bytes as u64, GUARD_BYTE, guard));
            }
        }
        buffer
    }

    /// Plain numbers to the device.
    pub fn upload<T: bytemuck::NoUninit>(&self, what: &str, numbers: &[T]) -> Buffer {
        let bytes = bytemuck::cast_slice(numbers);
        let buffer = self.buffer(what, bytes.len());
        // SAFETY: the buffer was made for them.
        or_stop(unsafe { self.0.driver.upload(buffer.address, bytes) });
        buffer
    }
}

/// Memory on a device, given back when dropped.
pub struct Buffer {
    gpu: Gpu,
    address: u64,
    bytes: usize,
    what: String,
}

impl Buffer {
    /// Its device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Its first byte on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes `from..` of it, as plain numbers. Waits for the device.
    pub fn download<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, from: usize, numbers: &mut [T]) {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        assert!(
            from + bytes.len() <= self.bytes,
            "download: {} bytes at {from} of {}",
            bytes.len(),
            self.bytes
        );
        // SAFETY: the range was checked.
        or_stop(unsafe { self.gpu.0.driver.download(bytes, self.address + from as u64) });
    }

    /// Overwrites bytes `at..` of it with plain numbers.
    pub fn write<T: bytemuck::NoUninit>(&self, at: usize, numbers: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        assert!(at + bytes.len() <= self.bytes, "upload: {} bytes at {at} of {}", bytes.len(), self.bytes);
        // SAFETY: the range was checked.
        or_stop(unsafe { self.gpu.0.driver.upload(self.address + at as u64, bytes) });
    }

    /// Copies `bytes` of another buffer of the same device, from byte `from` there to byte `at` here.
    pub fn copy_from(&self, at: usize, other: &Buffer, from: usize, bytes: usize) {
        assert!(
            self.gpu.same(&other.gpu) && at + bytes <= self.bytes && from + bytes <= other.bytes,
            "copy: {bytes} bytes"
        );
        // SAFETY: the ranges were checked; two buffers never overlap, and no caller copies within one.
        or_stop(unsafe {
            self.gpu.0.driver.copy(self.address + at as u64, other.address + from as u64, bytes)
        });
    }

    /// Sets `bytes` from byte `at` on to zero.
    pub fn zero(&self, at: usize, bytes: usize) {
        assert!(at + bytes <= self.bytes, "zero: {bytes} bytes at {at} of {}", self.bytes);
        // SAFETY: the range was checked.
        or_stop(unsafe { self.gpu.0.driver.fill(self.address + at as u64, 0, bytes) });
    }

    fn overrun(&self) -> bool {
        let mut guard = [0u8; GUARD];
        // SAFETY: a guarded buffer has that many bytes behind it.
        let read = unsafe { self.gpu.0.driver.download(&mut guard, self.address + self.bytes as u64) };
        read.is_ok() && guard != [GUARD_BYTE; GUARD]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.gpu.0.guarded && self.overrun() {
            let seen = format!("a kernel wrote behind {} ({} bytes)", self.what, self.bytes);
            self.gpu.0.overrun.lock().expect("no panic under this lock").get_or_insert(seen);
        }
        // SAFETY: this is the only owner, and the stream's order lets queued work end first.
        unsafe { self.gpu.0.driver.free(self.address) };
    }
}
