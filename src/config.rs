//! Every setting of a run: plain structs with defaults, one comment a field with unit and range.

use serde::{Deserialize, Serialize};

mod load;
mod presets;

pub use presets::PRESETS;

/// Element-wise non-linearity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// x.
    Identity,
    /// max(x, 0).
    Relu,
    /// ln(1 + e^x).
    Softplus,
    /// x / (1 + e^-x).
    Silu,
    /// x Phi(x), exact (erf).
    Gelu,
}

/// Where the path of the flow starts (SCALE v1, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// Z_s = Z0.
    Control,
    /// Z_s = e, standard normal.
    Gaussian,
    /// Z_s = e + 0.5 Z0.
    Mixed,
    /// Z_s = Enc(relu(X0 + e_p)), e_p the training mean effect of the perturbation over the other contexts.
    Shifted,
}

/// The space of the network's answer, or of its error (SCALE v1, eq. 22-30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// The endpoint Z1.
    X,
    /// The displacement or velocity.
    V,
}

/// How an endpoint and a velocity are turned into each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conversion {
    /// U = Z1 - Z_s (SCALE v1, eq. 24).
    Displacement,
    /// v = (Z1 - Z_t) / max(1 - t, 0.05) (Li & He 2025).
    Jit,
}

/// The kernel of the maximum mean discrepancy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MmdKernel {
    /// Mean of five Gaussians around the data's own scale.
    Gaussian,
    /// -|a - b|.
    Energy,
}

/// Which of the four variants of the flow is trained (SCALE v1, eq. 27-30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowVariant {
    /// What the head answers.
    pub prediction: Space,
    /// Where the error is measured.
    pub loss: Space,
    /// How the two spaces are turned into each other.
    pub conversion: Conversion,
    /// True if the target carries gradient to the encoder.
    pub target_gradient: bool,
}

/// What turns a cell's genes into one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EncoderKind {
    /// RMSNorm, SwiGLU, no biases.
    Llama,
    /// LayerNorm, GELU, biases: the paper's "basic attention module".
    Attention,
    /// Linear-SiLU-Linear over all genes at once; no tokens.
    Mlp,
}

/// What turns a cell's gene tokens into one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// One linear over all tokens laid end to end.
    Flatten,
    /// Attention with one learned query.
    Query,
}

/// What turns the condition tokens of a set into one (SCALE v1, section 3.4 and figure 3a).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fusion {
    /// A learned seed query attends to the tokens (eq. 32-33).
    Seed,
    /// Self-attention of the tokens, then their mean.
    Basic,
    /// A learned class token joins them; its row is kept.
    Token,
    /// The mean of their values.
    Mean,
}

/// What a predicted cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Observe {
    /// The means themselves.
    None,
    /// Counts drawn around the means at the library size of the control cell, then normalised and log1p-transformed again.
    Poisson,
}

/// Which sets follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetOrder {
    /// Groups and cells are drawn anew for each set, whatever was drawn before.
    #[default]
    Drawn,
    /// Every cell once an epoch, as cell-load has it.
    Epoch,
}

/// Gene encoder and DeepSets (SCALE v1, section 3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// llama | attention | mlp.
    pub kind: EncoderKind,
    /// S, genes in a patch (token), 1 or more.
    pub patch: usize,
    /// E, width of a gene token.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; divides the width.
    pub heads: usize,
    /// Width of SwiGLU (kind llama; kind attention has 4 E).
    pub ffn: usize,
    /// flatten | query.
    pub pool: Pooling,
    /// The encoder sees (x - mean_g) / (std_g + 0.05) of the training cells.
    pub standardize: bool,
}

/// Flow transformer (SCALE v1, section 3.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowConfig {
    /// D, width of the latent cells.
    pub width: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; divides the width.
    pub heads: usize,
    /// Width of SwiGLU.
    pub ffn: usize,
    /// seed | basic | token | mean.
    pub fusion: Fusion,
    /// x | v: what the head answers.
    pub prediction: Space,
    /// x | v: where the error is measured.
    pub loss: Space,
    /// displacement | jit.
    pub conversion: Conversion,
    /// True lets the target pass gradient to the encoder, which can then make its own target easy.
    pub target_gradient: bool,
    /// control | gaussian | mixed | shifted.
    pub start: Start,
    /// Share of the start's entries set to zero, 0 to 1; the paper's ablation has 0.15.
    pub mask: f32,
    /// The condition is also added to every cell token at the input.
    pub add_condition: bool,
    /// Share of the sets trained at t = 0, where prediction starts, 0 to 1.
    pub t_zero: f32,
}

/// Decoder (SCALE v1, eq. 10-12).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of the hidden layer.
    pub width: usize,
    /// relu | softplus | identity.
    pub activation: Activation,
    /// The last bias is set so that the output starts at the training mean.
    pub start_at_mean: bool,
}

/// Condition tables (SCALE v1, section 3.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionsConfig {
    /// d_c, width of a row.
    pub width: usize,
}

/// Weights of the losses (SCALE v1, eq. 13-16, 21); treat them as open, the encoder listens to L_MSE above all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Of MMD between decoded and true cells.
    pub w_mmd: f32,
    /// Of the flow's error.
    pub w_flow: f32,
    /// Of MMD between the decoded endpoint and the perturbed cells; beyond the paper.
    pub w_endpoint: f32,
    /// Of the squared error of the mean effect of a set, summed over genes; beyond the paper.
    pub effect: f32,
    /// gaussian | energy.
    pub kernel: MmdKernel,
}

/// What a step holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// B, sets a step.
    pub sets: usize,
    /// N, cells a set: N control cells and N perturbed ones.
    pub cells: usize,
    /// drawn | epoch: sets are drawn by weight, or hold every cell once before any comes again.
    #[serde(default)]
    pub order: SetOrder,
    /// A group is drawn with weight cells^alpha: 1 natural, 0 uniform. Of no effect in epochs, where groups are as frequent as their cells.
    pub alpha: f64,
    /// Control -> control examples, as in cell-load: they teach a held-out context's resting state.
    pub control_examples: bool,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay, on matrices only.
    pub weight_decay: f64,
    /// Largest global gradient norm.
    pub clip: f64,
    /// Share of the steps with a rising rate.
    pub warmup: f64,
    /// The rate towards which it falls, as a share of the peak.
    pub final_lr: f64,
    /// Largest decay of the averaged weights; at step k it is min(ema, (1+k)/(10+k)).
    pub ema: f64,
    /// Several ranks share the optimizer (ZeRO): each keeps moments, averaged weights and lower halves of its part alone. Of no
    /// effect on the result.
    #[serde(default)]
    pub shard: bool,
}

/// The walk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps in all.
    pub steps: u64,
    /// Of weights, sets and start noise.
    pub seed: u64,
    /// Steps between lines of metrics.jsonl.
    pub log_every: u64,
    /// Steps between validations; 0 never.
    pub val_every: u64,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Also keep every checkpoint as step-N.safetensors.
    pub keep_all: bool,
}

/// How populations are predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictConfig {
    /// 1: the endpoint from t = 0 in one evaluation; K: Euler steps along the path.
    pub steps: usize,
    /// Moves decoded cells by mean X0 - mean Dec(Z0) per gene, so that the decoder's own bias cancels.
    pub calibrate: bool,
    /// none | poisson.
    pub observe: Observe,
}

/// Everything that decides a run. Stored whole in its checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// tiny | s40 | s184 | s280: the sizes the fields below start from.
    pub preset: String,
    /// default | paper: the choices the fields below start from.
    pub recipe: String,
    /// Gene encoder and DeepSets.
    pub encoder: EncoderConfig,
    /// Flow transformer.
    pub flow: FlowConfig,
    /// Decoder.
    pub decoder: DecoderConfig,
    /// Condition tables.
    pub conditions: ConditionsConfig,
    /// Weights of the losses.
    pub loss: LossConfig,
    /// Sets and batches.
    pub data: DataConfig,
    /// AdamW and its schedule.
    pub optim: OptimConfig,
    /// The walk.
    pub train: TrainConfig,
    /// Prediction.
    pub predict: PredictConfig,
}

impl TrainConfig {
    /// True if a validation follows when `step` steps are done.
    pub fn validates_after(&self, step: u64) -> bool {
        self.val_every > 0 && (step.is_multiple_of(self.val_every) || step == self.steps)
    }
}

impl Config {
    /// The variant of the flow that this run trains.
    pub fn variant(&self) -> FlowVariant {
        let FlowConfig { prediction, loss, conversion, target_gradient, .. } = self.flow;
        FlowVariant { prediction, loss, conversion, target_gradient }
    }

    /// True if the flow starts from cells that their perturbation's mean effect has shifted.
    pub fn wants_shift(&self) -> bool {
        self.flow.start == Start::Shifted
    }
}
