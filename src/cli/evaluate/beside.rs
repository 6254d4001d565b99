//! The baselines as samples, made in memory as `scale-engine baseline` makes them.

use std::path::Path;

use crate::baseline::{Kind, Settings, baseline};
use crate::config::Observe;
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::Result;
use crate::evaluate::files::{Files, Sample};

/// Every kind of baseline for a part of a split; what had to be replaced is said on stderr.
pub fn baselines(
    data: &Path,
    split: &Path,
    part: Part,
    observe: Observe,
    files: &Files,
) -> Result<Vec<(String, Sample)>> {
    let data = Data::open(data)?;
    let split = Split::load(split, &data)?;
    let one = |kind: Kind| {
        let settings = Settings { kind, observe, with_controls: true, seed: 0 };
        let answer = baseline(&data, split.part(Part::Train), split.part(part), &settings)?;
        answer.fallbacks.iter().for_each(|fallback| eprintln!("note: {}: {fallback}", kind.name()));
        let name = kind.name().to_string();
        Ok((name, Sample::of(kind.name(), answer.population, files.cell_type.is_some())))
    };
    Kind::ALL.into_iter().map(one).collect()
}
