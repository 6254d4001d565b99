//! What the discrepancy promises beyond its rows, on the emulated device: the twins of the host's stories.

use half::bf16;
use scale_engine::config::MmdKernel;
use scale_engine::gpu::{Gpu, Real};
use scale_engine::ops::mmd;
use scale_engine::rng::Rng;
use scale_engine::selftest::{error, wide};
use scale_engine::tensor::Tensor;

const KERNELS: [MmdKernel; 2] = [MmdKernel::Gaussian, MmdKernel::Energy];

/// A set of 8 cells of 257 genes, as both storages hold them exactly.
fn cells(number: impl Fn(u64) -> f32) -> Tensor {
    Tensor::new(&[1, 8, 257], (0..8 * 257).map(|i| bf16::from_f32(number(i)).to_f32()).collect())
}

fn normals(seed: u64, shift: f32) -> Tensor {
    cells(|i| shift + Rng::new(seed).normal(i))
}

/// The loss and its gradient by y on an emulated device.
fn on_device(y: &Tensor, x: &Tensor, kernel: MmdKernel, real: Real) -> Option<(f32, Tensor)> {
    let gpu = Gpu::emulated(super::emulated()?, real, 1);
    let [y, x] = [y, x].map(|t| t.to_gpu(&gpu, "cells", real));
    let (loss, saved) = mmd::forward(&y, &x, kernel, true);
    let one = Tensor::scalar(1.0).to_gpu(&gpu, "the loss's gradient", Real::F32);
    let dy = mmd::backward(&one, &y, &x, &saved);
    Some((loss.item(), dy.to_host()))
}

/// Holds both to the reference: the loss to 1e-4 of it, the gradient to 1e-4, or to what its storage rounds away.
fn held(y: &Tensor, x: &Tensor, what: &str) {
    for (kernel, real) in KERNELS.iter().flat_map(|&k| [(k, Real::F32), (k, Real::Bf16)]) {
        let Some((loss, dy)) = on_device(y, x, kernel, real) else { return };
        let (ys, xs) = (wide(y.data()), wide(x.data()));
        let v = mmd::reference::scale(&ys, &xs, 257);
        let told = mmd::reference::forward(&ys, &xs, 257, v, kernel);
        let off = (f64::from(loss) - told).abs() / told.abs();
        assert!(off < 1e-4, "{what}, {kernel:?}, {real:?}: the loss is {loss}, not {told}");
        let off = error(&wide(dy.data()), &mmd::reference::backward(&ys, &xs, 257, v, kernel));
        let allowed = if real == Real::F32 { 1e-4 } else { 1.0 / 256.0 };
        assert!(off < allowed, "{what}, {kernel:?}, {real:?}: the gradient is {off:.1e} off");
    }
}

#[test]
fn equal_populations_have_no_discrepancy_and_no_gradient() {
    let x = normals(5, 0.0);
    for (kernel, real) in KERNELS.iter().flat_map(|&k| [(k, Real::F32), (k, Real::Bf16)]) {
        let Some((loss, dy)) = on_device(&x, &x, kernel, real) else { return };
        assert!(loss.abs() < 1e-5, "{kernel:?}, {real:?}: {loss}");
        assert!(dy.data().iter().all(|d| d.abs() < 1e-5), "{kernel:?}, {real:?}");
    }
}

#[test]
fn cells_drawn_twice_and_far_from_the_origin_are_measured_exactly() {
    // Decoded cells are equal where a control was drawn twice.
    let mut y = normals(6, 3.0).into_vec();
    let copy = y[..257].to_vec();
    y[257..514].copy_from_slice(&copy);
    held(&Tensor::new(&[1, 8, 257], y), &normals(7, 3.5), "far away");
}

#[test]
fn cells_that_hardly_differ_are_measured_by_their_difference() {
    // Steps of 1/64 at 3, in one gene of eight: squared distances of 1e-6 of the cells' own size.
    let step = |seed: u64, i: u64| (Rng::new(seed).below(i, 8) / 7) as f32 / 64.0;
    held(&cells(|i| 3.0 + step(8, i)), &cells(|i| 3.0 - 2.0 * step(9, i)), "nearly equal");
}

#[test]
fn a_nan_is_never_hidden() {
    let mut x = normals(10, 0.0).into_vec();
    x[300] = f32::NAN;
    let (x, y) = (Tensor::new(&[1, 8, 257], x), normals(11, 0.0));
    for (kernel, real) in KERNELS.iter().flat_map(|&k| [(k, Real::F32), (k, Real::Bf16)]) {
        for (y, x) in [(&y, &x), (&x, &y)] {
            let Some((loss, _)) = on_device(y, x, kernel, real) else { return };
            assert!(loss.is_nan(), "{kernel:?}, {real:?}: {loss}");
        }
    }
}
