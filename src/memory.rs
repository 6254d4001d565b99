//! Memory: keeping what each step frees and requests again, and how much the machine has.
//!
//! glibc returns large blocks to the system when they are freed; when a block of that size is requested a moment later, its pages
//! are faulted in and cleared again. A training step frees and requests the same few dozen blocks, a pass over row blocks the same
//! few for each of them.

use std::path::Path;
use std::sync::LazyLock;

use crate::error::{Error, Result};

/// Makes the C library's allocator keep what is freed, for the whole process: the program's commands that train, preprocess or
/// evaluate begin with it. Does nothing if the C library is not glibc.
pub fn keep() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two numbers and sets one of the allocator's own, under its lock.
    unsafe {
        // In bytes. An older glibc accepts at most half of a thread's heap; if it refused, the threshold would stay at its initial
        // 128 KiB for good, since setting the trim threshold ends its automatic growth.
        if libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30) == 0 {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        }
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}

/// Makes all threads share one heap, except those that already have one: call it early. Of several heaps, each keeps what it once
/// held, with its own gaps between pieces of all sizes; with a single one, threads that allocate at once wait. So this is for work
/// that allocates rarely, but much. Does nothing if the C library is not glibc.
pub fn share() {
    #[cfg(target_env = "gnu")]
    // SAFETY: as above.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Checks that this machine has the memory that a setting asks for: a failed allocation would end the program without a word.
///
/// # Errors
/// It has less; the error names the setting, `field`.
pub fn check(field: &str, what: &str, bytes: u64) -> Result<()> {
    beyond(what, bytes).map_or(Ok(()), |what| Err(Error::setting(field, what)))
}

/// The same for what a file holds or asks for.
///
/// # Errors
/// It has less; the error names the file, `path`.
pub fn check_file(path: &Path, what: &str, bytes: u64) -> Result<()> {
    beyond(what, bytes).map_or(Ok(()), |what| Err(Error::format(path, what)))
}

/// In words, if this machine has less.
fn beyond(what: &str, bytes: u64) -> Option<String> {
    let has = installed();
    let gb = |bytes: u64| bytes as f64 / 1e9;
    let told = || format!("{what} need {:.0} GB of memory; this machine has {:.0} GB", gb(bytes), gb(has));
    (bytes > has).then(told)
}

/// Bytes of memory that this machine has, or that its container or job may use; `u64::MAX` if unknown. Looked up once: each array
/// that is read asks.
pub(crate) fn installed() -> u64 {
    static FOUND: LazyLock<u64> = LazyLock::new(look_up);
    *FOUND
}

fn look_up() -> u64 {
    let root = Path::new("/sys/fs/cgroup");
    // A job of a cluster is a group some levels down, and each level may have a limit; a container sees itself as the root.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or("");
    let own = root.join(own);
    let levels =
        own.ancestors().take_while(|path| path.starts_with(root)).map(|path| path.join("memory.max"));
    let limits = levels.chain([root.join("memory/memory.limit_in_bytes")]);
    let told = limits.filter_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok());
    told.fold(of_machine().min(of_process()), u64::min)
}

/// What `ulimit -v` allows.
fn of_process() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: writes one limit to its place.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) };
    if failed == 0 { limit.rlim_cur } else { u64::MAX }
}

fn of_machine() -> u64 {
    // SAFETY: two queries of constants of the system.
    let [pages, bytes] = unsafe { [libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)] };
    if pages > 0 && bytes > 0 { pages as u64 * bytes as u64 } else { u64::MAX }
}
