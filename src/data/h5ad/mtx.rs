//! 10x folders: `matrix.mtx`, `barcodes.tsv` and `features.tsv` (before Cell Ranger 3 `genes.tsv`), each optionally with
//! `.gz` and with a prefix that all three share, as on GEO.
//!
//! A MatrixMarket file can only be read from its start, so the counts are held in memory: 8 bytes each, 20 while they are read.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::matrix::Matrix;
use super::sparse::by_rows;
use super::tenx::Features;
use super::{Cells, Format, Frame, H5ad, number};
use crate::data::gzip;
use crate::error::{At, Error, Result, some_of};
use crate::folder::{name_of, paths_in};

const MATRIX: [&str; 2] = ["matrix.mtx", "matrix.mtx.gz"];

/// The matrix file of a folder, or the path itself if it is one; `None` if there is none.
///
/// # Errors
/// A folder with the matrices of several samples.
pub fn find_mtx(path: &Path) -> Result<Option<PathBuf>> {
    let is_matrix = |path: &Path| MATRIX.iter().any(|end| name_of(path).ends_with(end));
    if !path.is_dir() {
        return Ok(is_matrix(path).then(|| path.to_path_buf()));
    }
    let mut found = paths_in(path)?;
    found.retain(|path| is_matrix(path));
    if found.len() > 1 {
        let names: Vec<String> = found.iter().map(|path| name_of(path)).collect();
        let what =
            format!("contains several matrices ({}); name the one to read, or each of them", some_of(&names));
        return Err(Error::format(path, what));
    }
    Ok(found.pop())
}

/// Reads the matrix with its two tables. Messages and summaries name the path that the user gave.
pub(super) fn open(given: &Path, matrix: &Path) -> Result<H5ad> {
    let barcodes = beside(matrix, &["barcodes.tsv"])?;
    let index = column(&barcodes, &gzip::text(&barcodes)?, 0)?;
    let (kept, var, notes) = features(&beside(matrix, &["features.tsv", "genes.tsv"])?)?.genes(given)?;
    let counts = read(matrix, [kept.all, index.len()])?;
    let matrix = Matrix::in_memory(counts, kept);
    Ok(H5ad {
        path: given.to_path_buf(),
        format: Format::Mtx,
        file: None,
        cells: index.len(),
        obs: Frame { index, columns: Vec::new() },
        var,
        matrix,
        notes,
    })
}

/// A table with the same prefix, under one of some names, with or without `.gz`.
fn beside(matrix: &Path, names: &[&str]) -> Result<PathBuf> {
    let own = name_of(matrix);
    let prefix = MATRIX.iter().find_map(|end| own.strip_suffix(end)).unwrap_or_default();
    let tried: Vec<String> =
        names.iter().flat_map(|name| [format!("{prefix}{name}.gz"), format!("{prefix}{name}")]).collect();
    let found = tried.iter().map(|name| matrix.with_file_name(name)).find(|path| path.exists());
    found.ok_or_else(|| Error::format(matrix, format!("needs a table beside it: {}", tried.join(" or "))))
}

/// The features from their table: ids, names and, from Cell Ranger 3 on, kinds.
fn features(path: &Path) -> Result<Features> {
    let text = gzip::text(path)?;
    let told = text.lines().next().map_or(0, |line| line.split('\t').count());
    Ok(Features {
        ids: column(path, &text, 0)?,
        names: column(path, &text, 1)?,
        kinds: if told > 2 { Some(column(path, &text, 2)?) } else { None },
    })
}

/// One column of a table without a header; errors name `path`.
fn column(path: &Path, text: &str, column: usize) -> Result<Vec<String>> {
    let field = |(i, line): (usize, &str)| match line.split('\t').nth(column) {
        Some(field) => Ok(field.trim_end().to_string()),
        None => Err(Error::format(path, format!("line {} has no column {}", i + 1, column + 1))),
    };
    text.lines().enumerate().map(field).collect()
}

/// The counts as cells times features; `shape` is features and barcodes, and the file must agree with it.
fn read(path: &Path, shape: [usize; 2]) -> Result<Cells> {
    let wrong = |what: String| Error::format(path, what);
    let mut file = gzip::open(path)?;
    let mut line = String::new();
    let [rows, columns, entries] = sizes(path, &mut *file, &mut line)?;
    if [rows, columns] != shape {
        return Err(wrong(format!(
            "is {rows} x {columns}, but the tables beside it name {} features and {} barcodes",
            shape[0], shape[1]
        )));
    }
    let mut found: Vec<(u32, u32, f32)> = Vec::with_capacity(entries.min(1 << 24));
    let mut bounds = vec![0usize; columns + 1];
    while next(path, &mut *file, &mut line)? {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let (cell, feature, value) = entry(&line, shape).map_err(wrong)?;
        if found.len() == entries {
            return Err(wrong(format!("has more entries than the {entries} of its header")));
        }
        found.push((cell as u32, feature as u32, value));
        bounds[cell + 1] += 1;
    }
    if found.len() != entries {
        let what = format!("has {} entries, but its header says {entries}: was it cut off?", found.len());
        return Err(wrong(what));
    }
    by_rows(path, 0, found, bounds, rows)
}

/// Reads the next line; false after the last.
fn next(path: &Path, file: &mut dyn BufRead, line: &mut String) -> Result<bool> {
    line.clear();
    Ok(file.read_line(line).at(path)? > 0)
}

/// Rows, columns and entries, as a file states them before its first entry.
fn sizes(path: &Path, file: &mut dyn BufRead, line: &mut String) -> Result<[usize; 3]> {
    next(path, file, line)?;
    let head = line.to_ascii_lowercase();
    if !head.starts_with("%%matrixmarket matrix coordinate") || !head.trim_end().ends_with("general") {
        let what = "line 1 is not the header of a MatrixMarket coordinate file (\"%%MatrixMarket matrix \
                    coordinate integer general\")";
        return Err(Error::format(path, what));
    }
    while next(path, file, line)? && line.starts_with('%') {}
    let sizes: Vec<usize> = line.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    sizes
        .try_into()
        .map_err(|_| Error::format(path, "does not give its rows, columns and entries after its header"))
}

/// Cell, feature and count from an entry's line; `shape` is features and barcodes.
fn entry(line: &str, [rows, columns]: [usize; 2]) -> std::result::Result<(usize, usize, f32), String> {
    let mut words = line.split_ascii_whitespace();
    let mut place = |most: usize| {
        let place = words.next().and_then(|word| word.parse::<usize>().ok());
        place.filter(|place| (1..=most).contains(place))
    };
    let (feature, cell) = (place(rows), place(columns));
    let word = words.next().unwrap_or_default();
    let (Some(feature), Some(cell), Ok(value)) = (feature, cell, word.parse::<f32>()) else {
        let line = line.trim_end();
        return Err(format!("entry {line:?} is not a feature, barcode and count within {rows} x {columns}"));
    };
    if value.abs() >= number::EXACT_BELOW && word.parse::<i128>().is_ok_and(|stored| value as i128 != stored)
    {
        return Err(format!("contains {}", number::too_large(word)));
    }
    Ok((cell - 1, feature - 1, value))
}
