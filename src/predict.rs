//! Predicts populations with a trained run, or with several whose predictions are averaged: the held-out part of a data directory,
//! or any request over a user's control cells.
//!
//! ```no_run
//! use scale_engine::data::split::Part;
//! use scale_engine::predict::{Settings, Source, predict};
//! use scale_engine::progress::{Event, Progress};
//!
//! # fn main() -> scale_engine::error::Result<()> {
//! let source = Source::Data {
//!     data: "DATA".into(),
//!     split: "held_out.toml".into(),
//!     part: Part::Test,
//!     real_out: Some("real.h5ad".into()),
//!     real_controls: None,
//! };
//! let settings = Settings { with_controls: true, ..Settings::new("RUN".as_ref(), source, "pred.h5ad".as_ref()) };
//! let progress = Progress::new(|event, _| {
//!     if let Event::Done(cells) = event {
//!         println!("{cells} cells");
//!     }
//! });
//! let report = predict(&settings, &progress)?;
//! println!("{} cells of {} populations, {:?}", report.cells, report.populations, report.notes);
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::aside;
use crate::config::Observe;
use crate::data::controls::Controls;
use crate::data::h5ad::{H5ad, Writer};
use crate::data::observe::{self, Observer};
use crate::data::population::{OBSERVE, Population, SPLIT, Unit, WARNING};
use crate::data::shard::{Data, Manifest};
use crate::data::split::Part;
use crate::error::{Error, Result, counted};
use crate::gpu::guard;
use crate::predictor::{self, ControlCells, Predictor, Request};
use crate::progress::Progress;

mod controls;
mod effects;
mod held_out;
mod request;
mod runs;
mod unit;
mod unseen;

pub use controls::ControlFile;
use effects::MeanEffects;
use held_out::HeldOut;
#[doc(hidden)]
pub use request::count_requested;
use runs::Runs;

/// What to predict, and with which weights.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to compute; `None` is the CPU.
    pub gpu: Option<crate::gpu::Gpu>,
    /// Run directories, or checkpoints. Predictions of several, trained on the same data, are averaged cell by cell.
    pub runs: Vec<PathBuf>,
    /// The .h5ad to write.
    pub out: PathBuf,
    /// Another .h5ad to write, with the mean effect of each population and how far the runs agree on it.
    pub effects_out: Option<PathBuf>,
    /// Where controls and requests come from.
    pub source: Source,
    /// Also write the control cells, under the control label: evaluation needs them.
    pub with_controls: bool,
    /// Used instead of the run's own `predict.observe`.
    pub observe: Option<Observe>,
    /// In which unit cells are written, what was measured too; counts are those that `observe` draws.
    pub unit: Unit,
    /// A table of features of perturbations that the run's data do not have, in the columns of the run's own.
    pub features: Option<PathBuf>,
    /// Seeds control draws, start noise and counts.
    pub seed: u64,
}

impl Settings {
    /// Log1p values, as the run observes, on the CPU, without control cells or effects, by seed 0.
    pub fn new(run: &Path, source: Source, out: &Path) -> Settings {
        Settings {
            gpu: None,
            runs: vec![run.into()],
            out: out.into(),
            effects_out: None,
            source,
            with_controls: false,
            observe: None,
            unit: Unit::Log1p,
            features: None,
            seed: 0,
        }
    }
}

/// Where controls and requests come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Every perturbed group of one part of a split whose cell type has control cells, with as many cells as were measured.
    Data {
        /// Data directory.
        data: PathBuf,
        /// Split file.
        split: PathBuf,
        /// train, val or test.
        part: Part,
        /// Also write what was measured, for `evaluate`.
        real_out: Option<PathBuf>,
        /// A data directory whose control cells are written there instead of those that training has seen.
        real_controls: Option<PathBuf>,
    },
    /// A list of populations over control cells of an .h5ad, whose genes are aligned as those of the run's data were, by name or id.
    File {
        /// Control cells.
        controls: ControlFile,
        /// Table of text with the columns perturbation, cell_type, batch (which may be missing) and cells: commas separate them, in a
        /// .tsv or .txt tabs; packed with gzip or not.
        request: PathBuf,
    },
}

impl Source {
    /// Where what was measured is written, if anywhere.
    fn real_out(&self) -> Option<&PathBuf> {
        match self {
            Source::Data { real_out, .. } => real_out.as_ref(),
            Source::File { .. } => None,
        }
    }

    /// Refuses outputs that would replace what is read.
    fn apart_from(&self, settings: &Settings, checkpoints: &[PathBuf]) -> Result<()> {
        let Settings { out, effects_out, runs, features, .. } = settings;
        let (inputs, more) = match self {
            Source::Data { data, split, real_controls, .. } => ([data, split], real_controls.as_ref()),
            Source::File { controls, request } => ([&controls.path, request], controls.labels.as_ref()),
        };
        let outputs: Vec<&PathBuf> = [out].into_iter().chain(effects_out).chain(self.real_out()).collect();
        let inputs = checkpoints.iter().chain(runs).chain(inputs).chain(more).chain(features);
        aside::apart(&outputs, &inputs.collect::<Vec<_>>())?;
        outputs.into_iter().try_for_each(|out| H5ad::replaceable(out))
    }
}

/// What was predicted.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Checkpoints used, one of each run.
    pub checkpoints: Vec<PathBuf>,
    /// The file of predicted cells.
    pub out: PathBuf,
    /// The file of mean effects.
    pub effects_out: Option<PathBuf>,
    /// The file of measured cells.
    pub real_out: Option<PathBuf>,
    /// Populations predicted.
    pub populations: usize,
    /// Perturbed cells predicted.
    pub cells: usize,
    /// Control cells written with them.
    pub control_cells: usize,
    /// Cells in `real_out`, control cells among them.
    pub measured_cells: Option<usize>,
    /// Genes of the model that the control file lacks: taken as zero.
    pub missing_genes: Vec<String>,
    /// Genes of the control file that the model does not know: ignored.
    pub ignored_genes: usize,
    /// What is wrong with some predictions; also written to the file, where `evaluate` finds it.
    pub warnings: Vec<String>,
    /// Things worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// What predicted: the checkpoints, in one line.
    pub fn by(&self) -> String {
        self.checkpoints.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

/// A requested population.
struct Ask {
    request: Request,
    /// Pool of its controls.
    pool: usize,
}

/// All populations of a prediction, with the control cells of each.
#[derive(Default)]
struct Job {
    pools: Vec<Pool>,
    asks: Vec<Ask>,
    /// Whether nothing shows to which total the control cells were scaled.
    untold: bool,
    /// Whether the control cells were read as counts.
    counts: bool,
    /// Log1p values of the control cells by number, if they come from a file and are to be written.
    logs: Logs,
}

/// Genes and values of the non-zeros of some cells, by cell number.
type Logs = BTreeMap<u64, (Vec<u32>, Vec<f32>)>;

/// Control cells that represent one or more (cell type, batch).
struct Pool {
    /// Names of the cells.
    names: Vec<String>,
    controls: ControlCells,
    /// How they are written, if they come from a file: a data directory writes its own.
    labels: Option<WrittenAs>,
}

/// What control cells of a file are written under.
struct WrittenAs {
    cell_type: String,
    /// Numbers of the cells in the file.
    cells: Vec<u64>,
    /// The batch in which each cell was measured: not the pool's if that has no controls of its own.
    batches: Vec<String>,
}

impl Pool {
    /// The cells of a pool of a data directory.
    fn of(data: &Data, pool: &Controls) -> Pool {
        let cells: Vec<u64> = pool.iter().collect();
        let names = cells.iter().map(|&cell| data.name(cell).to_string()).collect();
        Pool { names, controls: ControlCells::of(data, &cells), labels: None }
    }
}

/// Predicts and writes: predicted cells, mean effects, and what was measured last. An output that fails leaves nothing of itself
/// behind; those before it stay. `progress` is told of the cells predicted.
///
/// # Errors
/// A run, data or a request that cannot be used; a file that cannot be written; a GPU that failed; [`Error::Stopped`] if it is asked
/// to stop before its file is put in its place, and then nothing is written.
pub fn predict(settings: &Settings, progress: &Progress) -> Result<Report> {
    guard(|| predicted(settings, progress)).map_err(|error| match error {
        Error::Stopped(_) => error.followed_by("; nothing is written"),
        other => other,
    })
}

const UNBEGUN: &str = "predict was stopped before the first cell";

fn predicted(settings: &Settings, progress: &Progress) -> Result<Report> {
    let checkpoints = runs::checkpoints(&settings.runs)?;
    settings.source.apart_from(settings, &checkpoints)?;
    let runs = Runs::load(settings, checkpoints.clone(), progress)?;
    progress.go_on(UNBEGUN)?;
    let mut report = Report { checkpoints, out: settings.out.clone(), ..Report::default() };
    let manifest = runs.data();
    let observe = settings.observe.map_or_else(|| runs.observe(&mut report.notes), Ok)?;
    let observer = unit::observer(settings.unit, observe, manifest)?;
    report.notes.extend(runs.unfinished());
    let (job, measured) = match &settings.source {
        Source::Data { data, split, part, real_controls, .. } => {
            let held_out = HeldOut::open(data, split, *part, real_controls.as_deref())?;
            (held_out.job(&runs, &mut report)?, Some(held_out))
        }
        Source::File { controls, request } => {
            (request::job(&runs, controls, request, settings.with_controls, &mut report)?, None)
        }
    };
    unit::check(settings, &job, measured.as_ref())?;
    unseen::tell(&runs, &job, &mut report);
    report.warnings.extend(controls::other_scale(&runs, &job));
    let effects = match &settings.effects_out {
        Some(_) => Some(MeanEffects::with_capacity(job.asks.len(), settings.runs.len(), manifest)?),
        None => None,
    };
    settings
        .effects_out
        .iter()
        .chain(settings.source.real_out())
        .try_for_each(|path| aside::writable(path))?;
    progress.go_on(UNBEGUN)?;
    let mut made = Made { population: unit::population(settings, manifest)?, effects, manifest };
    fill(&runs.predictors(settings.seed), &job, observer.as_ref(), &mut made, &mut report, progress)?;
    if settings.with_controls {
        report.control_cells = match &measured {
            Some(held_out) => held_out.push_controls(&mut made.population)?,
            None => made.push_controls(job)?,
        };
    }
    let Made { mut population, effects, .. } = made;
    let mut notes = runs.notes(settings);
    notes.extend(measured.as_ref().map(|of| (SPLIT.into(), of.split().into())));
    if !report.warnings.is_empty() {
        notes.push((WARNING.into(), report.warnings.join("; ")));
    }
    progress.go_on("predict was stopped before its file was complete")?;
    population.notes = notes.clone();
    population.notes.push((OBSERVE.into(), observe.name().into()));
    population.close()?;
    if let (Some(path), Some(effects)) = (&settings.effects_out, effects) {
        effects.write(path, &notes)?;
        report.effects_out = Some(path.clone());
    }
    if let (Some(path), Some(measured)) = (settings.source.real_out(), &measured) {
        (report.real_out, report.measured_cells) =
            (Some(path.clone()), Some(measured.write(path, settings.unit)?));
    }
    Ok(report)
}

/// Control cells that are held as dense rows: in words, and the bytes that they take.
fn held_cells(cells: u64, manifest: &Manifest) -> (String, u64) {
    let bytes = cells.saturating_mul(4 * manifest.genes.len() as u64);
    (format!("the {cells} control cells to predict from"), bytes)
}

/// What is predicted, on its way to files.
struct Made<'a> {
    population: Population<Writer>,
    /// If they are to be written.
    effects: Option<MeanEffects<'a>>,
    manifest: &'a Manifest,
}

/// Predicts each population.
fn fill(
    predictors: &[Predictor],
    job: &Job,
    observer: Option<&Observer>,
    made: &mut Made,
    report: &mut Report,
    progress: &Progress,
) -> Result<()> {
    let empty: usize =
        job.pools.iter().map(|c| c.controls.library.iter().filter(|n| !observe::known(**n)).count()).sum();
    if observer.is_some() && empty > 0 {
        report.notes.push(format!(
            "{} without counts or without a known total: cells predicted from such cells are drawn with the total that the \
             data were scaled to",
            counted(empty, "control cell")
        ));
    }
    let contexts = job.pools.iter().map(|c| {
        progress.go_on(UNBEGUN)?;
        predictor::Context::of(predictors, &c.controls)
    });
    let contexts: Vec<_> = contexts.collect::<Result<_>>()?;
    let total: usize = job.asks.iter().map(|ask| ask.request.cells).sum();
    let work = progress.begin("predict", 0, total as u64, "cells");
    for Ask { request, pool } in &job.asks {
        let labels = predictors[0].data.names_of(request.conditions);
        let Pool { names, controls, .. } = &job.pools[*pool];
        let means = contexts[*pool].predict(*request, observer, |row, control| {
            work.go_on()?;
            if let Some(bad) = row.iter().find(|x| !x.is_finite()) {
                let who = if predictors.len() == 1 { "" } else { "one of these " };
                let what = format!(
                    "{who}predicts {bad} for {}; predict from an earlier checkpoint",
                    labels.join(" / ")
                );
                return Err(Error::format(report.by(), what));
            }
            made.push_predicted(labels, row, &names[control], controls.library[control])
        })?;
        if let Some(effects) = &mut made.effects {
            effects.push(labels, request.cells, &means);
        }
        report.populations += 1;
        report.cells += request.cells;
        work.add(request.cells as u64);
    }
    Ok(())
}
