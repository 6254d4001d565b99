//! The runs that predict: one, or several whose predictions are averaged.

use std::path::PathBuf;

use super::Settings;
use crate::checkpoint::{Header, Trained};
use crate::config::Observe;
use crate::data::features::FeatureTable;
use crate::data::observe::UNTOLD_TOTAL;
use crate::data::shard::{Manifest, Same};
use crate::error::{Error, Result};
use crate::folder::name_of;
use crate::gpu::Gpu;
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
    /// CRC-32 of its weights.
    weights: u32,
}

/// The checkpoint that each run means.
pub fn checkpoints(runs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    if runs.is_empty() {
        return Err(Error::setting("runs", "give one run, or several to be averaged"));
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
        settings.gpu.as_ref().map_or(Ok(()), Gpu::must_compute)?;
        let table = settings.features.as_deref().map(FeatureTable::read).transpose()?;
        let mut runs = Runs(Vec::new());
        for (path, checkpoint) in settings.runs.iter().zip(checkpoints) {
            progress.go_on(super::UNBEGUN)?;
            let mut trained = Trained::load(&checkpoint)?;
            if let Some(table) = &table {
                trained = trained.knowing(table).map_err(|error| match settings.runs.len() {
                    1 => error,
                    _ => error.followed_by(&format!(" ({})", path.display())),
                })?;
            }
            let weights = match settings.runs.len() {
                1 => 0, // nothing to tell it from
                _ => crc32fast::hash(bytemuck::cast_slice(trained.params.read().data())),
            };
            runs.admit(&trained.header, weights).map_err(|what| Error::format(path, what))?;
            if let Some(gpu) = &settings.gpu {
                trained = trained.to_gpu(gpu);
            }
            runs.0.push(Run { path: path.clone(), checkpoint, trained, weights });
        }
        Ok(runs)
    }

    /// Whether a run with these weights can be averaged with those that are here; the error says why not.
    fn admit(&self, header: &Header, weights: u32) -> std::result::Result<(), String> {
        let Some(first) = self.0.first() else { return Ok(()) };
        if let Some(found) = first.trained.header.data.difference(&header.data, Same::All) {
            let what = found.told("there", "here");
            return Err(format!("cannot be averaged with {}: {what}", first.path.display()));
        }
        // A copy, or the same training once more: it would only hide how far runs differ.
        match self.iter().find(|run| run.weights == weights) {
            None => Ok(()),
            Some(same) => {
                Err(format!("has the weights of {}; average runs of different seeds", same.path.display()))
            }
        }
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

    /// The run that knows only the name of this perturbation, on which it was not trained, if one does.
    pub fn untrained_on(&self, perturbation: &str) -> Option<&Run> {
        self.iter().find(|run| run.trained.knows_only_name(perturbation))
    }

    /// What `of` says about the runs, each line with its run's name unless there is one run or all say the same.
    pub fn say(&self, of: impl Fn(&Run) -> Vec<String>) -> Vec<String> {
        let each: Vec<Vec<String>> = self.iter().map(of).collect();
        if each.iter().all(|said| *said == each[0]) {
            return each.into_iter().next().unwrap_or_default();
        }
        let named = |(run, said): (&Run, Vec<String>)| {
            let name = run.path.display().to_string();
            said.into_iter().map(move |what| format!("{name}: {what}"))
        };
        self.iter().zip(each).flat_map(named).collect()
    }

    /// The runs' own `predict.observe`, or none if their data do not record the total to which counts are scaled.
    pub fn observe(&self, notes: &mut Vec<String>) -> Result<Observe> {
        let own = |run: &Run| run.trained.header.observe();
        if self.iter().any(|run| own(run) != run.trained.header.config.predict.observe) {
            notes.push(format!("predicted means are written, as with `observe = none`: {UNTOLD_TOTAL}"));
        }
        let first = own(self.first());
        match self.iter().find(|run| own(run) != first) {
            None => Ok(first),
            Some(other) => {
                let [a, b] = [self.first(), other].map(|run| run.path.display());
                let what = format!(
                    "is {} in the config of {a}, {} in that of {b}; choose one",
                    first.name(),
                    own(other).name()
                );
                Err(Error::setting("observe", what))
            }
        }
    }

    /// What the user should know about checkpoints that are not their runs' last.
    pub fn unfinished(&self) -> Vec<String> {
        self.say(|run| {
            let Header { step, best, config, .. } = &run.trained.header;
            let steps = config.train.steps;
            let best = if best.is_some_and(|best| best.step == *step) { ", the best so far" } else { "" };
            let said = format!("the checkpoint is from step {step} of {steps}{best}");
            if *step < steps { vec![said] } else { Vec::new() }
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
