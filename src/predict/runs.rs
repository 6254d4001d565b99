//! The runs that predict: one, or several whose predictions are averaged.

use std::path::{Path, PathBuf};

use super::Settings;
use crate::checkpoint::{Header, Trained};
use crate::config::Observe;
use crate::data::features::FeatureTable;
use crate::data::observe::UNTOLD_TOTAL;
use crate::data::shard::Manifest;
use crate::error::{Error, Result};
use crate::folder::name_of;
use crate::predictor::Predictor;
use crate::progress::Progress;
use crate::run_folder::checkpoint_of;

/// One run or more, of the same genes, names and scale.
pub struct Runs(Vec<Run>);

/// A run, ready to predict.
pub struct Run {
    /// As the user named it.
    pub path: PathBuf,
    /// The checkpoint that this means.
    pub checkpoint: PathBuf,
    /// What is read there.
    pub trained: Trained,
}

/// The checkpoint that each run means.
pub fn checkpoints(runs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if runs.is_empty() {
        return Err(Error::setting("run", "give one run, or several to be averaged"));
    }
    let found: Vec<PathBuf> = runs.iter().map(|run| checkpoint_of(run)).collect::<Result<_>>()?;
    let canonical = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let known: Vec<PathBuf> = found.iter().map(canonical).collect();
    match (1..known.len()).find(|&i| known[..i].contains(&known[i])) {
        Some(twice) => Err(Error::format(&found[twice], "is given twice; average runs of different seeds")),
        None => Ok(found),
    }
}

impl Runs {
    /// Reads them, and refuses runs that cannot be averaged.
    pub fn load(settings: &Settings, checkpoints: Vec<PathBuf>, progress: &Progress) -> Result<Runs> {
        let table = settings.features.as_deref().map(FeatureTable::read).transpose()?;
        let mut all: Vec<Run> = Vec::new();
        for (path, checkpoint) in settings.runs.iter().zip(checkpoints) {
            progress.go_on(super::UNBEGUN)?;
            let mut trained = Trained::load(&checkpoint)?;
            if let Some(first) = all.first() {
                let (known, here) = (&first.trained.header.data, &trained.header.data);
                if let Some(what) = known.other_numbers(here).or_else(|| known.other_ids(here)) {
                    let first = first.path.display();
                    let what = format!("cannot be averaged with {first}, the run before it: {what}");
                    return Err(Error::format(path, what));
                }
            }
            if let Some(table) = &table {
                trained = trained.knowing(table).map_err(|error| error.with_way(&which(settings, path)))?;
            }
            if let Some(gpu) = &settings.gpu {
                trained = trained.to_gpu(gpu);
            }
            all.push(Run { path: path.clone(), checkpoint, trained });
        }
        Ok(Runs(all))
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.0.iter()
    }

    /// The first of them.
    pub fn first(&self) -> &Run {
        &self.0[0]
    }

    /// The data of the first: genes, names and scale are those of all.
    pub fn data(&self) -> &Manifest {
        &self.first().trained.header.data
    }

    /// Each run's model.
    pub fn predictors(&self, seed: u64) -> Vec<Predictor<'_>> {
        self.iter().map(|run| run.trained.predictor(seed)).collect()
    }

    /// True if all know perturbations by features.
    pub fn know_features(&self) -> bool {
        self.iter().all(|run| run.trained.features.is_some())
    }

    /// True if one of them knows this perturbation by a name on which it was not trained.
    pub fn know_only_the_name(&self, perturbation: &str) -> bool {
        let untrained = |run: &Run| run.trained.header.untrained.iter().any(|name| name == perturbation);
        self.iter().any(|run| run.trained.features.is_none() && untrained(run))
    }

    /// The runs' own `predict.observe`, or none if their data do not record the total to which counts are scaled.
    pub fn observe(&self, notes: &mut Vec<String>) -> Result<Observe> {
        let own = self.first().trained.header.config.predict.observe;
        if self.iter().any(|run| run.trained.header.config.predict.observe != own) {
            return Err(Error::setting("--observe", "the runs differ in predict.observe; say which to use"));
        }
        if own == Observe::Poisson && self.data().target.is_none() {
            notes.push(format!("predicted means are written, as with --observe none: {UNTOLD_TOTAL}"));
            return Ok(Observe::None);
        }
        Ok(own)
    }

    /// What the user should know about checkpoints that are not their runs' last.
    pub fn unfinished(&self) -> impl Iterator<Item = String> {
        self.iter().filter_map(|run| {
            let Header { step, best, config, .. } = &run.trained.header;
            let steps = config.train.steps;
            let best = if best.is_some_and(|best| best.step == *step) { ", the best so far" } else { "" };
            let which = if self.0.len() > 1 { format!("{}: ", run.path.display()) } else { String::new() };
            (*step < steps).then(|| format!("{which}the checkpoint is from step {step} of {steps}{best}"))
        })
    }

    /// What the files say of how they were made; of several runs, an entry each.
    pub fn notes(&self, settings: &Settings) -> Vec<(String, String)> {
        let each = |text: &dyn Fn(&Run) -> String| self.iter().map(text).collect::<Vec<_>>().join(", ");
        let mut notes = vec![
            ("checkpoint".into(), each(&|run| run.checkpoint.display().to_string())),
            ("step".into(), each(&|run| run.trained.header.step.to_string())),
            ("seed".into(), settings.seed.to_string()),
            ("trained_split".into(), each(&|run| run.trained.header.split.clone())),
        ];
        let mut tables: Vec<String> = Vec::new();
        let own =
            self.iter().filter_map(|run| run.trained.header.features.as_ref()).map(|id| id.name.clone());
        for name in own.chain(settings.features.as_deref().map(name_of)) {
            if !tables.contains(&name) {
                tables.push(name);
            }
        }
        if !tables.is_empty() {
            notes.push(("perturbation_features".into(), tables.join(", ")));
        }
        notes
    }
}

/// Which of several runs a message is about.
fn which(settings: &Settings, run: &Path) -> String {
    match settings.runs.len() {
        1 => String::new(),
        _ => format!(" ({})", run.display()),
    }
}
