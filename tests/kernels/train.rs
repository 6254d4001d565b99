//! Training on the emulated device: the loop, how cells get to the device, checkpoints.

use std::path::Path;

use scale_engine::checkpoint::Checkpoint;
use scale_engine::config::{Config, Observe};
use scale_engine::data::h5ad::H5ad;
use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::predict::{self, ControlFile, Source, predict};
use scale_engine::progress::Progress;
use scale_engine::selftest::feed;
use scale_engine::train::{Begin, Place, Settings, train};
use serde_json::Value;

use crate::train::{last, names, set, small};

/// Trains the small run for some steps, from the start or from where it left off, and returns its losses.
fn run(out: &Path, places: &[Option<Gpu>], steps: u64) -> Vec<f64> {
    let fresh = !out.join("checkpoints").exists();
    let config = fresh.then(|| {
        let more = "data.sets=2 data.cells=9 train.val_every=4 train.log_every=1 train.checkpoint_every=2 train.keep_all=true";
        let mut set = set();
        set.extend(more.split_whitespace().map(String::from));
        set.push(format!("train.steps={steps}"));
        Config::load(Some("tiny"), None, &set).expect("a good config")
    });
    let begin = config.map_or(Begin::Resume { steps: Some(steps), shard: None }, Begin::drawn);
    let settings = Settings {
        place: Place::Here(places.to_vec()),
        ..Settings::new(&small().data, &small().split, out, begin)
    };
    train(&settings, &Progress::silent()).expect("a run");
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("a log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("json"));
    lines.filter_map(|line| line["loss"].as_f64()).collect()
}

#[test]
fn a_run_on_a_device_follows_the_cpus_and_goes_on_to_the_same_bits() {
    let Some(folder) = super::emulated() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let (cpu, whole) = (run(&place("cpu"), &[None], 4), run(&place("whole"), &[Some(gpu.clone())], 4));
    assert_eq!((cpu.len(), whole.len()), (4, 4));
    let [of_cpu, of_gpu] = ["cpu", "whole"].map(|name| validated(&place(name)));
    assert!((of_cpu - of_gpu).abs() < 1e-3, "PDCorr {of_gpu} on the device, {of_cpu} on the CPU");
    for (step, (found, told)) in whole.iter().zip(&cpu).enumerate() {
        assert!(
            (found - told).abs() < 1e-4 * told.abs(),
            "step {step}: {found} on the device, {told} on the CPU"
        );
    }
    // A run that was stopped after two steps.
    let halves = place("halves");
    std::fs::create_dir_all(halves.join("checkpoints")).expect("made");
    std::fs::copy(place("whole").join("checkpoints/step-2.safetensors"), last(&halves)).expect("copied");
    run(&halves, &[Some(gpu.clone())], 4);
    let checkpoint = |run: &Path| std::fs::read(last(run)).expect("a checkpoint");
    assert!(checkpoint(&halves) == checkpoint(&place("whole")), "it went on to other bits");
    // A run begun on a device continues without it.
    let longer = run(&place("whole"), &[None], 6);
    assert!(longer.len() == 6 && longer.iter().all(|loss| loss.is_finite()));
    assert_eq!(gpu.overrun(), None);
}

/// The validation's PDCorr of a run.
fn validated(out: &Path) -> f64 {
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("a log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("json"));
    lines.filter_map(|line| line["val_pdcorr"].as_f64()).next_back().expect("a validation")
}

#[test]
fn a_device_predicts_the_cpus_cells() {
    let Some(folder) = super::emulated() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let request = dir.path().join("request.csv");
    let (types, perturbations) = names();
    let batch = &Checkpoint::describe(&last(&small().run)).expect("readable").header.data.batches[0];
    let asked = format!("perturbation,cell_type,batch,cells\n{},{},{batch},12\n", perturbations[0], types[0]);
    std::fs::write(&request, asked).expect("written");
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let [told, found] = [None, Some(gpu.clone())].map(|gpu| {
        let out = dir.path().join("out.h5ad");
        let source = Source::File { controls: ControlFile::new(&small().cells), request: request.clone() };
        let asked = predict::Settings::new(&small().run, source, &out);
        let settings = predict::Settings { gpu, observe: Some(Observe::None), seed: 5, ..asked };
        predict(&settings, &Progress::silent()).expect("a prediction");
        let file = H5ad::open(&out).expect("readable");
        file.rows(0..12).expect("cells").to_dense()
    });
    assert!(told.iter().any(|&x| x > 0.0) && told.dim() == found.dim());
    for (found, told) in found.iter().zip(&told) {
        assert!((found - told).abs() < 1e-4, "{found} on the device, {told} on the CPU");
    }
    assert_eq!(gpu.overrun(), None);
}

#[test]
fn two_devices_share_a_step() {
    let Some(folder) = super::emulated() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let cpu = run(&place("cpu"), &[None], 3);
    // bf16 rounds what passes between ops, and the gradients in transit.
    for (real, allowed) in [(Real::F32, 1e-4), (Real::Bf16, 2e-2)] {
        let gpus = [1, 2].map(|seed| Some(crate::emulate::device(folder, real, seed)));
        let found = run(&place(&format!("{real:?}")), &gpus, 3);
        for (found, told) in found.iter().zip(&cpu) {
            let off = (found - told).abs() / told.abs();
            assert!(off < allowed, "{real:?}: {found} on two devices, {told} on the CPU");
        }
        gpus.iter().flatten().for_each(|gpu| assert_eq!(gpu.overrun(), None));
    }
}

#[test]
fn cells_reach_the_device_as_the_host_lays_them_out() {
    let Some(folder) = super::emulated() else { return };
    for real in [Real::F32, Real::Bf16] {
        let gpu = crate::emulate::device(folder, real, 1);
        let check = gpu::guard(|| feed(&gpu, false)).expect("a device that answers");
        assert!(check.holds(), "{check:?}");
        assert_eq!(gpu.overrun(), None);
    }
}
