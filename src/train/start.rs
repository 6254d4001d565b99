//! Where a run starts: measured anew, from another run, or from its own last checkpoint. Read once per process, whatever its number
//! of ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::first::First;
use super::learner::{self, InitialWeights};
use super::writer::claim;
use super::{Begin, Settings};
use crate::aside;
use crate::checkpoint::{self, Best, Checkpoint, Described, Frame, Header, Origin, vocabulary};
use crate::collective::Ranks;
use crate::config::{Config, Observe};
use crate::data::effects::Effects;
use crate::data::observe::UNTOLD_TOTAL;
use crate::data::shard::{Data, Manifest};
use crate::data::split::{Part, Split};
use crate::error::{At, Error, Result};
use crate::folder;
use crate::gpu::Gpu;
use crate::model::Statistics;
use crate::progress::{Event, Reporter};

/// What every rank starts from.
#[derive(Clone)]
pub struct Start {
    pub config: Config,
    pub data: Arc<Data>,
    pub split: Arc<Split>,
    pub effects: Arc<Effects>,
    pub statistics: Statistics,
    pub weights: InitialWeights,
    /// As in a checkpoint's header, like `init_from`.
    pub untrained: Vec<String>,
    pub init_from: Option<Origin>,
    pub step: u64,
    pub best: Option<Best>,
    pub out: PathBuf,
    /// Held by the process that writes, so that no other does.
    pub claim: Option<Arc<fs::File>>,
    pub reporter: Reporter,
}

const HOLDS_A_RUN: &str = "already contains a run; continue it with --resume, or choose another folder";

impl Start {
    /// Opens data and split; a new run's folder is made by the rank that writes.
    pub fn of(settings: &Settings) -> Result<Start> {
        let data = Arc::new(Data::open(&settings.data)?);
        let split = Arc::new(Split::load(&settings.split, &data)?);
        if settings.is_first() {
            split.warnings.iter().for_each(|warning| settings.reporter.tell(Event::Warning(warning)));
        }
        match &settings.begin {
            Begin::Anew { config, init_from } => {
                Start::new(config, init_from.as_deref(), data, split, settings)
            }
            &Begin::Resume { steps, shard } => Start::resume(steps, shard, data, split, settings),
        }
    }

    /// A new run, with statistics and mean effects. Refuses a folder that already holds a run.
    fn new(
        config: &Config,
        init_from: Option<&Path>,
        data: Arc<Data>,
        split: Arc<Split>,
        settings: &Settings,
    ) -> Result<Start> {
        config.validate()?;
        if split.usable(&data).groups.is_empty() {
            let what = "its training part has no usable perturbed cells, so there is nothing to learn from";
            return Err(Error::format(&settings.split, what));
        }
        settings.has_memory_for(config, data.manifest())?;
        let inherited = init_from.map(|run| First::of_run(run, config, &data, &split)).transpose()?;
        let claim = match settings.is_first() {
            true => make_folder(config, settings)?,
            false => None,
        };
        let draws_counts = config.predict.observe == Observe::Poisson;
        if settings.is_first() && draws_counts && data.manifest().target.is_none() {
            settings.reporter.note(format_args!("predict will write decoded means: {UNTOLD_TOTAL}"));
        }
        let First { weights, statistics, untrained, init_from, note } =
            inherited.unwrap_or_else(|| First::drawn(&data, &split));
        if let Some(note) = note.filter(|_| settings.is_first()) {
            settings.reporter.note(note);
        }
        let effects = match config.wants_shift() {
            true => Effects::measure(&data, split.part(Part::Train)),
            false => Effects::default(),
        };
        Ok(Start {
            config: config.clone(),
            data,
            split,
            effects: Arc::new(effects),
            statistics,
            weights,
            untrained,
            init_from,
            step: 0,
            best: None,
            out: settings.out.clone(),
            claim,
            reporter: settings.reporter.clone(),
        })
    }

    /// The run as its last checkpoint left it.
    fn resume(
        steps: Option<u64>,
        shard: Option<bool>,
        data: Arc<Data>,
        split: Arc<Split>,
        settings: &Settings,
    ) -> Result<Start> {
        let path = checkpoint::named(&settings.out, "last");
        if !path.exists() && settings.out.is_dir() {
            let what = "has no checkpoints/last.safetensors to continue from";
            let way = other_way(&settings.out).unwrap_or("; start again without --resume".into());
            return Err(Error::format(&settings.out, format!("{what}{way}")));
        }
        let claim = match settings.is_first() && path.exists() {
            true => claim(&checkpoint::folder(&settings.out))?.map(Arc::new),
            false => None,
        };
        // Before the weights are read; what cannot be described says so below.
        if let Ok(Described { header, .. }) = Checkpoint::describe(&path) {
            let way = "; resume on a GPU, or on a machine with more memory";
            settings.has_memory_for(&header.config, data.manifest()).map_err(|error| error.with_way(way))?;
        }
        let with_way = |error: Error| error.with_way(&other_way(&settings.out).unwrap_or_default());
        let Checkpoint { frame: Frame { mut header, statistics, effects }, flats } =
            Checkpoint::load(&path).map_err(with_way)?;
        header.goes_on_with(&path, data.manifest(), &split.hash, settings)?;
        header.has_steps_for(steps)?;
        if settings.is_first() {
            header.tell_changes(data.manifest(), settings);
        }
        // Older checkpoints do not list them.
        let untrained = match header.init_from {
            Some(_) => header.untrained,
            None => split.untrained(&data),
        };
        if let Some(steps) = steps {
            header.config.train.steps = steps;
            if settings.is_first() {
                set_best_aside(settings, steps)?;
            }
        }
        if let Some(shard) = shard {
            header.config.optim.shard = shard;
        }
        Ok(Start {
            config: header.config,
            data,
            split,
            effects,
            statistics,
            weights: InitialWeights::Resumed(flats),
            untrained,
            init_from: header.init_from,
            step: header.step,
            best: header.best,
            out: settings.out.clone(),
            claim,
            reporter: settings.reporter.clone(),
        })
    }

    /// Fails, on every rank, unless all are about to do the same; names what differs.
    pub fn agree(&self, ranks: &Ranks, gpu: Option<&Gpu>) -> Result<()> {
        let hash = |text: &str| u64::from(crc32fast::hash(text.as_bytes()));
        let fields = self.config.fields();
        let names: String = fields.iter().map(|(name, _)| name.as_str()).collect();
        // First: another build of the program may have other fields in its config.
        ranks.agree(&[
            ("program", hash(aside::PROGRAM)),
            ("config's fields", hash(&names)),
            ("split", hash(&self.split.hash)),
            ("data", hash(&self.data.manifest().to_json())),
            ("first step", self.step),
            // Catches a rank without a GPU among ranks that have one, or one of another precision.
            ("device or precision", gpu.map_or(0, |gpu| gpu.real().bytes() as u64)),
        ])?;
        let fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (format!("config's {name}"), hash(&value))).collect();
        ranks.agree(&fields)
    }
}

/// What to do if `last` cannot be continued from: the newest of the run's other checkpoints that can, if any.
fn other_way(out: &Path) -> Option<String> {
    let entries = folder::paths_in(&checkpoint::folder(out)).ok()?;
    let told = |path: &PathBuf| Some((Checkpoint::describe(path).ok()?.header.step, path.clone()));
    let mut others: Vec<(u64, PathBuf)> = entries.iter().filter_map(told).collect();
    others.sort();
    // Each is read whole, and there may be many.
    let (step, path) = others.into_iter().rev().find(|(_, path)| Checkpoint::check(path).is_ok())?;
    let name = path.file_name()?.to_string_lossy();
    Some(format!("; to continue from another checkpoint, copy {name} (step {step}) to last.safetensors"))
}

/// Gives the best checkpoint the name of its step if the run will not reach that step again: it would be taken for this run's.
fn set_best_aside(settings: &Settings, steps: u64) -> Result<()> {
    let best = checkpoint::named(&settings.out, "best");
    let Ok(Described { header, .. }) = Checkpoint::describe(&best) else { return Ok(()) };
    if header.step <= steps {
        return Ok(());
    }
    let aside = checkpoint::named(&settings.out, &format!("step-{}", header.step));
    settings.reporter.note(format_args!(
        "{} is of step {}, beyond --steps: now {}",
        best.display(),
        header.step,
        aside.display()
    ));
    fs::rename(&best, &aside).at(&best)
}

/// A new run's folder, claimed, with its config and split file.
fn make_folder(config: &Config, settings: &Settings) -> Result<Option<Arc<fs::File>>> {
    let out = settings.out.as_path();
    if out.join("manifest.json").exists() {
        return Err(Error::format(out, "is a data directory; choose another folder for the run"));
    }
    let is_free = || match checkpoint::named(out, "last").exists() {
        true => Err(Error::format(out, HOLDS_A_RUN)),
        false => Ok(()),
    };
    is_free()?;
    let folder = checkpoint::folder(out);
    let claim = claim(&folder)?.map(Arc::new);
    is_free()?; // another process may have made it a run's meanwhile
    // A run that ended before its first checkpoint leaves the folder free; a `best` without a `last` does not.
    if fs::read_dir(&folder).at(&folder)?.next().is_some() {
        let way = other_way(out).map_or(String::new(), |way| format!("{way} and use --resume"));
        let what =
            "contains files, but no last.safetensors to continue from; move them, or choose another folder";
        return Err(Error::format(&folder, format!("{what}{way}")));
    }
    keep_config(out, config)?;
    let split = &settings.split;
    aside::file(&out.join("split.toml"), |aside| fs::copy(split, aside).map(drop).at(split))?;
    Ok(claim)
}

impl Settings {
    /// Refuses a model and batch that this machine's memory cannot hold.
    fn has_memory_for(&self, config: &Config, data: &Manifest) -> Result<()> {
        let on_gpu = self.places.iter().all(Option::is_some);
        let here = config.data.sets / self.launch.as_ref().map_or(1, |launch| launch.ranks);
        learner::fits(config, &vocabulary(data), data.genes.len(), here, on_gpu)
    }
}

impl Header {
    /// Refuses to resume with other data or another split file. `path` is the checkpoint.
    fn goes_on_with(&self, path: &Path, here: &Manifest, split: &str, settings: &Settings) -> Result<()> {
        if let Some(what) = self.data.other_numbers(here).or_else(|| self.data.other_ids(here)) {
            let what = format!("is not what {} was trained on: {what}", path.display());
            return Err(Error::format(&settings.data, what));
        }
        if self.split != split {
            let what = format!(
                "was trained with another split file, with SHA-256 {}, but {} has {split}; the run's own is {}",
                self.split,
                settings.split.display(),
                settings.out.join("split.toml").display()
            );
            return Err(Error::format(path, what));
        }
        Ok(())
    }

    /// Refuses fewer steps than are already done.
    fn has_steps_for(&self, steps: Option<u64>) -> Result<()> {
        match steps.filter(|&steps| steps < self.step) {
            Some(steps) => {
                let what = format!("{steps} is below the {} steps already done", self.step);
                Err(Error::setting("--steps", what))
            }
            None => Ok(()),
        }
    }

    /// Notes what has changed since the run began and does not matter.
    fn tell_changes(&self, here: &Manifest, settings: &Settings) {
        if self.data != *here {
            settings.reporter.note(format_args!(
                "the run was started on other cells than those in {}",
                settings.data.display()
            ));
        }
        if !is_config_of(&settings.out, &self.config) {
            let file = settings.out.join("config.toml");
            settings.reporter.note(format_args!(
                "{} is no longer the run's own config, so it is ignored; the checkpoint keeps the run's own, which is used",
                file.display()
            ));
        }
    }
}

/// Updates steps and `optim.shard` in a resumed run's config.toml, unless somebody else has edited the file.
pub fn renew_config(out: &Path, config: &Config) -> Result<()> {
    let path = out.join("config.toml");
    let told =
        fs::read_to_string(&path).ok().and_then(|text| Some((Config::from_toml(&text, &path).ok()?, text)));
    match told.is_some_and(|(told, text)| told.to_toml() == text && told != *config) {
        true if is_config_of(out, config) => keep_config(out, config),
        _ => Ok(()),
    }
}

fn keep_config(out: &Path, config: &Config) -> Result<()> {
    aside::file(&out.join("config.toml"), |aside| fs::write(aside, config.to_toml()).at(aside))
}

/// Whether the folder's config.toml, if present, is still that of the run to resume; steps and `optim.shard` may differ.
fn is_config_of(run: &Path, config: &Config) -> bool {
    let path = run.join("config.toml");
    let Ok(text) = fs::read_to_string(&path) else { return true };
    Config::from_toml(&text, &path).is_ok_and(|mut told| {
        (told.train.steps, told.optim.shard) = (config.train.steps, config.optim.shard);
        told == *config
    })
}
