//! Which cells are used for training, validation and testing: cell-load's split files, read strictly.
//!
//! ```toml
//! [datasets]
//! kang = "kang.h5ad"                       # for cell-load: never opened here, but it must mean the directory's own files
//! [training]
//! kang = "train"                           # every cell type not named below goes to train
//! [zeroshot]
//! "kang.B cells" = "test"                  # a whole cell type
//! [fewshot."kang.CD4 T cells"]
//! test = ["IFNB1"]                         # some perturbations of a cell type; its others go to train
//! ```
//!
//! Controls go where cell-load puts them: those of a zeroshot cell type to its part and to train, those of a fewshot cell
//! type to train and to each part that holds perturbations of it. What cell-load silently ignores (names that occur nowhere,
//! overlapping lists, contradictory tables) is an error here that names the clause; what may be intended is a warning.

mod clauses;
mod paths;
mod presets;
mod report;
mod warnings;

use std::collections::BTreeSet;
use std::path::Path;

use sha2::{Digest, Sha256};

pub use presets::{FewShot, Preset};
pub use report::{PartReport, Report};

use super::controls::Usable;
use super::shard::{Data, Manifest};
use crate::error::{At, Error, Result};
use clauses::{Clauses, Place};

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Seen in training.
    Train,
    /// Used to choose among checkpoints.
    Val,
    /// Scored once, at the end.
    Test,
}

impl Part {
    /// All three.
    pub const ALL: [Part; 3] = [Part::Train, Part::Val, Part::Test];

    /// `train`, `val` or `test`, as in split files and options.
    pub fn name(self) -> &'static str {
        match self {
            Part::Train => "train",
            Part::Val => "val",
            Part::Test => "test",
        }
    }
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        let found = Part::ALL.into_iter().find(|part| part.name() == name);
        found.ok_or_else(|| format!("{name:?} is not train, val or test"))
    }
}

/// The groups of each part, ascending, as one data directory numbers them. Control groups can be in several parts, perturbed
/// groups in only one.
#[derive(Clone, Debug)]
pub struct Split {
    /// The [`Data::crc`] of its data.
    data: u32,
    /// In the order of [`Part::ALL`]; each may be empty.
    parts: [Vec<u32>; 3],
    /// SHA-256 of the file, as `sha256sum` prints it.
    pub hash: String,
    /// What is allowed but may not be intended.
    pub warnings: Vec<String>,
    /// Where cell-load would read other files than those of the data directory.
    pub notes: Vec<String>,
}

impl Split {
    /// Reads a split file for a data directory.
    ///
    /// # Errors
    /// A file that cannot be read or is not TOML; tables, data sets, cell types and perturbations that do not occur,
    /// contradictions, held-out contexts without controls: the message names the clause.
    pub fn load(path: &Path, data: &Data) -> Result<Split> {
        let bytes = std::fs::read(path).at(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::format(path, "is not UTF-8 text"))?;
        Split::of_text(text, path, data)
    }

    /// The same from a file's text.
    ///
    /// # Errors
    /// As [`Split::load`]; they name `path` as the source.
    pub fn of_text(text: &str, path: &Path, data: &Data) -> Result<Split> {
        Split::parse(text, data).map_err(|what| Error::format(path, what))
    }

    fn parse(text: &str, data: &Data) -> std::result::Result<Split, String> {
        let Clauses { places, warnings, notes } = Clauses::parse(text, data)?;
        let hash = format!("{:x}", Sha256::digest(text));
        let mut split = Split { data: data.crc(), parts: Default::default(), hash, warnings, notes };
        for (number, group) in data.groups().iter().enumerate() {
            let place = &places[group.cell_type as usize];
            let parts = if data.is_control(number as u32) {
                place.controls()
            } else {
                place.perturbed(group.perturbation).into_iter().collect()
            };
            for part in parts {
                split.parts[part as usize].push(number as u32);
            }
        }
        split.check_controls(data, &places)?;
        let warnings = warnings::of(&split, data, &places);
        split.warnings.extend(warnings);
        Ok(split)
    }

    /// The groups of a part; may be empty.
    pub fn part(&self, part: Part) -> &[u32] {
        &self.parts[part as usize]
    }

    /// The groups of a part that are not controls.
    ///
    /// # Panics
    /// If the split was loaded for other data.
    pub fn perturbed(&self, part: Part, data: &Data) -> Vec<u32> {
        self.check_of(data);
        data.perturbed(self.part(part)).expect("a split of this data")
    }

    /// The perturbed groups of the training part, by whether they can be used.
    ///
    /// # Panics
    /// If the split was loaded for other data.
    pub fn usable(&self, data: &Data) -> Usable {
        self.check_of(data);
        Usable::of(data, self.part(Part::Train)).expect("a split of this data")
    }

    /// Names of the perturbations for which no cell can be used in training.
    ///
    /// # Panics
    /// If the split was loaded for other data.
    pub fn untrained(&self, data: &Data) -> Vec<String> {
        let seen =
            self.usable(data).groups.into_iter().map(|group| data.groups()[group as usize].perturbation);
        let seen: BTreeSet<u32> = seen.chain([data.control_id()]).collect();
        let names = (0..).zip(&data.manifest().perturbations);
        names.filter(|(id, _)| !seen.contains(id)).map(|(_, name)| name.clone()).collect()
    }

    /// Cells, groups, perturbations and cell types of each part.
    ///
    /// # Panics
    /// If the split was loaded for other data.
    pub fn report(&self, data: &Data) -> Report {
        self.check_of(data);
        Report::of(self, data)
    }

    /// A split is the numbers of groups, which mean others in other data: using it there is an error of the program.
    fn check_of(&self, data: &Data) {
        let dir = data.dir().display();
        assert!(
            self.data == data.crc(),
            "the split is of other data than {dir}: read it for those (`Split::load`)"
        );
    }

    /// A held-out context is predicted from its controls: without any there is nothing to start from.
    fn check_controls(&self, data: &Data, places: &[Place]) -> std::result::Result<(), String> {
        for (cell_type, place) in places.iter().enumerate() {
            let controls = super::controls::context_controls(data, cell_type as u32, 0);
            let Some(clause) = place.held_out_by().filter(|_| controls.is_none()) else { continue };
            let Manifest { control, cell_types, .. } = data.manifest();
            return Err(format!(
                "{clause}: {:?} has no {control:?} cells to predict from; hold out another cell type",
                cell_types[cell_type]
            ));
        }
        Ok(())
    }
}
