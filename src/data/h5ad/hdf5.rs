//! What every reader here needs from HDF5: attributes, and errors that name file, place and way out.

use std::collections::HashMap;
use std::path::Path;

use hdf5_pure::{AttrValue, DType, Dataset, Error as Hdf5Error, FormatError, Group};

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
            let name = match id {
                4 => "szip",
                32001 => "blosc",
                32004 => "lz4",
                32008 => "bitshuffle",
                32015 => "zstd",
                32026 => "blosc2",
                _ => "an unknown filter",
            };
            format!(
                "{what} is compressed with {name} (HDF5 filter {id}), which this program does not read; write the file again \
                 with compression=\"gzip\""
            )
        }
        Hdf5Error::Format(FormatError::PathNotFound(_)) => format!("{what} is missing"),
        other => format!("cannot read {what}: {other}"),
    }
}

pub(super) fn attributes(group: &Group, path: &Path, what: &str) -> Result<HashMap<String, AttrValue>> {
    group.attrs().named(path, &format!("the attributes of {what}"))
}

/// The attribute `encoding-type`, empty where there is none (anndata 0.7 leaves it out on plain arrays).
pub(super) fn encoding(attributes: &HashMap<String, AttrValue>) -> String {
    attributes.get("encoding-type").and_then(|value| value.as_str()).unwrap_or_default().to_string()
}

/// True of whole numbers of 8 to 64 bits.
pub(super) fn is_integer(kind: &DType) -> bool {
    use DType::{I8, I16, I32, I64, U8, U16, U32, U64};
    matches!(kind, I8 | I16 | I32 | I64 | U8 | U16 | U32 | U64)
}

/// Length of a one-dimensional dataset.
pub(super) fn length(dataset: &Dataset, path: &Path, what: &str) -> Result<u64> {
    match dataset.shape().named(path, what)?.as_slice() {
        [length] => Ok(*length),
        shape => Err(Error::format(path, format!("{what} has shape {shape:?} where one axis is right"))),
    }
}
