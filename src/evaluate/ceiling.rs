//! What a perfect prediction would score: one half of the measured cells against the other.
//!
//! Each perturbation's cells are dealt into two halves at random; the control cells are in both, as a prediction shares them with
//! the measurement too. A half has only half the cells, so its lists of significant genes are shorter than those a prediction is
//! compared with: the ceiling is a little low. Raw counts are scaled before they are dealt, so that both halves have one total.

use super::judge::Judge;
use super::side::Side;
use super::table::{Column, Joined};
use super::{Settings, report::Report};
use crate::error::Result;
use crate::rng::Rng;

/// Scores of one half of the judge's cells against the other, one row for each of its `perturbations`; a perturbation of a single
/// cell has no score in any column. `None` if every perturbation has only one.
///
/// # Errors
/// What [`Judge::new`] and [`Judge::score`] refuse.
pub fn ceiling(judge: &Judge, perturbations: &[String], settings: &Settings) -> Result<Option<Vec<Column>>> {
    let Some([measured, predicted]) = halves(judge) else { return Ok(None) };
    let [of_measured, of_predicted] = [&measured, &predicted].map(|half| judge.logs.part(&half.x));
    let report = Judge::of_logs(&measured, of_measured, settings)?.score_logs(&predicted, &of_predicted)?;
    Ok(Some(aligned(report, perturbations)))
}

/// Two sides with all control cells and half of each perturbation's, as logs; the first gets the odd cell.
fn halves(judge: &Judge) -> Option<[Side; 2]> {
    let Judge { groups, real, logs, .. } = judge;
    let mut cells = [groups.group(0).to_vec(), groups.group(0).to_vec()];
    for g in (1..groups.starts.len() - 1).filter(|&g| groups.size(g) > 1) {
        let mut dealt = groups.group(g).to_vec();
        Rng::new(0).at(g as u64).shuffle(&mut dealt);
        let (first, second) = dealt.split_at(dealt.len().div_ceil(2));
        cells[0].extend(first);
        cells[1].extend(second);
    }
    (cells[0].len() > groups.size(0)).then(|| {
        cells.map(|mut cells| {
            cells.sort_unstable();
            real.subset_of(&logs.x, &cells)
        })
    })
}

fn aligned(report: Report, perturbations: &[String]) -> Vec<Column> {
    let place = |name: &String| report.perturbations.binary_search(name).ok();
    let places: Vec<Option<usize>> = perturbations.iter().map(place).collect();
    let pairs = |whole: &Joined| places.iter().map(|place| place.and_then(|p| whole.pairs[p])).collect();
    let align = |column: Column| Column {
        values: places.iter().map(|place| place.and_then(|p| column.values[p])).collect(),
        whole: column.whole.map(|whole| Joined { pairs: pairs(&whole), ..whole }),
        name: column.name,
    };
    report.columns.into_iter().map(align).collect()
}
