//! One rank's run: the model, its weights, its progress, and what it writes.

use std::cell::OnceCell;
use std::fs;
use std::sync::Arc;

use super::learner::{InitialWeights, Learner};
use super::line::Line;
use super::metrics::Metrics;
use super::prepared::{Prepared, renew_config};
use super::validate::{self, Measured};
use super::writer::Writer;
use crate::aside;
use crate::checkpoint::{Best, Header, RunState, vocabulary};
use crate::collective::Ranks;
use crate::config::Config;
use crate::data::shard::Data;
use crate::data::split::Split;
use crate::error::{At, Error, Result};
use crate::gpu::{Choices, Gpu, in_block};
use crate::optim::Optimizer;
use crate::params::{Flats, Params};
use crate::progress::Progress;
use crate::run_folder::RunFolder;
use crate::tensor::Tensor;

/// The model, its weights and the progress of training.
pub struct Run {
    pub learner: Learner,
    /// What a checkpoint says of it besides weights and moments; its header counts the steps done.
    pub state: RunState,
    pub split: Arc<Split>,
    pub data: Arc<Data>,
    /// Whether this rank is the one that writes files.
    pub writes: bool,
    pub progress: Progress,
    /// The step of the checkpoint named `last`, whether on disk or being written; the same on all ranks.
    pub saved: Option<u64>,
    /// Whether it was resumed with other steps or another `optim.shard`.
    pub changed: bool,
    pub folder: RunFolder,
    writer: Writer,
    /// From the first validation on.
    measured: OnceCell<Measured>,
    /// The folder of checkpoints, claimed by this process while it runs.
    _claim: Option<Arc<fs::File>>,
}

impl Run {
    /// The run as it starts, on the host or on a GPU.
    pub fn new(prepared: Prepared, gpu: Option<&Gpu>, ranks: &Ranks) -> Result<Run> {
        let resumed = matches!(prepared.weights, InitialWeights::Resumed(_));
        if let Some(gpu) = gpu.filter(|_| resumed) {
            adopt_choices(&prepared, ranks.rank(), gpu)?;
        }
        let Prepared { state, weights, changed, data, split, folder, claim, progress } = prepared;
        let config = &state.header.config;
        let sizes = vocabulary(data.manifest(), state.features.as_deref());
        let learner = Learner::of_ranks(config, &sizes, state.statistics.clone(), gpu, ranks, weights);
        // Only gradients are exchanged: ranks that began with different weights would stay different.
        ranks.agree(&[("first weights", learner.checksum.into())])?;
        Ok(Run {
            learner,
            saved: (resumed && !changed).then_some(state.header.step),
            changed,
            state,
            split,
            data,
            writes: ranks.is_first(),
            writer: Writer::new(folder.checkpoints(), progress.clone()),
            measured: OnceCell::new(),
            progress,
            folder,
            _claim: claim,
        })
    }

    /// The run's settings.
    pub fn config(&self) -> &Config {
        &self.state.header.config
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.state.header.step
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
        let last = self.folder.last();
        let good = match (last.exists(), self.saved) {
            (true, Some(saved)) if saved + 1 == line.step => {
                format!("{} has the weights that gave this loss", last.display())
            }
            (true, _) => format!("the last good checkpoint is {}", last.display()),
            (false, _) => "no checkpoint has been written yet".to_string(),
        };
        Error::Diverged(format!(
            "step {}: the loss is {} ({}), the gradient norm is {}; batch of {}; {good}; a new run with a lower optim.lr or optim.clip may get further (a resumed run keeps its own)",
            line.step,
            line.loss,
            line.parts.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
            line.norm,
            sets.join(", "),
        ))
    }

    /// Scores the averaged weights on the validation groups and logs the score; true, on every rank, if it is the best so far. The
    /// rank that writes does the work; the others give it what they have and wait.
    pub fn validate(&mut self, metrics: &mut Metrics, ranks: &Ranks) -> Result<bool> {
        self.learner.params.gpu().inspect(|gpu| gpu.wait());
        ranks.check_sums()?;
        let average = self.gathered(|optimizer, _| optimizer.average(), ranks)?;
        let scored = |average| {
            let measured = self.measured.get_or_init(|| Measured::of(&self.data, &self.split));
            let score =
                || validate::pdcorr(&self.learner, &self.state.effects, &self.data, measured, average);
            in_block(self.learner.params.gpu(), score)
        };
        let scores = average.map(scored).transpose();
        // That a rank is gone says more than the device's error that follows from it.
        ranks.check_sums()?;
        let (step, scores) = (self.step(), scores?.unwrap_or_default());
        let defined: Vec<f64> = scores.iter().copied().filter(|score| !score.is_nan()).collect();
        let score = (!defined.is_empty()).then(|| defined.iter().sum::<f64>() / defined.len() as f64);
        if let Some(score) = score {
            metrics.validation(step, score)?;
        } else if !scores.is_empty() {
            let pairs = scores.len();
            self.progress
                .note(format_args!("step {step}: PDCorr is undefined for all {pairs} predicted changes"));
        }
        let Header { step, best, .. } = &mut self.state.header;
        let better = |score: &f64| score.is_finite() && best.is_none_or(|best| *score > best.pdcorr);
        let found = score.filter(better).map(|pdcorr| Best { pdcorr, step: *step });
        *best = found.or(*best);
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
        let step = self.step();
        // Runs are resumed from `last`, so a best checkpoint that comes before any other is written as `last` too.
        let is_last = last || self.saved.is_none();
        self.saved = self.saved.max(is_last.then_some(step));
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
        ranks.check_sums()?;
        self.keep_choices(ranks.rank())?;
        if !self.writes {
            return Ok(());
        }
        let all = last && self.config().train.keep_all;
        let step = format!("step-{step}");
        let names = [(all, step.as_str()), (best, "best"), (is_last, "last")];
        let names = names.iter().filter(|name| name.0).map(|name| name.1.to_string()).collect();
        self.writer.begin(self.state.clone(), self.learner.params.entries().to_vec(), names);
        Ok(())
    }

    /// Keeps what a resumed run was told to change: first in `last`, whether or not it is also the best, then in config.toml.
    pub fn keep_changes(&mut self, best: bool, ranks: &Ranks) -> Result<()> {
        if self.changed {
            self.save(true, best, ranks)?;
            self.finish()?;
        }
        match self.writes {
            true => renew_config(&self.folder, self.config()),
            false => Ok(()),
        }
    }

    /// Reports a checkpoint that could not be written, as soon as that is known.
    pub fn report_failure(&mut self) -> Result<()> {
        self.writer.report_failure()
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
        fs::create_dir_all(self.folder.path()).at(self.folder.path())?;
        aside::whole(&self.folder.choices(rank), &text)
    }
}

/// Reads those choices for a resumed run, and says so if they are of no use.
fn adopt_choices(prepared: &Prepared, rank: usize, gpu: &Gpu) -> Result<()> {
    let path = prepared.folder.choices(rank);
    if !path.exists() {
        return Ok(());
    }
    let text = fs::read_to_string(&path).at(&path)?;
    // Another version may have written other fields.
    if !serde_json::from_str(&text).is_ok_and(|choices: Choices| gpu.adopt(&choices)) {
        prepared.progress.note(format_args!(
            "{} comes from another GPU, cuBLASLt or version of this program, so sums may be rounded differently from here on",
            path.display()
        ));
    }
    Ok(())
}
