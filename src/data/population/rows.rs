//! Where the numbers of a population go: memory or a file.

use crate::data::h5ad::{Cells, Writer};
use crate::error::{Error, Result};

/// Where the numbers of a population go.
pub trait Rows {
    /// Appends a cell given its non-zeros, genes ascending.
    ///
    /// # Errors
    /// Genes and values that are no row of the matrix; a file that cannot be written.
    fn push(&mut self, genes: &[u32], values: &[f32]) -> Result<()>;
}

impl Rows for Cells {
    fn push(&mut self, genes: &[u32], values: &[f32]) -> Result<()> {
        if !self.is_csr() {
            return Err(Error::setting("matrix", "is stored as CSC; cells are rows of a CSR matrix"));
        }
        let row = sprs::CsVecViewI::try_new(self.cols(), genes, values)
            .map_err(|(_, _, why)| Error::setting("values", format!("a cell has {why}")))?;
        let mut cells = std::mem::replace(self, Cells::empty(sprs::CompressedStorage::CSR, 0));
        // Rows cut out of another matrix keep its offsets, and sprs appends as if they began at 0.
        if cells.indptr().raw_storage()[0] != 0 {
            let (shape, starts) = (cells.shape(), cells.indptr().to_proper().to_vec());
            let (_, genes, values) = cells.into_raw_storage();
            cells = Cells::new(shape, starts, genes, values);
        }
        *self = cells.append_outer_csvec(row);
        Ok(())
    }
}

impl Rows for Writer {
    fn push(&mut self, genes: &[u32], values: &[f32]) -> Result<()> {
        Writer::push(self, genes, values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_larger_matrix_are_followed_by_others() {
        let all = Cells::new((3, 4), vec![0, 2, 3, 5], vec![0, 3, 1, 0, 2], vec![1.0, 2.0, 3.0, 4.0, 5.0]);
        let mut cut = all.slice_outer(1..3).to_owned();
        Rows::push(&mut cut, &[1, 3], &[6.0, 7.0]).expect("a row");
        let expected =
            Cells::new((3, 4), vec![0, 1, 3, 5], vec![1, 0, 2, 1, 3], vec![3.0, 4.0, 5.0, 6.0, 7.0]);
        assert_eq!(cut, expected);
        assert!(Rows::push(&mut expected.to_csc(), &[1], &[6.0]).is_err());
    }
}
