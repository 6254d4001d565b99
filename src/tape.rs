//! Records ops as they run, walks back once.
//!
//! An op computes its value, then calls [`Tape::record`] with a closure that turns the gradient of its value into the gradients
//! of its inputs. The closure is the whole backward: there is no op enum and no second table.

use std::panic::Location;

use rayon::prelude::*;

use crate::gpu::{Gpu, Grid, Real};
use crate::laps::{Laps, Way, op_of};
use crate::tensor::Tensor;

/// A value on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(usize);

/// Gradients of an op's inputs, in the order they were recorded. `None` where one does not flow.
pub type Grads = Vec<Option<Tensor>>;

type Backward = Box<dyn FnOnce(&Tensor) -> Grads>;

struct Node {
    value: Tensor,
    /// True if a gradient must reach this value.
    needs: bool,
    inputs: Vec<Var>,
    way_back: WayBack,
    /// Where it was recorded, which tells the op.
    place: &'static Location<'static>,
    /// Of the way back.
    flops: u64,
}

/// What becomes of the gradient of a node's value.
enum WayBack {
    /// Nothing: a leaf, data, or a value that no gradient reaches.
    Ends,
    /// The op turns it into its inputs' gradients.
    Op(Backward),
    /// It is added to the gradient of the only input, from this number on.
    Window(usize),
}

/// The record of one forward pass.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    off: bool,
    gpu: Option<Gpu>,
    laps: Option<Laps>,
    /// Of the op that is recorded next, forward and backward.
    flops: [u64; 2],
}

impl Tape {
    /// An empty tape that records.
    pub fn new() -> Self {
        Tape::default()
    }

    /// A tape that only computes: nothing needs a gradient, no closure is kept.
    pub fn off() -> Self {
        Tape { off: true, ..Tape::default() }
    }

    /// The same on a device, where one is given: constants are moved there, and the ops follow.
    pub fn on(self, gpu: Option<&Gpu>) -> Self {
        Tape { gpu: gpu.cloned(), ..self }
    }

    /// The same, writing down what each op costs where a record is given.
    pub fn timed(self, laps: Option<&Laps>) -> Self {
        Tape { laps: laps.cloned(), ..self }
    }

    /// The device that constants are moved to.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// A value whose gradient is wanted: a weight.
    #[track_caller]
    pub fn leaf(&mut self, value: Tensor) -> Var {
        self.push(value, !self.off, &[], WayBack::Ends)
    }

    /// A value without gradient: data.
    #[track_caller]
    pub fn constant(&mut self, value: Tensor) -> Var {
        let value = match &self.gpu {
            Some(gpu) if value.gpu().is_none() => value.to_gpu(gpu, "data of a step", gpu.real()),
            _ => value,
        };
        self.push(value, false, &[], WayBack::Ends)
    }

    /// The same value, cut off from what made it: no gradient passes.
    #[track_caller]
    pub fn detach(&mut self, x: Var) -> Var {
        self.constant(self.value(x).clone())
    }

    /// The number(s) behind a variable.
    pub fn value(&self, x: Var) -> &Tensor {
        &self.nodes[x.0].value
    }

    /// True if a gradient must reach `x`: an op may skip the work of one that is not needed.
    pub fn needs(&self, x: Var) -> bool {
        self.nodes[x.0].needs
    }

    /// Multiplications and additions of the op that is recorded next, forward and backward: for ops that are made of them.
    pub fn costs(&mut self, forward: usize, backward: usize) {
        self.flops = [forward as u64, backward as u64];
    }

    /// Adds an op's value. `backward` maps the gradient of `value` to those of `inputs`, one entry each.
    #[track_caller]
    pub fn record(
        &mut self,
        inputs: &[Var],
        value: Tensor,
        backward: impl FnOnce(&Tensor) -> Grads + 'static,
    ) -> Var {
        let needs = inputs.iter().any(|&x| self.needs(x));
        let way_back = if needs { WayBack::Op(Box::new(backward)) } else { WayBack::Ends };
        self.push(value, needs, inputs, way_back)
    }

    /// Adds a window of `x`: `value` holds its numbers from number `at` on. Its gradient is added where it lies, without a
    /// tensor of zeros around it, if that of `x` is known by then; so take windows before `x` goes elsewhere.
    #[track_caller]
    pub fn record_window(&mut self, x: Var, value: Tensor, at: usize) -> Var {
        let needs = self.needs(x);
        let way_back = if needs { WayBack::Window(at) } else { WayBack::Ends };
        self.push(value, needs, &[x], way_back)
    }

    #[track_caller]
    fn push(&mut self, value: Tensor, needs: bool, inputs: &[Var], way_back: WayBack) -> Var {
        let (place, [forward, flops]) = (Location::caller(), std::mem::take(&mut self.flops));
        if let Some(laps) = self.laps.as_ref().filter(|_| !inputs.is_empty()) {
            let read: Vec<&Tensor> = inputs.iter().map(|&x| self.value(x)).collect();
            let bytes = moved(&read, &[&value]);
            laps.lap(&op_of(place), value.shape(), Way::Forward, (bytes, forward));
        }
        self.nodes.push(Node { value, needs, inputs: inputs.to_vec(), way_back, place, flops });
        Var(self.nodes.len() - 1)
    }

    /// Gradients of the scalar `loss` by every leaf. Values and closures are dropped on the way, as soon as they are used up.
    pub fn backward(mut self, loss: Var) -> Gradients {
        assert_eq!(self.value(loss).len(), 1, "backward: the loss has shape {:?}", self.value(loss).shape());
        let mut grads: Vec<Option<Tensor>> = self.nodes.iter().map(|_| None).collect();
        let one = Tensor::scalar(1.0).reshape(self.value(loss).shape());
        grads[loss.0] = Some(match self.value(loss).gpu() {
            Some(gpu) => one.to_gpu(gpu, "the loss's gradient", Real::F32),
            None => one,
        });
        while let Some(node) = self.nodes.pop() {
            let Some(dy) = grads[self.nodes.len()].take() else { continue };
            let shape = self.laps.is_some().then(|| node.value.shape().to_vec());
            drop(node.value);
            match node.way_back {
                WayBack::Ends => grads[self.nodes.len()] = Some(dy),
                WayBack::Window(at) => {
                    let whole = &mut grads[node.inputs[0].0];
                    *whole = Some(add_window(whole.take(), self.value(node.inputs[0]).shape(), at, &dy));
                    self.summed(3 * dy.bytes());
                }
                WayBack::Op(backward) => {
                    let dx = backward(&dy);
                    if let Some((laps, shape)) = self.laps.as_ref().zip(shape) {
                        let read =
                            node.inputs.iter().map(|&x| self.value(x)).chain([&dy]).collect::<Vec<_>>();
                        let written: Vec<&Tensor> = dx.iter().flatten().collect();
                        let cost = (moved(&read, &written), node.flops);
                        laps.lap(&op_of(node.place), &shape, Way::Backward, cost);
                    }
                    let added = self.spread(&node.inputs, dx, &mut grads);
                    self.summed(3 * added);
                }
            }
        }
        Gradients(grads)
    }

    /// Sums of gradients have moved so many bytes.
    fn summed(&self, bytes: u64) {
        if let Some(laps) = self.laps.as_ref().filter(|_| bytes > 0) {
            laps.lap("gradient sums", &[], Way::Backward, (bytes, 0));
        }
    }

    /// Adds what an op found to the gradients of its inputs. Returns the bytes of what was added to something.
    fn spread(&self, inputs: &[Var], dx: Grads, grads: &mut [Option<Tensor>]) -> u64 {
        let mut added = 0;
        assert_eq!(dx.len(), inputs.len(), "backward: one gradient an input, op {}", self.nodes.len());
        for (&input, dx) in inputs.iter().zip(dx) {
            let Some(dx) = dx.filter(|_| self.needs(input)) else { continue };
            let value = self.value(input);
            assert_eq!(dx.len(), value.len(), "backward: {:?} for {:?}", dx.shape(), value.shape());
            let slot = &mut grads[input.0];
            *slot = Some(match slot.take() {
                None => dx,
                Some(sum) => {
                    added += dx.bytes();
                    add(sum, &dx)
                }
            });
        }
        added
    }
}

/// Bytes that an op must read and write; none for one that only shows its input in another way.
fn moved(read: &[&Tensor], written: &[&Tensor]) -> u64 {
    let fresh = |x: &&&Tensor| !read.iter().any(|other| x.shares(other));
    let written: u64 = written.iter().filter(fresh).map(|x| x.bytes()).sum();
    if written == 0 { 0 } else { written + read.iter().map(|x| x.bytes()).sum::<u64>() }
}

/// Numbers that one thread adds at a time.
const PIECE: usize = 1 << 14;

/// Sum of two gradients of one value; in place where the first has no other owner.
fn add(sum: Tensor, dx: &Tensor) -> Tensor {
    let shape = sum.shape().to_vec();
    add_window(Some(sum), &shape, 0, dx)
}

/// `whole`, zeros where there is none yet, plus `part` from number `at` on; in place where `whole` has no other owner.
fn add_window(whole: Option<Tensor>, shape: &[usize], at: usize, part: &Tensor) -> Tensor {
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

/// The same on a device, where both are stored alike: gradients of weights as f32, others as the device's numbers.
fn add_window_on(gpu: &Gpu, whole: Option<Tensor>, shape: &[usize], at: usize, part: &Tensor) -> Tensor {
    let fresh = || Tensor::on(gpu, "a sum of gradients", shape, part.real());
    let Some(whole) = whole else {
        let sum = fresh();
        sum.zero();
        sum.copy_from(at, part);
        return sum;
    };
    assert!(whole.real() == part.real(), "backward: gradients of {:?} and {:?}", whole.real(), part.real());
    let alone = whole.is_alone();
    let sum = if alone { whole.clone() } else { fresh() };
    if !alone && part.len() < whole.len() {
        sum.copy_from(0, &whole);
    }
    let kernel = if part.real() == Real::F32 { "add_f32" } else { "add" };
    let [y, a] = [&sum, &whole].map(|tensor| tensor.part(at, part.shape()));
    let args = [(&y).into(), (&a).into(), part.into(), (part.len() as u64).into()];
    // SAFETY: add(y, a, b, count) reads and writes element by element; all three hold `count` numbers.
    unsafe { gpu.launch("elementwise", kernel, Grid::elements(part.len().div_ceil(8)), &args) };
    sum
}

/// What [`Tape::backward`] found.
pub struct Gradients(Vec<Option<Tensor>>);

impl Gradients {
    /// Gradient of the loss by a leaf; `None` where the loss does not depend on it.
    pub fn take(&mut self, leaf: Var) -> Option<Tensor> {
        self.0[leaf.0].take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(tape: &mut Tape, a: Var, b: Var) -> Var {
        let (x, y) = (tape.value(a).item(), tape.value(b).item());
        tape.record(&[a, b], Tensor::scalar(x * y), move |d| {
            vec![Some(Tensor::scalar(d.item() * y)), Some(Tensor::scalar(d.item() * x))]
        })
    }

    #[test]
    fn a_value_used_twice_gets_both_gradients() {
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(3.0));
        let square = product(&mut tape, x, x);
        let cube = product(&mut tape, square, x);
        assert_eq!(tape.backward(cube).take(x).map(|g| g.item()), Some(27.0));
    }

    #[test]
    fn nothing_flows_through_a_detached_value_or_on_a_tape_that_is_off() {
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(3.0));
        let cut = tape.detach(x);
        let y = product(&mut tape, x, cut);
        assert_eq!(tape.backward(y).take(x).map(|g| g.item()), Some(3.0));

        let mut tape = Tape::off();
        let x = tape.leaf(Tensor::scalar(3.0));
        let y = product(&mut tape, x, x);
        assert!(!tape.needs(y));
    }
}
