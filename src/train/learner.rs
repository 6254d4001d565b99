//! A model in training: one step's losses, gradients and weights, on the host or on a device.

use std::ops::Range;

use crate::collective::Ranks;
use crate::config::{Config, EncoderKind, LossConfig};
use crate::error::Result;
use crate::gpu::{Gpu, guard};
use crate::laps::{Laps, Pass};
use crate::memory;
use crate::model::condition::Vocabulary;
use crate::model::losses::{Draws, Examples, Losses};
use crate::model::{Model, Statistics};
use crate::ops::adamw;
use crate::optim::Optimizer;
use crate::params::{Flats, Params, Share, Table};
use crate::rng::{Rng, stream};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::trace;

/// The model, its weights and their moments.
#[derive(Debug)]
pub struct Learner {
    /// Where each weight is.
    pub model: Model,
    /// The weights and the gradients of the last step.
    pub params: Params,
    /// Moments and averaged weights.
    pub optimizer: Optimizer,
    /// CRC-32 of the weights it started with.
    pub checksum: u32,
    /// Where each op's cost is recorded, if anywhere.
    pub laps: Option<Laps>,
}

/// The weights that a learner starts with; flat, on the host.
#[derive(Clone, Debug)]
pub enum InitialWeights {
    /// Drawn from the config's seed.
    Drawn,
    /// These, before their first step.
    Given(Tensor),
    /// What a checkpoint holds: weights, averaged weights and both moments.
    Resumed(Flats<Tensor>),
}

/// What a step found. The numbers stay where they were computed, so that nobody waits for a device until they read one.
#[derive(Debug)]
pub struct Computed {
    /// The loss, `[1]`.
    pub loss: Tensor,
    /// Its parts before their weights, `[1]` each.
    pub parts: Vec<(&'static str, Tensor)>,
    /// Latents of the batch, `[2B, N, D]`.
    pub latents: Tensor,
}

/// Refuses a model that this machine's memory cannot hold: its weights with gradients, averages and moments, and a checkpoint's
/// copy of them, or what a step keeps for its backward pass. `ranks` of this process train on `sets` sets together. On GPUs the
/// host holds only the checkpoint's copy and each rank's first weights; what a step takes on a device is reported when it is laid
/// out.
pub(crate) fn check_memory(
    config: &Config,
    vocabulary: &Vocabulary,
    genes: usize,
    [ranks, sets]: [usize; 2],
    on_gpu: bool,
) -> Result<()> {
    let zeros = vec![0.0; genes];
    let (_, table) = Model::new(config, vocabulary, Statistics { mean: zeros.clone(), std: zeros });
    // A checkpoint's copy is that of weights, average and two moments; a CPU's rank holds gradients, too.
    let copies = 4 + ranks as u64 * if on_gpu { 1 } else { 5 };
    let weights = (table.len() as u64).saturating_mul(4 * copies);
    memory::check("encoder.width, flow.width or preset", "the model's weights and moments", weights)?;
    if on_gpu {
        return Ok(());
    }
    let cells = config.data.cells as u64;
    let pairs = (sets as u64).saturating_mul(cells);
    let of_pair = kept(config, genes as u64).saturating_add(cells.saturating_mul(distances(&config.loss)));
    let all = pairs.saturating_mul(of_pair.saturating_mul(4)).saturating_add(weights);
    memory::check(
        "data.sets, data.cells or preset",
        "the model and what a step keeps for its backward pass",
        all,
    )
}

/// Numbers that the MMDs keep per pair and per cell of its set: for both reconstructed sets, to themselves and to the true cells
/// (4); the endpoint's MMD adds two.
fn distances(loss: &LossConfig) -> u64 {
    4 + 2 * u64::from(loss.w_endpoint > 0.0)
}

/// Numbers that a CPU keeps per pair of cells from the forward to the backward pass. Smaller tensors are left out, so a step takes
/// more.
fn kept(config: &Config, genes: u64) -> u64 {
    let (encoder, flow) = (&config.encoder, &config.flow);
    let [patch, e, f, d, ffn] =
        [encoder.patch, encoder.width, encoder.ffn, flow.width, flow.ffn].map(|n| n as u64);
    // Per token: two norms, queries, keys and values, attention's output, two sums; the MLP.
    let token = match encoder.kind {
        EncoderKind::Llama => 8 * e + 3 * f,
        EncoderKind::Attention => 8 * e + 8 * e,
        EncoderKind::Mlp => 0,
    };
    let cell = 3 * genes + genes.div_ceil(patch) * encoder.layers as u64 * token;
    let pair = 2 * cell + flow.layers as u64 * (6 * d + 3 * ffn);
    // Measured steps take a third more than this (tiny, 256 to 1,024 cells per set, where distances are at most a tenth of it).
    // Only a quarter is added, so that nothing that would fit is refused.
    pair + pair / 4
}

impl Learner {
    /// Starts with weights drawn from the config's seed.
    ///
    /// # Errors
    /// A config that cannot run ([`Config::validate`]).
    ///
    /// # Panics
    /// If the two statistics have different lengths, or the features have not one row for each perturbation.
    pub fn new(
        config: &Config,
        vocabulary: &Vocabulary,
        statistics: Statistics,
        gpu: Option<&Gpu>,
    ) -> Result<Learner> {
        config.validate()?;
        Ok(Learner::of_ranks(config, vocabulary, statistics, gpu, &Ranks::alone(), InitialWeights::Drawn))
    }

    /// As [`Learner::new`], for one of several ranks, which share the optimizer if the config says so, and from any weights.
    ///
    /// # Panics
    /// As [`Model::new`]; if given weights are not the model's.
    pub(crate) fn of_ranks(
        config: &Config,
        vocabulary: &Vocabulary,
        statistics: Statistics,
        gpu: Option<&Gpu>,
        ranks: &Ranks,
        weights: InitialWeights,
    ) -> Learner {
        let (mut model, mut table) = Model::new(config, vocabulary, statistics);
        let share = match config.optim.shard {
            true => table.share(ranks.rank(), ranks.count()),
            false => Share::whole(table.len()),
        };
        let (weights, resumed) = match weights {
            InitialWeights::Drawn => (drawn_weights(config, &table), None),
            InitialWeights::Given(weights) => (own(weights, table.len(), gpu), None),
            InitialWeights::Resumed(flats) => {
                let Flats { weights, average, moment1, moment2 } =
                    flats.map(|flat| own(flat, table.len(), gpu));
                (weights, Some((average, [moment1, moment2])))
            }
        };
        let checksum = crc32fast::hash(bytemuck::cast_slice(weights.data()));
        let mut params = Params::new(table, weights);
        if let Some(gpu) = gpu {
            (model, params) = (model.to_gpu(gpu), params.to_gpu(gpu));
        }
        params = params.with_gradients();
        let optimizer = match &resumed {
            Some((average, moments)) => Optimizer::resume(&mut params, share, average, moments.each_ref()),
            None => Optimizer::new(&mut params, share),
        };
        Learner { model, params, optimizer, checksum, laps: None }
    }

    /// Step k: losses of a batch, their gradients, the update. Also returns the gradients' norm before the clip, `[1]`. With
    /// several ranks each has a share of the batch. Steps of one shape run as one piece of work on a device.
    ///
    /// # Errors
    /// A rank that failed or is gone.
    pub fn step(&mut self, examples: &Examples, k: u64, ranks: &Ranks) -> Result<(Computed, Tensor)> {
        let Some(gpu) = self.params.gpu().cloned() else { return self.plain_step(examples, k, ranks) };
        let stepped = match self.is_one_piece(ranks) {
            true => gpu.as_one(&shape(examples), || self.plain_step(examples, k, ranks)),
            false => gpu.in_block(|| self.plain_step(examples, k, ranks)),
        };
        ranks.explain(stepped)
    }

    /// Lays out the memory of such steps on a device, if they run as one piece of work: for other work that comes before the first
    /// of them ([`Gpu::in_block`]).
    ///
    /// # Errors
    /// As for [`Learner::step`]; or the memory does not suffice.
    pub(crate) fn lay_out(&mut self, examples: &Examples, k: u64, ranks: &Ranks) -> Result<()> {
        match self.params.gpu().cloned().filter(|_| self.is_one_piece(ranks)) {
            Some(gpu) => gpu.lay_out(&shape(examples), || self.plain_step(examples, k, ranks)),
            None => Ok(()),
        }
    }

    /// False if ops are timed, which is done one by one, or if the host sums the ranks' gradients, which it must read from the
    /// device.
    fn is_one_piece(&self, ranks: &Ranks) -> bool {
        self.laps.is_none() && ranks.queue_sums()
    }

    /// Sends gradients to the other ranks as the backward pass finishes them.
    fn plain_step(&mut self, examples: &Examples, k: u64, ranks: &Ranks) -> Result<(Computed, Tensor)> {
        let mut exchange = ranks.exchange(&self.params, self.optimizer.share());
        let found = match self.params.gpu() {
            Some(_) => self.compute(examples, k, |losses| losses.total, &mut |entry| exchange.finish(entry)),
            None => self.gradients(examples, k),
        };
        exchange.end(&mut self.params)?;
        let clip = self.clip(self.model.config().optim.clip, ranks)?;
        self.advance(&clip, k, ranks)?;
        Ok((found, clip.slice(0..1)))
    }

    /// Norm of all gradients, this share's and the others', and the factor that clips it to `limit`, `[2]`, where the gradients
    /// are.
    ///
    /// # Errors
    /// A rank that failed or is gone.
    pub fn clip(&self, limit: f64, ranks: &Ranks) -> Result<Tensor> {
        let mut squares = self.optimizer.squares(self.params.grads());
        ranks.gather(&self.optimizer.share().of(squares.len()), &mut squares)?;
        Ok(adamw::clip(&squares, limit))
    }

    /// Computes the losses of step k's batch and leaves their gradients in the parameters.
    pub fn gradients(&mut self, examples: &Examples, k: u64) -> Computed {
        self.gradients_of(examples, k, |losses| losses.total)
    }

    /// As [`Learner::gradients`], for one of the losses.
    pub(crate) fn gradients_of(
        &mut self,
        examples: &Examples,
        k: u64,
        which: impl Fn(&Losses) -> Var + Send,
    ) -> Computed {
        in_pool(self.params.gpu().is_none(), || self.compute(examples, k, which, &mut |_| {}))
    }

    /// On a device, `finished` is called with each parameter whose gradient is final.
    fn compute(
        &mut self,
        examples: &Examples,
        k: u64,
        which: impl Fn(&Losses) -> Var,
        finished: &mut dyn FnMut(usize),
    ) -> Computed {
        let config = self.model.config();
        let sets = examples.first..examples.first + examples.sets();
        let draws = Draws::at(config.train.seed, k, sets, config.flow.t_zero);
        let mut tape = Tape::new().on(self.params.gpu()).timed(self.laps.as_ref());
        let vars = self.params.bind(&mut tape);
        let losses = {
            let _phase = trace::range("losses");
            self.model.losses(&mut tape, &vars, examples, &draws)
        };
        let value = |var| tape.value(var).clone();
        let found = Computed {
            loss: value(losses.total),
            parts: losses.parts.iter().map(|part| (part.name, value(part.value))).collect(),
            latents: value(losses.latents),
        };
        let _phase = trace::range("gradients");
        let gradients = tape.backward_telling(which(&losses), &mut |var| finished(vars.entry(var)));
        self.params.collect(&vars, gradients);
        // On a device they are already in place.
        if let Some(laps) = self.laps.as_ref().filter(|_| self.params.gpu().is_none()) {
            laps.lap("gradients gathered", &[], Pass::Backward, (2 * self.params.grads().bytes(), 0));
        }
        found
    }

    /// Moves the weights by the gradients of step k. If the optimizer is shared, each piece is fetched while the next one is moved.
    fn advance(&mut self, clip: &Tensor, k: u64, ranks: &Ranks) -> Result<()> {
        let _phase = trace::range("update");
        let config = self.model.config();
        let on_host = self.params.gpu().is_none();
        let fetch = |share: &Share, piece: &Range<usize>, params: &Params| {
            // SAFETY: the optimizer is done with the piece when it calls this, and `end_gather` is called below in any case.
            unsafe { ranks.begin_gather(share, piece, params.read()) }
        };
        let step =
            || self.optimizer.advance(&mut self.params, clip, &config.optim, k, config.train.steps, fetch);
        // A device that fails must not skip the end of the gathers.
        let stepped = guard(|| in_pool(on_host, step));
        if let Some(laps) = &self.laps {
            // The norm reads the gradients; the update reads them again, and reads and writes weights, moments and average.
            laps.lap("adamw", &[], Pass::Update, (40 * self.params.len() as u64, 0));
        }
        let share = self.optimizer.share();
        // After a failure too: gathers that have begun still write into the weights.
        let ended = match share.is_whole() {
            true => Ok(()),
            false => ranks.end_gather(share, self.params.read_mut()),
        };
        stepped.and(ended)
    }
}

/// Runs work on the host inside rayon's pool, where this thread itself works on the blocks of each op: one core fewer must wake, and
/// no work waits until one has.
fn in_pool<T: Send>(on_host: bool, work: impl FnOnce() -> T + Send) -> T {
    if on_host { rayon::scope(|_| work()) } else { work() }
}

/// The sizes by which steps count as being of one shape.
fn shape(examples: &Examples) -> Vec<usize> {
    let mut shape = examples.cells.shape().to_vec();
    shape.push(usize::from(examples.effect.is_some()));
    shape
}

/// Drawn weights, `[L]`.
pub fn drawn_weights(config: &Config, table: &Table) -> Tensor {
    table.draw(Rng::new(config.train.seed).at(stream::WEIGHTS))
}

/// This rank's own copy of numbers that all ranks start from; on a GPU the copy there is enough. If the optimizer is shared, some
/// extra zeros follow the last parameter.
fn own(flat: Tensor, len: usize, gpu: Option<&Gpu>) -> Tensor {
    if gpu.is_some() && flat.len() == len {
        return flat;
    }
    let mut numbers = flat.into_vec();
    numbers.resize(len, 0.0);
    Tensor::new(&[len], numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Real;
    use crate::trace::recorded;

    #[test]
    fn a_profiler_sees_phase_module_and_op_both_ways() {
        let gpu = Gpu::dry(Real::F32);
        let set = ["encoder.layers=2", "flow.layers=2"].map(String::from);
        let config = Config::load(Some("tiny"), None, &set).expect("settings");
        let vocabulary = Vocabulary { cell_types: 1, perturbations: 2, batches: 1, features: None };
        let statistics = Statistics { mean: vec![0.1; 40], std: vec![0.1; 40] };
        let mut learner = Learner::new(&config, &vocabulary, statistics, Some(&gpu)).expect("a learner");
        let cells = Tensor::on(&gpu, "cells", &[2, 4, 40], Real::F32);
        recorded::paths();
        learner.gradients(&Examples::new(cells, None, &[[0, 1, 0]]), 0);
        let seen = recorded::paths();
        let modules = [
            "encoder/gene_encoder/gene_encoder.blocks.0",
            "encoder/gene_encoder/gene_encoder.blocks.1",
            "encoder/set_encoder",
            "decoder",
            "mmd",
            "flow/time",
            "flow/condition",
            "flow/flow.blocks.0",
            "flow/flow.blocks.1",
        ];
        for module in modules {
            let kernels = |phase: &str, op: &str| {
                let inside = format!("{phase}/{module}/");
                seen.iter().filter(|path| path.starts_with(&inside) && path.contains(op)).count()
            };
            assert!(
                kernels("losses", "") > 0 && kernels("gradients", " backward/") > 0,
                "{module}: {seen:?}"
            );
        }
        let mut products =
            seen.iter().filter(|path| path.starts_with("gradients/") && path.contains("product"));
        assert!(products.all(|path| path.contains(" backward/")), "{seen:?}");
    }

    #[test]
    fn what_grows_with_the_square_of_a_set_is_counted() {
        let vocabulary = Vocabulary { cell_types: 1, perturbations: 2, batches: 1, features: None };
        let check = |cells: usize| {
            let mut config = Config::new("tiny", "default").expect("a preset");
            (config.data.cells, config.encoder.kind) = (cells, EncoderKind::Mlp);
            (config.flow.width, config.flow.ffn) = (8, 8);
            check_memory(&config, &vocabulary, 20, [1, 1], false)
        };
        assert!(check(32).is_ok());
        // Distances alone: 17.6 TB, all else about 1 GB.
        let told = check(1 << 20).expect_err("no machine has that").to_string();
        assert!(told.starts_with("data.sets, data.cells or preset: "), "{told}");
    }
}
