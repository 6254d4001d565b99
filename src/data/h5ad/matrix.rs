//! X in row windows: CSR and dense here, CSC through [`super::csc`].

use std::ops::Range;
use std::path::Path;

use hdf5_pure::{DType, Dataset, File};

use super::Cells;
use super::csc::Csc;
use super::hdf5::{Named, attributes, encoding, is_integer, length};
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
    Dense(Dataset),
    Absent(String),
}

/// The three arrays of a compressed matrix.
pub(super) struct Sparse {
    data: Dataset,
    indices: Dataset,
    indptr: Dataset,
    narrow: bool,
    pub(super) entries: u64,
}

impl Matrix {
    /// Opens the matrix `name` (`X`, `layers/counts`) and checks its sizes; a file without X opens, its rows do not.
    pub(super) fn open(file: &File, path: &Path, name: &str, shape: [usize; 2]) -> Result<Matrix> {
        if let Ok(dataset) = file.dataset(name) {
            let stored = dataset.shape().named(path, name)?;
            check_shape(path, name, &stored, shape)?;
            let storage = format!("dense {}", dtype(&dataset, path, name)?);
            return Ok(Matrix { kind: Kind::Dense(dataset), storage });
        }
        let Ok(group) = file.group(name) else {
            if name != "X" {
                return Err(Error::format(path, format!("has no matrix {name}{}", layers(file))));
            }
            return Ok(Matrix { kind: Kind::Absent(name.to_string()), storage: "none".to_string() });
        };
        let attributes = attributes(&group, path, name)?;
        let stored =
            attributes.get("shape").or(attributes.get("h5sparse_shape")).and_then(|value| value.to_u64s());
        let stored =
            stored.ok_or_else(|| Error::format(path, format!("{name} lacks the attribute shape")))?;
        check_shape(path, name, &stored, shape)?;
        let kind = match encoding(&attributes).as_str() {
            "csr_matrix" => "csr".to_string(),
            "csc_matrix" => "csc".to_string(),
            "" => attributes.get("h5sparse_format").and_then(|v| v.as_str()).unwrap_or_default().to_string(),
            other => other.to_string(),
        };
        let outer = match kind.as_str() {
            "csr" => shape[0],
            "csc" => shape[1],
            other => {
                let what = format!(
                    "{name} has encoding {other:?}; read are csr_matrix, csc_matrix and dense arrays"
                );
                return Err(Error::format(path, what));
            }
        };
        let part = |part: &str| group.dataset(part).named(path, &format!("{name}/{part}"));
        let sparse = Sparse::open([part("data")?, part("indices")?, part("indptr")?], path, name, outer)?;
        let storage = format!("{} {}", kind.to_uppercase(), dtype(&sparse.data, path, name)?);
        let kind = if kind == "csr" { Kind::Csr(sparse) } else { Kind::Csc(Csc::new(sparse, shape)) };
        Ok(Matrix { kind, storage })
    }

    pub(super) fn storage(&self) -> &str {
        &self.storage
    }

    /// Stored entries, where the matrix is sparse.
    pub(super) fn entries(&self) -> Option<u64> {
        match &self.kind {
            Kind::Csr(sparse) => Some(sparse.entries),
            Kind::Csc(csc) => Some(csc.entries()),
            Kind::Dense(_) | Kind::Absent(_) => None,
        }
    }

    pub(super) fn rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        match &self.kind {
            Kind::Csr(sparse) => sparse.csr_rows(path, range, genes),
            Kind::Csc(csc) => csc.rows(path, range),
            Kind::Dense(dataset) => dense_rows(dataset, path, range, genes),
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
            Kind::Dense(dataset) => {
                let rows = (BLOCK_NUMBERS / genes.max(1)).max(1);
                // A block that ends inside a chunk makes the next one decompress it again.
                let chunk =
                    dataset.chunk_shape().named(path, "X")?.map_or(1, |shape| shape[0].max(1) as usize);
                let whole = if rows >= chunk { rows / chunk * chunk } else { rows };
                Ok(cells.min(start + whole))
            }
            Kind::Absent(_) => Ok(cells),
        }
    }
}

impl Sparse {
    fn open(parts: [Dataset; 3], path: &Path, name: &str, outer: usize) -> Result<Sparse> {
        let [data, indices, indptr] = parts;
        let entries = length(&data, path, &format!("{name}/data"))?;
        let indexed = length(&indices, path, &format!("{name}/indices"))?;
        let pointers = length(&indptr, path, &format!("{name}/indptr"))?;
        if indexed != entries || pointers != outer as u64 + 1 {
            let what = format!(
                "{name} has {entries} values, {indexed} indices and {pointers} pointers; right are equal numbers of the first \
                 two and {} pointers",
                outer + 1
            );
            return Err(Error::format(path, what));
        }
        let narrow = indices.dtype().named(path, name)? == DType::I32;
        let sparse = Sparse { data, indices, indptr, narrow, entries };
        let ends = [sparse.starts(path, 0..0)?[0], sparse.starts(path, outer..outer)?[0]];
        if ends != [0, entries] {
            let what = format!("{name}/indptr runs from {} to {}, not from 0 to {entries}", ends[0], ends[1]);
            return Err(Error::format(path, what));
        }
        Ok(sparse)
    }

    /// Where the outer lines of `range` start in the data, and where the last ends: `range.len() + 1` rising offsets.
    pub(super) fn starts(&self, path: &Path, range: Range<usize>) -> Result<Vec<u64>> {
        let starts =
            self.indptr.read_i64_rows(range.start as u64, range.len() as u64 + 1).named(path, "X/indptr")?;
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
        let place = |position: i64| match usize::try_from(position) {
            Ok(place) if place < inner => Ok(place as u32),
            _ => Err(Error::format(path, format!("X/indices holds {position}, outside 0..{inner}"))),
        };
        // int32 is the common width; the 64-bit path would double the memory of a block.
        if self.narrow {
            let stored = self.indices.read_i32_rows(start, count).named(path, "X/indices")?;
            return stored.into_iter().map(|position| place(i64::from(position))).collect();
        }
        let stored = self.indices.read_i64_rows(start, count).named(path, "X/indices")?;
        stored.into_iter().map(place).collect()
    }

    /// Values of a range of entries.
    pub(super) fn values(&self, path: &Path, range: Range<u64>) -> Result<Vec<f32>> {
        self.data.read_f32_rows(range.start, range.end - range.start).named(path, "X/data")
    }

    fn csr_rows(&self, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
        let starts = self.starts(path, range.clone())?;
        let (first, last) = (starts[0], starts[starts.len() - 1]);
        // Unpacking is what costs, and the two arrays are independent.
        let (columns, values) =
            rayon::join(|| self.positions(path, first..last, genes), || self.values(path, first..last));
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

fn dense_rows(dataset: &Dataset, path: &Path, range: Range<usize>, genes: usize) -> Result<Cells> {
    let numbers = dataset.read_f32_rows(range.start as u64, range.len() as u64).named(path, "X")?;
    let mut indptr = Vec::with_capacity(range.len() + 1);
    let (mut columns, mut values) = (Vec::new(), Vec::new());
    indptr.push(0);
    for row in 0..range.len() {
        for (column, &value) in numbers[row * genes..(row + 1) * genes].iter().enumerate() {
            if value != 0.0 {
                columns.push(column as u32);
                values.push(value);
            }
        }
        indptr.push(values.len());
    }
    Ok(Cells::new((range.len(), genes), indptr, columns, values))
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

/// The stored number type in one word; refuses what is no number.
fn dtype(dataset: &Dataset, path: &Path, name: &str) -> Result<String> {
    match dataset.dtype().named(path, name)? {
        kind if matches!(kind, DType::F32 | DType::F64) || is_integer(&kind) => Ok(kind.to_string()),
        DType::Enum(_) => Ok("bool".to_string()),
        other => Err(Error::format(path, format!("{name} holds {other}, not numbers of 8 to 64 bits"))),
    }
}

fn layers(file: &File) -> String {
    let Ok(group) = file.group("layers") else { return String::new() };
    let mut names = group.groups().unwrap_or_default();
    names.extend(group.datasets().unwrap_or_default());
    names.sort();
    if names.is_empty() { String::new() } else { format!("; its layers: {}", names.join(", ")) }
}
