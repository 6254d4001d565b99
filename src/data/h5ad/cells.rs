//! Expression of some cells in memory.

use std::fmt::Display;

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
pub fn cells(
    shape: (usize, usize),
    indptr: Vec<usize>,
    mut indices: Vec<u32>,
    mut data: Vec<f32>,
) -> Result<Cells> {
    let wrong = |what: String| Error::setting("cells", what);
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
    let mut starts = vec![0];
    let (mut kept, mut row) = (0, Vec::new());
    for (cell, ends) in indptr.windows(2).enumerate() {
        let range = ends[0]..ends[1];
        row.clear();
        row.extend(indices[range.clone()].iter().copied().zip(data[range].iter().copied()));
        row.sort_by_key(|(gene, _)| *gene);
        if let Some(twice) = row.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(wrong(format!("cell {cell} has gene {} twice", twice[0].0)));
        }
        for (gene, value) in row.iter().filter(|(_, value)| *value != 0.0) {
            (indices[kept], data[kept]) = (*gene, *value);
            kept += 1;
        }
        starts.push(kept);
    }
    indices.truncate(kept);
    data.truncate(kept);
    Ok(Cells::new(shape, starts, indices, data))
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
