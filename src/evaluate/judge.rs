//! The measured side, prepared once, and the scoring of predictions against it.

use std::sync::Arc;

use super::de::Table;
use super::de_metrics::Lists;
use super::edistance::edistances;
use super::expression::{Means, Profiles};
use super::lognorm::{Logs, log_normalised};
use super::pseudobulk::Pseudobulk;
use super::registry::{self, EDISTANCE, Metric};
use super::report::{Counts, Report};
use super::rules::{Controls, Definitions};
use super::side::{Groups, Rows, Side, check_match};
use super::table::{Column, Joined};
use super::totals::{Fit, Total};
use super::{Settings, significant};
use crate::correlation::pearson;
use crate::error::Result;

/// Measured cells, against which any number of predictions are scored.
pub struct Judge<'a> {
    settings: Settings,
    definitions: Definitions,
    metrics: Vec<&'static Metric>,
    pub(super) real: &'a Side,
    pub(super) groups: Groups,
    pub(super) logs: Logs<'a>,
    total: Total,
    found: Found,
}

brief!(Judge<'_>, |judge| settings: judge.settings);

/// What measures are computed from, if one of them needs it. The numbers are shared by clones.
#[derive(Clone)]
struct Found {
    table: Option<Arc<Table>>,
    means: Option<Means>,
    edistances: Option<Arc<[f64]>>,
}

impl<'a> Judge<'a> {
    /// Prepares the measured side.
    ///
    /// # Errors
    /// No control cells, nothing but these, cells without label, sizes that disagree, values that are not expression
    /// ([`log_normalised`]), a measure to skip that is unknown, or none left.
    pub fn new(real: &'a Side, settings: &Settings) -> Result<Judge<'a>> {
        Judge::prepared(real, settings, || log_normalised(real, None))
    }

    /// The same of cells whose logs are known.
    pub(super) fn of_logs(real: &'a Side, logs: Logs<'a>, settings: &Settings) -> Result<Judge<'a>> {
        Judge::prepared(real, settings, || Ok(logs))
    }

    fn prepared(
        real: &'a Side,
        settings: &Settings,
        logs: impl FnOnce() -> Result<Logs<'a>>,
    ) -> Result<Judge<'a>> {
        let metrics = registry::choose(settings.rules, settings.profile, &settings.skip_metrics)?;
        let definitions = settings.rules.definitions();
        let groups = Groups::of(real, &settings.control)?;
        let logs = logs()?;
        let found = find(Rows::of(&logs.x, &groups), &real.genes, settings, &metrics);
        let (settings, total) = (settings.clone(), Total::of(real, groups.group(0), &logs));
        Ok(Judge { settings, definitions, metrics, real, groups, logs, total, found })
    }

    /// Scores a prediction.
    ///
    /// # Errors
    /// What [`Judge::new`] refuses, but control cells only where the rules need them; genes or labels that differ from the measured
    /// side's.
    pub fn score(&self, pred: &Side) -> Result<Report> {
        let own = self.checked(pred)?;
        Ok(self.scored(pred, &own, &log_normalised(pred, self.shared_total())?))
    }

    /// Scores a baseline or another comparison: its log values are brought to the measured cells' total, if that is known.
    ///
    /// # Errors
    /// As [`Judge::score`].
    pub fn score_beside(&self, side: &Side) -> Result<(Report, Fit)> {
        let own = self.checked(side)?;
        let logs = log_normalised(side, self.shared_total())?;
        let (logs, fit) = self.total.bring(self.logs.held, side, own.group(0), logs);
        Ok((self.scored(side, &own, &logs), fit))
    }

    /// The same of cells whose logs are known.
    pub(super) fn score_logs(&self, pred: &Side, logs: &Logs) -> Result<Report> {
        Ok(self.scored(pred, &self.checked(pred)?, logs))
    }

    /// A prediction's groups, once it is known to be comparable.
    fn checked(&self, pred: &Side) -> Result<Groups> {
        let control = &self.settings.control;
        let own = Groups::perturbed(pred, control)?;
        if self.definitions.controls == Controls::Own && own.size(0) == 0 {
            let what = format!(
                "has no control cells ({control:?}), which these rules need; `predict::Settings::with_controls` writes them"
            );
            return Err(pred.error(what));
        }
        check_match(self.real, pred, &self.groups, &own)?;
        Ok(own)
    }

    fn scored(&self, pred: &Side, own: &Groups, logs: &Logs) -> Report {
        let groups = match self.definitions.controls {
            Controls::Own => own.clone(),
            Controls::Real => own.with_controls_of(&self.groups),
        };
        let rows = match self.definitions.controls {
            Controls::Own => Rows::of(&logs.x, &groups),
            Controls::Real => Rows::of_two(&self.logs.x, &logs.x, &groups),
        };
        let found = find(rows, &self.real.genes, &self.settings, &self.metrics);
        let sides = [Counts::of(self.real, &self.groups, &self.logs), Counts::of(pred, own, logs)];
        self.report(found, sides)
    }

    /// Total for a prediction's counts, if it is compared with the measured control cells: then it must be theirs.
    fn shared_total(&self) -> Option<f32> {
        self.logs.total.filter(|_| self.definitions.controls == Controls::Real)
    }

    fn report(&self, pred: Found, sides: [Counts; 2]) -> Report {
        let real = self.found.clone();
        let perturbations = &self.groups.perturbations;
        let of = |de: bool| self.metrics.iter().filter(move |metric| metric.de == de);
        let mut columns = Vec::new();
        let tables = real.table.zip(pred.table).map(|(real, pred)| [real, pred]);
        if let Some(tables) = &tables {
            let view = |table: &Arc<Table>| significant::view(table, perturbations, &self.definitions);
            let lists = Lists::new(tables.each_ref().map(view), self.definitions);
            columns.extend(of(true).flat_map(|metric| metric.columns()).map(|name| lists.column(&name)));
        }
        let means = real.means.zip(pred.means).map(|(real, pred)| [real, pred]);
        let profiles =
            means.map(|means| Profiles::new(means, perturbations, &self.real.genes, self.definitions));
        let pairs = real.edistances.zip(pred.edistances);
        for metric in of(false) {
            match (&pairs, &profiles) {
                (Some(pairs), _) if metric.name == EDISTANCE => {
                    columns.extend(edistance_column(pairs, self.definitions.quirks));
                }
                (_, Some(profiles)) => columns.push(profiles.column(metric.name)),
                _ => unreachable!("{} without what it is made of", metric.name),
            }
        }
        Report {
            settings: self.settings.clone(),
            perturbations: perturbations.clone(),
            genes: self.real.genes.clone(),
            sides,
            columns,
            tables,
            changes: profiles.map(Profiles::into_changes),
        }
    }
}

fn find(rows: Rows, genes: &[String], settings: &Settings, metrics: &[&Metric]) -> Found {
    let definitions = settings.rules.definitions();
    let asked = |of: &dyn Fn(&Metric) -> bool| metrics.iter().any(|metric| of(metric));
    let table = || Arc::new(Table::of(rows, genes, &settings.control, &definitions));
    Found {
        table: asked(&|metric| metric.de).then(table),
        means: asked(&|metric| !metric.de && metric.name != EDISTANCE)
            .then(|| Means::of(Pseudobulk::of(rows))),
        edistances: asked(&|metric| metric.name == EDISTANCE).then(|| edistances(rows).into()),
    }
}

/// Pearson's r of the two sides' energy distances. With fewer than two perturbations, cell-eval leaves the column out.
fn edistance_column((real, pred): &(Arc<[f64]>, Arc<[f64]>), quirks: bool) -> Option<Column> {
    let pairs = real.iter().zip(pred.iter()).map(|(&real, &pred)| Some([real, pred])).collect();
    let whole = Joined { pairs, join: pearson };
    (real.len() > 1 || !quirks).then(|| Column::whole(EDISTANCE, whole, quirks))
}
