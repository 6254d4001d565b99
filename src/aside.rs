//! Outputs appear whole or not at all: they are written under another name in the same folder, synced, then renamed.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{At, Error, Result};

mod claim;
mod left;

pub use claim::claim;
use left::{forget_the_dead, machine};

/// Writes a file through `write`, which gets the path of an empty one to fill or replace. On any error nothing new is left at
/// `path` or beside it. Replaces the file itself, or the one that a link names; refuses to replace devices, pipes and folders.
pub fn file<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    put(Aside::of(path)?, write)
}

/// The same for contents that are at hand.
pub fn whole(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    file(path, |aside| fs::write(aside, contents).at(aside))
}

/// The same as [`file()`], but a link is itself replaced.
pub fn named<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    put(Aside::new(path, true)?, write)
}

/// The same for what the next run remakes if a machine failure loses it: does not wait for the disk.
pub fn scratch<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    put(Aside::new(path, false)?, write)
}

fn put<T>(aside: Aside, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let value = write(aside.path())?;
    aside.done()?;
    Ok(value)
}

/// A file under way: dropped before it is [done](Aside::done), it leaves nothing.
#[derive(Debug)]
pub struct Aside {
    half: PathBuf,
    place: PathBuf,
    sync: bool,
    done: bool,
}

impl Aside {
    /// To become what [`file()`] writes. Makes the folders it lacks.
    pub fn of(path: &Path) -> Result<Aside> {
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            let what = "is not a regular file and cannot be replaced; choose another path";
            return Err(Error::format(path, what));
        }
        Aside::new(&named_by(path), true)
    }

    fn new(place: &Path, sync: bool) -> Result<Aside> {
        // Each writer uses a name of its own: two that write the same output, be they threads or processes, both write a whole one.
        static WRITERS: AtomicU64 = AtomicU64::new(0);
        let half = loop {
            let writer = WRITERS.fetch_add(1, Ordering::Relaxed);
            let half = beside(place, &format!("{}.{}-{writer}.partial", machine(), process::id()))?;
            match fs::File::create_new(&half) {
                // Left by a dead process whose number this one has got.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                made => break made.map(|_| half).at(place)?,
            }
        };
        forget_the_dead(half.parent().unwrap_or(Path::new(".")));
        Ok(Aside { half, place: place.to_path_buf(), sync, done: false })
    }

    /// Where to write.
    pub fn path(&self) -> &Path {
        &self.half
    }

    /// Where the file will be.
    pub fn place(&self) -> &Path {
        &self.place
    }

    /// Puts the file, which nobody writes to any longer, in its place.
    pub fn done(mut self) -> Result<()> {
        if self.sync {
            fs::File::open(&self.half).and_then(|f| f.sync_all()).at(&self.half)?;
        }
        fs::rename(&self.half, &self.place).at(&self.place)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.done {
            let _ = fs::remove_file(&self.half);
        }
    }
}

/// Where a path leads, through links, even one whose target does not exist yet.
pub fn named_by(path: &Path) -> PathBuf {
    let beside = |to: PathBuf| path.parent().map_or(to.clone(), |folder| folder.join(to));
    match fs::read_link(path) {
        Ok(to) => fs::canonicalize(path).unwrap_or_else(|_| beside(to)),
        Err(_) => path.to_path_buf(),
    }
}

/// Refuses outputs that would replace an input, or a file of a folder that is an input, and two outputs that are the same.
pub fn apart(outputs: &[impl AsRef<Path>], inputs: &[impl AsRef<Path>]) -> Result<()> {
    // A file that does not exist yet is identified by the nearest of its folders that does.
    let whole = |path: &Path| {
        let path = named_by(path);
        // So that the last ancestor is ".": nobody can look up "".
        let path = Path::new(".").join(path);
        let known = |there: &Path| fs::canonicalize(there).ok().zip(path.strip_prefix(there).ok());
        path.ancestors().find_map(known).map_or(path.clone(), |(place, rest)| place.join(rest))
    };
    let mut seen: Vec<PathBuf> = Vec::new();
    let inputs = || inputs.iter().map(AsRef::as_ref);
    for output in outputs.iter().map(AsRef::as_ref) {
        let place = whole(output);
        if let Some(input) = inputs().find(|input| whole(input) == place) {
            let what = format!("is {}, which is an input; write to another file", input.display());
            return Err(Error::format(output, what));
        }
        let holds = |input: &&Path| input.is_dir() && output.exists() && place.starts_with(whole(input));
        if let Some(input) = inputs().find(holds) {
            let what =
                format!("is a file in {}, which is an input; write to another folder", input.display());
            return Err(Error::format(output, what));
        }
        if seen.contains(&place) {
            return Err(Error::format(output, "is given twice as an output; choose two files"));
        }
        seen.push(place);
    }
    Ok(())
}

/// Refuses a path at which no file can be written: better to know before long work than after it. Makes the folders it lacks.
pub fn writable(path: &Path) -> Result<()> {
    Aside::of(path).map(drop)
}

/// Refuses a folder that exists and is not empty: better to know before long work than after it.
pub fn free(path: &Path) -> Result<()> {
    if path.exists() && fs::read_dir(path).at(path)?.next().is_some() {
        return Err(Error::format(path, "exists and is not empty; choose another folder or remove it"));
    }
    Ok(())
}

/// Removes all that a folder holds.
pub fn empty(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).at(folder)? {
        let path = entry.at(folder)?.path();
        let is_folder = path.symlink_metadata().at(&path)?.is_dir();
        if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }.at(&path)?;
    }
    Ok(())
}

/// The same as [`file()`] for a folder of files, which must be [`free`].
pub fn folder<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let path = &named_by(path);
    free(path)?;
    let aside = beside(path, "partial")?;
    fs::create_dir_all(&aside).at(&aside)?;
    let _ours =
        claim(&aside, "another process is writing to it; wait for it to finish, or choose another folder")?;
    empty(&aside)?;
    let written = write(&aside).and_then(|value| {
        if path.exists() {
            fs::remove_dir(path).at(path)?;
        }
        fs::rename(&aside, path).at(path)?;
        Ok(value)
    });
    if written.is_err() {
        let _ = fs::remove_dir_all(&aside);
    }
    written
}

/// `dir/.name.END`, with `dir` made if it is missing.
pub fn beside(path: &Path, end: &str) -> Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| Error::format(path, "does not name a file or folder that can be written"))?;
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir).at(dir)?;
    Ok(dir.join(format!(".{}.{end}", name.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_followed_and_what_is_no_file_is_kept() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [real, link, folder] = ["real.txt", "link.txt", "folder"].map(|name| dir.path().join(name));
        fs::write(&real, "old").expect("written");
        std::os::unix::fs::symlink(&real, &link).expect("linked");
        file(&link, |aside| fs::write(aside, "new").at(aside)).expect("written");
        assert!(link.is_symlink() && fs::read_to_string(&real).expect("readable") == "new");
        fs::remove_file(&real).expect("removed");
        file(&link, |aside| fs::write(aside, "anew").at(aside)).expect("written");
        assert!(link.is_symlink() && fs::read_to_string(&real).expect("readable") == "anew");
        named(&link, |aside| fs::write(aside, "apart").at(aside)).expect("written");
        assert!(!link.is_symlink() && fs::read_to_string(&real).expect("readable") == "anew");
        fs::create_dir(&folder).expect("made");
        for path in [&folder, Path::new("/dev/null")] {
            let told =
                file(path, |aside| fs::write(aside, "new").at(aside)).expect_err("no file").to_string();
            assert!(told.contains("not a regular file"), "{told}");
        }
    }

    #[test]
    fn a_folder_that_another_process_writes_is_left_to_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (out, half) = (dir.path().join("out"), dir.path().join(".out.partial"));
        fs::create_dir(&half).expect("made");
        fs::write(half.join("shard"), "its own").expect("written");
        let theirs = fs::File::open(&half).expect("readable");
        theirs.lock().expect("locked");
        let told = folder(&out, |_| Ok(())).expect_err("taken").to_string();
        assert!(told.contains("another process") && half.join("shard").exists(), "{told}");
        drop(theirs);
        folder(&out, |aside| fs::write(aside.join("shard"), "ours").at(aside)).expect("free");
        assert_eq!(fs::read_to_string(out.join("shard")).expect("readable"), "ours");
    }

    #[test]
    fn outputs_do_not_replace_what_is_read() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let [input, fresh] = ["in.h5ad", "out.h5ad"].map(|name| dir.path().join(name));
        let same = dir.path().join(".").join("out.h5ad");
        fs::write(&input, "").expect("written");
        let inputs = [dir.path(), input.as_path()];
        apart(&[&fresh], &inputs).expect("a new file");
        let manifest = dir.path().join("manifest.json");
        fs::write(&manifest, "").expect("written");
        let told = apart(&[&manifest], &[dir.path()]).expect_err("one of its files").to_string();
        assert!(told.contains("a file in"), "{told}");
        for outputs in [[&input, &fresh], [&fresh, &input], [&fresh, &same]] {
            apart(&outputs, &inputs).expect_err("one of them is not free");
        }
    }

    #[test]
    fn threads_that_write_one_file_never_show_a_part_of_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("out.txt");
        let write = |letter: u8| scratch(&path, |aside| fs::write(aside, vec![letter; 1 << 17]).at(aside));
        write(b'a').expect("written");
        std::thread::scope(|threads| {
            let all = |letter| (0..300).try_for_each(|_| write(letter)).expect("each is written");
            let writers = [b'a', b'b'].map(|letter| threads.spawn(move || all(letter)));
            while writers.iter().any(|writer| !writer.is_finished()) {
                let seen = fs::read(&path).expect("a file is there at all times");
                assert!(seen.len() == 1 << 17 && seen.iter().all(|&byte| byte == seen[0]), "torn");
            }
        });
        assert_eq!(fs::read_dir(dir.path()).expect("readable").count(), 1, "only the file is left");
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("out.txt");
        let failed: Result<()> = file(&path, |aside| {
            fs::write(aside, "half").at(aside)?;
            Err(Error::format(aside, "stop"))
        });
        assert!(failed.is_err() && fs::read_dir(dir.path()).expect("readable").next().is_none());
        file(&path, |aside| fs::write(aside, "whole").at(aside)).expect("written");
        assert_eq!(fs::read_to_string(&path).expect("readable"), "whole");
    }
}
