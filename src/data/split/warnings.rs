//! What a split allows but its author may not have intended.

use std::collections::BTreeSet;

use super::clauses::Place;
use super::{Part, Split};
use crate::data::controls::Usable;
use crate::data::shard::Data;
use crate::error::some_of;

pub(super) fn of(split: &Split, data: &Data, places: &[Place]) -> Vec<String> {
    let Usable { groups: trained, unmatched: unusable } = split.usable(data);
    let mut said = Vec::new();
    said.extend(dropped(data, places));
    if let Some(&first) = unusable.first() {
        let (count, example) = (unusable.len(), data.describe(first));
        said.push(format!(
            "groups without controls of their cell type are not used: {count} in train, such as {example}"
        ));
    }
    if trained.is_empty() {
        said.push("train has no perturbed cells that can be used: there is nothing to learn from".into());
    }
    for (part, consequence) in [
        (
            Part::Val,
            "no best checkpoint is selected and `predict` uses the last one (the test part is never used for \
             selection)",
        ),
        (Part::Test, "there is nothing to score"),
    ] {
        let held = split.perturbed(part, data);
        if held.is_empty() {
            said.push(format!("{} has no perturbed cells: {consequence}", part.name()));
        }
        let (seen, held) = (perturbations(data, &trained), perturbations(data, &held));
        let unseen: Vec<&str> = held.difference(&seen).copied().collect();
        if !unseen.is_empty() {
            said.push(format!(
                "{} has perturbations that train never sees; they need `features`, or `init_from` a run that has \
                 seen them: {}",
                part.name(),
                some_of(&unseen)
            ));
        }
    }
    said
}

fn dropped(data: &Data, places: &[Place]) -> Option<String> {
    let names = data.manifest().cell_types.iter().zip(places);
    let dropped: Vec<&str> =
        names.filter(|(_, place)| place.dropped()).map(|(name, _)| name.as_str()).collect();
    let names = some_of(&dropped);
    (!dropped.is_empty())
        .then(|| format!("in no part, since neither [training] nor any clause names them: {names}"))
}

fn perturbations<'a>(data: &'a Data, groups: &[u32]) -> BTreeSet<&'a str> {
    let name = |&group: &u32| {
        let id = data.groups()[group as usize].perturbation;
        data.manifest().perturbations[id as usize].as_str()
    };
    groups.iter().map(name).collect()
}
