//! Records ops as they run, walks back once.
//!
//! An op computes its value, then calls [`Tape::record`] with a closure that turns the gradient of its value into the gradients
//! of its inputs. The closure is the whole backward: there is no op enum and no second table. An op of your own is such a function:
//!
//! ```
//! use scale_engine::tape::{Tape, Var};
//! use scale_engine::tensor::Tensor;
//!
//! /// Every number times itself, on the host.
//! fn square(tape: &mut Tape, x: Var) -> Var {
//!     let saved = tape.value(x).clone(); // a handle, not a copy
//!     let y = Tensor::new(saved.shape(), saved.data().iter().map(|x| x * x).collect());
//!     tape.record("square", &[x], y, move |dy| {
//!         let dx = saved.data().iter().zip(dy.data()).map(|(x, dy)| 2.0 * x * dy).collect();
//!         vec![Some(Tensor::new(saved.shape(), dx))]
//!     })
//! }
//!
//! let mut tape = Tape::new();
//! let x = tape.leaf(Tensor::new(&[1], vec![3.0]));
//! let loss = square(&mut tape, x);
//! assert_eq!(tape.value(loss).item(), 9.0);
//! assert_eq!(tape.backward(loss).take(x).expect("it depends on x").item(), 6.0);
//! ```

use std::fmt::Display;

use crate::gpu::{Gpu, Real};
use crate::laps::{Laps, Pass};
use crate::tensor::Tensor;
use crate::trace::{self, Scope};

mod back;
mod op;
mod sums;
mod var;

pub use back::Gradients;
pub use op::{Flops, Op};
pub use sums::{Place, Sink};
pub use var::Var;

use var::TapeId;

/// Gradients of an op's inputs, in the order they were recorded. `None` if none flows.
pub type Grads = Vec<Option<Tensor>>;

type Backward = Box<dyn FnOnce(&Tensor) -> Grads>;

/// The same, which also remakes the op's value if requested.
type Remake = Box<dyn FnOnce(&mut Back) -> (Grads, Option<Tensor>)>;

/// What the backward of a value that can be remade is given.
#[derive(Debug)]
pub struct Back<'a> {
    /// Gradient of the value.
    pub dy: &'a Tensor,
    /// True if the value is to be returned too.
    pub again: bool,
    /// The gradient that other ops have found for the first input. An op that takes it returns the sum: one pass over memory less.
    pub so_far: Option<Tensor>,
}

/// The part of a backward that reads the op's first input too.
type Reading = Box<dyn FnOnce(&Tensor, &Tensor) -> Grads>;

struct Node {
    /// None once forgotten.
    value: Option<Tensor>,
    shape: Vec<usize>,
    bytes: u64,
    /// How its gradient is stored: as the value is, which every op may rely on. `None` for leaves and mere views of them, whose
    /// gradients stay as ops make them: sums over rows are f32, and must not be rounded for a weight.
    real: Option<Real>,
    /// The device that its value, and so its gradient, is on.
    gpu: Option<Gpu>,
    /// True if a gradient must reach this value.
    needs: bool,
    inputs: Vec<Var>,
    way_back: WayBack,
    /// Readers that wait for the value to be remade.
    waiting: Vec<Reader>,
    /// Where a leaf's gradient is written, instead of being kept for the caller.
    sink: Option<Sink>,
    op: Op,
    scope: Scope,
}

/// An op that has yet to read its first input, and the gradient of its value.
struct Reader {
    inputs: Vec<Var>,
    dy: Tensor,
    reading: Reading,
    op: Op,
    scope: Scope,
    /// Shape of its value.
    shape: Vec<usize>,
}

/// What becomes of the gradient of a node's value.
enum WayBack {
    /// Nothing: a leaf, data, or a value that no gradient reaches.
    Ends,
    /// The op turns it into its inputs' gradients.
    Op(Backward),
    /// The same, and the op can remake its value.
    Remade(Remake),
    /// The same, in two parts: the second reads the first input.
    Read(Backward, Reading),
    /// It is added to the gradient of the only input, from this number on.
    Window(usize),
}

/// The record of one forward pass.
#[derive(Default)]
pub struct Tape {
    id: TapeId,
    nodes: Vec<Node>,
    off: bool,
    gpu: Option<Gpu>,
    laps: Option<Laps>,
    /// The module whose ops are being recorded.
    scope: Scope,
}

brief!(Tape, |tape| nodes: tape.nodes.len(), gpu: tape.gpu);

impl Tape {
    /// An empty tape that records.
    pub fn new() -> Self {
        Tape::default()
    }

    /// A tape that only computes: nothing needs a gradient, no closure is kept.
    pub fn off() -> Self {
        Tape { off: true, ..Tape::default() }
    }

    /// This tape on a device, if one is given: constants are moved there, and the ops follow. Leaves must lie there already.
    pub fn on(self, gpu: Option<&Gpu>) -> Self {
        Tape { gpu: gpu.cloned(), ..self }
    }

    /// This tape, which notes what each op costs if a record is given.
    pub fn timed(self, laps: Option<&Laps>) -> Self {
        Tape { laps: laps.cloned(), ..self }
    }

    /// The device that constants are moved to.
    pub fn gpu(&self) -> Option<&Gpu> {
        self.gpu.as_ref()
    }

    /// A value whose gradient is wanted: a weight.
    pub fn leaf(&mut self, value: Tensor) -> Var {
        self.push("leaf".into(), value, !self.off, &[], WayBack::Ends)
    }

    /// The same; its gradient is written, and added up, in a buffer of the caller's, of the same shape and on the same device.
    ///
    /// # Panics
    /// If the buffer is not.
    pub fn leaf_into(&mut self, value: Tensor, sink: Sink) -> Var {
        sink.check(&value);
        let x = self.leaf(value);
        self.nodes[x.at].sink = Some(sink);
        x
    }

    /// Where an op may itself write or add the gradient of `x` ([`Sink::place`]), and then return none: for a leaf that was given a
    /// place, and for its windows.
    pub fn sink(&self, x: Var) -> Option<Sink> {
        let node = self.nodes.get(self.place(x))?;
        match node.way_back {
            WayBack::Window(at) => Some(self.sink(node.inputs[0])?.window(at, &node.shape)),
            _ => node.sink.clone(),
        }
    }

    /// A value without gradient: data.
    pub fn constant(&mut self, value: Tensor) -> Var {
        let value = match &self.gpu {
            Some(gpu) if value.gpu().is_none() => value.to_gpu(gpu, "data of a step", gpu.real()),
            _ => value,
        };
        self.push("constant".into(), value, false, &[], WayBack::Ends)
    }

    /// The number(s) behind a variable.
    ///
    /// # Panics
    /// If they were forgotten, or the variable is of another tape.
    pub fn value(&self, x: Var) -> &Tensor {
        let node = &self.nodes[self.place(x)];
        node.value.as_ref().unwrap_or_else(|| panic!("value: {:?} was forgotten", node.shape))
    }

    /// True if a gradient must reach `x`: an op may skip the work for a gradient that is not needed.
    pub fn needs(&self, x: Var) -> bool {
        self.nodes[self.place(x)].needs
    }

    fn place(&self, x: Var) -> usize {
        self.id.place(x)
    }

    /// Adds an op's value. `backward` maps the gradient of `value` to those of `inputs`, one entry each.
    pub fn record(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Var],
        value: Tensor,
        backward: impl FnOnce(&Tensor) -> Grads + 'static,
    ) -> Var {
        self.push_op(op.into(), inputs, value, || WayBack::Op(Box::new(backward)))
    }

    /// Adds a value that can be remade, so that it may be forgotten: `backward` is told whether to remake it, and then returns it
    /// with the gradients.
    pub fn record_remade(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Var],
        value: Tensor,
        backward: impl FnOnce(&mut Back) -> (Grads, Option<Tensor>) + 'static,
    ) -> Var {
        self.push_op(op.into(), inputs, value, || WayBack::Remade(Box::new(backward)))
    }

    /// Adds the value of an op whose backward has two parts: `backward` as usual, and `reading`, which also gets the first input's
    /// value, at once or, if that was forgotten, once it is remade. Each returns one entry per input.
    pub fn record_read(
        &mut self,
        op: impl Into<Op>,
        inputs: &[Var],
        value: Tensor,
        backward: impl FnOnce(&Tensor) -> Grads + 'static,
        reading: impl FnOnce(&Tensor, &Tensor) -> Grads + 'static,
    ) -> Var {
        self.push_op(op.into(), inputs, value, || WayBack::Read(Box::new(backward), Box::new(reading)))
    }

    /// Frees the memory of a value whose readers have all been recorded: the backward pass remakes it from what is kept anyway.
    /// Weights that its readers multiply by must have been recorded before it.
    ///
    /// # Panics
    /// If a gradient must reach the value and it cannot be remade.
    pub fn forget(&mut self, x: Var) {
        let at = self.place(x);
        let node = &mut self.nodes[at];
        let remade = matches!(node.way_back, WayBack::Remade(_));
        assert!(remade || !node.needs, "forget: {:?} cannot be made again", node.shape);
        // A value without a gradient is never remade on the way back, but its readers may still read it.
        if remade || self.off {
            node.value = None;
        }
    }

    /// [`Tape::forget`] on a device. A host has enough memory and would remake the value for nothing.
    ///
    /// # Panics
    /// As there.
    pub fn forget_on_device(&mut self, x: Var) {
        if self.gpu.is_some() {
            self.forget(x);
        }
    }

    /// Runs a module of the model, or any part of a forward pass of which only the result is read afterwards: a tape that is off
    /// frees the memory of all else. A profiler sees its ops under its name, forward and backward.
    pub fn scope(&mut self, name: impl Display, work: impl FnOnce(&mut Tape) -> Var) -> Var {
        let first = self.nodes.len();
        let _range = trace::range(&name);
        let inner = self.scope.inner(name);
        let outer = std::mem::replace(&mut self.scope, inner);
        let answer = work(self);
        self.scope = outer;
        if self.off {
            let others = (first..).zip(&mut self.nodes[first..]).filter(|(i, _)| *i != answer.at);
            others.for_each(|(_, node)| node.value = None);
        }
        answer
    }

    /// Adds a window of `x`: `value` holds its numbers from number `at` on. If the gradient of `x` exists by the time the window's
    /// is found, the latter is added in place, without a tensor of zeros around it; so take windows before other uses of `x`.
    pub fn record_window(&mut self, op: impl Into<Op>, x: Var, value: Tensor, at: usize) -> Var {
        self.push_op(op.into(), &[x], value, || WayBack::Window(at))
    }

    /// A value that needs a gradient, and then a way back, if one of its inputs does.
    fn push_op(&mut self, op: Op, inputs: &[Var], value: Tensor, way_back: impl FnOnce() -> WayBack) -> Var {
        let needs = inputs.iter().any(|&x| self.needs(x));
        let way_back = if needs { way_back() } else { WayBack::Ends };
        self.push(op, value, needs, inputs, way_back)
    }

    fn push(&mut self, op: Op, value: Tensor, needs: bool, inputs: &[Var], way_back: WayBack) -> Var {
        let (shape, bytes) = (value.shape().to_vec(), value.bytes());
        if !inputs.is_empty() {
            let given: Vec<&Tensor> = self.values(inputs).collect();
            let read = given.iter().map(|x| x.bytes()).sum();
            self.lap(op.name, &shape, Pass::Forward, op.flops.forward, [read, fresh(&[&value], &given)]);
        }
        // False if the value is a mere view of `x`, a leaf or a view of one; a leaf itself has no input to ask.
        let made = |x: &Var| self.nodes[x.at].real.is_some() || !self.values(&[*x]).any(|x| value.shares(x));
        let real = inputs.iter().any(made).then(|| value.real());
        let gpu = value.gpu().cloned();
        let (value, inputs, waiting, sink) = (Some(value), inputs.to_vec(), Vec::new(), None);
        let scope = self.scope.clone();
        self.nodes.push(Node {
            value,
            shape,
            bytes,
            real,
            gpu,
            needs,
            inputs,
            way_back,
            waiting,
            sink,
            op,
            scope,
        });
        self.id.var(self.nodes.len() - 1)
    }

    /// The values of the inputs that still exist.
    fn values(&self, inputs: &[Var]) -> impl Iterator<Item = &Tensor> {
        inputs.iter().filter_map(|&x| self.nodes.get(self.place(x))?.value.as_ref())
    }

    /// Notes the bytes that an op has read and written; one that only presents its input in another way has moved none.
    fn lap(&self, op: &str, shape: &[usize], pass: Pass, flops: usize, [read, written]: [u64; 2]) {
        let Some(laps) = &self.laps else { return };
        let bytes = if written == 0 { 0 } else { written + read };
        laps.lap(op, shape, pass, (bytes, flops as u64));
    }
}

/// Bytes of what was written, without what shares a buffer with an input.
fn fresh(written: &[&Tensor], given: &[&Tensor]) -> u64 {
    written.iter().filter(|x| !given.iter().any(|other| x.shares(other))).map(|x| x.bytes()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(tape: &mut Tape, a: Var, b: Var) -> Var {
        let (x, y) = (tape.value(a).item(), tape.value(b).item());
        tape.record("product", &[a, b], Tensor::scalar(x * y), move |d| {
            vec![Some(Tensor::scalar(d.item() * y)), Some(Tensor::scalar(d.item() * x))]
        })
    }

    #[test]
    #[should_panic(expected = "a variable of another one")]
    fn a_variable_of_another_tape_is_refused() {
        let (mut one, mut other) = (Tape::new(), Tape::new());
        let (x, _) = (one.leaf(Tensor::scalar(3.0)), other.leaf(Tensor::scalar(4.0)));
        other.value(x);
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
    #[should_panic(expected = "was forgotten")]
    fn a_forgotten_value_has_no_new_readers() {
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(3.0));
        let square = tape.record_remade("square", &[x], Tensor::scalar(9.0), |back| {
            (vec![Some(back.dy.clone())], Some(Tensor::scalar(9.0)))
        });
        tape.forget(square);
        tape.value(square);
    }

    #[test]
    fn nothing_flows_through_a_constant_or_on_a_tape_that_is_off() {
        let mut tape = Tape::new();
        let x = tape.leaf(Tensor::scalar(3.0));
        let cut = tape.constant(Tensor::scalar(3.0));
        let y = product(&mut tape, x, cut);
        assert_eq!(tape.backward(y).take(x).map(|g| g.item()), Some(3.0));

        let mut tape = Tape::off();
        let x = tape.leaf(Tensor::scalar(3.0));
        let y = product(&mut tape, x, x);
        assert!(!tape.needs(y));
    }
}
