//! Memory: what is freed and asked for again at each step, and what there is at most.
//!
//! glibc gives large blocks back to the system when they are freed; their pages are faulted in and cleared anew when a block of
//! that size is asked for a moment later. A training step frees and asks for the same few dozen blocks, a pass over row blocks for
//! the same few, block by block.

use crate::error::{Error, Result};

/// Tells the C library's allocator, for the whole process, to keep what is freed. [`crate::train::train`] and `preprocess` call it; a
/// program with a loop of its own may. Does nothing where the C library is not glibc.
pub fn keep() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and sets one of the allocator's own, under its lock.
    unsafe {
        // In bytes. An older glibc takes no more than half of a thread's heap; one that refuses would stay at its first 128 KiB for
        // good, since the second call ends that the threshold grows by itself.
        if libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30) == 0 {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        }
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Has all threads share one heap, but for those that have a heap already: to be called early. Of several, each keeps what it once
/// held, with gaps of its own between pieces of all sizes; one is waited for where threads ask at once. So this is for work that asks
/// seldom, and for much. Does nothing where the C library is not glibc.
pub fn share() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Refuses what needs more memory than this machine has, by the option or field that asks for it: an allocation that fails ends a
/// program without a word.
pub fn fits(field: &str, what: &str, bytes: u64) -> Result<()> {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    match installed() {
        installed if bytes > installed => {
            let what = format!("{what} take {:.0} GB; this machine has {:.0}", gb(bytes), gb(installed));
            Err(Error::setting(field, what))
        }
        _ => Ok(()),
    }
}

/// Bytes that this machine has, or a container of it may have; as many as there are numbers where nobody tells.
fn installed() -> u64 {
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let told = limits.iter().filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    told.fold(of_machine(), u64::min)
}

fn of_machine() -> u64 {
    // SAFETY: two questions about constants of the system.
    let [pages, bytes] = unsafe { [libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)] };
    if pages > 0 && bytes > 0 { pages as u64 * bytes as u64 } else { u64::MAX }
}
