//! The baselines as samples, made in memory as `scale-engine baseline` makes them.

use std::collections::BTreeMap;

use super::words;
use crate::baseline::{Baselines, Kind, Settings};
use crate::config::Observe;
use crate::data::controls::Usable;
use crate::data::h5ad::H5ad;
use crate::data::observe::Observer;
use crate::data::population::OBSERVE;
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::Result;
use crate::evaluate::files::{Files, Sample};

/// Every kind of baseline for a part of a split, as `trained` learned it from the training part, each made when it is asked for. What
/// is wrong with the part is found before that; what a reader should know of it, or had to be replaced, is reported on stderr.
pub fn baselines<'a>(
    trained: Baselines<'a>,
    data: &'a Data,
    split: &'a Split,
    part: Part,
    observe: Option<Observe>,
    files: &'a Files,
) -> Result<impl Iterator<Item = Result<(String, Sample)>> + use<'a>> {
    let asked = Usable::of(data, split.part(part))?;
    asked.check_some(data, "--subset")?;
    let notes = asked.note(data).map(|what| format!("baselines: {what}"));
    notes.into_iter().chain(other_cells(data, &asked, files)?).for_each(words::note);
    let observe = match observe {
        Some(observe) => observe,
        None => as_predicted(files)?,
    };
    Observer::asked(observe, data.manifest().target)?;
    let one = move |kind: Kind| {
        let settings = Settings { kind, observe, with_controls: true, seed: 0 };
        let answer = trained.predict(split.part(part), &settings)?;
        answer.fallbacks.iter().for_each(|what| words::note(format_args!("{}: {what}", kind.name())));
        let name = kind.name().to_string();
        Ok((name, Sample::of(kind.name(), answer.population, files.cell_type.is_some())?))
    };
    Ok(Kind::ALL.into_iter().map(one))
}

/// How the prediction's cells were made, if the file says so; drawn counts are reported on stderr.
fn as_predicted(files: &Files) -> Result<Observe> {
    let told = H5ad::open_columns(&files.pred, &[], "X")?.told(OBSERVE);
    let Some(observe) = Observe::ALL.into_iter().find(|observe| told.as_deref() == Some(observe.name()))
    else {
        return Ok(Observe::None);
    };
    if observe == Observe::Poisson {
        words::note(format_args!(
            "counts are drawn around the baselines' means, as they were for {}",
            files.pred.display()
        ));
    }
    Ok(observe)
}

/// A note if the part of the split is not what was measured: a perturbation has a different number of cells in the two.
fn other_cells(data: &Data, asked: &Usable, files: &Files) -> Result<Option<String>> {
    let real = H5ad::open_columns(&files.real, &[&files.perturbation], "X")?;
    let labels = real.labels(&files.perturbation)?;
    let mut measured: BTreeMap<&str, u64> = BTreeMap::new();
    (0..labels.len()).filter_map(|i| labels.get(i)).for_each(|name| *measured.entry(name).or_default() += 1);
    let mut wanted: BTreeMap<&str, u64> = BTreeMap::new();
    for &group in &asked.groups {
        *wanted.entry(data.names(group)[1]).or_default() += u64::from(data.groups()[group as usize].cells);
    }
    let other = wanted.iter().find(|(name, cells)| measured.get(*name) != Some(*cells));
    Ok(other.map(|(name, cells)| {
        let here = measured.get(name).copied().unwrap_or(0);
        format!(
            "--subset has {cells} cells of {name:?}, but {} has {here}: is it the part that was predicted? The baselines will predict it",
            files.real.display()
        )
    }))
}
