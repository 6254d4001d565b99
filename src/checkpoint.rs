//! One file that holds the whole run: weights, their average, the optimizer, and all that is needed to use them.
//!
//! A safetensors file, so that any framework can open it: `<name>` are the weights, `average.<name>` the averaged ones (used for
//! prediction), `moment1.<name>` and `moment2.<name>` AdamW's; `statistics.mean` and `.std` are the genes', `effects.values` the mean
//! effects for a shifted start, `features.values`, `.mean` and `.std` those of perturbations, if there are any. Config, step, gene
//! names, vocabularies, preprocessing, the split's hash and the CRC-32 of every tensor are one JSON text in the metadata, under
//! `scale_engine`.

mod read;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Observe};
use crate::data::effects::Effects;
use crate::data::features::{FeatureId, FeatureTable, Features};
use crate::data::shard::{Manifest, Moments};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::model::condition::Vocabulary;
use crate::model::{Model, Statistics};
use crate::params::{self, Entry, Flats, Params, tensor_view};
use crate::run_folder::checkpoint_of;
use crate::tensor::Tensor;
use read::{File, Read, map};

/// What a checkpoint says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Header {
    /// Steps done.
    pub step: u64,
    /// Every setting of the run.
    pub config: Config,
    /// Genes, vocabularies, columns, scale, target, factor, sources of the training data.
    pub data: Manifest,
    /// Hash of the split file's text.
    pub split: String,
    /// The best validation so far.
    pub best: Option<Best>,
    /// Perturbations of the data that training never saw, neither here nor in the run it began from: the model has only drawn
    /// numbers for them, or knows only their features.
    #[serde(default)]
    pub untrained: Vec<String>,
    /// The features by which it knows perturbations, unless it knows them by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeatureId>,
    /// The run whose weights it began with, unless it began with drawn ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<Origin>,
}

impl Header {
    /// Whether predictions draw counts: as the config says, but not if the data do not tell to what total cells were scaled.
    pub fn observe(&self) -> Observe {
        self.data.target.map_or(Observe::None, |_| self.config.predict.observe)
    }
}

/// The validation with the highest score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Best {
    /// Its PDCorr.
    pub pdcorr: f64,
    /// Steps done when it was scored.
    pub step: u64,
}

/// A run whose weights another run began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Origin {
    /// Path of its checkpoint, as it was found.
    pub checkpoint: String,
    /// Steps it had done.
    pub step: u64,
}

/// A model as a run trained it, for prediction.
pub struct Trained {
    /// What the checkpoint says about itself.
    pub header: Header,
    /// Mean effects, for a shifted start; empty otherwise.
    pub effects: Effects,
    /// What it knows of the perturbations, unless it knows them by name.
    pub features: Option<Features>,
    /// Where each weight is.
    pub model: Model,
    /// The averaged weights, without gradients.
    pub params: Params,
}

/// All of a run at one step except its flat numbers.
#[derive(Clone)]
pub struct RunState {
    /// What the checkpoint says about itself.
    pub header: Header,
    /// Gene-wise statistics of the training cells.
    pub statistics: Statistics,
    /// Mean effects, for a shifted start; empty otherwise.
    pub effects: Arc<Effects>,
    /// What it knows of the perturbations, unless it knows them by name.
    pub features: Option<Arc<Features>>,
}

brief!(RunState, |state| step: state.header.step, genes: state.statistics.mean.len());

/// A run at one step.
#[derive(Debug)]
pub struct Checkpoint {
    /// All but the flat numbers.
    pub state: RunState,
    /// What it holds of each weight, on the host.
    pub flats: Flats<Tensor>,
}

/// What is known of a checkpoint without reading its numbers.
#[non_exhaustive]
pub struct Described {
    /// What the checkpoint says about itself.
    pub header: Header,
    /// The program that wrote it.
    pub program: String,
    /// Its tensors' names and shapes, sorted.
    pub tensors: Vec<(String, Vec<usize>)>,
}

brief!(Described, |of| step: of.header.step, program: of.program, tensors: of.tensors.len());

/// The JSON text next to the tensors.
#[derive(Serialize, Deserialize)]
struct Text {
    version: u32,
    program: String,
    #[serde(flatten)]
    header: Header,
    /// (cell type, perturbation) of each row of `effects.values`.
    effects: Vec<(u32, u32)>,
    /// CRC-32 of each tensor's bytes.
    sums: BTreeMap<String, u32>,
}

/// Version of the layout that this program writes and reads.
const VERSION: u32 = 3;
const KEY: &str = "scale_engine";
const AVERAGE: &str = "average.";
/// What stands before a weight's name, in the order of [`Flats::each`].
const FLATS: [&str; 4] = ["", AVERAGE, "moment1.", "moment2."];

impl Checkpoint {
    /// Reads a whole run, to resume it.
    ///
    /// # Errors
    /// A file that cannot be read, is not a checkpoint, is of another version, or lacks something or has it damaged.
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let map = map(path)?;
        let read = Read::of(path, &map)?;
        let [weights, average, moment1, moment2] = FLATS.map(|prefix| read.flat(prefix));
        let flats = Flats { weights: weights?, average: average?, moment1: moment1?, moment2: moment2? };
        let Read { file, statistics, effects, features, .. } = read;
        let (effects, features) = (Arc::new(effects), features.map(Arc::new));
        let state = RunState { header: file.text.header, statistics, effects, features };
        Ok(Checkpoint { state, flats })
    }

    /// Reads only what the file says about itself.
    ///
    /// # Errors
    /// As [`Checkpoint::load`], but for the numbers, which are not read.
    pub fn describe(path: &Path) -> Result<Described> {
        let map = map(path)?;
        let file = File::of(path, &map)?;
        let shapes = file.tensors.iter().map(|(name, view)| (name.to_string(), view.shape().to_vec()));
        let mut tensors: Vec<_> = shapes.collect();
        tensors.sort();
        Ok(Described { header: file.text.header, program: file.text.program, tensors })
    }

    /// Checks that every tensor is as it was written.
    ///
    /// # Errors
    /// A file that cannot be read or is not a checkpoint; a tensor that is damaged, by name.
    pub fn check(path: &Path) -> Result<()> {
        let map = map(path)?;
        let file = File::of(path, &map)?;
        file.tensors.tensors().par_iter().try_for_each(|(name, view)| file.check(name, view))
    }
}

impl Described {
    /// Names and shapes of the weights, sorted.
    pub fn weights(&self) -> impl Iterator<Item = &(String, Vec<usize>)> {
        let others = || FLATS[1..].iter().chain(&["statistics.", "effects.", "features."]);
        self.tensors.iter().filter(move |(name, _)| !others().any(|prefix| name.starts_with(prefix)))
    }
}

impl RunState {
    /// Writes a checkpoint aside, then renames it. `table` names the numbers of each of `flats`.
    ///
    /// # Errors
    /// A file that cannot be written.
    ///
    /// # Panics
    /// If `flats` are shorter than the table, or statistics, effects and features are not of one number of genes.
    pub fn save(&self, path: &Path, table: &[Entry], flats: Flats<&[f32]>) -> Result<()> {
        let mut views: Vec<(String, TensorView)> = Vec::new();
        for (prefix, flat) in FLATS.iter().zip(flats.each()) {
            for entry in table {
                views.push((
                    format!("{prefix}{}", entry.name),
                    tensor_view(&entry.shape, &flat[entry.range()]),
                ));
            }
        }
        let genes = self.statistics.mean.len();
        views.push(("statistics.mean".into(), tensor_view(&[genes], &self.statistics.mean)));
        views.push(("statistics.std".into(), tensor_view(&[genes], &self.statistics.std)));
        views.push((
            "effects.values".into(),
            tensor_view(&[self.effects.pairs().len(), genes], self.effects.values()),
        ));
        if let Some(Features { values, mean, std, .. }) = self.features.as_deref() {
            let rows = [values.len() / mean.len(), mean.len()];
            views.push(("features.values".into(), tensor_view(&rows, values)));
            views.push(("features.mean".into(), tensor_view(&[mean.len()], mean)));
            views.push(("features.std".into(), tensor_view(&[std.len()], std)));
        }
        let sum = |(name, view): &(String, TensorView)| (name.clone(), crc32fast::hash(view.data()));
        let text = Text {
            version: VERSION,
            program: crate::PROGRAM.to_string(),
            header: self.header.clone(),
            effects: self.effects.pairs().to_vec(),
            sums: views.par_iter().map(sum).collect(),
        };
        let text =
            serde_json::to_string(&text).unwrap_or_else(|e| unreachable!("plain structs serialise: {e}"));
        let metadata = HashMap::from([(KEY.to_string(), text)]);
        params::write(path, views, Some(metadata))
    }
}

brief!(Trained, |trained| step: trained.header.step, params: trained.params.len());

impl Trained {
    /// Reads a checkpoint, or for a run the one that [`checkpoint_of`] finds, and builds the model it describes.
    ///
    /// # Errors
    /// A folder without a checkpoint; what [`Checkpoint::load`] refuses; weights that are NaN or infinite.
    pub fn load(path: &Path) -> Result<Trained> {
        let path = checkpoint_of(path)?;
        let map = map(&path)?;
        let read = Read::of(&path, &map)?;
        let average = read.flat(AVERAGE)?;
        if average.data().iter().any(|weight| !weight.is_finite()) {
            return Err(Error::format(
                &path,
                "contains weights that are NaN or infinite; use an earlier checkpoint",
            ));
        }
        let Read { file, effects, features, model, table, .. } = read;
        let params = Params::new(table, average);
        Ok(Trained { header: file.text.header, effects, features, model, params })
    }

    /// The same, on the host, which can also predict the perturbations that `table` has besides those that it knows.
    ///
    /// # Errors
    /// It knows perturbations by name; the table is not like the one that it was trained with.
    pub fn knowing(self, table: &FeatureTable) -> Result<Trained> {
        let Trained { mut header, effects, features, model, params } = self;
        let features = features.ok_or_else(|| {
            let what = "the run knows perturbations by name: it was trained without features, and cannot predict a new one";
            Error::setting("features", what)
        })?;
        let features = features.extended(table, &mut header.data)?;
        let sizes = vocabulary(&header.data, Some(&features));
        let (model, _) = Model::new(&header.config, &sizes, model.statistics().clone());
        Ok(Trained { header, effects, features: Some(features), model, params })
    }

    /// The same on a device, to predict there ([`Params::to_predict`]).
    ///
    /// # Panics
    /// If it is on a device already.
    pub fn to_gpu(self, gpu: &Gpu) -> Trained {
        let (model, params) = (self.model.to_gpu(gpu), self.params.to_gpu(gpu).to_predict());
        Trained { model, params, ..self }
    }
}

/// Sizes of the condition tables for a data set's vocabularies, and the features of its perturbations if they are known by those.
pub fn vocabulary(data: &Manifest, features: Option<&Features>) -> Vocabulary {
    let inputs = |features: &Features| {
        let (width, numbers) = features.inputs(data);
        Tensor::new(&[numbers.len() / width, width], numbers)
    };
    Vocabulary {
        cell_types: data.cell_types.len(),
        perturbations: data.all_perturbations().count(),
        batches: data.batches.len(),
        features: features.map(inputs),
    }
}

impl From<Moments> for Statistics {
    fn from(Moments { mean, std, .. }: Moments) -> Statistics {
        Statistics { mean, std }
    }
}
