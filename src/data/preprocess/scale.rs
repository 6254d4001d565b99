//! What the values of all sources are, together, and whether each cell agrees: [`Found`] for each file and block, with the file's
//! names and the settings of `preprocess` in what is refused.

use super::block::{Block, Input};
use super::input::Inputs;
use super::sizes;
use crate::data::h5ad::H5ad;
use crate::data::scale::{Found, Refusal, Told, misfit};
use crate::data::shard::{Scale, same_total};
use crate::error::{Error, Result};

/// What to do if a matrix does not say what it is.
const SAY: &str = "say what it is with `scale = counts`, log1p or log1p10, or choose another matrix with `source = raw` or \
                   `source = layers/NAME`";
/// What to do about a matrix in which not all cells are on one scale.
const APART: &str =
    "preprocess the parts separately, or choose another matrix (`source = raw` or layers/NAME)";

/// The scale of all files together: stated by the user, or found from the first row block of each.
pub(super) fn find(inputs: &mut Inputs, told: Option<Scale>) -> Result<Found> {
    let mut first: Option<Found> = None;
    let mut notes = Vec::new();
    for (number, input) in inputs.files.iter().enumerate() {
        let Some(block) = input.file.blocks().next() else { continue };
        let (rows, cells) = block?;
        inputs.memo.keep((number, 0), &cells);
        if let Some(place) = misfit(cells.data(), false) {
            let row = cells.indptr().to_proper().partition_point(|&start| start <= place) - 1;
            return Err(wrong(input, rows.start + row, cells.indices()[place], cells.data()[place]));
        }
        let found = Found::of(&cells, &Told::of(&input.file, told));
        let found = found.map_err(|unclear| unclear.of_file(input.file.path(), SAY))?;
        if found.scale == Scale::Counts && input.sizes.is_none() {
            notes.extend(sizes::unasked(&input.file, &cells));
        }
        match first.take() {
            None => first = Some(found),
            Some(before) if before.scale == found.scale => {
                first = Some(together(before, found, &input.file)?);
            }
            Some(before) => {
                let what = format!(
                    "contains {:?} values ({}), but the first file contains {:?} ({}); preprocess them \
                     separately",
                    found.scale, found.why, before.scale, before.why
                );
                return Err(Error::format(input.file.path(), what));
            }
        }
    }
    inputs.notes.extend(notes);
    first.ok_or_else(|| Error::format(inputs.files[0].file.path(), "contains no cells"))
}

/// For two files on one scale: the total to which both have been scaled, if known.
fn together(before: Found, here: Found, file: &H5ad) -> Result<Found> {
    match (before.target, here.target) {
        (Some(there), Some(own)) if !same_total(there, own) => {
            let what = format!(
                "was scaled to {own} per cell, but the files before it to {there}: preprocess them separately"
            );
            Err(Error::format(file.path(), what))
        }
        (target, own) => Ok(Found {
            target: target.filter(|_| own.is_some()),
            total: before.total.filter(|_| here.total.is_some()),
            ..before
        }),
    }
}

/// Refuses cells that are not on the scale found, and impossible totals of used ones; the message names the cell.
pub(super) fn check(block: &Block, found: &Found) -> Result<()> {
    let Block { input, rows, cells } = block;
    // Without the genes that are left out, the logarithms add up to less.
    let found = Found { total: found.total.filter(|_| input.left_out.is_none()), ..found.clone() };
    for (row, values) in rows.clone().zip(cells.outer_iterator()) {
        let total = input.sizes.as_ref().filter(|_| input.used[row]).map(|sizes| sizes[row]);
        let what = match found.refusal(values.data(), total) {
            None => continue,
            Some(Refusal::Value { place, value }) => {
                return Err(wrong(input, row, values.indices()[place], value));
            }
            Some(Refusal::Total(what)) => format!(": `size` gives {what}"),
            Some(scale) => format!(" {scale}; {APART}"),
        };
        return Err(Error::format(input.file.path(), format!("cell {:?}{what}", input.file.cell_name(row))));
    }
    Ok(())
}

/// The error of a value that is on no scale, or not on that of the others.
fn wrong(input: &Input, row: usize, gene: u32, value: f32) -> Error {
    let what = if value.is_nan() {
        "NaN; fill or drop it first".to_string()
    } else if value.is_infinite() {
        format!("{value}; neither counts nor logs are infinite")
    } else if value < 0.0 {
        format!(
            "{value}; negative values are neither counts nor log1p (scaled or centred data?): give counts or \
             log1p values, with `source = raw` or `source = layers/NAME` if the file has some"
        )
    } else {
        format!(
            "{value}, which is not a count; if the values are on a log scale, say so with `scale`; if they \
             are counts that a tool made fractional (SoupX, CellBender), round them first or choose others \
             with `source = layers/NAME`"
        )
    };
    let (cell, gene) = (input.file.cell_name(row), &input.file.var().index[gene as usize]);
    Error::format(input.file.path(), format!("cell {cell:?}, gene {gene:?} is {what}"))
}
