//! Log values of baselines, brought to the total of the measured cells.
//!
//! Measures compare log1p values, which depend on the total that cells were scaled to. Baselines have that of their data directory;
//! the measured side has another one if it holds raw counts (the median M of their totals) or logs of other cells:
//!
//!   whole counts k of a cell    log1p(k / (sum k / R))     by the steps of `lognorm`, so that equal counts tie
//!   other cells                 log1p(expm1(x) * R / B)    R: total of measured cells; B: median total of the baseline's controls
//!
//! Both totals are sums over the genes of the measured side. Where a subset of the genes hides them, the totals over all genes that
//! the makers of the files recorded are compared instead, and all values become log1p(expm1(x) * R / B), unless the control cells
//! contradict the records. Control cells that add up to the same on both sides show that the scales are the same.

use std::borrow::Cow;

use rayon::prelude::*;

use super::lognorm::{Held, Logs, log_counts};
use super::side::{Matrix, Side};
use crate::correlation::median;
use crate::data::normalise;
use crate::data::scale::agreed;
use crate::data::shard::same_total;

/// Control cells of two files on one scale do not add up to sums this far apart.
const FAR: f64 = 1.3;

/// Cells of which totals are found, evenly spread: all of a large file would take seconds.
const LOOKED_AT: usize = 4096;

/// What the measured cells were scaled to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Total {
    /// Counts over the side's genes: the median of its raw counts, or what the logs of every cell add up to.
    here: Option<f64>,
    /// Counts over all genes of the source, as the file's maker recorded.
    recorded: Option<f64>,
    /// What its control cells add up to in the median.
    controls: f64,
}

/// How log values beside the prediction stand to the measured ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Scaled to the same total, or by the same rule.
    Same,
    /// Brought to the measured cells' total.
    Brought,
    /// The measured cells' total, or theirs, is unknown.
    Unknown,
}

impl Total {
    /// Of a side with these logs, of which `controls` are control cells.
    pub fn of(side: &Side, controls: &[u32], logs: &Logs) -> Total {
        let here = logs.total.map(f64::from).or_else(|| shown(&logs.x));
        Total { here, recorded: side.total, controls: middle(&mut sums(&logs.x, controls)) }
    }

    /// Brings the log values of a side, of which `controls` are control cells, to this total of measured cells that held `held`.
    pub fn bring<'a>(self, held: Held, side: &Side, controls: &[u32], logs: Logs<'a>) -> (Logs<'a>, Fit) {
        if logs.held == Held::Counts {
            return (logs, Fit::Same); // scaled to their median already
        }
        let mut own = sums(&logs.x, controls);
        let typical = middle(&mut own);
        let common = agreed(own);
        let same = |own, total| held == Held::Logs && same_total(own, total);
        // A record may be older than the values: other programs keep it when they change them.
        let believed = |factor: f64| {
            let off = self.controls / typical / factor;
            off.is_nan() || (1.0 / FAR..FAR).contains(&off)
        };
        let (each, total, factor) = match (self.here, self.recorded.zip(side.total)) {
            (Some(total), _) if common.is_some_and(|own| same(own, total)) => return (logs, Fit::Same),
            (Some(total), _) if typical > 0.0 => (true, total, total / typical),
            (None, _) if same(typical, self.controls) => return (logs, Fit::Same),
            (None, Some((total, own))) if believed(total / own) => match same(own, total) {
                true => return (logs, Fit::Same),
                false => (false, total, total / own),
            },
            _ => return (logs, Fit::Unknown),
        };
        let total = total as f32;
        let x = Cow::Owned(brought(&logs.x, each.then_some(total), factor));
        (Logs { x, total: Some(total), ..logs }, Fit::Brought)
    }
}

/// The total to which the cells of log values were scaled, if some of them show one.
pub(super) fn shown(x: &Matrix) -> Option<f64> {
    let all: Vec<u32> = (0..x.shape().0 as u32).collect();
    agreed(sums(x, &all))
}

/// Sums of expm1 over the genes of some of the cells, without those of empty cells.
fn sums(x: &Matrix, cells: &[u32]) -> Vec<f64> {
    let sum = |&cell: &u32| x.values()[x.row(cell as usize)].iter().map(|&v| f64::from(v).exp_m1()).sum();
    let apart = cells.len().div_ceil(LOOKED_AT).max(1);
    cells.par_iter().step_by(apart).map(sum).filter(|&sum: &f64| sum > 0.0).collect()
}

/// The middle one of some totals; NaN without any.
fn middle(totals: &mut [f64]) -> f64 {
    median(totals).unwrap_or(f64::NAN)
}

/// Cells of whole counts are scaled to `total` each, if there is one; all others by `factor`.
fn brought(x: &Matrix, total: Option<f32>, factor: f64) -> Matrix {
    let mut x = x.clone();
    x.rows_mut().into_par_iter().for_each(|row| match total.and_then(|total| Some((total, counts(row)?))) {
        Some((total, counts)) => {
            let own = normalise::total(&counts);
            row.copy_from_slice(&counts);
            log_counts(row, own, total);
        }
        None => row.iter_mut().for_each(|x| *x = (f64::from(*x).exp_m1() * factor).ln_1p() as f32),
    });
    x
}

/// How far from a whole number a count may be that is found from f32 logs: a part of it, and a little more.
const NEARLY_WHOLE: [f64; 2] = [4e-6, 1e-4];

/// The counts that log values of one cell are of, if its smallest value is that of one count and all others are of whole ones.
fn counts(logs: &[f32]) -> Option<Vec<f32>> {
    let one = logs.iter().filter(|x| **x > 0.0).copied().fold(f32::INFINITY, f32::min);
    let one = f64::from(one).exp_m1();
    let [part, rest] = NEARLY_WHOLE;
    let whole = |&x: &f32| {
        let count = f64::from(x).exp_m1() / one;
        let off = (count - count.round()).abs();
        (off <= part * count + rest).then_some(count.round() as f32)
    };
    logs.iter().map(whole).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn counts_are_found_from_their_logs_and_means_are_no_counts() {
        let rng = Rng::new(1);
        for (cell, target) in [(0, 1e4f64), (1, 1e4), (2, 1e6), (3, 750.0)] {
            let mut drawn: Vec<f32> = (0..300).map(|g| rng.at(cell).below(g, 40) as f32).collect();
            drawn[..3].copy_from_slice(&[1.0, 2_000.0, 0.0]);
            let library = drawn.iter().sum::<f32>() * 1.7; // some genes were left out
            let log = |k: &f32| f64::from(k / (library / target as f32)).ln_1p() as f32;
            let logs: Vec<f32> = drawn.iter().map(log).collect();
            assert_eq!(counts(&logs).expect("counts"), drawn);
            let mean: Vec<f32> = logs.iter().map(|x| 0.9 * x).collect();
            assert_eq!(counts(&mean), None);
        }
        assert_eq!(counts(&[0.0, 0.0]), Some(vec![0.0, 0.0]));
    }
}
