//! What an op promises beyond its formula.

use scale_engine::config::{Activation, MmdKernel, Start};
use scale_engine::ops::attention::{Found, Given};
use scale_engine::ops::{activation, attention, mmd, rms_norm};
use scale_engine::rng::Rng;
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;

fn normals(shape: &[usize], seed: u64) -> Tensor {
    let len: usize = shape.iter().product();
    Tensor::new(shape, (0..len as u64).map(|i| Rng::new(seed).normal(i)).collect())
}

fn near(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "number {i}: {a} and {b}");
    }
}

#[test]
fn a_seed_as_start_state_equals_attention_over_one_row_more() {
    for (n, h, k) in [(1, 1, 1), (5, 2, 33), (97, 2, 16)] {
        let packed = 3 * h * k;
        let (qkv, seed) = (normals(&[2, n, packed], 1), normals(&[2, 2 * h * k], 2));
        let mut joined = Vec::new();
        for b in 0..2 {
            joined.extend_from_slice(&qkv.data()[b * n * packed..(b + 1) * n * packed]);
            joined.extend(vec![0.5; h * k]); // the seed has no query
            joined.extend_from_slice(&seed.data()[b * 2 * h * k..(b + 1) * 2 * h * k]);
        }
        let joined = Tensor::new(&[2, n + 1, packed], joined);
        let (short, lse) = attention::forward(&qkv, Some(&seed), h);
        let (long, long_lse) = attention::forward(&joined, None, h);
        // The seed's own output row is dropped, so no gradient comes through it.
        let dy = normals(&[2, n, h * k], 3);
        let mut dy_long = Vec::new();
        for b in 0..2 {
            near(
                &short.data()[b * n * h * k..(b + 1) * n * h * k],
                &long.data()[b * (n + 1) * h * k..][..n * h * k],
                1e-6,
            );
            dy_long.extend_from_slice(&dy.data()[b * n * h * k..(b + 1) * n * h * k]);
            dy_long.extend(vec![0.0; h * k]);
        }
        let dy_long = Tensor::new(&[2, n + 1, h * k], dy_long);
        let given = Given { dy: &dy, qkv: &qkv, seed: Some(&seed), y: &short, lse: &lse };
        let Found { dx, dseed, .. } = attention::backward(&given, h, false);
        let given = Given { dy: &dy_long, qkv: &joined, seed: None, y: &long, lse: &long_lse };
        let dx_long = attention::backward(&given, h, false).dx;
        let dseed = dseed.expect("there is a seed");
        for b in 0..2 {
            let rows = &dx_long.data()[b * (n + 1) * packed..(b + 1) * (n + 1) * packed];
            near(&dx.data()[b * n * packed..(b + 1) * n * packed], &rows[..n * packed], 1e-5);
            near(&dseed.data()[b * 2 * h * k..][..2 * h * k], &rows[n * packed + h * k..], 1e-5);
        }
    }
}

#[test]
fn attention_keeps_scores_of_any_size() {
    let mut qkv = normals(&[1, 9, 3 * 8], 4).into_vec();
    qkv.iter_mut().for_each(|x| *x *= 300.0);
    let (y, lse) = attention::forward(&Tensor::new(&[1, 9, 24], qkv), None, 1);
    assert!(y.data().iter().chain(lse.data()).all(|v| v.is_finite()));
    // A seed whose score is far above all others takes all the weight.
    let seed = Tensor::new(&[1, 16], [[400.0f32; 8], [0.25; 8]].concat());
    let (y, lse) = attention::forward(&Tensor::new(&[1, 2, 24], vec![1.0; 48]), Some(&seed), 1);
    assert!(y.data().iter().all(|&v| v == 0.25) && lse.data().iter().all(|v| v.is_finite()), "{y:?}");
}

#[test]
fn rows_of_zeros_stay_zeros() {
    let zeros = Tensor::zeros(&[2, 5]);
    assert_eq!(rms_norm::forward(&zeros, None).0.data(), [0.0; 10]);
}

#[test]
fn a_relu_passes_nothing_back_at_zero() {
    let (dy, x) = (Tensor::new(&[1, 3], vec![1.0; 3]), Tensor::new(&[1, 3], vec![-1.0, 0.0, 1.0]));
    assert_eq!(activation::backward(&dy, &x, Activation::Relu).data(), [0.0, 0.0, 1.0]);
}

#[test]
fn equal_populations_have_no_discrepancy_and_no_gradient() {
    let x = normals(&[2, 33, 97], 5);
    for kernel in [MmdKernel::Gaussian, MmdKernel::Energy] {
        let (loss, saved) = mmd::forward(&x, &x, kernel, true);
        assert!(loss.item().abs() < 1e-5, "{kernel:?}: {}", loss.item());
        let dy = mmd::backward(&Tensor::scalar(1.0), &x, &x, &saved.expect("wanted"));
        assert!(dy.data().iter().all(|d| d.abs() < 1e-5), "{kernel:?}");
    }
    // Cells that are all alike have no scale of their own.
    let alike = Tensor::zeros(&[1, 4, 6]);
    let (loss, saved) = mmd::forward(&alike, &alike, MmdKernel::Gaussian, true);
    let dy = mmd::backward(&Tensor::scalar(1.0), &alike, &alike, &saved.expect("wanted"));
    assert!(loss.item() == 0.0 && dy.data().iter().all(|&d| d == 0.0), "{} {dy:?}", loss.item());
}

#[test]
fn a_cell_drawn_twice_leaves_the_energy_finite_and_exact() {
    // Decoded cells are equal if a control was drawn twice; these are far from the origin, as expression is.
    let mut y = normals(&[1, 8, 257], 6).into_vec();
    let copy = y[..257].to_vec();
    y[257..514].copy_from_slice(&copy);
    y.iter_mut().for_each(|v| *v += 3.0);
    let x: Vec<f32> = normals(&[1, 8, 257], 7).into_vec().iter().map(|v| v + 3.5).collect();
    let (y, x) = (Tensor::new(&[1, 8, 257], y), Tensor::new(&[1, 8, 257], x));
    let (loss, saved) = mmd::forward(&y, &x, MmdKernel::Energy, true);
    let dy = mmd::backward(&Tensor::scalar(1.0), &y, &x, &saved.expect("wanted"));
    let wide = |t: &Tensor| t.data().iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
    let (ys, xs) = (wide(&y), wide(&x));
    let told = mmd::reference::forward(&ys, &xs, 257, 1.0, MmdKernel::Energy);
    assert!((f64::from(loss.item()) - told).abs() < 1e-4 * told.abs(), "{} and {told}", loss.item());
    for (d, told) in dy.data().iter().zip(mmd::reference::backward(&ys, &xs, 257, 1.0, MmdKernel::Energy)) {
        assert!((f64::from(*d) - told).abs() < 1e-5, "{d} and {told}");
    }
}

#[test]
fn a_nan_is_never_hidden() {
    let mut x = normals(&[1, 4, 33], 8).into_vec();
    x[40] = f32::NAN;
    let x = Tensor::new(&[1, 4, 33], x);
    let y = normals(&[1, 4, 33], 9);
    for kernel in [MmdKernel::Gaussian, MmdKernel::Energy] {
        assert!(mmd::forward(&x, &y, kernel, false).0.item().is_nan());
    }
    let (y, _) = attention::forward(&x, None, 1);
    assert!(y.data().iter().any(|v| v.is_nan()));
}

#[test]
fn the_start_masks_its_share_and_repeats_its_noise() {
    let z0 = normals(&[2, 100, 100], 10);
    let start = |kind, mask| {
        let mut tape = Tape::new();
        let z = tape.leaf(z0.clone());
        let y = tape.flow_start(z, kind, mask, &[0, 1].map(|set| (Rng::new(11), set * 10_000)));
        tape.value(y).data().to_vec()
    };
    assert_eq!(start(Start::Control, 0.0), z0.data());
    assert_eq!(start(Start::Shifted, 0.0), z0.data());
    let masked = start(Start::Control, 0.15);
    let share = masked.iter().filter(|&&v| v == 0.0).count() as f64 / masked.len() as f64;
    assert!((share - 0.15).abs() < 0.01, "{share}");
    let (noise, mixed) = (start(Start::Gaussian, 0.0), start(Start::Mixed, 0.0));
    let rng = Rng::new(11).at(0);
    for i in [0usize, 1, 777, 19_999] {
        assert_eq!(noise[i], rng.normal(i as u64));
        assert_eq!(mixed[i], noise[i] + 0.5 * z0.data()[i]);
    }
}

#[test]
fn time_features_are_cosines_then_sines() {
    let mut tape = Tape::new();
    let y = tape.time(&[0.0, 0.25]);
    let y = tape.value(y).data();
    assert!(y[..128].iter().all(|&c| c == 1.0) && y[128..256].iter().all(|&s| s == 0.0));
    assert_eq!((y[256], y[256 + 128]), (250f64.cos() as f32, 250f64.sin() as f32));
    assert!((y[256 + 64] - 2.5f32.cos()).abs() < 1e-6);
}
