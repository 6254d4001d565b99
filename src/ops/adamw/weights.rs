//! Weights as a device stores them: f32, or two halves of 16 bits, of which products read the upper.

use crate::gpu::{Grid, PACK, Real, args};
use crate::tensor::{Tensor, agree};

/// f32 weights `[L]` on the host or device that updates them.
#[derive(Clone, Debug)]
pub enum Weights {
    /// As plain f32.
    Whole(Tensor),
    /// On a device that stores bf16.
    Split(Halves),
    /// The upper halves alone: each rank's optimizer holds the lower halves of its share, or the weights only serve predictions,
    /// which need none.
    Rounded(Tensor),
}

/// f32 numbers `[L]` in two halves: rounded to bf16, ties away from zero, and the lower 16 bits. Nothing is lost.
#[derive(Clone, Debug)]
pub struct Halves {
    /// As products read them.
    pub rounded: Tensor,
    /// 16 bits each, not numbers on their own.
    pub low: Tensor,
}

impl Weights {
    /// f32 weights in the form that products on their device need.
    ///
    /// # Panics
    /// If they are stored otherwise.
    pub fn of(weights: Tensor) -> Weights {
        assert!(weights.real() == Real::F32, "adamw: weights of {weights:?}");
        match weights.gpu() {
            Some(gpu) if gpu.real() == Real::Bf16 => {
                let half = |what| Tensor::on(gpu, what, weights.shape(), Real::Bf16);
                let halves = Halves { rounded: half("weights"), low: half("weights' lower halves") };
                launch_split(&halves, &weights);
                Weights::Split(halves)
            }
            _ => Weights::Whole(weights),
        }
    }

    /// All of them as f32, on their device.
    ///
    /// # Panics
    /// If the lower halves are elsewhere.
    pub fn whole(&self) -> Tensor {
        match self {
            Weights::Whole(weights) => weights.clone(),
            Weights::Rounded(_) => {
                panic!("adamw: lower halves of all weights, which ranks share or predictions do without")
            }
            Weights::Split(halves) => {
                let Halves { rounded, .. } = halves;
                let weights = Tensor::on(rounded.device(), "weights as f32", rounded.shape(), Real::F32);
                launch_join(&weights, halves);
                weights
            }
        }
    }

    /// As products read them.
    pub fn read(&self) -> &Tensor {
        match self {
            Weights::Whole(weights) => weights,
            Weights::Split(halves) => &halves.rounded,
            Weights::Rounded(rounded) => rounded,
        }
    }

    /// The same, for writing.
    ///
    /// # Panics
    /// If the lower halves are here too: they would not belong to what is written.
    pub fn read_mut(&mut self) -> &mut Tensor {
        match self {
            Weights::Whole(weights) => weights,
            Weights::Split(_) => panic!("adamw: upper halves written without the lower"),
            Weights::Rounded(rounded) => rounded,
        }
    }

    /// Gives the lower halves away, if there are any: only what products read stays.
    pub fn take_low(&mut self) -> Option<Tensor> {
        match std::mem::take(self) {
            Weights::Split(Halves { rounded, low }) => {
                *self = Weights::Rounded(rounded);
                Some(low)
            }
            other => {
                *self = other;
                None
            }
        }
    }

    /// `len` weights from number `at` on; `low` holds their lower halves if those are elsewhere. No copy.
    ///
    /// # Panics
    /// If they go beyond the end, or lower halves are given twice, for more or fewer weights, or not at all.
    pub fn window(&self, at: usize, len: usize, low: Option<&Tensor>) -> Weights {
        let part = |flat: &Tensor| flat.part(at, &[len]);
        match (self, low) {
            (Weights::Whole(weights), None) => Weights::Whole(part(weights)),
            (Weights::Split(Halves { rounded, low }), None) => {
                Weights::Split(Halves { rounded: part(rounded), low: part(low) })
            }
            (Weights::Rounded(rounded), Some(low)) => {
                assert!(low.len() == len, "adamw: {} lower halves of {len} weights", low.len());
                Weights::Split(Halves { rounded: part(rounded), low: low.clone() })
            }
            _ => panic!("adamw: lower halves twice, or nowhere"),
        }
    }

    /// True if nobody else shares them.
    pub fn is_alone(&self) -> bool {
        match self {
            Weights::Whole(weights) => weights.is_alone(),
            Weights::Split(halves) => halves.rounded.is_alone() && halves.low.is_alone(),
            Weights::Rounded(rounded) => rounded.is_alone(),
        }
    }
}

impl Default for Weights {
    fn default() -> Self {
        Weights::Whole(Tensor::default())
    }
}

fn check(weights: &Tensor, Halves { rounded, low }: &Halves) {
    let shape = weights.shape();
    agree("adamw", &[(rounded, shape), (low, shape)], &[(weights, shape)]);
    assert!(weights.len().is_multiple_of(PACK), "adamw: {} weights", weights.len());
}

fn launch_split(halves: &Halves, weights: &Tensor) {
    let Halves { rounded, low } = halves;
    let args = args![rounded, low, weights, weights.len() as u64];
    check(weights, halves);
    // SAFETY: the weights are whole packs of f32, and both halves hold as many numbers of 16 bits.
    unsafe { weights.device().launch("adamw", "adamw_split", Grid::elements(weights.len() / 4), &args) };
}

fn launch_join(weights: &Tensor, halves: &Halves) {
    let Halves { rounded, low } = halves;
    let args = args![weights, rounded, low, weights.len() as u64];
    check(weights, halves);
    // SAFETY: as for the split.
    unsafe { weights.device().launch("adamw", "adamw_join", Grid::elements(weights.len() / 4), &args) };
}
