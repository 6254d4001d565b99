//! Rows of the flow: every variant of its loss and of its endpoint.

use crate::config::{Conversion, Space, Variant};
use crate::ops::flow;
use crate::ops::flow::reference::Point;
use crate::selftest::case::{Case, Values, case};

const TIMES: [f32; 3] = [0.0, 0.37, 0.99];

/// Every variant.
pub fn rows() -> Vec<Case> {
    let mut rows = Vec::new();
    for prediction in [Space::X, Space::V] {
        for conversion in [Conversion::Displacement, Conversion::Jit] {
            for loss in [Space::X, Space::V] {
                for target_gradient in [false, true] {
                    let variant = Variant { prediction, loss, conversion, target_gradient };
                    rows.push(flow_loss(variant));
                    rows.push(endpoint(variant));
                }
            }
        }
    }
    rows
}

const SET: usize = 33 * 97;

fn point(x: &[Vec<f64>], i: usize) -> Point {
    Point { y: x[0][i], zs: x[1][i], z1: x[2][i], zt: x[3][i], t: f64::from(TIMES[i / SET]) }
}

/// Slopes of a function of one element with respect to its y, zs, z1, zt; exact, since it is linear.
fn slopes(x: &[Vec<f64>], i: usize, f: impl Fn(Point) -> f64) -> [f64; 4] {
    let at = |k: usize, by: f64| {
        let moved: Values = (0..4).map(|j| vec![x[j][i] + if j == k { by } else { 0.0 }]).collect();
        f(Point { y: moved[0][0], zs: moved[1][0], z1: moved[2][0], zt: moved[3][0], t: point(x, i).t })
    };
    [0, 1, 2, 3].map(|k| (at(k, 0.5) - at(k, -0.5)).round_off())
}

trait RoundOff {
    fn round_off(self) -> f64;
}

impl RoundOff for f64 {
    /// Zero if only rounding is left.
    fn round_off(self) -> f64 {
        if self.abs() < 1e-12 { 0.0 } else { self }
    }
}

fn flow_loss(variant: Variant) -> Case {
    let shape: &[usize] = &[3, 33, 97];
    let error = move |x: &[Vec<f64>], fixed: &[Vec<f64>], i: usize| {
        let target = if variant.target_gradient { point(x, i) } else { point(fixed, i) };
        flow::reference::error(point(x, i), target, variant)
    };
    case("flow loss", &[shape; 4], move |t, v| t.flow_loss(v[0], v[1], v[2], v[3], &TIMES, variant))
        .judged_by(
            move |x, fixed| {
                let len = x[0].len();
                vec![(0..len).map(|i| error(x, fixed, i).powi(2)).sum::<f64>() / len as f64]
            },
            move |d, x| {
                let len = x[0].len();
                let mut grads = vec![vec![0.0; len]; 4];
                for i in 0..len {
                    let here = point(x, i);
                    let by = slopes(x, i, |p| {
                        let target = if variant.target_gradient { p } else { here };
                        flow::reference::error(p, target, variant)
                    });
                    for (g, by) in grads.iter_mut().zip(by) {
                        g[i] = d[0] * 2.0 * error(x, x, i) * by / len as f64;
                    }
                }
                grads
            },
        )
}

fn endpoint(variant: Variant) -> Case {
    let shape: &[usize] = &[3, 33, 97];
    case("flow endpoint", &[shape; 4], move |t, v| t.flow_endpoint(v[0], v[1], v[3], &TIMES, variant))
        .judged_by(
            move |x, _| (0..x[0].len()).map(|i| flow::reference::endpoint(point(x, i), variant)).collect(),
            move |dy, x| {
                let mut grads = vec![vec![0.0; dy.len()]; 4];
                for (i, d) in dy.iter().enumerate() {
                    let by = slopes(x, i, |p| flow::reference::endpoint(p, variant));
                    grads.iter_mut().zip(by).for_each(|(g, by)| g[i] = d * by);
                }
                grads
            },
        )
}
