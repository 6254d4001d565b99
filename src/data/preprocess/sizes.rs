//! Total counts of cells as a column of obs or of the table of labels tells them (`--size-col`): where a file holds a part of the genes
//! that were measured, their sum is not the cell's total.

use super::input::Block;
use super::labels::Table;
use super::normalise;
use crate::data::h5ad::H5ad;
use crate::data::shard::Scale;
use crate::error::{Error, Result};

/// What a total that was kept as f32 may lack.
const LESS: f32 = 1e-4;

/// Total counts of each cell of each file, as a column tells them.
pub(super) fn read(column: &str, files: &[H5ad], table: Option<&Table>) -> Result<Vec<Option<Vec<f32>>>> {
    let of_table = table.filter(|table| table.has(column));
    let of = |(number, file): (usize, &H5ad)| match of_table {
        Some(table) => table.labels(number, column).numbers(file.path(), column).map(Some),
        None => file.obs().numbers(file.path(), column).map(Some),
    };
    files.iter().enumerate().map(of).collect()
}

/// Refuses a told total that is none, or of counts less than what is stored.
pub(super) fn check(block: &Block, scale: Scale) -> Result<()> {
    let Some(sizes) = &block.input.sizes else { return Ok(()) };
    for (row, _, values) in block.used() {
        let (told, stored) = (sizes[row], normalise::total(values));
        let less = scale == Scale::Counts && told < stored * (1.0 - LESS);
        if !(told.is_finite() && told >= 0.0) || less {
            let name = block.input.file.cell_name(row);
            let what = match less {
                true => format!("{told}, less than the {stored} counts that are stored"),
                false => format!("{told}, which is no total of counts"),
            };
            let what = format!("cell {name:?}: --size-col tells {what}");
            return Err(Error::format(block.input.file.path(), what));
        }
    }
    Ok(())
}
