//! Labels of cells from a separate table, joined by the cells' names.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::data::h5ad::{Growing, H5ad, Labels};
use crate::data::parquet::{Parquet, is_parquet_file};
use crate::data::table::{self, has_tabs};
use crate::error::{Error, Result};

/// Marks a cell without a row.
const NO_ROW: u32 = u32::MAX;

/// How cells were matched to rows.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
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

/// A table of labels: one row per cell, of which only the header has been read.
pub(crate) struct Table {
    path: PathBuf,
    header: Vec<String>,
    /// The column of cell names, unless another is named like a file's index.
    key: usize,
    body: Body,
}

enum Body {
    Parquet(Parquet),
    Text(table::Table),
}

impl Table {
    /// Opens a parquet file, a `.csv`, or a tab-separated `.tsv` or `.txt`, each of these packed with gzip or not; the first line of
    /// a text file names the columns.
    pub(crate) fn open(path: &Path) -> Result<Table> {
        if is_parquet_file(path) { Table::of_parquet(path) } else { Table::of_text(path) }
    }

    fn of_text(path: &Path) -> Result<Table> {
        let file = table::Table::open(path)?.with_row_names()?;
        let header = file.header().to_vec();
        if header.len() < 2 {
            let what = format!(
                "needs a header and at least two columns, cell names and labels, separated by {}",
                if has_tabs(path) { "tabs (.csv: commas)" } else { "commas (.tsv: tabs)" }
            );
            return Err(Error::format(path, what));
        }
        Ok(Table { path: path.to_path_buf(), header, key: 0, body: Body::Text(file) })
    }

    fn of_parquet(path: &Path) -> Result<Table> {
        let file = Parquet::open(path)?;
        let header = file.columns()?;
        if header.len() < 2 {
            let what = "needs at least two columns of text or numbers, cell names and labels";
            return Err(Error::format(path, what));
        }
        table::check_names(path, &header)?;
        let index = file.index()?;
        let key = header.iter().position(|name| Some(name) == index.as_ref()).unwrap_or(0);
        Ok(Table { path: path.to_path_buf(), header, key, body: Body::Parquet(file) })
    }

    pub(crate) fn has(&self, column: &str) -> bool {
        self.place(column).is_some()
    }

    fn place(&self, column: &str) -> Option<usize> {
        self.header.iter().position(|name| name == column)
    }

    /// Lists the columns, for the message about a column found nowhere.
    pub(crate) fn told(&self) -> String {
        let named: Vec<&str> =
            self.header.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        format!("{} has: {}", self.path.display(), named.join(", "))
    }

    /// Reads those of these columns that the table has, and finds the row of each cell: by the column named like a file's
    /// index, else by what was pandas' index, else by the first column. With several files a cell's numbered name comes first.
    pub(crate) fn join(self, columns: &[&str], files: &[H5ad]) -> Result<(Given, Joined)> {
        let first = |file: &H5ad| file.cell_names(0..file.shape().0.min(1));
        let firsts: Vec<(String, Vec<String>)> = files.iter().map(first).collect::<Result<_>>()?;
        let key = firsts.iter().find_map(|(index, _)| self.place(index)).unwrap_or(self.key);
        let Table { path, header, body, .. } = self;
        let mut named: Vec<String> = columns.iter().map(|column| column.to_string()).collect();
        named.retain(|column| header.contains(column));
        let (keys, labels) = body.read(&path, &header, &header[key], &named)?;
        let mut row_of = HashMap::with_capacity(keys.len());
        for (name, row) in keys.iter().zip(0..) {
            if row_of.insert(name.as_str(), row).is_some() {
                let column = &header[key];
                let what = format!("cell {name:?} appears twice in column {column:?}; keep one row per cell");
                return Err(Error::format(&path, what));
            }
        }
        let mut taken = vec![false; keys.len()];
        let several = files.len() > 1;
        let of = |(number, file)| rows(file, several.then_some(number), &row_of, &mut taken, &path);
        let rows: Vec<Vec<u32>> = files.iter().enumerate().map(of).collect::<Result<_>>()?;
        let cells: usize = rows.iter().map(Vec::len).sum();
        let matched = taken.iter().filter(|&&taken| taken).count();
        if matched == 0 {
            let cell = firsts.iter().find_map(|(_, names)| names.first()).map_or("", String::as_str);
            let what = format!(
                "no cell has a row: its column {:?} starts with {:?}, but the cells with {cell:?}",
                header[key], keys[0]
            );
            return Err(Error::format(&path, what));
        }
        let unused = keys.iter().zip(&taken).filter(|(_, taken)| !**taken);
        let joined = Joined {
            matched: matched as u64,
            unmatched: (cells - matched) as u64,
            unused: (keys.len() - matched) as u64,
            first_unused: unused.take(3).map(|(name, _)| name.clone()).collect(),
        };
        Ok((Given { path, columns: named.into_iter().zip(labels).collect(), rows }, joined))
    }
}

impl Body {
    /// The names of the cells, from column `key`, and these columns; an empty field is a missing label.
    fn read(
        self,
        path: &Path,
        header: &[String],
        key: &str,
        columns: &[String],
    ) -> Result<(Vec<String>, Vec<Labels>)> {
        let (keys, labels) = match self {
            Body::Parquet(file) => {
                let labels = columns.iter().map(|column| file.labels(column)).collect::<Result<_>>()?;
                (file.names(key, 0..file.groups().len())?, labels)
            }
            Body::Text(mut file) => {
                let place = |column: &str| header.iter().position(|name| name == column);
                let place = |column: &str| place(column).expect("a column of the header");
                let (key, places): (_, Vec<usize>) = (place(key), columns.iter().map(|c| place(c)).collect());
                let (mut keys, mut labels) = (Vec::new(), vec![Growing::default(); places.len()]);
                while let Some(row) = file.next()? {
                    keys.push(row.at(key).to_string());
                    let label = |place| if row.at(place).is_empty() { "" } else { row.exact(place) };
                    labels.iter_mut().zip(&places).for_each(|(labels, &place)| labels.push(label(place)));
                }
                (keys, labels.into_iter().map(|labels| labels.finish()).collect())
            }
        };
        if keys.is_empty() {
            return Err(Error::format(path, "has no rows, and so no cells to give labels to"));
        }
        Ok((keys, labels))
    }
}

/// The name of a cell among those of several files, which may share barcodes: with the number of its file, as anndata.concat's
/// `index_unique="-"` makes it.
pub(crate) fn numbered(name: &str, file: usize) -> String {
    format!("{name}-{file}")
}

/// The row of each cell of a file, which has a number if it is one of several; each row is taken once.
fn rows(
    file: &H5ad,
    number: Option<usize>,
    row_of: &HashMap<&str, u32>,
    taken: &mut [bool],
    table: &Path,
) -> Result<Vec<u32>> {
    let (_, names) = file.cell_names(0..file.shape().0)?;
    let row = |name: &String| {
        let own = number.and_then(|number| row_of.get(numbered(name, number).as_str()));
        let Some(&row) = own.or_else(|| row_of.get(name.as_str())) else { return Ok(NO_ROW) };
        if std::mem::replace(&mut taken[row as usize], true) {
            let way = match number {
                None => "make the names unique".to_string(),
                Some(number) => format!(
                    "in the table, append the file's number to names that occur in several files, as in {:?}",
                    numbered(name, number)
                ),
            };
            let what = format!(
                "cell {name:?} appears a second time, so one row of {} would label two cells; {way}",
                table.display()
            );
            return Err(Error::format(file.path(), what));
        }
        Ok(row)
    };
    names.iter().map(row).collect()
}

/// What a table says of the cells.
pub(crate) struct Given {
    path: PathBuf,
    columns: Vec<(String, Labels)>,
    /// Row of each cell, per file.
    rows: Vec<Vec<u32>>,
}

impl Given {
    /// The table's file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the table has the column.
    pub(crate) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|(name, _)| name == column)
    }

    /// Labels of the cells of each file; `None` if the table lacks the column.
    fn labels(&self, column: &str) -> Option<impl Iterator<Item = Labels>> {
        let (_, of) = self.columns.iter().find(|(name, _)| name == column)?;
        let code = |&row: &u32| if row == NO_ROW { -1 } else { of.codes[row as usize] };
        let labels =
            move |rows: &Vec<u32>| Labels { codes: rows.iter().map(code).collect(), names: of.names.clone() };
        Some(self.rows.iter().map(labels))
    }
}

/// Labels of each file's cells: from the table, if it has the column, else from the file. Empty ones are missing.
pub(crate) fn labels(column: &str, files: &[H5ad], given: Option<&Given>) -> Result<Vec<Labels>> {
    match given.and_then(|given| given.labels(column)) {
        Some(labels) => Ok(labels.map(Labels::without_empty).collect()),
        None => files.iter().map(|file| file.labels(column).map(Labels::without_empty)).collect(),
    }
}

/// Numbers of each file's cells, in the same way.
pub(crate) fn numbers(column: &str, files: &[H5ad], given: Option<&Given>) -> Result<Vec<Vec<f32>>> {
    match given.and_then(|given| Some((&given.path, given.labels(column)?))) {
        Some((table, labels)) => labels.map(|labels| labels.numbers(table, column)).collect(),
        None => files.iter().map(|file| file.numbers(column)).collect(),
    }
}
