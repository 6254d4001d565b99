//! One file that holds the whole run: weights, their average, the optimizer, and all that is needed to use them.
//!
//! A safetensors file, so that any framework can open it: `<name>` are the weights, `average.<name>` the averaged ones (used for
//! prediction), `moment1.<name>` and `moment2.<name>` AdamW's. Config, step, gene names, vocabularies, preprocessing, the split's
//! hash and the CRC-32 of every tensor are one JSON text in the metadata, under `scale_engine`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;
use safetensors::tensor::{SafeTensorError, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::aside;
use crate::config::Config;
use crate::data::effects::Effects;
use crate::data::shard::{Manifest, Moments};
use crate::error::{At, Error, Result};
use crate::gpu::Gpu;
use crate::model::condition::Vocabulary;
use crate::model::{Model, Statistics};
use crate::params::{self, Entry, Flats, Params, Table, tensor_view, view_of};
use crate::run_folder::checkpoint_of;
use crate::tensor::Tensor;

/// What a checkpoint says about itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
    /// numbers for them.
    #[serde(default)]
    pub untrained: Vec<String>,
    /// The run whose weights it began with, unless it began with drawn ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_from: Option<Origin>,
}

/// The validation with the highest score.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Its PDCorr.
    pub pdcorr: f64,
    /// Steps done when it was scored.
    pub step: u64,
}

/// A run whose weights another run began with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Where each weight is.
    pub model: Model,
    /// The averaged weights, without gradients.
    pub params: Params,
}

/// All of a run at one step except its flat numbers.
#[derive(Clone)]
pub struct Frame {
    /// What the checkpoint says about itself.
    pub header: Header,
    /// Gene-wise statistics of the training cells.
    pub statistics: Statistics,
    /// Mean effects, for a shifted start; empty otherwise.
    pub effects: Arc<Effects>,
}

brief!(Frame, |frame| step: frame.header.step, genes: frame.statistics.mean.len());

/// A run at one step.
#[derive(Debug)]
pub struct Checkpoint {
    /// All but the flat numbers.
    pub frame: Frame,
    /// What it holds of each weight, on the host.
    pub flats: Flats<Tensor>,
}

/// What is known of a checkpoint without reading its numbers.
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
    pub fn load(path: &Path) -> Result<Checkpoint> {
        let map = map(path)?;
        let read = Read::of(path, &map)?;
        let [weights, average, moment1, moment2] = FLATS.map(|prefix| read.flat(prefix));
        let flats = Flats { weights: weights?, average: average?, moment1: moment1?, moment2: moment2? };
        let Read { file, statistics, effects, .. } = read;
        let frame = Frame { header: file.text.header, statistics, effects: Arc::new(effects) };
        Ok(Checkpoint { frame, flats })
    }

    /// Reads only what the file says about itself.
    pub fn describe(path: &Path) -> Result<Described> {
        let map = map(path)?;
        let file = File::of(path, &map)?;
        let shapes = file.tensors.iter().map(|(name, view)| (name.to_string(), view.shape().to_vec()));
        let mut tensors: Vec<_> = shapes.collect();
        tensors.sort();
        Ok(Described { header: file.text.header, program: file.text.program, tensors })
    }

    /// Refuses a file with a tensor that is not as it was written, naming the tensor.
    pub fn check(path: &Path) -> Result<()> {
        let map = map(path)?;
        let file = File::of(path, &map)?;
        file.tensors.tensors().par_iter().try_for_each(|(name, view)| file.check(name, view))
    }
}

impl Described {
    /// Names and shapes of the weights, sorted.
    pub fn weights(&self) -> impl Iterator<Item = &(String, Vec<usize>)> {
        let others = || FLATS[1..].iter().chain(&["statistics.", "effects."]);
        self.tensors.iter().filter(move |(name, _)| !others().any(|prefix| name.starts_with(prefix)))
    }
}

impl Frame {
    /// Writes a checkpoint aside, then renames it. `table` names the numbers of each of `flats`.
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
        let sum = |(name, view): &(String, TensorView)| (name.clone(), crc32fast::hash(view.data()));
        let text = Text {
            version: VERSION,
            program: aside::PROGRAM.to_string(),
            header: self.header.clone(),
            effects: self.effects.pairs().to_vec(),
            sums: views.par_iter().map(sum).collect(),
        };
        let text = serde_json::to_string(&text).expect("plain structs serialise");
        let metadata = HashMap::from([(KEY.to_string(), text)]);
        params::write(path, views, Some(metadata))
    }
}

brief!(Trained, |trained| step: trained.header.step, params: trained.params.len());

impl Trained {
    /// Reads a checkpoint, or for a run the one that [`checkpoint_of`] finds, and builds the model it describes.
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
        let Read { file, effects, model, table, .. } = read;
        Ok(Trained { header: file.text.header, effects, model, params: Params::new(table, average) })
    }

    /// The same on a device, to predict there ([`Params::to_predict`]).
    pub fn to_gpu(self, gpu: &Gpu) -> Trained {
        let Trained { header, effects, model, params } = self;
        Trained { header, effects, model: model.to_gpu(gpu), params: params.to_gpu(gpu).to_predict() }
    }
}

/// What both ways of reading share: all but the long flat buffers.
struct Read<'a> {
    file: File<'a>,
    statistics: Statistics,
    effects: Effects,
    model: Model,
    table: Table,
}

impl<'a> Read<'a> {
    fn of(path: &'a Path, bytes: &'a [u8]) -> Result<Read<'a>> {
        let file = File::of(path, bytes)?;
        let Text { header, effects: pairs, .. } = &file.text;
        let genes = header.data.genes.len();
        let (mean, std) =
            (file.numbers("statistics.mean", &[genes])?, file.numbers("statistics.std", &[genes])?);
        let statistics = Statistics { mean, std };
        let values = file.numbers("effects.values", &[pairs.len(), genes])?;
        if !pairs.is_sorted_by(|a, b| a < b) {
            return Err(file.wrong("header: the pairs in `effects` are not sorted and unique"));
        }
        let effects = Effects::new(genes, pairs.clone(), values);
        let (model, table) = Model::new(&header.config, &vocabulary(&header.data), statistics.clone());
        Ok(Read { file, statistics, effects, model, table })
    }

    /// One number for each of the table's, from the tensors with this prefix.
    fn flat(&self, prefix: &str) -> Result<Tensor> {
        let name = |entry: &Entry| format!("{prefix}{}", entry.name);
        // Before memory is allocated: a false config asks for more than the file has.
        for entry in self.table.entries() {
            self.file.view(&name(entry), &entry.shape)?;
        }
        let mut flat = vec![0.0; self.table.len()];
        for entry in self.table.entries() {
            flat[entry.range()].copy_from_slice(&self.file.numbers(&name(entry), &entry.shape)?);
        }
        Ok(Tensor::new(&[flat.len()], flat))
    }
}

/// A checkpoint's bytes, taken apart but not yet believed: a tensor is checked when it is read.
struct File<'a> {
    path: &'a Path,
    text: Text,
    tensors: SafeTensors<'a>,
}

impl<'a> File<'a> {
    fn of(path: &'a Path, bytes: &'a [u8]) -> Result<File<'a>> {
        let text = read_text(path, bytes)?;
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| foreign(path, e))?;
        Ok(File { path, text, tensors })
    }

    /// A tensor, its shape checked.
    fn view(&self, name: &str, shape: &[usize]) -> Result<TensorView<'a>> {
        view_of(&self.tensors, self.path, name, shape)
    }

    /// A tensor as f32, its shape and its bytes checked.
    fn numbers(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let view = self.view(name, shape)?;
        self.check(name, &view)?;
        Ok(bytemuck::pod_collect_to_vec(view.data()))
    }

    /// Refuses a tensor whose bytes are not those that were written.
    fn check(&self, name: &str, view: &TensorView) -> Result<()> {
        match self.text.sums.get(name) == Some(&crc32fast::hash(view.data())) {
            true => Ok(()),
            false => {
                Err(self.wrong(format!("tensor {name:?} does not match its checksum; the file is damaged")))
            }
        }
    }

    fn wrong(&self, what: impl Into<String>) -> Error {
        Error::format(self.path, what)
    }
}

/// Sizes of the condition tables for a data set's vocabularies.
pub fn vocabulary(data: &Manifest) -> Vocabulary {
    Vocabulary {
        cell_types: data.cell_types.len(),
        perturbations: data.perturbations.len(),
        batches: data.batches.len(),
    }
}

impl From<Moments> for Statistics {
    fn from(Moments { mean, std, .. }: Moments) -> Statistics {
        Statistics { mean, std }
    }
}

/// The file's bytes, of which only those that are looked at are read.
fn map(path: &Path) -> Result<Mmap> {
    let file = fs::File::open(path).at(path)?;
    if file.metadata().at(path)?.len() == 0 {
        return Err(Error::format(path, "is empty, so not a checkpoint"));
    }
    // SAFETY: a checkpoint is written aside and takes its name once it is complete; one that is replaced stays as it is for whoever
    // has it open. A program that writes into one breaks that promise, with the same effect as changing our memory.
    unsafe { Mmap::map(&file) }.at(path)
}

fn foreign(path: &Path, error: SafeTensorError) -> Error {
    Error::format(path, format!("not a safetensors file: {error}"))
}

fn read_text(path: &Path, bytes: &[u8]) -> Result<Text> {
    #[derive(Deserialize)]
    struct Layout {
        version: u32,
    }
    let bad = |what: String| Error::format(path, what);
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| foreign(path, e))?;
    let text = metadata
        .metadata()
        .as_ref()
        .and_then(|m| m.get(KEY))
        .ok_or_else(|| bad("is a safetensors file, but not a scale-engine checkpoint".into()))?;
    let wrong = |e: serde_json::Error| bad(format!("header: {e}"));
    let Layout { version } = serde_json::from_str(text).map_err(wrong)?;
    if version != VERSION {
        return Err(bad(format!("has checkpoint layout {version}, but this program reads layout {VERSION}")));
    }
    let text: Text = serde_json::from_str(text).map_err(wrong)?;
    text.header.config.validate().map_err(|e| bad(e.to_string()))?;
    text.header.data.check().map_err(|what| bad(format!("header: {what}")))?;
    Ok(text)
}
