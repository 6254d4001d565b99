//! Which unperturbed cells represent a condition before its perturbation: those of its cell type and batch or, if its batch
//! has none, those of its cell type in all batches. A perturbed group whose cell type has none at all cannot be used.
//!
//! Predictions and baselines draw from them by [`rounds`]: each cell as often as any other, give or take one. Sets of training draw
//! by [`draw`].

use std::ops::Range;

use super::shard::{Data, Group};
use crate::error::{Error, Result};
use crate::rng::Rng;

impl Data {
    /// Whether the cells of a group are controls.
    ///
    /// # Panics
    /// If there is no such group.
    pub fn is_control(&self, group: u32) -> bool {
        self.groups()[group as usize].perturbation == self.control_id()
    }

    /// Whether the groups are this data's.
    ///
    /// # Errors
    /// The number of a group that the data does not have.
    pub(crate) fn check_groups(&self, groups: &[u32]) -> Result<()> {
        let all = self.groups().len();
        match groups.iter().find(|&&group| group as usize >= all) {
            Some(group) => {
                Err(Error::setting("groups", format!("there is no group {group}: the data has {all}")))
            }
            None => Ok(()),
        }
    }

    /// Those of some groups that are not controls.
    ///
    /// # Errors
    /// The number of a group that the data does not have.
    pub fn perturbed(&self, groups: &[u32]) -> Result<Vec<u32>> {
        self.check_groups(groups)?;
        Ok(groups.iter().copied().filter(|&group| !self.is_control(group)).collect())
    }
}

/// Perturbed groups, by whether their cell type has control cells: models train on and predict only groups whose cell type has
/// some; baselines predict only those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usable {
    /// Those that can be used.
    pub groups: Vec<u32>,
    /// Those whose cell type has no control cells.
    pub unmatched: Vec<u32>,
}

impl Usable {
    /// The perturbed ones among some groups; both lists keep their order.
    ///
    /// # Errors
    /// The number of a group that the data does not have.
    pub fn of(data: &Data, groups: &[u32]) -> Result<Usable> {
        let perturbed = data.perturbed(groups)?.into_iter();
        let (groups, unmatched) = perturbed.partition(|&group| control_pool(data, group).is_some());
        Ok(Usable { groups, unmatched })
    }

    /// What is not predicted, if anything: `2 groups are not predicted: no control cells of their cell type, such as B / MYC / 1`.
    pub(crate) fn note(&self, data: &Data) -> Option<String> {
        let example = data.describe(*self.unmatched.first()?);
        let groups = match self.unmatched.len() {
            1 => "1 group is".to_string(),
            count => format!("{count} groups are"),
        };
        Some(format!("{groups} not predicted: no control cells of their cell type, such as {example}"))
    }

    /// An error if no group can be predicted; `field` names the setting that chose the groups.
    pub(crate) fn check_some(&self, data: &Data, field: &str) -> Result<()> {
        let what = match self.unmatched.first() {
            _ if !self.groups.is_empty() => return Ok(()),
            None => "this part of the split has no perturbed cells".to_string(),
            Some(&first) => format!(
                "no perturbed group of this part of the split has control cells of its cell type, such as {}",
                data.describe(first)
            ),
        };
        Err(Error::setting(field, what))
    }
}

/// The control cells of a context. Controls come first, sorted by cell type and batch: those of a context are neighbours, whichever
/// they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Controls {
    /// The control groups that the cells belong to.
    pub groups: Range<u32>,
    cells: Range<u64>,
}

impl Controls {
    /// The cells of these groups, at least one.
    fn of(data: &Data, groups: Range<usize>) -> Self {
        let of = &data.groups()[groups.clone()];
        let cells = of[0].range().start..of[of.len() - 1].range().end;
        Controls { groups: groups.start as u32..groups.end as u32, cells }
    }

    /// Number of cells, never zero.
    pub fn cells(&self) -> u64 {
        self.cells.end - self.cells.start
    }

    /// Cell number of the `i`-th control.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn cell(&self, i: u64) -> u64 {
        assert!(i < self.cells(), "controls: no cell {i} among {}", self.cells());
        self.cells.start + i
    }

    /// Cell numbers by [`rounds`], without end.
    pub fn rounds(&self, rng: Rng) -> impl Iterator<Item = u64> {
        rounds(rng, self.cells()).map(|i| self.cell(i))
    }

    /// All cell numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.cells.clone()
    }
}

/// Control cells for a group: those of its cell type and batch, else those of its cell type in any batch, else none. None also
/// for a group that the data does not have.
pub fn control_pool(data: &Data, group: u32) -> Option<Controls> {
    let &Group { cell_type, batch, .. } = data.groups().get(group as usize)?;
    context_controls(data, cell_type, batch)
}

/// The same for a context that need not have perturbed cells; ids as in the manifest.
pub fn context_controls(data: &Data, cell_type: u32, batch: u32) -> Option<Controls> {
    let control = data.control_id();
    // Found without scanning the groups of other cell types.
    let groups = data.groups();
    let controls = groups.partition_point(|group| group.perturbation == control);
    let begin = groups[..controls].partition_point(|group| group.cell_type < cell_type);
    let end = groups[..controls].partition_point(|group| group.cell_type <= cell_type);
    match groups[begin..end].binary_search_by_key(&batch, |group| group.batch) {
        Ok(own) => Some(Controls::of(data, begin + own..begin + own + 1)),
        Err(_) if begin == end => None,
        Err(_) => Some(Controls::of(data, begin..end)),
    }
}

/// Numbers below `n` in random order, without end: every number once before any comes again. The first ones are the same however
/// many are taken.
///
/// # Panics
/// If `n` is 0.
pub fn rounds(rng: Rng, n: u64) -> impl Iterator<Item = u64> {
    (0..).map(move |round| rng.at(round).order(n)).flat_map(move |order| (0..n).map(move |i| order.at(i)))
}

/// `count` numbers below `n` in random order, for a set of training: all different if there are enough, else each drawn from all
/// `n`, with replacement.
///
/// # Panics
/// If `n` is 0 and `count` is not.
pub fn draw(rng: Rng, n: u64, count: usize) -> Vec<u64> {
    if count as u64 <= n {
        rng.sample(n, count)
    } else {
        (0..count as u64).map(|i| rng.below(i, n)).collect()
    }
}
