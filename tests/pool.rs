//! What is called by a worker of rayon's pool, as by whoever trains within a parallel iterator, ends as it does elsewhere.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use scale_engine::config::Config;
use scale_engine::data::preprocess::{self, Genes, preprocess};
use scale_engine::data::split::Part;
use scale_engine::predict::{self, Source, predict};
use scale_engine::progress::Progress;
use scale_engine::train::{self, Begin, Place, train};

use crate::train::{set, small};

/// Tells this test that it is the process whose pool has one thread.
const CHILD: &str = "SCALE_TEST_POOL";

/// Shards, runs of one rank and of two, and a prediction, by the only worker.
fn work() {
    let (made, quiet) = (small(), Progress::silent());
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("data");
    let settings = preprocess::Settings {
        genes: Genes::Top(60),
        ..preprocess::Settings::of_simulated(&made.cells, &data)
    };
    preprocess(&settings, &quiet).expect("shards");
    for ranks in [1, 2] {
        let words = [set(), vec!["train.steps=4".into(), "train.checkpoint_every=1".into()]].concat();
        let begin = Begin::drawn(Config::load(Some("tiny"), None, &words).expect("a good config"));
        let run = dir.path().join(ranks.to_string());
        let settings = train::Settings {
            place: Place::Here(vec![None; ranks]),
            ..train::Settings::new(&data, &made.split, &run, begin)
        };
        assert_eq!(train(&settings, &quiet).expect("a run").step, 4);
        let source = Source::Data {
            data: data.clone(),
            split: made.split.clone(),
            part: Part::Test,
            real_out: Some(dir.path().join("real.h5ad")),
            real_controls: None,
        };
        predict(&predict::Settings::new(&run, source, &dir.path().join("pred.h5ad")), &quiet)
            .expect("a prediction");
    }
}

#[test]
fn the_only_worker_of_the_pool_waits_for_nobody_who_waits_for_it() {
    if std::env::var_os(CHILD).is_some() {
        return rayon::scope(|scope| scope.spawn(|_| work()));
    }
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "pool::the_only_worker_of_the_pool_waits_for_nobody_who_waits_for_it"])
        .envs([(CHILD, "1"), ("RAYON_NUM_THREADS", "1")])
        .stdout(Stdio::null())
        .spawn()
        .expect("a process");
    let begun = Instant::now();
    let ended = loop {
        match child.try_wait().expect("a process") {
            None if begun.elapsed() < Duration::from_secs(120) => {
                std::thread::sleep(Duration::from_millis(50))
            }
            ended => break ended,
        }
    };
    if ended.is_none() {
        child.kill().and_then(|()| child.wait()).expect("ended");
    }
    assert!(ended.expect("it waits for itself").success());
}
