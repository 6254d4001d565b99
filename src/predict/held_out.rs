//! What a split holds out of a data directory: every perturbed group of a part, to be predicted and compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Ask, Context, Job, Report, Settings, controls_fit};
use crate::checkpoint::Header;
use crate::data::controls::control_pool;
use crate::data::population::{Population, perturbed_groups, push_controls, write_measured};
use crate::data::shard::Data;
use crate::data::split::{Part, Split};
use crate::error::{Error, Result, some_of};
use crate::predictor::Request;

/// One part of a split of a data directory.
pub struct HeldOut {
    data: Data,
    groups: Vec<u32>,
    split: Split,
}

impl HeldOut {
    /// Opens and checks the data directory and the split.
    pub fn open(data: &Path, split: &Path, part: Part) -> Result<HeldOut> {
        let data = Data::open(data)?;
        let split = Split::load(split, &data)?;
        Ok(HeldOut { groups: split.part(part).to_vec(), data, split })
    }

    /// Every perturbed group, with as many cells as were measured.
    pub fn job(&self, header: &Header, settings: &Settings, report: &mut Report) -> Result<Job> {
        let HeldOut { data, groups, split } = self;
        let other = |what: String| {
            let what = format!("is not what {} was trained on: {what}", settings.run.display());
            Error::format(data.dir(), format!("{what}; predict from an .h5ad with --controls instead"))
        };
        let (known, here) = (&header.data, data.manifest());
        if let Some(what) = known.other_numbers(here) {
            return Err(other(what));
        }
        if split.hash != header.split {
            report.notes.push(self.other_split(&settings.run));
        }
        let mut job = Job::default();
        // By control groups: batches without controls of their own share those of the cell type.
        let mut places: BTreeMap<Vec<u32>, usize> = BTreeMap::new();
        let mut held = 0;
        for &g in groups {
            let group = data.groups()[g as usize];
            if group.perturbation == data.control_id() {
                continue;
            }
            let [c, p, b] = data.names(g);
            let Some(pool) = control_pool(data, g) else {
                let what = "no control cells of this cell type; not predicted";
                report.notes.push(format!("{c} / {p} / {b}: {what}"));
                continue;
            };
            let context = match places.get(&pool.groups) {
                Some(&context) => context,
                None => {
                    held += pool.cells();
                    controls_fit("--data", held, here)?;
                    job.contexts.push(Context::of(data, &pool));
                    places.insert(pool.groups, job.contexts.len() - 1);
                    job.contexts.len() - 1
                }
            };
            let conditions = known.ids(c, p, b).map_err(other)?;
            let request = Request { conditions, cells: group.cells as usize };
            job.asks.push(Ask { request, context });
        }
        let asked: BTreeSet<&str> =
            job.asks.iter().map(|ask| known.names_of(ask.request.conditions)[1]).collect();
        let untrained = header.untrained.iter().map(String::as_str);
        let untrained: Vec<&str> = untrained.filter(|name| asked.contains(name)).collect();
        if !untrained.is_empty() {
            let names = some_of(&untrained);
            report
                .notes
                .push(format!("meaningless, since the run was not trained on any of their cells: {names}"));
        }
        match job.asks.is_empty() {
            true => Err(Error::setting("--subset", "has no perturbed cells in this split")),
            false => Ok(job),
        }
    }

    /// What it means for the predictions that the split is not the run's own.
    fn other_split(&self, run: &Path) -> String {
        let HeldOut { data, groups, .. } = self;
        let other = "the split file is not the one the run was trained with";
        let Ok(own) = Split::load(&run.join("split.toml"), data) else { return other.into() };
        let trained = own.part(Part::Train);
        let control = data.control_id();
        let known = groups.iter().map(|&g| (g, data.groups()[g as usize]));
        let known =
            known.filter(|(g, group)| group.perturbation != control && trained.binary_search(g).is_ok());
        match known.map(|(_, group)| u64::from(group.cells)).sum::<u64>() {
            0 => format!("{other}, but the run was trained on none of these cells"),
            cells => format!("{other}: it was trained on {cells} of these perturbed cells"),
        }
    }

    /// Appends the control cells of the predicted contexts, with the very numbers that [`HeldOut::write`] gives them; returns how
    /// many.
    pub fn push_controls(&self, population: &mut Population) -> usize {
        let before = population.len();
        push_controls(population, &self.data, &perturbed_groups(&self.data, &self.groups));
        population.predicted_from.resize(population.len(), String::new());
        population.len() - before
    }

    /// Writes what was measured, with the controls of its contexts.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_measured(path, &self.data, &self.groups, true, &self.split.hash).map(drop)
    }
}
