//! One rank's run: the model, its weights, its progress, and what it writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::learner::{InitialWeights, Learner};
use super::line::Line;
use super::metrics::Metrics;
use super::start::{Start, renew_config};
use super::validate;
use super::writer::Writer;
use crate::aside;
use crate::checkpoint::{self, Best, Frame, Header, Origin, vocabulary};
use crate::collective::Ranks;
use crate::data::effects::Effects;
use crate::data::shard::Data;
use crate::data::split::Split;
use crate::error::{At, Error, Result};
use crate::gpu::{Choices, Gpu};
use crate::optim::Optimizer;
use crate::params::{Flats, Params};
use crate::progress::{Event, Reporter};
use crate::tensor::Tensor;

/// The file in which a run keeps what its GPU timed as quickest.
fn choices_of(out: &Path, rank: usize) -> PathBuf {
    out.join(match rank {
        0 => "choices.json".to_string(),
        rank => format!("choices-{rank}.json"),
    })
}

/// The model, its weights and the progress of training.
pub struct Run {
    pub learner: Learner,
    pub effects: Arc<Effects>,
    pub split: Arc<Split>,
    pub data: Arc<Data>,
    /// Steps done.
    pub step: u64,
    pub best: Option<Best>,
    /// Whether this rank is the one that writes files.
    pub writes: bool,
    pub reporter: Reporter,
    /// The step of the checkpoint named `last`, whether on disk or being written; the same on all ranks.
    pub saved: Option<u64>,
    /// As in a checkpoint's header, like `init_from`.
    untrained: Vec<String>,
    init_from: Option<Origin>,
    writer: Writer,
    /// The folder of checkpoints, claimed by this process while it runs.
    _claim: Option<Arc<fs::File>>,
    out: PathBuf,
}

impl Run {
    /// The run as it starts, on the host or on a GPU.
    pub fn new(start: Start, gpu: Option<&Gpu>, ranks: &Ranks) -> Result<Run> {
        let resumed = matches!(start.weights, InitialWeights::Resumed(_));
        if let Some(gpu) = gpu.filter(|_| resumed) {
            adopt_choices(&start, ranks.rank(), gpu)?;
        }
        if resumed && ranks.is_first() {
            renew_config(&start.out, &start.config)?;
        }
        let sizes = vocabulary(start.data.manifest());
        let learner = Learner::of_ranks(&start.config, &sizes, start.statistics, gpu, ranks, start.weights);
        // Only gradients are exchanged: ranks that began with different weights would stay different.
        ranks.agree(&[("first weights", learner.checksum.into())])?;
        Ok(Run {
            learner,
            effects: start.effects,
            untrained: start.untrained,
            init_from: start.init_from,
            split: start.split,
            data: start.data,
            step: start.step,
            best: start.best,
            writes: ranks.is_first(),
            reporter: start.reporter.clone(),
            saved: resumed.then_some(start.step),
            writer: Writer::new(checkpoint::folder(&start.out), start.reporter.clone()),
            _claim: start.claim,
            out: start.out,
        })
    }

    /// Tells the event, on the rank that writes.
    pub fn tell(&self, event: Event) {
        if self.writes {
            self.reporter.tell(event);
        }
    }

    /// Why training cannot go on: the step, the batch and the last good checkpoint.
    pub fn diverged(&mut self, line: &Line) -> Error {
        // What is being written may be the last good checkpoint; if that fails too, this is still the error to report.
        let _ = self.writer.finish();
        let names = self.data.manifest();
        let mut sets: Vec<String> = line
            .conditions
            .iter()
            .map(|&[c, p, b]| {
                let [c, p, b] = [c, p, b].map(|i| i as usize);
                format!("{} / {} / {}", names.cell_types[c], names.perturbations[p], names.batches[b])
            })
            .collect();
        sets.sort();
        sets.dedup();
        let last = checkpoint::named(&self.out, "last");
        let good = match last.exists() {
            true => format!("the last good checkpoint is {}", last.display()),
            false => "no checkpoint has been written yet".to_string(),
        };
        Error::Stopped(format!(
            "step {}: the loss is {} ({}), the gradient norm is {}; batch of {}; {good}; a new run with a lower optim.lr or optim.clip may get further (a resumed run keeps its own)",
            line.step - 1,
            line.loss,
            line.parts.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
            line.norm,
            sets.join(", "),
        ))
    }

    /// Scores the averaged weights on the validation groups and logs the score; true, on every rank, if it is the best so far. The
    /// rank that writes does the work; the others give it what they have and wait.
    pub fn validate(&mut self, metrics: &mut Metrics, ranks: &Ranks) -> Result<bool> {
        let average = self.gathered(|optimizer, _| optimizer.average(), ranks)?;
        let scored = |average| match self.learner.params.gpu() {
            Some(gpu) => gpu.in_block(|| validate::pdcorr(self, average)),
            None => validate::pdcorr(self, average),
        };
        let score = average.map(scored).transpose();
        // Who is gone says more than what a device makes of it.
        ranks.whole()?;
        let score = score?.flatten();
        if let Some(score) = score {
            metrics.validation(self.step, score)?;
        }
        let better = |score: &f64| score.is_finite() && self.best.is_none_or(|best| *score > best.pdcorr);
        let found = score.filter(better).map(|pdcorr| Best { pdcorr, step: self.step });
        self.best = found.or(self.best);
        ranks.any(found.is_some())
    }

    /// Flat numbers of the optimizer where they are, including those that other ranks keep; for the rank that writes.
    fn gathered(&self, of: impl Fn(&Optimizer, &Params) -> Tensor, ranks: &Ranks) -> Result<Option<Tensor>> {
        let Learner { optimizer, params, .. } = &self.learner;
        if !self.writes && optimizer.share().is_whole() {
            return Ok(None);
        }
        let mut flat = of(optimizer, params);
        ranks.gather(optimizer.share(), &mut flat)?;
        Ok(self.writes.then_some(flat))
    }

    /// On the rank that writes, begins to write checkpoints/last.safetensors, and best or step-N next to it if it is the best or
    /// all are kept. All ranks call it.
    pub fn save(&mut self, last: bool, best: bool, ranks: &Ranks) -> Result<()> {
        self.saved = self.saved.max(last.then_some(self.step));
        self.writer.finish()?;
        let flats: Flats<fn(&Optimizer, &Params) -> Tensor> = Flats {
            weights: |optimizer, params| optimizer.weights(params),
            average: |optimizer, _| optimizer.average(),
            moment1: |optimizer, _| optimizer.m(),
            moment2: |optimizer, _| optimizer.v(),
        };
        let (len, gpu) = (self.learner.params.len(), self.learner.params.gpu().cloned());
        // One at a time: gathered on a device, each is as large as all weights. Each is copied: steps continue meanwhile.
        for (i, of) in flats.each().into_iter().enumerate() {
            if let Some(flat) = self.gathered(of, ranks)? {
                self.writer.room(len, gpu.as_ref()).put(i * len, &flat);
            }
        }
        // What is gathered is only queued so far, and a sum that ends because a rank is gone leaves meaningless numbers.
        if let Some(gpu) = gpu.filter(|_| !self.learner.optimizer.share().is_whole()) {
            gpu.wait();
        }
        ranks.whole()?;
        self.keep_choices(ranks.rank())?;
        if !self.writes {
            return Ok(());
        }
        let header = Header {
            step: self.step,
            config: self.learner.model.config().clone(),
            data: self.data.manifest().clone(),
            split: self.split.hash.clone(),
            best: self.best,
            untrained: self.untrained.clone(),
            init_from: self.init_from.clone(),
        };
        let (statistics, effects) = (self.learner.model.statistics().clone(), self.effects.clone());
        let frame = Frame { header, statistics, effects };
        let all = last && self.learner.model.config().train.keep_all;
        let step = format!("step-{}", self.step);
        let names = [(all, step.as_str()), (best, "best"), (last, "last")];
        let names = names.iter().filter(|name| name.0).map(|name| name.1.to_string()).collect();
        self.writer.begin(frame, self.learner.params.entries().to_vec(), names);
        Ok(())
    }

    /// Reports a checkpoint that could not be written, as soon as that is known.
    pub fn look(&mut self) -> Result<()> {
        self.writer.look()
    }

    /// Waits until the last checkpoint is written.
    pub fn finish(&mut self) -> Result<()> {
        self.writer.finish()
    }

    /// Records what this rank's GPU timed as quickest: a process that resumes from a checkpoint must do the same.
    fn keep_choices(&self, rank: usize) -> Result<()> {
        let Some(choices) = self.learner.params.gpu().map(Gpu::choices).filter(|found| !found.is_empty())
        else {
            return Ok(());
        };
        let text = serde_json::to_string(&choices).expect("plain values");
        // Another rank's machine need not have the folder.
        fs::create_dir_all(&self.out).at(&self.out)?;
        aside::file(&choices_of(&self.out, rank), |path| fs::write(path, &text).at(path))
    }
}

/// Reads those choices for a resumed run, and says so if they are of no use.
fn adopt_choices(start: &Start, rank: usize, gpu: &Gpu) -> Result<()> {
    let path = choices_of(&start.out, rank);
    if !path.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(&path).at(&path)?;
    let choices: Choices = serde_json::from_str(&text).map_err(|e| Error::format(&path, e.to_string()))?;
    if !gpu.adopt(&choices) {
        start.reporter.note(format_args!(
            "{} comes from another GPU, cuBLASLt or version of this program, so sums may be rounded differently from here on",
            path.display()
        ));
    }
    Ok(())
}
