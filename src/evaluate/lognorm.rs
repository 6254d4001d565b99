//! Counts or logs? What is stored decides, as in cell-eval 0.6.6 (`guess_is_lognorm`, `_convert_to_normlog`).
//!
//! If a stored value has a fractional part above 1e-3, the matrix holds log1p values, used as they are. Otherwise it holds raw
//! counts: each cell is scaled to the median of this side's own totals, then log1p is taken. Where a prediction is compared with
//! the measured control cells (rules `fixed` and `paper`), its counts are scaled to the measured side's median: one total for all
//! cells that are compared.

use std::borrow::Cow;

use rayon::prelude::*;
use serde::Serialize;

use super::side::{Matrix, Side};
use crate::correlation::median;
use crate::data::normalise::{divisor, total};
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

/// A side's values on the log1p scale, `[n, G]`.
#[derive(Clone, Debug)]
pub struct Logs<'a> {
    /// The values.
    pub x: Cow<'a, Matrix>,
    /// What the side held.
    pub held: Held,
    /// Total to which counts were scaled, or logs were brought (`totals`); `None` for logs as they were.
    pub total: Option<f32>,
}

impl Logs<'_> {
    /// The values of some of the cells, `x`, on the same scale.
    pub(super) fn part<'b>(&self, x: &'b Matrix) -> Logs<'b> {
        Logs { x: Cow::Borrowed(x), ..*self }
    }
}

/// Numbers that one thread looks at in one go.
const PIECE: usize = 1 << 16;

/// The side's values on the log1p scale; counts are scaled to `total`, or else to the median of their own totals.
///
/// # Errors
/// Values that are negative or not finite, logs of 15 or more, and counts of which the median cell has none.
pub fn log_normalised(side: &Side, total: Option<f32>) -> Result<Logs<'_>> {
    let values = side.x.values();
    let seen = Seen::of(values);
    let refuse = |bad: fn(f32) -> bool, what: &str| {
        let Some(i) = values.iter().position(|&v| bad(v)) else { unreachable!("one was seen") };
        let (cell, gene) = side.x.place(i);
        Err(side.error(format!("cell {cell}, gene {:?} is {}; {what}", side.genes[gene], values[i])))
    };
    if seen.infinite {
        return refuse(|v| !v.is_finite(), "expression must be finite");
    }
    if seen.negative {
        return refuse(|v| v < 0.0, "expression cannot be negative: clip predictions at 0");
    }
    if holds_counts(&side.x) {
        let (x, total) = from_counts(side, total)?;
        return Ok(Logs { x: Cow::Owned(x), held: Held::Counts, total: Some(total) });
    }
    if seen.large {
        let what = "log1p values should be below 15: is the data normalised but not log-transformed?";
        return refuse(|v| v >= LARGEST_LOG, what);
    }
    Ok(Logs { x: Cow::Borrowed(&side.x), held: Held::Logs, total: None })
}

/// Whether no stored value has a fractional part: raw counts, by cell-eval's rule.
pub(super) fn holds_counts(x: &Matrix) -> bool {
    !x.values().par_iter().any(|&v| v.fract() > 1e-3)
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

/// ln(1 + x / (total / target)), every step rounded to f32 as scanpy 1.11 does, so that equal values stay equal.
///
/// Equal shares of different totals (1 of 100, 3 of 300 counts) may differ in the last bit; the rounding of log1p decides
/// whether they tie. The log1p here is the C library's (fdlibm), which numpy calls where it has no vector code of its own.
pub(super) fn log_counts(counts: &mut [f32], total: f32, target: f32) {
    let scale = divisor(total, f64::from(target));
    counts.iter_mut().for_each(|value| *value = libm::log1pf(*value / scale));
}

/// Logs of a side's counts, scaled to `told` or to the median of their totals, and that total.
fn from_counts(side: &Side, told: Option<f32>) -> Result<(Matrix, f32)> {
    let cells = side.x.shape().0;
    let values = side.x.values();
    let totals: Vec<f32> = (0..cells).into_par_iter().map(|cell| total(&values[side.x.row(cell)])).collect();
    let middle = || {
        let mut sorted = totals.clone();
        if matches!(side.x, Matrix::Dense { .. }) {
            sorted.retain(|&total| total > 0.0);
        }
        median(&mut sorted).map(|median| median as f32)
    };
    let empty =
        || side.error("raw counts cannot be scaled because the median cell is empty; drop the empty cells");
    let target = told.or_else(middle).filter(|&target| target > 0.0).ok_or_else(empty)?;
    let mut x = side.x.clone();
    x.rows_mut().into_par_iter().zip(totals).for_each(|(row, total)| log_counts(row, total, target));
    Ok((x, target))
}
