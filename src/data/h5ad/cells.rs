//! Expression of some cells in memory.

use std::fmt::Display;
use std::ops::Range;

use crate::error::{Error, Result};

/// Expression of some cells: `[cells, genes]` CSR, column indices rising within a row, no stored zeros. [`cells`] makes one of
/// parts from elsewhere.
pub type Cells = sprs::CsMatI<f32, u32, usize>;

/// Why a cell's genes and values cannot be a row of a matrix with so many genes, if so.
pub(crate) fn unfit<G: Copy + Display + PartialOrd + Into<u32>>(
    genes: &[G],
    values: &[f32],
    all: usize,
) -> Option<String> {
    if genes.len() != values.len() {
        return Some(format!("{} genes, but {} values", genes.len(), values.len()));
    }
    unfit_genes(genes, all)
}

/// Why genes cannot be those of a row, if so.
pub(crate) fn unfit_genes<G: Copy + Display + PartialOrd + Into<u32>>(
    genes: &[G],
    all: usize,
) -> Option<String> {
    if let Some(pair) = genes.windows(2).find(|pair| pair[0] >= pair[1]) {
        let [one, next] = [pair[0], pair[1]];
        return Some(format!("gene {one} is followed by gene {next}; ids must ascend and be unique"));
    }
    let last = genes.last().filter(|&&last| last.into() as usize >= all)?;
    Some(format!("gene {last} is out of range: there are {all}"))
}

/// A CSR matrix `[cells, genes]` from its parts, as scipy names them: `indptr` `[cells + 1]` says where each cell's entries begin
/// in `indices`, its genes in any order, and in `data`, their values. Stored zeros are dropped.
///
/// # Errors
/// Parts whose sizes disagree, `indptr` that does not rise from 0 to the number of entries, a gene out of range or twice in a cell.
pub fn cells(shape: (usize, usize), indptr: Vec<usize>, indices: Vec<u32>, data: Vec<f32>) -> Result<Cells> {
    let wrong = |what: String| Error::setting("matrix", what);
    let (entries, (rows, genes)) = (data.len(), shape);
    if indices.len() != entries || indptr.len().checked_sub(1) != Some(rows) {
        let (places, pointers) = (indices.len(), indptr.len());
        return Err(wrong(format!(
            "{entries} values, {places} indices and {pointers} row pointers for shape {shape:?}; expected as many \
             indices as values, and {rows} + 1 pointers"
        )));
    }
    if indptr[0] != 0 || indptr[rows] != entries || !indptr.is_sorted() {
        return Err(wrong(format!("row pointers do not rise from 0 to the {entries} values")));
    }
    if let Some(gene) = indices.iter().find(|&&gene| gene as usize >= genes) {
        return Err(wrong(format!("gene {gene} of {genes}")));
    }
    if u32::try_from(genes).is_err() {
        return Err(wrong(format!("{genes} genes, but their numbers have 32 bits")));
    }
    compress(&indptr, indices, data, genes)
        .map_err(|[cell, gene]| wrong(format!("cell {cell} has gene {gene} twice")))
}

/// Rows as [`Cells`]: sorted within a row, zeros dropped; row i ends at `bounds[i + 1]`. The error is a row and a gene that it has
/// twice.
pub(super) fn compress(
    bounds: &[usize],
    mut columns: Vec<u32>,
    mut values: Vec<f32>,
    genes: usize,
) -> std::result::Result<Cells, [usize; 2]> {
    // Here and below every value is examined: a loop without early exit processes several at a time.
    let zeros = values.iter().fold(false, |any, &value| any | (value == 0.0));
    let mut kept = 0;
    let mut indptr = Vec::with_capacity(bounds.len());
    indptr.push(0);
    let mut pairs: Vec<(u32, f32)> = Vec::new();
    for (number, bound) in bounds.windows(2).enumerate() {
        let span = bound[0]..bound[1];
        let row = &columns[span.clone()];
        let falls = row.iter().zip(&row[row.len().min(1)..]).fold(false, |any, (a, b)| any | (a >= b));
        if falls {
            pairs.clear();
            pairs.extend(columns[span.clone()].iter().copied().zip(values[span.clone()].iter().copied()));
            pairs.sort_unstable_by_key(|&(column, _)| column);
            if let Some(twice) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err([number, twice[0].0 as usize]);
            }
            for (i, &(column, value)) in pairs.iter().enumerate() {
                columns[span.start + i] = column;
                values[span.start + i] = value;
            }
        }
        if !zeros {
            indptr.push(bound[1]);
            kept = bound[1];
            continue;
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

/// Some rows of a matrix.
pub(super) fn slice(cells: &Cells, rows: Range<usize>) -> Cells {
    let starts = cells.indptr();
    let starts = starts.as_slice().expect("an owned matrix starts at 0");
    let span = starts[rows.start]..starts[rows.end];
    let indptr = starts[rows.start..=rows.end].iter().map(|start| start - span.start).collect();
    Cells::new(
        (rows.len(), cells.cols()),
        indptr,
        cells.indices()[span.clone()].to_vec(),
        cells.data()[span].to_vec(),
    )
}

/// The entries of those columns that have a place among the `width` columns of the result; places rise with the columns.
pub(crate) fn keep_columns(rows: &Cells, width: usize, place: impl Fn(usize) -> Option<u32>) -> Cells {
    let (mut indptr, mut columns, mut values) = (vec![0], Vec::new(), Vec::new());
    for row in rows.outer_iterator() {
        for (column, &value) in row.iter().filter_map(|(stored, value)| Some((place(stored)?, value))) {
            columns.push(column);
            values.push(value);
        }
        indptr.push(values.len());
    }
    Cells::new((rows.rows(), width), indptr, columns, values)
}

/// Numbers of some rows as [`Cells`]; `at` returns the number for a row and a gene.
pub(super) fn dense_rows(rows: usize, genes: usize, at: impl Fn(usize, usize) -> f32) -> Cells {
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

#[cfg(test)]
mod tests {
    use super::{Cells, cells};

    #[test]
    fn parts_from_elsewhere_are_sorted_or_refused() {
        let made = cells((2, 4), vec![0, 3, 4], vec![3, 0, 1, 2], vec![1.0, 2.0, 0.0, f32::INFINITY]);
        let told = Cells::new((2, 4), vec![0, 2, 3], vec![0, 3, 2], vec![2.0, 1.0, f32::INFINITY]);
        assert_eq!(made.expect("a matrix"), told);
        assert_eq!(cells((0, 4), vec![0], vec![], vec![]).expect("a matrix").shape(), (0, 4));
        type Parts = ((usize, usize), Vec<usize>, Vec<u32>, Vec<f32>);
        let refused: [(Parts, &str); 8] = [
            (((2, 4), vec![0, 1], vec![0], vec![1.0]), "2 row pointers"),
            (((2, 4), vec![], vec![], vec![]), "0 row pointers"),
            (((1, 4), vec![0, 1], vec![0, 1], vec![1.0]), "1 values, 2 indices"),
            (((1, 4), vec![1, 1], vec![0], vec![1.0]), "do not rise"),
            (((1, 4), vec![0, 2], vec![0], vec![1.0]), "do not rise"),
            (((2, 4), vec![0, 3, 1], vec![0], vec![1.0]), "do not rise"),
            (((1, 4), vec![0, 1], vec![4], vec![1.0]), "gene 4 of 4"),
            (((1, 4), vec![0, 2], vec![2, 2], vec![1.0, 2.0]), "cell 0 has gene 2 twice"),
        ];
        for ((shape, indptr, indices, data), expected) in refused {
            let told = cells(shape, indptr, indices, data).expect_err("a refusal").to_string();
            assert!(told.contains(expected), "{told:?} should say {expected:?}");
        }
    }
}
