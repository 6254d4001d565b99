//! What dead processes left half-written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::lock::lock;

/// The machine's name: several may share a disk.
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().replace('/', "-")
}

/// Host name and pid namespace, within which a process id means one process: two containers may share a name and each have a
/// process 1.
pub(super) fn machine() -> String {
    let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let space: String = space.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    format!("{}.{space}", host())
}

/// A partial file of another or an unknown pid namespace counts as abandoned once it is untouched for this long.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// Removes partial files of this machine's dead processes from a folder of outputs. Files whose names do not show this pid
/// namespace go only once they are old (earlier versions show none, nor a writer's number). Each folder is searched once, as it may
/// hold thousands of files.
pub(super) fn forget_the_dead(folder: &Path) {
    static SEEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if !lock(&SEEN).insert(folder.to_path_buf()) {
        return;
    }
    let (host, machine) = (format!(".{}", host()), format!(".{}", machine()));
    let of_dead = |left: &fs::DirEntry| {
        let file = left.file_name();
        let file = file.to_string_lossy();
        let file = file.strip_prefix('.')?.strip_suffix(".partial")?;
        let (name, writer) = file.rsplit_once('.')?;
        let (process, count) = writer.split_once('-').unwrap_or((writer, "0"));
        count.parse::<u64>().ok()?;
        let asked =
            rustix::process::test_kill_process(rustix::process::Pid::from_raw(process.parse().ok()?)?);
        let elsewhere = name.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('.').unwrap_or(name);
        let of_host = || name.ends_with(&host) || elsewhere.ends_with(&host);
        let old = || left.metadata().ok()?.modified().ok()?.elapsed().ok().filter(|&age| age > OLD);
        let ours = name.ends_with(&machine) || of_host() && old().is_some();
        (asked == Err(rustix::io::Errno::SRCH) && ours).then_some(())
    };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if of_dead(&entry).is_some() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aside::file;
    use crate::error::At;

    #[test]
    fn what_another_process_writes_is_left_to_it_and_what_the_dead_left_goes() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("out.txt");
        // Process 1 lives; no process has a number as high as the other.
        let of = |writer: &str| dir.path().join(format!(".out.txt.{}.{writer}.partial", machine()));
        let dead = i32::MAX;
        let theirs = [of("1-0"), of("1"), of(&format!("{dead}-x"))];
        // The first of these is named as earlier versions did.
        let left = [format!("{dead}"), format!("{dead}-0"), format!("{dead}-17")].map(|writer| of(&writer));
        for path in theirs.iter().chain(&left) {
            fs::write(path, "half").expect("written");
        }
        // Of an earlier version, and of another container: the number says nothing.
        let untold = |place: &str| dir.path().join(format!(".out.txt.{place}.{dead}.partial"));
        let (fresh, old) = ([host(), format!("{}.12", host())], [format!("{}.13", host()), host()]);
        let (fresh, old) = (fresh.map(|of| untold(&of)), old.map(|of| untold(&format!("x.{of}"))));
        let long_ago = std::time::SystemTime::now() - 2 * OLD;
        for path in fresh.iter().chain(&old) {
            fs::write(path, "half").expect("written");
        }
        for path in &old {
            fs::File::options().append(true).open(path).and_then(|f| f.set_modified(long_ago)).expect("set");
        }
        file(&path, |aside| fs::write(aside, "ours").at(aside)).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "ours");
        assert!(theirs.iter().all(|path| path.exists()) && !left.iter().any(|path| path.exists()));
        assert!(fresh.iter().all(|path| path.exists()) && !old.iter().any(|path| path.exists()));
    }
}
