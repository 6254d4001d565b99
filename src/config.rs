//! Every setting of a run: plain structs with defaults. Each field's comment gives its meaning, unit and range.

use serde::{Deserialize, Serialize};

mod explain;
mod load;
mod presets;
mod text;

pub use presets::PRESETS;

/// No width may exceed this, as no other size may exceed its own limit (load.rs): a model's and a step's numbers can then be counted
/// in 64 bits, and building the table of weights finishes. What a machine cannot hold is far smaller, and is reported by the memory
/// check.
pub(crate) const WIDEST: usize = 1 << 23;

/// The largest seed or number of steps: a TOML file holds no larger whole number.
pub const LARGEST_NUMBER: u64 = i64::MAX as u64;

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
    /// Z_s = Enc(relu(X0 + e_p)), where e_p is the perturbation's mean training effect over the other contexts.
    Shifted,
}

/// The space in which the network answers, or in which its error is measured (SCALE v1, eq. 22-30).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// The endpoint Z1.
    X,
    /// The displacement or the velocity, see [`Conversion`].
    V,
}

/// How to convert between an endpoint and a displacement or velocity.
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

/// What a predicted cell contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observe {
    /// The predicted means themselves.
    None,
    /// Counts drawn around the means at the control cell's library size, then normalised and log1p-transformed again.
    Poisson,
}

impl Observe {
    /// All of them, in the order of reports.
    pub const ALL: [Observe; 2] = [Observe::None, Observe::Poisson];

    /// `none` or `poisson`, as in configs, options and files of predictions.
    pub fn name(self) -> &'static str {
        match self {
            Observe::None => "none",
            Observe::Poisson => "poisson",
        }
    }
}

/// How a run's sets follow one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetOrder {
    /// Groups and cells are drawn anew for each set, whatever was drawn before.
    #[default]
    Drawn,
    /// Every cell is used once per epoch, as in cell-load.
    Epoch,
}

/// Gene encoder and DeepSets (SCALE v1, section 3.2).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderConfig {
    /// llama | attention | mlp.
    pub kind: EncoderKind,
    /// S, genes per patch (token), 1 to 2^23.
    pub patch: usize,
    /// E, width of a gene token, 1 to 2^23.
    pub width: usize,
    /// Transformer blocks, 1 to 512.
    pub layers: usize,
    /// Attention heads, 1 or more; must divide the width.
    pub heads: usize,
    /// Hidden width of SwiGLU, 1 to 2^23; for kind llama only (kind attention uses 4 E).
    pub ffn: usize,
    /// flatten | query: how gene tokens become one vector.
    pub pool: Pooling,
    /// True lets the encoder see (x - mean_g) / (std_g + 0.05), with the mean and standard deviation of the training cells.
    pub standardize: bool,
}

/// Flow transformer (SCALE v1, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowConfig {
    /// D, width of a cell's latent vector, 1 to 2^23.
    pub width: usize,
    /// Transformer blocks, 1 to 512.
    pub layers: usize,
    /// Attention heads, 1 or more; must divide the width.
    pub heads: usize,
    /// Hidden width of SwiGLU, 1 to 2^23.
    pub ffn: usize,
    /// seed | basic | token | mean: how the condition tokens of a set become one.
    pub fusion: Fusion,
    /// x | v: what the head predicts.
    pub prediction: Space,
    /// x | v: where the error is measured.
    pub loss: Space,
    /// displacement | jit: how x and v are converted into each other. The error of a displacement is that of its endpoint, so with
    /// displacement the space of the loss changes nothing: the paper's four variants need jit.
    pub conversion: Conversion,
    /// True lets gradient flow through the target to the encoder, which can then make its own target easy.
    pub target_gradient: bool,
    /// control | gaussian | mixed | shifted: where the flow starts: at the control cell, at noise, at noise plus half the control
    /// cell, or at the control cell shifted by the perturbation's mean effect in other cell types.
    pub start: Start,
    /// Share of the start's entries set to zero, 0 to 1; the paper's ablation uses 0.15.
    pub mask: f32,
    /// True lets the fusion begin as a mean: the seed, or the class token, is drawn small and sees all condition tokens alike.
    #[serde(default)]
    pub even_fusion: bool,
    /// True also adds the condition to every cell token at the input.
    pub add_condition: bool,
    /// Share of the sets trained at t = 0, where prediction starts, 0 to 1.
    pub t_zero: f32,
}

/// Decoder (SCALE v1, eq. 10-12).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Width of the hidden layer, 1 to 2^23.
    pub width: usize,
    /// relu | softplus | identity: applied to the output.
    pub activation: Activation,
    /// True sets the last bias so that the output starts at the training mean.
    pub start_at_mean: bool,
}

/// Condition tables (SCALE v1, section 3.4).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConditionsConfig {
    /// d_c, width of a row, 1 to 2^23.
    pub width: usize,
}

/// Weights of the losses (SCALE v1, eq. 13-16, 21). Treat them as unsettled: the encoder responds to L_MSE above all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LossConfig {
    /// Weight of the MMD between decoded and true cells, 0 or more.
    pub w_mmd: f32,
    /// Weight of the flow's error, 0 or more.
    pub w_flow: f32,
    /// Weight of the MMD between the decoded endpoint and the perturbed cells, 0 or more; not in the paper.
    pub w_endpoint: f32,
    /// Weight of the squared error of a set's mean effect, summed over genes, 0 or more; not in the paper.
    pub effect: f32,
    /// gaussian | energy: the kernel of every MMD.
    pub kernel: MmdKernel,
}

/// What one step trains on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// B, sets per step, 1 to 2^20.
    pub sets: usize,
    /// N, cells per set, 2 to 2^20: N control cells and N perturbed ones.
    pub cells: usize,
    /// drawn | epoch: sets are drawn by weight, or every cell is used once before any is used again.
    #[serde(default)]
    pub order: SetOrder,
    /// A group is drawn with weight cells^alpha, 0 (uniform) to 1 (natural). No effect with order epoch, where groups are as
    /// frequent as their cells.
    pub alpha: f64,
    /// True adds control -> control examples, as in cell-load: they teach the resting state of a held-out cell type.
    pub control_examples: bool,
}

/// AdamW and its schedule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimConfig {
    /// Peak learning rate, above 0.
    pub lr: f64,
    /// Decay of the first moment, 0 to below 1.
    pub beta1: f64,
    /// Decay of the second moment, 0 to below 1.
    pub beta2: f64,
    /// Added to the root of the second moment, above 0.
    pub eps: f64,
    /// Decoupled weight decay, on matrices only, 0 to below 1.
    pub weight_decay: f64,
    /// Largest global gradient norm, above 0.
    pub clip: f64,
    /// Share of the steps in which the rate rises, 0 to below 1.
    pub warmup: f64,
    /// The rate that the schedule falls towards, as a share of the peak, 0 to 1.
    pub final_lr: f64,
    /// Largest decay of the averaged (EMA) weights, 0 to below 1; at step k the decay is min(ema, (1+k)/(10+k)).
    pub ema: f64,
    /// True shares the optimizer among ranks (ZeRO): each keeps moments, averaged weights and the low 16 bits of the f32 weights
    /// only for its part of the weights. Does not change the result.
    #[serde(default)]
    pub shard: bool,
}

/// Length of the run, validations and checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps in total, 1 or more.
    pub steps: u64,
    /// Seed of weights, sets and start noise.
    pub seed: u64,
    /// Steps between lines of metrics.jsonl, 1 or more.
    pub log_every: u64,
    /// Steps between validations; 0 for none.
    pub val_every: u64,
    /// Steps between checkpoints, 1 or more.
    pub checkpoint_every: u64,
    /// True also keeps every checkpoint, as step-N.safetensors.
    pub keep_all: bool,
}

/// How populations are predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PredictConfig {
    /// 1 to 10000. 1: the endpoint from t = 0 in one evaluation; K: K Euler steps along the path.
    pub steps: usize,
    /// True shifts decoded cells by mean X0 - mean Dec(Z0) per gene, which cancels the decoder's own bias.
    pub calibrate: bool,
    /// none | poisson: a predicted cell contains the predicted means, or counts drawn around them.
    pub observe: Observe,
}

/// Everything that decides a run. Stored in full in its checkpoints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// tiny | s40 | s184 | s280: the sizes that the fields below start from.
    pub preset: String,
    /// default | paper: the choices that the fields below start from.
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
    /// Length of the run, validations and checkpoints.
    pub train: TrainConfig,
    /// Prediction.
    pub predict: PredictConfig,
}

/// What is due once so many steps of a run are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Due {
    /// A line of the log.
    pub line: bool,
    /// A validation.
    pub validation: bool,
    /// A checkpoint to continue from.
    pub checkpoint: bool,
}

/// How the flow's answer is compared with its target: what its loss takes of [`FlowConfig`], whose fields these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// What the head predicts.
    pub prediction: Space,
    /// Where the error is measured.
    pub loss: Space,
    /// How the two are converted into each other.
    pub conversion: Conversion,
    /// Whether gradient flows through the target.
    pub target_gradient: bool,
}

impl FlowConfig {
    /// How its answer is compared with its target.
    pub fn variant(&self) -> Variant {
        let FlowConfig { prediction, loss, conversion, target_gradient, .. } = *self;
        Variant { prediction, loss, conversion, target_gradient }
    }
}

impl TrainConfig {
    /// What is due once `done` steps are done. The last step is logged, saved and, unless that is turned off, validated.
    pub fn due(&self, done: u64) -> Due {
        let due = |every: u64| done == self.steps || done.is_multiple_of(every);
        Due {
            line: due(self.log_every),
            validation: self.val_every > 0 && due(self.val_every),
            checkpoint: due(self.checkpoint_every),
        }
    }
}

impl Config {
    /// True if the flow starts from cells shifted by their perturbation's mean effect.
    pub fn wants_shift(&self) -> bool {
        self.flow.start == Start::Shifted
    }
}
