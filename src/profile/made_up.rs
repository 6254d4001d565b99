//! A model in training on made-up cells, placed where the step is computed.

use serde::Serialize;

use rayon::prelude::*;

use crate::collective::Ranks;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::memory;
use crate::model::Statistics;
use crate::model::condition::Vocabulary;
use crate::model::losses::Examples;
use crate::rng::Rng;
use crate::tensor::Tensor;
use crate::train::{Learner, check_memory};

use super::Times;

/// What is trained.
#[derive(Clone, Debug, Serialize, clap::Args)]
pub struct Sizes {
    /// Model size: tiny, s40, s184 or s280
    #[arg(long, default_value = "tiny")]
    pub preset: String,
    /// B, sets per step
    #[arg(long, default_value_t = 16, value_parser = positive)]
    pub sets: usize,
    /// N, cells per set: a training step has B x N pairs, a prediction makes B x N cells
    #[arg(long, default_value_t = 32, value_parser = two_or_more)]
    pub cells: usize,
    /// G, genes of the made-up cells
    #[arg(long, default_value_t = 2000, value_parser = positive)]
    pub genes: usize,
}

/// Parses a count of at least one, given as an option.
///
/// # Errors
/// Text that is none.
pub fn positive(text: &str) -> std::result::Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "expected a whole number".to_string())?;
    if count == 0 { Err("expected at least 1".into()) } else { Ok(count) }
}

/// How often something may be timed: each time is remembered.
pub const MOST_REPEATS: u64 = 1_000_000;

/// Parses how often something is timed, given as an option.
///
/// # Errors
/// Text that is no such number.
pub fn repeats(text: &str) -> std::result::Result<usize, String> {
    match positive(text)? {
        count if count as u64 > MOST_REPEATS => Err(format!("expected at most {MOST_REPEATS}")),
        count => Ok(count),
    }
}

/// A set of fewer cells has no spread.
fn two_or_more(text: &str) -> std::result::Result<usize, String> {
    match positive(text)? {
        1 => Err("expected at least 2".into()),
        count => Ok(count),
    }
}

/// Bytes of a step's cells, as f32, up to which a step is counted without a device: kernels number a step's rows in 32 bits, and no
/// GPU holds what the larger presets make of more cells.
const MOST_COUNTED: u64 = 1 << 33;

/// The vocabularies for which the presets' sizes are stated.
pub fn vocabulary() -> Vocabulary {
    Vocabulary { cell_types: 50, perturbations: 1200, batches: 14, features: None }
}

/// The model and its one batch.
#[derive(Debug)]
pub struct MadeUp {
    /// The model in training.
    pub learner: Learner,
    /// Four genes in five of a cell are zero.
    pub examples: Examples,
}

impl MadeUp {
    /// Draws first weights and cells. The process keeps the memory that it frees, as in training.
    ///
    /// # Errors
    /// Sizes that cannot run, or do not fit in memory.
    pub fn new(sizes: &Sizes, gpu: Option<&Gpu>) -> Result<MadeUp> {
        MadeUp::made(sizes, gpu, true)
    }

    /// The same on the host, to predict only: nothing is kept for a backward pass.
    ///
    /// # Errors
    /// As [`MadeUp::new`].
    pub fn to_predict(sizes: &Sizes) -> Result<MadeUp> {
        MadeUp::made(sizes, None, false)
    }

    fn made(sizes: &Sizes, gpu: Option<&Gpu>, trains: bool) -> Result<MadeUp> {
        memory::keep();
        let bytes = [2 * 4, sizes.sets, sizes.cells, sizes.genes]
            .iter()
            .fold(1u64, |all, &n| all.saturating_mul(n as u64));
        let fields = "sets, cells or genes";
        if gpu.is_none_or(Gpu::computes) {
            memory::check(fields, "the cells of a step", bytes)?;
        } else if bytes > MOST_COUNTED {
            return Err(Error::setting(fields, "more cells per step than any GPU can train on"));
        }
        let set = [format!("data.sets={}", sizes.sets), format!("data.cells={}", sizes.cells)];
        let config = Config::load(Some(&sizes.preset), None, &set)?;
        let statistics = Statistics { mean: vec![0.1; sizes.genes], std: vec![0.1; sizes.genes] };
        let vocabulary = vocabulary();
        let sets = if trains { sizes.sets } else { 0 };
        check_memory(&config, &vocabulary, sizes.genes, [1, sets], gpu.is_some())?;
        let learner = Learner::new(&config, &vocabulary, statistics, gpu)?;
        Ok(MadeUp { learner, examples: examples(sizes, gpu) })
    }

    /// Step k: losses, gradients, weights. Does not wait for the device.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn step(&mut self, k: u64) -> Result<()> {
        self.learner.step(&self.examples, k, &Ranks::alone()).map(|_| ())
    }

    /// Times of so many steps.
    ///
    /// # Errors
    /// As [`Learner::step`].
    ///
    /// # Panics
    /// If there are none.
    pub fn times(&mut self, steps: u64) -> Result<Times> {
        let gpu = self.learner.params.gpu().cloned();
        Times::of_turns(steps, gpu.as_ref(), |k| self.step(k))
    }
}

fn examples(sizes: &Sizes, gpu: Option<&Gpu>) -> Examples {
    let (b, n, g) = (sizes.sets, sizes.cells, sizes.genes);
    let rng = Rng::new(1);
    let cell = |i: u64| if rng.at(0).uniform(i) < 0.2 { rng.at(1).uniform(i) } else { 0.0 };
    let drawn =
        || Tensor::new(&[2 * b, n, g], (0..(2 * b * n * g) as u64).into_par_iter().map(cell).collect());
    let cells = match gpu {
        Some(gpu) if !gpu.computes() => Tensor::on(gpu, "cells", &[2 * b, n, g], gpu.real()),
        Some(gpu) => drawn().to_gpu(gpu, "cells", gpu.real()),
        None => drawn(),
    };
    let ids: Vec<[u32; 3]> = (0..b as u32).map(|i| [i % 50, 1 + i % 1199, i % 14]).collect();
    Examples::new(cells, None, &ids)
}
