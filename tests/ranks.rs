//! Several ranks train as one: on the CPU, in threads and in processes.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use scale_engine::collective::{Collective, Launch, Ranks, Threads, Wire};
use scale_engine::config::{Config, DataConfig};
use scale_engine::data::sampler::Sampler;
use scale_engine::data::shard::Data;
use scale_engine::data::split::{Part, Split};
use scale_engine::error::Result;
use scale_engine::progress::Progress;
use scale_engine::train::{Begin, Outcome, Place, Settings, train};
use serde_json::Value;

use crate::stopped::stopped;
use crate::train::{last, set, small};

mod shard;

const STEPS: u64 = 12;

/// The small run's settings, with noise and masked entries in the start: their numbers must not depend on the rank.
fn words(steps: u64) -> Vec<String> {
    let more = "flow.start=mixed flow.mask=0.1 train.val_every=5 train.log_every=1 train.checkpoint_every=6";
    let mut set = set();
    set.extend(more.split_whitespace().map(String::from));
    set.push(format!("train.steps={steps}"));
    set
}

/// Trains with `ranks` ranks, from the start or from where the run left off.
fn run(out: &Path, ranks: usize, steps: u64) -> Result<Outcome> {
    let fresh = !out.join("checkpoints").exists();
    let config = fresh.then(|| Config::load(Some("tiny"), None, &words(steps)).expect("a good config"));
    let begin = config.map_or(Begin::Resume { steps: Some(steps), shard: None }, Begin::drawn);
    let settings = Settings {
        place: Place::Here(vec![None; ranks]),
        ..Settings::new(&small().data, &small().split, out, begin)
    };
    train(&settings, &Progress::silent())
}

/// Losses of the steps, gradient norms of their parts and validations.
fn log(run: &Path) -> Vec<(String, f64)> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).expect("a log");
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let numbers = |line: Value| {
        let fields = line.as_object().expect("an object").clone();
        fields.into_iter().filter(|(name, _)| name != "cells_per_second")
    };
    lines.flat_map(numbers).map(|(name, value)| (name, value.as_f64().expect("a number"))).collect()
}

fn assert_alike(found: &[(String, f64)], told: &[(String, f64)], what: &str) {
    assert_eq!(found.len(), told.len(), "{what}: lines");
    for ((name, found), (other, told)) in found.iter().zip(told) {
        assert_eq!(name, other, "{what}");
        assert!((found - told).abs() <= 2e-4 * told.abs().max(1e-3), "{what}: {name} {found}, not {told}");
    }
}

#[test]
fn so_many_ranks_train_as_one_does() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    run(&place("one"), 1, STEPS).expect("a run");
    let told = log(&place("one"));
    assert!(told.iter().any(|(name, _)| name == "val_pdcorr"), "a validation");
    for ranks in [2, 4] {
        let out = place(&format!("of {ranks}"));
        let outcome = run(&out, ranks, STEPS).expect("a run");
        assert!(outcome.finished && outcome.step == STEPS);
        assert_alike(&log(&out), &told, &format!("{ranks} ranks"));
    }
    // The same ranks, the same bits.
    run(&place("again"), 2, STEPS).expect("a run");
    let bytes = |name: &str| std::fs::read(last(&place(name))).expect("a checkpoint");
    assert!(bytes("again") == bytes("of 2"), "other bits");
}

#[test]
fn a_run_goes_on_with_another_number_of_ranks() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    // A schedule of twelve steps, stopped after six: the checkpoint of step 6 is what a killed run leaves.
    run(&place("one"), 1, STEPS).expect("a run");
    let mut set = words(STEPS);
    set.push("train.keep_all=true".into());
    let begin = Begin::drawn(Config::load(Some("tiny"), None, &set).expect("a good config"));
    let alone = Settings::new(&small().data, &small().split, &place("two"), begin);
    let settings = Settings { place: Place::Here(vec![None; 2]), ..alone };
    train(&settings, &Progress::silent()).expect("a run");
    std::fs::copy(place("two").join("checkpoints/step-6.safetensors"), last(&place("two"))).expect("copied");
    run(&place("two"), 1, STEPS).expect("it goes on");
    assert_alike(&log(&place("two")), &log(&place("one")), "two ranks, then one");
}

#[test]
fn ranks_share_the_sets_of_a_step_and_see_none_twice() {
    let data = Data::open(&small().data).expect("data");
    let split = Split::load(&small().split, &data).expect("a split");
    let sampling = DataConfig { sets: 12, cells: 5, ..DataConfig::default() };
    let sampler = Sampler::new(&data, split.part(Part::Train), sampling, 7).expect("groups");
    for ranks in [1, 2, 3, 4, 12] {
        let share = |rank| sampler.clone().share(rank, ranks).expect("a share");
        for k in [0, 1, 99] {
            let shares: Vec<_> = (0..ranks).map(|rank| share(rank).step(k)).collect();
            assert!(shares.iter().all(|sets| sets.len() == 12 / ranks), "equal shares");
            assert_eq!(shares.concat(), sampler.step(k), "{ranks} ranks, step {k}");
        }
    }
    let message = sampler.share(0, 5).expect_err("12 sets for 5 ranks").to_string();
    assert!(message.contains("data.sets") && message.contains("multiple of 5"), "{message}");
    let message = run(&small().run.with_file_name("never"), 3, STEPS).expect_err("8 for 3").to_string();
    assert!(message.contains("data.sets"), "{message}");
}

// ---- sums ----

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port()
}

/// Ranks that meet over TCP on this machine.
fn wires(ranks: usize) -> Vec<Arc<dyn Collective>> {
    let address = ("127.0.0.1".to_string(), free_port());
    let join = |rank| {
        let launch = Launch { rank, ranks, local: rank, address: address.clone(), job: 0, by: "a test" };
        std::thread::spawn(move || Wire::join(&launch, &Progress::silent()).expect("they meet"))
    };
    let joining: Vec<_> = (0..ranks).map(join).collect();
    joining
        .into_iter()
        .map(|thread| Arc::new(thread.join().expect("joined")) as Arc<dyn Collective>)
        .collect()
}

fn threads(ranks: usize) -> Vec<Arc<dyn Collective>> {
    Threads::seats(ranks).into_iter().map(|seat| Arc::new(seat) as Arc<dyn Collective>).collect()
}

/// What each rank returns.
fn each<T: Send>(seats: &[Arc<dyn Collective>], work: impl Fn(&dyn Collective) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = seats.iter().map(|seat| scope.spawn(move || work(seat.as_ref()))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("a rank")).collect()
    })
}

#[test]
fn every_rank_has_the_same_sum_to_the_bit() {
    for seats in [threads(3), wires(3)] {
        let sums = each(&seats, |seat| {
            let mut all = Vec::new();
            // Longer than a socket's buffer, so that ranks must read while others write.
            for round in 0..5 {
                let mut x: Vec<f32> = (0..300_000)
                    .map(|i| 1.0 / (1 + (i * 7 + round * 3 + seat.rank() * 11) % 97) as f32)
                    .collect();
                seat.sum(&mut x).expect("a sum");
                all.extend(x);
            }
            all
        });
        let number =
            |round: usize, i: usize, rank: usize| 1.0 / (1 + (i * 7 + round * 3 + rank * 11) % 97) as f32;
        for (at, found) in sums[0].iter().enumerate() {
            let (round, i) = (at / 300_000, at % 300_000);
            assert_eq!(*found, (number(round, i, 0) + number(round, i, 1)) + number(round, i, 2));
        }
        assert!(sums[1] == sums[0] && sums[2] == sums[0]);
    }
}

#[test]
fn a_rank_that_fails_stops_the_others_and_says_why() {
    for failing in 0..3 {
        for seats in [threads(3), wires(3)] {
            let began = Instant::now();
            let messages = each(&seats, |seat| {
                let mut x = [1.0];
                seat.sum(&mut x).expect("the first sum");
                if seat.rank() == failing {
                    seat.fail("the disk is full");
                    return String::new();
                }
                let error = seat.sum(&mut x).expect_err("the second sum").to_string();
                seat.fail(&error);
                error
            });
            assert!(began.elapsed() < Duration::from_secs(5));
            for (rank, message) in messages.iter().enumerate().filter(|(rank, _)| *rank != failing) {
                assert!(message.contains("the disk is full"), "{failing} failed, {rank} heard {message:?}");
                assert!(message.contains(&format!("rank {failing}")), "{message}");
            }
        }
    }
}

#[test]
fn a_rank_that_is_lost_is_seen_without_a_sum() {
    for mut seats in [threads(3), wires(3)] {
        each(&seats, |seat| seat.sum(&mut [1.0]).expect("a sum"));
        assert!(seats.iter().all(|seat| !seat.lost()), "all are there");
        // Its last words are still unread by the others.
        let gone = seats.pop().expect("a rank");
        gone.fail("the disk is full");
        drop(gone);
        let began = Instant::now();
        while !seats[0].lost() {
            assert!(began.elapsed() < Duration::from_secs(5), "rank 0 sees nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        let said = each(&seats, |seat| {
            let why = seat.sum(&mut [1.0]).expect_err("a rank is missing").to_string();
            seat.fail(&why);
            why
        });
        assert!(said.iter().all(|why| why.contains("the disk is full")), "{said:?}");
    }
}

#[test]
fn a_stranger_is_passed_over_and_a_second_of_one_rank_refused() {
    let address = ("127.0.0.1".to_string(), free_port());
    let join = |rank| {
        let launch = Launch { rank, ranks: 3, local: rank, address: address.clone(), job: 0, by: "a test" };
        std::thread::spawn(move || Wire::join(&launch, &Progress::silent()).map(|wire| wire.sum(&mut [0.0])))
    };
    let first = join(0);
    // A caller that speaks another language, once rank 0 listens.
    let mut stranger = loop {
        match std::net::TcpStream::connect((address.0.as_str(), address.1)) {
            Ok(stream) => break stream,
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    };
    std::io::Write::write_all(&mut stranger, &[b'?'; 64]).expect("written");
    let others = [join(1), join(1)];
    let message = first.join().expect("a thread").expect_err("refused").to_string();
    assert!(message.contains("two processes with rank 1"), "{message}");
    for other in others {
        let heard = other.join().expect("a thread");
        assert!(heard.is_err() || heard.is_ok_and(|sum| sum.is_err()), "it went on alone");
    }
}

#[test]
fn ranks_agree_on_what_they_are_about_to_do_or_do_not_begin() {
    for seats in [threads(3), wires(3)] {
        let found = each(&seats, |seat| {
            let seat = seats[seat.rank()].clone();
            let ranks = Ranks::join(seat, None, &Progress::silent()).expect("they meet");
            let same = ranks.agree(&[("data", 0xfedc_ba98_7654_3210), ("config", 0)]).is_ok();
            let other = ranks.agree(&[("data", 5), ("config", if ranks.rank() == 2 { 1 << 63 } else { 0 })]);
            same && other.expect_err("they differ").to_string().contains("ranks differ")
        });
        assert_eq!(found, [true; 3]);
    }
}

// ---- processes ----

/// `scale-engine train` as a launcher starts it.
fn process(rank: usize, port: u16, out: &Path, set: &[String]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.args(["train", "--device", "cpu", "--preset", "tiny", "--data"]).arg(&small().data);
    command.arg("--split").arg(&small().split).arg("--out").arg(out);
    command.args(set.iter().flat_map(|s| ["--set".to_string(), s.clone()]));
    command.env("RANK", rank.to_string()).env("WORLD_SIZE", "2").env("LOCAL_RANK", rank.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", (port - 1).to_string());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

fn pair(out: &Path, set: &[String]) -> [Child; 2] {
    let port = free_port();
    [0, 1].map(|rank| process(rank, port, out, set))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn processes_train_as_threads_do() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let children = pair(&place("processes"), &words(STEPS));
    let outputs = children.map(|child| child.wait_with_output().expect("an end"));
    outputs.iter().for_each(|output| assert!(output.status.success(), "{}", said(output)));
    assert!(said(&outputs[1]).contains("rank 1 of 2 (started by torchrun)"), "{}", said(&outputs[1]));
    assert!(!outputs[0].stdout.is_empty() && outputs[1].stdout.is_empty(), "rank 0 speaks");
    run(&place("threads"), 2, STEPS).expect("a run");
    let bytes = |name: &str| std::fs::read(last(&place(name))).expect("a checkpoint");
    assert!(bytes("processes") == bytes("threads"), "other bits");
}

#[test]
fn a_process_that_is_killed_stops_the_other_within_seconds() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (killed, shard) in [(0, false), (0, true), (1, false), (1, true)] {
        let out: PathBuf = dir.path().join(format!("{killed} {shard}"));
        let mut set = words(1_000_000);
        set.push(format!("optim.shard={shard}"));
        let [first, second] = pair(&out, &set);
        let (mut victim, survivor) = if killed == 0 { (first, second) } else { (second, first) };
        let began = Instant::now();
        while !last(&out).exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint");
            std::thread::sleep(Duration::from_millis(5));
        }
        victim.kill().expect("killed");
        victim.wait().expect("gone");
        let began = Instant::now();
        let output = survivor.wait_with_output().expect("an end");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(&format!("rank {killed} was lost")), "{}", said(&output));
    }
}

#[test]
fn a_rank_that_waits_for_others_can_be_stopped() {
    for rank in [0, 1] {
        let address = ("127.0.0.1".to_string(), free_port());
        let launch = Launch { rank, ranks: 2, local: rank, address, job: 0, by: "a test" };
        let said = Wire::join(&launch, &stopped()).expect_err("nobody comes").to_string();
        assert!(said.contains("asked to stop"), "{said}");
    }
}

#[test]
fn a_process_that_is_asked_to_stop_stops_all_with_a_checkpoint_and_none_takes_the_run_for_finished() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let children = pair(&out, &words(1_000_000));
    let began = Instant::now();
    while !last(&out).exists() {
        assert!(began.elapsed() < Duration::from_secs(60), "no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    let asked = Command::new("kill").arg("-TERM").arg(children[1].id().to_string()).status();
    assert!(asked.expect("there on Unix").success());
    for child in children {
        let output = child.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("continue with --resume"), "{}", said(&output));
    }
}

#[test]
fn processes_that_cannot_begin_tell_each_other_why() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // Another learning rate on rank 1: another config.
    let port = free_port();
    let mut other = words(STEPS);
    other.push("optim.lr=0.5".into());
    let children = [
        process(0, port, &dir.path().join("a"), &words(STEPS)),
        process(1, port, &dir.path().join("a"), &other),
    ];
    for child in children {
        let output = child.wait_with_output().expect("an end");
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("ranks differ in their config's optim.lr"), "{}", said(&output));
    }
    // Only rank 0 finds that a folder already holds a run.
    let began = Instant::now();
    let outputs = pair(&small().run, &words(STEPS)).map(|child| child.wait_with_output().expect("an end"));
    outputs
        .iter()
        .for_each(|output| assert!(said(output).contains("already contains a run"), "{}", said(output)));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}
