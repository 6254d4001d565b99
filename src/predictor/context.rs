//! Control cells of one context, asked for populations through one model or several.

use rayon::prelude::*;

use super::means::Sum;
use super::{ControlCells, Means, NO_CELLS, Predictor, Request};
use crate::data::controls::rounds;
use crate::data::normalise::greatest;
use crate::data::observe::Observer;
use crate::data::shard::Same;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, guard};
use crate::model::condition;
use crate::rng::{Rng, stream};
use crate::tensor::Tensor;

/// Control cells of one context, with the correction for everything that each model predicts from them.
pub struct Context<'a> {
    controls: &'a ControlCells,
    models: Vec<Calibrated<'a>>,
}

brief!(Context<'_>, |context| controls: context.controls, models: context.models.len());

/// A model, and how far its decoder is off in a context.
struct Calibrated<'a> {
    predictor: Predictor<'a>,
    /// `[G]`, added to every decoded cell.
    offset: Vec<f32>,
}

/// A population under way, as one model makes it.
struct Course<'a> {
    model: &'a Calibrated<'a>,
    controls: &'a ControlCells,
    conditions: [u32; 3],
    /// `[G]`, if the model's start is shifted.
    shift: Option<Vec<f32>>,
    /// Keyed by the population's names and the seed.
    rng: Rng,
    /// Sets made so far.
    sets: u64,
    /// Of the cells made so far.
    sum: Sum,
}

impl<'a> Context<'a> {
    /// Takes control cells to predict from through one model, or through several whose answers are averaged cell by cell, and
    /// measures what each decoder itself makes of them.
    ///
    /// # Errors
    /// No model; models of other genes, names, total or factor than the first, or of another seed. No cells, or cells made for data
    /// of other genes, another factor or another total; the GPU failed.
    pub fn of(predictors: &[Predictor<'a>], controls: &'a ControlCells) -> Result<Context<'a>> {
        let wrong = |what: String| Err(Error::setting("predictors", what));
        let Some(first) = predictors.first() else { return wrong("there are none; give one or more".into()) };
        predictors.iter().filter_map(|of| of.params.read().gpu()).try_for_each(Gpu::must_compute)?;
        for other in &predictors[1..] {
            if let Some(found) = first.data.difference(other.data, Same::All) {
                let what = found.told("there", "here");
                return wrong(format!("a model learned from other data than the first: {what}"));
            }
            if first.seed != other.seed {
                return wrong(format!(
                    "they have the seeds {} and {}; give them one",
                    first.seed, other.seed
                ));
            }
        }
        if controls.is_empty() {
            return Err(Error::setting(
                "controls",
                "there are none; a prediction begins at one or more control cells",
            ));
        }
        if let Some(found) = first.data.meaning().difference(&controls.meaning) {
            let what = found.told("in the run", "here");
            let way = "make them with the run's own manifest (`Trained::header.data`)";
            let what = format!("were made for other data than the run's: {what}; {way}");
            return Err(Error::setting("controls", what));
        }
        let calibrated = |&predictor: &Predictor<'a>| {
            guard(|| Ok(Calibrated { offset: predictor.calibration(controls), predictor }))
        };
        Ok(Context { controls, models: predictors.iter().map(calibrated).collect::<Result<_>>()? })
    }

    /// Predicts a population on the log1p scale, cell by cell: `take(row, control)` gets `[G]` values and the number of the control
    /// cell that they were made from; no more are made after its first error. Memory holds one pass of each model, however many
    /// cells are wanted. NaN weights give NaN cells. Returns what each model makes of the mean.
    ///
    /// Each model sees the control cells in sets of its own size. Where these sizes do not fit together, a pass may end inside one
    /// model's set, and that model's cells then differ slightly from those that it predicts alone.
    ///
    /// # Errors
    /// Ids that the model does not know; no cells asked for; what `take` answers; the GPU failed.
    pub fn predict(
        &self,
        request: Request,
        observer: Option<&Observer>,
        take: impl FnMut(&[f32], usize) -> Result<()>,
    ) -> Result<Means> {
        guard(|| self.predicted(request, observer, take))
    }

    fn predicted(
        &self,
        request: Request,
        observer: Option<&Observer>,
        mut take: impl FnMut(&[f32], usize) -> Result<()>,
    ) -> Result<Means> {
        let Context { controls, models } = self;
        let Predictor { data, seed, .. } = models[0].predictor;
        if let Some((kind, id, count)) = data.beyond(request.conditions) {
            return Err(Error::setting("request", format!("there is no {kind} {id}: the run had {count}")));
        }
        if request.cells == 0 {
            return Err(Error::setting("request", NO_CELLS));
        }
        let [cell_type, perturbation, batch] = data.names_of(request.conditions);
        let name = format!("{cell_type}\0{perturbation}\0{batch}");
        let rng = Rng::new(seed).at(stream::PREDICT).at(u64::from(crc32fast::hash(name.as_bytes())));
        let mut picks = rounds(rng.at(0), controls.len() as u64).map(|i| i as usize);
        let g = models[0].predictor.genes();
        let mut courses: Vec<Course> =
            models.iter().map(|model| model.course(controls, request.conditions, rng)).collect();
        let mut sum_of_controls = Sum::new(g);
        // The longest pass of all; each model makes it in as many of its own as it needs.
        let most = models.iter().map(Calibrated::pass).max().unwrap_or(1);
        // Picked and not yet predicted from: whole sets may reach beyond a pass.
        let mut chunk: Vec<usize> = Vec::new();
        for first in (0..request.cells).step_by(most) {
            let wanted = most.min(request.cells - first);
            let whole_sets =
                models.iter().map(|model| wanted.next_multiple_of(model.set())).max().unwrap_or(0);
            chunk.extend(picks.by_ref().take(whole_sets.saturating_sub(chunk.len())));
            let mut rows: Vec<f32> = Vec::new();
            for course in &mut courses {
                let made = course.cells(&chunk, wanted);
                match rows.is_empty() {
                    true => rows = made,
                    false => rows.par_iter_mut().zip(&made).for_each(|(sum, x)| *sum += x),
                }
            }
            sum_of_controls.add(chunk[..wanted].iter().map(|&cell| controls.row(cell)));
            rows.truncate(wanted * g);
            rows.par_chunks_mut(g).zip(&chunk).enumerate().for_each(|(i, (row, &control))| {
                if models.len() > 1 {
                    row.iter_mut().for_each(|sum| *sum /= models.len() as f32);
                }
                if let Some(observer) = observer {
                    let drawn = rng.at(2).at((first + i) as u64);
                    observer.observe(row, controls.library[control], drawn);
                }
            });
            for (row, control) in rows.chunks(g).zip(chunk.drain(..wanted)) {
                take(row, control)?;
            }
        }
        let each = courses.iter().map(|course| course.sum.mean(1.0)).collect();
        Ok(Means { each, controls: sum_of_controls.mean(data.factor.into()) })
    }
}

impl Calibrated<'_> {
    /// Cells of a set.
    fn set(&self) -> usize {
        self.predictor.model.config().data.cells
    }

    /// Cells of a pass.
    fn pass(&self) -> usize {
        self.predictor.batch() * self.set()
    }

    /// A population of these conditions, not yet begun.
    fn course<'a>(&'a self, controls: &'a ControlCells, conditions: [u32; 3], rng: Rng) -> Course<'a> {
        let [cell_type, perturbation, _] = conditions;
        let Predictor { model, effects, .. } = self.predictor;
        let shift = model.config().wants_shift().then(|| effects.elsewhere(cell_type, perturbation));
        Course { model: self, controls, conditions, shift, rng, sets: 0, sum: Sum::new(model.genes()) }
    }
}

impl Course<'_> {
    /// What the model makes of the first `wanted` control cells of `chunk`, on the log1p scale, `[cells, G]`: in whole sets, so
    /// more cells than `wanted` if that does not fill its last set.
    fn cells(&mut self, chunk: &[usize], wanted: usize) -> Vec<f32> {
        let Calibrated { predictor, offset } = self.model;
        let (model, g, factor) = (predictor.model, predictor.genes(), predictor.data.factor);
        let most = greatest(predictor.data.target);
        let mut made: Vec<f32> = Vec::new();
        for chunk in chunk[..wanted.next_multiple_of(self.model.set())].chunks(self.model.pass()) {
            let b = chunk.len() / self.model.set();
            let x0 = predictor.gather(self.controls, chunk);
            let shift = self.shift.as_ref().map(|effect| Tensor::new(&[b, g], effect.repeat(b)));
            let tokens = condition::three(&vec![self.conditions; b]);
            let starts: Vec<Rng> = (0..b as u64).map(|i| self.rng.at(1).at(self.sets + i)).collect();
            let steps = model.config().predict.steps;
            let mut rows =
                model.generate(predictor.params, &x0, shift.as_ref(), &tokens, steps, &starts).into_vec();
            rows.par_chunks_mut(g).for_each(|row| {
                for (y, offset) in row.iter_mut().zip(offset) {
                    // Not max, which would turn NaN into zero.
                    *y = ((*y + offset) * factor).clamp(0.0, f32::INFINITY);
                    if y.is_finite() {
                        *y = y.min(most);
                    }
                }
            });
            match made.is_empty() {
                true => made = rows,
                false => made.extend(rows),
            }
            self.sets += b as u64;
        }
        self.sum.add(made.chunks(g).take(wanted));
        made
    }
}
