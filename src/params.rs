//! All weights in one flat buffer, with names.
//!
//! Norm, AdamW and average are each one loop over flat buffers, on the host or on a device. The names and shapes are those of the
//! checkpoint; linear weights are [out, in], as PyTorch has them.
//!
//! Every parameter begins at a multiple of [`PACK`] numbers, zeros between, so that its window is aligned for the widest loads
//! and no load holds numbers of two. On a device that stores bf16 the weights lie there in two halves: rounded, which products read,
//! and what rounding took away, so that steps are added to f32.

use std::ops::{Index, Range};

use rayon::prelude::*;

use crate::gpu::{Gpu, PACK, Real};
use crate::ops::adamw::Weights;
use crate::rng::Rng;
use crate::tape::{Gradients, Sink, Tape, Var};
use crate::tensor::Tensor;

mod share;

pub use share::{Pieces, Share};

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
    /// [L].
    weights: Weights,
    /// [L] f32.
    grads: Tensor,
    /// True for a table that is only counted.
    hollow: bool,
    /// L is a multiple of as many packs; 0 as 1.
    packs: usize,
}

/// What the optimizer reads and writes: flat buffers of L numbers.
pub struct Flat<'a> {
    /// Those that are moved.
    pub weights: &'a mut Weights,
    /// f32.
    pub grads: &'a Tensor,
}

impl Params {
    /// A table without numbers, to count a model that would not fit, or to be given a checkpoint's ([`Params::set_weights`]).
    pub fn counting() -> Params {
        Params { hollow: true, ..Params::default() }
    }

    /// An empty table, with room for so many numbers.
    pub fn with_room(len: usize) -> Params {
        let room = || Tensor::new(&[0], Vec::with_capacity(len));
        Params { weights: Weights::Whole(room()), grads: room(), ..Params::default() }
    }

    /// Adds a parameter. Its draws are keyed by its name: adding another one changes no other weight.
    pub fn add(&mut self, name: &str, shape: &[usize], init: Init, decay: bool, rng: Rng) -> Param {
        let drawn = self.draw(name, shape.iter().product(), init, rng);
        self.add_drawn(name, shape, drawn, decay)
    }

    /// First values of a parameter of that name and length; none for a table that is only counted.
    pub fn draw(&self, name: &str, len: usize, init: Init, rng: Rng) -> Vec<f32> {
        let stream = rng.at(u64::from(crc32fast::hash(name.as_bytes())));
        let mut numbers = vec![0.0; if self.hollow { 0 } else { len }];
        match init {
            Init::Normal(std) => {
                numbers.par_chunks_mut(4).with_min_len(1024).enumerate().for_each(|(i, four)| {
                    four.iter_mut().zip(stream.normals(i as u64)).for_each(|(x, drawn)| *x = std * drawn);
                })
            }
            Init::Constant(value) => numbers.fill(value),
        }
        numbers
    }

    /// Adds a parameter with the first values that [`Params::draw`] gave, for one name or for several that it is made of.
    pub fn add_drawn(&mut self, name: &str, shape: &[usize], drawn: Vec<f32>, decay: bool) -> Param {
        assert!(self.find(name).is_none(), "params: {name} twice");
        let offset = self.len();
        self.entries.push(Entry { name: name.to_string(), shape: shape.to_vec(), offset, decay });
        if self.hollow {
            return Param(self.entries.len() - 1);
        }
        let len: usize = shape.iter().product();
        assert!(drawn.len() == len, "params: {} numbers for {name}, {shape:?}", drawn.len());
        let end = self.len();
        for (numbers, drawn) in [(self.weights.read_mut(), drawn), (&mut self.grads, Vec::new())] {
            let mut longer = std::mem::take(numbers).into_vec();
            longer.extend(drawn);
            longer.resize(end, 0.0);
            *numbers = flat(longer);
        }
        Param(self.entries.len() - 1)
    }

    /// The same table over the same weights, for a second set of them.
    pub fn like(other: &Params) -> Params {
        let Params { entries, weights, packs, .. } = other;
        let (entries, weights, packs) = (entries.clone(), weights.clone(), *packs);
        Params { entries, weights, packs, ..Params::default() }
    }

    /// What this rank keeps of the optimizer where `ranks` share it. The flat buffers, still on the host, get some more zeros behind
    /// the last parameter, so that shares are equal.
    pub fn share(&mut self, rank: usize, ranks: usize) -> Share {
        if ranks == 1 {
            return Share::whole(self.len());
        }
        self.packs = ranks;
        let len = self.len();
        for numbers in [self.weights.read_mut(), &mut self.grads] {
            let mut longer = std::mem::take(numbers).into_vec();
            longer.resize(len, 0.0);
            *numbers = flat(longer);
        }
        Share::new(share::cut(&self.entries, len, ranks), rank, ranks)
    }

    /// The pieces in which gradients leave for the other ranks: those of the share, or whole parameters where nothing is shared.
    pub fn pieces(&self, share: &Share) -> Pieces {
        match share.is_whole() {
            true => Pieces::new(&self.entries, share::cut(&self.entries, self.len(), 1)),
            false => Pieces::new(&self.entries, share.pieces().to_vec()),
        }
    }

    /// The same on a device.
    pub fn to_gpu(self, gpu: &Gpu) -> Params {
        let weights = Weights::of(self.weights.whole().to_gpu(gpu, "weights", Real::F32));
        let grads = match self.grads.is_empty() {
            true => self.grads,
            false => self.grads.to_gpu(gpu, "gradients of the weights", Real::F32),
        };
        Params { weights, grads, ..self }
    }

    /// Room for gradients of a table whose weights were set and not drawn; on the host.
    pub fn make_gradients(&mut self) {
        self.grads = Tensor::zeros(&[self.len()]);
    }

    /// The table, in flat order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The parameter of that name.
    pub fn find(&self, name: &str) -> Option<Param> {
        self.entries.iter().position(|e| e.name == name).map(Param)
    }

    /// The device that the weights lie on.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.weights.read().gpu()
    }

    /// Count of weights.
    pub fn count(&self) -> usize {
        self.entries.iter().map(|entry| entry.range().len()).sum()
    }

    /// Length of the flat buffers, L: the weights and the zeros between parameters and behind the last.
    pub fn len(&self) -> usize {
        let grain = self.packs.max(1) * PACK;
        self.entries.last().map_or(0, |entry| entry.range().end.next_multiple_of(grain))
    }

    /// True before anything was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A parameter's value as ops read it: a window of a flat buffer.
    pub fn tensor(&self, p: Param) -> Tensor {
        let entry = &self.entries[p.0];
        self.weights.read().part(entry.offset, &entry.shape)
    }

    /// All weights, [L] f32, where they lie. Panics where ranks share their lower halves.
    pub fn weights(&self) -> Tensor {
        self.weights.whole()
    }

    /// Weights `at..at + len` as f32, where they lie; `low` are the lower halves of these where ranks share them.
    pub fn master(&self, at: usize, len: usize, low: Option<&Tensor>) -> Tensor {
        self.weights.window(at, len, low).whole()
    }

    /// Gives the lower halves of all weights to the one who will keep a share of them; none where weights are whole.
    pub fn take_low(&mut self) -> Option<Tensor> {
        self.weights.take_low()
    }

    /// All weights as products read them, [L], to be written. Panics where they have lower halves here.
    pub fn read_mut(&mut self) -> &mut Tensor {
        self.weights.read_mut()
    }

    /// All gradients, [L] f32.
    pub fn grads(&self) -> &Tensor {
        &self.grads
    }

    /// Changes all gradients, [L], on the host: in place where they lie there, by a way there and back else.
    pub fn edit_grads<T>(&mut self, edit: impl FnOnce(&mut [f32]) -> T) -> T {
        let Some(gpu) = self.grads.gpu().cloned() else { return edit(self.grads.data_mut()) };
        let mut numbers = self.grads.to_host().into_vec();
        let found = edit(&mut numbers);
        self.grads = flat(numbers).to_gpu(&gpu, "gradients of the weights", Real::F32);
        found
    }

    /// The flat buffers, for the optimizer. Panics while a tape still holds the weights.
    pub fn update(&mut self) -> Flat<'_> {
        assert!(self.weights.is_alone(), "params: updated while a tape holds the weights");
        Flat { weights: &mut self.weights, grads: &self.grads }
    }

    /// Gives a parameter other first values; a table that is only counted has none. Panics where the weights lie on a device.
    pub fn set(&mut self, p: Param, values: &[f32]) {
        if self.hollow {
            return;
        }
        let range = self.entries[p.0].range();
        let Weights::Whole(weights) = &mut self.weights else { panic!("params: set on a device") };
        weights.data_mut()[range].copy_from_slice(values);
    }

    /// Puts others in the place of all weights, e.g. their average or a checkpoint's: [L] f32, on the host or on this device.
    pub fn set_weights(&mut self, weights: Tensor) {
        assert_eq!(weights.len(), self.len(), "params: weights for another table");
        self.hollow = false;
        self.weights = Weights::of(match self.gpu() {
            Some(gpu) if weights.gpu().is_none() => weights.to_gpu(gpu, "weights", Real::F32),
            _ => weights,
        });
    }

    /// Puts every parameter on the tape as a leaf. No copy; on a device gradients go straight to the flat buffer.
    pub fn bind(&self, tape: &mut Tape) -> Vars {
        let place = |entry: &Entry| Sink::new(self.grads.part(entry.offset, &entry.shape));
        let sinks: Vec<Sink> = match self.grads.gpu() {
            Some(_) => self.entries.iter().map(place).collect(),
            None => Vec::new(),
        };
        let leaf = |i: usize| match sinks.get(i) {
            Some(sink) => tape.leaf_into(self.tensor(Param(i)), sink.clone()),
            None => tape.leaf(self.tensor(Param(i))),
        };
        Vars { vars: (0..self.entries.len()).map(leaf).collect(), sinks }
    }

    /// Replaces the flat gradients by what a backward pass found; zero where nothing flowed.
    pub fn collect(&mut self, vars: &Vars, mut found: Gradients) {
        if self.grads.gpu().is_some() {
            return vars.sinks.iter().for_each(Sink::close);
        }
        let (mut rest, mut at) = (self.grads.data_mut(), 0);
        let mut copies = Vec::with_capacity(vars.vars.len());
        for (entry, &var) in self.entries.iter().zip(&vars.vars) {
            let range = entry.range();
            let (_, behind) = std::mem::take(&mut rest).split_at_mut(range.start - at); // zeros between parameters
            let (slot, behind) = behind.split_at_mut(range.len());
            copies.push((slot, found.take(var)));
            (rest, at) = (behind, range.end);
        }
        copies.into_par_iter().for_each(|(slot, gradient)| match gradient {
            Some(gradient) => slot.copy_from_slice(gradient.data()),
            None => slot.fill(0.0),
        });
    }
}

fn flat(numbers: Vec<f32>) -> Tensor {
    Tensor::new(&[numbers.len()], numbers)
}

/// The parameters of one pass, as tape variables: `vars[self.weight]`.
pub struct Vars {
    vars: Vec<Var>,
    /// On a device: where their gradients go.
    sinks: Vec<Sink>,
}

impl Vars {
    /// The number of the entry that a variable stands for.
    pub fn entry(&self, var: Var) -> usize {
        self.vars.binary_search(&var).expect("a parameter, bound in the order of the table")
    }
}

impl Index<Param> for Vars {
    type Output = Var;
    fn index(&self, p: Param) -> &Var {
        &self.vars[p.0]
    }
}
