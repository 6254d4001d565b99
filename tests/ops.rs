//! Ops: one row in the table, every check. The plain reference must agree with central differences, the tuned path with the
//! reference, and the tuned path must give the same bits with any number of threads.

mod refused;
mod stories;

use scale_engine::selftest::{Case, Run, Values, error, table, wide};
use scale_engine::tensor::Tensor;

/// Every other row, so that two cores share what takes longest.
#[test]
fn the_tuned_paths_match_the_references_and_these_match_differences() {
    table().iter().step_by(2).for_each(against_reference);
}

#[test]
fn the_tuned_paths_match_the_references_and_these_match_differences_in_the_other_rows() {
    table().iter().skip(1).step_by(2).for_each(against_reference);
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    table().iter().for_each(same_bits);
}

fn project(y: &[f64], weights: &[f64]) -> f64 {
    y.iter().zip(weights).map(|(y, w)| y * w).sum()
}

/// Coordinates of a gradient that are compared with differences: all of a small one, some of a large one.
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

/// Rows with fewer numbers are compared with differences too.
const SMALL: usize = 30_000;

fn against_reference(case: &Case) {
    let inputs = case.inputs();
    let Run { y, dy: weights, gradients } = case.run(&inputs, None);
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
            let tensor =
                |(s, v): (&Vec<usize>, &Vec<f64>)| Tensor::new(s, v.iter().map(|&v| v as f32).collect());
            let moved: Vec<Tensor> = case.shapes.iter().zip(x).map(tensor).collect();
            project(&wide(case.run(&moved, None).y.data()), &weights)
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

/// Bits of the value and of every gradient, computed with `threads` threads.
fn bits(case: &Case, inputs: &[Tensor], threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
    let inputs: Vec<Vec<f32>> = inputs.iter().map(|t| t.data().to_vec()).collect();
    pool.install(|| {
        let tensor = |(s, v): (&Vec<usize>, &Vec<f32>)| Tensor::new(s, v.clone());
        let inputs: Vec<Tensor> = case.shapes.iter().zip(&inputs).map(tensor).collect();
        let Run { y, gradients, .. } = case.run(&inputs, None);
        [y].iter().chain(&gradients).map(|t| t.data().iter().map(|v| v.to_bits()).collect()).collect()
    })
}

fn same_bits(case: &Case) {
    let inputs = case.inputs();
    let alone = bits(case, &inputs, 1);
    for threads in [2, 3] {
        assert!(bits(case, &inputs, threads) == alone, "{}: other bits under {threads} threads", case.name);
    }
}
