//! Labels of cells from a separate table, joined by the cells' names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::gzip;
use crate::data::h5ad::{H5ad, Labels};
use crate::data::parquet::{Parquet, is_parquet};
use crate::error::{Error, Result, some_of};

/// Marks a cell without a row.
const NO_ROW: u32 = u32::MAX;

/// How cells were matched to rows.
#[derive(Clone, Debug, Serialize)]
pub struct Joined {
    /// Cells with a row in the table.
    pub matched: u64,
    /// Cells without one; their labels are missing.
    pub unmatched: u64,
    /// Rows without a cell.
    pub unused: u64,
    /// Examples of those.
    pub first_unused: Vec<String>,
}

/// A table of labels: one row per cell.
pub(super) struct Table {
    path: PathBuf,
    header: Vec<String>,
    /// The column of cell names, unless another is named like a file's index.
    key: usize,
    /// Stored by column; an empty field is a missing label.
    columns: Vec<Labels>,
    /// Row of each cell, per file.
    rows: Vec<Vec<u32>>,
}

impl Table {
    /// Reads a parquet file, a `.csv`, or a tab-separated `.tsv` or `.txt`, each of these packed with gzip or not; the first line of
    /// a text file names the columns.
    pub(super) fn read(path: &Path) -> Result<Table> {
        if is_parquet(path) {
            return Table::of_parquet(&Parquet::open(path)?);
        }
        let broken = |error: csv::Error| Error::format(path, error.to_string());
        // The ending below `.gz`, if the name has that.
        let plain = if path.extension().is_some_and(|end| end == "gz") {
            path.with_extension("")
        } else {
            path.into()
        };
        let tabs = plain.extension().is_some_and(|end| end == "tsv" || end == "txt");
        let delimiter = if tabs { b'\t' } else { b',' };
        let mut file = csv::ReaderBuilder::new().delimiter(delimiter).from_reader(gzip::open(path)?);
        let header: Vec<String> = file.headers().map_err(broken)?.iter().map(String::from).collect();
        if header.len() < 2 {
            let what = format!(
                "needs a header and at least two columns, cell names and labels, separated by {}",
                if tabs { "tabs (.csv: commas)" } else { "commas (.tsv: tabs)" }
            );
            return Err(Error::format(path, what));
        }
        let mut columns: Vec<_> = header.iter().map(|_| Labels::growing()).collect();
        let mut record = csv::StringRecord::new();
        while file.read_record(&mut record).map_err(broken)? {
            columns.iter_mut().zip(&record).for_each(|(column, field)| column.push(field));
        }
        let columns = columns.into_iter().map(|column| column.finish()).collect();
        Table::new(path, header, 0, columns)
    }

    fn of_parquet(file: &Parquet) -> Result<Table> {
        let header = file.columns()?;
        if header.len() < 2 {
            let what = "needs at least two columns of text or numbers, cell names and labels";
            return Err(Error::format(file.path(), what));
        }
        let columns = header.iter().map(|column| file.labels(column)).collect::<Result<_>>()?;
        let index = file.index()?;
        let key = header.iter().position(|name| Some(name) == index.as_ref()).unwrap_or(0);
        Table::new(file.path(), header, key, columns)
    }

    fn new(path: &Path, header: Vec<String>, key: usize, columns: Vec<Labels>) -> Result<Table> {
        if columns[key].is_empty() {
            return Err(Error::format(path, "has no rows, and so no cells to give labels to"));
        }
        if let Some(twice) = (1..header.len()).find(|&i| header[..i].contains(&header[i])) {
            return Err(Error::format(path, format!("has two columns {:?}; rename one", header[twice])));
        }
        Ok(Table { path: path.to_path_buf(), header, key, columns, rows: Vec::new() })
    }

    pub(super) fn has(&self, column: &str) -> bool {
        self.header.iter().any(|name| name == column)
    }

    /// Lists the columns, for the message about a column found nowhere.
    pub(super) fn told(&self) -> String {
        let named: Vec<&str> =
            self.header.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        format!("{} has: {}", self.path.display(), named.join(", "))
    }

    /// Finds the row of each cell: by the column named like a file's index, else by what was
    /// pandas' index, else by the first column.
    pub(super) fn join(&mut self, files: &[H5ad]) -> Result<Joined> {
        let cells: Vec<(String, Vec<String>)> =
            files.iter().map(|file| file.cell_names(0..file.shape().0)).collect::<Result<_>>()?;
        let named = |(index, _): &(String, Vec<String>)| self.header.iter().position(|name| name == index);
        let key = cells.iter().find_map(named).unwrap_or(self.key);
        let keys = &self.columns[key];
        let mut row_of: HashMap<&str, u32> = HashMap::with_capacity(keys.len());
        for row in 0..keys.len() {
            let name = keys.get(row).unwrap_or_default();
            if row_of.insert(name, row as u32).is_some() {
                let what = format!(
                    "cell {name:?} appears twice in column {:?}; keep one row per cell",
                    self.header[key]
                );
                return Err(Error::format(&self.path, what));
            }
        }
        let mut taken = vec![false; keys.len()];
        let mut joined = Joined { matched: 0, unmatched: 0, unused: 0, first_unused: Vec::new() };
        for (file, (_, names)) in files.iter().zip(&cells) {
            let mut rows = Vec::with_capacity(names.len());
            for name in names {
                let row = row_of.get(name.as_str()).copied().unwrap_or(NO_ROW);
                if row == NO_ROW {
                    joined.unmatched += 1;
                } else if std::mem::replace(&mut taken[row as usize], true) {
                    let what = format!(
                        "cell {name:?} appears a second time, so one row of {} would label two cells; make \
                         the names unique across all files",
                        self.path.display()
                    );
                    return Err(Error::format(file.path(), what));
                } else {
                    joined.matched += 1;
                }
                rows.push(row);
            }
            self.rows.push(rows);
        }
        if joined.matched == 0 {
            let first = cells.iter().find_map(|(_, names)| names.first()).map_or("", String::as_str);
            let what = format!(
                "no cell has a row: its column {:?} starts with {}, but the cells with {:?}",
                self.header[key],
                some_of(&[keys.get(0).unwrap_or_default()]),
                first
            );
            return Err(Error::format(&self.path, what));
        }
        let unused = (0..taken.len()).filter(|&row| !taken[row]);
        joined.first_unused =
            unused.clone().take(3).filter_map(|row| keys.get(row).map(String::from)).collect();
        joined.unused = unused.count() as u64;
        Ok(joined)
    }

    /// Labels of the cells of a file, after [`Table::join`].
    pub(super) fn labels(&self, file: usize, column: &str) -> Labels {
        let place = self.header.iter().position(|name| name == column).expect("a column of the table");
        let of = &self.columns[place];
        let code = |&row: &u32| if row == NO_ROW { -1 } else { of.codes[row as usize] };
        Labels { codes: self.rows[file].iter().map(code).collect(), names: of.names.clone() }
    }
}
