//! Which cells are trained on, chosen on and tested on: cell-load's split files, read strictly.
//!
//! ```toml
//! [datasets]
//! kang = "kang.h5ad"                       # the path is for cell-load; the name must be the data directory's
//! [training]
//! kang = "train"                           # every cell type not named below goes to train
//! [zeroshot]
//! "kang.B cells" = "test"                  # a whole cell type
//! [fewshot."kang.CD4 T cells"]
//! test = ["IFNB1"]                         # some perturbations of a cell type; its others go to train
//! ```
//!
//! Controls go where cell-load puts them: those of a zeroshot cell type to its part and to train, those of a fewshot cell type
//! to train and to each part that holds perturbations of it. What cell-load passes over in silence (names that occur nowhere,
//! overlapping lists, contradictory tables) is an error here that names the clause; what may be meant is a warning.

mod clauses;
mod report;
mod sha256;

use std::path::Path;

pub use report::{PartReport, Report};

use super::shard::{Data, Manifest};
use crate::error::{At, Error, Result};
use clauses::{Clauses, Place};

/// A part of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Seen in training.
    Train,
    /// Chooses among checkpoints.
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

/// The groups of each part, ascending. Control groups can be in several parts, perturbed groups are in one.
#[derive(Clone, Debug)]
pub struct Split {
    /// Group numbers of the training part.
    pub train: Vec<u32>,
    /// Group numbers of the validation part; may be empty.
    pub val: Vec<u32>,
    /// Group numbers of the test part.
    pub test: Vec<u32>,
    /// SHA-256 of the file, as `sha256sum` prints it.
    pub hash: String,
    /// What is allowed but may not be meant.
    pub warnings: Vec<String>,
}

impl Split {
    /// Reads a split file for a data directory.
    ///
    /// Errors name the clause: tables, data sets, cell types and perturbations that do not occur, contradictions, held-out
    /// contexts without controls.
    pub fn load(path: &Path, data: &Data) -> Result<Split> {
        let bytes = std::fs::read(path).at(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|_| Error::format(path, "is not UTF-8 text"))?;
        Split::parse(text, data).map_err(|what| Error::format(path, what))
    }

    fn parse(text: &str, data: &Data) -> std::result::Result<Split, String> {
        let Clauses { places, warnings } = Clauses::parse(text, data)?;
        let hash = sha256::hex(text.as_bytes());
        let mut split = Split { train: Vec::new(), val: Vec::new(), test: Vec::new(), hash, warnings };
        for (number, group) in data.groups().iter().enumerate() {
            let place = &places[group.cell_type as usize];
            let parts = if group.perturbation == data.control_id() {
                place.controls()
            } else {
                place.perturbed(group.perturbation).into_iter().collect()
            };
            for part in parts {
                split.part_mut(part).push(number as u32);
            }
        }
        split.check_controls(data, &places)?;
        split.warn(data, &places);
        Ok(split)
    }

    /// The groups of a part.
    pub fn part(&self, part: Part) -> &[u32] {
        match part {
            Part::Train => &self.train,
            Part::Val => &self.val,
            Part::Test => &self.test,
        }
    }

    fn part_mut(&mut self, part: Part) -> &mut Vec<u32> {
        match part {
            Part::Train => &mut self.train,
            Part::Val => &mut self.val,
            Part::Test => &mut self.test,
        }
    }

    /// The groups of a part that are not controls.
    pub fn perturbed(&self, part: Part, data: &Data) -> Vec<u32> {
        let perturbed = |g: &&u32| data.groups()[**g as usize].perturbation != data.control_id();
        self.part(part).iter().filter(perturbed).copied().collect()
    }

    /// Cells, groups, perturbations and cell types of each part.
    pub fn report(&self, data: &Data) -> Report {
        Report::of(self, data)
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

    fn warn(&mut self, data: &Data, places: &[Place]) {
        let names = &data.manifest().cell_types;
        let dropped: Vec<&str> =
            names.iter().zip(places).filter(|(_, p)| p.dropped()).map(|(n, _)| n.as_str()).collect();
        if !dropped.is_empty() {
            let list = report::list(&dropped);
            self.warnings
                .push(format!("in no part, since neither [training] nor a clause names them: {list}"));
        }
        let trained = self.perturbed(Part::Train, data);
        let bare = |&&g: &&u32| super::controls::control_pool(data, g).is_none();
        let unusable: Vec<&u32> = trained.iter().filter(bare).collect();
        if !unusable.is_empty() {
            let example = data.describe(*unusable[0]);
            self.warnings.push(format!(
                "{} groups of train have no controls of their cell type and are not used, such as {example}",
                unusable.len()
            ));
        }
        let seen: std::collections::HashSet<u32> =
            trained.iter().map(|&g| data.groups()[g as usize].perturbation).collect();
        for part in Part::ALL {
            let perturbed = self.perturbed(part, data);
            if perturbed.is_empty() {
                let consequence = match part {
                    Part::Train => "there is nothing to learn from",
                    Part::Val => {
                        "the last checkpoint will count as the best; the test part is never used to choose"
                    }
                    Part::Test => "there is nothing to score",
                };
                self.warnings.push(format!("{} holds no perturbed cells: {consequence}", part.name()));
            }
            let mut unseen: Vec<u32> =
                perturbed.iter().map(|&g| data.groups()[g as usize].perturbation).collect();
            unseen.retain(|p| !seen.contains(p));
            unseen.sort_unstable();
            unseen.dedup();
            if part != Part::Train && !unseen.is_empty() {
                let unseen: Vec<&str> =
                    unseen.iter().map(|&p| data.manifest().perturbations[p as usize].as_str()).collect();
                let list = report::list(&unseen);
                self.warnings
                    .push(format!("{} holds perturbations that train never sees: {list}", part.name()));
            }
        }
    }
}
