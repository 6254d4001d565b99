//! Outputs appear whole or not at all: written under another name beside their place, synced, then renamed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Error, Result};

/// Writes a file through `write`, which gets the temporary path. On any error nothing is left at `path` or beside it.
pub fn file<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let aside = beside(path, "partial")?;
    let written = write(&aside).and_then(|value| {
        fs::File::open(&aside).and_then(|f| f.sync_all()).at(&aside)?;
        fs::rename(&aside, path).at(path)?;
        Ok(value)
    });
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written
}

/// Refuses a folder that exists and is not empty: what cannot be replaced is better known before long work than after it.
pub fn free(path: &Path) -> Result<()> {
    if path.exists() && fs::read_dir(path).at(path)?.next().is_some() {
        return Err(Error::format(path, "exists and is not empty; name another folder or remove it"));
    }
    Ok(())
}

/// The same as [`file`] for a folder of files, which must be [`free`].
pub fn folder<T>(path: &Path, write: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    free(path)?;
    let aside = beside(path, "partial")?;
    if aside.exists() {
        fs::remove_dir_all(&aside).at(&aside)?;
    }
    fs::create_dir_all(&aside).at(&aside)?;
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
    let name = path.file_name().ok_or_else(|| Error::format(path, "is not the name of an output"))?;
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
