//! All weights in one flat buffer, with names.
//!
//! Norm, AdamW and average are each one loop over flat buffers, on the host or on a device. The names and shapes are those of the
//! checkpoint; linear weights are `[out, in]`, as PyTorch has them.
//!
//! Every parameter begins at a multiple of [`PACK`](crate::gpu::PACK) numbers, with zeros between, so that its window is aligned
//! for the widest loads and no load holds numbers of two parameters. A device that stores bf16 holds the weights in two halves: the
//! rounded weights, which products read, and what rounding took away, so that steps are added in f32.

use std::ops::Index;

use rayon::prelude::*;

use crate::gpu::{Gpu, Real};
use crate::ops::adamw::Weights;
use crate::tape::{Gradients, Sink, Tape, Var};
use crate::tensor::Tensor;

mod file;
mod flats;
mod share;
mod table;

pub(crate) use file::{tensor_view, view_of, write};
pub use flats::Flats;
pub(crate) use share::Pieces;
pub use share::Share;
pub use table::{DrawnPart, Entry, Init, Param, Table};

/// A table of parameters and their flat buffers.
pub struct Params {
    table: Table,
    /// `[L]`.
    weights: Weights,
    /// `[L]` f32; empty if none are wanted.
    grads: Tensor,
}

/// What a device that has no room for them calls the gradients.
const GRADIENTS: &str = "gradients of the weights";

brief!(Params, |params| tensors: params.entries().len(), weights: params.len());

impl Params {
    /// These weights, `[L]` f32, and no room for gradients.
    ///
    /// # Panics
    /// If there are more or fewer than the table has, or they are not f32.
    pub fn new(table: Table, weights: Tensor) -> Params {
        assert_eq!(weights.len(), table.len(), "params: weights for another table");
        Params { table, weights: Weights::of(weights), grads: Tensor::zeros(&[0]) }
    }

    /// The same with room for gradients, where the weights are.
    pub fn with_gradients(self) -> Params {
        let grads = Tensor::zeros_on(self.gpu(), GRADIENTS, &[self.len()]);
        Params { grads, ..self }
    }

    /// The same table over other weights, e.g. their average, without gradients: `[L]` f32, on the host or where these weights are.
    ///
    /// # Panics
    /// As [`Params::new`].
    pub fn over(&self, weights: Tensor) -> Params {
        let weights = match self.gpu() {
            Some(gpu) if weights.gpu().is_none() => weights.to_gpu(gpu, "weights", Real::F32),
            _ => weights,
        };
        Params::new(self.table.clone(), weights)
    }

    /// The same on a device.
    ///
    /// # Panics
    /// If they are on a device already.
    pub fn to_gpu(self, gpu: &Gpu) -> Params {
        let weights = Weights::of(self.weights.whole().to_gpu(gpu, "weights", Real::F32));
        let grads = match self.grads.is_empty() {
            true => self.grads,
            false => self.grads.to_gpu(gpu, GRADIENTS, Real::F32),
        };
        Params { weights, grads, ..self }
    }

    /// What predictions read of them, and no more: no gradients, and on a device that stores bf16 no lower halves of the weights,
    /// so that [`Params::weights`] and `save` panic there.
    pub fn to_predict(mut self) -> Params {
        self.weights.take_low();
        Params { grads: Tensor::zeros(&[0]), ..self }
    }

    /// Names, shapes and places.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The table's rows, in flat order.
    pub fn entries(&self) -> &[Entry] {
        self.table.entries()
    }

    /// The device that holds the weights.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.weights.read().gpu()
    }

    /// Length of the flat buffers, L.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True for an empty table.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// A parameter's value as ops read it: a window of a flat buffer.
    ///
    /// # Panics
    /// If the parameter is one of another table.
    pub fn tensor(&self, p: Param) -> Tensor {
        let entry = &self.entries()[p.among(self.table.marks())];
        self.weights.read().part(entry.offset, &entry.shape)
    }

    /// All weights, `[L]` f32, where they are.
    ///
    /// # Panics
    /// If ranks share their lower halves, or [`Params::to_predict`] dropped them.
    pub fn weights(&self) -> Tensor {
        self.weights.whole()
    }

    /// Weights `at..at + len` as f32, where they are; `low` holds their lower halves if ranks share them.
    pub(crate) fn master(&self, at: usize, len: usize, low: Option<&Tensor>) -> Tensor {
        self.weights.window(at, len, low).whole()
    }

    /// Hands the lower halves of all weights to whoever will keep a share of them; `None` if the weights are whole.
    pub(crate) fn take_low(&mut self) -> Option<Tensor> {
        self.weights.take_low()
    }

    /// All weights as products read them, `[L]`.
    pub fn read(&self) -> &Tensor {
        self.weights.read()
    }

    /// The same, for writing.
    ///
    /// # Panics
    /// If the weights have their lower halves here.
    pub(crate) fn read_mut(&mut self) -> &mut Tensor {
        self.weights.read_mut()
    }

    /// All gradients, `[L]` f32.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// All gradients, `[L]`, for writing.
    ///
    /// # Panics
    /// If they are on a device.
    pub(crate) fn grads_mut(&mut self) -> &mut [f32] {
        self.grads.data_mut()
    }

    /// The flat buffers, for the optimizer.
    ///
    /// # Panics
    /// If a tape or another tensor shares the weights.
    pub fn update(&mut self) -> (&mut Weights, &Tensor) {
        assert!(
            self.weights.is_alone(),
            "params: a tape or another tensor shares the weights; drop it, or keep `copied()` of it"
        );
        (&mut self.weights, &self.grads)
    }

    /// Puts every parameter on the tape as a leaf, without a copy; on a device gradients go straight to the flat buffer.
    pub fn bind(&self, tape: &mut Tape) -> Vars {
        let place = |entry: &Entry| Sink::new(self.grads.part(entry.offset, &entry.shape));
        let sinks: Vec<Sink> = match self.grads.gpu() {
            Some(_) => self.entries().iter().map(place).collect(),
            None => Vec::new(),
        };
        let leaf = |i: usize| match sinks.get(i) {
            Some(sink) => tape.leaf_into(self.tensor(self.table.param(i)), sink.clone()),
            None => tape.leaf(self.tensor(self.table.param(i))),
        };
        let marks = self.table.marks().to_vec();
        Vars { vars: (0..self.entries().len()).map(leaf).collect(), marks, sinks }
    }

    /// Replaces the flat gradients by what a backward pass found; zero for parameters that no gradient reached.
    ///
    /// # Panics
    /// If there is no room for gradients ([`Params::with_gradients`]), or `vars` and `found` are of another tape or table.
    pub fn collect(&mut self, vars: &Vars, mut found: Gradients) {
        assert!(vars.marks == self.table.marks(), "params: variables of another table");
        if self.grads.gpu().is_some() {
            return vars.sinks.iter().for_each(Sink::close);
        }
        assert!(self.grads.len() == self.len(), "params: no room for gradients; make them `with_gradients`");
        let found: Vec<Option<Tensor>> = vars.vars.iter().map(|&var| found.take(var)).collect();
        let slots = self.table.windows(self.grads.data_mut()).into_par_iter().zip(found);
        slots.for_each(|(slot, gradient)| match gradient {
            Some(gradient) => slot.copy_from_slice(gradient.data()),
            None => slot.fill(0.0),
        });
    }
}

/// The parameters of one pass, as tape variables: `vars[self.weight]`.
pub struct Vars {
    vars: Vec<Var>,
    /// What tells the parameters from those of other tables.
    marks: Vec<u32>,
    /// On a device: where their gradients go.
    sinks: Vec<Sink>,
}

brief!(Vars, |all| vars: all.vars.len());

impl Vars {
    /// The number of the entry that a variable stands for.
    ///
    /// # Panics
    /// If it stands for none.
    pub fn entry(&self, var: Var) -> usize {
        self.vars.binary_search(&var).expect("a parameter, bound in the order of the table")
    }
}

/// Panics on a parameter of another table.
impl Index<Param> for Vars {
    type Output = Var;
    fn index(&self, p: Param) -> &Var {
        &self.vars[p.among(&self.marks)]
    }
}
