//! What every reader here needs from HDF5: attributes, and errors that name file, place and way out.

use std::collections::HashMap;
use std::path::Path;

use hdf5_pure::{AttrValue, Error as Hdf5Error, FormatError, Group};

use super::array::Array;
use crate::error::{Error, Result};

/// Names file and place in an HDF5 error.
pub(super) trait Named<T> {
    fn named(self, path: &Path, what: &str) -> Result<T>;
}

impl<T> Named<T> for std::result::Result<T, Hdf5Error> {
    fn named(self, path: &Path, what: &str) -> Result<T> {
        self.map_err(|error| Error::format(path, explain(what, &error)))
    }
}

fn explain(what: &str, error: &Hdf5Error) -> String {
    match error {
        Hdf5Error::Format(FormatError::UnsupportedFilter(id)) => {
            format!(
                "{what} is compressed with {} (HDF5 filter {id}), which this program does not read; write the file again \
                 with compression=\"gzip\"",
                filter_name(*id)
            )
        }
        Hdf5Error::Format(FormatError::InvalidLayoutVersion(version)) => format!(
            "{what} is laid out as only HDF5 2 can (version {version}); write the file again without libver=\"latest\", or with \
             libver=\"v114\""
        ),
        Hdf5Error::Format(FormatError::PathNotFound(_)) => format!("{what} is missing"),
        other => format!("cannot read {what}: {other}"),
    }
}

/// What people call a filter.
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

pub(super) fn attributes(group: &Group, path: &Path, what: &str) -> Result<HashMap<String, AttrValue>> {
    group.attrs().named(path, &format!("the attributes of {what}"))
}

/// The attribute `encoding-type`, empty where there is none (anndata 0.7 leaves it out on plain arrays).
pub(super) fn encoding(attributes: &HashMap<String, AttrValue>) -> String {
    attributes.get("encoding-type").and_then(|value| value.as_str()).unwrap_or_default().to_string()
}

/// A dataset of a group.
pub(super) fn array(group: &Group, path: &Path, place: &str, name: &str) -> Result<Array> {
    let what = if place.is_empty() { name.to_string() } else { format!("{place}/{name}") };
    Array::new(group.dataset(name).named(path, &what)?, path, &what)
}
