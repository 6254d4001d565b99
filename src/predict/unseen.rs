//! Perturbations that a run was not trained on: what to say of them.

use std::collections::BTreeSet;

use super::runs::{Run, Runs};
use super::{Job, Report};
use crate::checkpoint::{Header, Trained};
use crate::error::some_of;

/// What to do about a perturbation that is unknown to runs that know features.
pub fn hint(runs: &Runs, cell_type: &str, perturbation: &str) -> &'static str {
    let data = runs.data();
    let known = |name: &str| data.cell_types.iter().any(|known| known == name);
    match runs.know_features() && known(cell_type) && !data.knows(perturbation) {
        true => " (A new one needs a row in the table of `features`.)",
        false => "",
    }
}

/// Reports what predictions for such perturbations are worth.
pub fn tell(runs: &Runs, job: &Job, report: &mut Report) {
    let asked: BTreeSet<u32> = job.asks.iter().map(|ask| ask.request.conditions[1]).collect();
    let names = runs.data().all_perturbations().zip(0..).filter(|(_, id)| asked.contains(id));
    let names: BTreeSet<&String> = names.map(|(name, _)| name).collect();
    let unseen = |Header { untrained, data, .. }: &Header| {
        let unseen = untrained.iter().chain(&data.unmeasured).filter(|name| names.contains(name));
        unseen.cloned().collect::<Vec<String>>()
    };
    report.notes.extend(runs.say(|Run { trained: Trained { header, features, .. }, .. }| {
        let Some(features) = features else { return Vec::new() };
        let what = "predicted from features alone, since the run was trained on none of their cells";
        let unseen = unseen(header);
        let alone = (!unseen.is_empty()).then(|| format!("{what}: {}", some_of(&unseen)));
        alone.into_iter().chain(features.doubts(&header.data, &header.untrained, &asked)).collect()
    }));
    report.warnings.extend(runs.say(|Run { trained, .. }| {
        let unseen = unseen(&trained.header);
        if trained.features.is_some() || unseen.is_empty() {
            return Vec::new();
        }
        let these = if unseen.len() == 1 { "this perturbation" } else { "these perturbations" };
        let what = format!("are meaningless: the run was trained on no cells with {these}");
        vec![format!("predictions for {} {what}", some_of(&unseen))]
    }));
}
