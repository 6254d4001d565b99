//! AnnData files (`.h5ad`): cells, genes and an expression matrix in HDF5.
//!
//! Reads what every anndata has written: X as CSR, CSC or dense numbers of any width, `obs` and `var` as frames of
//! categorical, text, numeric, boolean and nullable columns or as compound tables (before 0.7), packed with gzip, lzf or
//! zstd. X is never read whole: [`H5ad::blocks`] walks it in row blocks of bounded size, whatever the number of cells.
//! Numbers arrive as f32; a stored zero is dropped, NaN and infinities pass.

mod array;
mod chunks;
mod compound;
mod csc;
mod describe;
mod frame;
mod hdf5;
mod heap;
mod matrix;
mod number;
mod source;
mod write;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5_pure::{ChunkCacheConfig, File, FileAccessProperties, MetadataCacheConfig};
use rayon::prelude::*;

use crate::error::{Error, Result, nearest};
use hdf5::Named;
use matrix::Matrix;

pub use describe::describe;
pub use write::{Extra, X, write};

/// Expression of some cells: [cells, genes] CSR, column indices rising within a row, no stored zeros.
pub type Cells = sprs::CsMatI<f32, u32, usize>;

/// `obs` or `var`: an index and named columns of equal length.
#[derive(Clone, Debug, Default)]
pub struct Frame {
    /// Names of the rows: cell barcodes or genes.
    pub index: Vec<String>,
    /// Columns in file order.
    pub columns: Vec<(String, Column)>,
}

/// One column of a frame.
#[derive(Clone, Debug)]
pub enum Column {
    /// Repeated labels; also what nullable columns with missing entries become.
    Categorical(Labels),
    /// Free text.
    Text(Vec<String>),
    /// Whole numbers.
    Integer(Vec<i64>),
    /// Decimal numbers; NaN is missing.
    Float(Vec<f64>),
    /// Truth values.
    Boolean(Vec<bool>),
}

/// Labels of cells: `codes[i]` indexes `names`; -1 is a missing label.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels {
    /// One code a cell, -1 or below `names.len()`.
    pub codes: Vec<i32>,
    /// The different labels, each once.
    pub names: Vec<String>,
}

impl Labels {
    /// Labels of a list; names are sorted.
    pub fn of<S: AsRef<str>>(items: &[S]) -> Labels {
        let mut names: Vec<&str> = items.iter().map(AsRef::as_ref).collect();
        names.sort_unstable();
        names.dedup();
        let place: HashMap<&str, i32> = names.iter().enumerate().map(|(i, &name)| (name, i as i32)).collect();
        let codes = items.iter().map(|item| place[item.as_ref()]).collect();
        Labels { codes, names: names.into_iter().map(String::from).collect() }
    }

    /// Label of cell `i`, `None` where it is missing.
    pub fn get(&self, i: usize) -> Option<&str> {
        usize::try_from(self.codes[i]).ok().map(|code| self.names[code].as_str())
    }

    /// Number of cells.
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Whether there are no cells.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }
}

impl Column {
    /// Number of entries.
    pub fn len(&self) -> usize {
        match self {
            Column::Categorical(labels) => labels.len(),
            Column::Text(items) => items.len(),
            Column::Integer(items) => items.len(),
            Column::Float(items) => items.len(),
            Column::Boolean(items) => items.len(),
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some entries, in the given order.
    pub fn rows(&self, rows: &[usize]) -> Column {
        fn pick<T: Clone>(items: &[T], rows: &[usize]) -> Vec<T> {
            rows.iter().map(|&row| items[row].clone()).collect()
        }
        match self {
            Column::Categorical(labels) => {
                Column::Categorical(Labels { codes: pick(&labels.codes, rows), names: labels.names.clone() })
            }
            Column::Text(items) => Column::Text(pick(items, rows)),
            Column::Integer(items) => Column::Integer(pick(items, rows)),
            Column::Float(items) => Column::Float(pick(items, rows)),
            Column::Boolean(items) => Column::Boolean(pick(items, rows)),
        }
    }

    /// The column's kind in one word, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Column::Categorical(_) => "categorical",
            Column::Text(_) => "text",
            Column::Integer(_) => "integer",
            Column::Float(_) => "float",
            Column::Boolean(_) => "boolean",
        }
    }
}

impl Frame {
    /// Some rows, in the given order.
    pub fn rows(&self, rows: &[usize]) -> Frame {
        let pick = |(name, column): &(String, Column)| (name.clone(), column.rows(rows));
        let index = rows.iter().map(|&row| self.index[row].clone()).collect();
        Frame { index, columns: self.columns.iter().map(pick).collect() }
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|(found, _)| found == name).map(|(_, column)| column)
    }

    /// A column as labels: categorical, text, integer (`"3"`) or boolean (`"True"`). `path` is named in errors.
    ///
    /// # Errors
    /// No such column (the message lists those that exist), or decimal numbers.
    pub fn labels(&self, path: &Path, column: &str) -> Result<Labels> {
        match self.column(column) {
            Some(Column::Categorical(labels)) => Ok(labels.clone()),
            Some(Column::Text(items)) => Ok(Labels::of(items)),
            Some(Column::Integer(items)) => Ok(frame::integer_labels(items)),
            Some(Column::Boolean(items)) => {
                let words: Vec<&str> = items.iter().map(|&item| frame::truth(item)).collect();
                Ok(Labels::of(&words))
            }
            Some(Column::Float(_)) => Err(Error::format(
                path,
                format!(
                    "column {column:?} holds decimal numbers, not labels; store it as text or categories"
                ),
            )),
            None => {
                let names: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
                Err(Error::format(path, missing_column(column, &names)))
            }
        }
    }
}

fn missing_column(column: &str, names: &[String]) -> String {
    let near = nearest(column, names);
    let hint = near.first().map_or(String::new(), |name| format!("; did you mean {name:?}?"));
    format!("unknown column {column:?}{hint} (the file has: {})", names.join(", "))
}

/// An open h5ad file.
pub struct H5ad {
    path: PathBuf,
    file: File,
    obs: Frame,
    var: Frame,
    cells: usize,
    genes: usize,
    matrix: Matrix,
}

impl H5ad {
    /// Opens a file with all its columns and its X.
    ///
    /// # Errors
    /// Not an h5ad file, an encoding this program does not read, or parts whose sizes disagree.
    pub fn open(path: &Path) -> Result<H5ad> {
        Self::open_part(path, None, "X")
    }

    /// Opens a file with some columns of `obs` only and without the cells' names: what a pass over many cells needs.
    /// `source` is `X`, `raw`, `layers/NAME` or `obsm/NAME`; `raw` and `obsm` bring their own genes.
    ///
    /// # Errors
    /// As [`H5ad::open`], and a column or source that the file lacks (the message lists those that exist).
    pub fn open_columns(path: &Path, columns: &[&str], source: &str) -> Result<H5ad> {
        Self::open_part(path, Some(columns), source)
    }

    fn open_part(path: &Path, columns: Option<&[&str]>, source: &str) -> Result<H5ad> {
        let file = open_hdf5(path)?;
        let root = hdf5::attributes(&file.root(), path, "the root")?;
        if let Some(kind) = root.get("encoding-type").and_then(|value| value.as_str())
            && kind != "anndata"
        {
            return Err(Error::format(path, format!("is HDF5 with encoding {kind:?}, not an h5ad file")));
        }
        let (obs, cells) = frame::read(&file, path, "obs", columns)?;
        let (var, matrix) = source::read(&file, path, source, cells)?;
        let genes = var.index.len();
        Ok(H5ad { path: path.to_path_buf(), file, obs, var, cells, genes, matrix })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cells.
    pub fn obs(&self) -> &Frame {
        &self.obs
    }

    /// The genes.
    pub fn var(&self) -> &Frame {
        &self.var
    }

    /// Number of cells and of genes.
    pub fn shape(&self) -> (usize, usize) {
        (self.cells, self.genes)
    }

    /// Whether there are counts in `raw`.
    pub fn has_raw(&self) -> bool {
        self.file.group("raw").is_ok() || self.file.dataset("raw.var").is_ok()
    }

    /// Name of cell `i`, read from the file where the names were not kept; its number where that fails.
    pub fn cell_name(&self, i: usize) -> String {
        let kept = self.obs.index.get(i).cloned();
        kept.or_else(|| frame::index_entry(&self.file, &self.path, "obs", i))
            .unwrap_or_else(|| format!("#{i}"))
    }

    /// Some rows of X.
    ///
    /// # Errors
    /// A file without X, row pointers out of order, gene numbers out of range, or an entry that is stored twice.
    pub fn rows(&self, range: Range<usize>) -> Result<Cells> {
        assert!(
            range.start <= range.end && range.end <= self.cells,
            "rows {range:?} of {} cells",
            self.cells
        );
        self.matrix.rows(&self.path, range, self.genes)
    }

    /// All of X, in row blocks of at most about 50 MB; CSC is transposed in windows that take under 1 GB, one pass over the
    /// file a window. Ends after the first error.
    pub fn blocks(&self) -> impl Iterator<Item = Result<(Range<usize>, Cells)>> {
        self.ranges()
            .map(|range| range.and_then(|range| Ok((range.clone(), self.rows(range)?))))
            .scan(false, ended)
    }

    /// The same blocks in the same order, some of them read ahead side by side (up to four, so 200 MB).
    pub fn blocks_ahead(&self) -> impl Iterator<Item = Result<(Range<usize>, Cells)>> {
        let side_by_side =
            if self.matrix.independent() { rayon::current_num_threads().clamp(1, 4) } else { 1 };
        let mut ranges = self.ranges();
        let next = std::iter::from_fn(move || {
            let some: Vec<Result<Range<usize>>> = ranges.by_ref().take(side_by_side).collect();
            let read =
                |range: Result<Range<usize>>| range.and_then(|range| Ok((range.clone(), self.rows(range)?)));
            let blocks: Vec<_> = some.into_par_iter().map(read).collect();
            (!blocks.is_empty()).then_some(blocks)
        });
        next.flatten().scan(false, ended)
    }

    /// Bounds of the row blocks.
    fn ranges(&self) -> impl Iterator<Item = Result<Range<usize>>> {
        let mut next = 0;
        std::iter::from_fn(move || {
            if next >= self.cells {
                return None;
            }
            let range = self.matrix.block_end(&self.path, next, self.cells, self.genes).map(|end| next..end);
            next = range.as_ref().map_or(self.cells, |range| range.end);
            Some(range)
        })
    }

    /// Whether `uns/log1p` exists: the field's mark for X on the log scale. Not a proof.
    pub fn is_logged(&self) -> bool {
        self.file.group("uns/log1p").is_ok() || self.file.dataset("uns/log1p").is_ok()
    }

    /// How X is stored: `CSR f32`, `CSC i64`, `dense f64`, `none`.
    pub fn storage(&self) -> &str {
        self.matrix.storage()
    }
}

/// Lets items through up to the first error.
fn ended<T>(over: &mut bool, item: Result<T>) -> Option<Result<T>> {
    let before = std::mem::replace(over, item.is_err());
    (!before).then_some(item)
}

fn open_hdf5(path: &Path) -> Result<File> {
    use crate::error::At;
    std::fs::File::open(path).at(path)?;
    // Metadata is asked for again and again (each column walks its group); data chunks are read once, but for the one a row
    // block ends in.
    let access = FileAccessProperties::new()
        .with_metadata_cache(MetadataCacheConfig::new(32 << 20).with_max_entry_bytes(1 << 20))
        .with_chunk_cache(ChunkCacheConfig::new().with_max_bytes(64 << 20).with_max_slots(4096));
    File::open_streaming_with_options(path, access).named(path, "this file")
}
