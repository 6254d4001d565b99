//! What was measured of some groups: what a prediction is compared with.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;

use super::{BLOCK, MADE_BY, Population, Rows, SPLIT, Unit, log1p};
use crate::data::controls::control_pool;
use crate::data::shard::{Data, Same, Scale};
use crate::error::{Error, Result};

/// What was really measured, on the log1p scale: the perturbed cells of the groups, group by group, then, on request, the
/// control cells of their contexts, each once. Control groups among `groups` are skipped.
///
/// # Errors
/// The number of a group that the data does not have.
pub fn measured(data: &Data, groups: &[u32], with_controls: bool) -> Result<Population> {
    let mut population = Population::like(data.manifest());
    push_measured(&mut population, data, groups, if with_controls { Beside::Own } else { Beside::Nothing })?;
    Ok(population)
}

/// The control cells that are written beside what was measured.
#[derive(Clone, Copy, Debug)]
pub enum Beside<'a> {
    /// None.
    Nothing,
    /// Those of the groups' contexts.
    Own,
    /// Those of the groups' cell types in another data directory, which training has not seen.
    Of(&'a Data),
}

/// Writes what was really measured of some groups of a split, identified by its hash; returns the number of cells.
///
/// # Errors
/// As [`measured`]; counts of logs; other control cells of other genes or on another scale, or none of a cell type; a file that
/// cannot be written.
pub fn write_measured(
    path: &Path,
    data: &Data,
    groups: &[u32],
    controls: Beside,
    unit: Unit,
    split: &str,
) -> Result<usize> {
    let mut real = Population::create(path, data.manifest())?;
    real.unit = unit;
    real.notes = vec![(MADE_BY.into(), "measured cells".into()), (SPLIT.into(), split.into())];
    push_measured(&mut real, data, groups, controls)?;
    real.close()
}

fn push_measured<R: Rows>(
    population: &mut Population<R>,
    data: &Data,
    groups: &[u32],
    controls: Beside,
) -> Result<()> {
    let perturbed = data.perturbed(groups)?;
    push_groups(population, data, perturbed.iter().copied())?;
    match controls {
        Beside::Nothing => Ok(()),
        Beside::Own => push_controls(population, data, &perturbed),
        Beside::Of(other) => {
            for group in other_controls(data, &perturbed, other)? {
                let [cell_type, _, batch] = other.names(group);
                let cells = other.groups()[group as usize].range();
                population.extend_measured(other, [cell_type, &data.manifest().control, batch], cells)?;
            }
            Ok(())
        }
    }
}

/// The control groups in `other` of the cell types of these groups of `data`.
///
/// # Errors
/// Cells of other genes or on another scale, no control cells of a type, or the number of a group that the data does not have.
pub fn other_controls(data: &Data, groups: &[u32], other: &Data) -> Result<Vec<u32>> {
    let wrong = |what: String| Error::format(other.dir(), what);
    if let Some(found) = data.manifest().difference(other.manifest(), Same::Numbers) {
        let (there, what) = (data.dir().display(), found.told("there", "here"));
        let way = format!("make it with `preprocess::Settings::genes = {there}`");
        return Err(wrong(format!("is not like {there}: {what}; {way}")));
    }
    data.check_groups(groups)?;
    let types: BTreeSet<&str> = groups.iter().map(|&group| data.names(group)[0]).collect();
    let all = 0..other.groups().len() as u32;
    let controls: Vec<u32> = all.filter(|&g| other.names(g)[1] == other.manifest().control).collect();
    let found: BTreeSet<&str> = controls.iter().map(|&group| other.names(group)[0]).collect();
    match types.difference(&found).next() {
        Some(missing) => Err(wrong(format!("has no control cells of {missing:?}"))),
        None => Ok(controls.into_iter().filter(|&group| types.contains(other.names(group)[0])).collect()),
    }
}

/// Appends the control cells that the groups' contexts draw from, each once, in ascending cell number.
///
/// # Errors
/// The number of a group that the data does not have; a file that cannot be written.
pub fn push_controls<R: Rows>(population: &mut Population<R>, data: &Data, groups: &[u32]) -> Result<()> {
    data.check_groups(groups)?;
    let pools = groups.iter().filter_map(|&group| control_pool(data, group));
    let pools: HashSet<Range<u32>> = pools.map(|pool| pool.groups).collect();
    let controls: BTreeSet<u32> = pools.into_iter().flatten().collect();
    push_groups(population, data, controls)
}

/// Appends every measured cell of some groups.
///
/// # Errors
/// The number of a group that the data does not have; counts are asked for, but the data are logs; a file that cannot be written.
pub fn push_groups<R: Rows>(
    population: &mut Population<R>,
    data: &Data,
    groups: impl IntoIterator<Item = u32>,
) -> Result<()> {
    let groups: Vec<u32> = groups.into_iter().collect();
    data.check_groups(&groups)?;
    for group in groups {
        population.extend_measured(data, data.names(group), data.groups()[group as usize].range())?;
    }
    Ok(())
}

impl<R: Rows> Population<R> {
    /// Appends measured cells of `data` in this population's unit.
    ///
    /// # Errors
    /// Data of other genes; counts are asked for, but the data are logs; a file that cannot be written.
    ///
    /// # Panics
    /// If one of the cells does not exist.
    pub fn extend_measured(&mut self, data: &Data, labels: [&str; 3], cells: Range<u64>) -> Result<()> {
        let manifest = data.manifest();
        if self.genes != manifest.genes {
            return Err(Error::setting(
                "data",
                "has other genes, or another order of them, than this population",
            ));
        }
        if self.unit == Unit::Counts && manifest.scale != Scale::Counts {
            let what =
                "the data contains log values, from which counts cannot be recovered; choose log1p or scaled";
            return Err(Error::setting("unit", what));
        }
        for first in cells.clone().step_by(BLOCK) {
            let block = first..cells.end.min(first + BLOCK as u64);
            let _sweep = data.sweep(block.clone());
            for cell in block {
                let row = data.row(cell);
                let genes: Vec<u32> = row.genes.iter().map(|&gene| u32::from(gene)).collect();
                let values: Vec<f32> = match self.unit {
                    Unit::Counts => (0..genes.len()).map(|i| row.values.get(i)).collect(),
                    Unit::Log1p => log1p(data, &row).collect(),
                    Unit::Scaled => log1p(data, &row).map(|x| x / manifest.factor).collect(),
                };
                self.push_measured(data.name(cell), labels, &genes, &values)?;
                if self.unit == Unit::Counts {
                    self.set_total(row.library);
                }
            }
        }
        Ok(())
    }
}
