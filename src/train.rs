//! Training: batch -> losses -> gradients -> weights, with everything needed to stop and go on.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, Header, vocabulary};
use crate::config::Config;
use crate::data::effects::Effects;
use crate::data::loader::{Batch, Loader};
use crate::data::sampler::{Sampler, Sampling};
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{At, Error, Result};
use crate::gpu::{Gpu, guard};
use crate::memory;
use crate::model::Statistics;
use crate::optim::{Optimizer, learning_rate};
use crate::progress;

mod feed;
mod learner;
mod metrics;
mod part_norms;
mod tensorboard;
mod validate;

pub use feed::Feed;
pub use learner::{Found, Learner};

use metrics::{Line, Metrics};
use part_norms::part_norms;

/// What to train on, and where to.
pub struct Settings {
    /// Where to compute; `None` is the CPU.
    pub gpu: Option<Gpu>,
    /// Data directory.
    pub data: PathBuf,
    /// cell-load split file.
    pub split: PathBuf,
    /// Run directory.
    pub out: PathBuf,
    /// Every setting of a new run; `None` goes on from the run's last checkpoint with its own.
    pub config: Option<Config>,
    /// Another number of steps for a run that goes on.
    pub steps: Option<u64>,
}

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// False if it was asked to stop before the last step.
    pub finished: bool,
    /// Best validation PDCorr and its step.
    pub best: Option<(f64, u64)>,
    /// Loss of the last step.
    pub loss: f32,
    /// Control and perturbed cells trained on, per second.
    pub cells_per_second: f64,
    /// Count of weights.
    pub parameters: usize,
    /// Groups left out because their cell type has no control cells.
    pub unmatched: usize,
}

/// A run: the model, its weights and where they stand.
struct Run {
    learner: Learner,
    effects: Effects,
    split: Split,
    data: Arc<Data>,
    /// Steps done.
    step: u64,
    best: Option<(f64, u64)>,
    out: PathBuf,
}

/// Trains until the last step, or until `stop` is set: then a checkpoint is written and the outcome says so. Memory that is
/// freed stays with the process from here on ([`memory::keep`]).
pub fn train(settings: &Settings, stop: &AtomicBool) -> Result<Outcome> {
    memory::keep();
    guard(|| walk(settings, stop))
}

fn walk(settings: &Settings, stop: &AtomicBool) -> Result<Outcome> {
    let gpu = settings.gpu.as_ref();
    let data = Arc::new(Data::open(&settings.data)?);
    let split = Split::load(&settings.split, &data)?;
    let mut run = match &settings.config {
        Some(config) => Run::new(config, data, split, settings)?,
        None => Run::resume(data, split, settings)?,
    };
    let config = run.learner.model.config().clone();
    let (steps, start) = (config.train.steps, run.step);
    let sampling = Sampling {
        sets: config.data.sets,
        cells: config.data.cells,
        alpha: config.data.alpha,
        control_examples: config.data.control_examples,
    };
    let sampler = Sampler::new(&run.data, run.split.part(Part::Train), sampling, config.train.seed)?;
    let unmatched = sampler.unmatched().len();
    let mut feed = Feed::new(&run.data, gpu, run.learner.model.wants_shift());
    if let Some(what) = feed.describe() {
        eprintln!("note: {what}");
    }
    let mut loader = Loader::start(run.data.clone(), sampler, start, 4, feed.carry());
    let mut metrics = Metrics::open(&settings.out, start)?;
    let bar = progress::bar("train", steps, "steps");
    let (began, mut loss) = (Instant::now(), f32::NAN);

    while run.step < steps && !stop.load(Ordering::Relaxed) {
        let batch = loader.next();
        let (examples, last) = (feed.examples(&batch, &run.effects), run.step + 1 == steps);
        if run.step == 0 || config.train.validates_after(run.step + 1) {
            let norms = part_norms(&mut run.learner, &examples, run.step);
            metrics.part_norms(run.step + 1, &norms)?;
        }
        let found = run.learner.gradients(&examples, run.step);
        // On a device reading a number waits for it: only steps that are logged or saved do.
        let logs = (run.step + 1).is_multiple_of(config.train.log_every) || last;
        let saves = (run.step + 1).is_multiple_of(config.train.checkpoint_every) || last;
        let line = (gpu.is_none() || logs || saves).then(|| Line::read(&found, run.step + 1));
        if let Some(line) = line.as_ref().filter(|line| !line.loss.is_finite()) {
            return Err(run.diverged(&batch, line));
        }
        let lr = learning_rate(&config.optim, run.step, steps);
        let norm = run.learner.update(run.step);
        run.step += 1;
        loader.give_back(batch);
        bar.set_position(run.step);
        if let Some(line) = line.filter(|_| logs) {
            loss = line.loss;
            let cells = 2 * config.data.sets * config.data.cells;
            let rate = cells as f64 * (run.step - start) as f64 / began.elapsed().as_secs_f64();
            bar.set_message(format!("loss {loss:.3}  {rate:.0} cells/s"));
            metrics.step(&line, norm.item(), lr, rate)?;
        }
        if config.train.validates_after(run.step) {
            run.validate(&mut metrics)?;
        }
        if saves && !last {
            run.save("last")?;
        }
    }
    bar.finish_and_clear();
    run.save("last")?;
    let cells = 2.0 * (config.data.sets * config.data.cells) as f64 * (run.step - start) as f64;
    Ok(Outcome {
        step: run.step,
        finished: run.step == steps,
        best: run.best,
        loss,
        cells_per_second: cells / began.elapsed().as_secs_f64(),
        parameters: run.learner.params.count(),
        unmatched,
    })
}

impl Run {
    /// A new run: statistics, mean effects, first weights. Refuses a folder that holds one already.
    fn new(config: &Config, data: Arc<Data>, split: Split, settings: &Settings) -> Result<Run> {
        let out = settings.out.as_path();
        if out.join("checkpoints").exists() {
            let what = "holds a run already; go on with it by --resume, or name another folder";
            return Err(Error::format(out, what));
        }
        fs::create_dir_all(out.join("checkpoints")).at(out)?;
        let text = config.to_toml();
        let path = out.join("config.toml");
        crate::aside::file(&path, |aside| fs::write(aside, text).at(aside))?;

        let moments = data.training_moments(split.part(Part::Train));
        let statistics = Statistics { mean: moments.mean, std: moments.std };
        let learner = Learner::new(config, &vocabulary(data.manifest()), statistics, settings.gpu.as_ref());
        let effects = match learner.model.wants_shift() {
            true => Effects::measure(&data, split.part(Part::Train)),
            false => Effects::default(),
        };
        Ok(Run { learner, effects, split, data, step: 0, best: None, out: out.into() })
    }

    /// The run as its last checkpoint left it.
    fn resume(data: Arc<Data>, split: Split, settings: &Settings) -> Result<Run> {
        let path = settings.out.join("checkpoints/last.safetensors");
        let (mut checkpoint, ..) = Checkpoint::load(&path, false)?;
        if checkpoint.header.data.genes != data.manifest().genes
            || vocabulary(&checkpoint.header.data) != vocabulary(data.manifest())
        {
            let what = "was trained on other data: genes or vocabularies differ from the data directory's";
            return Err(Error::format(&path, what));
        }
        if checkpoint.header.split != split.hash {
            return Err(Error::format(&path, "was trained with another split file"));
        }
        if let Some(steps) = settings.steps {
            let done = checkpoint.header.step;
            if steps < done {
                return Err(Error::setting(
                    "--steps",
                    format!("{steps} is below the {done} steps already done"),
                ));
            }
            checkpoint.header.config.train.steps = steps;
        }
        let (config, sizes) = (&checkpoint.header.config, vocabulary(data.manifest()));
        let mut learner = Learner::new(config, &sizes, checkpoint.statistics, settings.gpu.as_ref());
        learner.params.set_weights(checkpoint.weights);
        learner.optimizer = Optimizer::resume(&learner.params, checkpoint.moments, checkpoint.average);
        Ok(Run {
            learner,
            effects: checkpoint.effects,
            split,
            data,
            step: checkpoint.header.step,
            best: checkpoint.header.best,
            out: settings.out.clone(),
        })
    }

    /// Why training cannot go on: the step, the batch and the last good checkpoint.
    fn diverged(&self, batch: &Batch, line: &Line) -> Error {
        let names = self.data.manifest();
        let mut sets: Vec<String> = batch
            .conditions
            .iter()
            .map(|&[c, p, b]| {
                let [c, p, b] = [c, p, b].map(|i| i as usize);
                format!("{} / {} / {}", names.cell_types[c], names.perturbations[p], names.batches[b])
            })
            .collect();
        sets.sort();
        sets.dedup();
        let last = self.out.join("checkpoints/last.safetensors");
        let good = match last.exists() {
            true => format!("the last good checkpoint is {}", last.display()),
            false => "no checkpoint was written yet".to_string(),
        };
        Error::Stopped(format!(
            "step {}: the loss is {} ({}); batch of {}; {good}; a lower optim.lr or optim.clip may help",
            self.step,
            line.loss,
            line.parts.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", "),
            sets.join(", "),
        ))
    }

    /// Scores the averaged weights on the validation groups, logs it, and keeps the best.
    fn validate(&mut self, metrics: &mut Metrics) -> Result<()> {
        let Some(score) = validate::pdcorr(self) else { return Ok(()) };
        metrics.validation(self.step, score)?;
        if score.is_finite() && self.best.is_none_or(|(best, _)| score > best) {
            self.best = Some((score, self.step));
            self.save("best")?;
        }
        Ok(())
    }

    /// Writes checkpoints/NAME.safetensors, and step-N beside `last` where all are kept.
    fn save(&self, name: &str) -> Result<()> {
        let header = Header {
            version: Checkpoint::version(),
            program: Checkpoint::program(),
            step: self.step,
            config: self.learner.model.config().clone(),
            data: self.data.manifest().clone(),
            split: self.split.hash.clone(),
            effects: self.effects.pairs().to_vec(),
            best: self.best,
        };
        let checkpoint = Checkpoint {
            header,
            statistics: self.learner.model.statistics().clone(),
            effects: self.effects.clone(),
            weights: self.learner.params.weights().to_host(),
            average: self.learner.optimizer.ema.to_host(),
            moments: [self.learner.optimizer.m.to_host(), self.learner.optimizer.v.to_host()],
        };
        let dir = self.out.join("checkpoints");
        if name == "last" && self.learner.model.config().train.keep_all {
            checkpoint
                .save(&dir.join(format!("step-{}.safetensors", self.step)), self.learner.params.entries())?;
        }
        checkpoint.save(&dir.join(format!("{name}.safetensors")), self.learner.params.entries())
    }
}
