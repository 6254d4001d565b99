//! What a split amounts to, for people and scripts.

use std::collections::HashSet;

use serde::Serialize;

use super::Split;
use crate::data::shard::Data;

/// The three parts in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// Data-set name of the directory.
    pub dataset: String,
    /// SHA-256 of the split file.
    pub sha256: String,
    /// Seen in training.
    pub train: PartReport,
    /// Used to choose among checkpoints.
    pub val: PartReport,
    /// Scored.
    pub test: PartReport,
    /// What is in no part.
    pub dropped: PartReport,
    /// What is allowed but may not be intended.
    pub warnings: Vec<String>,
    /// Where cell-load would read other files than those of the data directory.
    pub notes: Vec<String>,
}

/// One part in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PartReport {
    /// Perturbed cells.
    pub cells: u64,
    /// Groups (cell type, perturbation, batch) of perturbed cells.
    pub groups: u64,
    /// Perturbations, without the control label.
    pub perturbations: u64,
    /// Cell types with perturbed cells.
    pub cell_types: u64,
    /// Control cells; a control can be in several parts.
    pub control_cells: u64,
    /// Groups of control cells.
    pub control_groups: u64,
}

impl Report {
    pub(super) fn of(split: &Split, data: &Data) -> Report {
        let kept: HashSet<u32> = split.parts.iter().flatten().copied().collect();
        let dropped: Vec<u32> = (0..data.groups().len() as u32).filter(|g| !kept.contains(g)).collect();
        let [train, val, test] = split.parts.each_ref().map(|groups| PartReport::of(groups, data));
        Report {
            dataset: data.manifest().dataset.clone(),
            sha256: split.hash.clone(),
            train,
            val,
            test,
            dropped: PartReport::of(&dropped, data),
            warnings: split.warnings.clone(),
            notes: split.notes.clone(),
        }
    }
}

impl PartReport {
    fn of(groups: &[u32], data: &Data) -> PartReport {
        let mut part = PartReport::default();
        let (mut perturbations, mut cell_types) = (HashSet::new(), HashSet::new());
        for &number in groups {
            let group = &data.groups()[number as usize];
            if data.is_control(number) {
                part.control_groups += 1;
                part.control_cells += u64::from(group.cells);
            } else {
                part.groups += 1;
                part.cells += u64::from(group.cells);
                perturbations.insert(group.perturbation);
                cell_types.insert(group.cell_type);
            }
        }
        (part.perturbations, part.cell_types) = (perturbations.len() as u64, cell_types.len() as u64);
        part
    }
}
