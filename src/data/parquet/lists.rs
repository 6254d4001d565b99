//! Lists of numbers: some rows of one column, end to end.

use std::ops::Range;

use parquet::column::reader::{ColumnReaderImpl, get_typed_column_reader};
use parquet::data_type::{DataType, FloatType, Int64Type};
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::Parquet;
use super::fence::fenced;
use super::source::Source;
use crate::error::Result;

/// Lists end to end.
#[derive(Debug, PartialEq)]
pub(crate) struct Lists<T> {
    /// Where each list begins, and where the last ends, `[rows + 1]`.
    pub bounds: Vec<usize>,
    /// Their numbers.
    pub values: Vec<T>,
}

impl Parquet {
    /// How many numbers the lists of each row group hold in total.
    ///
    /// # Errors
    /// No such column.
    pub(crate) fn stored(&self, column: &str) -> Result<Vec<u64>> {
        let reader = self.reader()?;
        let number = self.list(&reader, column)?;
        let groups = reader.metadata().row_groups();
        Ok(groups.iter().map(|group| group.column(number).num_values().max(0) as u64).collect())
    }

    /// Two list columns of a row group, of 64-bit integers and of 32-bit floats, from its first row on.
    ///
    /// # Errors
    /// No such columns of these kinds, or damage.
    pub(crate) fn pairs(&self, columns: [&str; 2], group: usize) -> Result<Pairs> {
        let reader = self.reader()?;
        let first = self.column_of_lists(&reader, columns[0], group)?;
        let second = self.column_of_lists(&reader, columns[1], group)?;
        Ok(Pairs { file: self.clone(), row: 0, first, second })
    }

    fn column_of_lists<D: DataType>(
        &self,
        reader: &SerializedFileReader<Source>,
        column: &str,
        group: usize,
    ) -> Result<ListColumn<D>> {
        let number = self.list(reader, column)?;
        let kind = reader.metadata().file_metadata().schema_descr().column(number);
        if kind.physical_type() != D::get_physical_type() {
            let what = format!(
                "column {column:?} contains lists of {}, not of {}",
                kind.physical_type(),
                D::get_physical_type()
            );
            return Err(self.wrong(what));
        }
        let full = kind.max_def_level();
        let empty_number = kind.self_type().is_optional().then_some(full - 1);
        let reader = get_typed_column_reader(self.chunk(reader, group, number)?);
        Ok(ListColumn { reader, column: column.to_string(), group, full, empty_number })
    }

    fn list(&self, reader: &impl FileReader, column: &str) -> Result<usize> {
        let columns = reader.metadata().file_metadata().schema_descr().columns();
        let found = columns.iter().position(|c| c.path().parts()[0] == column && c.max_rep_level() == 1);
        found.ok_or_else(|| self.wrong(format!("has no column {column:?} of lists")))
    }
}

/// Two columns read in step. Rows are read forwards: what was read is not unpacked again.
pub(crate) struct Pairs {
    file: Parquet,
    /// The next row.
    row: usize,
    first: ListColumn<Int64Type>,
    second: ListColumn<FloatType>,
}

impl Pairs {
    /// The next row within its row group.
    pub(crate) fn row(&self) -> usize {
        self.row
    }

    /// The lists of some rows, none of them before [`Pairs::row`]. After an error, no more can be read.
    ///
    /// # Errors
    /// Damage, fewer rows than the footer claims, and lists with missing numbers.
    pub(crate) fn rows(&mut self, rows: Range<usize>) -> Result<(Lists<i64>, Lists<f32>)> {
        let lists = (
            self.first.rows(&self.file, self.row, rows.clone())?,
            self.second.rows(&self.file, self.row, rows.clone())?,
        );
        self.row = rows.end;
        Ok(lists)
    }
}

struct ListColumn<D: DataType> {
    reader: ColumnReaderImpl<D>,
    column: String,
    group: usize,
    /// Definition level of a number that is present, and of one that is missing in its list.
    full: i16,
    empty_number: Option<i16>,
}

impl<D: DataType> ListColumn<D> {
    /// Some rows; the reader is positioned at row `at`.
    fn rows(&mut self, file: &Parquet, at: usize, rows: Range<usize>) -> Result<Lists<D::T>> {
        let ListColumn { reader, column, group, full, empty_number } = self;
        let broken = |error| file.broken(column, error);
        let skipped = at + fenced(|| reader.skip_records(rows.start - at)).map_err(broken)?;
        let (mut defined, mut repeated, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let mut found = 0;
        while found < rows.len() {
            let levels = (Some(&mut defined), Some(&mut repeated));
            let (read, ..) =
                fenced(|| reader.read_records(rows.len() - found, levels.0, levels.1, &mut values))
                    .map_err(broken)?;
            if read == 0 {
                break;
            }
            found += read;
        }
        if skipped < rows.start || found < rows.len() {
            let what = format!("column {column:?} ends after {} rows of row group {group}", skipped + found);
            return Err(file.wrong(what));
        }
        if let Some(at) = defined.iter().position(|&level| Some(level) == *empty_number) {
            let row = rows.start + repeated[..=at].iter().filter(|&&level| level == 0).count() - 1;
            return Err(
                file.wrong(format!("column {column:?} lacks a number in row {row} of row group {group}"))
            );
        }
        let mut bounds = Vec::with_capacity(rows.len() + 1);
        let mut end = 0;
        for (&defined, &repeated) in defined.iter().zip(&repeated) {
            if repeated == 0 {
                bounds.push(end);
            }
            end += usize::from(defined == *full);
        }
        bounds.push(end);
        if bounds.len() != rows.len() + 1 || end != values.len() {
            return Err(
                file.wrong(format!("column {column:?}: the lists of row group {group} do not add up"))
            );
        }
        Ok(Lists { bounds, values })
    }
}
