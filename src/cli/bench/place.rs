//! Inputs of a timed op, placed where it is computed: random, and in so many copies that a GPU finds none in its cache.

use std::rc::Rc;

use crate::data::loader::{Counts, Rows};
use crate::data::shard::Scale;
use crate::gpu::{Buffer, Gpu, PACK, Real, Took};
use crate::ops::adamw::{self, Decay, Part, Rates, Stretches, Weights};
use crate::ops::gather::{Cells, Scaling, gather};
use crate::params::Share;
use crate::rng::Rng;
use crate::selftest::Case;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;
use crate::train::row_spans;

/// Does the timed work once, with the copy of this number, modulo the number of copies. What only prepares it is not timed.
pub type Turn = Box<dyn FnMut(usize) -> Took>;

/// Between two uses of a copy, other copies fill the level-2 cache this many times.
const CACHES: usize = 3;

/// Most copies to make: an op whose inputs need more is so small that its time is all launch.
const COPIES: usize = 1024;

/// Random numbers, repeated if more are needed. An odd count, so that a row differs from the row above it.
const BLOCK: usize = (1 << 20) - 1;

/// Bytes of one piece of work that keeps a device busy while the host queues the first timings.
const AHEAD: usize = 256 << 20;

/// Where ops are timed.
pub struct Place {
    gpu: Option<Gpu>,
    /// Random numbers as f32 and, on a device that stores bf16, as bf16 too.
    block: Tensor,
    rounded: Option<Tensor>,
}

impl Place {
    /// On a device, or on the host.
    pub fn new(gpu: Option<&Gpu>) -> Place {
        let rng = Rng::new(8);
        let block = Tensor::new(&[BLOCK], (0..BLOCK as u64).map(|i| rng.normal(i)).collect());
        let on = |real| gpu.map(|gpu| block.to_gpu(gpu, "random numbers", real));
        let rounded = gpu.filter(|gpu| gpu.real() == Real::Bf16).and_then(|_| on(Real::Bf16));
        Place { block: on(Real::F32).unwrap_or(block), gpu: gpu.cloned(), rounded }
    }

    /// Its device.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// How ops store numbers here.
    pub fn real(&self) -> Real {
        self.gpu().map_or(Real::F32, Gpu::real)
    }

    /// How many copies of so many bytes are used in turn.
    pub fn copies(&self, bytes: usize) -> usize {
        let cache = self.gpu().map_or(0, Gpu::cache);
        (1 + (CACHES * cache).div_ceil(bytes.max(1))).min(if cache == 0 { 1 } else { COPIES })
    }

    /// Standard normal numbers; a different `which` begins elsewhere in the block.
    fn numbers(&self, shape: &[usize], real: Real, which: usize) -> Tensor {
        let block =
            if real == Real::Bf16 { self.rounded.as_ref().unwrap_or(&self.block) } else { &self.block };
        let (len, mut from) = (shape.iter().product(), which * 104_729 % BLOCK);
        let Some(gpu) = self.gpu() else {
            return Tensor::new(shape, block.data().iter().cycle().skip(from).take(len).copied().collect());
        };
        let (x, mut at) = (Tensor::on(gpu, "random numbers", shape, real), 0);
        while at < len {
            let many = (BLOCK - from).min(len - at);
            x.copy_from(at, &block.slice(from..from + many));
            (at, from) = (at + many, 0);
        }
        x
    }

    fn zeros(&self, len: usize) -> Tensor {
        let Some(gpu) = self.gpu() else { return Tensor::zeros(&[len]) };
        let x = Tensor::on(gpu, "zeros", &[len], Real::F32);
        x.zero();
        x
    }

    /// Gives a device some milliseconds of work, during which the host queues what is timed.
    pub fn run_ahead(&self) {
        let Some(gpu) = self.gpu().filter(|gpu| gpu.cache() > 0) else { return };
        let scratch = gpu.buffer("work ahead of what is timed", AHEAD);
        (0..40).for_each(|_| scratch.zero(0, AHEAD));
    }

    /// Forward and backward of an op of the tape; the first `leaves` inputs get gradients.
    pub fn tape(&self, case: Case, leaves: usize) -> Vec<Turn> {
        let (gpu, real) = (self.gpu.clone(), self.real());
        let copies = self.copies(case.size() * real.bytes());
        let inputs = |copy: usize| -> Vec<Tensor> {
            let shapes = case.shapes.iter().enumerate();
            shapes.map(|(i, shape)| self.numbers(shape, real, 31 * copy + i)).collect()
        };
        let inputs: Rc<Vec<Vec<Tensor>>> = Rc::new((0..copies).map(inputs).collect());
        let case = Rc::new(case);
        let begin = {
            let gpu = gpu.clone();
            Rc::new(move |i: usize| {
                let mut tape = Tape::new().on(gpu.as_ref());
                let inputs = inputs[i % copies].iter().enumerate();
                let var = |(at, x): (usize, &Tensor)| {
                    if at < leaves { tape.leaf(x.clone()) } else { tape.constant(x.clone()) }
                };
                let vars: Vec<Var> = inputs.map(var).collect();
                (tape, vars)
            })
        };
        let value = {
            let (mut tape, vars) = begin(0);
            let y = case.record(&mut tape, &vars);
            tape.value(y).clone()
        };
        let upstream: Vec<Tensor> =
            (0..copies).map(|copy| self.numbers(value.shape(), value.real(), 31 * copy + 30)).collect();
        drop(value);
        let forward: Turn = {
            let (gpu, case, begin) = (gpu.clone(), case.clone(), begin.clone());
            Box::new(move |i| {
                let (mut tape, vars) = begin(i);
                Took::of(gpu.as_ref(), || {
                    case.record(&mut tape, &vars);
                })
            })
        };
        let backward: Turn = Box::new(move |i| {
            let (mut tape, vars) = begin(i);
            let y = case.record(&mut tape, &vars);
            let dy = upstream[i % copies].clone();
            let loss = tape.record("loss", &[y], Tensor::scalar(0.0), move |_| vec![Some(dy)]);
            // The gradients are freed after the second stamp.
            let mut found = None;
            Took::of(gpu.as_ref(), || found = Some(tape.backward(loss)))
        });
        vec![forward, backward]
    }

    /// A whole step of AdamW: norm, clip, update, average.
    pub fn adamw(&self, len: usize) -> Turn {
        let (gpu, decays) = (self.gpu.clone(), vec![1; len / PACK]);
        let set = |copy: usize| AdamW {
            weights: Weights::of(self.numbers(&[len], Real::F32, 31 * copy)),
            grads: self.numbers(&[len], Real::F32, 31 * copy + 1),
            all: Stretches::new(Share::whole(len).parts(), self.gpu()),
            part: Part {
                at: 0,
                low: None,
                m: self.zeros(len),
                v: self.zeros(len),
                average: self.numbers(&[len], Real::F32, 31 * copy),
                decay: match self.gpu() {
                    Some(gpu) => Decay::Device(gpu.upload("where weights decay", &decays)),
                    None => Decay::Host(decays.clone()),
                },
            },
        };
        // A weight has its gradient, its average and two moments; all five are f32, or as large.
        let bytes = 5 * Real::F32.bytes() * len;
        let mut sets: Vec<AdamW> = (0..self.copies(bytes)).map(set).collect();
        let copies = sets.len();
        Box::new(move |i| Took::of(gpu.as_ref(), || sets[i % copies].step()))
    }

    /// Sparse counts to dense rows: on a device from arrays that are there, on the host as the loader does.
    pub fn gather(&self, rows: usize, genes: usize) -> Turn {
        let cells = counts(rows, genes);
        let Some(gpu) = self.gpu.clone() else {
            let mut dense = vec![0.0; rows * genes];
            return Box::new(move |_| Took::of(None, || cells.dense(&mut dense)));
        };
        let Counts::U16(values) = &cells.values else { unreachable!("counts are narrow") };
        let spans = gpu.upload("spans", &row_spans(&cells));
        let copies = self.copies(4 * cells.genes.len());
        let stored = cells.genes.len();
        let made: Vec<[Buffer; 2]> =
            (0..copies).map(|_| [gpu.upload("genes", &cells.genes), gpu.upload("values", values)]).collect();
        Box::new(move |i| {
            let [genes_of, values] = &made[i % copies];
            let cells = Cells { stored, genes: genes_of, values, wide: false };
            Took::of(Some(&gpu), || drop(gather(&cells, &spans, rows, genes, Scaling { log: true, by: 0.1 })))
        })
    }
}

/// What one step of AdamW reads and writes.
struct AdamW {
    weights: Weights,
    grads: Tensor,
    all: Stretches,
    part: Part,
}

impl AdamW {
    fn step(&mut self) {
        let squares = adamw::squares(&self.grads, &self.all, 0, 1);
        let clip = adamw::clip(&squares, 1.0);
        let rates =
            Rates { b1: 0.9, b2: 0.95, step: 2e-4, root: 1.0, eps: 1e-8, shrink: 0.999_998, keep: 0.999 };
        adamw::update(&mut self.weights, &self.grads, &mut self.part, &clip, rates);
    }
}

/// The share of its genes that a cell stores, as a fraction: [`counts`] has it in every row, give or take a few genes.
pub const STORED: [usize; 2] = [3, 20];

/// Cells that store about [`STORED`] of their genes as small counts.
fn counts(rows: usize, genes: usize) -> Rows {
    let rng = Rng::new(12);
    let (mut starts, mut ids, mut values) = (vec![0], Vec::new(), Vec::new());
    let share = STORED[0] as f32 / STORED[1] as f32;
    for row in 0..rows as u64 {
        for gene in 0..genes as u64 {
            let draw = rng.uniform(row * genes as u64 + gene);
            if draw < share {
                ids.push(gene as u16);
                // One to nine, small ones more often.
                values.push((1.0 / (draw / share + 0.11)) as u16 + 1);
            }
        }
        starts.push(ids.len() as u32);
    }
    let scale = vec![1.0; rows];
    let values = Counts::U16(values);
    Rows { starts, genes: ids, values, scale, kind: Scale::Counts, factor: 10.0, width: genes }
}
