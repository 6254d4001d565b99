//! What the stored values are: counts, log1p of normalised counts, or that divided by ten.

use std::ops::Range;

use rayon::prelude::*;

use super::block::Input;
use super::input::Inputs;
use super::sizes;
use crate::data::h5ad::{Cells, H5ad};
use crate::data::shard::{Scale, same_total};
use crate::error::{Error, Result};

/// The scale of a source and how it was determined.
#[derive(Clone, Debug)]
pub struct Found {
    /// What the values are.
    pub scale: Scale,
    /// How it was determined, for people.
    pub why: String,
    /// Total to which log sources were normalised, if the cells' totals show it or a file written by this program records it.
    pub target: Option<f64>,
    /// The total that expm1 of the values gives in each of the cells looked at, if it is one: other cells must have it too.
    pub total: Option<f64>,
}

impl Found {
    /// On this scale, with the total of the cells looked at.
    fn by(scale: Scale, why: String, total: Option<f64>) -> Found {
        Found { scale, why, target: total, total }
    }

    /// Why a cell with these values cannot be on this scale: a value that is no logarithm, or another total than in the cells that
    /// were looked at, as where counts were appended to log values.
    pub fn refusal(&self, values: &[f32]) -> Option<String> {
        let divisor = divisor(self.scale)?;
        let greatest = values.iter().copied().fold(0.0, f32::max);
        if divisor * f64::from(greatest) > GREATEST_LOG {
            let count = (divisor * f64::from(greatest)).exp_m1();
            return Some(format!(
                "contains {greatest}, which is {count:.1e} counts of one gene as {}",
                self.name()
            ));
        }
        let expected = self.total?;
        // In f32, which is far closer than what is asked for.
        let total: f64 = values.iter().map(|&x| f64::from((divisor as f32 * x).exp() - 1.0)).sum();
        let other = total > 0.0 && (total - expected).abs() > OTHER_TOTAL * expected;
        other.then(|| {
            let name = self.name();
            format!(
                "has values that sum to {total:.4} as {name}, but those of the first cells to {expected} each"
            )
        })
    }

    /// As `--scale` calls it.
    fn name(&self) -> String {
        format!("{:?}", self.scale).to_lowercase()
    }

    /// For two files: the total to which both have been scaled, if known.
    fn and(self, other: Found, file: &H5ad) -> Result<Found> {
        match (self.target, other.target) {
            (Some(before), Some(here)) if !same_total(before, here) => {
                let what = format!(
                    "was scaled to {here} per cell, but the files before it to {before}: preprocess them \
                     separately"
                );
                Err(Error::format(file.path(), what))
            }
            (target, here) => Ok(Found {
                target: target.filter(|_| here.is_some()),
                total: self.total.filter(|_| other.total.is_some()),
                why: self.why,
                scale: self.scale,
            }),
        }
    }

    /// As the user states; refuses, judging by some cells of the file, logarithms to another base. Whether each value can be what
    /// it is said to be is checked cell by cell, later.
    pub fn told(scale: Scale, file: &H5ad, cells: &Cells) -> Result<Found> {
        let Some(divisor) = divisor(scale) else { return Ok(Found::by(scale, TOLD.into(), None)) };
        let total = common_total(cells, |x| (divisor * f64::from(x)).exp_m1());
        natural(file, total.is_some())?;
        if let Some(what) = other_base(cells).filter(|_| total.is_none()) {
            return Err(Error::format(file.path(), what));
        }
        let found = Found::by(scale, TOLD.into(), total);
        Ok(Found { target: total.or_else(|| file.log_target()), ..found })
    }
}

/// What log values were divided by; `None` for counts.
fn divisor(scale: Scale) -> Option<f64> {
    match scale {
        Scale::Counts => None,
        Scale::Log1p => Some(1.0),
        Scale::Log1p10 => Some(10.0),
    }
}

/// Totals of normalised cells agree this closely, f32 rounding included.
const SAME_TOTAL: f64 = 1e-3;
/// A total that differs by more is of another scale, not of a cell whose rare genes were left out after normalisation.
const OTHER_TOTAL: f64 = 0.05;
/// Relative error of a total of f32 logarithms.
const ROUNDING: f64 = 1e-6;
/// Cells whose totals must agree before agreement means anything.
const ENOUGH_CELLS: usize = 3;
/// What to do about a matrix in which not all cells are on one scale.
pub const MIXED: &str = "not all cells are on the scale that was found or stated; preprocess the parts separately, or choose \
                         another matrix (`--source raw` or `layers/NAME`)";
/// How the scale was determined if the user states it.
const TOLD: &str = "as given by --scale";
/// No cell's count of a gene, scaled to any target in use, has a log1p above this, that of 3.3 million.
const GREATEST_LOG: f64 = 15.0;
/// If all log1p values are below this they may as well be log1p / 10: in a subset of genes no total tells them apart.
const SURELY_UNDIVIDED: f32 = 1.2;

/// The scale of all files together: stated by the user, or found from the first row block of each.
pub(super) fn find(inputs: &mut Inputs, told: Option<Scale>) -> Result<Found> {
    let mut first: Option<Found> = None;
    let mut notes = Vec::new();
    for (number, input) in inputs.files.iter().enumerate() {
        let Some(block) = input.file.blocks().next() else { continue };
        let (rows, cells) = block?;
        inputs.memo.keep((number, 0), &cells);
        check(input, rows, &cells, Scale::Log1p)?;
        let found = match told {
            Some(scale) => Found::told(scale, &input.file, &cells)?,
            None => of_file(&input.file, &cells)?,
        };
        if found.scale == Scale::Counts && input.sizes.is_none() {
            notes.extend(sizes::unasked(&input.file, &cells));
        }
        match first.take() {
            None => first = Some(found),
            Some(before) if before.scale == found.scale => first = Some(before.and(found, &input.file)?),
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

/// Refuses log values of a cell that the scale found does not fit; the message names the cell. `whole`: no genes were left out.
pub(super) fn fits(
    input: &Input,
    rows: Range<usize>,
    cells: &Cells,
    found: &Found,
    whole: bool,
) -> Result<()> {
    let found = Found { total: found.total.filter(|_| whole), ..found.clone() };
    for (row, values) in rows.zip(cells.outer_iterator()) {
        if let Some(what) = found.refusal(values.data()) {
            let what = format!("cell {:?} {what}: {MIXED}", input.file.cell_name(row));
            return Err(Error::format(input.file.path(), what));
        }
    }
    Ok(())
}

/// Refuses NaN, infinities and negatives, and fractions among counts; the message names cell and gene.
pub(super) fn check(input: &Input, rows: Range<usize>, cells: &Cells, scale: Scale) -> Result<()> {
    let whole = scale == Scale::Counts;
    let bad = |value: f32| !(value.is_finite() && value >= 0.0) || (whole && value.fract() != 0.0);
    if !suspicious(cells.data(), whole) {
        return Ok(());
    }
    let Some(place) = cells.data().iter().position(|&value| bad(value)) else { return Ok(()) };
    let value = cells.data()[place];
    let row = cells.indptr().to_proper().partition_point(|&start| start <= place) - 1;
    let cell = input.file.cell_name(rows.start + row);
    let gene = &input.file.var().index[cells.indices()[place] as usize];
    let what = if value.is_nan() {
        "NaN; fill or drop it first".to_string()
    } else if value.is_infinite() {
        format!("{value}; neither counts nor logs are infinite")
    } else if value < 0.0 {
        format!(
            "{value}; negative values are neither counts nor log1p (scaled or centred data?): give counts or \
             log1p values, with --source raw or --source layers/NAME if the file has some"
        )
    } else {
        format!(
            "{value}, which is not a count; if the values are on a log scale, say so with --scale; if they \
             are counts that a tool made fractional (SoupX, CellBender), round them first or choose others \
             with --source layers/NAME"
        )
    };
    Err(Error::format(input.file.path(), format!("cell {cell:?}, gene {gene:?} is {what}")))
}

/// Whether there may be a value that [`check`] refuses, without a branch or a call per value: a number below 2^23 is whole if
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

/// Determines the scale of a file from its first cells; refuses logarithms to a base other than e, if the file states one,
/// unless the cells' totals prove that they are natural.
pub fn of_file(file: &H5ad, cells: &Cells) -> Result<Found> {
    let found = detect(cells, file.is_logged());
    natural(file, found.as_ref().is_ok_and(|found| found.scale == Scale::Counts || found.target.is_some()))?;
    let found = found.map_err(|what| Error::format(file.path(), what))?;
    match (found.scale, found.target) {
        (Scale::Log1p | Scale::Log1p10, None) => Ok(Found { target: file.log_target(), ..found }),
        _ => Ok(found),
    }
}

/// Refuses a file that states another base for its logarithms, unless proven otherwise.
pub(crate) fn natural(file: &H5ad, proven: bool) -> Result<()> {
    match file.log_base().filter(|base| !proven && (base - std::f64::consts::E).abs() > 1e-6) {
        Some(base) => {
            let what = format!(
                "uns/log1p/base says that values are logarithms to base {base}, but natural ones are needed: \
                 multiply X by ln({base}) = {:.6} and delete uns/log1p/base, or just delete it if it is \
                 wrong",
                base.ln()
            );
            Err(Error::format(file.path(), what))
        }
        None => Ok(()),
    }
}

/// The common value of all cells' totals of these numbers, if they agree.
fn common_total(cells: &Cells, of: impl Fn(f32) -> f64 + Sync) -> Option<f64> {
    let rows: Vec<usize> = (0..cells.rows()).collect();
    let starts = cells.indptr();
    let starts = starts.to_proper();
    let sum = |&row: &usize| cells.data()[starts[row]..starts[row + 1]].iter().map(|&x| of(x)).sum::<f64>();
    agreed(rows.par_iter().map(sum).filter(|&total| total > 0.0).collect())
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

/// Determines the scale from the values of some cells; `logged`: the file has `uns/log1p`. The
/// error says why it cannot be determined.
pub fn detect(cells: &Cells, logged: bool) -> std::result::Result<Found, String> {
    if let Some(bad) = cells.data().iter().find(|value| !(value.is_finite() && **value >= 0.0)) {
        return Err(format!("X contains {bad}; counts or log1p values are finite and not negative"));
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
    if let Some(what) = other_base(cells) {
        return Err(what);
    }
    if let Some(total) = common_total(cells, f64::from) {
        return Err(format!(
            "X is normalised to {total} per cell but not logged; give the counts, or take log1p of it \
             (scanpy: sc.pp.log1p) and pass --scale log1p"
        ));
    }
    let greatest = cells.data().iter().copied().fold(0.0, f32::max);
    if logged && greatest > SURELY_UNDIVIDED && f64::from(greatest) <= GREATEST_LOG {
        let why = format!(
            "uns/log1p is present and values reach {greatest}; the cells' totals differ (a subset of genes?)"
        );
        return found(Scale::Log1p, why, None);
    }
    Err(format!(
        "X is neither whole counts nor log1p of normalised counts: values reach {greatest}, expm1 of them \
         sums differently in each cell, and uns/log1p {}; say what it is with --scale counts, log1p or \
         log1p10, or choose another matrix (`preprocess --source` reads raw and layers/NAME)",
        match logged {
            true if f64::from(greatest) > GREATEST_LOG => "is present, although no log1p is that large",
            true => "does not tell log1p from log1p / 10",
            false => "is missing",
        }
    ))
}

/// What to say if the values are log(1 + x) to another base than e, as the cells' totals show.
fn other_base(cells: &Cells) -> Option<String> {
    let total_by = |base: f64| common_total(cells, |x| base.powf(f64::from(x)) - 1.0);
    let (base, total) = [2.0, 10.0].into_iter().find_map(|base| Some((base, total_by(base)?)))?;
    Some(format!(
        "contains log values to base {base}: {base}^x - 1 sums to {total} in every cell; natural logarithms are needed: \
         multiply X by ln({base}) = {:.6}",
        base.ln()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(detect(&subset, false).expect_err("unmarked").contains("--scale"));
        assert!(
            detect(&rows(&[&[0.25, 0.5], &[0.5], &[0.75]]), true).expect_err("small").contains("log1p / 10")
        );
        let normalised = rows(&[&[0.5, 1.5], &[2.0], &[0.25, 1.75]]);
        assert!(detect(&normalised, false).expect_err("not logged").contains("not logged"));
    }
}
