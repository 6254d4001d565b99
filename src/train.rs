//! Training: batch -> losses -> gradients -> weights, with everything needed to stop and resume.
//!
//! From a program, which is told what happens and may stop the run:
//!
//! ```no_run
//! use scale_engine::config::Config;
//! use scale_engine::progress::{Event, Progress};
//! use scale_engine::train::{Begin, Settings, train};
//!
//! # fn main() -> scale_engine::error::Result<()> {
//! scale_engine::memory::keep(); // each step needs as much as the last one gave back
//! let progress = Progress::new(|event, progress| {
//!     if let Event::Logged { step, numbers } = event {
//!         let loss = numbers.iter().find(|(name, _)| name == "loss");
//!         println!("{step}: {loss:?}");
//!         if loss.is_some_and(|(_, loss)| *loss < 0.1) {
//!             progress.stop();
//!         }
//!     }
//! });
//! let config = Config::load(Some("tiny"), None, &["train.steps=300".to_string()])?;
//! let run = Settings::new("DATA".as_ref(), "held_out.toml".as_ref(), "RUN".as_ref(), Begin::drawn(config));
//! let outcome = train(&run, &progress)?;
//! println!("{} steps, {:?}", outcome.step, outcome.best);
//! # Ok(())
//! # }
//! ```

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::checkpoint::Best;
use crate::collective::{Collective, Ranks, Threads, Wire};
use crate::config::{Config, Due};
use crate::data::loader::Loader;
use crate::data::sampler::Sampler;
use crate::data::split::Part;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, guard};
use crate::lock::help_until;
use crate::optim::learning_rate;
use crate::progress::{Progress, Work};

mod feed;
mod learner;
mod line;
mod metrics;
mod new_run;
mod part_norms;
mod prepared;
mod run;
mod sent;
mod settings;
mod tensorboard;
mod validate;
mod writer;

pub use feed::Feed;
pub(crate) use feed::{row_scaling, row_spans, stored_bytes};
pub(crate) use learner::check_memory;
pub use learner::{Computed, Learner};
pub use settings::{Begin, Place, Settings};

use line::Lines;
use metrics::Metrics;
use part_norms::part_norms;
use prepared::Prepared;
use run::Run;

/// How a run ended.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Outcome {
    /// Steps done.
    pub step: u64,
    /// False if the run was asked to stop before the last step.
    pub finished: bool,
    /// The best validation.
    pub best: Option<Best>,
    /// Loss of the last step in the log, if there is one.
    pub loss: Option<f32>,
    /// Control and perturbed cells trained on per second, over all ranks and from the beginning of this process on.
    pub cells_per_second: f64,
    /// Number of weights.
    pub weights: usize,
    /// Groups left out because their cell type has no control cells.
    pub unmatched: usize,
}

/// Trains until the last step or until `progress` is asked to stop; then a checkpoint is written and the outcome says so. A program
/// that trains does well to call [`memory::keep`](crate::memory::keep) first, and must call
/// [`gpu::keep_nccl_buffers_private`](crate::gpu::keep_nccl_buffers_private) before it uses several GPUs. A rank whose NCCL
/// does not let go of it once another rank is gone ends its process, with exit code 1.
///
/// Sets are numbered within a step, not within a rank, so the number of ranks changes only the order in which gradients are added.
///
/// # Errors
/// Settings, data or a split that cannot be used; a loss that is not finite ([`Error::Diverged`]); a file that cannot be written; a
/// GPU or another rank that failed.
pub fn train(settings: &Settings, progress: &Progress) -> Result<Outcome> {
    match &settings.place {
        Place::Launched(launch, gpu) => {
            // Before any data is read: a rank that finds no data can then tell the others.
            let seat = Arc::new(Wire::join(launch, progress)?);
            rank(|| Prepared::of(settings, progress), gpu.as_ref(), seat)
        }
        Place::Here(places) => match places.as_slice() {
            [] => Err(Error::setting("place", "has no rank to train on")),
            [place] => {
                guard(|| train_rank(Prepared::of(settings, progress)?, place.as_ref(), &Ranks::alone()))
            }
            places => side_by_side(&Prepared::of(settings, progress)?, places),
        },
    }
}

/// One rank per place, each in its own thread. Returns rank 0's outcome, or the error of the rank that failed first.
fn side_by_side(prepared: &Prepared, places: &[Option<Gpu>]) -> Result<Outcome> {
    let seats: Vec<Arc<Threads>> = Threads::seats(places.len()).into_iter().map(Arc::new).collect();
    let mut outcomes: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let begin = |(seat, place): (&Arc<Threads>, &'_ Option<Gpu>)| {
            let (prepared, seat, place) = (prepared.clone(), seat.clone(), place.clone());
            scope.spawn(move || rank(|| Ok(prepared), place.as_ref(), seat))
        };
        let ranks: Vec<_> = seats.iter().zip(places).map(begin).collect();
        help_until(|| ranks.iter().all(|rank| rank.is_finished()));
        ranks.into_iter().map(|rank| rank.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    outcomes.swap_remove(seats[0].failed().unwrap_or(0))
}

/// One of several ranks. If it ends early, it tells the others.
fn rank(
    prepared: impl FnOnce() -> Result<Prepared>,
    gpu: Option<&Gpu>,
    seat: Arc<dyn Collective>,
) -> Result<Outcome> {
    let work = || {
        guard(|| {
            let prepared = prepared()?;
            let ranks = Ranks::join(seat.clone(), gpu, &prepared.progress)?;
            prepared.agree(&ranks, gpu)?;
            train_rank(prepared, gpu, &ranks)
        })
    };
    let outcome = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        seat.fail("it panicked");
        resume_unwind(panic)
    });
    if let Err(error) = &outcome {
        seat.fail(&error.to_string());
    }
    outcome
}

fn train_rank(prepared: Prepared, gpu: Option<&Gpu>, ranks: &Ranks) -> Result<Outcome> {
    gpu.map_or(Ok(()), Gpu::must_compute)?;
    let mut training = Training::begin(prepared, gpu, ranks)?;
    training.keep_changes()?;
    let mut stopping = ranks.any(training.run.progress.is_stopped())?;
    while training.run.step() < training.run.config().train.steps && !stopping {
        stopping = training.step()?;
    }
    training.end()
}

/// Batches that the loader prepares ahead.
const AHEAD: usize = 4;

/// A run in progress: batch after batch, and where their numbers go.
struct Training<'a> {
    run: Run,
    loader: Loader,
    feed: Feed,
    log: Log,
    /// Groups without controls.
    unmatched: usize,
    gpu: Option<&'a Gpu>,
    ranks: &'a Ranks,
    /// `Some` on the rank that writes. Must stay the last field: dropping it reports the end of the work, which must come after any
    /// error of the checkpoint writer in `run`.
    work: Option<Work>,
}

impl<'a> Training<'a> {
    fn begin(prepared: Prepared, gpu: Option<&'a Gpu>, ranks: &'a Ranks) -> Result<Training<'a>> {
        let run = Run::new(prepared, gpu, ranks)?;
        let (config, first) = (run.config(), run.step());
        let (of_data, train) = (config.data, config.train);
        let sampler = Sampler::new(&run.data, run.split.part(Part::Train), of_data, train.seed)?
            .share(ranks.rank(), ranks.count())?;
        let unmatched = sampler.unmatched().len();
        if let Some(sets) = sampler.epoch().filter(|_| run.writes) {
            let steps = sets as f64 / of_data.sets as f64;
            run.progress.note(format_args!("an epoch is {sets} sets, {steps:.1} steps"));
        }
        let feed = Feed::new(&run.data, gpu, config.wants_shift());
        if let Some(what) = feed.describe() {
            run.progress.note(what);
        }
        let loader = Loader::start(run.data.clone(), sampler, first, AHEAD, feed.carry())?;
        let metrics = match run.writes {
            true => Metrics::open(&run.folder, first, run.progress.clone())?,
            false => Metrics::silent(),
        };
        let work = run.writes.then(|| run.progress.begin("train", first, train.steps, "steps"));
        let began = Instant::now();
        let log = Log { metrics, lines: Lines::default(), first, began, told: (first, began), loss: None };
        Ok(Training { run, loader, feed, log, unmatched, gpu, ranks, work })
    }

    /// Does the next step and what is due after it. True if all ranks are to stop.
    fn step(&mut self) -> Result<bool> {
        let Training { run, loader, feed, log, gpu, ranks, work, .. } = self;
        let train = run.config().train;
        let batch = loader.next();
        let examples = feed.examples(&batch, &run.state.effects);
        let (step, done) = (run.step(), run.step() + 1);
        let mut due = train.due(done);
        if step == 0 || due.validation {
            log.tell(run, ranks)?;
            let norms = part_norms(&mut run.learner, &examples, step, ranks)?;
            log.metrics.part_norms(done, &norms)?;
        }
        let (found, norm) = run.learner.step(&examples, step, ranks)?;
        // The device already has this step queued while the previous one's numbers are read.
        log.tell(run, ranks)?;
        if let Some(work) = work {
            work.set(done);
        }
        let stopping = ranks.any(run.progress.is_stopped())?;
        due.checkpoint |= stopping;
        if gpu.is_none() || due.line || due.checkpoint {
            log.lines.send(&found, &norm, done, &batch.conditions, due.line);
        }
        ranks.check_sums()?;
        run.state.header.step = done;
        loader.give_back(batch);
        self.after(due)?;
        Ok(stopping)
    }

    /// Validation and checkpoint, if due.
    fn after(&mut self, due: Due) -> Result<()> {
        let Training { run, log, gpu, ranks, .. } = self;
        if gpu.is_none() || due.checkpoint || due.validation {
            log.tell(run, ranks)?;
        }
        run.report_failure()?;
        let best = due.validation && run.validate(&mut log.metrics, ranks)?;
        if due.checkpoint || best {
            run.save(due.checkpoint, best, ranks)?;
        }
        Ok(())
    }

    /// Keeps what a resumed run was told to change. One that is thereby at its end is validated there, as any run is.
    fn keep_changes(&mut self) -> Result<()> {
        let Training { run, log, ranks, .. } = self;
        let (train, step) = (run.config().train, run.step());
        let ends = run.changed && step == train.steps;
        let best = ends && train.due(step).validation && run.validate(&mut log.metrics, ranks)?;
        run.keep_changes(best, ranks)
    }

    fn end(self) -> Result<Outcome> {
        let Training { mut run, log, unmatched, gpu, ranks, .. } = self;
        // The run was asked to stop before its first step.
        let step = run.step();
        if run.saved != Some(step) {
            run.save(true, false, ranks)?;
        }
        run.finish()?;
        leave(ranks, gpu)?;
        let Config { data, train, .. } = run.config();
        let cells = 2.0 * (data.sets * data.cells) as f64 * (step - log.first) as f64;
        Ok(Outcome {
            step,
            finished: step == train.steps,
            best: run.state.header.best,
            loss: log.loss,
            cells_per_second: cells / log.began.elapsed().as_secs_f64(),
            weights: run.learner.params.table().count(),
            unmatched,
        })
    }
}

/// Where the numbers of each step go.
struct Log {
    metrics: Metrics,
    lines: Lines,
    /// Steps done when this process began.
    first: u64,
    began: Instant,
    /// The step of the last line, and when it was written.
    told: (u64, Instant),
    /// Loss of the last step in the log.
    loss: Option<f32>,
}

impl Log {
    /// Logs the step whose numbers were sent, if there is one.
    ///
    /// # Errors
    /// Its loss or the gradient's norm is not finite; the log cannot be written; a rank is gone.
    fn tell(&mut self, run: &mut Run, ranks: &Ranks) -> Result<()> {
        let Some(mut line) = self.lines.take() else { return Ok(()) };
        ranks.check_sums()?;
        // The norm is that of all ranks' gradients: if it is not finite, every rank stops before it writes a checkpoint.
        if !(line.loss.is_finite() && line.norm.is_finite()) {
            return Err(run.diverged(&line));
        }
        if !line.logs {
            return Ok(());
        }
        line.mean_over(ranks)?;
        self.loss = Some(line.loss);
        let config = run.config();
        let cells = 2 * config.data.sets * config.data.cells;
        let (step, at) = std::mem::replace(&mut self.told, (line.step, Instant::now()));
        let rate = cells as f64 * (line.step - step) as f64 / (self.told.1 - at).as_secs_f64();
        self.metrics.step(&line, learning_rate(&config.optim, line.step - 1, config.train.steps), rate)
    }
}

/// Waits until every rank has finished its last sum and the run is written.
fn leave(ranks: &Ranks, gpu: Option<&Gpu>) -> Result<()> {
    gpu.inspect(|gpu| gpu.wait());
    ranks.any(false).map(|_| ())
}
