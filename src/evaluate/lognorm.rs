//! Counts or logs? What is stored decides, as in cell-eval 0.6.6 (`guess_is_lognorm`, `_convert_to_normlog`).
//!
//! If a stored value has a fractional part above 1e-3, the matrix holds log1p values, used as they are. Otherwise it holds raw
//! counts: each cell is scaled to the median of this side's own totals, then log1p is taken.

use std::borrow::Cow;

use rayon::prelude::*;
use serde::Serialize;

use super::side::{Matrix, Side};
use crate::correlation::median;
use crate::error::Result;

/// From here on, no log1p value of a cell is plausible.
const LARGEST_LOG: f32 = 15.0;

/// What a side held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// Natural log1p of normalised counts, by assumption: nothing in a matrix shows the total it was normalised to.
    Logs,
    /// Raw counts, converted here.
    Counts,
}

/// Numbers that one thread looks at in one go.
const PIECE: usize = 1 << 16;

/// The side's values on the log1p scale. Errors: values that are negative or not finite, and logs of 15 or more.
pub fn log_normalised(side: &Side) -> Result<(Cow<'_, Matrix>, Held)> {
    let values = side.x.values();
    let seen = Seen::of(values);
    let refuse = |bad: fn(f32) -> bool, what: &str| {
        let i = values.iter().position(|&v| bad(v)).expect("one was seen");
        let (cell, gene) = side.x.place(i);
        Err(side.error(format!("cell {cell}, gene {:?} is {}; {what}", side.genes[gene], values[i])))
    };
    if seen.infinite {
        return refuse(|v| !v.is_finite(), "expression must be finite");
    }
    if seen.negative {
        return refuse(|v| v < 0.0, "expression cannot be negative: clip predictions at 0");
    }
    if !values.par_iter().any(|&v| v.fract() > 1e-3) {
        return Ok((Cow::Owned(from_counts(side)?), Held::Counts));
    }
    if seen.large {
        let what = "log1p values should be below 15: is the data normalised but not log-transformed?";
        return refuse(|v| v >= LARGEST_LOG, what);
    }
    Ok((Cow::Borrowed(&side.x), Held::Logs))
}

/// What was found in one pass over some values; where a bad one is, is looked up only for the message.
#[derive(Clone, Copy, Default)]
struct Seen {
    infinite: bool,
    negative: bool,
    large: bool,
}

impl Seen {
    fn of(values: &[f32]) -> Seen {
        // Without a branch, so that eight numbers are done at a time.
        let look = |seen: Seen, &v: &f32| Seen {
            infinite: seen.infinite | !v.is_finite(),
            negative: seen.negative | (v < 0.0),
            large: seen.large | (v >= LARGEST_LOG),
        };
        let join = |a: Seen, b: Seen| Seen {
            infinite: a.infinite | b.infinite,
            negative: a.negative | b.negative,
            large: a.large | b.large,
        };
        values
            .par_chunks(PIECE)
            .map(|piece| piece.iter().fold(Seen::default(), look))
            .reduce(Seen::default, join)
    }
}

/// ln(1 + x / (total / median)), every step rounded to f32 as scanpy 1.11 does, so that equal values stay equal.
///
/// Equal shares of different totals (1 of 100, 3 of 300 counts) may differ in the last bit; the rounding of log1p decides
/// whether they tie. The log1p here is the C library's (fdlibm), which numpy calls where it has no vector code of its own.
fn from_counts(side: &Side) -> Result<Matrix> {
    let cells = side.x.shape().0;
    let values = side.x.values();
    let total = |cell: usize| values[side.x.row(cell)].iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
    let totals: Vec<f32> = (0..cells).into_par_iter().map(total).collect();
    let mut sorted = totals.clone();
    if matches!(side.x, Matrix::Dense { .. }) {
        sorted.retain(|&total| total > 0.0);
    }
    let empty =
        || side.error("raw counts cannot be scaled because the median cell is empty; drop the empty cells");
    let median = median(&mut sorted).map(|median| median as f32);
    let median = median.filter(|&median| median > 0.0).ok_or_else(empty)?;
    let mut x = side.x.clone();
    let mut rest = x.values_mut();
    let row = |cell: usize| rest.split_off_mut(..side.x.row(cell).len()).expect("rows make up the values");
    let rows: Vec<&mut [f32]> = (0..cells).map(row).collect();
    rows.into_par_iter().zip(totals).for_each(|(row, total)| {
        let scale = if total > 0.0 { total / median } else { 1.0 };
        row.iter_mut().for_each(|value| *value = libm::log1pf(*value / scale));
    });
    Ok(x)
}
