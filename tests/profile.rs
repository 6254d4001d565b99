//! What a step is made of: counted correctly and completely.

use scale_engine::config::Config;
use scale_engine::gpu::{Gpu, Real};
use scale_engine::laps::{Laps, Pass};
use scale_engine::model::condition::{Vocabulary, three};
use scale_engine::model::{Model, Statistics};
use scale_engine::params::Params;
use scale_engine::profile::{Profile, Sizes, profile};
use scale_engine::rng::Rng;
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;

#[test]
fn an_op_is_told_with_its_bytes_and_its_arithmetic() {
    let laps = Laps::start(None);
    let mut tape = Tape::new().timed(Some(&laps));
    let [m, i, j] = [3, 5, 7];
    let x = tape.constant(Tensor::zeros(&[m, i]));
    let w = tape.leaf(Tensor::zeros(&[j, i]));
    let y = tape.linear(x, w, None);
    let part = tape.slice(y, 0..2);
    let loss = tape.squared_error(part, part);
    drop(tape.backward(loss));
    let laps = laps.end();
    let of = |op: &str, pass| {
        let mut found = laps.iter().filter(|lap| lap.op == op && lap.pass == pass);
        (found.next().unwrap_or_else(|| panic!("no {op} {pass:?}")), found.count())
    };
    let (forward, others) = of("matmul", Pass::Forward);
    assert_eq!((forward.flops, others), ((2 * m * i * j) as u64, 0));
    assert_eq!(forward.bytes, 4 * (m * i + j * i + m * j) as u64);
    assert_eq!(forward.shape, [m, j]);
    let (backward, _) = of("matmul", Pass::Backward);
    // x is data: only dw is made, from dy and x.
    assert_eq!(backward.flops, (2 * m * i * j) as u64);
    assert_eq!(backward.bytes, 4 * (m * i + m * j + j * i) as u64);
    // A slice copies nothing.
    assert_eq!(of("elementwise", Pass::Forward).0.bytes, 0);
    assert!(laps.iter().any(|lap| lap.op == "gradient sums"), "a window's gradient is added");
    assert!(laps.iter().all(|lap| lap.seconds >= 0.0 && lap.kernels.is_empty()));
}

#[test]
fn what_is_skipped_is_in_no_lap() {
    let pause = std::time::Duration::from_millis(40);
    let device = crate::kernels::emulated().map(|folder| crate::emulate::device(folder, Real::F32, 1));
    for gpu in [None].into_iter().chain(device.as_ref().map(Some)) {
        let laps = Laps::start(gpu);
        for _ in 0..3 {
            std::thread::sleep(pause);
            laps.skip();
            laps.lap("quick", &[], Pass::Forward, (1, 0));
            std::thread::sleep(pause);
            laps.lap("slow", &[], Pass::Forward, (1, 0));
        }
        for lap in laps.end() {
            let slow = lap.op == "slow";
            assert!((lap.seconds >= pause.as_secs_f64()) == slow, "{} {} s", lap.op, lap.seconds);
        }
    }
}

fn small(gpu: Option<&Gpu>) -> Profile {
    let sizes = Sizes { preset: "tiny".into(), sets: 2, cells: 3, genes: 40 };
    profile(&sizes, 1, gpu).expect("a profile")
}

fn whole(found: &Profile) {
    let (share, seconds) = found.rows.iter().fold((0.0, 0.0), |(a, b), row| (a + row.share, b + row.seconds));
    assert!((share - 1.0).abs() < 1e-9 && (seconds - found.watched_s).abs() < 1e-9, "{share} {seconds}");
    for (op, pass) in [
        ("matmul", Pass::Forward),
        ("matmul", Pass::Backward),
        ("attention", Pass::Backward),
        ("mmd", Pass::Forward),
        ("flow", Pass::Backward),
        ("adamw", Pass::Update),
    ] {
        assert!(found.rows.iter().any(|row| row.op == op && row.pass == pass), "{op} {pass:?}");
    }
    assert!(found.ceilings.copy_gb_per_s > 0.0 && found.ceilings.matmul_tflop_per_s > 0.0);
}

#[test]
fn the_rows_of_a_profile_add_up_to_its_step() {
    let found = small(None);
    whole(&found);
    assert!(found.idle.is_none() && found.kernels.is_empty() && found.memory.is_none() && found.step_s > 0.0);
}

#[test]
fn a_devices_kernels_are_told_too() {
    let Some(folder) = crate::kernels::emulated() else { return };
    let found = small(Some(&crate::emulate::device(folder, Real::Bf16, 1)));
    whole(&found);
    let named = |name: &str| found.kernels.iter().any(|kernel| kernel.name.starts_with(name));
    assert!(named("product [") && named("rms_norm_forward") && named("adamw"), "kernels by name");
    assert!(found.kernels.iter().all(|kernel| kernel.launches >= 1.0 && kernel.seconds >= 0.0));
    assert!(found.idle.is_some_and(|share| (0.0..1.0).contains(&share)), "{:?}", found.idle);
}

#[test]
fn a_dry_step_holds_and_moves_what_a_computed_one_does() {
    let dry = small(Some(&Gpu::dry(Real::Bf16)));
    let counts = |found: &Profile| {
        let mut rows: Vec<_> =
            found.rows.iter().map(|r| (r.op.clone(), r.shape.clone(), r.pass as u32)).collect();
        rows.sort();
        let sum = |of: fn(&scale_engine::profile::Row) -> f64| found.rows.iter().map(of).sum::<f64>();
        (rows, sum(|r| r.bytes), sum(|r| r.flops))
    };
    let memory = dry.memory.clone().expect("a device");
    // Between steps: weights in two halves, gradients, two moments, the average.
    assert!(memory.between as usize > 20 * dry.weights && (memory.between as usize) < 23 * dry.weights);
    assert!(memory.kept > 0 && memory.peak.bytes >= memory.between + memory.kept);
    assert_eq!(memory.peak.of.iter().map(|(_, bytes)| bytes).sum::<u64>(), memory.peak.bytes);
    let Some(folder) = crate::kernels::emulated() else { return };
    let computed = small(Some(&crate::emulate::device(folder, Real::Bf16, 1)));
    assert_eq!(counts(&computed), counts(&dry));
    let held = computed.memory.expect("a device");
    assert_eq!((held.between, held.kept, held.peak), (memory.between, memory.kept, memory.peak));
}

/// The most bytes that a prediction of preset tiny holds besides weights and cells, on a device.
fn held_to_predict(set: &[String], steps: usize) -> u64 {
    let gpu = Gpu::dry(Real::Bf16);
    let config = Config::load(Some("tiny"), None, set).expect("settings");
    let sizes = Vocabulary { cell_types: 3, perturbations: 5, batches: 2, features: None };
    let statistics = Statistics { mean: vec![0.1; 500], std: vec![0.1; 500] };
    let (model, table) = Model::new(&config, &sizes, statistics);
    let weights = table.draw(Rng::new(0));
    let (model, params) = (model.to_gpu(&gpu), Params::new(table, weights).to_gpu(&gpu));
    let cells = Tensor::zeros(&[2, 64, 500]).to_gpu(&gpu, "cells", Real::Bf16);
    let before = gpu.held();
    gpu.forget_peak();
    model.generate(&params, &cells, None, &three(&[[0, 1, 0]; 2]), steps, &[Rng::new(1); 2]);
    gpu.peak().bytes - before
}

#[test]
fn a_prediction_holds_the_answers_of_its_blocks_and_one_block_more() {
    for (layers, answer) in [("encoder.layers", 2 * 64 * 16 * 64 * 2), ("flow.layers", 2 * 64 * 128 * 2)] {
        let [few, many] = [4, 12].map(|count| held_to_predict(&[format!("{layers}={count}")], 1));
        assert!(many - few <= 8 * answer, "{layers}: {few} and {many} bytes, {answer} an answer");
    }
    assert_eq!(held_to_predict(&[], 3), held_to_predict(&[], 30), "a step holds nothing of those before it");
}

#[test]
fn a_device_counts_what_it_holds_and_of_what_the_most_was_made() {
    let gpu = Gpu::dry(Real::F32);
    let first = gpu.buffer("first", 100);
    let second = gpu.buffer("second", 30);
    drop(second);
    let third = gpu.buffer("second", 20);
    assert_eq!((gpu.held(), gpu.peak().bytes), (120, 130));
    assert_eq!(gpu.peak().of, [("first", 100), ("second", 30)]);
    gpu.forget_peak();
    drop(first);
    assert_eq!(
        (gpu.held(), gpu.peak().bytes, gpu.peak().of),
        (20, 120, vec![("first", 100), ("second", 20)])
    );
    drop(third);
    assert_eq!(gpu.held(), 0);
}
