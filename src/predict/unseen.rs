//! Perturbations that a run was not trained on: what to say of them.

use std::collections::BTreeSet;

use super::{Job, Report, Runs};
use crate::checkpoint::Trained;
use crate::error::some_of;

/// What to do about a perturbation that is unknown to runs that know features.
pub fn hint(runs: &Runs, cell_type: &str, perturbation: &str) -> &'static str {
    let data = runs.data();
    let known = |name: &str| data.cell_types.iter().any(|known| known == name);
    match runs.know_features() && known(cell_type) && !data.knows(perturbation) {
        true => " (A new one needs a row in the table of --perturbation-features.)",
        false => "",
    }
}

/// Reports what predictions for such perturbations are worth; what holds of several runs is said once.
pub fn tell(runs: &Runs, job: &Job, report: &mut Report) {
    let asked: BTreeSet<u32> = job.asks.iter().map(|ask| ask.request.conditions[1]).collect();
    let add = |all: &mut Vec<String>, what: String| {
        if !all.contains(&what) {
            all.push(what);
        }
    };
    for run in runs.iter() {
        let Trained { header, features, .. } = &run.trained;
        let names = header.data.all_perturbations().zip(0..).filter(|(_, id)| asked.contains(id));
        let names: BTreeSet<&String> = names.map(|(name, _)| name).collect();
        let unseen = header.untrained.iter().chain(&header.data.unmeasured);
        let unseen: Vec<&String> = unseen.filter(|name| names.contains(name)).collect();
        match (unseen.len(), features) {
            (0, _) => {}
            (_, Some(_)) => {
                let what = "predicted from features alone, since the run was trained on none of their cells";
                add(&mut report.notes, format!("{what}: {}", some_of(&unseen)));
            }
            (count, None) => {
                let all = if count == 1 { "it" } else { "them" };
                let what = format!("are meaningless: the run was trained on no cell of {all}");
                add(&mut report.warnings, format!("predictions for {} {what}", some_of(&unseen)));
            }
        }
        let doubts = features.iter().flat_map(|of| of.doubts(&header.data, &header.untrained, &asked));
        doubts.for_each(|doubt| add(&mut report.notes, doubt));
    }
}
