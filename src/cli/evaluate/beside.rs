//! The baselines as samples, made in memory as `scale-engine baseline` makes them.

use std::path::{Path, PathBuf};

use crate::baseline::{Kind, Settings, baseline};
use crate::config::Observe;
use crate::data::h5ad::Labels;
use crate::data::population::Population;
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::Result;
use crate::evaluate::files::{Files, Sample};
use crate::evaluate::side::{Matrix, Side};

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
        Ok((kind.name().to_string(), sample(kind.name(), answer.population, files.cell_type.is_some())))
    };
    Kind::ALL.into_iter().map(one).collect()
}

/// A population as a side, with its cell types where they are asked for.
pub fn sample(name: &str, population: Population, split: bool) -> Sample {
    let types = split.then(|| Labels::of(&population.cell_type));
    let labels = Labels::of(&population.perturbation);
    let genes = population.genes.clone();
    let source = PathBuf::from(format!("baseline {name}"));
    Sample { side: Side { source, x: Matrix::Sparse(population.into_cells()), labels, genes }, types }
}
