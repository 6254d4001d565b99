//! The ops that are timed: sizes, what a direction must move and compute, and how it is run.
//!
//! Bytes and FLOPs are those of `bound by` in the heads of the kernels: what no implementation can do without. Times compared with
//! them say how far from a floor an op is, so a re-read or a stored score is not counted as work done.

use super::place::{Place, STORED, Turn};
use crate::config::{Config, MmdKernel};
use crate::error::{Error, Result, unknown};
use crate::model::condition::Vocabulary;
use crate::model::{Model, Statistics};
use crate::selftest::case;

/// An op: the names of its sizes, small ones for a try, and the rest as functions of them.
pub struct Kind {
    /// Its file's name, with what is special.
    pub name: &'static str,
    /// Names of the sizes.
    pub letters: &'static [&'static str],
    small: &'static [usize],
    /// Costs of each direction; the second argument is the bytes per number.
    pub costs: fn(&[usize], usize) -> Vec<Cost>,
    /// One turn per direction, in the order of the costs.
    pub turns: fn(&Place, &[usize]) -> Vec<Turn>,
}

/// The least that a direction must move and compute.
pub struct Cost {
    /// forward, backward or step.
    pub direction: &'static str,
    /// Bytes read and written.
    pub bytes: usize,
    /// Multiplications and additions.
    pub flops: usize,
}

/// An op at one size.
pub type Row = (&'static Kind, Vec<usize>);

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
        costs: |z, e| {
            let (numbers, products) = (z[0] * z[1] * z[2] * z[3], z[0] * z[2] * z[1] * z[1] * z[3]);
            both([4 * numbers * e, 4 * products], [7 * numbers * e, 10 * products])
        },
        turns: |place, z| {
            let heads = z[2];
            let op = case("attention", &[&[z[0], z[1], 3 * z[2] * z[3]]], move |t, v| {
                t.attention(v[0], None, heads)
            });
            place.tape(op, 1)
        },
    },
    Kind {
        name: "attention_set",
        letters: &["B", "N", "H", "K"],
        small: &[2, 33, 2, 64],
        costs: |z, e| {
            let (numbers, products) = (z[0] * z[1] * z[2] * z[3], z[0] * z[2] * z[1] * (z[1] + 1) * z[3]);
            both([4 * numbers * e, 4 * products], [8 * numbers * e, 10 * products])
        },
        turns: |place, z| {
            let (heads, packed) = (z[2], 3 * z[2] * z[3]);
            let op = case(
                "attention from a seed",
                &[&[z[0], z[1], packed], &[z[0], 2 * z[2] * z[3]]],
                move |t, v| t.attention(v[0], Some(v[1]), heads),
            );
            place.tape(op, 2)
        },
    },
    Kind {
        name: "rms_norm",
        letters: &["M", "D"],
        small: &[64, 128],
        costs: |z, e| both([2 * z[0] * z[1] * e, 4 * z[0] * z[1]], [3 * z[0] * z[1] * e, 8 * z[0] * z[1]]),
        turns: |place, z| {
            place.tape(case("rms_norm", &[&[z[0], z[1]], &[z[1]]], |t, v| t.rms_norm(v[0], Some(v[1]))), 2)
        },
    },
    Kind {
        name: "swiglu",
        letters: &["M", "F"],
        small: &[64, 176],
        costs: |z, e| both([3 * z[0] * z[1] * e, 5 * z[0] * z[1]], [5 * z[0] * z[1] * e, 9 * z[0] * z[1]]),
        turns: |place, z| place.tape(case("swiglu", &[&[z[0], 2 * z[1]]], |t, v| t.swiglu(v[0])), 1),
    },
    Kind {
        name: "mmd",
        letters: &["B", "N", "G"],
        small: &[2, 16, 64],
        costs: |z, e| {
            let (numbers, products) = (z[0] * z[1] * z[2], z[0] * z[1] * z[1] * z[2]);
            both([2 * numbers * e, 4 * products], [3 * numbers * e, 4 * products])
        },
        turns: |place, z| {
            // Both as the decoder and the loader make them: in one storage, the data without gradient.
            let op = case("mmd", &[&[z[0], z[1], z[2]], &[z[0], z[1], z[2]]], |t, v| {
                t.mmd(v[0], v[1], MmdKernel::Gaussian)
            });
            place.tape(op, 1)
        },
    },
    Kind {
        name: "adamw",
        letters: &["L"],
        small: &[8192],
        // 9 numbers of f32 and 1 for the norm; the two halves of a weight together are as large as a whole one.
        costs: |z, _| vec![Cost { direction: "step", bytes: 40 * z[0], flops: 15 * z[0] }],
        turns: |place, z| vec![place.adamw(z[0])],
    },
    Kind {
        name: "gather",
        letters: &["R", "G"],
        small: &[64, 200],
        costs: |z, e| {
            let numbers = z[0] * z[1];
            let bytes = numbers * e + 4 * numbers * STORED[0] / STORED[1];
            vec![Cost { direction: "forward", bytes, flops: 0 }]
        },
        turns: |place, z| vec![place.gather(z[0], z[1])],
    },
    Kind {
        name: "matmul",
        letters: &["M", "I", "J"],
        small: &[64, 128, 64],
        // Backward is two products; the gradient of the weights is f32.
        costs: |z, e| {
            let ([m, i, j], products) = ([z[0], z[1], z[2]], 2 * z[0] * z[1] * z[2]);
            let back = e * (2 * m * i + 2 * m * j + i * j) + 4 * i * j;
            both([e * (m * i + i * j + m * j), products], [back, 2 * products])
        },
        turns: |place, z| {
            let op = case("matmul", &[&[z[0], z[1]], &[z[2], z[1]]], |t, v| t.linear(v[0], v[1], None));
            place.tape(op, 2)
        },
    },
    Kind {
        name: "matmul_swiglu",
        letters: &["M", "E", "F"],
        small: &[64, 64, 48],
        // Gate and up are kept from forward to backward; gradients of weights are f32.
        costs: |z, e| {
            let (row, kept, weights) = (z[0] * z[1], 2 * z[0] * z[2], 3 * z[1] * z[2]);
            let products = 2 * z[0] * weights;
            let bytes = e * (3 * row + kept + weights);
            both([bytes, products], [bytes + 4 * weights, 2 * products])
        },
        turns: |place, z| {
            let [m, e, f] = [z[0], z[1], z[2]];
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
    let names = KINDS.iter().map(|kind| kind.name.to_string()).collect::<Vec<_>>();
    KINDS
        .iter()
        .find(|kind| kind.name == name)
        .ok_or_else(|| Error::setting("--case", unknown("op", name, &names)))
}

/// Every op once, at small sizes for a try.
pub fn small() -> Vec<Row> {
    KINDS.iter().map(|kind| (kind, kind.small.to_vec())).collect()
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
    rows.into_iter().map(|(name, sizes)| Ok((kind(name)?, sizes))).collect()
}

/// L, the length of the flat buffer of a preset's weights.
fn weights(config: &Config) -> usize {
    let statistics = Statistics { mean: vec![0.1; GENES], std: vec![0.1; GENES] };
    let vocabulary = Vocabulary { cell_types: 50, perturbations: 1200, batches: 14 };
    Model::new(config, &vocabulary, statistics).1.len()
}
