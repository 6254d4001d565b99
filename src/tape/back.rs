//! The way back: each op's gradients, from the last op to the first.

use super::sums::{add, add_window, stored};
use super::var::TapeId;
use super::{Back, Grads, Node, Reader, Remake, Tape, Var, WayBack, fresh};
use crate::laps::Pass;
use crate::tensor::Tensor;
use crate::trace::{self, Range, Ranges, Scope};

/// What [`Tape::backward`] found.
pub struct Gradients {
    tape: TapeId,
    found: Vec<Option<Tensor>>,
}

brief!(Gradients, |all| found: all.found.iter().flatten().count());

impl Gradients {
    /// Gradient of the loss with respect to a leaf; `None` if the loss does not depend on it.
    ///
    /// # Panics
    /// If the leaf is of another tape.
    pub fn take(&mut self, leaf: Var) -> Option<Tensor> {
        self.found[self.tape.place(leaf)].take()
    }
}

impl Tape {
    /// Gradients of the scalar `loss` with respect to every leaf; there are none if it depends on no leaf, as on [`Tape::off`].
    /// Values and closures are dropped on the way, as soon as they are used up.
    ///
    /// # Panics
    /// If the loss is not one number, or an op answers with gradients that do not fit its inputs.
    pub fn backward(self, loss: Var) -> Gradients {
        self.backward_telling(loss, &mut |_| {})
    }

    /// The same; calls `finished` with each leaf whose gradient goes to a [`Sink`], as soon as that is final.
    ///
    /// [`Sink`]: super::Sink
    pub(crate) fn backward_telling(self, loss: Var, finished: &mut dyn FnMut(Var)) -> Gradients {
        let mut sweep = Sweep::from(self, loss, finished);
        while let Some(node) = sweep.tape.nodes.pop() {
            sweep.pass(node);
        }
        Gradients { tape: sweep.tape.id, found: sweep.grads }
    }
}

/// A sweep back over a tape; nodes are taken off its end.
struct Sweep<'a> {
    tape: Tape,
    /// The gradient found for each node so far.
    grads: Vec<Option<Tensor>>,
    /// How many answers are still to come for each node: an op gives each of its inputs one, or two if its backward has two parts.
    answers: Vec<usize>,
    finished: &'a mut dyn FnMut(Var),
    /// Those of the module whose ops are being run backwards.
    modules: Ranges,
}

/// A backward, or a part of one, that returns gradients.
struct Ran<'a> {
    op: &'static str,
    /// Shape of the op's value.
    shape: &'a [usize],
    flops: usize,
    inputs: &'a [Var],
    dy: &'a Tensor,
}

impl WayBack {
    fn answers(&self) -> usize {
        if matches!(self, WayBack::Read(..)) { 2 } else { 1 }
    }
}

impl<'a> Sweep<'a> {
    fn from(tape: Tape, loss: Var, finished: &'a mut dyn FnMut(Var)) -> Sweep<'a> {
        let value = tape.value(loss);
        assert_eq!(value.len(), 1, "backward: the loss has shape {:?}", value.shape());
        let one = Tensor::scalar(1.0).reshape(value.shape());
        let mut grads: Vec<Option<Tensor>> = tape.nodes.iter().map(|_| None).collect();
        grads[loss.at] = Some(match value.gpu() {
            Some(gpu) => one.to_gpu(gpu, "the loss's gradient", value.real()),
            None => one,
        });
        let mut answers = vec![0; tape.nodes.len()];
        for node in &tape.nodes {
            node.inputs.iter().for_each(|input| answers[input.at] += node.way_back.answers());
        }
        Sweep { tape, grads, answers, finished, modules: Ranges::default() }
    }

    /// Turns what was found for `node`, until now the last on the tape, into gradients of its inputs.
    fn pass(&mut self, node: Node) {
        let Node { value, shape, real, gpu, inputs, way_back, waiting, op, scope, .. } = node;
        let Some(dy) = self.grads[self.tape.nodes.len()].take() else {
            assert!(waiting.is_empty(), "backward: {shape:?} was forgotten and has no gradient");
            return (0..way_back.answers()).for_each(|_| self.answered(&inputs));
        };
        drop(value);
        // Ops rely on it: the gradient is shaped, stored and placed as the value is.
        let alike =
            dy.shape() == shape && real.is_none_or(|real| dy.real() == real) && dy.is_on(gpu.as_ref());
        assert!(alike, "backward of {}: {dy:?} for {shape:?} {real:?} on {gpu:?}", op.name);
        let range = self.begin(&scope, op.name);
        let part = Ran { op: op.name, shape: &shape, flops: op.flops.backward, inputs: &inputs, dy: &dy };
        match way_back {
            WayBack::Ends => self.grads[self.tape.nodes.len()] = Some(dy),
            WayBack::Window(at) => self.window(part, at),
            WayBack::Op(backward) => {
                let (dx, read) = (backward(&dy), self.bytes(&inputs));
                self.answer(part, read, dx);
            }
            WayBack::Remade(backward) => {
                let again = self.remake(part, backward, !waiting.is_empty());
                range.end(); // each reader has its own
                for reader in waiting {
                    self.read(reader, again.as_ref().expect("backward: a value was not made again"));
                }
            }
            WayBack::Read(backward, reading) => {
                // Of the inputs this part reads only the second, w of a product.
                let (dx, read) = (backward(&dy), self.bytes(&inputs[1..2]));
                self.answer(part, read, dx);
                range.end();
                self.read_or_wait(Reader { inputs, dy, reading, op, scope, shape });
            }
        }
    }

    /// Begins the range of an op's backward, inside those of the modules that it was recorded in.
    fn begin(&mut self, scope: &Scope, op: &str) -> Range {
        self.modules.enter(scope);
        trace::range(format_args!("{op} backward"))
    }

    /// Adds the gradient of a window in place.
    fn window(&mut self, Ran { shape, inputs, dy, .. }: Ran, at: usize) {
        let moved = match self.tape.sink(inputs[0]) {
            Some(sink) => sink.window(at, shape).add(dy),
            None => {
                let whole = &mut self.grads[inputs[0].at];
                *whole = Some(add_window(whole.take(), &self.tape.nodes[inputs[0].at].shape, at, dy));
                3 * dy.bytes()
            }
        };
        self.summed(moved);
        self.answered(inputs);
    }

    /// Runs the backward of a value that can be remade; returns that value if `again`.
    fn remake(&mut self, part: Ran, backward: Remake, again: bool) -> Option<Tensor> {
        let (inputs, first) = (part.inputs, part.inputs[0].at);
        // An op can only add to a sum stored as its own gradients are; that of a weight without a sink may be stored otherwise.
        let so_far = self.grads[first].take_if(|sum| sum.real() == part.dy.real());
        let before = so_far.as_ref().map_or(0, Tensor::bytes);
        let mut back = Back { dy: part.dy, again, so_far };
        let (dx, value) = backward(&mut back);
        let taken = if back.so_far.is_none() { before } else { 0 };
        if let Some(left) = back.so_far {
            self.grads[first] = Some(left);
        }
        self.answer(part, self.bytes(inputs) + taken + value.as_ref().map_or(0, Tensor::bytes), dx);
        value
    }

    /// Runs the second part of an op's backward, at once or, if the op's first input was forgotten, once it is remade.
    fn read_or_wait(&mut self, reader: Reader) {
        let x = reader.inputs[0].at;
        if let Some(value) = self.tape.nodes[x].value.clone() {
            return self.read(reader, &value);
        }
        let early = reader.inputs[1..].iter().all(|other| other.at < x || !self.tape.needs(*other));
        assert!(early, "backward: a weight was recorded behind the value that its op forgot");
        self.tape.nodes[x].waiting.push(reader);
    }

    /// Runs the second part of an op's backward, which reads its first input, `x`.
    fn read(&mut self, reader: Reader, x: &Tensor) {
        let Reader { inputs, dy, reading, op, scope, shape } = reader;
        let _range = self.begin(&scope, op.name);
        let dx = reading(&dy, x);
        let part = Ran { op: op.name, shape: &shape, flops: op.flops.reading, inputs: &inputs, dy: &dy };
        self.answer(part, x.bytes(), dx);
    }

    fn bytes(&self, inputs: &[Var]) -> u64 {
        inputs.iter().map(|x| self.tape.nodes[x.at].bytes).sum()
    }

    /// Logs and passes on what was found, one entry per input. `moved`: bytes of the inputs that were read, and of what was made
    /// besides the gradients.
    fn answer(&mut self, part: Ran, moved: u64, dx: Grads) {
        let Ran { op, shape, flops, inputs, dy } = part;
        let tape = &self.tape;
        let placed: u64 = inputs.iter().filter_map(|&x| tape.sink(x)).map(|sink| sink.take_moved()).sum();
        if flops > 0 || placed > 0 || dx.iter().any(Option::is_some) {
            let given: Vec<&Tensor> = tape.values(inputs).chain([dy]).collect();
            let written = placed + fresh(&dx.iter().flatten().collect::<Vec<_>>(), &given);
            tape.lap(op, shape, Pass::Backward, flops, [moved + dy.bytes(), written]);
        }
        let moved = self.spread(inputs, dx);
        self.summed(moved);
        self.answered(inputs);
    }

    /// Notes that an op has added what it found for its inputs, or had nothing to add.
    fn answered(&mut self, inputs: &[Var]) {
        for &input in inputs {
            self.answers[input.at] -= 1;
            if self.answers[input.at] == 0
                && let Some(sink) = self.tape.nodes.get(input.at).and_then(|node| node.sink.as_ref())
            {
                sink.close();
                (self.finished)(input);
            }
        }
    }

    /// Notes that sums of gradients have moved that many bytes.
    fn summed(&self, bytes: u64) {
        if let Some(laps) = self.tape.laps.as_ref().filter(|_| bytes > 0) {
            laps.lap("gradient sums", &[], Pass::Backward, (bytes, 0));
        }
    }

    /// Adds what an op found to the gradients of its inputs, stored as their values are. Returns the bytes that this has moved.
    fn spread(&mut self, inputs: &[Var], dx: Grads) -> u64 {
        let mut moved = 0;
        let nodes = &self.tape.nodes;
        assert_eq!(dx.len(), inputs.len(), "backward: one gradient an input, op {}", nodes.len());
        for (&input, dx) in inputs.iter().zip(dx) {
            // A value that was just remade is no longer a node; its readers return nothing for it.
            let Some((dx, node)) = dx.map(|dx| (dx, &nodes[input.at])).filter(|(_, node)| node.needs) else {
                continue;
            };
            let shape = &node.shape;
            assert_eq!(dx.shape(), shape, "backward: a gradient of another shape than its value's");
            if let Some(sink) = &node.sink {
                moved += sink.add(&dx);
                continue;
            }
            let dx = match node.real {
                Some(real) if real != dx.real() => {
                    let cast = stored(&dx, real);
                    moved += dx.bytes() + cast.bytes();
                    cast
                }
                _ => dx,
            };
            let slot = &mut self.grads[input.at];
            *slot = Some(match slot.take() {
                None => dx,
                Some(sum) => {
                    moved += 3 * dx.bytes();
                    add(sum, &dx)
                }
            });
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;
    use crate::trace::recorded;

    /// x^2, which can be remade, and w x, which reads x on the way back.
    fn square_then_product(forget: bool) -> [Option<f32>; 2] {
        let mut tape = Tape::new();
        let (x, w) = (tape.leaf(Tensor::scalar(3.0)), tape.leaf(Tensor::scalar(5.0)));
        let square = tape.record_remade("square", &[x], Tensor::scalar(9.0), |back| {
            let dx = Tensor::scalar(6.0 * back.dy.item());
            (vec![Some(dx)], back.again.then(|| Tensor::scalar(9.0)))
        });
        let y = tape.record_read(
            "product",
            &[square, w],
            Tensor::scalar(45.0),
            |d| vec![Some(Tensor::scalar(5.0 * d.item())), None],
            |d, x| vec![None, Some(Tensor::scalar(d.item() * x.item()))],
        );
        if forget {
            tape.forget(square);
        }
        let mut found = tape.backward(y);
        [x, w].map(|leaf| found.take(leaf).map(|g| g.item()))
    }

    #[test]
    fn a_forgotten_value_is_made_again_for_its_readers() {
        assert_eq!(square_then_product(true), [Some(30.0), Some(9.0)]);
        assert_eq!(square_then_product(false), square_then_product(true));
    }

    fn double(tape: &mut Tape, x: Var) -> Var {
        let y = Tensor::scalar(2.0 * tape.value(x).item());
        tape.record("double", &[x], y, |d| vec![Some(Tensor::scalar(2.0 * d.item()))])
    }

    /// Two layers of a module, the second of which reads a value of the first that is remade; then an op outside.
    fn layers(tape: &mut Tape) -> [Var; 2] {
        let x = tape.leaf(Tensor::scalar(3.0));
        let y = tape.scope("net", |t| {
            let same = t.scope("layer.0", |t| {
                t.record_remade("same", &[x], Tensor::scalar(3.0), |back| {
                    (vec![Some(back.dy.clone())], Some(Tensor::scalar(3.0)))
                })
            });
            t.scope("layer.1", |t| {
                let dx = |d: &Tensor| vec![Some(d.clone()), None];
                let y = t.record_read("read", &[same, x], Tensor::scalar(3.0), dx, |_, _| vec![None, None]);
                t.forget(same);
                double(t, y)
            })
        });
        [x, double(tape, y)]
    }

    #[test]
    fn an_op_runs_backwards_in_the_ranges_of_its_modules() {
        let mut tape = Tape::new();
        let [x, y] = layers(&mut tape);
        assert_eq!(recorded::paths(), ["net", "net/layer.0", "net/layer.1"]);
        assert_eq!(tape.backward(y).take(x).map(|g| g.item()), Some(4.0));
        let seen = [
            "double backward",
            "net",
            "net/layer.1",
            "net/layer.1/double backward",
            "net/layer.1/read backward",
            "net/layer.0",
            "net/layer.0/same backward",
            "net/layer.1",
            "net/layer.1/read backward",
            "leaf backward",
        ];
        assert_eq!(recorded::paths(), seen);
    }

    #[test]
    fn ranges_end_where_a_backward_unwinds() {
        let mut tape = Tape::new();
        let [_, y] = layers(&mut tape);
        let z = tape.scope("end", |t| t.record("wrong", &[y], Tensor::scalar(1.0), |_| panic!("on purpose")));
        assert!(catch_unwind(AssertUnwindSafe(|| tape.backward(z))).is_err());
        assert_eq!(recorded::paths().pop().as_deref(), Some("end/wrong backward"));
        let stops = |_: &mut Tape| -> Var { panic!("on purpose") };
        assert!(catch_unwind(AssertUnwindSafe(|| Tape::new().scope("net", stops))).is_err());
        assert_eq!(recorded::paths(), ["net"]);
    }
}
