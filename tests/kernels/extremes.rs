//! Rows and scores at which an op could divide by zero or overflow, on the emulated device.

use half::bf16;
use scale_engine::config::{Activation, MmdKernel};
use scale_engine::gpu::Real;
use scale_engine::ops::{activation, attention, mmd, rms_norm, seed_attention};
use scale_engine::rng::Rng;
use scale_engine::selftest::{error, wide};
use scale_engine::tensor::Tensor;

const STORAGES: [Real; 2] = [Real::F32, Real::Bf16];

#[test]
fn rows_of_zeros_stay_zeros() {
    let Some(folder) = super::emulated() else { return };
    for (real, width) in STORAGES.into_iter().flat_map(|real| [(real, 5), (real, 16)]) {
        let gpu = crate::emulate::device(folder, real, 1);
        let zeros = Tensor::zeros(&[2, width]).to_gpu(&gpu, "rows", real);
        let y = rms_norm::forward(&zeros, None).0.to_host();
        assert!(y.data().iter().all(|&y| y == 0.0), "{real:?}, {width}: {y:?}");
    }
}

#[test]
fn a_score_far_above_all_others_takes_all_the_weight() {
    let Some(folder) = super::emulated() else { return };
    for (real, width) in STORAGES.into_iter().flat_map(|real| [(real, 5), (real, 8)]) {
        let gpu = crate::emulate::device(folder, real, 1);
        let row = |k: f32, v: f32| [vec![k; width], vec![v; width]].concat();
        let kv =
            Tensor::new(&[1, 3, 2 * width], [row(1.0, 0.5), row(300.0, 0.25), row(-300.0, 0.75)].concat());
        let q = Tensor::new(&[width], vec![4.0; width]).to_gpu(&gpu, "query", real);
        let (y, p) = seed_attention::forward(&q, &kv.to_gpu(&gpu, "keys", real), 1);
        assert_eq!(p.to_host().data(), [0.0, 1.0, 0.0], "{real:?}, {width}");
        assert!(y.to_host().data().iter().all(|&y| y == 0.25), "{real:?}, {width}");
    }
}

#[test]
fn cells_that_are_all_alike_have_no_discrepancy() {
    let Some(folder) = super::emulated() else { return };
    for (real, shape) in [(Real::F32, [1, 8, 24]), (Real::Bf16, [1, 8, 24]), (Real::Bf16, [1, 136, 72])] {
        let gpu = crate::emulate::device(folder, real, 1);
        let x = Tensor::zeros(&shape).to_gpu(&gpu, "cells", real);
        let (loss, saved) = mmd::forward(&x, &x, MmdKernel::Gaussian, true);
        let one = Tensor::scalar(1.0).to_gpu(&gpu, "the loss's gradient", Real::F32);
        let dy = mmd::backward(&one, &x, &x, &saved.expect("wanted")).to_host();
        assert!(loss.item().abs() < 1e-5 && dy.data().iter().all(|&d| d == 0.0), "{real:?}: {}", loss.item());
    }
}

#[test]
fn a_nan_passes_every_activation() {
    let Some(folder) = super::emulated() else { return };
    for (real, kind) in
        STORAGES.into_iter().flat_map(|real| [(real, Activation::Relu), (real, Activation::Gelu)])
    {
        let gpu = crate::emulate::device(folder, real, 1);
        let x = Tensor::new(&[1, 8], vec![f32::NAN; 8]).to_gpu(&gpu, "x", real);
        assert!(
            activation::forward(&x, kind).to_host().data().iter().all(|y| y.is_nan()),
            "{real:?}, {kind:?}"
        );
    }
}

/// The running sums of keys that came before are scaled down when a score far above theirs is met.
#[test]
fn scores_that_rise_from_key_to_key_are_weighed_as_on_the_host() {
    let Some(folder) = super::emulated() else { return };
    let (rows, width) = (160, 128);
    let values = |i: usize| (0..width).map(move |c| Rng::new(3).normal((i * width + c) as u64));
    let row = |i: usize| -> Vec<f32> {
        [vec![0.5; width], vec![0.05 * i as f32; width]].concat().into_iter().chain(values(i)).collect()
    };
    let held = |x: Vec<f32>| x.into_iter().map(|x| bf16::from_f32(x).to_f32()).collect();
    let qkv = Tensor::new(&[1, rows, 3 * width], held((0..rows).flat_map(row).collect()));
    let seed = Tensor::new(&[1, 2 * width], held([vec![0.01; width], vec![0.5; width]].concat()));
    let gpu = crate::emulate::device(folder, Real::Bf16, 1);
    let [x, s] = [&qkv, &seed].map(|t| t.to_gpu(&gpu, "attention", Real::Bf16));
    for (on_host, seed, on_device) in [(&qkv, None, None), (&qkv, Some(&seed), Some(&s))] {
        let (told, lse) = attention::forward(on_host, seed, 1);
        for (route, (y, found)) in gpu.each_route(|| attention::forward(&x, on_device, 1)) {
            let off = error(&wide(y.to_host().data()), &wide(told.data()));
            assert!(off < 1.0 / 64.0, "{route}: {off:.1e}");
            let off = error(&wide(found.to_host().data()), &wide(lse.data()));
            assert!(off < 1e-3, "{route}: lse {off:.1e}");
        }
    }
}
