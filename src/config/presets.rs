//! What a config starts from: the sizes of a preset and the choices of a recipe.

use super::*;
use crate::error::{Error, Result, unknown};

/// Names of the presets.
pub const PRESETS: [&str; 4] = ["tiny", "s40", "s184", "s280"];

const RECIPES: [&str; 2] = ["default", "paper"];

/// The sizes of a preset.
struct Size {
    encoder: EncoderSize,
    flow: FlowSize,
    /// Width of the decoder's hidden layer.
    decoder: usize,
    /// Sets per step, cells per set.
    batch: [usize; 2],
    lr: f64,
    steps: u64,
}

struct EncoderSize {
    patch: usize,
    width: usize,
    layers: usize,
    ffn: usize,
    pool: Pooling,
}

struct FlowSize {
    width: usize,
    layers: usize,
    ffn: usize,
    heads: usize,
}

fn size(preset: &str) -> Result<Size> {
    Ok(match preset {
        "tiny" => Size {
            encoder: EncoderSize { patch: 128, width: 64, layers: 1, ffn: 176, pool: Pooling::Flatten },
            flow: FlowSize { width: 128, layers: 2, ffn: 320, heads: 2 },
            decoder: 256,
            batch: [16, 32],
            lr: 2e-3,
            steps: 1_000,
        },
        "s40" => Size {
            encoder: EncoderSize { patch: 256, width: 512, layers: 2, ffn: 1408, pool: Pooling::Flatten },
            flow: FlowSize { width: 512, layers: 8, ffn: 1280, heads: 8 },
            decoder: 1024,
            batch: [16, 128],
            lr: 2e-4,
            steps: 20_000,
        },
        "s184" => Size {
            encoder: EncoderSize { patch: 128, width: 512, layers: 3, ffn: 1408, pool: Pooling::Flatten },
            flow: FlowSize { width: 1024, layers: 12, ffn: 2560, heads: 8 },
            decoder: 2048,
            batch: [8, 256],
            lr: 2e-4,
            steps: 100_000,
        },
        "s280" => Size {
            encoder: EncoderSize { patch: 128, width: 768, layers: 4, ffn: 2048, pool: Pooling::Query },
            flow: FlowSize { width: 1280, layers: 12, ffn: 3072, heads: 10 },
            decoder: 2048,
            batch: [8, 256],
            lr: 2e-4,
            steps: 100_000,
        },
        other => return Err(Error::setting("preset", unknown("preset", other, &PRESETS))),
    })
}

impl EncoderSize {
    fn config(self, works: bool) -> EncoderConfig {
        let EncoderSize { patch, width, layers, ffn, pool } = self;
        let (kind, heads) = (EncoderKind::Llama, width / 64);
        EncoderConfig { kind, patch, width, layers, heads, ffn, pool, standardize: works }
    }
}

impl FlowSize {
    fn config(self, works: bool) -> FlowConfig {
        FlowConfig {
            width: self.width,
            layers: self.layers,
            heads: self.heads,
            ffn: self.ffn,
            fusion: Fusion::Seed,
            prediction: Space::X,
            loss: Space::X,
            conversion: Conversion::Displacement,
            target_gradient: false,
            start: Start::Control,
            mask: 0.0,
            add_condition: works,
            t_zero: if works { 0.5 } else { 0.0 },
        }
    }
}

impl Config {
    /// The sizes of a preset with the paper's recipe (`recipe = "paper"`), or with what worked in a prototype (`"default"`).
    pub fn new(preset: &str, recipe: &str) -> Result<Config> {
        let Size { encoder, flow, decoder, batch: [sets, cells], lr, steps } = size(preset)?;
        let works = match recipe {
            "default" => true,
            "paper" => false,
            other => return Err(Error::setting("recipe", unknown("recipe", other, &RECIPES))),
        };
        // Writing a larger model's checkpoint to disk takes as long as tens of its steps.
        let every = if preset == "tiny" { 200 } else { 1_000 };
        Ok(Config {
            preset: preset.into(),
            recipe: recipe.into(),
            encoder: encoder.config(works),
            flow: flow.config(works),
            decoder: DecoderConfig {
                width: decoder,
                activation: if works { Activation::Softplus } else { Activation::Relu },
                start_at_mean: works,
            },
            conditions: ConditionsConfig { width: 512 },
            loss: LossConfig { effect: if works { 30.0 } else { 0.0 }, ..LossConfig::default() },
            data: DataConfig { sets, cells, ..DataConfig::default() },
            optim: OptimConfig { lr, ..OptimConfig::default() },
            train: TrainConfig {
                steps,
                seed: 0,
                log_every: 10,
                val_every: every,
                checkpoint_every: every,
                keep_all: false,
            },
            predict: PredictConfig {
                steps: 1,
                calibrate: works,
                observe: if works { Observe::Poisson } else { Observe::None },
            },
        })
    }
}

impl Default for LossConfig {
    /// Ours: the paper gives none.
    fn default() -> Self {
        LossConfig { w_mmd: 1.0, w_flow: 1.0, w_endpoint: 0.0, effect: 0.0, kernel: MmdKernel::Gaussian }
    }
}

impl Default for DataConfig {
    fn default() -> Self {
        DataConfig { sets: 16, cells: 512, order: SetOrder::Drawn, alpha: 0.5, control_examples: true }
    }
}

impl Default for OptimConfig {
    fn default() -> Self {
        OptimConfig {
            lr: 2e-4,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            weight_decay: 0.01,
            clip: 1.0,
            warmup: 0.02,
            final_lr: 0.1,
            ema: 0.999,
            shard: false,
        }
    }
}
