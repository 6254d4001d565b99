//! What a split holds out of a data directory: every perturbed group of a part, to be predicted and compared with.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::unseen::hint;
use super::{Ask, Job, Pool, Report, Runs, held_cells};
use crate::data::controls::{Usable, control_pool};
use crate::data::h5ad::Writer;
use crate::data::population::{Beside, Population, Unit, other_controls, push_controls, write_measured};
use crate::data::shard::{Data, Same, Scale};
use crate::data::split::{Part, Split};
use crate::error::{Error, Result};
use crate::memory;
use crate::predictor::Request;
use crate::run_folder::RunFolder;

/// One part of a split of a data directory.
pub struct HeldOut {
    data: Data,
    /// Its perturbed groups; those with control cells are predicted.
    part: Usable,
    split: Split,
    /// Where the measured side's control cells come from, if not from `data`.
    controls: Option<Data>,
}

impl HeldOut {
    /// Opens and checks the data directories and the split.
    pub fn open(data: &Path, split: &Path, part: Part, controls: Option<&Path>) -> Result<HeldOut> {
        let data = Data::open(data)?;
        let split = Split::load(split, &data)?;
        let part = Usable::of(&data, split.part(part))?;
        let controls = controls.map(Data::open).transpose()?;
        // Before anything is predicted.
        controls.as_ref().map(|other| other_controls(&data, &part.groups, other)).transpose()?;
        Ok(HeldOut { data, part, split, controls })
    }

    /// Whether all that is measured is known as counts.
    pub fn has_counts(&self) -> bool {
        [Some(&self.data), self.controls.as_ref()]
            .into_iter()
            .flatten()
            .all(|data| data.manifest().scale == Scale::Counts)
    }

    /// SHA-256 of the split file.
    pub fn split(&self) -> &str {
        &self.split.hash
    }

    /// Every perturbed group whose cell type has control cells, with as many cells as were measured.
    pub fn job(&self, runs: &Runs, report: &mut Report) -> Result<Job> {
        let HeldOut { data, part, split, .. } = self;
        let other = |what: String| {
            let what = format!("is not what {} was trained on: {what}", runs.first().path.display());
            Error::format(data.dir(), format!("{what}; predict from an .h5ad with `Source::File` instead"))
        };
        let (known, here) = (runs.data(), data.manifest());
        if let Some(found) = known.difference(here, Same::Numbers) {
            return Err(other(found.told("in the run", "here")));
        }
        report.notes.extend(runs.say(|run| {
            let own = &run.trained.header.split;
            if *own == split.hash { Vec::new() } else { vec![self.other_split(&run.path, own)] }
        }));
        part.check_some(data, "part")?;
        report.notes.extend(part.note(data));
        let untold = here.scale != Scale::Counts && here.target.is_none();
        let mut job = Job { untold, counts: here.scale == Scale::Counts, ..Job::default() };
        // By control groups: batches without controls of their own share those of the cell type.
        let mut places: HashMap<Range<u32>, usize> = HashMap::new();
        let mut held = 0;
        for &g in &part.groups {
            let group = data.groups()[g as usize];
            let [c, p, b] = data.names(g);
            let pool = control_pool(data, g).expect("groups without controls were left out above");
            let place = match places.get(&pool.groups) {
                Some(&place) => place,
                None => {
                    held += pool.cells();
                    let (what, bytes) = held_cells(held, here);
                    memory::check("data", &what, bytes)?;
                    job.pools.push(Pool::of(data, &pool));
                    places.insert(pool.groups, job.pools.len() - 1);
                    job.pools.len() - 1
                }
            };
            let conditions = known.ids(c, p, b).map_err(|what| match hint(runs, c, p) {
                "" => other(what),
                hint => Error::format(data.dir(), what + hint),
            })?;
            let request = Request { conditions, cells: group.cells as usize };
            job.asks.push(Ask { request, pool: place });
        }
        Ok(job)
    }

    /// What it means for the predictions that the split is not the run's own, which has the hash `own`. `run` may be a checkpoint
    /// of the run.
    fn other_split(&self, run: &Path, own: &str) -> String {
        let HeldOut { data, part, .. } = self;
        let other = "the split file is not the one the run was trained with";
        let found = Split::load(&RunFolder::of(run).split(), data);
        let Some(own) = found.ok().filter(|found| found.hash == own) else { return other.into() };
        let trained = own.part(Part::Train);
        let known = part.groups.iter().filter(|g| trained.binary_search(g).is_ok());
        match known.map(|&g| u64::from(data.groups()[g as usize].cells)).sum::<u64>() {
            0 => format!("{other}, but the run was trained on none of these cells"),
            cells => format!("{other}: it was trained on {cells} of these perturbed cells"),
        }
    }

    /// Appends the control cells of the predicted pools, with the very numbers that [`HeldOut::write`] gives them; returns how
    /// many.
    pub fn push_controls(&self, population: &mut Population<Writer>) -> Result<usize> {
        let before = population.len();
        push_controls(population, &self.data, &self.part.groups)?;
        Ok(population.len() - before)
    }

    /// Writes what was measured of the predicted groups, with the controls of their pools or those that were asked for; returns
    /// the number of cells.
    pub fn write(&self, path: &Path, unit: Unit) -> Result<usize> {
        let controls = self.controls.as_ref().map_or(Beside::Own, Beside::Of);
        write_measured(path, &self.data, &self.part.groups, controls, unit, &self.split.hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::h5ad::H5ad;
    use crate::data::preprocess::{Genes, Settings, preprocess};
    use crate::data::simulate::{CONTROL, Settings as World, simulate};
    use crate::progress::Progress;

    #[test]
    fn what_was_measured_is_written_of_the_predicted_groups_alone() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| dir.path().join(name);
        let (cells, data, split, real) =
            (place("cells.h5ad"), place("data"), place("split.toml"), place("real.h5ad"));
        let world = World { cells: 300, genes: 30, perturbations: 3, cell_types: 2, ..World::default() };
        let mut world = simulate(&world).expect("a world");
        let perturbations = world.truth.perturbations.clone();
        let control = perturbations.iter().position(|name| name == CONTROL).expect("a control") as u32;
        // The second cell type keeps no control cell.
        let first = (control + 1) % perturbations.len() as u32;
        for cell in world.cells.iter_mut().filter(|cell| cell.cell_type == 1 && cell.perturbation == control)
        {
            cell.perturbation = first;
        }
        world.write(&cells).expect("written");
        let settings = Settings { genes: Genes::Top(30), ..Settings::of_simulated(&cells, &data) };
        preprocess(&settings, &Progress::silent()).expect("shards");
        std::fs::write(&split, "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n")
            .expect("written");
        HeldOut::open(&data, &split, Part::Train, None)
            .and_then(|held| held.write(&real, Unit::Log1p))
            .expect("written");
        let file = H5ad::open(&real).expect("readable");
        let types = file.obs().labels(&real, "cell_type").expect("a column");
        assert_eq!(types.names, world.truth.cell_types[..1]);
        let all = world.cells.iter().filter(|cell| cell.cell_type == 0).count();
        assert_eq!(types.len(), all);
    }
}
