//! All weights in one flat buffer, with names.
//!
//! Norm, AdamW, average and checkpoint are each one loop over flat buffers. The names and shapes are those of the checkpoint;
//! linear weights are [out, in], as PyTorch has them.

use std::ops::{Index, Range};
use std::sync::Arc;

use crate::rng::Rng;
use crate::tape::{Gradients, Tape, Var};
use crate::tensor::Tensor;

/// Number of a parameter in [`Params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param(usize);

impl Param {
    /// Its row in [`Params::entries`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// What the table says of one parameter.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name in the checkpoint, e.g. `flow.blocks.3.w_qkv`.
    pub name: String,
    /// Axes' lengths.
    pub shape: Vec<usize>,
    /// First number in the flat buffer.
    pub offset: usize,
    /// True for matrices: weight decay applies.
    pub decay: bool,
}

impl Entry {
    /// Where the parameter's numbers lie in the flat buffers.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.shape.iter().product::<usize>()
    }
}

/// Initial values.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Normal with this standard deviation.
    Normal(f32),
    /// All the same.
    Constant(f32),
}

/// The table of parameters and their flat buffers.
#[derive(Default)]
pub struct Params {
    entries: Vec<Entry>,
    weights: Arc<Vec<f32>>,
    grads: Vec<f32>,
    /// True for a table that is only counted.
    hollow: bool,
}

impl Params {
    /// A table without numbers, to count a model that would not fit.
    pub fn counting() -> Params {
        Params { hollow: true, ..Params::default() }
    }

    /// Adds a parameter. Its draws are keyed by its name: adding another one changes no other weight.
    pub fn add(&mut self, name: &str, shape: &[usize], init: Init, decay: bool, rng: Rng) -> Param {
        assert!(self.find(name).is_none(), "params: {name} twice");
        let len: usize = shape.iter().product();
        let stream = rng.at(u64::from(crc32fast::hash(name.as_bytes())));
        let offset = self.len();
        self.entries.push(Entry { name: name.to_string(), shape: shape.to_vec(), offset, decay });
        if self.hollow {
            return Param(self.entries.len() - 1);
        }
        let weights = Arc::get_mut(&mut self.weights).expect("params: added while a tape holds the weights");
        weights.extend((0..len as u64).map(|i| match init {
            Init::Normal(std) => std * stream.normal(i),
            Init::Constant(value) => value,
        }));
        self.grads.resize(weights.len(), 0.0);
        Param(self.entries.len() - 1)
    }

    /// The same table over the same weights, for a second set of them.
    pub fn like(other: &Params) -> Params {
        Params { entries: other.entries.clone(), weights: other.weights.clone(), ..Params::default() }
    }

    /// The table, in flat order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<Param> {
        self.entries.iter().position(|e| e.name == name).map(Param)
    }

    /// Count of numbers.
    pub fn len(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.range().end)
    }

    /// True before anything was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A parameter's value: a window of the flat buffer.
    pub fn tensor(&self, p: Param) -> Tensor {
        let entry = &self.entries[p.0];
        Tensor::window(self.weights.clone(), entry.offset, &entry.shape)
    }

    /// All weights, flat.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    /// All gradients, flat.
    pub fn grads(&self) -> &[f32] {
        &self.grads
    }

    /// Weights to write, gradients to read and the table, for the optimizer. Panics while a tape still holds the weights.
    pub fn update(&mut self) -> (&mut [f32], &[f32], &[Entry]) {
        let weights =
            Arc::get_mut(&mut self.weights).expect("params: updated while a tape holds the weights");
        (weights, &self.grads, &self.entries)
    }

    /// Puts other numbers of the same count in the place of the weights, e.g. their average or a checkpoint's.
    pub fn set_weights(&mut self, weights: Vec<f32>) {
        assert_eq!(
            weights.len(),
            self.weights.len(),
            "params: {} weights for a table of {}",
            weights.len(),
            self.len()
        );
        self.weights = Arc::new(weights);
    }

    /// Puts every parameter on the tape as a leaf. No copy.
    pub fn bind(&self, tape: &mut Tape) -> Vars {
        Vars((0..self.entries.len()).map(|i| tape.leaf(self.tensor(Param(i)))).collect())
    }

    /// Replaces the flat gradients by what a backward pass found; zero where nothing flowed.
    pub fn collect(&mut self, vars: &Vars, mut found: Gradients) {
        for (entry, &var) in self.entries.iter().zip(&vars.0) {
            let slot = &mut self.grads[entry.range()];
            match found.take(var) {
                Some(gradient) => slot.copy_from_slice(gradient.data()),
                None => slot.fill(0.0),
            }
        }
    }
}

/// The parameters of one pass, as tape variables: `vars[self.weight]`.
pub struct Vars(Vec<Var>);

impl Index<Param> for Vars {
    type Output = Var;
    fn index(&self, p: Param) -> &Var {
        &self.0[p.0]
    }
}
