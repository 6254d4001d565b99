//! Total counts of cells as given by a column of obs or of the table of labels (`Settings::size`): if a file holds only some of
//! the measured genes, their sum is not the cell's total.

use crate::data::h5ad::{Cells, H5ad};
use crate::data::labels::{Given, numbers};
use crate::data::normalise;
use crate::data::parquet::is_parquet_file;
use crate::data::population::TOTALS;
use crate::data::scale::covers;
use crate::error::Result;

/// What tools call the column of each cell's total counts.
const NAMES: [&str; 7] = [
    "total_counts",
    "n_counts",
    "ncounts",
    "nCount_RNA",
    "UMI_count",
    "tscp_count",
    "core_adjusted_UMI_count",
];
/// Totals this many times as large mean that the matrix is a part of the genes, not that a few were removed from it.
const FAR_MORE: f32 = 1.25;
/// Whole transcriptomes have more genes than this: a file with fewer is of a panel, or of genes that somebody chose.
const PANEL: usize = 1000;

/// Total counts of each cell of each file, if a column gives them.
pub(super) fn read(
    column: Option<&str>,
    files: &[H5ad],
    given: Option<&Given>,
) -> Result<Vec<Option<Vec<f32>>>> {
    let Some(column) = column else { return Ok(vec![None; files.len()]) };
    Ok(numbers(column, files, given)?.into_iter().map(Some).collect())
}

/// A note for counts without given totals, judged by a file's first cells: which column holds much larger totals, or else, if the
/// file has few genes, that the sum over them is used.
pub(super) fn unasked(file: &H5ad, cells: &Cells) -> Option<String> {
    told_by_column(file, cells).or_else(|| {
        let genes = file.shape().1;
        let sum = format!(
            "{}: a cell's total is the sum over the {genes} genes of this file; if more genes were measured, name a column of \
             total counts with `size`",
            file.path().display()
        );
        (genes < PANEL && file.told(TOTALS).is_none()).then_some(sum)
    })
}

/// A column, not asked for, that holds far more counts of each of these first cells than the matrix does.
fn told_by_column(file: &H5ad, cells: &Cells) -> Option<String> {
    // A release in parquet keeps its labels in many files: too long to read for a note.
    if !file.path().is_file() || is_parquet_file(file.path()) {
        return None;
    }
    let own = file.told(TOTALS);
    let ratio = |name: &str| {
        let columns = H5ad::open_columns(file.path(), &[name], "X").ok()?;
        let told = columns.numbers(name).ok()?;
        let stored = cells.outer_iterator().map(|cell| normalise::total(cell.data()));
        let mut ratios = Vec::with_capacity(cells.rows());
        for (told, stored) in told.into_iter().zip(stored).filter(|(_, stored)| *stored > 0.0) {
            // Not the cell's total, whatever the name says.
            covers(told, stored).then(|| ratios.push(told / stored))?;
        }
        normalise::median(ratios).filter(|ratio| *ratio >= FAR_MORE)
    };
    let names = own.iter().map(String::as_str).chain(NAMES);
    let (name, ratio) = names.into_iter().find_map(|name| Some((name, ratio(name)?)))?;
    Some(format!(
        "{}: obs column {name:?} is {ratio:.1} times a cell's sum in the matrix; if it holds total counts over all measured genes, \
         add `size = {name}`",
        file.path().display()
    ))
}
