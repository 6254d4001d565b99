//! What a run is told: on what to train, where, and with what to begin.

use std::path::{Path, PathBuf};

use crate::collective::Launch;
use crate::config::Config;
use crate::gpu::Gpu;
use crate::progress::Progress;

/// What to train on, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to compute.
    pub place: Place,
    /// Data directory.
    pub data: PathBuf,
    /// cell-load split file.
    pub split: PathBuf,
    /// Run directory.
    pub out: PathBuf,
    /// What the run begins with.
    pub begin: Begin,
}

/// Where a run computes: its ranks, which share each step's sets, each on a GPU or, if `None`, on the CPU.
#[derive(Clone, Debug)]
pub enum Place {
    /// All ranks, each a thread of this process.
    Here(Vec<Option<Gpu>>),
    /// One of the ranks that a launcher started, each a process of its own.
    Launched(Launch, Option<Gpu>),
}

impl Place {
    /// The number of ranks, those of other processes included.
    pub fn ranks(&self) -> usize {
        match self {
            Place::Here(places) => places.len(),
            Place::Launched(launch, _) => launch.ranks,
        }
    }
}

/// What a run begins with.
#[derive(Clone, Debug)]
pub enum Begin {
    /// Drawn weights, or those of another run.
    Anew {
        /// Every setting.
        config: Box<Config>,
        /// The other run's directory (its best checkpoint is taken, or else its last), or a checkpoint. Genes, scale and model
        /// sizes must match; cell types, perturbations and batches are matched by name.
        init_from: Option<PathBuf>,
        /// A table of features by which the model knows perturbations, in place of their names
        /// ([`FeatureTable::read`](crate::data::features::FeatureTable::read)).
        features: Option<PathBuf>,
    },
    /// The run's own last checkpoint and config.
    Resume {
        /// A different total number of steps.
        steps: Option<u64>,
        /// A different `optim.shard`.
        shard: Option<bool>,
    },
}

impl Begin {
    /// A new run with drawn weights.
    pub fn drawn(config: Config) -> Begin {
        Begin::Anew { config: Box::new(config), init_from: None, features: None }
    }

    /// A run resumed with nothing changed.
    pub const RESUME: Begin = Begin::Resume { steps: None, shard: None };
}

impl Settings {
    /// A run of this process alone, on the CPU.
    pub fn new(data: &Path, split: &Path, out: &Path, begin: Begin) -> Settings {
        Settings {
            place: Place::Here(vec![None]),
            data: data.into(),
            split: split.into(),
            out: out.into(),
            begin,
        }
    }

    /// Who is told on the rank that writes files; nobody on the others, which would say the same.
    pub(super) fn teller(&self, progress: &Progress) -> Progress {
        if self.is_first() { progress.clone() } else { Progress::silent() }
    }

    /// Whether this process holds the rank that writes files.
    pub fn is_first(&self) -> bool {
        !matches!(&self.place, Place::Launched(launch, _) if launch.rank > 0)
    }
}
