//! A checkpoint's bytes, taken apart: what each way of reading one needs.

use std::fs;
use std::path::Path;

use memmap2::Mmap;
use safetensors::tensor::{SafeTensorError, SafeTensors, TensorView};
use serde::Deserialize;

use super::{KEY, Text, VERSION, vocabulary};
use crate::data::effects::Effects;
use crate::data::features::{FeatureId, Features};
use crate::error::{At, Error, Result};
use crate::model::{Model, Statistics};
use crate::params::{Entry, Table, view_of};
use crate::tensor::Tensor;

/// What both ways of reading share: all but the long flat buffers.
pub(super) struct Read<'a> {
    pub file: File<'a>,
    pub statistics: Statistics,
    pub effects: Effects,
    pub features: Option<Features>,
    pub model: Model,
    pub table: Table,
}

impl<'a> Read<'a> {
    pub fn of(path: &'a Path, bytes: &'a [u8]) -> Result<Read<'a>> {
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
        let features = header.features.as_ref().map(|id| file.features(id)).transpose()?;
        let sizes = vocabulary(&header.data, features.as_ref());
        let (model, table) = Model::new(&header.config, &sizes, statistics.clone());
        Ok(Read { file, statistics, effects, features, model, table })
    }

    /// One number for each of the table's, from the tensors with this prefix.
    pub fn flat(&self, prefix: &str) -> Result<Tensor> {
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
pub(super) struct File<'a> {
    path: &'a Path,
    pub text: Text,
    pub tensors: SafeTensors<'a>,
}

impl<'a> File<'a> {
    pub fn of(path: &'a Path, bytes: &'a [u8]) -> Result<File<'a>> {
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

    fn features(&self, id: &FeatureId) -> Result<Features> {
        let (count, width) = (self.text.header.data.perturbations.len(), id.columns.len());
        let values = self.numbers("features.values", &[count, width])?;
        let (mean, std) = (self.numbers("features.mean", &[width])?, self.numbers("features.std", &[width])?);
        match width > 0 && [&values, &mean, &std].into_iter().flatten().all(|x| x.is_finite()) {
            true => Ok(Features { id: id.clone(), values, mean, std }),
            false => Err(self.wrong("features: none, or some that are NaN or infinite")),
        }
    }

    /// Refuses a tensor whose bytes are not those that were written.
    pub fn check(&self, name: &str, view: &TensorView) -> Result<()> {
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

/// The file's bytes, of which only those that are looked at are read.
pub(super) fn map(path: &Path) -> Result<Mmap> {
    let file = fs::File::open(path).at(path)?;
    let metadata = file.metadata().at(path)?;
    if metadata.is_dir() {
        return Err(Error::format(
            path,
            "is a folder; a run's checkpoints are files in its folder checkpoints",
        ));
    }
    if metadata.len() == 0 {
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
    text.header.config.can_run().map_err(|e| bad(e.to_string()))?;
    text.header.data.check().map_err(|what| bad(format!("header: {what}")))?;
    Ok(text)
}
