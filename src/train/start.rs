//! Where a run starts: measured anew, or as its last checkpoint left it. Read once a process, whatever the number of its ranks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Settings;
use super::learner;
use super::writer::claim;
use crate::checkpoint::{Checkpoint, Frame, vocabulary};
use crate::config::{Config, Observe};
use crate::data::controls::control_pool;
use crate::data::effects::Effects;
use crate::data::observe::UNTOLD_TOTAL;
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{At, Error, Result};
use crate::gpu::Gpu;
use crate::model::Statistics;
use crate::tensor::Tensor;

/// What every rank starts from.
#[derive(Clone)]
pub struct Start {
    pub config: Config,
    pub data: Arc<Data>,
    pub split: Arc<Split>,
    pub effects: Arc<Effects>,
    pub statistics: Statistics,
    /// Weights, averaged weights and both moments of a run that goes on.
    pub numbers: Option<[Tensor; 4]>,
    pub step: u64,
    pub best: Option<(f64, u64)>,
    pub out: PathBuf,
    /// Held by the process that writes, so that no other does.
    pub claim: Option<Arc<fs::File>>,
}

const HOLDS_A_RUN: &str = "holds a run already; go on with it by --resume, or name another folder";

impl Start {
    /// Opens data and split; a new run's folder is made by the rank that writes.
    pub fn of(settings: &Settings) -> Result<Start> {
        let data = Arc::new(Data::open(&settings.data)?);
        let split = Arc::new(Split::load(&settings.split, &data)?);
        if settings.is_first() {
            split.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
        }
        match &settings.config {
            Some(config) => Start::new(config, data, split, settings),
            None => Start::resume(data, split, settings),
        }
    }

    /// A new run: statistics, mean effects. Refuses a folder that holds one already.
    fn new(config: &Config, data: Arc<Data>, split: Arc<Split>, settings: &Settings) -> Result<Start> {
        let out = settings.out.as_path();
        let usable = |group: u32| control_pool(&data, group).is_some();
        if !split.perturbed(Part::Train, &data).into_iter().any(usable) {
            let what =
                "its training part holds no perturbed cells that can be used: there is nothing to learn from";
            return Err(Error::format(&settings.split, what));
        }
        let on_gpu = settings.places.iter().all(Option::is_some);
        let (sizes, genes) = (vocabulary(data.manifest()), data.manifest().genes.len());
        let here = config.data.sets / settings.launch.as_ref().map_or(1, |launch| launch.ranks);
        learner::fits(config, &sizes, genes, here, on_gpu)?;
        let mut claimed = None;
        if settings.is_first() {
            if out.join("manifest.json").exists() {
                return Err(Error::format(out, "is a data directory; name another folder for the run"));
            }
            if last_of(out).exists() {
                return Err(Error::format(out, HOLDS_A_RUN));
            }
            let folder = out.join("checkpoints");
            claimed = claim(&folder)?.map(Arc::new);
            // Another process may have made it until now.
            if last_of(out).exists() {
                return Err(Error::format(out, HOLDS_A_RUN));
            }
            // One that ended before its first checkpoint leaves the folder free, a `best` without a `last` does not.
            if fs::read_dir(&folder).at(&folder)?.next().is_some() {
                let what =
                    "holds files, but no last.safetensors to go on with; move them, or name another folder";
                return Err(Error::format(&folder, what));
            }
            let path = out.join("config.toml");
            crate::aside::file(&path, |aside| fs::write(aside, config.to_toml()).at(aside))?;
            let path = out.join("split.toml");
            crate::aside::file(&path, |aside| {
                fs::copy(&settings.split, aside).map(drop).at(&settings.split)
            })?;
        }
        if settings.is_first()
            && config.predict.observe == Observe::Poisson
            && data.manifest().target.is_none()
        {
            eprintln!("note: predict will write decoded means: {UNTOLD_TOTAL}");
        }
        let moments = data.training_moments(split.part(Part::Train));
        let effects = match config.wants_shift() {
            true => Effects::measure(&data, split.part(Part::Train)),
            false => Effects::default(),
        };
        Ok(Start {
            config: config.clone(),
            data,
            split,
            effects: Arc::new(effects),
            statistics: Statistics { mean: moments.mean, std: moments.std },
            numbers: None,
            step: 0,
            best: None,
            out: out.into(),
            claim: claimed,
        })
    }

    /// The run as its last checkpoint left it.
    fn resume(data: Arc<Data>, split: Arc<Split>, settings: &Settings) -> Result<Start> {
        let path = last_of(&settings.out);
        if !path.exists() && settings.out.is_dir() {
            let what = "holds no checkpoints/last.safetensors to go on with; begin anew, without --resume";
            return Err(Error::format(&settings.out, what));
        }
        let claimed = match settings.is_first() && path.exists() {
            true => claim(&settings.out.join("checkpoints"))?.map(Arc::new),
            false => None,
        };
        let Checkpoint { frame: Frame { mut header, statistics, effects }, flats } = Checkpoint::load(&path)?;
        let (known, here) = (&header.data, data.manifest());
        if let Some(what) = known.other_numbers(here).or_else(|| known.other_ids(here)) {
            let what = format!("is not what {} was trained on: {what}", path.display());
            return Err(Error::format(&settings.data, what));
        }
        if header.split != split.hash {
            let what = format!(
                "was trained with another split file, of SHA-256 {}, and {} has {}; the run's own is {}",
                header.split,
                settings.split.display(),
                split.hash,
                settings.out.join("split.toml").display()
            );
            return Err(Error::format(&path, what));
        }
        if settings.is_first() && header.data != *data.manifest() {
            eprintln!("note: the run began on other cells than those of {}", settings.data.display());
        }
        if settings.is_first() && !is_config_of(&settings.out, &header.config) {
            let file = settings.out.join("config.toml");
            eprintln!(
                "note: {} is not the run's own config any more, which the checkpoint keeps; it is not read",
                file.display()
            );
        }
        if let Some(steps) = settings.steps {
            let done = header.step;
            if steps < done {
                return Err(Error::setting(
                    "--steps",
                    format!("{steps} is below the {done} steps already done"),
                ));
            }
            header.config.train.steps = steps;
        }
        if let Some(shard) = settings.shard {
            header.config.optim.shard = shard;
        }
        Ok(Start {
            config: header.config,
            data,
            split,
            effects: Arc::new(effects),
            statistics,
            numbers: Some(flats),
            step: header.step,
            best: header.best,
            out: settings.out.clone(),
            claim: claimed,
        })
    }

    /// What ranks must have in common, in numbers.
    pub fn agreed(&self, gpu: Option<&Gpu>) -> [(&'static str, u64); 6] {
        let hash = |text: &str| u64::from(crc32fast::hash(text.as_bytes()));
        [
            ("program", hash(&Checkpoint::program())),
            ("config", hash(&self.config.to_toml())),
            ("split", hash(&self.split.hash)),
            ("data", hash(&self.data.manifest().to_json())),
            ("first step", self.step),
            // A rank without a GPU where others have one, or that stores otherwise.
            ("device or precision", gpu.map_or(0, |gpu| gpu.real().bytes() as u64)),
        ]
    }
}

/// Whether the folder's config.toml, where it is there, still says what a run goes on with: its steps and where its optimizer lies
/// may be others.
fn is_config_of(run: &Path, config: &Config) -> bool {
    let path = run.join("config.toml");
    let Ok(text) = fs::read_to_string(&path) else { return true };
    Config::from_toml(&text, &path).is_ok_and(|mut told| {
        (told.train.steps, told.optim.shard) = (config.train.steps, config.optim.shard);
        told == *config
    })
}

/// The checkpoint that a run goes on with.
fn last_of(run: &Path) -> PathBuf {
    run.join("checkpoints/last.safetensors")
}
