//! Every setting of a run: plain structs with defaults, one comment a field with unit and range.

use serde::{Deserialize, Serialize};

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
