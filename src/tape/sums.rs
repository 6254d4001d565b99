//! Sums of gradients: in temporary tensors, and, for those of weights, in buffers made beforehand.

use std::cell::Cell;
use std::rc::Rc;

use rayon::prelude::*;

use crate::gpu::{Gpu, Grid, Real, args};
use crate::tensor::{Tensor, agree};

/// A place on a device for the gradient of a weight, or of a window of it. The first gradient to arrive is written, the others are
/// added in the order of the backward pass. Clones share one place.
#[derive(Clone, Debug)]
pub struct Sink {
    whole: Tensor,
    part: Tensor,
    written: Rc<Cell<bool>>,
    /// Bytes that ops have moved there and that are not logged yet.
    moved: Rc<Cell<u64>>,
}

impl Sink {
    /// A place of f32 numbers on a device, which hold nothing yet.
    ///
    /// # Panics
    /// If they are stored otherwise, or on the host.
    pub fn new(whole: Tensor) -> Sink {
        assert!(whole.gpu().is_some() && whole.real() == Real::F32, "sink: {whole:?} is not f32 on a device");
        Sink { part: whole.clone(), whole, written: Rc::default(), moved: Rc::default() }
    }

    /// The part of that shape from number `at` on.
    pub(super) fn window(&self, at: usize, shape: &[usize]) -> Sink {
        Sink { part: self.part.part(at, shape), ..self.clone() }
    }

    /// Where an op writes the gradient of an input: in its sink, or in what `new` makes.
    pub fn place(sink: Option<&Sink>, new: impl FnOnce() -> Tensor) -> Place {
        Place::at(sink, new)
    }

    /// The same for an op that can write but not add: in what `new` makes, too, once something was written to the sink, and for a
    /// window of a larger one.
    pub fn place_once(sink: Option<&Sink>, new: impl FnOnce() -> Tensor) -> Place {
        Place::at(sink.filter(|sink| sink.is_whole() && !sink.written.get()), new)
    }

    /// Bytes that ops have moved to their places since the last call.
    pub(super) fn take_moved(&self) -> u64 {
        self.moved.take()
    }

    /// The numbers to write, and whether they are added to what is there.
    fn open(&self) -> (Tensor, bool) {
        if !self.is_whole() && !self.written.get() {
            self.whole.zero();
        }
        (self.part.clone(), self.written.replace(true) || !self.is_whole())
    }

    fn is_whole(&self) -> bool {
        self.part.len() == self.whole.len()
    }

    /// Checks that this is a place for the gradient of `x`.
    ///
    /// # Panics
    /// If the shape or the device differs.
    pub(super) fn check(&self, x: &Tensor) {
        let fits = self.part.shape() == x.shape() && self.part.is_on(x.gpu());
        assert!(fits, "sink: {x:?} in the place of {:?}", self.part);
    }

    /// Writes or adds a gradient that was made elsewhere. Returns the bytes moved.
    ///
    /// # Panics
    /// If it has another shape than the place, or is not on its device.
    pub fn add(&self, dx: &Tensor) -> u64 {
        self.check(dx);
        let (to, more) = self.open();
        let dx = &stored(dx, Real::F32);
        match more {
            true => launch_add(&to, &to, dx),
            false => to.copy_from(0, dx),
        }
        dx.bytes() * if more { 3 } else { 2 }
    }

    /// Writes zeros if nothing was written.
    pub fn close(&self) {
        if !self.written.replace(true) {
            self.whole.zero();
        }
    }
}

/// Where an op writes the gradient of an input.
#[derive(Debug)]
pub struct Place {
    /// The numbers to write.
    pub to: Tensor,
    /// True if they are added to what is there.
    pub more: bool,
    /// True if they lie in the sink.
    pub in_sink: bool,
}

impl Place {
    fn at(sink: Option<&Sink>, new: impl FnOnce() -> Tensor) -> Place {
        let Some(sink) = sink else { return Place { to: new(), more: false, in_sink: false } };
        let (to, more) = sink.open();
        sink.moved.set(sink.moved.get() + to.bytes() * if more { 2 } else { 1 });
        Place { to, more, in_sink: true }
    }

    /// The gradient, for the tape to add up; `None` if it was written to its sink.
    pub fn gradient(self) -> Option<Tensor> {
        (!self.in_sink).then_some(self.to)
    }
}

/// A gradient stored as `real`; itself if it already is. A weight's gradient arrives rounded if an op stored it like an
/// activation's; an activation's arrives as f32 if an op summed it over sets.
pub fn stored(x: &Tensor, real: Real) -> Tensor {
    if x.real() == real {
        return x.clone();
    }
    let y = Tensor::on(x.device(), "a gradient stored otherwise", x.shape(), real);
    y.cast_from(x);
    y
}

fn launch_add(y: &Tensor, a: &Tensor, b: &Tensor) {
    let all = [y, a, b].map(|x| (x, b.shape()));
    let (kernel, gpu) = match b.real() {
        Real::F32 => ("add_f32", agree("gradient sums", &[], &all)),
        Real::Bf16 => ("add", agree("gradient sums", &all, &[])),
    };
    let gpu = gpu.expect("a sum on a device");
    let args = args![y, a, b, b.len() as u64];
    // SAFETY: add(y, a, b, count) reads and writes element by element; all three were found to hold `count`
    // numbers, stored in the same way.
    unsafe { gpu.launch("elementwise", kernel, Grid::eights(b.len()), &args) };
}

/// Numbers that one thread adds at a time.
const PIECE: usize = 1 << 14;

/// Sum of two gradients of one value; in place if the first has no other owner.
pub fn add(sum: Tensor, dx: &Tensor) -> Tensor {
    let shape = sum.shape().to_vec();
    add_window(Some(sum), &shape, 0, dx)
}

/// `whole`, or zeros if there is none yet, plus `part` from number `at` on; in place if `whole` has no other owner.
pub fn add_window(whole: Option<Tensor>, shape: &[usize], at: usize, part: &Tensor) -> Tensor {
    if let Some(gpu) = part.gpu() {
        return add_window_on(gpu, whole, shape, at, part);
    }
    let mut numbers = whole.unwrap_or_else(|| Tensor::zeros(shape)).into_vec();
    let add = |(sum, dx): (&mut [f32], &[f32])| sum.iter_mut().zip(dx).for_each(|(a, b)| *a += b);
    let (window, part) = (&mut numbers[at..at + part.len()], part.data());
    match part.len() <= PIECE {
        true => add((window, part)),
        false => window.par_chunks_mut(PIECE).zip(part.par_chunks(PIECE)).for_each(add),
    }
    Tensor::new(shape, numbers)
}

/// The same on a device. A weight without a sink may get f32 from one op and the device's own storage from another: such a sum is
/// f32.
fn add_window_on(gpu: &Gpu, whole: Option<Tensor>, shape: &[usize], at: usize, part: &Tensor) -> Tensor {
    let fresh = || Tensor::on(gpu, "a sum of gradients", shape, part.real());
    let Some(whole) = whole else {
        let sum = fresh();
        sum.zero();
        sum.copy_from(at, part);
        return sum;
    };
    if whole.real() != part.real() {
        let [whole, part] = [&whole, part].map(|x| stored(x, Real::F32));
        return add_window_on(gpu, Some(whole), shape, at, &part);
    }
    let alone = whole.is_alone();
    let sum = if alone { whole.clone() } else { fresh() };
    if !alone && part.len() < whole.len() {
        sum.copy_from(0, &whole);
    }
    let [y, a] = [&sum, &whole].map(|tensor| tensor.part(at, part.shape()));
    launch_add(&y, &a, part);
    sum
}
