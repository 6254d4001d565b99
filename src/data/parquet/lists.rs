//! Lists of numbers: some rows of one column, end to end.

use std::ops::Range;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{DataType, FloatType, Int64Type};
use parquet::file::reader::FileReader;

use super::Parquet;
use super::fence::fenced;
use crate::error::Result;

/// Lists end to end.
#[derive(Debug, PartialEq)]
pub(crate) struct Lists<T> {
    /// Where each list begins, and where the last ends, [rows + 1].
    pub bounds: Vec<usize>,
    /// Their numbers.
    pub values: Vec<T>,
}

impl Parquet {
    /// Numbers that the lists of each row group hold together.
    ///
    /// # Errors
    /// No such column.
    pub(crate) fn stored(&self, column: &str) -> Result<Vec<u64>> {
        let reader = self.reader()?;
        let number = self.list(&reader, column)?;
        let groups = reader.metadata().row_groups();
        Ok(groups.iter().map(|group| group.column(number).num_values().max(0) as u64).collect())
    }

    /// The lists of 64-bit whole numbers of some rows of a row group.
    ///
    /// # Errors
    /// No such column of this kind, damage, fewer rows than the footer tells of, and lists with missing numbers.
    pub(crate) fn integers(&self, column: &str, group: usize, rows: Range<usize>) -> Result<Lists<i64>> {
        self.lists::<Int64Type>(column, group, rows)
    }

    /// The same of 32-bit decimal numbers.
    ///
    /// # Errors
    /// As [`Parquet::integers`].
    pub(crate) fn decimals(&self, column: &str, group: usize, rows: Range<usize>) -> Result<Lists<f32>> {
        self.lists::<FloatType>(column, group, rows)
    }

    fn lists<D: DataType>(&self, column: &str, group: usize, rows: Range<usize>) -> Result<Lists<D::T>> {
        let reader = self.reader()?;
        let number = self.list(&reader, column)?;
        let kind = reader.metadata().file_metadata().schema_descr().column(number);
        if kind.physical_type() != D::get_physical_type() {
            let what = format!(
                "column {column:?} holds lists of {}, not of {}",
                kind.physical_type(),
                D::get_physical_type()
            );
            return Err(self.wrong(what));
        }
        let chunk: ColumnReader = self.chunk(&reader, group, number)?;
        let mut chunk: ColumnReaderImpl<D> = get_typed_column_reader(chunk);
        let broken = |error| self.broken(column, error);
        let skipped = fenced(|| chunk.skip_records(rows.start)).map_err(broken)?;
        let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut found = 0;
        while found < rows.len() {
            let levels = (Some(&mut defined), Some(&mut repeated));
            let (read, ..) =
                fenced(|| chunk.read_records(rows.len() - found, levels.0, levels.1, &mut values))
                    .map_err(broken)?;
            if read == 0 {
                break;
            }
            found += read;
        }
        if skipped < rows.start || found < rows.len() {
            let what = format!("column {column:?} ends after {} rows of row group {group}", skipped + found);
            return Err(self.wrong(what));
        }
        let full = kind.max_def_level();
        let empty_number = kind.self_type().is_optional().then_some(full - 1);
        if let Some(at) = defined.iter().position(|&level| Some(level) == empty_number) {
            let row = rows.start + repeated[..=at].iter().filter(|&&level| level == 0).count() - 1;
            return Err(
                self.wrong(format!("column {column:?} lacks a number in row {row} of row group {group}"))
            );
        }
        let mut bounds = Vec::with_capacity(rows.len() + 1);
        let mut end = 0;
        for (&defined, &repeated) in defined.iter().zip(&repeated) {
            if repeated == 0 {
                bounds.push(end);
            }
            end += usize::from(defined == full);
        }
        bounds.push(end);
        if bounds.len() != rows.len() + 1 || end != values.len() {
            return Err(
                self.wrong(format!("column {column:?}: the lists of row group {group} do not add up"))
            );
        }
        Ok(Lists { bounds, values })
    }

    fn list(&self, reader: &impl FileReader, column: &str) -> Result<usize> {
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let found = columns.iter().position(|c| c.path().parts()[0] == column && c.max_rep_level() == 1);
        found.ok_or_else(|| self.wrong(format!("has no column {column:?} of lists")))
    }
}
