//! Ranks that share the optimizer train like those that do not, with less memory each.

use std::path::Path;
use std::process::Command;

use scale_engine::checkpoint::Checkpoint;
use scale_engine::config::Config;
use scale_engine::gpu::{Gpu, PACK, Real};
use scale_engine::optim::Optimizer;
use scale_engine::params::{Flats, Init, Params, Share, Table};
use scale_engine::progress::Progress;
use scale_engine::rng::Rng;
use scale_engine::train::{Begin, Place, Settings, train};

use super::{STEPS, assert_alike, each, last, log, pair, said, small, threads, wires, words};

/// Trains with one rank per place, from the start or from where the run left off.
fn run(out: &Path, places: &[Option<Gpu>], shard: bool, more: &str) {
    let fresh = !out.join("checkpoints").exists();
    let config = fresh.then(|| {
        let mut set = words(STEPS);
        let more = format!("data.sets=12 train.keep_all=true optim.shard={shard} {more}");
        set.extend(more.split_whitespace().map(String::from));
        Config::load(Some("tiny"), None, &set).expect("a good config")
    });
    let begin = config.map_or(Begin::Resume { steps: None, shard: Some(shard) }, Begin::drawn);
    let settings = Settings {
        place: Place::Here(places.to_vec()),
        ..Settings::new(&small().data, &small().split, out, begin)
    };
    let outcome = train(&settings, &Progress::silent()).expect("a run");
    assert!(outcome.finished);
}

fn cpus(ranks: usize) -> Vec<Option<Gpu>> {
    vec![None; ranks]
}

/// Weights, their average and both moments of a run's last checkpoint, bit by bit.
fn numbers(run: &Path) -> Flats<Vec<u32>> {
    let checkpoint = Checkpoint::load(&last(run)).expect("a checkpoint");
    checkpoint.flats.map(|flat| flat.data().iter().map(|x| x.to_bits()).collect())
}

// A share's norm is summed in a different order than the whole's, but in f64 and rounded to f32 once: only a sum within 1e-15 of
// halfway between two f32 would differ. All else is done in one order, so the bits are the same.

#[test]
fn ranks_that_share_the_optimizer_train_as_those_that_do_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    run(&place("one"), &cpus(1), false, "");
    for ranks in [2, 3] {
        let [whole, shared] = [false, true].map(|shard| {
            let out = place(&format!("{ranks} {shard}"));
            run(&out, &cpus(ranks), shard, "");
            out
        });
        assert!(numbers(&shared) == numbers(&whole), "{ranks} ranks: other bits");
        assert_eq!(log(&shared), log(&whole), "{ranks} ranks");
        assert_alike(&log(&shared), &log(&place("one")), &format!("{ranks} ranks"));
    }
}

#[test]
fn a_run_goes_on_whether_its_ranks_share_the_optimizer_or_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    run(&place("whole"), &cpus(2), false, "");
    run(&place("shared"), &cpus(2), true, "");
    // From the checkpoint that a run leaves when it is killed after six steps.
    let on = |from: &str, ranks: usize, shard: bool| {
        let out = place(&format!("{from} on {ranks} {shard}"));
        std::fs::create_dir_all(out.join("checkpoints")).expect("made");
        std::fs::copy(place(from).join("checkpoints/step-6.safetensors"), last(&out)).expect("copied");
        run(&out, &cpus(ranks), shard, "");
        out
    };
    let told = numbers(&place("whole"));
    for (from, shard) in [("shared", true), ("shared", false), ("whole", true)] {
        assert!(numbers(&on(from, 2, shard)) == told, "{from}, then {shard}: other bits");
    }
    let whole = log(&place("whole"));
    for ranks in [1, 3] {
        let found = log(&on("shared", ranks, true));
        assert!(found.contains(&("step".into(), 7.0)) && !found.contains(&("step".into(), 6.0)));
        assert_alike(&found, &whole[whole.len() - found.len()..], &format!("2 ranks, then {ranks}"));
    }
}

#[test]
fn processes_share_the_optimizer_as_threads_do() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let mut set = words(STEPS);
    set.extend(["data.sets=12", "train.keep_all=true", "optim.shard=true"].map(String::from));
    let outputs = pair(&place("processes"), &set).map(|child| child.wait_with_output().expect("an end"));
    outputs.iter().for_each(|output| assert!(output.status.success(), "{}", said(output)));
    run(&place("threads"), &cpus(2), true, "");
    let bytes = |name: &str| std::fs::read(last(&place(name))).expect("a checkpoint");
    assert!(bytes("processes") == bytes("threads"), "other bits");
}

#[test]
fn devices_share_the_optimizer() {
    let Some(folder) = crate::kernels::emulated() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder");
    for real in [Real::F32, Real::Bf16] {
        let [whole, shared] = [false, true].map(|shard| {
            let gpus = [1, 2].map(|seed| Some(crate::emulate::device(folder, real, seed)));
            let out = dir.path().join(format!("{real:?} {shard}"));
            let more = "data.sets=2 data.cells=9 train.steps=2 train.checkpoint_every=1 train.val_every=2";
            run(&out, &gpus, shard, more);
            gpus.iter().flatten().for_each(|gpu| assert_eq!(gpu.overrun(), None));
            out
        });
        assert!(numbers(&shared) == numbers(&whole), "{real:?}: other bits");
        assert_eq!(log(&shared), log(&whole), "{real:?}");
        // Resumes, from step 1, on one device: its bits differ, since gradients are added in another order.
        let one = dir.path().join(format!("{real:?} one"));
        std::fs::create_dir_all(one.join("checkpoints")).expect("made");
        std::fs::copy(shared.join("checkpoints/step-1.safetensors"), last(&one)).expect("copied");
        run(&one, &[Some(crate::emulate::device(folder, real, 3))], true, "");
        let loss = |run: &Path| log(run).iter().rev().find(|(name, _)| name == "loss").expect("a loss").1;
        let (found, told) = (loss(&one), loss(&shared));
        assert!((found - told).abs() < 2e-2 * told.abs(), "{real:?}: {found}, not {told}");
    }
}

/// Some parameters, on the host or on a device.
fn table(gpu: Option<&Gpu>, rank: usize, ranks: usize) -> (Params, Share) {
    let mut table = Table::default();
    for (i, len) in [1000, 33, 2000, 7, 999].into_iter().enumerate() {
        table.add(&format!("w{i}"), &[len], Init::Normal(0.1), i % 2 == 0);
    }
    let share = table.share(rank, ranks);
    let weights = table.draw(Rng::new(1));
    let params = Params::new(table, weights).with_gradients();
    match gpu {
        Some(gpu) => (params.to_gpu(gpu), share),
        None => (params, share),
    }
}

#[test]
fn each_rank_holds_its_share_of_the_optimizer() {
    for ranks in [1, 2, 3, 8] {
        for rank in [0, ranks - 1] {
            let (mut params, share) = table(None, rank, ranks);
            // Both moments and the average, and one byte per pack that says whether it decays.
            let own = (params.len() / ranks) as u64;
            assert_eq!(Optimizer::new(&mut params, share).bytes(), own * 12 + own / PACK as u64);
            let Some(folder) = crate::kernels::emulated() else { continue };
            for real in [Real::F32, Real::Bf16] {
                let gpu = crate::emulate::device(folder, real, 1);
                let (mut params, share) = table(Some(&gpu), rank, ranks);
                let stretches = 16 * share.pieces().len() as u64;
                let optimizer = Optimizer::new(&mut params, share);
                // Weights and gradients of everything; in bf16 the weights' lower halves are shared too.
                let (all, own, flags) = (params.len() as u64, own, own / PACK as u64);
                let told = match real {
                    Real::F32 => 8 * all + 12 * own + flags + stretches,
                    Real::Bf16 => 6 * all + 14 * own + flags + stretches,
                };
                assert_eq!(gpu.held(), told, "{real:?}, rank {rank} of {ranks}");
                drop((params, optimizer));
                assert_eq!(gpu.overrun(), None);
            }
        }
    }
}

#[test]
fn parts_of_a_sum_are_the_sums_and_are_gathered_to_the_bit() {
    for seats in [threads(3), wires(3)] {
        let found = each(&seats, |seat| {
            // Longer than a socket's buffer.
            let number = |i: usize| 1.0 / (1 + (i * 7 + seat.rank() * 11) % 97) as f32;
            let own: Vec<f32> = (0..300_000).map(number).collect();
            let (mut whole, mut parts) = (own.clone(), own);
            seat.sum(&mut whole).expect("a sum");
            seat.sum_part(&mut parts).expect("a part");
            seat.gather(&mut parts).expect("all parts");
            assert!(parts == whole, "rank {}", seat.rank());
            // Bits of NaN, and a negative zero.
            let mut odd = [f32::NAN; 6];
            let at = 2 * seat.rank();
            odd[at..at + 2].copy_from_slice(&[f32::from_bits(0x7fa0_0001 + at as u32), -0.0]);
            seat.gather(&mut odd).expect("bits");
            odd.map(f32::to_bits)
        });
        let told = [0x7fa0_0001, 1 << 31, 0x7fa0_0003, 1 << 31, 0x7fa0_0005, 1 << 31];
        assert_eq!(found, [told; 3]);
    }
}

#[test]
fn a_rank_that_fails_stops_those_that_wait_for_its_part() {
    for fetches in [false, true] {
        for seats in [threads(3), wires(3)] {
            let messages = each(&seats, |seat| {
                if seat.rank() == 1 {
                    seat.fail("the disk is full");
                    return String::new();
                }
                let mut x = [1.0; 6];
                let found = if fetches { seat.gather(&mut x) } else { seat.sum_part(&mut x) };
                let error = found.expect_err("a part is missing").to_string();
                seat.fail(&error);
                error
            });
            for message in [&messages[0], &messages[2]] {
                assert!(message.contains("the disk is full") && message.contains("rank 1"), "{message}");
            }
        }
    }
}

#[test]
fn a_run_that_goes_on_changes_nothing_else() {
    let resume = |run: &Path, set: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.args(["train", "--device", "cpu", "--resume", "--set", set, "--data"]).arg(&small().data);
        let output = command.arg("--split").arg(&small().split).arg("--out").arg(run).output();
        output.expect("the program starts")
    };
    for set in ["optim.shard=maybe", "optim.lr=0.5"] {
        let output = resume(&small().run, set);
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(said(&output).contains("--set optim.shard=true|false"), "{}", said(&output));
    }
    // Spaces are allowed here as in any other --set. A copy, since only one process may go on with a run.
    let dir = tempfile::tempdir().expect("a temporary folder");
    std::fs::create_dir(dir.path().join("checkpoints")).expect("made");
    std::fs::copy(last(&small().run), last(dir.path())).expect("copied");
    let output = resume(dir.path(), "optim.shard = false");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
}
