//! Records ops as they run, walks back once.
//!
//! An op computes its value, then calls [`Tape::record`] with a closure that turns the gradient of its value into the gradients
//! of its inputs. The closure is the whole backward: there is no op enum and no second table.

use rayon::prelude::*;

use crate::gpu::{Gpu, Grid, Real};
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
    backward: Option<Backward>,
}

/// The record of one forward pass.
#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    off: bool,
    gpu: Option<Gpu>,
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

    /// The device that constants are moved to.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// A value whose gradient is wanted: a weight.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        let needs = !self.off;
        self.push(Node { value, needs, inputs: Vec::new(), backward: None })
    }

    /// A value without gradient: data.
    pub fn constant(&mut self, value: Tensor) -> Var {
        let value = match &self.gpu {
            Some(gpu) if value.gpu().is_none() => value.to_gpu(gpu, "data of a step", gpu.real()),
            _ => value,
        };
        self.push(Node { value, needs: false, inputs: Vec::new(), backward: None })
    }

    /// The same value, cut off from what made it: no gradient passes.
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

    /// Adds an op's value. `backward` maps the gradient of `value` to those of `inputs`, one entry each.
    pub fn record(
        &mut self,
        inputs: &[Var],
        value: Tensor,
        backward: impl FnOnce(&Tensor) -> Grads + 'static,
    ) -> Var {
        let needs = inputs.iter().any(|&x| self.needs(x));
        let backward: Option<Backward> = if needs { Some(Box::new(backward)) } else { None };
        self.push(Node { value, needs, inputs: inputs.to_vec(), backward })
    }

    fn push(&mut self, node: Node) -> Var {
        self.nodes.push(node);
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
            let at = self.nodes.len();
            let Some(backward) = node.backward else { continue };
            let Some(dy) = grads[at].take() else { continue };
            drop(node.value);
            let dx = backward(&dy);
            assert_eq!(dx.len(), node.inputs.len(), "backward: one gradient an input, op {at}");
            for (&input, dx) in node.inputs.iter().zip(dx) {
                let Some(dx) = dx.filter(|_| self.nodes[input.0].needs) else { continue };
                let shape = self.nodes[input.0].value.shape();
                assert_eq!(
                    dx.len(),
                    shape.iter().product::<usize>(),
                    "backward: {:?} for {shape:?}",
                    dx.shape()
                );
                let slot = &mut grads[input.0];
                *slot = Some(match slot.take() {
                    None => dx,
                    Some(sum) => add(sum, &dx),
                });
            }
        }
        Gradients(grads)
    }
}

/// Numbers that one thread adds at a time.
const PIECE: usize = 1 << 14;

/// Sum of two gradients of one value; in place where the first has no other owner.
fn add(sum: Tensor, dx: &Tensor) -> Tensor {
    if let Some(gpu) = dx.gpu() {
        return add_on(gpu, sum, dx);
    }
    let shape = sum.shape().to_vec();
    let mut numbers = sum.into_vec();
    let add = |(sum, dx): (&mut [f32], &[f32])| sum.iter_mut().zip(dx).for_each(|(a, b)| *a += b);
    match numbers.len() <= PIECE {
        true => add((&mut numbers, dx.data())),
        false => numbers.par_chunks_mut(PIECE).zip(dx.data().par_chunks(PIECE)).for_each(add),
    }
    Tensor::new(&shape, numbers)
}

/// The same on a device, where both are stored alike: gradients of weights as f32, others as the device's numbers.
fn add_on(gpu: &Gpu, sum: Tensor, dx: &Tensor) -> Tensor {
    assert!(sum.real() == dx.real(), "backward: gradients stored as {:?} and {:?}", sum.real(), dx.real());
    let total = match sum.is_alone() {
        true => sum.clone(),
        false => Tensor::on(gpu, "a sum of gradients", sum.shape(), sum.real()),
    };
    let kernel = if sum.real() == Real::F32 { "add_f32" } else { "add" };
    let args = [(&total).into(), (&sum).into(), dx.into(), (sum.len() as u64).into()];
    // SAFETY: add(y, a, b, count) reads and writes element by element; all three hold `count` numbers.
    unsafe { gpu.launch("elementwise", kernel, Grid::elements(sum.len().div_ceil(8)), &args) };
    total
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
