//! Parquet files: flat columns read as labels, and lists of numbers read by rows.
//!
//! Each read opens the file and parses its footer again: a release has thousands of files, more than a process may hold open,
//! and their footers together take gigabytes.

mod fence;
mod lists;
mod pages;
mod source;

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use parquet::basic::{ConvertedType, Type};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{ByteArray, DataType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescPtr, ColumnDescriptor};
use serde_json::{Value, json};

use self::fence::fenced;
pub(crate) use self::lists::Pairs;
use self::pages::Pages;
use self::source::Source;
use super::gzip::begins_with;
use super::h5ad::{Growing, Labels, spelled};
use crate::error::{At, Error, Result};

/// First bytes of a parquet file.
const MAGIC: &[u8; 4] = b"PAR1";
/// Rows read at a time.
const ROWS: usize = 8192;

/// A parquet file.
#[derive(Clone, Debug)]
pub(crate) struct Parquet {
    path: PathBuf,
    /// Number of rows of each row group.
    groups: Vec<usize>,
}

/// Whether a path is a file that begins as parquet does, whatever its name.
pub(crate) fn is_parquet_file(path: &Path) -> bool {
    begins_with(path, MAGIC)
}

impl Parquet {
    /// Reads the footer.
    ///
    /// # Errors
    /// Not a parquet file, or a damaged one.
    pub(crate) fn open(path: &Path) -> Result<Parquet> {
        let mut parquet = Parquet { path: path.to_path_buf(), groups: Vec::new() };
        let reader = parquet.reader()?;
        for group in reader.metadata().row_groups() {
            let rows = usize::try_from(group.num_rows());
            parquet.groups.push(rows.map_err(|_| Error::format(path, "has a row group of negative length"))?);
        }
        match parquet.groups.iter().try_fold(0usize, |sum, &rows| sum.checked_add(rows)) {
            Some(rows) if rows < i32::MAX as usize => Ok(parquet),
            _ => Err(Error::format(path, "has more rows than 32-bit labels can count; split it")),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn rows(&self) -> usize {
        self.groups.iter().sum()
    }

    /// Number of rows of each row group.
    pub(crate) fn groups(&self) -> &[usize] {
        &self.groups
    }

    /// Rows, row groups and columns, as recorded in the footer.
    ///
    /// # Errors
    /// A file that has changed since it was opened.
    pub(crate) fn describe(&self) -> Result<Value> {
        let reader = self.reader()?;
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let told = |column: &ColumnDescPtr| {
            let lists = if column.max_rep_level() > 0 { "lists of " } else { "" };
            json!({
                "name": column.path().parts()[0],
                "kind": format!("{lists}{}", words(column.physical_type())),
                "label": is_flat(column),
            })
        };
        Ok(json!({
            "rows": self.rows(),
            "row_groups": self.groups.len(),
            "columns": columns.iter().map(told).collect::<Vec<_>>(),
        }))
    }

    /// The columns that can be labels: text, numbers and booleans, no lists.
    ///
    /// # Errors
    /// A file that has changed since it was opened.
    pub(crate) fn columns(&self) -> Result<Vec<String>> {
        let reader = self.reader()?;
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        Ok(columns.iter().filter(|column| is_flat(column)).map(|column| column.name().to_string()).collect())
    }

    /// The column that pandas used as its index, if pandas wrote the file and the index was not just row numbers.
    pub(crate) fn index(&self) -> Result<Option<String>> {
        let reader = self.reader()?;
        let notes = reader.metadata().file_metadata().key_value_metadata();
        let pandas = notes
            .into_iter()
            .flatten()
            .find(|note| note.key == "pandas")
            .and_then(|note| note.value.as_ref());
        let pandas = pandas.and_then(|text| serde_json::from_str::<Value>(text).ok());
        Ok(pandas.and_then(|pandas| pandas["index_columns"][0].as_str().map(String::from)))
    }

    /// A flat column; null and empty text are missing labels, and numbers are written as Python writes them.
    ///
    /// # Errors
    /// No such column, or one that is damaged or not text.
    pub(crate) fn labels(&self, column: &str) -> Result<Labels> {
        let mut labels = Growing::default();
        self.each(column, 0..self.groups.len(), |text| labels.push(text.unwrap_or_default()))?;
        Ok(labels.finish())
    }

    /// A flat column as text, row by row.
    ///
    /// # Errors
    /// As [`Parquet::labels`], and missing entries.
    pub(crate) fn texts(&self, column: &str) -> Result<Vec<String>> {
        let (mut texts, mut missing) = (Vec::new(), None);
        self.each(column, 0..self.groups.len(), |text| {
            if text.is_none() {
                missing.get_or_insert(texts.len());
            }
            texts.push(text.unwrap_or_default().to_string());
        })?;
        match missing {
            Some(row) => Err(self.wrong(format!("column {column:?} is empty in row {row}"))),
            None => Ok(texts),
        }
    }

    /// The same for some row groups, where a missing entry becomes an empty one.
    ///
    /// # Errors
    /// No such column, or one that is damaged or not text.
    pub(crate) fn names(&self, column: &str, groups: Range<usize>) -> Result<Vec<String>> {
        let mut names = Vec::new();
        self.each(column, groups, |text| names.push(text.unwrap_or_default().to_string()))?;
        Ok(names)
    }

    /// Visits every entry of some row groups, as many as the footer records.
    fn each(&self, column: &str, groups: Range<usize>, mut work: impl FnMut(Option<&str>)) -> Result<()> {
        let reader = self.reader()?;
        let number = self.position(&reader, column)?;
        let rows: usize = self.groups[groups.clone()].iter().sum();
        let mut found = 0;
        let mut work = |text: Option<&str>| {
            found += 1;
            work(text);
        };
        for group in groups {
            let chunk = self.chunk(&reader, group, number)?;
            let kind = reader.metadata().file_metadata().schema_descr().column(number);
            let done = match chunk {
                ColumnReader::BoolColumnReader(r) => {
                    flat(r, &kind, &mut work, |&v| Ok(if v { "True" } else { "False" }.into()))
                }
                ColumnReader::Int32ColumnReader(r) => flat(r, &kind, &mut work, |v| Ok(v.to_string())),
                ColumnReader::Int64ColumnReader(r) => flat(r, &kind, &mut work, |v| Ok(v.to_string())),
                ColumnReader::FloatColumnReader(r) => flat(r, &kind, &mut work, |v| Ok(spelled(v))),
                ColumnReader::DoubleColumnReader(r) => flat(r, &kind, &mut work, |v| Ok(spelled(v))),
                ColumnReader::ByteArrayColumnReader(r) => {
                    flat(r, &kind, &mut work, |v: &ByteArray| v.as_utf8().map(String::from))
                }
                _ => return Err(self.wrong(format!("column {column:?} is neither text nor numbers"))),
            };
            done.map_err(|error| self.broken(column, error))?;
        }
        if found == rows {
            return Ok(());
        }
        Err(self.wrong(format!("column {column:?} has {found} entries, but the footer says {rows} rows")))
    }

    /// Position of a column among the stored ones.
    fn position(&self, reader: &SerializedFileReader<Source>, column: &str) -> Result<usize> {
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        columns.iter().position(|stored| is_flat(stored) && stored.name() == column).ok_or_else(|| {
            self.wrong(crate::error::unknown("column", column, columns.iter().map(|stored| stored.name())))
        })
    }

    fn chunk(
        &self,
        reader: &SerializedFileReader<Source>,
        group: usize,
        column: usize,
    ) -> Result<ColumnReader> {
        let kind = reader.metadata().file_metadata().schema_descr().column(column);
        let chunk = fenced(|| {
            let pages = reader.get_row_group(group)?.get_column_page_reader(column)?;
            Ok(get_column_reader(kind, Box::new(Pages(pages))))
        });
        chunk.map_err(|error| self.broken("", error))
    }

    fn reader(&self) -> Result<SerializedFileReader<Source>> {
        let file = File::open(&self.path).at(&self.path)?;
        fenced(|| SerializedFileReader::new(Source(file))).map_err(|error| self.broken("", error))
    }

    fn broken(&self, column: &str, error: ParquetError) -> Error {
        let place = if column.is_empty() { String::new() } else { format!("column {column:?}: ") };
        let said = error.to_string();
        match said.split_once("Disabled feature at compile time: ") {
            Some((_, packing)) => {
                let way = "write it with snappy or gzip, or as .csv";
                self.wrong(format!("{place}is packed with {packing}, which is not read here; {way}"))
            }
            None => self.wrong(format!("{place}{said}")),
        }
    }

    fn wrong(&self, what: String) -> Error {
        Error::format(&self.path, what)
    }
}

fn words(kind: Type) -> &'static str {
    match kind {
        Type::BOOLEAN => "bool",
        Type::INT32 => "i32",
        Type::INT64 => "i64",
        Type::FLOAT => "f32",
        Type::DOUBLE => "f64",
        Type::BYTE_ARRAY => "text",
        Type::INT96 | Type::FIXED_LEN_BYTE_ARRAY => "bytes",
    }
}

/// Neither a list nor part of a nested value, and of a type that can be written as text.
fn is_flat(column: &ColumnDescriptor) -> bool {
    let words = match column.physical_type() {
        Type::INT32 | Type::INT64 => column.converted_type() != ConvertedType::DECIMAL,
        Type::BYTE_ARRAY => column.converted_type() != ConvertedType::DECIMAL,
        kind => matches!(kind, Type::BOOLEAN | Type::FLOAT | Type::DOUBLE),
    };
    words && column.path().parts().len() == 1 && column.max_rep_level() == 0
}

/// Every entry of a flat column, as text.
fn flat<T: DataType>(
    mut reader: ColumnReaderImpl<T>,
    kind: &ColumnDescriptor,
    work: &mut impl FnMut(Option<&str>),
    words: impl Fn(&T::T) -> std::result::Result<String, ParquetError>,
) -> std::result::Result<(), ParquetError> {
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    loop {
        levels.clear();
        values.clear();
        let (rows, ..) = fenced(|| reader.read_records(ROWS, Some(&mut levels), None, &mut values))?;
        if rows == 0 {
            return Ok(());
        }
        // A required column has no definition levels.
        let present = |row: usize| kind.max_def_level() == 0 || levels[row] == kind.max_def_level();
        let mut next = values.iter();
        for row in 0..rows {
            match present(row).then(|| next.next()).flatten() {
                Some(value) => work(Some(&words(value)?)),
                None => work(None),
            }
        }
    }
}
