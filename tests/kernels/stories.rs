//! What the discrepancy promises beyond its rows in the table, on the emulated device: the twins of the host's stories.

use half::bf16;
use scale_engine::config::MmdKernel;
use scale_engine::gpu::Real;
use scale_engine::ops::mmd;
use scale_engine::rng::Rng;
use scale_engine::selftest::{error, wide};
use scale_engine::tensor::Tensor;
use serde_json::{from_value, json};

const KERNELS: [MmdKernel; 2] = [MmdKernel::Gaussian, MmdKernel::Energy];

/// Cells and genes of a set: for the kernels of any device, and for Hopper's, which take only bf16.
const SIZES: [[usize; 2]; 2] = [[8, 257], [136, 264]];

fn cases(size: [usize; 2]) -> impl Iterator<Item = (MmdKernel, Real)> {
    let storages: &[Real] = if size == SIZES[0] { &[Real::F32, Real::Bf16] } else { &[Real::Bf16] };
    KERNELS.iter().flat_map(|&kernel| storages.iter().map(move |&real| (kernel, real)))
}

/// A set of cells that both storages hold exactly.
fn cells([n, g]: [usize; 2], number: impl Fn(u64) -> f32) -> Tensor {
    Tensor::new(&[1, n, g], (0..(n * g) as u64).map(|i| bf16::from_f32(number(i)).to_f32()).collect())
}

fn normals(size: [usize; 2], seed: u64, shift: f32) -> Tensor {
    cells(size, |i| shift + Rng::new(seed).normal(i))
}

/// The loss and its gradient with respect to y on an emulated device.
fn on_device(y: &Tensor, x: &Tensor, kernel: MmdKernel, real: Real) -> Option<(f32, Tensor)> {
    let gpu = crate::emulate::device(super::emulated()?, real, 1);
    let [y, x] = [y, x].map(|t| t.to_gpu(&gpu, "cells", real));
    let (loss, saved) = mmd::forward(&y, &x, kernel, true);
    let one = Tensor::scalar(1.0).to_gpu(&gpu, "the loss's gradient", Real::F32);
    let dy = mmd::backward(&one, &y, &x, &saved.expect("wanted"));
    Some((loss.item(), dy.to_host()))
}

/// Compares both with the reference: the loss to 1e-4 of it, the gradient to 1e-4, or to what its storage rounds away.
fn held(y: &Tensor, x: &Tensor, what: &str) {
    let [_, rows, width] = y.dims("cells");
    for (kernel, real) in cases([rows, width]) {
        let Some((loss, dy)) = on_device(y, x, kernel, real) else { return };
        let (ys, xs) = (wide(y.data()), wide(x.data()));
        let v = mmd::reference::scale(&ys, &xs, width);
        let told = mmd::reference::forward(&ys, &xs, width, v, kernel);
        let off = (f64::from(loss) - told).abs() / told.abs();
        assert!(off < 1e-4, "{what}, {kernel:?}, {real:?}: the loss is {loss}, not {told}");
        let off = error(&wide(dy.data()), &mmd::reference::backward(&ys, &xs, width, v, kernel));
        let allowed = if real == Real::F32 { 1e-4 } else { 1.0 / 256.0 };
        assert!(off < allowed, "{what}, {kernel:?}, {real:?}: the gradient is {off:.1e} off");
    }
}

#[test]
fn equal_populations_have_no_discrepancy_and_no_gradient() {
    for size in SIZES {
        let x = normals(size, 5, 0.0);
        for (kernel, real) in cases(size) {
            let Some((loss, dy)) = on_device(&x, &x, kernel, real) else { return };
            assert!(loss.abs() < 1e-5, "{kernel:?}, {real:?}: {loss}");
            assert!(dy.data().iter().all(|d| d.abs() < 1e-5), "{kernel:?}, {real:?}");
        }
    }
}

#[test]
fn cells_drawn_twice_and_far_from_the_origin_are_measured_exactly() {
    for size @ [_, g] in SIZES {
        // Decoded cells are equal if a control was drawn twice.
        let mut y = normals(size, 6, 3.0).into_vec();
        let copy = y[..g].to_vec();
        y[g..2 * g].copy_from_slice(&copy);
        let last = y.len() - g;
        y[last..].copy_from_slice(&copy);
        held(&Tensor::new(&[1, size[0], g], y), &normals(size, 7, 3.5), "far away");
    }
}

#[test]
fn cells_that_hardly_differ_are_measured_by_their_difference() {
    // Steps of 1/64 at 3, in one gene of eight: squared distances of 1e-6 of the cells' own size.
    let step = |seed: u64, i: u64| (Rng::new(seed).below(i, 8) / 7) as f32 / 64.0;
    for size in SIZES {
        held(&cells(size, |i| 3.0 + step(8, i)), &cells(size, |i| 3.0 - 2.0 * step(9, i)), "nearly equal");
    }
}

#[test]
fn a_nan_is_never_hidden() {
    for size in SIZES {
        let mut x = normals(size, 10, 0.0).into_vec();
        x[300] = f32::NAN;
        let (x, y) = (Tensor::new(&[1, size[0], size[1]], x), normals(size, 11, 0.0));
        for (kernel, real) in cases(size) {
            for (y, x) in [(&y, &x), (&x, &y)] {
                let Some((loss, _)) = on_device(y, x, kernel, real) else { return };
                assert!(loss.is_nan(), "{kernel:?}, {real:?}: {loss}");
            }
        }
    }
}

#[test]
fn a_loss_without_gradient_is_the_same() {
    let Some(folder) = super::emulated() else { return };
    let size = [200, 72];
    let [y, x] = [12, 13].map(|seed| normals(size, seed, 0.5));
    for kernel in KERNELS {
        let gpu = crate::emulate::device(folder, Real::Bf16, 1);
        let [y, x] = [&y, &x].map(|t| t.to_gpu(&gpu, "cells", Real::Bf16));
        let [with, without] = [true, false].map(|wanted| mmd::forward(&y, &x, kernel, wanted).0.item());
        assert_eq!(with.to_bits(), without.to_bits(), "{kernel:?}: {with} and {without}");
    }
}

/// Either backward takes what either forward has left, and all four combinations agree.
#[test]
fn hoppers_kernels_and_the_others_can_be_mixed() {
    let Some(folder) = super::emulated() else { return };
    let [n, g] = [200, 72];
    let [y, x] = [14, 15].map(|seed| normals([n, g], seed, 0.5));
    let mut first: Option<(f32, Vec<f64>)> = None;
    for (forward, backward) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let gpu = crate::emulate::device(folder, Real::Bf16, 1);
        let way = |what: &str, way: usize| {
            json!([what, [1, n, g], [1e-3 * (1 + way) as f64, 1e-3 * (2 - way) as f64]])
        };
        let ways = [way("mmd gaussian, kept", forward), way("mmd backward", backward)];
        let choices =
            json!({ "device": gpu.name(), "library": 0, "words": 3, "algorithms": [], "ways": ways });
        assert!(gpu.adopt(&from_value(choices).expect("choices")));
        let [y, x] = [&y, &x].map(|t| t.to_gpu(&gpu, "cells", Real::Bf16));
        gpu.listen();
        let (loss, saved) = mmd::forward(&y, &x, MmdKernel::Gaussian, true);
        let one = Tensor::scalar(1.0).to_gpu(&gpu, "the loss's gradient", Real::F32);
        let (loss, dy) =
            (loss.item(), wide(mmd::backward(&one, &y, &x, &saved.expect("wanted")).to_host().data()));
        let ran: Vec<String> = gpu.ran().into_iter().map(|ran| ran.name).collect();
        let pairs = ["mmd_hopper_pairs", "mmd_pairs"][forward];
        let of_dy = ["mmd_hopper_backward", "mmd_backward"][backward];
        assert!([pairs, of_dy].iter().all(|name| ran.iter().any(|ran| ran == name)), "{ran:?}");
        let (told, of_first) = first.get_or_insert((loss, dy.clone()));
        assert!((loss - *told).abs() < 1e-5 * told.abs(), "{forward}, {backward}: {loss} and {told}");
        let off = error(&dy, of_first);
        assert!(off < 1.0 / 256.0, "{forward}, {backward}: the gradients are {off:.1e} apart");
    }
}
