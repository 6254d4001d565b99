//! Stands in for parquet if the program is built without it: the same interface, whose first call is refused.

use std::ops::Range;
use std::path::Path;

use super::h5ad::Labels;
use crate::error::{Error, Result};

/// A parquet file; without the feature there can be none.
pub(crate) enum Parquet {}

/// Lists end to end.
pub(crate) struct Lists<T> {
    pub bounds: Vec<usize>,
    pub values: Vec<T>,
}

/// Judged by the name alone.
pub(crate) fn is_parquet_file(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|end| end == "parquet")
}

impl Parquet {
    pub(crate) fn open(path: &Path) -> Result<Parquet> {
        let what = "is a parquet file, but scale-engine was built without its feature `parquet`, which reads them and \
                    is there by default: build it with that";
        Err(Error::format(path, what))
    }

    pub(crate) fn path(&self) -> &Path {
        match *self {}
    }

    pub(crate) fn groups(&self) -> &[usize] {
        match *self {}
    }

    pub(crate) fn columns(&self) -> Result<Vec<String>> {
        match *self {}
    }

    pub(crate) fn index(&self) -> Result<Option<String>> {
        match *self {}
    }

    pub(crate) fn labels(&self, _: &str) -> Result<Labels> {
        match *self {}
    }

    pub(crate) fn texts(&self, _: &str) -> Result<Vec<String>> {
        match *self {}
    }

    pub(crate) fn names(&self, _: &str, _: Range<usize>) -> Result<Vec<String>> {
        match *self {}
    }

    pub(crate) fn stored(&self, _: &str) -> Result<Vec<u64>> {
        match *self {}
    }

    pub(crate) fn pairs(&self, _: [&str; 2], _: usize) -> Result<Pairs> {
        match *self {}
    }

    pub(crate) fn describe(&self) -> Result<serde_json::Value> {
        match *self {}
    }
}

/// Two columns of lists; without the feature there can be none.
pub(crate) enum Pairs {}

impl Pairs {
    pub(crate) fn row(&self) -> usize {
        match *self {}
    }

    pub(crate) fn rows(&mut self, _: Range<usize>) -> Result<(Lists<i64>, Lists<f32>)> {
        match *self {}
    }
}
