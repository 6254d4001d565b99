//! Perturbations that a run was not trained on: what to say of them.

use std::collections::BTreeSet;

use super::{Job, Report};
use crate::checkpoint::{Header, Trained};
use crate::error::some_of;

/// What to do about a perturbation that is unknown to a run that knows features.
pub fn hint(header: &Header, cell_type: &str, perturbation: &str) -> &'static str {
    let (features, data) = (header.features.is_some(), &header.data);
    match features && data.cell_types.iter().any(|known| known == cell_type) && !data.knows(perturbation) {
        true => " (A new one needs a row in the table of --perturbation-features.)",
        false => "",
    }
}

/// Reports what predictions for such perturbations are worth.
pub fn tell(trained: &Trained, job: &Job, report: &mut Report) {
    let Trained { header, features, .. } = trained;
    let asked: BTreeSet<u32> = job.asks.iter().map(|ask| ask.request.conditions[1]).collect();
    let names = header.data.all_perturbations().zip(0..).filter(|(_, id)| asked.contains(id));
    let names: BTreeSet<&String> = names.map(|(name, _)| name).collect();
    let unseen = header.untrained.iter().chain(&header.data.unmeasured);
    let unseen: Vec<&String> = unseen.filter(|name| names.contains(name)).collect();
    match (unseen.len(), features) {
        (0, _) => {}
        (_, Some(_)) => {
            let what = "predicted from features alone, since the run was trained on none of their cells";
            report.notes.push(format!("{what}: {}", some_of(&unseen)));
        }
        (count, None) => report.warnings.push(format!(
            "predictions for {} are meaningless: the run was trained on no cell of {}",
            some_of(&unseen),
            if count == 1 { "it" } else { "them" }
        )),
    }
    report.notes.extend(
        features.iter().flat_map(|features| features.doubts(&header.data, &header.untrained, &asked)),
    );
}
