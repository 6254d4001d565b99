//! What a new run starts with: drawn weights, or those of another run. The latter are matched by name, and rows of the condition
//! tables by what they stand for.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::learner::{InitialWeights, drawn_weights};
use crate::checkpoint::{Header, Origin, RunState, Trained, vocabulary};
use crate::config::Config;
use crate::data::controls::control_pool;
use crate::data::effects::Effects;
use crate::data::features::{FeatureTable, Features};
use crate::data::shard::{Data, Manifest, Same};
use crate::data::split::{Part, Split};
use crate::error::{Error, Result, some_of};
use crate::model::condition::Kind;
use crate::model::{Model, Statistics};
use crate::params::Entry;
use crate::run_folder::checkpoint_of;
use crate::tensor::Tensor;

/// What a new run starts with.
pub struct NewRun {
    pub weights: InitialWeights,
    pub statistics: Statistics,
    features: Option<Features>,
    /// As in a checkpoint's header, like `init_from`.
    untrained: Vec<String>,
    init_from: Option<Origin>,
    /// Which of the data's names the other run knows, and what begins anew.
    pub note: Option<String>,
}

/// The groups whose cells a run is shown: the training part or, without control examples, its perturbed groups and the control
/// cells that they are paired with, so that nothing is learned of other cell types.
fn seen(config: &Config, data: &Data, split: &Split) -> Vec<u32> {
    if config.data.control_examples {
        return split.part(Part::Train).to_vec();
    }
    let perturbed = split.usable(data).groups;
    let pools = perturbed.iter().filter_map(|&group| control_pool(data, group)).flat_map(|pool| pool.groups);
    let all: BTreeSet<u32> = perturbed.iter().copied().chain(pools).collect();
    all.into_iter().collect()
}

/// A note on cell types of which the run is shown no cell although cells of theirs, mostly controls, are in the split's training
/// part.
pub fn unseen_types(config: &Config, data: &Data, split: &Split) -> Option<String> {
    let types = |groups: &[u32]| groups.iter().map(|&g| data.names(g)[0]).collect::<BTreeSet<&str>>();
    let (part, seen) = (types(split.part(Part::Train)), types(&seen(config, data, split)));
    let unseen: Vec<&str> = part.difference(&seen).copied().collect();
    (!unseen.is_empty()).then(|| {
        format!(
            "no cell of {} is trained on (data.control_examples=false): nothing is learned of what the name of the cell type alone \
             stands for",
            some_of(&unseen)
        )
    })
}

impl NewRun {
    /// Drawn weights, and the statistics of the training cells.
    pub fn drawn(config: &Config, features: Option<Features>, data: &Data, split: &Split) -> NewRun {
        let (weights, statistics) = (InitialWeights::Drawn, data.moments(&seen(config, data, split)).into());
        NewRun {
            weights,
            statistics,
            features,
            untrained: split.untrained(data),
            init_from: None,
            note: None,
        }
    }

    /// The run before its first step, and its weights.
    pub fn state(self, config: &Config, data: &Data, split: &Split) -> (RunState, InitialWeights) {
        let header = Header {
            step: 0,
            config: config.clone(),
            data: data.manifest().clone(),
            split: split.hash.clone(),
            best: None,
            untrained: self.untrained,
            features: self.features.as_ref().map(|features| features.id.clone()),
            init_from: self.init_from,
        };
        let effects = match config.wants_shift() {
            true => Effects::measure(data, split.part(Part::Train)),
            false => Effects::default(),
        };
        let (effects, features) = (Arc::new(effects), self.features.map(Arc::new));
        (RunState { header, statistics: self.statistics, effects, features }, self.weights)
    }

    /// The averaged weights of another run: those of its best checkpoint or else its last, or of the checkpoint that is named. Its
    /// statistics are taken too, and those of its features: its weights were trained on inputs standardised by them.
    ///
    /// # Errors
    /// It was trained on other genes, on values on another scale or with other features, or with features where this one has none;
    /// a weight does not have the shape that `config` gives it.
    pub fn of_run(
        run: &Path,
        config: &Config,
        features: Option<(&FeatureTable, Features)>,
        data: &Data,
        split: &Split,
    ) -> Result<NewRun> {
        let path = checkpoint_of(run)?;
        let Trained { header, features: theirs, model, params, .. } = Trained::load(&path)?;
        let here = data.manifest();
        if let Some(found) = header.data.difference(here, Same::Numbers) {
            let what = found.told("in the run", "here");
            let mut what = format!("is not what {} was trained on: {what}", path.display());
            if header.data.genes != here.genes {
                what.push_str(
                    "; use `preprocess::Settings::genes` to take the genes from another data directory",
                );
            }
            return Err(Error::format(data.dir(), what));
        }
        let statistics = model.statistics().clone();
        // What another run learned of names is of no use to one that knows features.
        let alike = features.is_some() == theirs.is_some();
        let features = read_alike(&path, &header, features, theirs.as_ref())?;
        let (_, table) = Model::new(config, &vocabulary(here, features.as_ref()), statistics.clone());
        let mut weights = drawn_weights(config, &table).into_vec();
        let (numbers, mut anew) = (params.weights(), Vec::new());
        for entry in table.entries() {
            let Some(from) = params.entries().iter().find(|from| from.name == entry.name) else {
                anew.push(entry.name.as_str());
                continue;
            };
            let (own, others) = (&mut weights[entry.range()], &numbers.data()[from.range()]);
            match Kind::ALL.into_iter().find(|kind| kind.table() == entry.name) {
                Some(kind) if from.shape[1..] == entry.shape[1..] => {
                    let width = entry.shape[1];
                    for (row, other) in rows(kind, here, &header) {
                        own[row * width..][..width].copy_from_slice(&others[other * width..][..width]);
                    }
                }
                None if from.shape == entry.shape => own.copy_from_slice(others),
                _ => return Err(other_shape(&path, from, entry)),
            }
        }
        let origin = Origin { checkpoint: path.display().to_string(), step: header.step };
        let used = |name: &str| table.find(name).is_some();
        let unused =
            params.entries().iter().map(|from| from.name.as_str()).filter(|name| !used(name)).collect();
        let note = note(&origin, here, &header, alike, [("drawn at random", anew), ("not used", unused)]);
        let mut untrained = split.untrained(data);
        let is_known = |name: &String| {
            alike && *name != header.data.control && header.data.perturbations.binary_search(name).is_ok()
        };
        untrained.retain(|name| !is_known(name) || header.untrained.contains(name));
        let weights = InitialWeights::Given(Tensor::new(&[weights.len()], weights));
        Ok(NewRun { weights, statistics, features, untrained, init_from: Some(origin), note: Some(note) })
    }
}

/// A run's features, standardised as those of the run of `checkpoint` if that has features: its weights were trained on them in
/// that form.
fn read_alike(
    checkpoint: &Path,
    header: &Header,
    ours: Option<(&FeatureTable, Features)>,
    theirs: Option<&Features>,
) -> Result<Option<Features>> {
    match (ours, theirs) {
        (None, Some(Features { id, .. })) => {
            let what = format!("is missing: {} knows perturbations by {:?}", checkpoint.display(), id.name);
            Err(Error::setting("features", what))
        }
        (Some((table, ours)), Some(theirs)) => {
            theirs.check(table, &header.data)?;
            Ok(Some(ours.as_in(theirs)))
        }
        (ours, None) => Ok(ours.map(|(_, ours)| ours)),
    }
}

/// Pairs of rows, here and there, that stand for the same thing: the same name, or the control label whatever it is called.
fn rows(kind: Kind, here: &Manifest, there: &Header) -> Vec<(usize, usize)> {
    let (names, others) = (names(kind, here), names(kind, &there.data));
    let row = |(row, name): (usize, &String)| {
        let is_control = kind == Kind::Perturbation && *name == here.control;
        let name = match is_control {
            true => &there.data.control,
            // Not a control here, whatever it is called.
            false if kind == Kind::Perturbation && *name == there.data.control => return None,
            false => name,
        };
        Some((row, others.binary_search(name).ok()?))
    };
    names.iter().enumerate().filter_map(row).collect()
}

/// A kind's vocabulary, sorted.
fn names(kind: Kind, data: &Manifest) -> &[String] {
    match kind {
        Kind::CellType => &data.cell_types,
        Kind::Perturbation => &data.perturbations,
        Kind::Batch => &data.batches,
    }
}

/// `alike`: both runs know perturbations by name, or both by their features.
fn note(
    origin: &Origin,
    here: &Manifest,
    there: &Header,
    alike: bool,
    weights: [(&str, Vec<&str>); 2],
) -> String {
    let known = |kind: Kind| match kind {
        Kind::Perturbation if !alike => 0,
        kind => rows(kind, here, there).len(),
    };
    let all = |kind: Kind| names(kind, here).len();
    let [cell_types, perturbations, batches] =
        Kind::ALL.map(|kind| format!("{} of {}", known(kind), all(kind)));
    let Origin { checkpoint, step } = origin;
    let mut note = format!(
        "starts from the weights of {checkpoint}, step {step}, which knows {cell_types} cell types, {perturbations} \
         perturbations (the control label among them) and {batches} batches of the data"
    );
    for (what, names) in weights.iter().filter(|(_, names)| !names.is_empty()) {
        note.push_str(&format!("; {what}: {}", names.join(", ")));
    }
    note
}

fn other_shape(path: &Path, there: &Entry, here: &Entry) -> Error {
    let Entry { name, shape, .. } = here;
    let what =
        format!("{} has {name} of shape {:?}, but this run needs {shape:?}", path.display(), there.shape);
    Error::setting("init_from", format!("{what}; keep the model sizes of the run it starts from"))
}
