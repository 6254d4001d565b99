//! Total counts of cells as given by a column of obs or of the table of labels (`--size-col`): if a file holds only some of
//! the measured genes, their sum is not the cell's total.

use super::block::Block;
use super::labels::Table;
use super::normalise;
use crate::data::h5ad::H5ad;
use crate::data::shard::Scale;
use crate::error::{Error, Result};

/// Relative amount by which a total that was kept as f32 may be too low.
const LESS: f32 = 1e-4;

/// Total counts of each cell of each file, if a column gives them.
pub(super) fn read(
    column: Option<&str>,
    files: &[H5ad],
    table: Option<&Table>,
) -> Result<Vec<Option<Vec<f32>>>> {
    let Some(column) = column else { return Ok(vec![None; files.len()]) };
    let of_table = table.filter(|table| table.has(column));
    let of = |(number, file): (usize, &H5ad)| match of_table {
        Some(table) => table.labels(number, column).numbers(file.path(), column).map(Some),
        None => file.obs().numbers(file.path(), column).map(Some),
    };
    files.iter().enumerate().map(of).collect()
}

/// Why a given total cannot be that of a cell with these stored values, if it cannot: not a valid
/// number, or less than the stored counts.
pub(crate) fn refusal(told: f32, stored: &[f32], scale: Scale) -> Option<String> {
    if !(told.is_finite() && told >= 0.0) {
        return Some(format!("{told}, which is not a total of counts"));
    }
    let stored = normalise::total(stored);
    let less = scale == Scale::Counts && told < stored * (1.0 - LESS);
    less.then(|| format!("{told}, less than the {stored} counts stored"))
}

/// Refuses given totals that are impossible.
pub(super) fn check(block: &Block, scale: Scale) -> Result<()> {
    let Some(sizes) = &block.input.sizes else { return Ok(()) };
    for (row, _, values) in block.used() {
        if let Some(what) = refusal(sizes[row], values, scale) {
            let what = format!("cell {:?}: --size-col gives {what}", block.input.file.cell_name(row));
            return Err(Error::format(block.input.file.path(), what));
        }
    }
    Ok(())
}
