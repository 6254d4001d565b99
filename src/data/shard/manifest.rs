//! manifest.json: what the shards' numbers mean, and which shards belong together.

use std::io::ErrorKind;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{AsRead, MOST_GENES, Scale};
use crate::error::{At, Error, Result, unknown};

/// Name of the manifest in a data directory.
pub(super) const FILE: &str = "manifest.json";

/// Whether cells scaled to these totals are on the same scale: the totals agree to one part in a hundred.
pub(crate) fn same_total(a: f64, b: f64) -> bool {
    (a / b - 1.0).abs() <= 0.01
}

/// How many names two lists begin with alike, and the names in which they then differ, if they do.
pub(crate) fn parting<'a>(a: &'a [String], b: &'a [String]) -> Option<(usize, [Option<&'a String>; 2])> {
    let alike = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    (a != b).then(|| (alike, [a.get(alike), b.get(alike)]))
}

/// What a cell's numbers stand for, as far as it must be the same for all cells that a model reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meaning {
    /// CRC-32 of the genes' names, in order.
    pub(super) genes: u32,
    /// What log1p values are divided by.
    pub(super) factor: f32,
    /// What the stored values are: counts can only be brought to a known total.
    pub(super) scale: Scale,
    /// Counts to which each cell is scaled before log1p; `None` if unknown.
    pub(super) target: Option<f64>,
}

impl Meaning {
    /// The same genes and factor, of cells on `scale` that were scaled to `target` counts before log1p, if that is known.
    pub(crate) fn on(self, scale: Scale, target: Option<f64>) -> Meaning {
        Meaning { scale, target, ..self }
    }
}

/// The obs columns the labels came from, under the names the user knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// Column of perturbations.
    pub perturbation: String,
    /// Column of cell types.
    pub cell_type: String,
    /// Column of batches; without it, all cells are in one batch.
    pub batch: Option<String>,
    /// Column of total counts, if a cell's total is not the sum over its stored genes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<String>,
}

/// A file that cells came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// File name, without its folder.
    pub path: String,
    /// CRC-32 of what was read, to tell apart two files of the same name: gene names, which cells were taken, and every value of
    /// the genes that the filters left. Not the file's own checksum: the same cells stored or compressed differently have the
    /// same CRC.
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
    /// CRC-32 of its header, which holds the CRC-32 of every section: this one number vouches for every byte.
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
    /// Total to which a cell's counts are scaled; `None` if the source was already on a log scale and does not state it.
    pub target: Option<f64>,
    /// The network sees log1p values divided by this, 10 in SCALE v1.
    pub factor: f32,
    /// Label of unperturbed cells, one of the perturbations.
    pub control: String,
    /// Names of the label columns.
    pub columns: Columns,
    /// How the sources were read.
    #[serde(default, skip_serializing_if = "AsRead::is_default")]
    pub as_read: AsRead,
    /// Where the cells came from.
    pub sources: Vec<Source>,
    /// The files, in the order of cell numbers; empty before they are written.
    pub shards: Vec<ShardEntry>,
    /// Cell types, sorted.
    pub cell_types: Vec<String>,
    /// Perturbations including the control label, sorted.
    pub perturbations: Vec<String>,
    /// Batches, sorted.
    pub batches: Vec<String>,
    /// Perturbations without cells, sorted, whose ids follow those of `perturbations`: only a run that knows perturbations by their
    /// features has some ([`Features::extended`](crate::data::features::Features::extended)), a data directory never.
    #[serde(skip)]
    pub unmeasured: Vec<String>,
    /// Genes in the order of their ids.
    pub genes: Vec<String>,
    /// Number of genes of the sources, over which totals were taken; `None` in older directories.
    #[serde(default)]
    pub source_genes: Option<usize>,
}

impl Manifest {
    /// Raised when a directory written today could be misread by an older program.
    pub const VERSION: u32 = 1;

    /// Reads and checks the manifest of a directory.
    pub(crate) fn read(dir: &Path) -> Result<Manifest> {
        let path = dir.join(FILE);
        let lacks = match dir.metadata() {
            Ok(found) if !found.is_dir() => Some("it is a file"),
            Ok(_) if !path.exists() => Some("it has no manifest.json"),
            Err(error) if error.kind() == ErrorKind::NotFound => Some("there is no such folder"),
            _ => None,
        };
        if let Some(lacks) = lacks {
            let what = format!("is not a data directory: {lacks} (`preprocess` makes one)");
            return Err(Error::format(dir, what));
        }
        let text = std::fs::read_to_string(&path).at(&path)?;
        let manifest: Manifest = serde_json::from_str(&text)
            .map_err(|e| Error::format(&path, format!("is not a manifest: {e}")))?;
        manifest.check().map_err(|what| Error::format(&path, what))?;
        Ok(manifest)
    }

    /// Position of the control label; `check` has made sure that it exists.
    pub(super) fn control_position(&self) -> u32 {
        let position =
            self.perturbations.binary_search(&self.control).expect("the control label is a perturbation");
        position as u32
    }

    /// Whether the sources call unperturbed cells so.
    pub(crate) fn is_control(&self, label: &str) -> bool {
        label == self.control || self.as_read.other_controls.iter().any(|other| other == label)
    }

    /// All perturbations, by their ids.
    pub(crate) fn all_perturbations(&self) -> impl Iterator<Item = &String> + Clone {
        self.perturbations.iter().chain(&self.unmeasured)
    }

    /// Whether it has a perturbation of this name.
    pub(crate) fn knows(&self, perturbation: &str) -> bool {
        place(perturbation, &self.perturbations).or(place(perturbation, &self.unmeasured)).is_some()
    }

    /// Names for ids: cell type, perturbation, batch.
    ///
    /// # Panics
    /// If one is beyond its vocabulary.
    pub fn names_of(&self, [cell_type, perturbation, batch]: [u32; 3]) -> [&str; 3] {
        let perturbation =
            self.all_perturbations().nth(perturbation as usize).expect("an id of this vocabulary");
        [&self.cell_types[cell_type as usize], perturbation, &self.batches[batch as usize]]
    }

    /// The first of a cell type, perturbation and batch that these data do not have: its kind, its id, and how many there are.
    pub(crate) fn beyond(&self, ids: [u32; 3]) -> Option<(&'static str, u32, usize)> {
        let counts = [
            ("cell type", self.cell_types.len()),
            ("perturbation", self.all_perturbations().count()),
            ("batch", self.batches.len()),
        ];
        let mut all = counts.into_iter().zip(ids).map(|((kind, count), id)| (kind, id, count));
        all.find(|&(_, id, count)| id as usize >= count)
    }

    /// Ids for names: cell type, perturbation, batch.
    ///
    /// # Errors
    /// An unknown name; the message suggests the nearest.
    pub fn ids(
        &self,
        cell_type: &str,
        perturbation: &str,
        batch: &str,
    ) -> std::result::Result<[u32; 3], String> {
        let id = |kind: &str, name: &str, names: &[String]| {
            place(name, names).map(|id| id as u32).ok_or_else(|| unknown(kind, name, names))
        };
        let cell_type = id("cell type", cell_type, &self.cell_types)?;
        let unmeasured = || Some(self.perturbations.len() + place(perturbation, &self.unmeasured)?);
        let known = place(perturbation, &self.perturbations).or_else(unmeasured);
        let known = known.ok_or_else(|| unknown("perturbation", perturbation, self.all_perturbations()))?;
        Ok([cell_type, known as u32, id("batch", batch, &self.batches)?])
    }

    /// What the numbers of its cells stand for.
    pub fn meaning(&self) -> Meaning {
        let mut names = crc32fast::Hasher::new();
        for gene in &self.genes {
            names.update(gene.as_bytes());
            names.update(&[0]);
        }
        Meaning { genes: names.finalize(), factor: self.factor, scale: self.scale, target: self.target }
    }

    /// The text of manifest.json: since it holds every shard's checksum, it vouches for every byte of the directory.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self)
            .unwrap_or_else(|e| unreachable!("a manifest is plain JSON: {e}"));
        text.push('\n');
        text
    }

    /// Writes it into a directory.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        std::fs::write(&path, self.to_json()).at(&path)?;
        std::fs::File::open(&path).and_then(|file| file.sync_all()).at(&path)
    }

    /// Checks what can be judged without the shards.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        if self.version != Manifest::VERSION {
            return Err(format!("version is {}, but this program reads {}", self.version, Manifest::VERSION));
        }
        vocabulary("cell_types", &self.cell_types)?;
        vocabulary("perturbations", &self.perturbations)?;
        vocabulary("batches", &self.batches)?;
        if !self.perturbations.contains(&self.control) {
            let what = crate::error::unknown("perturbation", &self.control, &self.perturbations);
            return Err(format!("control: {what}"));
        }
        if !(1..=MOST_GENES).contains(&self.genes.len()) {
            return Err(format!("genes: {} names, but there must be 1 to {MOST_GENES}", self.genes.len()));
        }
        let mut names: Vec<&String> = self.genes.iter().collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("genes: {:?} appears twice", twice[0]));
        }
        self.as_read.check(self.genes.len())?;
        if !(self.factor.is_finite() && self.factor > 0.0) {
            return Err(format!("factor is {}; it must be a positive number", self.factor));
        }
        match self.target {
            Some(target) if !(target.is_finite() && target > 0.0) => {
                Err(format!("target is {target}; it must be a positive number of counts"))
            }
            None if self.scale == Scale::Counts => {
                Err("target is missing: counts need a total to scale to".into())
            }
            _ => Ok(()),
        }
    }
}

/// Where a name stands in a vocabulary, which [`Manifest::check`] has seen sorted.
fn place(name: &str, names: &[String]) -> Option<usize> {
    names.binary_search_by(|other| other.as_str().cmp(name)).ok()
}

fn vocabulary(field: &str, names: &[String]) -> std::result::Result<(), String> {
    if names.is_empty() || names.len() > u32::MAX as usize {
        return Err(format!("{field}: {} names, but at least one is needed", names.len()));
    }
    match names.windows(2).find(|pair| pair[0] >= pair[1]) {
        Some(pair) => Err(format!(
            "{field}: {:?} is followed by {:?}; names must be sorted and unique",
            pair[0], pair[1]
        )),
        None => Ok(()),
    }
}
