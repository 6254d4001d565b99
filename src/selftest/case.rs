//! A row of the table: an op, the shapes of its inputs, and what judges it.

use half::bf16;

use crate::gpu::{Gpu, Real, Route};
use crate::rng::Rng;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// Numbers of each input, in f64.
pub type Values = Vec<Vec<f64>>;
type Op = Box<dyn Fn(&mut Tape, &[Var]) -> Var + Send + Sync>;
/// The second argument holds what carries no gradient: the inputs as they were before a difference was taken.
type Forward = Box<dyn Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64> + Send + Sync>;
type Backward = Box<dyn Fn(&[f64], &[Vec<f64>]) -> Values + Send + Sync>;

/// One row.
pub struct Case {
    /// The op's name, and what is special about the row.
    pub name: &'static str,
    /// Shape of each input.
    pub shapes: Vec<Vec<usize>>,
    /// The plain reference's forward and backward; an op without one is linear.
    pub reference: Option<(Forward, Backward)>,
    /// Inputs that must get no gradient.
    pub still: Vec<usize>,
    /// True if the inputs are losses, which are f32 in every storage.
    losses: bool,
    op: Op,
}

brief!(Case, |case| name: case.name, shapes: case.shapes);

/// What an op made of a row's inputs.
#[derive(Debug)]
pub struct Run {
    /// Its value.
    pub y: Tensor,
    /// The gradient that its backward was given, of `y`'s shape.
    pub dy: Tensor,
    /// The gradient of each input; zeros where none flowed.
    pub gradients: Vec<Tensor>,
}

/// Numbers of all inputs up to which a row is run again: copying them to the device takes longer than the op.
const MOST_AGAIN: usize = 1 << 24;

/// What an op made by each route.
type Ways = Vec<(Route, Run)>;

/// The value, then the gradients, by the reference; in bf16 also those of rounded inputs.
struct Truth {
    exact: Values,
    rounded: Option<Values>,
}

/// How far an output of a device is from the truth, as a relative norm, and how far it may be.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// `y`, or `d` and the number of the input.
    pub output: String,
    /// |found - truth| / |truth|; NaN if either holds one.
    pub error: f64,
    /// Its bound.
    pub allowed: f64,
}

impl Verdict {
    /// True if the error is a number within its bound.
    pub fn holds(&self) -> bool {
        self.error <= self.allowed
    }
}

/// A row whose inputs are standard normal.
pub fn case(
    name: &'static str,
    shapes: &[&[usize]],
    op: impl Fn(&mut Tape, &[Var]) -> Var + Send + Sync + 'static,
) -> Case {
    let shapes = shapes.iter().map(|s| s.to_vec()).collect();
    Case { name, shapes, op: Box::new(op), reference: None, still: Vec::new(), losses: false }
}

impl Case {
    pub(super) fn judged_by(
        self,
        forward: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64> + Send + Sync + 'static,
        backward: impl Fn(&[f64], &[Vec<f64>]) -> Values + Send + Sync + 'static,
    ) -> Case {
        Case { reference: Some((Box::new(forward), Box::new(backward))), ..self }
    }

    pub(super) fn without_gradient(self, inputs: &[usize]) -> Case {
        Case { still: inputs.to_vec(), ..self }
    }

    pub(super) fn of_losses(self) -> Case {
        Case { losses: true, ..self }
    }

    /// The file of its op: the first word of the name.
    pub fn op(&self) -> &str {
        self.name.split(' ').next().unwrap_or(self.name)
    }

    /// Count of numbers in all inputs together.
    pub fn size(&self) -> usize {
        self.shapes.iter().map(|s| s.iter().product::<usize>()).sum()
    }

    /// Records the op on values of a tape.
    pub fn record(&self, tape: &mut Tape, inputs: &[Var]) -> Var {
        (self.op)(tape, inputs)
    }

    /// The row's inputs, on the host.
    pub fn inputs(&self) -> Vec<Tensor> {
        let rng = Rng::new(5);
        let numbers = |i: usize, len: usize| (0..len as u64).map(|at| rng.at(i as u64).normal(at)).collect();
        self.shapes.iter().enumerate().map(|(i, s)| Tensor::new(s, numbers(i, s.iter().product()))).collect()
    }

    /// Runs the op on some inputs, on the host or on a device; its backward gets random numbers.
    pub fn run(&self, inputs: &[Tensor], gpu: Option<&Gpu>) -> Run {
        self.run_back(inputs, gpu, None)
    }

    /// The same; its backward gets `dy`, if there is one, instead of random numbers.
    fn run_back(&self, inputs: &[Tensor], gpu: Option<&Gpu>, dy: Option<&Tensor>) -> Run {
        let place = |x: &Tensor, real: Real| match gpu {
            Some(gpu) => x.to_gpu(gpu, self.name, real),
            None => x.clone(),
        };
        let mut tape = Tape::new().on(gpu);
        let leaf = |tape: &mut Tape, x: &Tensor| {
            let real = gpu.filter(|_| !self.losses).map_or(Real::F32, Gpu::real);
            tape.leaf(place(x, real))
        };
        let vars: Vec<Var> = inputs.iter().map(|x| leaf(&mut tape, x)).collect();
        let y = self.record(&mut tape, &vars);
        let value = tape.value(y).clone();
        let rng = Rng::new(6);
        let drawn = || Tensor::new(value.shape(), (0..value.len() as u64).map(|i| rng.normal(i)).collect());
        let dy = dy.cloned().unwrap_or_else(drawn);
        let given = place(&dy, value.real());
        let loss = tape.record("loss", &[y], Tensor::scalar(0.0), move |_| vec![Some(given)]);
        let mut found = tape.backward(loss);
        let gradient = |(&v, x): (&Var, &Tensor)| found.take(v).unwrap_or_else(|| Tensor::zeros(x.shape()));
        let gradients = vars.iter().zip(inputs).map(gradient).collect();
        Run { y: value, dy, gradients }
    }

    /// Compares the device's value and gradients with the reference, in each route that the device has to them, and with those of
    /// `again` more runs, fewer of a large row, which must have the same bits.
    ///
    /// f32: 1e-5, for sums over rows 1e-4. bf16: twice the error that the reference itself has when its inputs and outputs are
    /// rounded to bf16, a bound that reflects how well conditioned the row is.
    pub fn judge(&self, gpu: &Gpu, again: usize) -> Vec<(Route, Vec<Verdict>)> {
        let inputs = self.inputs();
        let first = self.ways(&inputs, gpu, None);
        let truth = self.truths(&inputs, gpu.real(), &first[0].1);
        let (mut judged, held) = (judged(&first, &truth), held(&first));
        for _ in 0..again.min(1 + MOST_AGAIN / self.size().max(1)) {
            add_unlike(&mut judged, &self.ways(&inputs, gpu, Some(&first[0].1.dy)), &held);
        }
        judged
    }

    /// The same on several devices of one kind, each of which must give the bits of the first.
    pub fn judge_each(&self, gpus: &[Gpu]) -> Vec<Vec<(Route, Vec<Verdict>)>> {
        let inputs = self.inputs();
        let all: Vec<Ways> = gpus.iter().map(|gpu| self.ways(&inputs, gpu, None)).collect();
        let truth = self.truths(&inputs, gpus[0].real(), &all[0][0].1);
        let first = held(&all[0]);
        let each = |ways: &Ways| {
            let mut judged = judged(ways, &truth);
            add_unlike(&mut judged, ways, &first);
            judged
        };
        all.iter().map(each).collect()
    }

    fn ways(&self, inputs: &[Tensor], gpu: &Gpu, dy: Option<&Tensor>) -> Ways {
        gpu.each_route(|| self.run_back(inputs, Some(gpu), dy))
    }

    fn truths(&self, inputs: &[Tensor], real: Real, run: &Run) -> Truth {
        let exact = self.truth(inputs, &run.dy);
        let rounded = (real == Real::Bf16).then(|| {
            let inputs: Vec<Tensor> =
                inputs.iter().map(|x| if self.losses { x.clone() } else { round(x) }).collect();
            let dy = if run.y.real() == Real::Bf16 { round(&run.dy) } else { run.dy.clone() };
            self.truth(&inputs, &dy)
        });
        Truth { exact, rounded }
    }

    /// Value and gradients by the reference, or by the host's own op if there is none.
    fn truth(&self, inputs: &[Tensor], dy: &Tensor) -> Values {
        let Some((forward, backward)) = &self.reference else {
            let run = self.run_back(inputs, None, Some(dy));
            assert_eq!(run.y.shape(), dy.shape(), "{}: the device's value has another shape", self.name);
            return [&run.y].into_iter().chain(&run.gradients).map(|x| wide(x.data())).collect();
        };
        let x: Values = inputs.iter().map(|x| wide(x.data())).collect();
        [forward(&x, &x)].into_iter().chain(backward(&wide(dy.data()), &x)).collect()
    }
}

fn judged(ways: &Ways, truth: &Truth) -> Vec<(Route, Vec<Verdict>)> {
    ways.iter().map(|(route, run)| (*route, verdicts(run, truth))).collect()
}

/// The outputs by each route, on the host.
fn held(ways: &Ways) -> Vec<Vec<Tensor>> {
    ways.iter().map(|(_, run)| outputs(run)).collect()
}

/// A run's outputs, on the host.
fn outputs(run: &Run) -> Vec<Tensor> {
    [&run.y].into_iter().chain(&run.gradients).map(Tensor::to_host).collect()
}

/// Adds what differs, in any bit, from the outputs of the first runs by the same routes: no bound allows that.
fn add_unlike(judged: &mut [(Route, Vec<Verdict>)], ways: &Ways, held: &[Vec<Tensor>]) {
    for ((_, verdicts), ((_, run), held)) in judged.iter_mut().zip(ways.iter().zip(held)) {
        for ((output, found), first) in names(run).into_iter().zip(outputs(run)).zip(held) {
            let same = |(x, y): (&f32, &f32)| x.to_bits() == y.to_bits();
            if !found.data().iter().zip(first.data()).all(same) {
                let error = error(&wide(found.data()), &wide(first.data())).max(f64::MIN_POSITIVE);
                verdicts.push(Verdict { output: format!("{output} once more"), error, allowed: 0.0 });
            }
        }
    }
}

/// Of a run's outputs.
fn names(run: &Run) -> Vec<String> {
    [String::from("y")].into_iter().chain((0..run.gradients.len()).map(|i| format!("d{i}"))).collect()
}

/// One verdict per output.
fn verdicts(run: &Run, truth: &Truth) -> Vec<Verdict> {
    let outputs = [&run.y].into_iter().chain(&run.gradients);
    let judged = names(run).into_iter().zip(outputs).enumerate().map(|(i, (output, numbers))| {
        let exact = &truth.exact[i];
        let plain = if exact.len() == run.y.len() || i == 0 { 1e-5 } else { 1e-4 };
        let allowed = truth.rounded.as_ref().map_or(plain, |rounded| {
            let stored: Vec<f64> = match numbers.real() {
                Real::Bf16 => rounded[i].iter().map(|&x| bf16::from_f64(x).to_f64()).collect(),
                Real::F32 => rounded[i].clone(),
            };
            (2.0 * error(&stored, exact)).max(plain)
        });
        Verdict { output, error: error(&wide(numbers.to_host().data()), exact), allowed }
    });
    judged.collect()
}

fn round(x: &Tensor) -> Tensor {
    Tensor::new(x.shape(), x.data().iter().map(|&x| bf16::from_f32(x).to_f32()).collect())
}

/// As f64.
pub fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// |a - b| / |b|; NaN if either holds one.
///
/// # Panics
/// If the lengths differ.
pub fn error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let size = norm(&mut b.iter().copied());
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if apart == 0.0 { 0.0 } else { apart / size }
}
