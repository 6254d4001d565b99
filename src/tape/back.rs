//! The way back: each op's gradients, from the last op to the first.

use super::sums::{add, add_window};
use super::{Back, Gradients, Grads, Reader, Tape, Told, Var, WayBack, fresh};
use crate::gpu::Real;
use crate::laps::Way;
use crate::tensor::Tensor;

/// How many ops have still to answer for each leaf whose gradient goes to a sink.
struct Uses(Vec<usize>);

impl Uses {
    fn of(tape: &Tape) -> Uses {
        let mut uses = vec![0; tape.nodes.len()];
        tape.nodes.iter().flat_map(|node| &node.inputs).for_each(|input| uses[input.0] += 1);
        Uses(uses)
    }

    /// An op has added what it found for its inputs, or has nothing to add.
    fn answered(&mut self, tape: &Tape, inputs: &[Var], finished: &mut dyn FnMut(Var)) {
        for &input in inputs {
            self.0[input.0] -= 1;
            if self.0[input.0] == 0
                && let Some(sink) = tape.nodes.get(input.0).and_then(|node| node.sink.as_ref())
            {
                sink.close();
                finished(input);
            }
        }
    }
}

/// What a backward, or a part of one, has found.
struct Found<'a> {
    told: &'a Told,
    flops: u64,
    inputs: &'a [Var],
    /// Bytes of the inputs that it has read, and of what it has made besides its answer.
    moved: u64,
    dy: &'a Tensor,
    /// One entry an input.
    dx: Grads,
}

impl Tape {
    /// Gradients of the scalar `loss` by every leaf. Values and closures are dropped on the way, as soon as they are used up.
    pub fn backward(self, loss: Var) -> Gradients {
        self.backward_telling(loss, &mut |_| {})
    }

    /// The same; tells each leaf whose gradient goes to a [`Sink`] as soon as that is final.
    ///
    /// [`Sink`]: super::Sink
    pub fn backward_telling(mut self, loss: Var, finished: &mut dyn FnMut(Var)) -> Gradients {
        let mut uses = Uses::of(&self);
        assert_eq!(self.value(loss).len(), 1, "backward: the loss has shape {:?}", self.value(loss).shape());
        let mut grads: Vec<Option<Tensor>> = self.nodes.iter().map(|_| None).collect();
        let one = Tensor::scalar(1.0).reshape(self.value(loss).shape());
        grads[loss.0] = Some(match self.value(loss).gpu() {
            Some(gpu) => one.to_gpu(gpu, "the loss's gradient", Real::F32),
            None => one,
        });
        while let Some(node) = self.nodes.pop() {
            let Some(dy) = grads[self.nodes.len()].take() else {
                assert!(
                    node.waiting.is_empty(),
                    "backward: {:?} was forgotten and has no gradient",
                    node.shape
                );
                uses.answered(&self, &node.inputs, finished);
                continue;
            };
            drop(node.value);
            let (inputs, told) = (node.inputs, node.told);
            match node.way_back {
                WayBack::Ends => grads[self.nodes.len()] = Some(dy),
                WayBack::Window(at) if self.sink(inputs[0]).is_some() => {
                    let sink = self.sink(inputs[0]).expect("just seen").window(at, &told.shape);
                    self.summed(sink.add(&dy));
                    uses.answered(&self, &inputs, finished);
                }
                WayBack::Window(at) => {
                    let whole = &mut grads[inputs[0].0];
                    *whole = Some(add_window(whole.take(), &self.nodes[inputs[0].0].shape, at, &dy));
                    self.summed(3 * dy.bytes());
                }
                WayBack::Op(backward) => {
                    let (dx, moved) = (backward(&dy), self.bytes(&inputs));
                    let found =
                        Found { told: &told, flops: told.flops[0], inputs: &inputs, moved, dy: &dy, dx };
                    self.answer(found, &mut grads);
                    uses.answered(&self, &inputs, finished);
                }
                WayBack::Remade(backward) => {
                    let so_far = grads[inputs[0].0].take();
                    let (before, again) =
                        (so_far.as_ref().map_or(0, Tensor::bytes), !node.waiting.is_empty());
                    let mut back = Back { dy: &dy, again, so_far };
                    let (dx, again) = backward(&mut back);
                    let taken = if back.so_far.is_none() { before } else { 0 };
                    grads[inputs[0].0] = back.so_far;
                    let moved = self.bytes(&inputs) + taken + again.as_ref().map_or(0, Tensor::bytes);
                    let found =
                        Found { told: &told, flops: told.flops[0], inputs: &inputs, moved, dy: &dy, dx };
                    self.answer(found, &mut grads);
                    uses.answered(&self, &inputs, finished);
                    for reader in node.waiting {
                        let x = again.as_ref().expect("backward: a value was not made again");
                        let inputs = reader.inputs.clone();
                        self.read(reader, x, &mut grads);
                        uses.answered(&self, &inputs, finished);
                    }
                }
                WayBack::Read(backward, reading) => {
                    // Of the other inputs only the second is read, w of a product.
                    let (dx, moved) = (backward(&dy), self.bytes(&inputs[1..2]));
                    let found =
                        Found { told: &told, flops: told.flops[0], inputs: &inputs, moved, dy: &dy, dx };
                    self.answer(found, &mut grads);
                    let x = inputs[0].0;
                    let waits = self.nodes[x].value.is_none();
                    let early = inputs[1..].iter().all(|other| other.0 < x || !self.needs(*other));
                    assert!(
                        early || !waits,
                        "backward: a weight was recorded behind the value that its op forgot"
                    );
                    let reader = Reader { inputs, dy, reading, told };
                    match self.nodes[x].value.clone() {
                        Some(x) => {
                            let inputs = reader.inputs.clone();
                            self.read(reader, &x, &mut grads);
                            uses.answered(&self, &inputs, finished);
                        }
                        None => self.nodes[x].waiting.push(reader),
                    }
                }
            }
        }
        Gradients(grads)
    }

    /// The second part of an op's backward, which reads its first input, `x`.
    fn read(&self, reader: Reader, x: &Tensor, grads: &mut [Option<Tensor>]) {
        let Reader { inputs, dy, reading, told } = reader;
        let dx = reading(&dy, x);
        let flops = told.flops[1];
        self.answer(Found { told: &told, flops, inputs: &inputs, moved: x.bytes(), dy: &dy, dx }, grads);
    }

    fn bytes(&self, inputs: &[Var]) -> u64 {
        inputs.iter().map(|x| self.nodes[x.0].bytes).sum()
    }

    /// Writes down and passes on what was found.
    fn answer(&self, found: Found, grads: &mut [Option<Tensor>]) {
        let Found { told, flops, inputs, moved, dy, dx } = found;
        if flops > 0 || dx.iter().any(Option::is_some) {
            let placed: u64 = inputs.iter().filter_map(|&x| self.sink(x)).map(|sink| sink.take_moved()).sum();
            let given = self.values(inputs).chain([dy]);
            let written =
                placed + fresh(&dx.iter().flatten().collect::<Vec<_>>(), &given.collect::<Vec<_>>());
            self.lap(told, Way::Backward, flops, moved + dy.bytes(), written);
        }
        let added = self.spread(inputs, dx, grads);
        self.summed(3 * added);
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
            let shape = &self.nodes[input.0].shape;
            assert_eq!(dx.len(), shape.iter().product::<usize>(), "backward: {:?} for {shape:?}", dx.shape());
            if let Some(sink) = &self.nodes[input.0].sink {
                added += sink.add(&dx) / 3;
                continue;
            }
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
