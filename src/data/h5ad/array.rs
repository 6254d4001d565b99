//! One dataset: numbers of any width and text, however its chunks are compressed.

use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5_pure::{Dataset, Datatype};

use super::chunks::Chunks;
use super::hdf5::Named;
use super::number::{self, Number};
use super::{Column, heap};
use crate::error::{At, Error, Result};
use crate::memory;

pub(super) struct Array {
    path: PathBuf,
    /// Its path in the file, for messages.
    name: String,
    dataset: Dataset,
    kind: Datatype,
    shape: Vec<u64>,
    /// Present if its chunks are unpacked here rather than by hdf5-pure.
    chunks: Option<Chunks>,
}

impl Array {
    pub(super) fn new(dataset: Dataset, path: &Path, name: &str) -> Result<Array> {
        let kind = dataset.datatype().named(path, name)?;
        let shape = dataset.shape().named(path, name)?;
        let chunks = Chunks::of(&dataset, path, name)?;
        Ok(Array { path: path.to_path_buf(), name: name.to_string(), dataset, kind, shape, chunks })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn kind(&self) -> &Datatype {
        &self.kind
    }

    pub(super) fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Number of entries of a one-axis array.
    pub(super) fn length(&self) -> Result<u64> {
        match self.shape.as_slice() {
            [length] => Ok(*length),
            shape => Err(self.wrong(format!("has shape {shape:?}, but one axis is expected"))),
        }
    }

    /// Rows that share a chunk.
    pub(super) fn chunk_rows(&self) -> Result<usize> {
        let chunk = self.dataset.chunk_shape().named(&self.path, &self.name)?;
        Ok(chunk.map_or(1, |axes| axes[0].max(1) as usize))
    }

    /// Bytes of some rows, in the type of the file.
    pub(super) fn bytes(&self, start: u64, count: u64) -> Result<Vec<u8>> {
        match &self.chunks {
            Some(chunks) => chunks.rows(&self.path, &self.name, start as usize, count as usize),
            None => {
                self.fits(count, self.kind_size()?)?;
                self.dataset.read_raw_rows(start, count).named(&self.path, &self.name)
            }
        }
    }

    /// Refuses more entries than memory holds: the file's claim, which costs it nothing where nothing was ever written.
    fn fits(&self, count: u64, size: u64) -> Result<()> {
        let what = format!("{} entries of {}", count, self.name);
        memory::check_file(&self.path, &what, count.saturating_mul(size))
    }

    /// Bytes of an entry.
    fn kind_size(&self) -> Result<u64> {
        self.dataset.element_size().named(&self.path, &self.name)
    }

    /// Numbers of some rows.
    pub(super) fn numbers<T: Number>(&self, start: u64, count: u64) -> Result<Vec<T>> {
        // Most files already store the wanted type: no conversion, no copy.
        if let (Some(chunks), true) = (&self.chunks, number::is_same::<T>(&self.kind)) {
            return chunks.rows(&self.path, &self.name, start as usize, count as usize);
        }
        self.fits(count, self.kind_size()? + size_of::<T>() as u64)?;
        let bytes = self.bytes(start, count)?;
        number::decode(&self.kind, &bytes).ok_or_else(|| self.no_numbers())
    }

    /// Expression values: numbers of some rows as f32. Whole numbers that f32 would round are refused.
    pub(super) fn values(&self, start: u64, count: u64) -> Result<Vec<f32>> {
        let values: Vec<f32> = self.numbers(start, count)?;
        if number::may_round(&self.kind) && values.iter().any(|value| value.abs() >= number::EXACT_BELOW) {
            // Rare: read again to find what was stored.
            if let Some(stored) = number::rounded(&self.kind, &self.bytes(start, count)?) {
                return Err(self.wrong(format!("contains {}", number::too_large(&stored))));
            }
        }
        Ok(values)
    }

    /// The stored number type in one word; refuses what is not a number.
    pub(super) fn word(&self) -> Result<&'static str> {
        number::word(&self.kind).ok_or_else(|| self.no_numbers())
    }

    fn no_numbers(&self) -> Error {
        let kind = self.dataset.dtype().map_or("something unknown".to_string(), |kind| kind.to_string());
        self.wrong(format!("contains {kind}, not numbers of 8 to 64 bits"))
    }

    /// The one entry of an array without axes as text, `None` if it is not text.
    pub(super) fn text(&self) -> Option<String> {
        heap::texts(&self.kind, &self.bytes(0, 1).ok()?, &self.path).ok()??.pop()
    }

    /// The whole of a one-axis array, as a column.
    pub(super) fn column(&self) -> Result<Column> {
        self.some(None)
    }

    /// Some rows of a one-axis array as a column, or all.
    pub(super) fn some(&self, rows: Option<Range<usize>>) -> Result<Column> {
        let (start, count) = self.span(rows)?;
        self.fits(count, self.kind_size()? + size_of::<String>() as u64)?;
        self.decode(&self.kind, &self.bytes(start, count)?, &self.name)
    }

    /// The same as whole numbers.
    pub(super) fn numbers_of(&self, rows: Option<Range<usize>>) -> Result<Vec<i64>> {
        let (start, count) = self.span(rows)?;
        self.numbers(start, count)
    }

    fn span(&self, rows: Option<Range<usize>>) -> Result<(u64, u64)> {
        let length = self.length()?;
        match rows {
            Some(rows) if rows.end as u64 > length => {
                Err(self.wrong(format!("has {length} entries, but {} are expected", rows.end)))
            }
            Some(rows) => Ok((rows.start as u64, rows.len() as u64)),
            None => Ok((0, length)),
        }
    }

    /// Bytes of `kind` as a column, which messages call `name`: of this array, or of one field of its records.
    pub(super) fn decode(&self, kind: &Datatype, bytes: &[u8], name: &str) -> Result<Column> {
        if let Some(texts) = heap::texts(kind, bytes, &self.path).at(&self.path)? {
            return Ok(Column::Text(texts));
        }
        let numbers = |what: &str| Error::format(&self.path, format!("{name} {what}"));
        match number::word(kind) {
            Some("bool") => {
                let truths: Vec<i64> = number::decode(kind, bytes).unwrap_or_default();
                Ok(Column::Boolean(truths.iter().map(|&truth| truth != 0).collect()))
            }
            Some("f32") => {
                let stored: Vec<f32> = number::decode(kind, bytes).unwrap_or_default();
                Ok(Column::Float(stored.into_iter().map(number::widened).collect()))
            }
            Some("f16" | "f64") => Ok(Column::Float(number::decode(kind, bytes).unwrap_or_default())),
            Some(word) => {
                let whole: Vec<i64> = number::decode(kind, bytes).unwrap_or_default();
                if word == "u64" && whole.iter().any(|&number| number < 0) {
                    return Err(numbers("contains whole numbers above 2^63; store them as text"));
                }
                Ok(Column::Integer(whole))
            }
            None => Err(numbers("is not a column of labels or numbers")),
        }
    }

    pub(super) fn wrong(&self, what: String) -> Error {
        Error::format(&self.path, format!("{} {what}", self.name))
    }
}
