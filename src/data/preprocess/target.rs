//! The total to which the counts of a cell are scaled: a given number, a median, or what log values were scaled to.

use std::path::Path;

use super::block::{Block, Part};
use super::input::Inputs;
use super::scale;
use super::work::{Findings, Halt, Passed, Saved, Work};
use super::{Settings, Target};
use crate::data::normalise;
use crate::data::scale::Found;
use crate::data::shard::{Scale, same_total};
use crate::error::{Error, Result};

/// More than any cell holds; f32 still has room above.
const LARGEST: f64 = 1e12;

/// Refuses an invalid total.
pub(super) fn check(target: Option<Target>) -> Result<()> {
    match target {
        Some(Target::Sum(total)) if !(total > 0.0 && total <= LARGEST) => {
            let what =
                format!("{total:e} is not a total of counts; give a number above 0 and at most {LARGEST:e}");
            Err(Error::setting("target", what))
        }
        _ => Ok(()),
    }
}

/// Total counts of each used cell of a part.
struct Totals(Vec<f32>);

impl Findings for Totals {
    fn save(&self, to: &mut Saved) {
        to.put("totals", &self.0);
    }

    fn load(from: &Saved) -> Option<Totals> {
        from.take("totals").map(Totals)
    }
}

/// Total to which cells are scaled: a given number, a median (one pass over the data), or what log values were scaled to.
pub(super) fn find(settings: &Settings, inputs: &Inputs, found: &Found, work: &Work) -> Passed<Option<f64>> {
    if found.scale != Scale::Counts {
        return told(found, settings.target).map_err(Halt::Failed);
    }
    let asked = settings.target.unwrap_or(Target::Sum(1e4));
    if let Target::Sum(total) = asked {
        return Ok(Some(total));
    }
    let find = |part: &Part, _: &Path| {
        let mut totals = Vec::with_capacity(part.cells.len());
        let sum = |block: &Block| {
            scale::check(block, found)?;
            Ok(block.used().map(|(row, _, values)| block.total(row, values)).collect::<Vec<f32>>())
        };
        inputs.walk(part, &work.progress, sum, |_, sums| {
            totals.extend(sums);
            Ok(())
        })?;
        Ok(Totals(totals))
    };
    let mut totals = Vec::with_capacity(inputs.labels.len());
    work.pass("totals", inputs, find, |_, _, part: Totals| {
        totals.extend(part.0);
        Ok(())
    })?;
    if asked == Target::MedianNonzero {
        totals.retain(|&total| total > 0.0);
    }
    match normalise::median(totals) {
        Some(median) if median > 0.0 => Ok(Some(f64::from(median))),
        _ => Err(Halt::Failed(Error::setting(
            "target",
            "at least half of the cells have no counts, so that no median can be scaled to; give a number, or \
             median-nonzero if some cells have counts",
        ))),
    }
}

/// Total that log values were scaled to, as stated by their files or by the user; refuses disagreement between them.
pub(super) fn told(found: &Found, asked: Option<Target>) -> Result<Option<f64>> {
    let wrong = |what: String| Err(Error::setting("target", what));
    match (found.target, asked) {
        _ if found.scale == Scale::Counts => Ok(None),
        (Some(own), Some(Target::Sum(told))) if !same_total(own, told) => {
            wrong(format!("is {told}, but the values were scaled to {own}: omit `target`"))
        }
        (own, Some(Target::Sum(told))) => Ok(own.or(Some(told))),
        (_, Some(_)) => {
            wrong("the values are already logarithms; give the number their cells were scaled to".into())
        }
        (own, None) => Ok(own),
    }
}
