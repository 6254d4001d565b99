//! AnnData files (`.h5ad`): cells, genes and an expression matrix in HDF5. 10x output (`.h5` files and `mtx` folders) is read
//! as such a file without labels, the parquet shards of Tahoe-100M as one with labels.
//!
//! Reads everything that any version of anndata has written: X as CSR, CSC or dense numbers of any width, `obs` and `var` as
//! frames of categorical, text, numeric, boolean and nullable columns or as compound tables (before 0.7), compressed with
//! gzip, lzf or zstd. X is never read whole: [`H5ad::blocks`] reads it in row blocks of bounded size, whatever the number of
//! cells. Numbers are read as f32; a stored zero is dropped, NaN and infinities are kept.
//!
//! ```
//! use std::path::Path;
//!
//! use scale_engine::data::h5ad::{Column, Frame, H5ad, Labels, X, cells, write};
//!
//! # fn main() -> scale_engine::error::Result<()> {
//! let path = Path::new("cells.h5ad");
//! # let dir = tempfile::tempdir().expect("a folder");
//! # let path = &dir.path().join(path);
//! let named = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
//! let drug = ("drug".to_string(), Column::Categorical(Labels::of(&["DMSO", "A"])));
//! let obs = Frame { index: named(&["AAAC-1", "AAAG-1"]), columns: vec![drug] };
//! let var = Frame { index: named(&["MYC", "TP53", "ACTB"]), columns: Vec::new() };
//! // CSR: where rows end, genes and values.
//! let x = cells((2, 3), vec![0, 2, 3], vec![0, 2, 1], vec![3.0, 1.0, 7.0])?;
//! write(path, &obs, &var, X::Sparse(&x), &[])?;
//!
//! let file = H5ad::open(path)?;
//! assert_eq!(file.labels("drug")?.get(1), Some("A"));
//! for block in file.blocks() {
//!     let (rows, cells) = block?;
//!     assert_eq!((rows, cells), (0..2, x.clone()));
//! }
//! # Ok(())
//! # }
//! ```

mod array;
mod cells;
mod chunks;
mod column;
mod compound;
mod csc;
mod describe;
mod frame;
mod hdf5;
mod heap;
mod matrix;
mod mtx;
mod names;
mod node;
mod number;
mod source;
mod sparse;
mod tahoe;
mod tenx;
mod tokens;
mod write;

use std::ops::Range;
use std::path::{Path, PathBuf};

use hdf5_pure::{ChunkCacheConfig, File, FileAccessProperties, MetadataCacheConfig};

use crate::data::in_order::in_order;
use crate::error::{Error, Result};
use hdf5::{Named, there};
use matrix::Matrix;
use node::Node;

pub use cells::{Cells, cells};
pub(crate) use cells::{keep_columns, unfit, unfit_genes};
pub use column::{Column, Frame, Labels};
pub(crate) use column::{Growing, make_unique, recoded};
pub use describe::describe;
pub(crate) use hdf5::is_hdf5;
pub use mtx::find_mtx;
pub use names::CellNames;
#[cfg(feature = "parquet")]
pub(crate) use number::spelled;
pub use write::{Extra, Writer, X, write};

/// Whether a path is a parquet file, or a folder with parquet files.
pub fn is_parquet(path: &Path) -> bool {
    tahoe::shards(path).is_ok_and(|shards| !shards.is_empty())
}

/// The file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    H5ad,
    TenX,
    Mtx,
    Tahoe,
}

/// An open h5ad file, or an opened input of another format that is read as one.
pub struct H5ad {
    path: PathBuf,
    format: Format,
    /// `None` if everything is in memory.
    file: Option<File>,
    obs: Frame,
    var: Frame,
    cells: usize,
    matrix: Matrix,
    /// Messages for the user.
    notes: Vec<String>,
}

brief!(H5ad, |file| path: file.path, cells: file.cells, genes: file.shape().1, storage: file.storage());

impl H5ad {
    /// Opens a file with all columns and X.
    ///
    /// # Errors
    /// Not an h5ad file, an encoding this program does not read, or parts whose sizes disagree.
    pub fn open(path: &Path) -> Result<H5ad> {
        Self::open_source(path, "X")
    }

    /// Opens a file with all columns and another matrix than X: `source` as in [`H5ad::open_columns`].
    ///
    /// # Errors
    /// As [`H5ad::open`], and a source that the file lacks.
    pub fn open_source(path: &Path, source: &str) -> Result<H5ad> {
        Self::open_part(path, None, source)
    }

    /// Opens a file with only some columns of `obs` and without the cell names, as suits a pass over many cells.
    /// `source` is `X`, `raw`, `layers/NAME` or `obsm/NAME`; `raw` and `obsm` bring their own genes.
    ///
    /// # Errors
    /// As [`H5ad::open`], and a column or source that the file lacks (the message lists those that exist).
    pub fn open_columns(path: &Path, columns: &[&str], source: &str) -> Result<H5ad> {
        Self::open_part(path, Some(columns), source)
    }

    fn open_part(path: &Path, columns: Option<&[&str]>, source: &str) -> Result<H5ad> {
        if source.is_empty() {
            return Err(Error::setting(
                "source",
                "is empty; name a matrix: X, raw, layers/NAME or obsm/NAME",
            ));
        }
        if let Some(matrix) = find_mtx(path)? {
            tenx::plain(path, columns, source)?;
            return mtx::open(path, &matrix);
        }
        let shards = tahoe::shards(path)?;
        if !shards.is_empty() {
            return tahoe::open(path, &shards, columns, source);
        }
        if path.is_dir() {
            let what = "is a folder without a matrix.mtx or parquet files: name a file, a 10x folder or a \
                        folder of Tahoe's shards";
            return Err(Error::format(path, what));
        }
        let file = open_hdf5(path)?;
        let groups = tenx::groups(&file);
        if !groups.is_empty() {
            tenx::plain(path, columns, source)?;
            return tenx::open(file, path, &groups);
        }
        let root = Node::root(&file, path);
        if let Some(kind) = root.word("encoding-type")?.filter(|kind| kind != "anndata") {
            let way = match kind.as_str() {
                "MuData" => {
                    "; write the modality of the counts as one (muon.read(..)[\"rna\"].write_h5ad(\"rna.h5ad\"))"
                }
                _ => "",
            };
            return Err(root.wrong(format!("is HDF5 with encoding {kind:?}, not an h5ad file{way}")));
        }
        let (obs, cells) = frame::read(&root, "obs", columns)?;
        let (var, matrix) = source::read(&root, source, cells)?;
        let (path, format, file, notes) = (path.to_path_buf(), Format::H5ad, Some(file), Vec::new());
        Ok(H5ad { path, format, file, obs, var, cells, matrix, notes })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The cells.
    pub fn obs(&self) -> &Frame {
        &self.obs
    }

    /// A column of obs as labels, by [`Frame::labels`].
    ///
    /// # Errors
    /// As there.
    pub fn labels(&self, column: &str) -> Result<Labels> {
        self.obs.labels(&self.path, column)
    }

    /// A column of obs as numbers, by [`Frame::numbers`].
    ///
    /// # Errors
    /// As there.
    pub fn numbers(&self, column: &str) -> Result<Vec<f32>> {
        self.obs.numbers(&self.path, column)
    }

    /// Frees the memory of the columns of `obs`.
    pub(crate) fn forget_columns(&mut self) {
        self.obs.columns = Vec::new();
    }

    /// The genes.
    pub fn var(&self) -> &Frame {
        &self.var
    }

    /// Number of cells and of genes.
    pub fn shape(&self) -> (usize, usize) {
        (self.cells, self.var.index.len())
    }

    /// Whether the file has a `raw` matrix.
    pub fn has_raw(&self) -> bool {
        self.holds("raw") || self.holds("raw.var")
    }

    /// Name of cell `i`, read from the file if the names were not kept; its number if that fails.
    pub fn cell_name(&self, i: usize) -> String {
        let read = || self.cell_names(i..i.checked_add(1)?).ok()?.1.pop();
        self.obs.index.get(i).cloned().or_else(read).unwrap_or_else(|| format!("#{i}"))
    }

    /// The name of the `obs` index, and the names of some cells, read from the file if they were not kept.
    ///
    /// # Errors
    /// Rows that the file does not have; an index that is not text or cannot be read.
    pub fn cell_names(&self, rows: Range<usize>) -> Result<(String, Vec<String>)> {
        self.check(&rows)?;
        match (&self.file, self.matrix.tokens()) {
            (_, Some(tokens)) => tokens.names(rows),
            (Some(file), None) if self.format == Format::H5ad => {
                frame::index(&Node::root(file, &self.path), "obs", rows)
            }
            _ => Ok(("barcode".to_string(), self.obs.index[rows].to_vec())),
        }
    }

    /// Some rows of X.
    ///
    /// # Errors
    /// Rows that the file does not have, a file without X, row pointers out of order, gene numbers out of range, or an entry that
    /// is stored twice.
    pub fn rows(&self, range: Range<usize>) -> Result<Cells> {
        self.check(&range)?;
        self.matrix.rows(&self.path, range, self.shape().1)
    }

    /// Refuses rows that the file does not have.
    fn check(&self, rows: &Range<usize>) -> Result<()> {
        if rows.start <= rows.end && rows.end <= self.cells {
            return Ok(());
        }
        Err(Error::format(&self.path, format!("has {} cells, but rows {rows:?} are wanted", self.cells)))
    }

    /// All of X, in row blocks of at most about 50 MB, 200 MB where dense chunks are tall; CSC is transposed in windows of up
    /// to an eighth of the machine's memory, with one pass over the file per window. Ends after the first error.
    pub fn blocks(&self) -> impl Iterator<Item = Result<(Range<usize>, Cells)>> {
        self.ranges(0..self.cells)
            .map(|range| range.and_then(|range| Ok((range.clone(), self.rows(range)?))))
            .scan(false, ended)
    }

    /// Cuts some rows into the same blocks as [`H5ad::blocks`] and passes each block's bounds to `make`, which may read it,
    /// in parallel (large blocks fewer at a time, those of CSC one after another); passes the results to `take`, in order.
    /// Memory holds up to twice as many results as are made at a time.
    ///
    /// # Errors
    /// Rows that the file does not have, or else the first in row order.
    pub fn blocks_ahead<T: Send>(
        &self,
        rows: Range<usize>,
        make: impl Fn(Range<usize>) -> Result<T> + Sync,
        take: impl FnMut(T) -> Result<()> + Send,
    ) -> Result<()> {
        self.check(&rows)?;
        let threads = rayon::current_num_threads();
        let at_once = self.matrix.at_once(threads, self.shape().1)?;
        let mut ranges = self.ranges(rows);
        in_order(threads, at_once, move || ranges.next(), make, take)
    }

    /// Bounds of the row blocks of some rows.
    fn ranges(&self, rows: Range<usize>) -> impl Iterator<Item = Result<Range<usize>>> {
        let mut next = rows.start;
        std::iter::from_fn(move || {
            if next >= rows.end {
                return None;
            }
            let range = self.matrix.block_end(next, rows.end, self.shape().1).map(|end| next..end);
            next = range.as_ref().map_or(rows.end, |range| range.end);
            Some(range)
        })
    }

    /// Whether `uns/log1p` exists: the field's mark for X on the log scale. A hint, not a proof.
    pub fn is_logged(&self) -> bool {
        self.holds("uns/log1p")
    }

    /// The base of the logarithm if the file names one (`uns/log1p/base`, as scanpy writes it); an absent base means e.
    pub fn log_base(&self) -> Option<f64> {
        let base = self.file.as_ref()?.dataset("uns/log1p/base").ok()?;
        let float = base.read_f64().ok().and_then(|read| read.first().copied());
        float.or_else(|| base.read_i64().ok()?.first().map(|&base| base as f64))
    }

    /// Total to which the cells were scaled before the logarithm, if one of our own commands wrote the file and knew it.
    pub fn log_target(&self) -> Option<f64> {
        self.told("program")?;
        let told = self.file.as_ref()?.dataset("uns/log1p/target_sum").ok()?;
        let told = f64::from(*told.read_f32().ok()?.first()?);
        (told > 0.0 && told.is_finite()).then_some(told)
    }

    /// Checks that an output may replace what is at its path: an h5ad of another program may hold cells that exist nowhere else.
    ///
    /// # Errors
    /// A file, not empty, that cannot be read or does not say that this program wrote it.
    pub fn replaceable(path: &Path) -> Result<()> {
        if !path.metadata().is_ok_and(|there| there.is_file() && there.len() > 0) {
            return Ok(());
        }
        let kept = "so it is not replaced; remove it or name another file";
        match H5ad::open_columns(path, &[], "X") {
            Ok(file) if file.holds("uns/scale_engine") || file.holds("uns/simulation") => Ok(()),
            Ok(_) => Err(Error::format(path, format!("does not say that scale-engine wrote it, {kept}"))),
            Err(why) => Err(Error::format(path, format!("cannot be read ({why}), {kept}"))),
        }
    }

    /// The same for an output that is a text, which may replace another text: nobody keeps measured cells in one by that name.
    ///
    /// # Errors
    /// As [`H5ad::replaceable`], of what is an HDF5 file or is named like an h5ad.
    pub fn replaceable_by_text(path: &Path) -> Result<()> {
        let named = path.extension().is_some_and(|end| end == "h5ad" || end == "h5");
        if named || is_hdf5(path) { H5ad::replaceable(path) } else { Ok(()) }
    }

    /// What one of our own commands recorded about the file under `uns/scale_engine`.
    pub fn told(&self, name: &str) -> Option<String> {
        let told = self.file.as_ref()?.dataset(&format!("uns/scale_engine/{name}")).ok()?;
        told.read_string().ok()?.into_iter().next()
    }

    /// Whether the file has a group or dataset of this name, readable or not.
    fn holds(&self, name: &str) -> bool {
        let absent = |file: &File| {
            matches!(there(file.group(name)), Ok(None)) && matches!(there(file.dataset(name)), Ok(None))
        };
        self.file.as_ref().is_some_and(|file| !absent(file))
    }

    /// What the user should know about how the file was read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Entries that X stores, explicit zeros included; `None` if it is dense or absent.
    pub fn stored(&self) -> Option<u64> {
        self.matrix.entries()
    }

    /// How X is stored: `CSR f32`, `CSC i64`, `dense f64`, `none`.
    pub fn storage(&self) -> &str {
        self.matrix.storage()
    }
}

/// Passes items on up to and including the first error.
fn ended<T>(over: &mut bool, item: Result<T>) -> Option<Result<T>> {
    let before = std::mem::replace(over, item.is_err());
    (!before).then_some(item)
}

fn open_hdf5(path: &Path) -> Result<File> {
    use crate::error::At;
    std::fs::File::open(path).at(path)?;
    hdf5::whole(path)?;
    // Metadata is requested again and again (each column walks its group); data chunks are read once,
    // except the one that a row block ends in.
    let access = FileAccessProperties::new()
        .with_metadata_cache(MetadataCacheConfig::new(32 << 20).with_max_entry_bytes(1 << 20))
        .with_chunk_cache(ChunkCacheConfig::new().with_max_bytes(64 << 20).with_max_slots(4096));
    File::open_streaming_with_options(path, access).named(path, "this file")
}
