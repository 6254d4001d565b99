//! Text files, packed with gzip or not: told apart by their first bytes, whatever their names.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use crate::error::{At, Error, Result};

/// First bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What is said of a packed file that is read only unpacked.
pub(crate) const UNPACK: &str = "is packed with gzip; unpack it first, e.g. with gunzip";

/// Whether a file begins with these bytes; false too for one that cannot be read.
pub(super) fn begins_with<const N: usize>(path: &Path, bytes: &[u8; N]) -> bool {
    let mut start = [0; N];
    // A pipe is not opened: it would wait for its writer.
    path.is_file()
        && File::open(path).is_ok_and(|mut file| file.read_exact(&mut start).is_ok() && start == *bytes)
}

/// Whether a file is packed; false too for one that cannot be read.
pub(crate) fn is_packed(path: &Path) -> bool {
    begins_with(path, &GZIP)
}

/// A file's bytes, unpacked if they are packed.
///
/// # Errors
/// A file that cannot be read; a device, such as /dev/zero, which may have no end.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>> {
    if path
        .metadata()
        .is_ok_and(|there| there.file_type().is_char_device() || there.file_type().is_block_device())
    {
        return Err(Error::format(path, "is a device, not a file"));
    }
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

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_pipe_without_a_writer_is_not_waited_for() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pipe = dir.path().join("pipe");
        assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
        let (tell, told) = channel();
        std::thread::spawn(move || tell.send(is_packed(&pipe)));
        assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(false));
    }
}
