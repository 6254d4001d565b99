//! A trained model asked for populations: control cells of one context in, perturbed cells out.
//!
//! An answer is a function of (weights, controls, request, seed) alone: requests are never mixed in a batch, and their random
//! choices are keyed by the names they ask for.

use rayon::prelude::*;

use crate::data::effects::Effects;
use crate::data::observe::Observer;
use crate::data::shard::Data;
use crate::model::Model;
use crate::model::condition;
use crate::params::Params;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// Control cells of one context, on the network's scale.
pub struct ControlCells {
    /// Dense rows `[cells, G]`.
    pub rows: Vec<f32>,
    /// Total counts of each cell over all genes of its source; NaN where unknown.
    pub library: Vec<f32>,
}

impl ControlCells {
    /// Gathers cells of a data directory.
    pub fn of(data: &Data, cells: &[u64]) -> ControlCells {
        let genes = data.manifest().genes.len();
        let mut rows = vec![0.0; cells.len() * genes];
        rows.par_chunks_mut(genes).zip(cells).for_each(|(row, &cell)| data.fill(cell, row));
        ControlCells { rows, library: cells.iter().map(|&cell| data.row(cell).library).collect() }
    }

    /// Mean over the cells, `[G]`.
    pub fn mean(&self, genes: usize) -> Vec<f64> {
        let mut sum = vec![0.0; genes];
        for row in self.rows.chunks(genes) {
            sum.iter_mut().zip(row).for_each(|(s, &x)| *s += f64::from(x));
        }
        sum.iter_mut().for_each(|s| *s /= self.library.len().max(1) as f64);
        sum
    }
}

/// A population to predict: ids in the model's vocabularies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Cell type, perturbation, batch.
    pub conditions: [u32; 3],
    /// Cells wanted.
    pub cells: usize,
}

/// A model with the weights used for prediction.
pub struct Predictor<'a> {
    /// Where each weight is.
    pub model: &'a Model,
    /// The averaged weights.
    pub params: &'a Params,
    /// Mean effects for a shifted start.
    pub effects: &'a Effects,
    /// The network's scale is log1p divided by this.
    pub factor: f32,
    /// Of control draws, start noise and counts.
    pub seed: u64,
}

/// Control cells of one context, with what is added to all that is predicted from them.
pub struct Context<'a> {
    predictor: &'a Predictor<'a>,
    controls: &'a ControlCells,
    /// `[G]`.
    calibration: Vec<f32>,
}

/// Cells that measure the decoder's own bias in a context: more would not move the mean.
const CALIBRATION_CELLS: usize = 4096;

impl Predictor<'_> {
    fn genes(&self) -> usize {
        self.model.genes()
    }

    /// Control cells to predict from, and what the decoder itself makes of them. Panics on none.
    pub fn context<'a>(&'a self, controls: &'a ControlCells) -> Context<'a> {
        assert!(!controls.library.is_empty(), "predict: no control cells to predict from");
        Context { predictor: self, controls, calibration: self.calibration(controls) }
    }

    /// mean X0 - mean Dec(Z0) per gene over the context's controls, network's scale; zero where the config does not calibrate.
    fn calibration(&self, controls: &ControlCells) -> Vec<f32> {
        let (g, n) = (self.genes(), self.model.config().data.cells);
        if !self.model.config().predict.calibrate {
            return vec![0.0; g];
        }
        let cells = controls.library.len();
        let used = cells.min(CALIBRATION_CELLS).next_multiple_of(n);
        let picks: Vec<usize> = (0..used).map(|i| i % cells).collect();
        let mut offset = vec![0.0f64; g];
        for sets in picks.chunks(self.batch() * n) {
            let x0 = self.gather(controls, sets);
            let resting = self.model.reconstruct(self.params, &x0).to_host();
            for (x, y) in x0.data().chunks(g).zip(resting.data().chunks(g)) {
                offset.iter_mut().zip(x.iter().zip(y)).for_each(|(o, (x, y))| *o += f64::from(x - y));
            }
        }
        offset.iter().map(|o| (o / used as f64) as f32).collect()
    }

    /// Sets of one pass.
    fn batch(&self) -> usize {
        self.model.config().data.sets
    }

    /// Sets of control cells `[B, N, G]`.
    fn gather(&self, controls: &ControlCells, cells: &[usize]) -> Tensor {
        let (g, n) = (self.genes(), self.model.config().data.cells);
        let mut x = vec![0.0; cells.len() * g];
        x.par_chunks_mut(g)
            .zip(cells)
            .for_each(|(x, &cell)| x.copy_from_slice(&controls.rows[cell * g..][..g]));
        Tensor::new(&[cells.len() / n, n, g], x)
    }
}

impl Context<'_> {
    /// Predicts a population on the log1p scale, cell by cell: `take(row, control)` gets `[G]` values and the number of the
    /// control cell each was made from. `name` keys the request's random choices.
    pub fn predict(
        &self,
        request: Request,
        name: &str,
        observer: Option<&Observer>,
        mut take: impl FnMut(&[f32], usize),
    ) {
        let Context { predictor, controls, calibration } = self;
        let (g, config) = (predictor.genes(), predictor.model.config());
        let n = config.data.cells;
        let rng = Rng::new(predictor.seed).at(2).at(u64::from(crc32fast::hash(name.as_bytes())));
        let sets = request.cells.div_ceil(n);
        let picks = draws(controls.library.len(), sets * n, rng.at(0));
        let [cell_type, perturbation, _] = request.conditions;
        let shift =
            predictor.model.wants_shift().then(|| predictor.effects.elsewhere(cell_type, perturbation, g));
        let mut left = request.cells;
        for (batch, chunk) in picks.chunks(predictor.batch() * n).enumerate() {
            let b = chunk.len() / n;
            let x0 = predictor.gather(controls, chunk);
            let effect = shift.as_ref().map(|e| Tensor::new(&[b, g], e.repeat(b)));
            let tokens = condition::three(&vec![request.conditions; b]);
            let first = (batch * predictor.batch()) as u64;
            let starts: Vec<Rng> = (0..b as u64).map(|set| rng.at(1).at(first + set)).collect();
            let steps = config.predict.steps;
            let made =
                predictor.model.generate(predictor.params, &x0, effect.as_ref(), &tokens, steps, &starts);
            let mut rows = made.into_vec();
            rows.par_chunks_mut(g).zip(chunk).enumerate().for_each(|(i, (row, &control))| {
                for (y, offset) in row.iter_mut().zip(calibration) {
                    *y = ((*y + offset) * predictor.factor).max(0.0);
                }
                if let Some(observer) = observer {
                    let stream = rng.at(2).at(first * n as u64 + i as u64);
                    observer.observe(row, controls.library[control], stream);
                }
            });
            for (row, &control) in rows.chunks(g).zip(chunk).take(left) {
                take(row, control);
            }
            left = left.saturating_sub(chunk.len());
        }
    }
}

/// `count` control cells out of `pool`: every cell once before any is drawn again.
fn draws(pool: usize, count: usize, rng: Rng) -> Vec<usize> {
    let mut picks = Vec::with_capacity(count + pool);
    let mut round = 0;
    while picks.len() < count {
        let mut order: Vec<usize> = (0..pool).collect();
        rng.at(round).shuffle(&mut order);
        picks.extend(order);
        round += 1;
    }
    picks.truncate(count);
    picks
}
