//! What is done with a row of the table.

use scale_engine::rng::Rng;
use scale_engine::tape::{Tape, Var};
use scale_engine::tensor::Tensor;

/// Numbers of each input, in f64.
pub type Values = Vec<Vec<f64>>;
type Op = Box<dyn Fn(&mut Tape, &[Var]) -> Var + Sync>;
/// The second argument is what carries no gradient: the inputs as they were before a difference was taken.
type Forward = Box<dyn Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64> + Sync>;
type Backward = Box<dyn Fn(&[f64], &[Vec<f64>]) -> Values + Sync>;

pub struct Case {
    name: &'static str,
    shapes: Vec<Vec<usize>>,
    op: Op,
    reference: Option<(Forward, Backward)>,
    /// Inputs that must get no gradient.
    still: Vec<usize>,
}

/// A row: inputs are standard normal.
pub fn case(
    name: &'static str,
    shapes: &[&[usize]],
    op: impl Fn(&mut Tape, &[Var]) -> Var + Sync + 'static,
) -> Case {
    let shapes = shapes.iter().map(|s| s.to_vec()).collect();
    Case { name, shapes, op: Box::new(op), reference: None, still: Vec::new() }
}

impl Case {
    pub fn judged_by(
        self,
        forward: impl Fn(&[Vec<f64>], &[Vec<f64>]) -> Vec<f64> + Sync + 'static,
        backward: impl Fn(&[f64], &[Vec<f64>]) -> Values + Sync + 'static,
    ) -> Case {
        Case { reference: Some((Box::new(forward), Box::new(backward))), ..self }
    }

    pub fn without_gradient(self, inputs: &[usize]) -> Case {
        Case { still: inputs.to_vec(), ..self }
    }

    fn inputs(&self) -> Vec<Tensor> {
        let rng = Rng::new(5);
        let numbers = |i: usize, len: usize| (0..len as u64).map(|at| rng.at(i as u64).normal(at)).collect();
        self.shapes.iter().enumerate().map(|(i, s)| Tensor::new(s, numbers(i, s.iter().product()))).collect()
    }

    /// y, the random weights its gradient is asked for, and the gradients of the inputs.
    fn run(&self, inputs: &[Tensor]) -> (Tensor, Tensor, Vec<Tensor>) {
        let mut tape = Tape::new();
        let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
        let y = (self.op)(&mut tape, &vars);
        let value = tape.value(y).clone();
        let rng = Rng::new(6);
        let weights = Tensor::new(value.shape(), (0..value.len() as u64).map(|i| rng.normal(i)).collect());
        let dy = weights.clone();
        let loss = tape.record(&[y], Tensor::scalar(0.0), move |_| vec![Some(dy)]);
        let mut found = tape.backward(loss);
        let gradient = |(&v, x): (&Var, &Tensor)| found.take(v).unwrap_or_else(|| Tensor::zeros(x.shape()));
        let gradients = vars.iter().zip(inputs).map(gradient).collect();
        (value, weights, gradients)
    }
}

fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// |a - b| / |b|; NaN where either holds one.
fn error(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "lengths");
    let norm = |x: &mut dyn Iterator<Item = f64>| x.map(|v| v * v).sum::<f64>().sqrt();
    let size = norm(&mut b.iter().copied());
    let apart = norm(&mut a.iter().zip(b).map(|(a, b)| a - b));
    if apart == 0.0 { 0.0 } else { apart / size }
}

fn project(y: &[f64], weights: &[f64]) -> f64 {
    y.iter().zip(weights).map(|(y, w)| y * w).sum()
}

/// Coordinates of a gradient that are differenced: all of a small one, some of a large one.
fn sampled(len: usize) -> Vec<usize> {
    if len <= 32 { (0..len).collect() } else { (0..32).map(|i| (i * 7919 + 13) % len).collect() }
}

/// Central differences of `f` at `x`, against `gradient`; step in units of the inputs.
fn differences(name: &str, x: &Values, gradient: &Values, step: f64, f: impl Fn(&Values) -> f64) {
    for (i, gradient) in gradient.iter().enumerate() {
        let (mut told, mut found) = (Vec::new(), Vec::new());
        for at in sampled(gradient.len()) {
            let moved = |by: f64| {
                let mut x = x.clone();
                x[i][at] += by;
                f(&x)
            };
            told.push(gradient[at]);
            found.push((moved(step) - moved(-step)) / (2.0 * step));
        }
        let size = found.iter().map(|v| v * v).sum::<f64>().sqrt();
        // A gradient that is zero by definition differs from zero by the rounding of the difference.
        let apart = told.iter().zip(&found).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        assert!(
            apart < 1e-3 * size + 1e-6,
            "{name}: input {i} against differences: {apart:.1e} of {size:.1e}"
        );
    }
}

/// Numbers up to which a row is differenced too.
const SMALL: usize = 30_000;

pub fn against_reference(case: &Case) {
    let inputs = case.inputs();
    let (y, weights, gradients) = case.run(&inputs);
    let x: Values = inputs.iter().map(|t| wide(t.data())).collect();
    let (y, weights) = (wide(y.data()), wide(weights.data()));
    let gradients: Values = gradients.iter().map(|g| wide(g.data())).collect();
    for &i in &case.still {
        assert!(gradients[i].iter().all(|&g| g == 0.0), "{}: input {i} got a gradient", case.name);
    }
    let small = x.iter().map(Vec::len).sum::<usize>() < SMALL;
    let Some((forward, backward)) = &case.reference else {
        // Without a reference an op is linear: a long step costs nothing and hides the rounding of f32.
        return differences(case.name, &x, &gradients, 0.5, |x| {
            let mut tape = Tape::off();
            let tensor =
                |(s, v): (&Vec<usize>, &Vec<f64>)| Tensor::new(s, v.iter().map(|&v| v as f32).collect());
            let vars: Vec<Var> = case.shapes.iter().zip(x).map(|pair| tape.leaf(tensor(pair))).collect();
            let y = (case.op)(&mut tape, &vars);
            project(&wide(tape.value(y).data()), &weights)
        });
    };
    let off = error(&y, &forward(&x, &x));
    assert!(off < 1e-5, "{}: forward is {off:.1e} from the reference", case.name);
    let told = backward(&weights, &x);
    assert_eq!(told.len(), x.len(), "{}: one gradient an input", case.name);
    for (i, (found, told)) in gradients.iter().zip(&told).enumerate() {
        // Gradients of weights are sums over all rows.
        let off = error(found, told);
        assert!(off < 1e-4, "{}: gradient {i} is {off:.1e} from the reference", case.name);
        assert!(told.len() != y.len() || off < 1e-5, "{}: gradient {i} is {off:.1e} off", case.name);
    }
    if small {
        differences(case.name, &x, &told, 1e-5, |moved| project(&forward(moved, &x), &weights));
    }
}

/// Bits of the value and of every gradient under a pool of `threads`.
fn bits(case: &Case, inputs: &[Tensor], threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    let inputs: Vec<Vec<f32>> = inputs.iter().map(|t| t.data().to_vec()).collect();
    pool.install(|| {
        let tensor = |(s, v): (&Vec<usize>, &Vec<f32>)| Tensor::new(s, v.clone());
        let inputs: Vec<Tensor> = case.shapes.iter().zip(&inputs).map(tensor).collect();
        let (y, _, gradients) = case.run(&inputs);
        [y].iter().chain(&gradients).map(|t| t.data().iter().map(|v| v.to_bits()).collect()).collect()
    })
}

pub fn same_bits(case: &Case) {
    let inputs = case.inputs();
    let alone = bits(case, &inputs, 1);
    for threads in [2, 3] {
        assert!(bits(case, &inputs, threads) == alone, "{}: other bits under {threads} threads", case.name);
    }
}
