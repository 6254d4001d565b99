//! The unit in which cells are written: log1p values, as they are predicted; those divided by the factor; or drawn counts.

use super::held_out::HeldOut;
use super::{Job, Made, Pool, Settings, WrittenAs};
use crate::config::Observe;
use crate::data::h5ad::Writer;
use crate::data::normalise::{count_of, divisor};
use crate::data::observe::{Observer, known};
use crate::data::population::{Population, Unit};
use crate::data::shard::Manifest;
use crate::error::{Error, Result};

/// What draws counts, if any are drawn, and leaves them as they are if counts are to be written.
pub fn observer(unit: Unit, observe: Observe, manifest: &Manifest) -> Result<Option<Observer>> {
    let observer = Observer::asked(observe, manifest.target)?;
    match (unit, observer) {
        (Unit::Counts, None) => {
            let what = "counts are drawn around predicted means; choose log1p, or give `observe = poisson`";
            Err(Error::setting("unit", what))
        }
        (Unit::Counts, Some(observer)) => Ok(Some(observer.in_counts())),
        (_, observer) => Ok(observer),
    }
}

/// Refuses counts of measured cells that are known as logs alone.
pub fn check(settings: &Settings, job: &Job, measured: Option<&HeldOut>) -> Result<()> {
    let real = settings.source.real_out().is_some() && !measured.is_none_or(HeldOut::has_counts);
    if settings.unit == Unit::Counts && (real || settings.with_controls && !job.counts) {
        let what = "measured cells are to be written too, but only their log values are known; choose log1p";
        return Err(Error::setting("unit", what));
    }
    Ok(())
}

/// The file of predicted cells, still empty.
pub fn population(settings: &Settings, manifest: &Manifest) -> Result<Population<Writer>> {
    let mut population = Population::create(&settings.out, manifest)?;
    population.unit = settings.unit;
    Ok(population)
}

impl Made<'_> {
    /// Appends a predicted cell: log1p values, or counts if they stay what is drawn; `library` is that of its control cell.
    pub fn push_predicted(&mut self, labels: [&str; 3], row: &[f32], name: &str, library: f32) -> Result<()> {
        match self.population.unit {
            Unit::Log1p => self.population.push_predicted(labels, row, name),
            Unit::Scaled => {
                let scaled: Vec<f32> = row.iter().map(|x| x / self.manifest.factor).collect();
                self.population.push_predicted(labels, &scaled, name)
            }
            Unit::Counts => {
                self.population.push_predicted(labels, row, name)?;
                // As they were drawn: by the total of the control cell, if it has one.
                let target = self.manifest.target.expect("counts are drawn by it");
                self.population.set_total(if known(library) { library } else { target as f32 });
                Ok(())
            }
        }
    }

    /// Appends each control cell of a file once, under the control label; returns how many.
    pub fn push_controls(&mut self, mut job: Job) -> Result<usize> {
        let Made { population, manifest, .. } = self;
        let before = population.len();
        for Pool { names, controls, labels } in &job.pools {
            let Some(WrittenAs { cell_type, cells, batches }) = labels else { continue };
            let cells = cells.iter().zip(&controls.library).zip(names).zip(batches);
            for (((cell, &library), name), batch) in cells {
                // Contexts without controls of their own share those of other batches.
                let Some((genes, mut values)) = job.logs.remove(cell) else { continue };
                match population.unit {
                    Unit::Log1p => {}
                    Unit::Scaled => values.iter_mut().for_each(|x| *x /= manifest.factor),
                    Unit::Counts => {
                        let by = divisor(library, manifest.target.expect("counts are drawn by it"));
                        values.iter_mut().for_each(|x| *x = count_of(*x, by));
                    }
                }
                population.push_measured(name, [cell_type, &manifest.control, batch], &genes, &values)?;
                if population.unit == Unit::Counts {
                    population.set_total(library);
                }
            }
        }
        Ok(population.len() - before)
    }
}
