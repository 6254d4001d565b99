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
    // Of those that Hopper's kernels take: one side of rows, two, three; part of a step of genes, several. An odd number in all: what
    // takes longest stands last, and every other row is another test's.
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

/// Of decoded cells [B, N, G] from as many others.
fn discrepancy([b, n, g]: [usize; 3], kernel: MmdKernel) -> Case {
    let rng = Rng::new(9);
    // Other cells than the decoded ones: moved and narrower. A device may hold them as bf16, and its bound speaks of y alone.
    let stored = |v: f32| half::bf16::from_f32(v).to_f32();
    // When the row is run: the table is made whole for its names.
    let data = Arc::new(LazyLock::new(move || -> Vec<f32> {
        (0..(b * n * g) as u64).map(|i| stored(0.5 + 0.7 * rng.normal(i))).collect()
    }));
    let (data_too, data_again) = (data.clone(), data.clone());
    let name = if kernel == MmdKernel::Gaussian { "mmd gaussian" } else { "mmd energy" };
    // Side by side: the largest row's reference takes a minute of one core.
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
