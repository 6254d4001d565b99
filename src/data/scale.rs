//! What values are: counts, log1p of normalised counts, or that divided by ten; and to which total the counts were scaled.
//!
//! Every reader of a matrix decides here. What its source and its caller state ([`Told`]), with the values of some cells,
//! determines what all cells hold ([`Found`]); each cell is then checked against it. Errors are worded here; the caller adds the
//! remedy. Only `evaluate` tells counts from logs by another rule, that of cell-eval (`evaluate::lognorm`).

mod refusal;

use rayon::prelude::*;

pub use refusal::{Refusal, Unclear};

use crate::data::h5ad::{Cells, H5ad};
use crate::data::normalise::total;
use crate::data::shard::Scale;

/// What is said of values before they are looked at, by their source or by who reads them; nothing by default.
///
/// ```
/// use scale_engine::data::scale::Told;
///
/// // Natural logarithms of counts that were scaled to 10,000 a cell; some of the genes may be missing.
/// let told = Told { logged: true, target: Some(1e4), ..Told::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Told {
    /// What they are; found from the values if not said.
    pub scale: Option<Scale>,
    /// Whether the source marks them as log1p, as `uns/log1p` does in h5ad.
    pub logged: bool,
    /// Base of the logarithms, if the source records one, as `uns/log1p/base` does in h5ad.
    pub base: Option<f64>,
    /// Counts to which each cell was scaled before log1p; what the cells themselves show takes precedence.
    pub target: Option<f64>,
}

impl Told {
    /// What a file says of its X, and its reader if `scale` is given.
    pub fn of(file: &H5ad, scale: Option<Scale>) -> Told {
        Told { scale, logged: file.is_logged(), base: file.log_base(), target: file.log_target() }
    }
}

/// The scale of a source and how it was determined.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Found {
    /// What the values are.
    pub scale: Scale,
    /// How it was determined, for people.
    pub why: String,
    /// Counts to which the cells of a log source were scaled, if they show it or it was told.
    pub target: Option<f64>,
    /// The total that expm1 of the values gives in each of the cells looked at, if it is one: other cells must have it too.
    pub total: Option<f64>,
}

/// Totals of normalised cells agree this closely, f32 rounding included.
const SAME_TOTAL: f64 = 1e-3;
/// A total that differs by more is of another scale, not of a cell whose rare genes were left out after normalisation.
const OTHER_TOTAL: f64 = 0.05;
/// Relative error of a total of f32 logarithms.
const ROUNDING: f64 = 1e-6;
/// Cells whose totals must agree before agreement means anything.
const ENOUGH_CELLS: usize = 3;
/// No cell's count of a gene, scaled to any target in use, has a log1p above this, that of 3.3 million.
const GREATEST_LOG: f64 = 15.0;
/// If all log1p values are below this they may as well be log1p / 10: in a subset of genes no total tells them apart.
const SURELY_UNDIVIDED: f32 = 1.2;
/// Relative amount by which a total that was kept as f32 may be too low.
const LESS: f32 = 1e-4;

impl Found {
    /// What values are, judged by what is told and by those of some cells. What the reader says is believed: whether each value
    /// can be that is asked cell by cell ([`Found::refusal`]).
    ///
    /// # Errors
    /// Values that are none of the scales or may be several, and logarithms to another base than e; a base that the source records
    /// counts for nothing if the cells' totals prove that the logarithms are natural.
    pub fn of(cells: &Cells, told: &Told) -> Result<Found, Unclear> {
        let found = match told.scale {
            Some(scale) => Found::stated(scale, cells),
            None => Found::detected(cells, told.logged),
        };
        let proven = found.as_ref().is_ok_and(|found| found.scale == Scale::Counts || found.total.is_some());
        // Before what is unclear of the values: that they are other logarithms would explain it.
        natural(told.base, proven)?;
        let found = found?;
        let told = told.target.filter(|_| found.scale != Scale::Counts);
        Ok(Found { target: found.total.or(told), ..found })
    }

    fn by(scale: Scale, why: String, total: Option<f64>) -> Found {
        Found { scale, why, target: total, total }
    }

    /// As the reader states; refuses logarithms to another base.
    fn stated(scale: Scale, cells: &Cells) -> Result<Found, Unclear> {
        let found = |total| Ok(Found::by(scale, "as stated".into(), total));
        let Some(divisor) = divisor(scale) else { return found(None) };
        match common_total(cells, |x| (divisor * f64::from(x)).exp_m1()) {
            Some(total) => found(Some(total)),
            None => other_base(cells).map_or_else(|| found(None), Err),
        }
    }

    /// As some cells' values show; `logged` as in [`Told`].
    fn detected(cells: &Cells, logged: bool) -> Result<Found, Unclear> {
        if let Some(place) = misfit(cells.data(), false) {
            return Err(Unclear::Impossible(cells.data()[place]));
        }
        let found = |scale, why: String, total| Ok(Found::by(scale, why, total));
        if cells.data().par_iter().all(|value| value.fract() == 0.0) {
            let mark = if logged { ", though uns/log1p is present" } else { "" };
            return found(Scale::Counts, format!("every value is a whole number{mark}"), None);
        }
        if let Some(total) = common_total(cells, |x| f64::from(x).exp_m1()) {
            let why = format!("expm1 of the values sums to {total} in every cell");
            return found(Scale::Log1p, why, Some(total));
        }
        if let Some(total) = common_total(cells, |x| (10.0 * f64::from(x)).exp_m1()) {
            let why = format!("expm1 of ten times the values sums to {total} in every cell");
            return found(Scale::Log1p10, why, Some(total));
        }
        if let Some(unclear) = other_base(cells) {
            return Err(unclear);
        }
        if let Some(total) = common_total(cells, f64::from) {
            return Err(Unclear::NotLogged { total });
        }
        let greatest = cells.data().iter().copied().fold(0.0, f32::max);
        if logged && greatest > SURELY_UNDIVIDED && f64::from(greatest) <= GREATEST_LOG {
            let why = format!(
                "uns/log1p is present and values reach {greatest}; the cells' totals differ (a subset of genes?)"
            );
            return found(Scale::Log1p, why, None);
        }
        Err(Unclear::Unsaid { greatest, logged })
    }

    /// Why a cell with these stored values cannot be on this scale, or cannot have `total` counts, if such a total is given.
    pub fn refusal(&self, values: &[f32], total: Option<f32>) -> Option<Refusal> {
        if let Some(place) = misfit(values, self.scale == Scale::Counts) {
            return Some(Refusal::Value { place, value: values[place] });
        }
        let other = self.other_scale(values).map(Refusal::Scale);
        other.or_else(|| impossible(total?, values, self.scale).map(Refusal::Total))
    }

    /// What log values of a cell sum to if that is more than the `total` to which it is said to be scaled: genes may be missing, but
    /// no counts can be added. [`Found::refusal`] has compared cells that have a common total.
    pub(crate) fn beyond(&self, values: &[f32], total: f64) -> Option<f64> {
        let divisor = divisor(self.scale).filter(|_| self.total.is_none())?;
        let sum = total_of_logs(values, divisor);
        (sum > (1.0 + OTHER_TOTAL) * total).then_some(sum)
    }

    /// A value that is no logarithm, or another total than in the cells that were looked at.
    fn other_scale(&self, values: &[f32]) -> Option<String> {
        let divisor = divisor(self.scale)?;
        let greatest = values.iter().copied().fold(0.0, f32::max);
        if divisor * f64::from(greatest) > GREATEST_LOG {
            let count = (divisor * f64::from(greatest)).exp_m1();
            return Some(format!(
                "contains {greatest}, which is {count:.1e} counts of one gene as {}",
                self.scale.name()
            ));
        }
        let expected = self.total?;
        let total = total_of_logs(values, divisor);
        let other = total > 0.0 && (total - expected).abs() > OTHER_TOTAL * expected;
        other.then(|| {
            let name = self.scale.name();
            format!(
                "has values that sum to {total:.4} as {name}, but those of the first cells to {expected} each"
            )
        })
    }
}

/// What expm1 of log values sums to. In f32, which is far closer than what is asked of it.
fn total_of_logs(values: &[f32], divisor: f64) -> f64 {
    values.iter().map(|&x| f64::from((divisor as f32 * x).exp() - 1.0)).sum()
}

/// What log values were divided by; `None` for counts.
fn divisor(scale: Scale) -> Option<f64> {
    match scale {
        Scale::Counts => None,
        Scale::Log1p => Some(1.0),
        Scale::Log1p10 => Some(10.0),
    }
}

/// Position of the first value that is not finite, or is negative or, among counts (`whole`), a fraction.
pub(crate) fn misfit(values: &[f32], whole: bool) -> Option<usize> {
    if !suspicious(values, whole) {
        return None;
    }
    let bad = |&value: &f32| !(value.is_finite() && value >= 0.0) || (whole && value.fract() != 0.0);
    values.iter().position(bad)
}

/// Whether there may be a value that [`misfit`] finds, without a branch or a call per value: a number below 2^23 is whole if
/// adding and subtracting 2^23 returns it, and a larger f32 is always whole.
fn suspicious(values: &[f32], whole: bool) -> bool {
    const WHOLE_FROM: f32 = 8_388_608.0;
    let wrong = |value: f32| !(0.0..f32::INFINITY).contains(&value);
    let broken = |value: f32| value < WHOLE_FROM && (value + WHOLE_FROM) - WHOLE_FROM != value;
    match whole {
        true => values.iter().fold(false, |any, &value| any | wrong(value) | broken(value)),
        false => values.iter().fold(false, |any, &value| any | wrong(value)),
    }
}

/// Why a given total cannot be that of a cell with these stored values, if it cannot: not a valid number, or less than the stored
/// counts.
fn impossible(told: f32, stored: &[f32], scale: Scale) -> Option<String> {
    if !(told.is_finite() && told >= 0.0) {
        return Some(format!("{told}, which is not a total of counts"));
    }
    let stored = total(stored);
    let less = scale == Scale::Counts && !covers(told, stored);
    less.then(|| format!("{told}, less than the {stored} counts stored"))
}

/// Whether a cell with this total may have this many counts stored, f32 rounding included.
pub(crate) fn covers(total: f32, stored: f32) -> bool {
    total >= stored * (1.0 - LESS)
}

/// Refuses a recorded base of logarithms other than e, unless they are proven to be natural.
pub(crate) fn natural(base: Option<f64>, proven: bool) -> Result<(), Unclear> {
    match base.filter(|base| !proven && (base - std::f64::consts::E).abs() > 1e-6) {
        Some(base) => Err(Unclear::Recorded { base }),
        None => Ok(()),
    }
}

/// The common value of all cells' totals of these numbers, if they agree.
fn common_total(cells: &Cells, of: impl Fn(f32) -> f64 + Sync) -> Option<f64> {
    let starts = cells.indptr();
    let sum = |row| cells.data()[starts.outer_inds_sz(row)].iter().map(|&x| of(x)).sum::<f64>();
    agreed((0..cells.rows()).into_par_iter().map(sum).filter(|&total| total > 0.0).collect())
}

/// The common value of some cells' totals, all above zero, if they agree.
pub(crate) fn agreed(mut totals: Vec<f64>) -> Option<f64> {
    totals.sort_by(f64::total_cmp);
    totals.last().filter(|greatest| greatest.is_finite())?;
    let middle = *totals.get(totals.len() / 2)?;
    let same = (middle - totals[0]).max(totals[totals.len() - 1] - middle) <= SAME_TOTAL * middle;
    // The intended total: f32 logarithms move a total of 10000 by 0.001.
    let meant = if (middle - middle.round()).abs() < ROUNDING * middle { middle.round() } else { middle };
    (same && totals.len() >= ENOUGH_CELLS).then_some(meant)
}

/// Logarithms of 1 + x to another base than e, if the cells' totals show it.
fn other_base(cells: &Cells) -> Option<Unclear> {
    let total_by = |base: f64| common_total(cells, |x| base.powf(f64::from(x)) - 1.0);
    [2.0, 10.0].into_iter().find_map(|base| Some(Unclear::OtherBase { base, total: total_by(base)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(cells: &Cells, logged: bool) -> Result<Found, Unclear> {
        Found::of(cells, &Told { logged, ..Told::default() })
    }

    fn rows(rows: &[&[f32]]) -> Cells {
        let starts = std::iter::once(0).chain(rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        }));
        let columns = rows.iter().flat_map(|row| 0..row.len() as u32).collect();
        Cells::new((rows.len(), 8), starts.collect(), columns, rows.concat())
    }

    fn logs(divisor: f32) -> Cells {
        let counts: [&[f32]; 3] = [&[1.0, 2.0, 1.0], &[5.0], &[2.0, 7.0, 1.0, 3.0]];
        let log = |row: &&[f32]| -> Vec<f32> {
            let total: f32 = row.iter().sum();
            row.iter().map(|count| (count / total * 1e4).ln_1p() / divisor).collect()
        };
        let logged: Vec<Vec<f32>> = counts.iter().map(log).collect();
        rows(&logged.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    #[test]
    fn each_scale_is_told_from_the_values() {
        let counts = detect(&rows(&[&[1.0, 3.0], &[2.0]]), true).expect("counts");
        assert!(counts.scale == Scale::Counts && counts.why.contains("uns/log1p"));
        let log = detect(&logs(1.0), false).expect("log1p");
        assert!(log.scale == Scale::Log1p && (log.target.expect("a total") - 1e4).abs() < 1.0);
        assert_eq!(detect(&logs(10.0), false).expect("log1p / 10").scale, Scale::Log1p10);
    }

    #[test]
    fn a_subset_of_genes_needs_the_mark_and_the_rest_is_refused() {
        let subset = rows(&[&[1.5, 3.0], &[2.5], &[0.5]]);
        assert_eq!(detect(&subset, true).expect("marked").scale, Scale::Log1p);
        assert!(detect(&subset, false).expect_err("unmarked").to_string().contains("not marked"));
        assert!(
            detect(&rows(&[&[0.25, 0.5], &[0.5], &[0.75]]), true)
                .expect_err("small")
                .to_string()
                .contains("log1p / 10")
        );
        let normalised = rows(&[&[0.5, 1.5], &[2.0], &[0.25, 1.75]]);
        assert!(detect(&normalised, false).expect_err("not logged").to_string().contains("not logged"));
    }

    #[test]
    fn two_cells_with_one_total_prove_nothing() {
        let all = logs(1.0);
        let two = Cells::new((2, 8), vec![0, 3, 4], all.indices()[..4].to_vec(), all.data()[..4].to_vec());
        assert!(detect(&all, false).is_ok() && detect(&two, false).is_err());
    }
}
