//! manifest.json: what the shards' numbers mean, and which shards belong together.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Scale;
use crate::error::{At, Error, Result};

/// Name of the manifest in a data directory.
pub(super) const FILE: &str = "manifest.json";

/// The obs columns the labels came from, under the names the user knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Column of perturbations.
    pub perturbation: String,
    /// Column of cell types.
    pub cell_type: String,
    /// Column of batches; without one, all cells are of one batch.
    pub batch: Option<String>,
}

/// A file that cells came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// File name, without its folder.
    pub path: String,
    /// CRC-32 of what was read, to tell two files of one name apart: gene names, which cells were taken, and every value of the
    /// matrix. Not the file's own checksum: the same cells, stored or compressed in another way, have the same.
    pub crc: u32,
    /// Cells taken from it.
    pub cells: u64,
}

/// A shard of the directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardEntry {
    /// File name.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its rows.
    pub cells: u64,
    /// CRC-32 of its header, which holds the CRC-32 of every section: one number vouches for every byte.
    pub crc: u32,
}

/// What a data directory holds. Ids in shards are positions in these lists; vocabularies are sorted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Format version, [`Manifest::VERSION`].
    pub version: u32,
    /// Data-set name in split files: the stem of the first source file.
    pub dataset: String,
    /// What the shards' values are.
    pub scale: Scale,
    /// Counts a cell is scaled to; `None` where the source was already on a log scale and does not tell.
    pub target: Option<f64>,
    /// The network sees log1p values divided by this, 10 in SCALE v1.
    pub factor: f32,
    /// Label of unperturbed cells, one of the perturbations.
    pub control: String,
    /// Names of the label columns.
    pub columns: Columns,
    /// Where the cells came from.
    pub sources: Vec<Source>,
    /// The files, in the order of cell numbers; none before they are written.
    pub shards: Vec<ShardEntry>,
    /// Cell types, sorted.
    pub cell_types: Vec<String>,
    /// Perturbations with the control label, sorted.
    pub perturbations: Vec<String>,
    /// Batches, sorted.
    pub batches: Vec<String>,
    /// Genes in the order of their ids.
    pub genes: Vec<String>,
}

impl Manifest {
    /// Raised when a directory written today could be misread by an older program.
    pub const VERSION: u32 = 1;

    /// Reads and checks the manifest of a directory.
    pub(super) fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(FILE);
        if dir.is_dir() && !path.exists() {
            let what =
                "is not a data directory: it has no manifest.json (`scale-engine preprocess` makes one)";
            return Err(Error::format(dir, what));
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| Error::format(&path, format!("is not a manifest: {e}")))?;
        manifest.check().map_err(|what| Error::format(&path, what))?;
        Ok(manifest)
    }

    /// Position of the control label; `check` has seen that there is one.
    pub(super) fn control_position(&self) -> u32 {
        let position =
            self.perturbations.binary_search(&self.control).expect("the control label is a perturbation");
        position as u32
    }

    /// Writes it into a directory.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let mut text = serde_json::to_string_pretty(self).expect("a manifest is plain JSON");
        text.push('\n');
        std::fs::write(&path, text).at(&path)?;
        std::fs::File::open(&path).and_then(|file| file.sync_all()).at(&path)
    }

    /// What can be judged without the shards.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if self.version != Manifest::VERSION {
            return Err(format!("version is {}, this program reads {}", self.version, Manifest::VERSION));
        }
        vocabulary("cell_types", &self.cell_types)?;
        vocabulary("perturbations", &self.perturbations)?;
        vocabulary("batches", &self.batches)?;
        if !self.perturbations.contains(&self.control) {
            let what = crate::error::unknown("perturbation", &self.control, &self.perturbations);
            return Err(format!("control: {what}"));
        }
        if self.genes.is_empty() || self.genes.len() > 1 << 16 {
            return Err(format!("genes: {} names, where 1 to 65536 can be told apart", self.genes.len()));
        }
        let mut names: Vec<&String> = self.genes.iter().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("genes: {:?} is named twice", twice[0]));
        }
        if !(self.factor.is_finite() && self.factor > 0.0) {
            return Err(format!("factor is {}, it must be a positive number", self.factor));
        }
        match self.target {
            Some(target) if !(target.is_finite() && target > 0.0) => {
                Err(format!("target is {target}, it must be a positive number of counts"))
            }
            None if self.scale == Scale::Counts => {
                Err("target is missing: counts need a total to scale to".into())
            }
            _ => Ok(()),
        }
    }
}

fn vocabulary(field: &str, names: &[String]) -> std::result::Result<(), String> {
    if names.is_empty() || names.len() > u32::MAX as usize {
        return Err(format!("{field}: {} names, where at least one is needed", names.len()));
    }
    match names.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => {
            Err(format!("{field}: {:?} stands before {:?}; names are sorted and unique", pair[0], pair[1]))
        }
        None => Ok(()),
    }
}
