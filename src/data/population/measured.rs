//! What was measured of some groups: what a prediction is compared with.

use std::collections::{BTreeSet, HashSet};
use std::ops::Range;
use std::path::Path;

use super::{Population, Rows};
use crate::data::controls::control_pool;
use crate::data::shard::Data;
use crate::error::Result;

/// What was really measured, on the log1p scale: the perturbed cells of the groups, group by group, then, on request, the
/// control cells of their contexts, each once. Control groups among `groups` are skipped.
///
/// # Errors
/// The number of a group that the data does not have.
pub fn measured(data: &Data, groups: &[u32], with_controls: bool) -> Result<Population> {
    let mut population = Population::like(data.manifest());
    push_measured(&mut population, data, groups, with_controls)?;
    Ok(population)
}

/// Writes what was really measured of some groups of a split, identified by its hash; returns the number of cells.
///
/// # Errors
/// As [`measured`]; a file that cannot be written.
pub fn write_measured(
    path: &Path,
    data: &Data,
    groups: &[u32],
    with_controls: bool,
    split: &str,
) -> Result<usize> {
    let mut real = Population::create(path, data.manifest())?;
    real.notes = vec![("made_by".into(), "measured cells".into()), ("split".into(), split.into())];
    push_measured(&mut real, data, groups, with_controls)?;
    real.close()
}

fn push_measured<R: Rows>(
    population: &mut Population<R>,
    data: &Data,
    groups: &[u32],
    with_controls: bool,
) -> Result<()> {
    let perturbed = data.perturbed(groups)?;
    push_groups(population, data, perturbed.iter().copied())?;
    if with_controls {
        push_controls(population, data, &perturbed)?;
    }
    Ok(())
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
/// Counts are asked for, but the data are logs; a file that cannot be written.
pub fn push_groups<R: Rows>(
    population: &mut Population<R>,
    data: &Data,
    groups: impl IntoIterator<Item = u32>,
) -> Result<()> {
    for group in groups {
        let cells: Vec<u64> = data.groups()[group as usize].range().collect();
        population.extend_measured(data, data.names(group), &cells)?;
    }
    Ok(())
}
