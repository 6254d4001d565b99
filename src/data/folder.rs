//! Folder contents.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Result};

/// The paths of all entries, sorted. A folder that cannot be listed completely is an error, not a smaller folder.
pub(crate) fn paths_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).at(dir)?.map(|entry| Ok(entry.at(dir)?.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}
