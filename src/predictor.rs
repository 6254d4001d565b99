//! Asks a trained model for populations: control cells of one context in, perturbed cells out.
//!
//! An answer is a function of (weights, controls, request, seed) only: requests are never mixed in a batch, and their random
//! choices are keyed by the names they ask for. Several models are asked together by [`Context::of`], which averages their cells;
//! what each makes of the mean, and so how far they agree, is in the [`Means`] that are returned.
//!
//! ```no_run
//! use scale_engine::checkpoint::Trained;
//! use scale_engine::data::h5ad::H5ad;
//! use scale_engine::data::scale::Told;
//! use scale_engine::predictor::ControlCells;
//!
//! # fn main() -> scale_engine::error::Result<()> {
//! let trained = Trained::load("RUN".as_ref())?;
//! let predictor = trained.predictor(0);
//! // Any CSR matrix and its genes' names will do; `Told::default()` is for values that show by themselves what they are.
//! let file = H5ad::open("controls.h5ad".as_ref())?;
//! let x = file.rows(0..file.shape().0)?;
//! let told = Told::of(&file, None);
//! let controls = ControlCells::of_matrix(predictor.data, &file.var().index, &x, None, told)?;
//! let request = trained.request("K562", "MYC", "all", 500)?;
//! predictor.context(&controls)?.predict(request, trained.observer()?.as_ref(), |cell, control| {
//!     println!("{} genes, from control cell {control}", cell.len());
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```

mod context;
mod controls;
mod means;

use rayon::prelude::*;

pub use context::Context;
pub use controls::ControlCells;
pub(crate) use controls::Reading;
pub use means::Means;

use crate::checkpoint::Trained;
use crate::data::controls::rounds;
use crate::data::effects::Effects;
use crate::data::observe::Observer;
use crate::data::shard::Manifest;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::params::Params;
use crate::rng::Rng;
use crate::tensor::Tensor;

/// A population to predict: ids in the model's vocabularies; [`Trained::request`] makes one of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Cell type, perturbation, batch.
    pub conditions: [u32; 3],
    /// Cells wanted.
    pub cells: usize,
}

/// A model with the weights used for prediction; [`Trained::predictor`] makes one of a run.
#[derive(Clone, Copy)]
pub struct Predictor<'a> {
    /// Where each weight is.
    pub model: &'a Model,
    /// The averaged weights.
    pub params: &'a Params,
    /// Mean effects for a shifted start.
    pub effects: &'a Effects,
    /// What the model was trained on: names, genes, scale.
    pub data: &'a Manifest,
    /// Seed of control draws, start noise and counts.
    pub seed: u64,
}

brief!(Predictor<'_>, |predictor| model: predictor.model, seed: predictor.seed);

impl Trained {
    /// The run's model, ready to predict. `seed` is that of control draws, start noise and counts. Costs nothing: a program may
    /// keep the `Trained` and ask for this whenever it is needed.
    pub fn predictor(&self, seed: u64) -> Predictor<'_> {
        let Trained { header, effects, model, params, .. } = self;
        Predictor { model, params, effects, data: &header.data, seed }
    }

    /// A request by name.
    ///
    /// # Errors
    /// A name that the model does not know, with the nearest ones; a perturbation of which it [knows only the
    /// name](Trained::knows_only_name); no cells asked for.
    pub fn request(&self, cell_type: &str, perturbation: &str, batch: &str, cells: usize) -> Result<Request> {
        let wrong = |what| Error::setting("request", what);
        if cells == 0 {
            return Err(wrong(NO_CELLS.into()));
        }
        let conditions = self.header.data.ids(cell_type, perturbation, batch).map_err(wrong)?;
        match self.knows_only_name(perturbation) {
            true => Err(wrong(format!("the run {}", only_name(perturbation)))),
            false => Ok(Request { conditions, cells }),
        }
    }

    /// True if the split kept all cells of this perturbation out of training and no features describe it: its row still has the
    /// numbers that were drawn at the start, and so does what would be predicted.
    pub fn knows_only_name(&self, perturbation: &str) -> bool {
        self.features.is_none() && self.header.untrained.iter().any(|name| name == perturbation)
    }

    /// What draws counts, if `predict.observe` of the run's config says so; `None` too if its data do not tell to what total cells
    /// were scaled.
    ///
    /// # Errors
    /// As [`Observer::asked`].
    pub fn observer(&self) -> Result<Option<Observer>> {
        Observer::asked(self.header.observe(), self.header.data.target)
    }
}

/// Why a run is not asked for a perturbation.
pub(crate) fn only_name(perturbation: &str) -> String {
    format!("was not trained on any cell with {perturbation:?}, and has no features for it")
}

/// A mean of no cells would be neither a number nor an effect.
const NO_CELLS: &str = "asks for 0 cells; ask for one or more";

/// Cells that measure the decoder's own bias in a context: more would not move the mean.
const CALIBRATION_CELLS: usize = 4096;

impl<'a> Predictor<'a> {
    fn genes(&self) -> usize {
        self.model.genes()
    }

    /// Takes control cells to predict from, and measures what the decoder itself makes of them.
    ///
    /// # Errors
    /// As [`Context::of`].
    pub fn context(self, controls: &'a ControlCells) -> Result<Context<'a>> {
        Context::of(&[self], controls)
    }

    /// mean X0 - mean Dec(Z0) per gene over the context's controls, of which [`CALIBRATION_CELLS`] are drawn if there are more, on
    /// the network's scale; zero if the config does not calibrate.
    /// Cells that do not fill the last set are repeated from the first on, and repeated cells weigh more in the mean: of 5 cells in
    /// sets of 32 two weigh 7 and three 6.
    fn calibration(&self, controls: &ControlCells) -> Vec<f32> {
        let (g, n) = (self.genes(), self.model.config().data.cells);
        if !self.model.config().predict.calibrate {
            return vec![0.0; g];
        }
        let cells = controls.library.len();
        let used = cells.min(CALIBRATION_CELLS).next_multiple_of(n);
        let picks: Vec<usize> = match cells > used {
            // In any order but that of the file, which may list them by batch.
            true => rounds(Rng::new(0), cells as u64).take(used).map(|i| i as usize).collect(),
            false => (0..used).map(|i| i % cells).collect(),
        };
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

    /// Number of sets in one pass.
    fn batch(&self) -> usize {
        self.model.config().data.sets
    }

    /// Sets of control cells `[B, N, G]`.
    fn gather(&self, controls: &ControlCells, cells: &[usize]) -> Tensor {
        let (g, n) = (self.genes(), self.model.config().data.cells);
        let mut x = vec![0.0; cells.len() * g];
        x.par_chunks_mut(g).zip(cells).for_each(|(x, &cell)| x.copy_from_slice(controls.row(cell)));
        Tensor::new(&[cells.len() / n, n, g], x)
    }
}
