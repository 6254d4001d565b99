//! Element-wise non-linearities.
//!
//! ```text
//!   forward    y  = f(x)        relu max(x, 0) · softplus ln(1 + e^x) · silu x s(x), s(x) = 1 / (1 + e^-x)
//!                               gelu x Phi(x), Phi the standard normal distribution (exact, Hendrycks & Gimpel 2016)
//!   backward   dx = dy f'(x)    relu [x > 0] · softplus s(x) · silu s(x) (1 + x (1 - s(x)))
//!                               gelu Phi(x) + x exp(-x^2 / 2) / sqrt(2 pi)                                        =
//!   tensors    x, y, dx, dy [..]
//!   bound by   memory: forward moves 2, backward 3 numbers per element
//! ```

use crate::config::Activation;
use crate::gpu::{Grid, args};
use crate::ops::blocks;
use crate::ops::vector::{exp, normal_below, sigmoid, softplus};
use crate::tape::{Tape, Var};
use crate::tensor::{Tensor, agree};

impl Tape {
    /// f(x), element by element.
    pub fn activation(&mut self, x: Var, kind: Activation) -> Var {
        if kind == Activation::Identity {
            return x;
        }
        let xs = self.value(x).clone();
        let y = forward(&xs, kind);
        self.record("activation", &[x], y, move |dy| vec![Some(backward(dy, &xs, kind))])
    }
}

/// y, of x's shape.
pub fn forward(x: &Tensor, kind: Activation) -> Tensor {
    let gpu = agree("activation", &[(x, x.shape())], &[]);
    if let (Some(_), Some(number)) = (gpu, number(kind)) {
        let y = x.like("activation y");
        launch_forward(&y, x, number);
        return y;
    }
    // One loop per kind: a choice inside the loop would prevent vectorisation.
    let y = match kind {
        Activation::Identity => return x.clone(),
        Activation::Relu => blocks::elements(x.data(), |x| if x < 0.0 { 0.0 } else { x }),
        Activation::Softplus => blocks::elements(x.data(), softplus),
        Activation::Silu => blocks::elements(x.data(), |x| x * sigmoid(x)),
        Activation::Gelu => blocks::elements(x.data(), |x| x * normal_below(x)),
    };
    Tensor::new(x.shape(), y)
}

/// dx, of x's shape.
pub fn backward(dy: &Tensor, x: &Tensor, kind: Activation) -> Tensor {
    const DENSITY_AT_ZERO: f32 = 0.398_942_3;
    let gpu = agree("activation", &[(dy, x.shape()), (x, x.shape())], &[]);
    if let (Some(_), Some(number)) = (gpu, number(kind)) {
        let dx = x.like("activation dx");
        launch_backward(&dx, dy, x, number);
        return dx;
    }
    let (d, x) = (dy.data(), x.data());
    let dx = match kind {
        Activation::Identity => return dy.clone(),
        Activation::Relu => blocks::pairs(d, x, |d, x| if x > 0.0 { d } else { 0.0 }),
        Activation::Softplus => blocks::pairs(d, x, |d, x| d * sigmoid(x)),
        Activation::Silu => blocks::pairs(d, x, |d, x| {
            let s = sigmoid(x);
            d * s * (1.0 + x * (1.0 - s))
        }),
        Activation::Gelu => {
            blocks::pairs(d, x, |d, x| d * (normal_below(x) + x * DENSITY_AT_ZERO * exp(-0.5 * x * x)))
        }
    };
    Tensor::new(dy.shape(), dx)
}

/// The kind's number in activation.cu; the identity needs no kernel.
fn number(kind: Activation) -> Option<usize> {
    match kind {
        Activation::Identity => None,
        Activation::Relu => Some(0),
        Activation::Softplus => Some(1),
        Activation::Silu => Some(2),
        Activation::Gelu => Some(3),
    }
}

fn launch_forward(y: &Tensor, x: &Tensor, number: usize) {
    let args = args![y, x, number, x.len() as u64];
    // SAFETY: y was made like x, which is stored as the device's own numbers.
    unsafe { y.device().launch("activation", "activation_forward", Grid::eights(x.len()), &args) };
}

fn launch_backward(dx: &Tensor, dy: &Tensor, x: &Tensor, number: usize) {
    let args = args![dx, dy, x, number, x.len() as u64];
    // SAFETY: dx was made like x, and dy was found to be like it.
    unsafe { dx.device().launch("activation", "activation_backward", Grid::eights(x.len()), &args) };
}

/// The definition, in plain f64.
pub mod reference {
    use crate::config::Activation;
    use std::f64::consts::{FRAC_1_SQRT_2, PI};

    /// y.
    pub fn forward(x: &[f64], kind: Activation) -> Vec<f64> {
        x.iter().map(|&x| value(x, kind)).collect()
    }

    /// dx.
    pub fn backward(dy: &[f64], x: &[f64], kind: Activation) -> Vec<f64> {
        dy.iter().zip(x).map(|(d, &x)| d * slope(x, kind)).collect()
    }

    fn value(x: f64, kind: Activation) -> f64 {
        match kind {
            Activation::Identity => x,
            Activation::Relu => x.max(0.0),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2)),
        }
    }

    fn slope(x: f64, kind: Activation) -> f64 {
        let s = 1.0 / (1.0 + (-x).exp());
        match kind {
            Activation::Identity => 1.0,
            Activation::Relu => f64::from(u8::from(x > 0.0)),
            Activation::Softplus => s,
            Activation::Silu => s * (1.0 + x * (1.0 - s)),
            Activation::Gelu => {
                0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * (-0.5 * x * x).exp() / (2.0 * PI).sqrt()
            }
        }
    }

    /// erf by its series with positive terms only (Abramowitz & Stegun 1964, 7.1.6); 1 beyond 6.
    pub fn erf(x: f64) -> f64 {
        if x.abs() > 6.0 {
            return x.signum();
        }
        let (mut term, mut sum, mut n) = (x, x, 0.0);
        while term.abs() > 1e-18 {
            n += 1.0;
            term *= 2.0 * x * x / (2.0 * n + 1.0);
            sum += term;
        }
        2.0 / PI.sqrt() * (-x * x).exp() * sum
    }
}
