//! Rows of ops that move numbers between cells, tokens and sets, of data as the network sees them, and of what ops share.

use super::{Case, Values, case};
use crate::gpu::{Gpu, Real};
use crate::ops::cast::cast_into;
use crate::ops::column_sums;
use crate::rng::Rng;
use crate::tape::{Tape, Var};
use crate::tensor::Tensor;

/// All of them.
pub fn rows() -> Vec<Case> {
    [sets(), shown(), shared()].into_iter().flatten().collect()
}

/// From cells and tokens to sets and back: no reference here either.
fn sets() -> Vec<Case> {
    let many: Vec<u32> = (0..70).map(|b| b * b % 7).collect();
    vec![
        case("pool", &[&[33, 97, 33]], |t, v| t.pool(v[0])),
        case("pool of one cell", &[&[1, 1, 1]], |t, v| t.pool(v[0])),
        case("pool of wide cells", &[&[2, 33, 600]], |t, v| t.pool(v[0])),
        case("pool add_to_set", &[&[7, 33, 97], &[7, 97]], |t, v| t.add_to_set(v[0], v[1])),
        case("pool add_to_set of wide cells", &[&[2, 33, 600], &[2, 600]], |t, v| t.add_to_set(v[0], v[1])),
        case("tokens", &[&[5, 33], &[5, 33], &[5, 33]], |t, v| t.tokens(v)),
        case("tokens of one", &[&[5, 520]], |t, v| t.tokens(v)),
        case("tokens token", &[&[5, 3, 33]], |t, v| t.token(v[0], 1)),
        case("tokens prepend", &[&[33], &[5, 3, 33]], |t, v| t.prepend(v[0], v[1])),
        case("tokens prepend, wide", &[&[520], &[33, 3, 520]], |t, v| t.prepend(v[0], v[1])),
        case("embedding", &[&[7, 33]], |t, v| t.embedding(v[0], &[3, 0, 3, 6])),
        case("embedding of many", &[&[9, 257]], move |t, v| t.embedding(v[0], &many)),
    ]
}

/// Data as the network sees them: no gradient flows.
fn shown() -> Vec<Case> {
    let mut rows = vec![case("time", &[], |t, _| t.time(&[0.0, 0.25, 0.37, 0.999, 1.0]))];
    for size in [[1, 1, 1], [3, 5, 97], [2, 3, 2000]] {
        rows.extend([standardize(size), shifted(size)]);
    }
    rows
}

fn still(x: &[Vec<f64>]) -> Values {
    x.iter().map(|x| vec![0.0; x.len()]).collect()
}

fn standardize([b, n, g]: [usize; 3]) -> Case {
    let mean: Vec<f32> = (0..g as u64).map(|i| Rng::new(3).normal(i)).collect();
    let scale: Vec<f32> = (0..g as u64).map(|i| 1.0 + Rng::new(4).uniform(i)).collect();
    let [m, s] = [&mean, &scale].map(|numbers| Tensor::new(&[g], numbers.clone()));
    let standard = move |(i, x): (usize, &f64)| (x - f64::from(mean[i % g])) * f64::from(scale[i % g]);
    let place =
        |x: &Tensor, gpu: Option<&Gpu>| gpu.map_or(x.clone(), |gpu| x.to_gpu(gpu, "statistics", Real::F32));
    let record = move |t: &mut Tape, v: &[Var]| {
        let [m, s] = [&m, &s].map(|numbers| place(numbers, t.gpu()));
        t.standardize(v[0], &m, &s)
    };
    case("cells standardize", &[&[b, n, g]], record)
        .judged_by(move |_, x| x[0].iter().enumerate().map(&standard).collect(), |_, x| still(x))
        .without_gradient(&[0])
}

fn shifted([b, n, g]: [usize; 3]) -> Case {
    case("cells shifted", &[&[b, n, g], &[b, g]], |t, v| t.shifted(v[0], v[1]))
        .judged_by(
            move |_, x| {
                let moved = |(i, cell): (usize, &f64)| (cell + x[1][i / (n * g) * g + i % g]).max(0.0);
                x[0].iter().enumerate().map(moved).collect()
            },
            |_, x| still(x),
        )
        .without_gradient(&[0, 1])
}

/// What ops share, as if it were an op: a sum of columns is the gradient of a bias, and has no gradient of its own.
fn shared() -> Vec<Case> {
    let mut rows: Vec<Case> = [[1, 1], [257, 97], [1000, 64], [70, 600]]
        .map(|[m, j]| {
            let sums = case("column_sums", &[&[m, j]], |t, v| {
                let y = column_sums::column_sums(t.value(v[0]));
                t.constant(y)
            });
            let sums = sums.judged_by(
                move |_, x| (0..j).map(|j0| x[0][j0..].iter().step_by(j).sum()).collect(),
                |_, x| still(x),
            );
            sums.without_gradient(&[0])
        })
        .into();
    rows.extend([[257, 97], [1000, 64]].map(|[m, j]| {
        let squares = case("column_sums of squares", &[&[m, j]], |t, v| {
            let y = column_sums::column_squares(t.value(v[0]));
            t.constant(y)
        });
        let squares = squares.judged_by(
            move |_, x| (0..j).map(|j0| x[0][j0..].iter().step_by(j).map(|x| x * x).sum()).collect(),
            |_, x| still(x),
        );
        squares.without_gradient(&[0])
    }));
    rows.push(case("cast to f32 and back", &[&[33, 97]], |t, v| {
        let x = t.value(v[0]);
        let on = |real| Tensor::on(x.device(), "cast y", x.shape(), real);
        let y = match x.real() {
            Real::F32 => x.clone(),
            Real::Bf16 => {
                let [wide, y] = [Real::F32, Real::Bf16].map(on);
                cast_into(&wide, x);
                cast_into(&y, &wide);
                y
            }
        };
        t.record("shared", &[v[0]], y, |dy| vec![Some(dy.clone())])
    }));
    rows
}
