//! What every reader here needs from HDF5: errors that name the file, the place and the way out.

use std::io::Read;
use std::path::Path;

use hdf5_pure::{Error as Hdf5Error, FormatError};

use crate::data::gzip::{UNPACK, begins_with, is_packed};
use crate::error::{At, Error, Result};

/// First bytes of a superblock.
pub(super) const SIGNATURE: &[u8; 8] = b"\x89HDF\r\n\x1a\n";

/// Whether a file begins as HDF5 does, whatever its name.
pub(crate) fn is_hdf5(path: &Path) -> bool {
    begins_with(path, SIGNATURE)
}

/// Adds file and place to an HDF5 error.
pub(super) trait Named<T> {
    fn named(self, path: &Path, what: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, Hdf5Error> {
    fn named(self, path: &Path, what: &str) -> Result<T> {
        self.map_err(|error| match error {
            Hdf5Error::Format(FormatError::SignatureNotFound) => Error::format(path, other_format(path)),
            error => Error::format(path, explain(what, &error)),
        })
    }
}

/// What a file is that is not HDF5. Archives hand out `.h5ad.gz`.
fn other_format(path: &Path) -> &'static str {
    match is_packed(path) {
        true => UNPACK,
        false => "is not HDF5, and so no h5ad; if it was downloaded, look at what came instead",
    }
}

fn explain(what: &str, error: &Hdf5Error) -> String {
    match error {
        Hdf5Error::Format(FormatError::UnsupportedFilter(id)) => {
            format!(
                "{what} is compressed with {} (HDF5 filter {id}), which this program cannot read; write the \
                 file again with compression=\"gzip\"",
                filter_name(*id)
            )
        }
        Hdf5Error::Format(FormatError::InvalidLayoutVersion(version)) => format!(
            "{what} has a layout that only HDF5 2 can read (version {version}); write the file again without \
             libver=\"latest\", or with libver=\"v114\""
        ),
        Hdf5Error::Format(FormatError::PathNotFound(_)) => format!("{what} is missing"),
        // A soft link has no address.
        Hdf5Error::Format(FormatError::OffsetOverflow { offset: u64::MAX, .. }) => format!(
            "{what} is a link to another place, which is not followed; write the file again with the data in that \
             place (anndata: read_h5ad, then write_h5ad)"
        ),
        Hdf5Error::Format(
            FormatError::UnsupportedVirtualLayout | FormatError::UnsupportedExternalStorage,
        ) => format!(
            "{what} lies in other files, which is not followed; write the file again with the data in it \
             (anndata: read_h5ad, then write_h5ad)"
        ),
        other => format!("cannot read {what}: {other}"),
    }
}

/// `None` for what is not there or is of the other kind, group or dataset. What is there and cannot be opened is an error: to call
/// it absent would send the user to look for what the file has.
pub(super) fn there<T>(
    opened: std::result::Result<T, Hdf5Error>,
) -> std::result::Result<Option<T>, Hdf5Error> {
    match opened {
        Err(
            Hdf5Error::Format(FormatError::PathNotFound(_))
            | Hdf5Error::NotADataset(_)
            | Hdf5Error::NotAGroup(_),
        ) => Ok(None),
        opened => opened.map(Some),
    }
}

/// The common name of a filter.
pub(super) fn filter_name(id: u16) -> &'static str {
    match id {
        1 => "gzip",
        4 => "szip",
        5 => "n-bit",
        307 => "bzip2",
        32000 => "lzf",
        32001 => "blosc",
        32004 => "lz4",
        32008 => "bitshuffle",
        32013 => "zfp",
        32015 => "zstd",
        32026 => "blosc2",
        _ => "an unknown filter",
    }
}

/// Refuses a file that is shorter than it claims to be, as the C library does: the missing part may be one that is not read today.
pub(super) fn whole(path: &Path) -> Result<()> {
    let mut file = std::fs::File::open(path).at(path)?;
    let length = file.metadata().at(path)?.len();
    let mut head = [0; 52];
    if file.read_exact(&mut head).is_err() || !head.starts_with(SIGNATURE) {
        // No superblock at the start: opening the file reports that, or finds it after a user block.
        return Ok(());
    }
    // Where the superblock (file format 3.0, section II.A) stores the end of the file; 8-byte addresses are the rule.
    let (width, end) = match head[8] {
        0 => (head[13], 40),
        1 => (head[13], 44),
        _ => (head[9], 28),
    };
    let told = u64::from_le_bytes(head[end..end + 8].try_into().expect("eight bytes"));
    if width == 8 && told != u64::MAX && told > length {
        let what = format!("is cut off: it has {length} of {told} bytes; copy or download it again");
        return Err(Error::format(path, what));
    }
    Ok(())
}
