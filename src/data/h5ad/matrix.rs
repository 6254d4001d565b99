//! X in row windows: dense matrices and columns of a table here, CSR through [`super::sparse`], CSC through [`super::csc`].

use std::ops::Range;
use std::path::Path;

use super::array::Array;
use super::cells::{Cells, dense_rows, keep_columns, slice};
use super::csc::Csc;
use super::node::Node;
use super::sparse::{BLOCK_ENTRIES, Sparse};
use super::tokens::Tokens;
use crate::error::{Error, Result};

/// Most rows of a sparse block, however empty they are.
const BLOCK_ROWS: usize = 16_384;
/// Numbers per dense row block.
const BLOCK_NUMBERS: usize = 4 << 20;
/// Most numbers of one whose chunks are taller than that.
const TALL_NUMBERS: usize = 32 << 20;

pub(super) struct Matrix {
    kind: Kind,
    storage: String,
    /// Which columns are genes, if not all are.
    kept: Option<Kept>,
}

/// The columns of a matrix that are genes.
pub(super) struct Kept {
    /// Stored columns.
    pub all: usize,
    /// Gene of each stored column.
    pub place: Vec<Option<u32>>,
}

enum Kind {
    Csr(Sparse),
    Csc(Csc),
    Dense(Array),
    /// A table of numbers, one array per gene.
    Columns(Vec<Array>),
    Memory(Cells),
    Tokens(Tokens),
    Absent(String),
}

impl Matrix {
    /// Opens the matrix `name` (`X`, `layers/counts`) and checks its sizes; a file without X opens, but its rows cannot be read.
    pub(super) fn open(root: &Node, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        if let Some(dense) = root.find(name)? {
            check_shape(dense.shape(), shape).map_err(|what| dense.wrong(what))?;
            let storage = format!("dense {}", dense.word()?);
            return Ok(Matrix { kind: Kind::Dense(dense), storage, kept: None });
        }
        let Some(node) = root.find_inner(name)? else {
            if name != "X" {
                return Err(missing(root, name));
            }
            let (kind, storage) = (Kind::Absent(name.to_string()), "none".to_string());
            return Ok(Matrix { kind, storage, kept: None });
        };
        let (kind, stored) = layout(&node)?;
        let lines = match kind.as_str() {
            "csr" => shape,
            "csc" => [shape[1], shape[0]],
            "dataframe" => return Matrix::columns(&node, shape),
            other => {
                return Err(node.wrong(format!(
                    "has encoding {other:?}; only csr_matrix, csc_matrix and dense arrays can be read"
                )));
            }
        };
        check_shape(&stored, shape).map_err(|what| node.wrong(what))?;
        let sparse = Sparse::open(&node, lines)?;
        let storage = format!("{} {}", kind.to_uppercase(), sparse.data.word()?);
        let kind = if kind == "csr" { Kind::Csr(sparse) } else { Kind::Csc(Csc::new(sparse, shape)) };
        Ok(Matrix { kind, storage, kept: None })
    }

    /// The three arrays of a group as rows of cells, whatever layout the group claims; `shape` is cells and stored columns.
    pub(super) fn by_cells(node: &Node, shape: [usize; 2], kept: Kept) -> Result<Matrix> {
        let stored: Vec<i64> = node.array("shape")?.numbers(0, 2)?;
        let stored: Vec<u64> = stored.iter().rev().map(|&axis| axis as u64).collect();
        check_shape(&stored, shape).map_err(|what| node.wrong(what))?;
        let sparse = Sparse::open(node, shape)?;
        let storage = format!("CSR {}", sparse.data.word()?);
        Ok(Matrix { kind: Kind::Csr(sparse), storage, kept: Some(kept) })
    }

    /// A matrix that was read in full.
    pub(super) fn in_memory(cells: Cells, kept: Kept) -> Matrix {
        Matrix { kind: Kind::Memory(cells), storage: "MatrixMarket".to_string(), kept: Some(kept) }
    }

    /// Lists of tokens and counts.
    pub(super) fn of_tokens(tokens: Tokens) -> Matrix {
        Matrix { kind: Kind::Tokens(tokens), storage: "parquet lists".to_string(), kept: None }
    }

    pub(super) fn tokens(&self) -> Option<&Tokens> {
        match &self.kind {
            Kind::Tokens(tokens) => Some(tokens),
            _ => None,
        }
    }

    /// A table of numbers: one column per gene.
    fn columns(node: &Node, shape: [usize; 2]) -> Result<Matrix> {
        let names = node.columns()?.unwrap_or_default();
        let columns: Vec<Array> = names.iter().map(|column| node.array(column)).collect::<Result<_>>()?;
        let mut storage = "table".to_string();
        for column in &columns {
            let stored = [column.length()?, names.len() as u64];
            check_shape(&stored, shape).map_err(|what| node.wrong(what))?;
            storage = format!("table {}", column.word()?);
        }
        Ok(Matrix { kind: Kind::Columns(columns), storage, kept: None })
    }

    pub(super) fn storage(&self) -> &str {
        &self.storage
    }

    /// Stored entries, if the matrix is sparse.
    pub(super) fn entries(&self) -> Option<u64> {
        match &self.kind {
            Kind::Csr(sparse) => Some(sparse.entries),
            Kind::Csc(csc) => Some(csc.entries()),
            Kind::Memory(cells) => Some(cells.nnz() as u64),
            Kind::Tokens(tokens) => Some(tokens.entries()),
            Kind::Dense(_) | Kind::Columns(_) | Kind::Absent(_) => None,
        }
    }

    /// Some rows; `genes` is the source's number of genes.
    pub(super) fn rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        match &self.kept {
            Some(kept) => {
                let rows = self.stored_rows(path, range, kept.all)?;
                Ok(keep_columns(&rows, genes, |column| kept.place[column]))
            }
            None => self.stored_rows(path, range, genes),
        }
    }

    fn stored_rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        match &self.kind {
            Kind::Csr(sparse) => sparse.csr_rows(path, range),
            Kind::Csc(csc) => csc.rows(path, range),
            Kind::Dense(dense) => {
                let numbers = dense.values(range.start as u64, range.len() as u64)?;
                Ok(dense_rows(range.len(), genes, |row, gene| numbers[row * genes + gene]))
            }
            Kind::Columns(columns) => {
                let read = |column: &Array| column.values(range.start as u64, range.len() as u64);
                let columns: Vec<Vec<f32>> = columns.iter().map(read).collect::<Result<_>>()?;
                Ok(dense_rows(range.len(), genes, |row, gene| columns[gene][row]))
            }
            Kind::Memory(cells) => Ok(slice(cells, range)),
            Kind::Tokens(tokens) => tokens.rows(range, genes),
            Kind::Absent(name) => {
                let way = "choose another matrix with `preprocess::Settings::source` (raw or layers/NAME; `h5ad::describe` \
                           lists them)";
                let what = format!(
                    "has no {name}, and so no expression to read (links to other files are not followed)"
                );
                Err(Error::format(path, format!("{what}; {way}")))
            }
        }
    }

    /// How many row blocks may be read at once, for about as much memory as one of the usual size a thread takes: those of CSC
    /// share one window.
    pub(super) fn at_once(&self, threads: usize, genes: usize) -> Result<usize> {
        match &self.kind {
            Kind::Csc(_) => Ok(1),
            Kind::Dense(dense) => {
                let numbers = dense.chunk_rows()?.saturating_mul(genes).clamp(BLOCK_NUMBERS, TALL_NUMBERS);
                Ok((threads * BLOCK_NUMBERS).div_ceil(numbers))
            }
            _ => Ok(threads),
        }
    }

    /// End of the row block that starts at `start`, of bounded size in memory.
    pub(super) fn block_end(&self, start: usize, cells: usize, genes: usize) -> Result<usize> {
        match &self.kind {
            Kind::Csr(sparse) => {
                let most = cells.min(start + BLOCK_ROWS);
                let starts = sparse.starts(start..most)?;
                let fitting = starts.partition_point(|&end| end - starts[0] <= BLOCK_ENTRIES);
                Ok(start + (fitting - 1).max(1))
            }
            Kind::Csc(csc) => Ok(cells.min(start + csc.block_rows())),
            Kind::Memory(_) => Ok(cells.min(start + BLOCK_ROWS)),
            Kind::Tokens(tokens) => Ok(tokens.block_end(start)),
            Kind::Columns(_) => Ok(cells.min(start + (BLOCK_NUMBERS / genes.max(1)).max(1))),
            Kind::Dense(dense) => {
                let rows = |numbers: usize| (numbers / genes.max(1)).max(1);
                // A block that ends inside a chunk makes the next one decompress it again.
                let chunk = dense.chunk_rows()?;
                let whole = (start + rows(BLOCK_NUMBERS)) / chunk * chunk;
                let tall = (start / chunk + 1).saturating_mul(chunk).min(start + rows(TALL_NUMBERS));
                Ok(cells.min(if whole > start { whole } else { tall }))
            }
            Kind::Absent(_) => Ok(cells),
        }
    }
}

/// How a group stores a matrix (`csr`, `csc`, `dataframe` or whatever else it states), and its shape if stated.
fn layout(node: &Node) -> Result<(String, Vec<u64>)> {
    let kind = match node.encoding()?.as_str() {
        "csr_matrix" => "csr".to_string(),
        "csc_matrix" => "csc".to_string(),
        // Before anndata 0.7.
        "" => node.word("h5sparse_format")?.unwrap_or_default(),
        other => return Ok((other.to_string(), Vec::new())),
    };
    let attributes = node.attributes()?;
    let stored = attributes.get("shape").or(attributes.get("h5sparse_shape"));
    if let Some(shape) = stored.and_then(|value| value.to_u64s()) {
        return Ok((kind, shape));
    }
    // Some writers store the shape as an array next to the three.
    let shape = node.find("shape")?.ok_or_else(|| node.wrong("lacks the attribute shape"))?;
    let shape: Vec<i64> = shape.numbers(0, 2)?;
    Ok((kind, shape.into_iter().map(|axis| axis as u64).collect()))
}

/// Number of columns of a matrix of any storage, and their names if it is a table.
pub(super) fn width(root: &Node, name: &str) -> Result<(usize, Option<Vec<String>>)> {
    let axes = match root.find(name)? {
        Some(array) => array.shape().to_vec(),
        None => {
            let node = root.find_inner(name)?.ok_or_else(|| missing(root, name))?;
            let (kind, shape) = layout(&node)?;
            if kind == "dataframe" {
                let names = node.columns()?.unwrap_or_default();
                return Ok((names.len(), Some(names)));
            }
            shape
        }
    };
    match axes.as_slice() {
        [_, columns] => Ok((*columns as usize, None)),
        axes => Err(root.wrong(format!("{name} has shape {axes:?}, but two axes are expected"))),
    }
}

/// What is wrong with a shape, if it is not `shape`.
fn check_shape(stored: &[u64], shape: [usize; 2]) -> std::result::Result<(), String> {
    if stored != shape.map(|axis| axis as u64) {
        let [cells, genes] = shape;
        return Err(format!(
            "has shape {stored:?}, but there are {cells} cells in obs and {genes} genes in var"
        ));
    }
    Ok(())
}

/// The error for a matrix that is not there: it names what else is stored where it was expected.
fn missing(root: &Node, name: &str) -> Error {
    let place = name.split('/').next().unwrap_or_default();
    let mut names = Vec::new();
    if let Ok(group) = root.group.group(place) {
        names = group.groups().unwrap_or_default();
        names.extend(group.datasets().unwrap_or_default());
        names.sort();
    }
    let others =
        if names.is_empty() { String::new() } else { format!("; {place} has: {}", names.join(", ")) };
    root.wrong(format!("has no matrix {name}{others}; links to other files are not followed"))
}
