//! The ops that are timed: sizes, what a direction must move and compute, and how it is run.
//!
//! Bytes and FLOPs are those of `bound by` in the heads of the kernels: what no implementation can do without. Times compared with
//! them say how far from a floor an op is, so a re-read or a stored score is not counted as work done.

use super::place::{Place, STORED, Turn};
use crate::config::{Config, MmdKernel};
use crate::error::{Error, Result, unknown};
use crate::model::{Model, Statistics};
use crate::profile::vocabulary;
use crate::selftest::case;

/// An op: the names of its sizes, small ones for a try, and the rest as functions of them.
pub struct Kind {
    /// Its file's name, with what is special.
    pub name: &'static str,
    /// Names of the sizes.
    pub letters: &'static [&'static str],
    small: &'static [usize],
    /// Costs of each direction; the second argument is the bytes per number.
    pub costs: fn(Sizes, usize) -> Vec<Cost>,
    /// One turn per direction, in the order of the costs.
    pub turns: fn(&Place, Sizes) -> Vec<Turn>,
}

/// As many sizes as an op has letters, then zeros: each function of an op names those it uses.
pub type Sizes = [usize; 4];

/// The least that a direction must move and compute.
#[derive(Debug)]
pub struct Cost {
    /// forward, backward or step.
    pub direction: &'static str,
    /// Bytes read and written.
    pub bytes: usize,
    /// Multiplications and additions.
    pub flops: usize,
}

/// An op at one size.
pub type Row = (&'static Kind, Sizes);

/// Sizes and the zeros behind them.
pub fn padded(sizes: &[usize]) -> Sizes {
    std::array::from_fn(|i| sizes.get(i).copied().unwrap_or(0))
}

fn both([bytes, flops]: [usize; 2], [bytes_back, flops_back]: [usize; 2]) -> Vec<Cost> {
    vec![
        Cost { direction: "forward", bytes, flops },
        Cost { direction: "backward", bytes: bytes_back, flops: flops_back },
    ]
}

const KINDS: [Kind; 9] = [
    Kind {
        name: "attention_cell",
        letters: &["M", "P", "H", "K"],
        small: &[8, 16, 2, 64],
        costs: |[m, p, h, k], e| {
            let (numbers, products) = (m * p * h * k, m * h * p * p * k);
            both([4 * numbers * e, 4 * products], [7 * numbers * e, 10 * products])
        },
        turns: |place, [m, p, h, k]| {
            let op = case("attention", &[&[m, p, 3 * h * k]], move |t, v| t.attention(v[0], None, h));
            place.tape(op, 1)
        },
    },
    Kind {
        name: "attention_set",
        letters: &["B", "N", "H", "K"],
        small: &[2, 33, 2, 64],
        costs: |[b, n, h, k], e| {
            let (numbers, products) = (b * n * h * k, b * h * n * (n + 1) * k);
            both([4 * numbers * e, 4 * products], [8 * numbers * e, 10 * products])
        },
        turns: |place, [b, n, h, k]| {
            let shapes: [&[usize]; 2] = [&[b, n, 3 * h * k], &[b, 2 * h * k]];
            let op = case("attention from a seed", &shapes, move |t, v| t.attention(v[0], Some(v[1]), h));
            place.tape(op, 2)
        },
    },
    Kind {
        name: "rms_norm",
        letters: &["M", "D"],
        small: &[64, 128],
        costs: |[m, d, ..], e| both([2 * m * d * e, 4 * m * d], [3 * m * d * e, 8 * m * d]),
        turns: |place, [m, d, ..]| {
            place.tape(case("rms_norm", &[&[m, d], &[d]], |t, v| t.rms_norm(v[0], Some(v[1]))), 2)
        },
    },
    Kind {
        name: "swiglu",
        letters: &["M", "F"],
        small: &[64, 176],
        costs: |[m, f, ..], e| both([3 * m * f * e, 5 * m * f], [5 * m * f * e, 9 * m * f]),
        turns: |place, [m, f, ..]| place.tape(case("swiglu", &[&[m, 2 * f]], |t, v| t.swiglu(v[0])), 1),
    },
    Kind {
        name: "mmd",
        letters: &["B", "N", "G"],
        small: &[2, 16, 64],
        costs: |[b, n, g, _], e| {
            let (numbers, products) = (b * n * g, b * n * n * g);
            both([2 * numbers * e, 4 * products], [3 * numbers * e, 4 * products])
        },
        turns: |place, [b, n, g, _]| {
            // Both as the decoder and the loader make them: in one storage, the data without gradient.
            let op = case("mmd", &[&[b, n, g], &[b, n, g]], |t, v| {
                let x = t.value(v[1]).clone();
                let x = t.constant(x);
                t.mmd(v[0], x, MmdKernel::Gaussian)
            });
            place.tape(op, 1)
        },
    },
    Kind {
        name: "adamw",
        letters: &["L"],
        small: &[8192],
        // 9 numbers of f32 and 1 for the norm; the two halves of a weight together are as large as a whole one.
        costs: |[l, ..], _| vec![Cost { direction: "step", bytes: 40 * l, flops: 15 * l }],
        turns: |place, [l, ..]| vec![place.adamw(l)],
    },
    Kind {
        name: "gather",
        letters: &["R", "G"],
        small: &[64, 200],
        costs: |[r, g, ..], e| {
            let bytes = r * g * e + 4 * r * g * STORED[0] / STORED[1];
            vec![Cost { direction: "forward", bytes, flops: 0 }]
        },
        turns: |place, [r, g, ..]| vec![place.gather(r, g)],
    },
    Kind {
        name: "matmul",
        letters: &["M", "I", "J"],
        small: &[64, 128, 64],
        // Backward is two products; the gradient of the weights is f32.
        costs: |[m, i, j, _], e| {
            let products = 2 * m * i * j;
            let back = e * (2 * m * i + 2 * m * j + i * j) + 4 * i * j;
            both([e * (m * i + i * j + m * j), products], [back, 2 * products])
        },
        turns: |place, [m, i, j, _]| {
            place.tape(case("matmul", &[&[m, i], &[j, i]], |t, v| t.linear(v[0], v[1], None)), 2)
        },
    },
    Kind {
        name: "matmul_swiglu",
        letters: &["M", "E", "F"],
        small: &[64, 64, 48],
        // Gate and up are kept from forward to backward; gradients of weights are f32.
        costs: |[m, width, f, _], e| {
            let (row, kept, weights) = (m * width, 2 * m * f, 3 * width * f);
            let products = 2 * m * weights;
            let bytes = e * (3 * row + kept + weights);
            both([bytes, products], [bytes + 4 * weights, 2 * products])
        },
        turns: |place, [m, e, f, _]| {
            let op = case("matmul_swiglu", &[&[m, e], &[m, e], &[2 * f, e], &[e, f]], |t, v| {
                t.matmul_swiglu(v[0], v[1], v[2], v[3])
            });
            place.tape(op, 4)
        },
    },
];

/// Cells whose tokens an op of the gene encoder gets, and cells that an op of the flow gets.
const ENCODED: usize = 8192;
const LATENT: usize = 16_384;
/// G of the presets.
const GENES: usize = 2000;

/// The op of that name.
pub fn kind(name: &str) -> Result<&'static Kind> {
    let unknown = || Error::setting("--case", unknown("op", name, KINDS.iter().map(|kind| kind.name)));
    KINDS.iter().find(|kind| kind.name == name).ok_or_else(unknown)
}

/// Every op once, at small sizes for a try.
pub fn small() -> Vec<Row> {
    KINDS.iter().map(|kind| (kind, padded(kind.small))).collect()
}

/// Every op at the sizes it has in a preset; MMD, which has none, at 64 problems of 2048 genes.
pub fn of_preset(name: &str) -> Result<Vec<Row>> {
    let config = Config::new(name, "default")?; // sizes are the preset's in every recipe
    let (encoder, flow) = (&config.encoder, &config.flow);
    let (patches, e, f) = (GENES.div_ceil(encoder.patch), encoder.width, encoder.ffn);
    let (tokens, d, wide) = (ENCODED * patches, flow.width, flow.ffn);
    let mut rows = vec![("attention_cell", vec![ENCODED, patches, encoder.heads, e / encoder.heads])];
    let sets = [64, 128, 256, 512].map(|n| vec![LATENT / n, n, flow.heads, d / flow.heads]);
    rows.extend(sets.map(|sizes| ("attention_set", sizes)));
    rows.push(("attention_set", vec![4, 512, flow.heads, d / flow.heads])); // a rank's sets if eight share a step
    rows.extend([[tokens, e], [LATENT, d]].map(|sizes| ("rms_norm", sizes.to_vec())));
    rows.extend([[tokens, f], [LATENT, wide]].map(|sizes| ("swiglu", sizes.to_vec())));
    rows.extend([[64, 512, 2048], [64, 64, 2048]].map(|sizes| ("mmd", sizes.to_vec())));
    rows.push(("adamw", vec![weights(&config)]));
    rows.push(("gather", vec![32_768, GENES]));
    let products = [
        [tokens, e, 3 * e],
        [tokens, e, e],
        [tokens, e, 2 * f],
        [tokens, f, e],
        [ENCODED, patches * e, d],
        [LATENT, d, 3 * d],
        [LATENT, d, d],
        [LATENT, d, 2 * wide],
        [LATENT, wide, d],
        [LATENT, d, config.decoder.width],
        [LATENT, config.decoder.width, GENES],
    ];
    rows.extend(products.map(|sizes| ("matmul", sizes.to_vec())));
    rows.push(("matmul_swiglu", vec![tokens, e, f]));
    rows.into_iter().map(|(name, sizes)| Ok((kind(name)?, padded(&sizes)))).collect()
}

/// L, the length of the flat buffer of a preset's weights.
fn weights(config: &Config) -> usize {
    let statistics = Statistics { mean: vec![0.1; GENES], std: vec![0.1; GENES] };
    Model::new(config, &vocabulary(), statistics).1.len()
}
