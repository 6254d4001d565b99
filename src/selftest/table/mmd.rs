//! Rows of the discrepancy between two populations, set by set.

use std::sync::{Arc, LazyLock};

use rayon::prelude::*;

use crate::config::MmdKernel;
use crate::ops::mmd;
use crate::rng::Rng;
use crate::selftest::case::{Case, case, wide};
use crate::tensor::Tensor;

/// Every row of them.
pub fn rows() -> Vec<Case> {
    let mut rows = Vec::new();
    // Among them sizes for Hopper's kernels: one side of rows, two, three; part of a step of genes, several. Their number is odd:
    // of two tests each runs every other row, so that each gets the slowest size, the last one, with one of the kernels.
    for kernel in [MmdKernel::Gaussian, MmdKernel::Energy] {
        for sizes in [
            [1, 1, 33],
            [2, 33, 97],
            [3, 7, 257],
            [1, 130, 33],
            [1, 64, 224],
            [3, 72, 8],
            [1, 136, 224],
            [1, 264, 40],
            [2, 152, 24],
            [2, 64, 2000],
            [16, 512, 2000],
        ] {
            rows.push(discrepancy(sizes, kernel));
        }
    }
    rows
}

/// The discrepancy of decoded cells [B, N, G] from as many others.
fn discrepancy([b, n, g]: [usize; 3], kernel: MmdKernel) -> Case {
    let rng = Rng::new(9);
    // The others are moved and narrower than the decoded ones. A device may hold them as bf16, and its bound is for y alone.
    let stored = |v: f32| half::bf16::from_f32(v).to_f32();
    // Made when the row is run: the whole table is also built for its names alone.
    let data = Arc::new(LazyLock::new(move || -> Vec<f32> {
        (0..(b * n * g) as u64).map(|i| stored(0.5 + 0.7 * rng.normal(i))).collect()
    }));
    let (data_too, data_again) = (data.clone(), data.clone());
    let name = if kernel == MmdKernel::Gaussian { "mmd gaussian" } else { "mmd energy" };
    // In parallel: the largest row's reference takes a minute on one core.
    let sets = move |y: &[f64], of: &(dyn Fn(&[f64], usize) -> Vec<f64> + Sync)| -> Vec<f64> {
        y.par_chunks(n * g).enumerate().flat_map_iter(|(i, y)| of(y, i * n * g)).collect()
    };
    case(name, &[&[b, n, g]], move |t, v| {
        let x = t.constant(Tensor::new(&[b, n, g], data.to_vec()));
        t.mmd(v[0], x, kernel)
    })
    .judged_by(
        move |y, fixed| {
            let parts = sets(&y[0], &|y, at| {
                let x = wide(&data_too[at..at + n * g]);
                let v = mmd::reference::scale(&fixed[0][at..at + n * g], &x, g);
                vec![mmd::reference::forward(y, &x, g, v, kernel)]
            });
            vec![parts.iter().sum::<f64>() / b as f64]
        },
        move |d, y| {
            let dy = sets(&y[0], &|y, at| {
                let x = wide(&data_again[at..at + n * g]);
                let v = mmd::reference::scale(y, &x, g);
                mmd::reference::backward(y, &x, g, v, kernel).iter().map(|v| v * d[0] / b as f64).collect()
            });
            vec![dy]
        },
    )
}
