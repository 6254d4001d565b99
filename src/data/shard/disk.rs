//! Between a mapped shard and the disk: what is asked for before it is needed, and what is let go of.
//!
//! Rows of a directory that memory holds are copied out of it, and nothing here is in their way. Where it does not, each row that is
//! touched would be waited for by itself, and the system would read a stretch around it that can be megabytes long. So while rows
//! come from the disk, all rows of a step are asked for at once, in the order in which they lie: the disk reads side by side, and
//! little more than what is needed.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;

/// Bytes between two rows below which they are read in one piece.
pub(super) const NEAR: usize = 16 << 10;

/// Asks the disk for a stretch of a file. Nothing waits for it.
pub(super) fn ask(map: &Mmap, bytes: Range<usize>) {
    // A system that will not reads when the rows are touched.
    let _ = map.advise_range(memmap2::Advice::WillNeed, bytes.start, bytes.len());
}

/// Counts a stretch no longer to this process's memory. It stays in the system's cache for as long as that has room.
pub(super) fn let_go(map: &Mmap, bytes: Range<usize>) {
    // SAFETY: the file is mapped for reading alone and does not change, so that what is touched again comes back as it was.
    let _ =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
}

/// Bytes that this thread has had read from disks. Zero where the system does not tell.
pub(crate) fn bytes_read() -> u64 {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: zeros are a `rusage`.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the system writes no more than one.
        unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
        // In blocks of 512 bytes, whatever the disk's are.
        usage.ru_inblock as u64 * 512
    }
    #[cfg(not(target_os = "linux"))]
    0
}

/// Whether rows come from the disk: until some were copied that did not. On a system that does not tell, only the first are asked for.
pub(super) struct FromDisk(AtomicBool);

/// While this lives a thread copies rows; what it reads from disks meanwhile tells where the next ones are.
pub(crate) struct Sweep<'a> {
    from_disk: &'a FromDisk,
    before: u64,
}

impl FromDisk {
    pub(super) fn unknown() -> FromDisk {
        FromDisk(AtomicBool::new(true))
    }

    /// Rows are about to be copied; `ask` is called where they should be asked for.
    pub(super) fn sweep(&self, ask: impl FnOnce()) -> Sweep<'_> {
        let before = bytes_read();
        if self.0.load(Ordering::Relaxed) {
            ask();
        }
        Sweep { from_disk: self, before }
    }
}

impl Drop for Sweep<'_> {
    fn drop(&mut self) {
        self.from_disk.0.store(bytes_read() != self.before, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn rows_that_are_in_memory_are_asked_for_once() {
        // The code itself may come from the disk when it first runs.
        drop(FromDisk::unknown().sweep(|| ()));
        let (from_disk, asked) = (FromDisk::unknown(), Cell::new(0));
        for _ in 0..3 {
            drop(from_disk.sweep(|| asked.set(asked.get() + 1)));
        }
        assert_eq!(asked.get(), 1);
        // As if the thread had read since.
        drop(Sweep { from_disk: &from_disk, before: u64::MAX });
        drop(from_disk.sweep(|| asked.set(asked.get() + 1)));
        assert_eq!(asked.get(), 2);
    }
}
