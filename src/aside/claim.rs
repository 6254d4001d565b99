//! A folder is one process's as long as that process lives.

use std::fs::{self, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{At, Error, Result};

/// A killed process may still be ending, while the disk takes what it last wrote.
const PATIENCE: Duration = Duration::from_secs(4);

/// Claims a folder for this process as long as the returned file lives; `None` if the file system has no locks. `taken` is the
/// error if another process holds it, or held it and moved it elsewhere.
pub fn claim(folder: &Path, taken: &str) -> Result<Option<fs::File>> {
    let claimed = match fs::File::open(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(Error::format(folder, taken)),
        opened => opened.at(folder)?,
    };
    let until = Instant::now() + PATIENCE;
    loop {
        match claimed.try_lock() {
            Ok(()) if is_at(&claimed, folder) => return Ok(Some(claimed)),
            Ok(()) => return Err(Error::format(folder, taken)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                return Err(Error::format(folder, taken));
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// True if the path still leads to the file that was opened through it.
fn is_at(open: &fs::File, path: &Path) -> bool {
    let place = |told: std::io::Result<fs::Metadata>| told.ok().map(|told| (told.dev(), told.ino()));
    place(open.metadata()) == place(path.metadata())
}
