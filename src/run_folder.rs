//! Where a run keeps what.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The folder of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFolder(PathBuf);

impl RunFolder {
    /// The folder at this path, whether or not it is there yet.
    pub fn at(path: &Path) -> RunFolder {
        RunFolder(path.to_path_buf())
    }

    /// The run that `path` is, or of which it is a checkpoint.
    pub fn of(path: &Path) -> RunFolder {
        let run = path.parent().filter(|_| path.is_file()).map(|checkpoints| checkpoints.join(".."));
        RunFolder(run.unwrap_or_else(|| path.to_path_buf()))
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Every setting of the run.
    pub fn config(&self) -> PathBuf {
        self.0.join("config.toml")
    }

    /// Its own copy of the split file.
    pub fn split(&self) -> PathBuf {
        self.0.join("split.toml")
    }

    /// The log, a line of JSON for each logged step.
    pub fn metrics(&self) -> PathBuf {
        self.0.join("metrics.jsonl")
    }

    /// What the GPU of a rank was timed to do quickest.
    pub fn choices(&self, rank: usize) -> PathBuf {
        self.0.join(match rank {
            0 => "choices.json".to_string(),
            rank => format!("choices-{rank}.json"),
        })
    }

    /// The folder of checkpoints.
    pub fn checkpoints(&self) -> PathBuf {
        self.0.join("checkpoints")
    }

    /// The checkpoint of this name: `best`, `last` or `step-N`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        self.checkpoints().join(format!("{name}.safetensors"))
    }

    /// The checkpoint from which a run is resumed.
    pub fn last(&self) -> PathBuf {
        self.checkpoint("last")
    }

    /// The checkpoint of the best validation.
    pub fn best(&self) -> PathBuf {
        self.checkpoint("best")
    }
}

/// The checkpoint whose weights `path` stands for: the file itself, or a run's best, or else its last.
///
/// # Errors
/// A folder without either.
pub fn checkpoint_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let run = RunFolder::at(path);
    [run.best(), run.last()].into_iter().find(|file| file.exists()).ok_or_else(|| {
        let what = "has no checkpoints/best.safetensors or checkpoints/last.safetensors; train first";
        Error::format(path, what)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_means_its_best_checkpoint_or_else_its_last() {
        let dir = tempfile::tempdir().expect("a folder");
        let run = RunFolder::at(dir.path());
        std::fs::create_dir(run.checkpoints()).expect("made");
        assert!(checkpoint_of(dir.path()).is_err());
        std::fs::write(run.last(), "").expect("written");
        assert_eq!(checkpoint_of(dir.path()).expect("there"), run.last());
        std::fs::write(run.best(), "").expect("written");
        assert_eq!(checkpoint_of(dir.path()).expect("there"), run.best());
        assert_eq!(checkpoint_of(&run.last()).expect("there"), run.last());
    }
}
