//! Where a run starts: measured anew, from another run, or from its own last checkpoint. Read once per process, whatever its number
//! of ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::learner::{self, InitialWeights};
use super::new_run::{NewRun, unseen_types};
use super::writer::claim;
use super::{Begin, Place, Settings};
use crate::aside;
use crate::checkpoint::{Checkpoint, Described, Header, RunState, vocabulary};
use crate::collective::Ranks;
use crate::config::{Config, Conversion, FlowConfig};
use crate::data::features::{FeatureTable, Features};
use crate::data::observe::UNTOLD_TOTAL;
use crate::data::sampler::sets_per_rank;
use crate::data::shard::{Data, Manifest, Same};
use crate::data::split::Split;
use crate::error::{At, Error, Result};
use crate::folder;
use crate::gpu::Gpu;
use crate::optim::learning_rate;
use crate::progress::{Event, Progress};
use crate::run_folder::RunFolder;

/// What every rank starts from.
#[derive(Clone)]
pub struct Prepared {
    /// The run as its last checkpoint left it, or before its first step.
    pub state: RunState,
    pub weights: InitialWeights,
    /// Whether a resumed run's steps or `optim.shard` differ from those in its last checkpoint.
    pub changed: bool,
    pub data: Arc<Data>,
    pub split: Arc<Split>,
    pub folder: RunFolder,
    /// Held by the process that writes, so that no other does.
    pub claim: Option<Arc<fs::File>>,
    pub progress: Progress,
}

const HOLDS_A_RUN: &str =
    "already contains a run; continue it with `Begin::Resume`, or choose another folder";

impl Prepared {
    /// Opens data and split; a new run's folder is made by the rank that writes.
    pub fn of(settings: &Settings, progress: &Progress) -> Result<Prepared> {
        let data = Arc::new(Data::open(&settings.data)?);
        let split = Arc::new(Split::load(&settings.split, &data)?);
        let teller = settings.teller(progress);
        split.warnings.iter().for_each(|warning| teller.tell(Event::Warning(warning)));
        match &settings.begin {
            Begin::Anew { config, init_from, features } => Prepared::new(
                config,
                init_from.as_deref(),
                features.as_deref(),
                data,
                split,
                settings,
                progress,
            ),
            &Begin::Resume { steps, shard } => {
                Prepared::resume(steps, shard, data, split, settings, progress)
            }
        }
    }

    /// A new run, with statistics and mean effects. Refuses a folder that already holds a run.
    fn new(
        config: &Config,
        init_from: Option<&Path>,
        features: Option<&Path>,
        data: Arc<Data>,
        split: Arc<Split>,
        settings: &Settings,
        progress: &Progress,
    ) -> Result<Prepared> {
        match init_from {
            None => config.validate()?,
            // It may be that of the other run, with its names.
            Some(_) => config.can_run()?,
        }
        if split.usable(&data).groups.is_empty() {
            let what = "its training part has no usable perturbed cells, so there is nothing to learn from";
            return Err(Error::format(&settings.split, what));
        }
        sets_per_rank(config.data.sets, settings.place.ranks())?;
        let table = features.map(|path| table(path, config)).transpose()?;
        let described = |table| Features::of(table, data.manifest(), &split.untrained(&data));
        let features = table.as_ref().map(described).transpose()?;
        settings.has_memory_for(config, data.manifest(), features.as_ref())?;
        let of_run = |run| NewRun::of_run(run, config, table.as_ref().zip(features.clone()), &data, &split);
        let inherited = init_from.map(of_run).transpose()?;
        let claim = match settings.is_first() {
            true => make_folder(config, settings)?,
            false => None,
        };
        let teller = settings.teller(progress);
        let notes = same_loss(config).map(String::from).into_iter();
        let notes = notes.chain(features.as_ref().and_then(Features::constant));
        let notes = notes.chain(unseen_types(config, &data, &split));
        notes.for_each(|note| teller.note(note));
        // Reads all training cells: only once the folder is known to be free.
        let first = inherited.unwrap_or_else(|| NewRun::drawn(config, features, &data, &split));
        first.note.iter().for_each(|note| teller.note(note));
        let (state, weights) = first.state(config, &data, &split);
        if state.header.observe() != config.predict.observe {
            teller.note(format_args!("predict will write decoded means: {UNTOLD_TOTAL}"));
        }
        let (folder, progress) = (settings.folder(), progress.clone());
        Ok(Prepared { state, weights, changed: false, data, split, folder, claim, progress })
    }

    /// The run as its last checkpoint left it.
    fn resume(
        steps: Option<u64>,
        shard: Option<bool>,
        data: Arc<Data>,
        split: Arc<Split>,
        settings: &Settings,
        progress: &Progress,
    ) -> Result<Prepared> {
        let folder = settings.folder();
        let path = folder.last();
        if !path.exists() {
            let what = "has no checkpoints/last.safetensors to continue from";
            let way = other_way(&folder).unwrap_or("; start again without `Begin::Resume`".into());
            return Err(Error::format(&settings.out, format!("{what}{way}")));
        }
        let claim = match settings.is_first() {
            true => claim(&folder.checkpoints())?.map(Arc::new),
            false => None,
        };
        // Checked before the weights are read; a checkpoint that cannot be described is reported below.
        if let Ok(Described { header, .. }) = Checkpoint::describe(&path) {
            sets_per_rank(header.config.data.sets, settings.place.ranks())?;
            let way = "; resume on a GPU, or on a machine with more memory";
            // Features are read below; what they add to the weights is small.
            settings
                .has_memory_for(&header.config, data.manifest(), None)
                .map_err(|error| error.followed_by(way))?;
        }
        let with_other = |error: Error| match other_way(&folder) {
            Some(way) => error.followed_by(&way),
            None => error,
        };
        let Checkpoint { mut state, flats } = Checkpoint::load(&path).map_err(with_other)?;
        let header = &mut state.header;
        header.goes_on_with(&path, data.manifest(), &split.hash, settings)?;
        header.has_steps_for(steps)?;
        if settings.is_first() {
            progress.note(format_args!("continues after step {}", header.step));
            header.tell_changes(data.manifest(), settings, progress);
        }
        header.data = data.manifest().clone();
        if header.init_from.is_none() {
            // Older checkpoints do not list them.
            header.untrained = split.untrained(&data);
        }
        let own = header.config.clone();
        header.config.train.steps = steps.unwrap_or(own.train.steps);
        header.config.optim.shard = shard.unwrap_or(own.optim.shard);
        if header.config.train.steps != own.train.steps && settings.is_first() {
            set_best_aside(settings, header, progress)?;
            header.tell_rate(&own, progress);
        }
        let changed = header.config != own;
        let (weights, progress) = (InitialWeights::Resumed(flats), progress.clone());
        Ok(Prepared { state, weights, changed, data, split, folder, claim, progress })
    }

    /// Fails, on every rank, unless all are about to do the same; names what differs.
    pub fn agree(&self, ranks: &Ranks, gpu: Option<&Gpu>) -> Result<()> {
        let hash = |text: &str| u64::from(crc32fast::hash(text.as_bytes()));
        let header = &self.state.header;
        let fields = header.config.fields();
        let names: String = fields.iter().map(|(name, _)| name.as_str()).collect();
        // First: another build of the program may have other fields in its config.
        ranks.agree(&[
            ("program", hash(crate::PROGRAM)),
            ("config's fields", hash(&names)),
            ("split", hash(&header.split)),
            ("data", hash(&header.data.to_json())),
            ("first step", header.step),
            ("perturbation features", header.features.as_ref().map_or(0, |id| id.crc.into())),
            // Catches a rank without a GPU among ranks that have one, or one of another precision.
            ("device or precision", gpu.map_or(0, |gpu| gpu.real().bytes() as u64)),
        ])?;
        let fields: Vec<_> =
            fields.into_iter().map(|(name, value)| (format!("config's {name}"), hash(&value))).collect();
        ranks.agree(&fields)
    }
}

/// A table of features, for a start that new perturbations have.
fn table(path: &Path, config: &Config) -> Result<FeatureTable> {
    match config.wants_shift() {
        true => {
            let what = "shifted starts from a perturbation's effect in other cell types, and a new perturbation has none; use \
                        flow.start=control with `features`";
            Err(Error::setting("flow.start", what))
        }
        false => FeatureTable::read(path),
    }
}

/// A note if the loss is asked for in another space than the prediction's but is the same there.
fn same_loss(config: &Config) -> Option<&'static str> {
    let FlowConfig { prediction, loss, conversion, .. } = config.flow;
    (prediction != loss && conversion == Conversion::Displacement).then_some(
        "with flow.conversion=displacement flow.loss changes nothing: the paper's four variants need flow.conversion=jit",
    )
}

/// What to do if `last` cannot be continued from: the newest of the run's other checkpoints that can, if any.
fn other_way(run: &RunFolder) -> Option<String> {
    let entries = folder::paths_in(&run.checkpoints()).ok()?;
    let told = |path: &PathBuf| Some((Checkpoint::describe(path).ok()?.header.step, path.clone()));
    let mut others: Vec<(u64, PathBuf)> = entries.iter().filter_map(told).collect();
    others.sort();
    // Newest first: a check reads a file whole, and there may be many.
    let (step, path) = others.into_iter().rev().find(|(_, path)| Checkpoint::check(path).is_ok())?;
    let name = path.file_name()?.to_string_lossy();
    let how = "with cp --remove-destination (checkpoints may be hard links to one file)";
    Some(format!(
        "; to continue from another checkpoint, copy {name} (step {step}) to last.safetensors, {how}"
    ))
}

/// Renames `best` to `step-N` if it was written after the step from which the run resumes with a different number of steps: it
/// belongs to a course that the run no longer takes. The header's own `best` is forgotten too: its file was replaced when the later
/// one was written.
fn set_best_aside(settings: &Settings, header: &mut Header, progress: &Progress) -> Result<()> {
    let folder = settings.folder();
    let best = folder.best();
    let Ok(Described { header: Header { step, .. }, .. }) = Checkpoint::describe(&best) else {
        return Ok(());
    };
    if step <= header.step {
        return Ok(());
    }
    header.best = None;
    let aside = folder.checkpoint(&format!("step-{step}"));
    progress.note(format_args!(
        "{} is from step {step}, but the run continues from step {} with another number of steps: it is now {}",
        best.display(),
        header.step,
        aside.display()
    ));
    fs::rename(&best, &aside).at(&best)?;
    // If both were names of one file, the renaming did nothing.
    match best.exists() {
        true => fs::remove_file(&best).at(&best),
        false => Ok(()),
    }
}

/// A new run's folder, claimed, with its config and split file.
fn make_folder(config: &Config, settings: &Settings) -> Result<Option<Arc<fs::File>>> {
    let (out, folder) = (&settings.out, settings.folder());
    if Data::is_at(out) {
        return Err(Error::format(out, "is a data directory; choose another folder for the run"));
    }
    let is_free = || match folder.last().exists() {
        true => Err(Error::format(out, HOLDS_A_RUN)),
        false => Ok(()),
    };
    is_free()?;
    let checkpoints = folder.checkpoints();
    let claim = claim(&checkpoints)?.map(Arc::new);
    is_free()?; // another process may have made it a run's meanwhile
    // A run that ended before its first checkpoint leaves the folder free; a `best` without a `last` does not.
    if fs::read_dir(&checkpoints).at(&checkpoints)?.next().is_some() {
        let way = other_way(&folder).map_or(String::new(), |way| format!("{way} and use `Begin::Resume`"));
        let what =
            "contains files, but no last.safetensors to continue from; move them, or choose another folder";
        return Err(Error::format(&checkpoints, format!("{what}{way}")));
    }
    keep_config(&folder, config)?;
    let split = &settings.split;
    aside::file(&folder.split(), |aside| fs::copy(split, aside).map(drop).at(split))?;
    Ok(claim)
}

impl Settings {
    fn folder(&self) -> RunFolder {
        RunFolder::at(&self.out)
    }

    /// Refuses a model and batch that this machine's memory cannot hold.
    fn has_memory_for(&self, config: &Config, data: &Manifest, features: Option<&Features>) -> Result<()> {
        let (on_gpu, here) = match &self.place {
            Place::Here(places) => (places.iter().all(Option::is_some), [places.len(), config.data.sets]),
            Place::Launched(launch, gpu) => (gpu.is_some(), [1, config.data.sets / launch.ranks]),
        };
        learner::check_memory(config, &vocabulary(data, features), data.genes.len(), here, on_gpu)
    }
}

impl Header {
    /// Refuses to resume with other data or another split file. `path` is the checkpoint.
    fn goes_on_with(&self, path: &Path, here: &Manifest, split: &str, settings: &Settings) -> Result<()> {
        let found = self.data.difference(here, Same::Numbers);
        if let Some(found) = found.or_else(|| self.data.difference(here, Same::Ids)) {
            let what = found.told("in the run", "here");
            let what = format!("is not what {} was trained on: {what}", path.display());
            return Err(Error::format(&settings.data, what));
        }
        if self.split != split {
            let what = format!(
                "was trained with another split file, with SHA-256 {}, but {} has {split}; the run's own is {}",
                self.split,
                settings.split.display(),
                settings.folder().split().display()
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
                Err(Error::setting("steps", what))
            }
            None => Ok(()),
        }
    }

    /// Notes how another number of steps than that of `own` changes the learning rate, whose schedule spans all steps.
    fn tell_rate(&self, own: &Config, progress: &Progress) {
        let Config { optim, train, .. } = &self.config;
        if self.step == 0 || self.step == train.steps {
            return;
        }
        let before = learning_rate(optim, self.step - 1, own.train.steps);
        let after = learning_rate(optim, self.step, train.steps);
        progress.note(format_args!(
            "the learning rate's schedule now ends at step {}: after step {} the rate goes from {before:.1e} to {after:.1e}",
            train.steps, self.step
        ));
    }

    /// Notes what has changed since the run began and does not matter.
    fn tell_changes(&self, here: &Manifest, settings: &Settings, progress: &Progress) {
        if self.data != *here {
            progress.note(format_args!(
                "the run was started on other cells than those in {}",
                settings.data.display()
            ));
        }
        let folder = settings.folder();
        if !is_config_of(&folder, &self.config) {
            progress.note(format_args!(
                "{} is no longer the run's own config, so it is ignored; the checkpoint keeps the run's own, which is used",
                folder.config().display()
            ));
        }
    }
}

/// Updates steps and `optim.shard` in a resumed run's config.toml, unless somebody else has edited the file.
pub fn renew_config(run: &RunFolder, config: &Config) -> Result<()> {
    let path = run.config();
    let told =
        fs::read_to_string(&path).ok().and_then(|text| Some((Config::from_toml(&text, &path).ok()?, text)));
    match told.is_some_and(|(told, text)| told.to_toml() == text && told != *config) {
        true if is_config_of(run, config) => keep_config(run, config),
        _ => Ok(()),
    }
}

fn keep_config(run: &RunFolder, config: &Config) -> Result<()> {
    aside::whole(&run.config(), config.to_toml())
}

/// Whether the folder's config.toml, if present, is still that of the run to resume; steps and `optim.shard` may differ.
fn is_config_of(run: &RunFolder, config: &Config) -> bool {
    let path = run.config();
    let Ok(text) = fs::read_to_string(&path) else { return true };
    Config::from_toml(&text, &path).is_ok_and(|mut told| {
        (told.train.steps, told.optim.shard) = (config.train.steps, config.optim.shard);
        told == *config
    })
}
