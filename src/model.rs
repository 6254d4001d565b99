//! SCALE: gene encoder, set encoder, decoder and conditional flow (SCALE v1, sections 3.2-3.5).
//!
//! Letters: B sets, N cells in a set, G genes, D latent width.

use crate::config::Config;
use crate::gpu::{Gpu, Real};
use crate::params::{Table, Vars};
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

pub mod build;
pub mod condition;
mod decoder;
mod flow;
pub mod gene_encoder;
mod generate;
pub mod losses;
mod set_encoder;

use build::Build;
use condition::Vocabulary;
use decoder::Decoder;
use flow::Flow;
use gene_encoder::GeneEncoder;
use set_encoder::SetEncoder;

/// The gene-wise mean and standard deviation of the training cells, on the network's scale. `[G]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// Mean.
    pub mean: Vec<f32>,
    /// Standard deviation.
    pub std: Vec<f32>,
}

/// The whole model: where each weight is, and how they work together.
pub struct Model {
    config: Config,
    statistics: Statistics,
    /// Mean and 1 / (std + 0.05), `[G]` each.
    standard: [Tensor; 2],
    gene_encoder: GeneEncoder,
    set_encoder: SetEncoder,
    decoder: Decoder,
    flow: Flow,
}

brief!(Model, |model| genes: model.statistics.mean.len(), config: model.config);

impl Model {
    /// The model, and the table of its weights.
    ///
    /// # Panics
    /// If the two statistics have different lengths, the features have not one row for each perturbation, or the config is not
    /// valid ([`Config::validate`]).
    pub fn new(config: &Config, vocabulary: &Vocabulary, statistics: Statistics) -> (Model, Table) {
        let (genes, d) = (statistics.mean.len(), config.flow.width);
        assert_eq!(statistics.std.len(), genes, "model: as many standard deviations as means");
        let mut table = Table::default();
        let build = &mut Build::new(&mut table);
        let gene_encoder = GeneEncoder::new(build, &config.encoder, genes, d);
        let set_encoder = SetEncoder::new(build, d);
        let start = config.decoder.start_at_mean.then_some(statistics.mean.as_slice());
        let decoder = Decoder::new(build, &config.decoder, start, genes, d);
        let flow = Flow::new(build, config, vocabulary);
        let scale = statistics.std.iter().map(|s| 1.0 / (s + 0.05)).collect();
        let standard = [statistics.mean.clone(), scale].map(|numbers| Tensor::new(&[genes], numbers));
        let config = config.clone();
        (Model { config, statistics, standard, gene_encoder, set_encoder, decoder, flow }, table)
    }

    /// The same with its constants on a device.
    ///
    /// # Panics
    /// If they are on a device already.
    pub fn to_gpu(mut self, gpu: &Gpu) -> Model {
        self.standard = self.standard.map(|numbers| numbers.to_gpu(gpu, "statistics of genes", Real::F32));
        self.flow = self.flow.onto(gpu);
        self
    }

    /// The config it was made from.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The statistics it standardises with.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }

    /// G.
    pub fn genes(&self) -> usize {
        self.statistics.mean.len()
    }

    /// Enc: sets of cells `[B, N, G]` -> latents `[B, N, D]`. Cells are data: no gradient flows into them.
    pub fn encode(&self, t: &mut Tape, p: &Vars, x: Var) -> Var {
        let [b, n, g] = t.value(x).dims("encode");
        t.scope("encoder", |t| {
            // Without this the latents of different cells stay nearly the same for thousands of steps.
            let [mean, scale] = &self.standard;
            let seen = if self.config.encoder.standardize { t.standardize(x, mean, scale) } else { x };
            let seen = t.reshape(seen, &[b * n, g]);
            let h = t.scope("gene_encoder", |t| self.gene_encoder.forward(t, p, seen)); // [B N, D]
            let h = t.reshape(h, &[b, n, self.config.flow.width]);
            t.scope("set_encoder", |t| self.set_encoder.forward(t, p, h))
        })
    }

    /// Latents of the cells moved by their perturbation's mean effect `[B, G]`; `None` unless that is where the flow starts.
    fn moved(&self, t: &mut Tape, p: &Vars, x0: Var, effect: Option<&Tensor>) -> Option<Var> {
        self.config.wants_shift().then(|| {
            let effect = effect.expect("model: a shifted start needs the mean effects");
            let effect = t.constant(effect.clone());
            let moved = t.shifted(x0, effect);
            self.encode(t, p, moved)
        })
    }

    /// Dec: latents `[B, N, D]` -> cells `[B, N, G]` on the network's scale.
    pub fn decode(&self, t: &mut Tape, p: &Vars, z: Var) -> Var {
        t.scope("decoder", |t| self.decoder.forward(t, p, z))
    }
}
