//! X in row windows: CSR, dense and the columns of a table here, CSC through [`super::csc`].

use std::ops::Range;
use std::path::Path;

use hdf5_pure::{File, Group};

use super::Cells;
use super::array::Array;
use super::csc::Csc;
use super::hdf5::{Named, array, attributes, encoding};
use crate::error::{Error, Result};

/// Stored entries of a sparse row block, up to 20 bytes each while they are read.
pub(super) const BLOCK_ENTRIES: u64 = 2 << 20;
/// Rows of a sparse block, however empty they are.
const BLOCK_ROWS: usize = 16_384;
/// Numbers of a dense row block.
const BLOCK_NUMBERS: usize = 4 << 20;

pub(super) struct Matrix {
    kind: Kind,
    storage: String,
}

enum Kind {
    Csr(Sparse),
    Csc(Csc),
    Dense(Array),
    /// A table of numbers, one array a gene.
    Columns(Vec<Array>),
    Absent(String),
}

/// The three arrays of a compressed matrix.
pub(super) struct Sparse {
    data: Array,
    indices: Array,
    indptr: Array,
    pub(super) entries: u64,
}

impl Matrix {
    /// Opens the matrix `name` (`X`, `layers/counts`) and checks its sizes; a file without X opens, its rows do not.
    pub(super) fn open(file: &File, path: &Path, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        if let Ok(dataset) = file.dataset(name) {
            let dense = Array::new(dataset, path, name)?;
            check_shape(path, name, dense.shape(), shape)?;
            let storage = format!("dense {}", dense.word()?);
            return Ok(Matrix { kind: Kind::Dense(dense), storage });
        }
        let Ok(group) = file.group(name) else {
            if name != "X" {
                return Err(Error::format(path, format!("has no matrix {name}{}", others(file, name))));
            }
            return Ok(Matrix { kind: Kind::Absent(name.to_string()), storage: "none".to_string() });
        };
        let (kind, stored) = layout(&group, path, name)?;
        let outer = match kind.as_str() {
            "csr" => shape[0],
            "csc" => shape[1],
            "dataframe" => return Matrix::columns(&group, path, name, shape),
            other => {
                let what = format!(
                    "{name} has encoding {other:?}; read are csr_matrix, csc_matrix and dense arrays"
                );
                return Err(Error::format(path, what));
            }
        };
        check_shape(path, name, &stored, shape)?;
        let part = |part: &str| array(&group, path, name, part);
        let sparse = Sparse::open([part("data")?, part("indices")?, part("indptr")?], path, name, outer)?;
        let storage = format!("{} {}", kind.to_uppercase(), sparse.data.word()?);
        let kind = if kind == "csr" { Kind::Csr(sparse) } else { Kind::Csc(Csc::new(sparse, shape)) };
        Ok(Matrix { kind, storage })
    }

    /// A table of numbers: one column a gene.
    fn columns(group: &Group, path: &Path, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        let names = column_names(group, path, name)?;
        let columns: Vec<Array> =
            names.iter().map(|column| array(group, path, name, column)).collect::<Result<_>>()?;
        let mut storage = "table".to_string();
        for column in &columns {
            check_shape(path, name, &[column.length()?, names.len() as u64], shape)?;
            storage = format!("table {}", column.word()?);
        }
        Ok(Matrix { kind: Kind::Columns(columns), storage })
    }

    pub(super) fn storage(&self) -> &str {
        &self.storage
    }

    /// Stored entries, where the matrix is sparse.
    pub(super) fn entries(&self) -> Option<u64> {
        match &self.kind {
            Kind::Csr(sparse) => Some(sparse.entries),
            Kind::Csc(csc) => Some(csc.entries()),
            Kind::Dense(_) | Kind::Columns(_) | Kind::Absent(_) => None,
        }
    }

    pub(super) fn rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        match &self.kind {
            Kind::Csr(sparse) => sparse.csr_rows(path, range, genes),
            Kind::Csc(csc) => csc.rows(path, range),
            Kind::Dense(dense) => {
                let numbers = dense.numbers(range.start as u64, range.len() as u64)?;
                Ok(dense_rows(range.len(), genes, |row, gene| numbers[row * genes + gene]))
            }
            Kind::Columns(columns) => {
                let read = |column: &Array| column.numbers(range.start as u64, range.len() as u64);
                let columns: Vec<Vec<f32>> = columns.iter().map(read).collect::<Result<_>>()?;
                Ok(dense_rows(range.len(), genes, |row, gene| columns[gene][row]))
            }
            Kind::Absent(name) => {
                Err(Error::format(path, format!("has no {name}, so no expression to read")))
            }
        }
    }

    /// Whether row blocks can be read side by side: CSC shares one window.
    pub(super) fn independent(&self) -> bool {
        !matches!(self.kind, Kind::Csc(_))
    }

    /// End of the row block that starts at `start`, of bounded size in memory.
    pub(super) fn block_end(&self, path: &Path, start: usize, cells: usize, genes: usize) -> Result<usize> {
        match &self.kind {
            Kind::Csr(sparse) => {
                let most = cells.min(start + BLOCK_ROWS);
                let starts = sparse.starts(path, start..most)?;
                let fitting = starts.partition_point(|&end| end - starts[0] <= BLOCK_ENTRIES);
                Ok(start + (fitting - 1).max(1))
            }
            Kind::Csc(csc) => Ok(cells.min(start + csc.block_rows())),
            Kind::Columns(_) => Ok(cells.min(start + (BLOCK_NUMBERS / genes.max(1)).max(1))),
            Kind::Dense(dense) => {
                let rows = (BLOCK_NUMBERS / genes.max(1)).max(1);
                // A block that ends inside a chunk makes the next one decompress it again.
                let chunk = dense.chunk_rows()?;
                let whole = if rows >= chunk { rows / chunk * chunk } else { rows };
                Ok(cells.min(start + whole))
            }
            Kind::Absent(_) => Ok(cells),
        }
    }
}

impl Sparse {
    fn open(parts: [Array; 3], path: &Path, name: &str, outer: usize) -> Result<Sparse> {
        let [data, indices, indptr] = parts;
        let (entries, indexed, pointers) = (data.length()?, indices.length()?, indptr.length()?);
        if indexed != entries || pointers != outer as u64 + 1 {
            let what = format!(
                "{name} has {entries} values, {indexed} indices and {pointers} pointers; right are equal numbers of the first \
                 two and {} pointers",
                outer + 1
            );
            return Err(Error::format(path, what));
        }
        if let Some(part) = [&indices, &indptr]
            .into_iter()
            .find(|part| !matches!(part.word(), Ok(word) if !word.starts_with('f')))
        {
            return Err(part.wrong("holds no whole numbers".to_string()));
        }
        let sparse = Sparse { data, indices, indptr, entries };
        let ends = [sparse.starts(path, 0..0)?[0], sparse.starts(path, outer..outer)?[0]];
        if ends != [0, entries] {
            let what = format!("{name}/indptr runs from {} to {}, not from 0 to {entries}", ends[0], ends[1]);
            return Err(Error::format(path, what));
        }
        Ok(sparse)
    }

    /// Where the outer lines of `range` start in the data, and where the last ends: `range.len() + 1` rising offsets.
    pub(super) fn starts(&self, path: &Path, range: Range<usize>) -> Result<Vec<u64>> {
        let starts: Vec<i64> = self.indptr.numbers(range.start as u64, range.len() as u64 + 1)?;
        let rising = starts.windows(2).all(|pair| pair[0] <= pair[1]);
        if !rising || starts[0] < 0 || starts[starts.len() - 1] > self.entries as i64 {
            let what = format!(
                "X/indptr is out of order or out of range between rows {} and {}",
                range.start, range.end
            );
            return Err(Error::format(path, what));
        }
        Ok(starts.into_iter().map(|start| start as u64).collect())
    }

    /// Inner positions (below `inner`) of a range of entries.
    pub(super) fn positions(&self, path: &Path, range: Range<u64>, inner: usize) -> Result<Vec<u32>> {
        let (start, count) = (range.start, range.end - range.start);
        // Half the memory of 64-bit positions; what is none has become the greatest number.
        let places: Vec<u32> = self.indices.numbers(start, count)?;
        if let Some(at) = places.iter().position(|&place| place as usize >= inner) {
            let stored: Vec<i64> = self.indices.numbers(start + at as u64, 1)?;
            return Err(Error::format(path, format!("X/indices holds {}, outside 0..{inner}", stored[0])));
        }
        Ok(places)
    }

    /// Values of a range of entries.
    pub(super) fn values(&self, range: Range<u64>) -> Result<Vec<f32>> {
        self.data.numbers(range.start, range.end - range.start)
    }

    fn csr_rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        let starts = self.starts(path, range.clone())?;
        let (first, last) = (starts[0], starts[starts.len() - 1]);
        // Unpacking is what costs, and the two arrays are independent.
        let (columns, values) =
            rayon::join(|| self.positions(path, first..last, genes), || self.values(first..last));
        let (columns, values) = (columns?, values?);
        let bounds: Vec<usize> = starts.iter().map(|start| (start - first) as usize).collect();
        compress(path, range.start, &bounds, columns, values, genes)
    }
}

/// Rows as [`Cells`]: sorted within a row, zeros dropped, an entry stored twice refused. `first` is the number of row 0.
pub(super) fn compress(
    path: &Path,
    first: usize,
    bounds: &[usize],
    mut columns: Vec<u32>,
    mut values: Vec<f32>,
    genes: usize,
) -> Result<Cells> {
    let mut kept = 0;
    let mut indptr = Vec::with_capacity(bounds.len());
    indptr.push(0);
    let mut pairs: Vec<(u32, f32)> = Vec::new();
    for (row, bound) in bounds.windows(2).enumerate() {
        let span = bound[0]..bound[1];
        if columns[span.clone()].windows(2).any(|pair| pair[0] >= pair[1]) {
            pairs.clear();
            pairs.extend(columns[span.clone()].iter().copied().zip(values[span.clone()].iter().copied()));
            pairs.sort_unstable_by_key(|&(column, _)| column);
            if let Some(twice) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                let what = format!(
                    "X stores gene number {} of cell number {} twice; sum or drop the copies (scipy: X.sum_duplicates()) and write it again",
                    twice[0].0,
                    first + row
                );
                return Err(Error::format(path, what));
            }
            for (i, &(column, value)) in pairs.iter().enumerate() {
                columns[span.start + i] = column;
                values[span.start + i] = value;
            }
        }
        for i in span {
            if values[i] != 0.0 {
                (columns[kept], values[kept]) = (columns[i], values[i]);
                kept += 1;
            }
        }
        indptr.push(kept);
    }
    columns.truncate(kept);
    values.truncate(kept);
    Ok(Cells::new((bounds.len() - 1, genes), indptr, columns, values))
}

/// Numbers of some rows as [`Cells`]; `at` gives that of a row and a gene.
fn dense_rows(rows: usize, genes: usize, at: impl Fn(usize, usize) -> f32) -> Cells {
    let mut indptr = Vec::with_capacity(rows + 1);
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    indptr.push(0);
    for row in 0..rows {
        for gene in 0..genes {
            let value = at(row, gene);
            if value != 0.0 {
                columns.push(gene as u32);
                values.push(value);
            }
        }
        indptr.push(values.len());
    }
    Cells::new((rows, genes), indptr, columns, values)
}

/// How a group stores a matrix (`csr`, `csc`, `dataframe` or what else it says), and its shape where that is told.
fn layout(group: &Group, path: &Path, name: &str) -> Result<(String, Vec<u64>)> {
    let attributes = attributes(group, path, name)?;
    let kind = match encoding(&attributes).as_str() {
        "csr_matrix" => "csr".to_string(),
        "csc_matrix" => "csc".to_string(),
        // Before anndata 0.7.
        "" => attributes.get("h5sparse_format").and_then(|v| v.as_str()).unwrap_or_default().to_string(),
        other => return Ok((other.to_string(), Vec::new())),
    };
    let stored = attributes.get("shape").or(attributes.get("h5sparse_shape"));
    match stored.and_then(|value| value.to_u64s()) {
        Some(shape) => Ok((kind, shape)),
        // Some writers store the shape as an array beside the three.
        None if group.dataset("shape").is_ok() => {
            let shape: Vec<i64> = array(group, path, name, "shape")?.numbers(0, 2)?;
            Ok((kind, shape.into_iter().map(|axis| axis as u64).collect()))
        }
        None => Err(Error::format(path, format!("{name} lacks the attribute shape"))),
    }
}

/// Columns of a matrix of any storage, and their names where it is a table.
pub(super) fn width(file: &File, path: &Path, name: &str) -> Result<(usize, Option<Vec<String>>)> {
    let axes = match file.dataset(name) {
        Ok(dataset) => dataset.shape().named(path, name)?,
        Err(_) => {
            let Ok(group) = file.group(name) else {
                return Err(Error::format(path, format!("has no matrix {name}{}", others(file, name))));
            };
            let (kind, shape) = layout(&group, path, name)?;
            if kind == "dataframe" {
                let names = column_names(&group, path, name)?;
                return Ok((names.len(), Some(names)));
            }
            shape
        }
    };
    match axes.as_slice() {
        [_, columns] => Ok((*columns as usize, None)),
        axes => Err(Error::format(path, format!("{name} has shape {axes:?} where two axes are right"))),
    }
}

fn column_names(group: &Group, path: &Path, name: &str) -> Result<Vec<String>> {
    let attributes = attributes(group, path, name)?;
    let names = attributes.get("column-order").and_then(|value| value.as_strings());
    Ok(names.map(<[String]>::to_vec).unwrap_or_default())
}

fn check_shape(path: &Path, name: &str, stored: &[u64], shape: [usize; 2]) -> Result<()> {
    if stored != shape.map(|axis| axis as u64) {
        let what = format!(
            "{name} has shape {stored:?}, but there are {} cells in obs and {} genes in var",
            shape[0], shape[1]
        );
        return Err(Error::format(path, what));
    }
    Ok(())
}

/// What else lies where the matrix was looked for.
fn others(file: &File, name: &str) -> String {
    let place = name.split('/').next().unwrap_or_default();
    let Ok(group) = file.group(place) else { return String::new() };
    let mut names = group.groups().unwrap_or_default();
    names.extend(group.datasets().unwrap_or_default());
    names.sort();
    if names.is_empty() { String::new() } else { format!("; {place} has: {}", names.join(", ")) }
}
