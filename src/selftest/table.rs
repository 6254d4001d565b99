//! The table: every op at awkward sizes and at the model's own. The first word of a row's name is its op's file.

use super::case::{Case, Values, case};
use crate::config::{Activation, Start};
use crate::ops::{activation, layer_norm, matmul, matmul_swiglu};
use crate::ops::{patch_embed, rms_norm, squared_error, swiglu};
use crate::rng::Rng;

mod attention;
mod flow;
mod mmd;
mod sets;

/// Every row.
pub fn table() -> Vec<Case> {
    let parts = [moves(), sets::rows(), products(), of_rows(), attention::rows(), mmd::rows(), flow::rows()];
    parts.into_iter().flatten().collect()
}

/// Matrix products, and what is computed in their epilogues.
fn products() -> Vec<Case> {
    let mut rows = Vec::new();
    for [m, i, j] in
        [[1, 1, 1], [33, 97, 7], [257, 33, 97], [600, 128, 640], [2048, 128, 2000], [40_000, 17, 5]]
    {
        rows.extend(linear(m, i, j));
    }
    // Rows that end inside a tile and inside a panel's second half; sizes that the copy engine cannot read; sums in several steps;
    // eleven tiles one below the other, so that one of the emulator's five blocks has three; rows of 513 to 768 numbers, which have
    // kernels of their own, and rows too long to stay in shared memory; several panels for each of a GPU's hundreds of blocks; more
    // rows than two steps take at a time.
    for [m, e, f] in [
        [1, 72, 200],
        [63, 16, 24],
        [65, 97, 33],
        [65, 136, 72],
        [200, 64, 200],
        [1290, 16, 24],
        [5, 520, 16],
        [7, 648, 24],
        [20, 768, 16],
        [5, 776, 16],
        [8600, 24, 264],
        [300, 512, 264],
        [300, 768, 264],
        [650, 440, 72],
        [3, 968, 16],
        [16_500, 9, 5],
    ] {
        rows.push(gated(m, e, f));
    }
    // The last patch of the third size begins 4 bytes beyond a multiple of 8; in f32, 8 bytes beyond a multiple of 16.
    for [m, g, s, e] in
        [[1, 1, 1, 1], [5, 97, 33, 7], [64, 200, 33, 8], [257, 64, 32, 9], [300, 2000, 128, 64]]
    {
        rows.push(patches(m, g, s, e));
    }
    rows
}

/// Ops that treat each row on its own.
fn of_rows() -> Vec<Case> {
    let mut rows = Vec::new();
    for [m, d] in [[1, 1], [5, 33], [257, 97], [2048, 128]] {
        // A row of one or two numbers has next to no gradient through its own norm: what is left after cancelling is rounding.
        rows.extend(norms(m, d.max(3)));
        rows.extend(elementwise(m, d));
        rows.push(squared(m, d));
    }
    // Rows that a warp holds in its registers, many or wide ones (up to 1,024 bytes, 1,536 and more); rows too wide for that.
    for [m, d] in [[700, 64], [40, 376], [33, 520], [41, 768], [17, 1000], [9, 1280], [5, 2056]] {
        rows.extend(norms(m, d));
    }
    rows
}

/// Ops that only move and add: no reference, only differences of the op itself.
fn moves() -> Vec<Case> {
    vec![
        case("elementwise add", &[&[5, 33], &[5, 33]], |t, v| t.add(v[0], v[1])),
        case("elementwise sub", &[&[300, 97], &[300, 97]], |t, v| t.sub(v[0], v[1])),
        case("elementwise scale", &[&[257, 97]], |t, v| t.scale(v[0], -1.7)),
        case("elementwise weighted_sum", &[&[1], &[1]], |t, v| {
            t.weighted_sum(&[(v[0], 2.0), (v[1], -0.3), (v[0], 1.0)])
        })
        .of_losses(),
        case("elementwise slice", &[&[7, 3, 5]], |t, v| t.slice(v[0], 2..5)),
        case("elementwise slice within a gradient", &[&[7, 3, 5]], |t, v| {
            let part = t.slice(v[0], 2..5);
            let scaled = t.scale(v[0], 3.0);
            let first = t.slice(scaled, 0..3);
            t.add(part, first)
        }),
        case(
            "elementwise slice within a gradient that another value shares",
            &[&[7, 3, 5], &[7, 3, 5]],
            |t, v| {
                let part = t.slice(v[0], 2..5);
                let sum = t.add(v[0], v[1]);
                let first = t.slice(sum, 0..3);
                t.add(part, first)
            },
        ),
        case("elementwise reshape", &[&[6, 5]], |t, v| t.reshape(v[0], &[3, 2, 5])),
        case("elementwise add of rows that no pack fits", &[&[3, 33]], |t, v| {
            let (a, b) = (t.slice(v[0], 1..2), t.slice(v[0], 2..3));
            t.add(a, b)
        }),
        case("flow start control", &[&[3, 5, 33]], |t, v| {
            t.flow_start(v[0], Start::Control, 0.3, &[1, 2, 3].map(|seed| (Rng::new(seed), 0)))
        }),
        // 97 x 97 numbers per set: each set begins at a different one of the four places of a block of random words.
        case("flow start mixed", &[&[3, 97, 97]], |t, v| {
            t.flow_start(v[0], Start::Mixed, 0.15, &[0, 1, 2].map(|set| (Rng::new(2), set * 97 * 97)))
        }),
        case("flow start gaussian", &[&[3, 24, 40]], |t, v| {
            t.flow_start(v[0], Start::Gaussian, 0.15, &[0, 1, 2].map(|set| (Rng::new(2), set * 24 * 40)))
        })
        .without_gradient(&[0]),
        case("flow path", &[&[3, 97, 33], &[3, 97, 33]], |t, v| t.flow_path(v[0], v[1], &[0.0, 0.3, 1.0])),
    ]
}

fn linear(m: usize, i: usize, j: usize) -> Vec<Case> {
    let plain = case("matmul", &[&[m, i], &[j, i]], |t, v| t.linear(v[0], v[1], None)).judged_by(
        move |x, _| matmul::reference::forward(None, &x[0], &x[1], None, i),
        move |dy, x| matmul::reference::backward(dy, &x[0], &x[1], i)[..2].to_vec(),
    );
    let full = case("matmul with bias and residual", &[&[m, i], &[j, i], &[j], &[m, j]], |t, v| {
        t.linear_add(v[3], v[0], v[1], Some(v[2]))
    })
    .judged_by(
        move |x, _| matmul::reference::forward(Some(&x[3]), &x[0], &x[1], Some(&x[2]), i),
        move |dy, x| {
            let [dx, dw, db] = matmul::reference::backward(dy, &x[0], &x[1], i);
            vec![dx, dw, db, dy.to_vec()]
        },
    );
    vec![plain, full]
}

fn norms(m: usize, d: usize) -> Vec<Case> {
    let ones = move || vec![1.0; d];
    vec![
        case("rms_norm", &[&[m, d], &[d]], |t, v| t.rms_norm(v[0], Some(v[1]))).judged_by(
            |x, _| rms_norm::reference::forward(&x[0], &x[1]),
            |dy, x| {
                let (dx, dw) = rms_norm::reference::backward(dy, &x[0], &x[1]);
                vec![dx, dw]
            },
        ),
        case("rms_norm without gain", &[&[m, d]], |t, v| t.rms_norm(v[0], None)).judged_by(
            move |x, _| rms_norm::reference::forward(&x[0], &ones()),
            move |dy, x| vec![rms_norm::reference::backward(dy, &x[0], &ones()).0],
        ),
        // Its gradient is added to what other ops have found: in a tensor of its own, and in one that others share.
        case("rms_norm beside other uses", &[&[m, d], &[d]], |t, v| {
            let y = t.rms_norm(v[0], Some(v[1]));
            let twice = t.scale(v[0], 2.0);
            t.add(y, twice)
        })
        .judged_by(
            |x, _| {
                let y = rms_norm::reference::forward(&x[0], &x[1]);
                y.iter().zip(&x[0]).map(|(y, x)| y + 2.0 * x).collect()
            },
            |dy, x| {
                let (dx, dw) = rms_norm::reference::backward(dy, &x[0], &x[1]);
                vec![dx.iter().zip(dy).map(|(dx, dy)| dx + 2.0 * dy).collect(), dw]
            },
        ),
        case("rms_norm beside a residual", &[&[m, d], &[d]], |t, v| {
            let y = t.rms_norm(v[0], Some(v[1]));
            t.add(v[0], y)
        })
        .judged_by(
            |x, _| {
                let y = rms_norm::reference::forward(&x[0], &x[1]);
                y.iter().zip(&x[0]).map(|(y, x)| y + x).collect()
            },
            |dy, x| {
                let (dx, dw) = rms_norm::reference::backward(dy, &x[0], &x[1]);
                vec![dx.iter().zip(dy).map(|(dx, dy)| dx + dy).collect(), dw]
            },
        ),
        case("layer_norm", &[&[m, d], &[d], &[d]], |t, v| t.layer_norm(v[0], v[1], v[2])).judged_by(
            |x, _| layer_norm::reference::forward(&x[0], &x[1], &x[2]),
            |dy, x| layer_norm::reference::backward(dy, &x[0], &x[1]).to_vec(),
        ),
    ]
}

fn elementwise(m: usize, d: usize) -> Vec<Case> {
    let kinds = [
        ("activation identity", Activation::Identity),
        ("activation relu", Activation::Relu),
        ("activation softplus", Activation::Softplus),
        ("activation silu", Activation::Silu),
        ("activation gelu", Activation::Gelu),
    ];
    let activations = kinds.map(|(name, kind)| {
        case(name, &[&[m, d]], move |t, v| t.activation(v[0], kind)).judged_by(
            move |x, _| activation::reference::forward(&x[0], kind),
            move |dy, x| vec![activation::reference::backward(dy, &x[0], kind)],
        )
    });
    let gated = case("swiglu", &[&[m, 2 * d]], |t, v| t.swiglu(v[0])).judged_by(
        move |x, _| swiglu::reference::forward(&x[0], d),
        move |dy, x| vec![swiglu::reference::backward(dy, &x[0], d)],
    );
    activations.into_iter().chain([gated]).collect()
}

/// Weights are scaled like first weights, so that gates are not all open or shut.
fn gated(m: usize, e: usize, f: usize) -> Case {
    let shrink = (e as f32).powf(-0.5);
    case("matmul_swiglu", &[&[m, e], &[m, e], &[2 * f, e], &[e, f]], move |t, v| {
        let x = t.scale(v[1], shrink);
        t.matmul_swiglu(v[0], x, v[2], v[3])
    })
    .judged_by(
        move |x, _| matmul_swiglu::reference::forward(&x[0], &scaled(&x[1], shrink), &x[2], &x[3], [e, f]),
        move |dy, x| {
            let mut made =
                matmul_swiglu::reference::backward(dy, &scaled(&x[1], shrink), &x[2], &x[3], [e, f]);
            made[1] = scaled(&made[1], shrink);
            made
        },
    )
}

fn scaled(x: &[f64], by: f32) -> Vec<f64> {
    x.iter().map(|x| x * f64::from(by)).collect()
}

fn squared(m: usize, d: usize) -> Case {
    case("squared_error", &[&[m, d], &[m, d]], |t, v| t.squared_error(v[0], v[1])).judged_by(
        move |x, _| vec![squared_error::reference::forward(&x[0], &x[1], d)],
        move |dy, x| {
            let by_y = squared_error::reference::backward(dy[0], &x[0], &x[1], d);
            let by_x = by_y.iter().map(|d| -d).collect();
            vec![by_y, by_x]
        },
    )
}

fn patches(m: usize, g: usize, s: usize, e: usize) -> Case {
    let p = g.div_ceil(s);
    case("patch_embed", &[&[m, g], &[p, s, e], &[p, e]], |t, v| t.patch_embed(v[0], v[1], v[2])).judged_by(
        move |x, _| patch_embed::reference::forward(&x[0], &x[1], &x[2], [g, s, e]),
        move |dy, x| patch_embed::reference::backward(dy, &x[0], &x[1], &x[2], [g, s, e]).to_vec(),
    )
}
