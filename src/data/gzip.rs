//! Text files, packed with gzip or not: told apart by their first bytes, whatever their names.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{At, Result};

/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What is said of a packed file that is read only unpacked.
pub(crate) const UNPACK: &str = "is packed with gzip; unpack it first, e.g. with gunzip";

/// Whether a file is packed; false too for one that cannot be read.
pub(crate) fn is_packed(path: &Path) -> bool {
    let mut start = [0; GZIP.len()];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == GZIP)
}

/// A file's bytes, unpacked if they are packed.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    let mut start = BufReader::with_capacity(1 << 20, File::open(path).at(path)?);
    let packed = start.fill_buf().at(path)?.starts_with(&GZIP);
    let unpacked = |file| BufReader::with_capacity(1 << 20, MultiGzDecoder::new(file));
    Ok(if packed { Box::new(unpacked(start)) } else { Box::new(start) })
}

/// All of them as text.
pub(super) fn text(path: &Path) -> Result<String> {
    let mut text = String::new();
    open(path)?.read_to_string(&mut text).at(path)?;
    Ok(text)
}
