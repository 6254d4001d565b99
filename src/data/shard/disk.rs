//! Between a mapped shard and the disk: what is requested before it is needed, and what is released.
//!
//! If a directory fits in memory, its rows are copied from there and nothing here gets in their way. If it does not, each row would
//! stall on its own when touched, and the system would read a range around it that can be megabytes long. So while rows come from
//! disk, all rows of a step are requested at once, in file order: the disk reads them in parallel, and little more than is needed.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::Mmap;

/// Two rows closer than this many bytes are read in one piece.
pub(super) const NEAR: usize = 16 << 10;

/// Requests a range of a file from disk, without waiting for it.
pub(super) fn ask(map: &Mmap, bytes: Range<usize>) {
    // A system that refuses the advice reads when the rows are touched.
    let _ = map.advise_range(memmap2::Advice::WillNeed, bytes.start, bytes.len());
}

/// Releases a range from this process's memory. It stays in the system's cache while that has room.
pub(super) fn let_go(map: &Mmap, bytes: Range<usize>) {
    // SAFETY: the file is mapped read-only and does not change, so that pages touched again come back as they were.
    let _ =
        unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
}

/// Bytes that this thread has had read from disk. Zero if the system does not report it.
pub(crate) fn bytes_read() -> u64 {
    // SAFETY: all zeros are a valid `rusage`.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the system writes no more than one `rusage`.
    unsafe { libc::getrusage(libc::RUSAGE_THREAD, &mut usage) };
    // In blocks of 512 bytes, whatever the disk's block size.
    usage.ru_inblock as u64 * 512
}

/// Whether rows come from disk: as the last sweep found, assumed at first. If the system reports no reads,
/// only the first sweep's rows are requested.
pub(super) struct FromDisk(AtomicBool);

/// Held while a thread copies rows; whether it reads from disk meanwhile predicts where the next rows will come from.
pub(crate) struct Sweep<'a> {
    from_disk: &'a FromDisk,
    before: u64,
}

impl FromDisk {
    pub(super) fn unknown() -> FromDisk {
        FromDisk(AtomicBool::new(true))
    }

    /// Rows are about to be copied; calls `ask` if they should be requested first.
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
        // The code itself may come from disk when it first runs.
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
