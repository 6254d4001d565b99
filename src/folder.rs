//! What a folder contains: a folder that cannot be listed completely is an error, not a smaller folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{At, Result};

/// The paths of all entries, sorted.
pub(crate) fn paths_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir).at(dir)?.map(|entry| Ok(entry.at(dir)?.path()));
    let mut paths: Vec<PathBuf> = entries.collect::<Result<_>>()?;
    paths.sort();
    Ok(paths)
}

/// The paths of a folder's entries, sorted, or that of a file.
pub(crate) fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_dir() { paths_in(path) } else { Ok(vec![path.to_path_buf()]) }
}

/// The names of all entries, sorted by their bytes. Those that are not UTF-8 are shown as `\u{FFFD}`.
pub(crate) fn names_in(dir: &Path) -> Result<Vec<String>> {
    Ok(paths_in(dir)?.iter().map(|path| name_of(path)).collect())
}

/// The last part of a path, empty if that is `..` or the root.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What a file is called without its ending, or a folder with it; `cells` where a path has no name.
pub(crate) fn title_of(path: &Path) -> String {
    // `.` has no name of its own.
    let path = std::path::absolute(path).unwrap_or_default();
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or("cells".into(), |name| name.to_string_lossy().into_owned())
}
