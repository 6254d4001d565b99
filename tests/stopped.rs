//! Long work that is stopped: it says so, and what it leaves is whole or nothing.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use scale_engine::data::preprocess::{Parts, Settings, preprocess, preprocess_parts, rank_genes};
use scale_engine::data::shard::Data;
use scale_engine::data::split::Part;
use scale_engine::error::Error;
use scale_engine::predict::{self, Source, predict};
use scale_engine::progress::{Event, Progress};

use crate::parts::two_files;
use crate::preprocess::contents;
use crate::train::{bytes, last, names, program, set, small};

/// Asks the work to stop before it begins.
pub fn stopped() -> Progress {
    let progress = Progress::silent();
    progress.stop();
    progress
}

/// Stops the work once so many units are done.
fn stops_after(units: u64) -> Progress {
    Progress::new(move |event, progress| match event {
        Event::Done(done) if done >= units => progress.stop(),
        _ => {}
    })
}

fn listed(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn preprocess_that_is_stopped_makes_no_directory_and_the_same_again_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let whole = Settings { out: dir.path().join("whole"), ..settings.clone() };
    let parts = Parts { cells: 100, ..Parts::default() };
    preprocess_parts(&whole, &parts, &Progress::silent()).expect("made");
    // In the second of four passes over 1150 cells, and in the last.
    for units in [1500, 4500] {
        let error = preprocess_parts(&settings, &parts, &stops_after(units)).expect_err("it is stopped");
        assert!(matches!(error, Error::Stopped(_)), "{error:?}");
        let told = error.to_string();
        assert!(told.contains(" of 4600 cells; ") && told.contains(".data.parts"), "{told}");
        assert!(!settings.out.exists(), "{told}");
        let left = dir.path().join(".data.parts");
        for pass in listed(&left).iter().filter(|name| *name != "command") {
            let half = listed(&left.join(pass)).into_iter().find(|name| name.starts_with('.'));
            assert_eq!(half, None, "{pass}");
        }
    }
    preprocess_parts(&settings, &parts, &Progress::silent()).expect("made");
    assert!(contents(&settings.out) == contents(&whole.out));
    assert_eq!(listed(dir.path()), ["a.h5ad", "b.h5ad", "data", "whole"]);
}

#[test]
fn what_is_stopped_before_it_begins_makes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let error = preprocess(&settings, &stopped()).expect_err("it is stopped");
    assert!(matches!(error, Error::Stopped(_)) && !settings.out.exists(), "{error:?}");
    let (table, hvg_batch) = (dir.path().join("var.csv"), None);
    let ranking = Settings { out: table.clone(), hvg_batch, ..settings };
    let error = rank_genes(&ranking, &stopped()).expect_err("it is stopped");
    assert!(matches!(error, Error::Stopped(_)) && !table.exists(), "{error:?}");
}

#[test]
fn predict_that_is_stopped_writes_nothing_and_leaves_what_was_there() {
    let small = small();
    let dir = tempfile::tempdir().expect("a folder");
    let [out, real] = ["pred.h5ad", "real.h5ad"].map(|name| dir.path().join(name));
    let source = Source::Data {
        data: small.data.clone(),
        split: small.split.clone(),
        part: Part::Train,
        real_out: Some(real),
        real_controls: None,
    };
    let settings = predict::Settings::new(&small.run, source, &out);
    for (progress, words) in
        [(stopped(), "stopped before the first cell"), (stops_after(1), "predict was stopped after ")]
    {
        let error = predict(&settings, &progress).expect_err("it is stopped");
        let told = error.to_string();
        assert!(matches!(error, Error::Stopped(_)) && told.contains(words), "{told}");
        assert!(told.ends_with("; nothing is written"), "{told}");
        assert!(listed(dir.path()).is_empty(), "{:?}", listed(dir.path()));
    }
    predict(&settings, &Progress::silent()).expect("a prediction");
    let before = fs::read(&out).expect("a file");
    predict(&settings, &stops_after(1)).expect_err("it is stopped");
    assert!(fs::read(&out).expect("a file") == before);
    assert_eq!(listed(dir.path()), ["pred.h5ad", "real.h5ad"]);
}

/// The program under `trap`, at work on more than a minute of cells; `out` is begun, not there.
fn begun(dir: &Path, trap: &str) -> Child {
    let small = small();
    let [request, out] = ["request.csv", "pred.h5ad"].map(|name| dir.join(name));
    let (types, perturbations) = names();
    let batch = Data::open(&small.data).expect("data").manifest().batches[0].clone();
    let line = format!("{},{},{batch},5000000", perturbations[2], types[0]);
    fs::write(&request, format!("perturbation,cell_type,batch,cells\n{line}\n")).expect("written");
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{trap} exec \"$@\"")).arg("sh").arg(program().get_program());
    command.arg("predict").arg(&small.run).arg("--controls").arg(&small.cells);
    command.arg("--request").arg(&request).arg("--out").arg(&out);
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let began = Instant::now();
    while listed(dir).len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "no file is begun");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// `-INT` is what a terminal sends on Ctrl-C, `-HUP` what it sends when it is closed.
fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").arg(name).arg(child.id().to_string()).status().expect("kill runs");
    assert!(sent.success());
}

#[test]
fn ctrl_c_ends_a_prediction_with_code_130_and_nothing_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let child = begun(dir.path(), "");
    signal(&child, "-INT");
    let ended = child.wait_with_output().expect("it ends");
    let told = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(ended.status.code(), Some(130), "{told}");
    assert!(told.contains("stopping at the next cell") && told.contains("; nothing is written"), "{told}");
    assert_eq!(listed(dir.path()), ["request.csv"]);
}

#[test]
fn a_hang_up_that_nohup_ignores_does_not_stop_the_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut child = begun(dir.path(), "trap '' HUP;");
    signal(&child, "-HUP");
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().expect("it can be asked").is_none(), "the hang-up ended it");
    signal(&child, "-INT");
    let ended = child.wait_with_output().expect("it ends");
    let told = String::from_utf8(ended.stderr).expect("text");
    assert_eq!(told.matches("stopping").count(), 1, "{told}");
    assert_eq!(ended.status.code(), Some(130), "{told}");
}

#[test]
fn training_outlives_those_who_listen_to_it() {
    let small = small();
    let dir = tempfile::tempdir().expect("a folder");
    let run = dir.path().join("run");
    let mut command = program();
    command.args(["train", "--preset", "tiny", "--data"]).arg(&small.data).arg("--split").arg(&small.split);
    command.arg("--out").arg(&run).args(set().iter().flat_map(|s| ["--set".to_string(), s.clone()]));
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    drop((child.stdout.take(), child.stderr.take()));
    // It could not tell where the run is.
    assert_eq!(child.wait().expect("an end").code(), Some(141));
    assert!(bytes(&last(&run)) == bytes(&last(&small.run)));
}
