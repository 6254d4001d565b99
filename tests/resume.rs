//! What a resumed run may change, and what it then is.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use scale_engine::checkpoint::{Checkpoint, Header};
use scale_engine::config::Config;
use scale_engine::progress::{Event, Progress};
use scale_engine::train::{Begin, Settings, train};

use crate::refused::told;
use crate::stopped::stopped;
use crate::train::{bytes, last, log, program, resumed_to, set, small, trained};

/// Trains the small run and stops it once it has done this many steps.
fn stopped_at(step: u64, run: &Path, more: &[&str]) {
    let words: Vec<String> = set().into_iter().chain(more.iter().map(|word| word.to_string())).collect();
    let begin = Begin::drawn(Config::load(Some("tiny"), None, &words).expect("a good config"));
    let progress = Progress::new(move |event, progress| match event {
        Event::Done(done) if done == step => progress.stop(),
        _ => {}
    });
    let settings = Settings::new(&small().data, &small().split, run, begin);
    assert_eq!(train(&settings, &progress).expect("a run").step, step);
}

fn header(checkpoint: &Path) -> Header {
    Checkpoint::describe(checkpoint).expect("a checkpoint").header
}

#[test]
fn a_new_number_of_steps_is_kept_at_once_and_the_end_that_it_makes_is_validated() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (run, last) = (dir.path(), last(dir.path()));
    stopped_at(12, run, &[]);
    let begin = Begin::Resume { steps: Some(60), shard: None };
    let settings = Settings::new(&small().data, &small().split, run, begin);
    train(&settings, &stopped()).expect("stopped before a step");
    assert_eq!((header(&last).step, header(&last).config.train.steps), (12, 60));
    let outcome = resumed_to(small(), run, Some(12)).expect("done");
    assert!(outcome.finished && outcome.step == 12);
    assert_eq!(outcome.cells_per_second, 0.0, "it was at its end");
    assert_eq!(header(&last).config.train.steps, 12);
    let validated = log(run).iter().filter(|line| !line["val_pdcorr"].is_null()).count();
    assert_eq!((validated, outcome.best.map(|best| best.step)), (1, Some(12)));
    assert!(bytes(&run.join("checkpoints/best.safetensors")) == bytes(&last));
    // A best of the very step that it goes on from is still its best.
    train(&settings, &stopped()).expect("stopped before a step");
    let best = header(&run.join("checkpoints/best.safetensors"));
    assert_eq!((best.step, header(&last).best.map(|best| best.step)), (12, Some(12)));
}

#[test]
fn a_best_of_a_way_that_the_run_does_not_take_is_no_longer_its_best() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| dir.path().join(format!("checkpoints/{name}.safetensors"));
    let validating = ["train.steps=20", "train.val_every=10"];
    stopped_at(10, dir.path(), &validating);
    let tenth = bytes(&file("last"));
    resumed_to(small(), dir.path(), None).expect("trained");
    // As if it was killed after a best of step 20, before `last` was written there.
    let twentieth = bytes(&file("last"));
    for (name, bytes) in [("best", &twentieth), ("last", &tenth)] {
        fs::remove_file(file(name)).expect("removed");
        fs::write(file(name), bytes).expect("written");
    }
    resumed_to(small(), dir.path(), Some(15)).expect("trained");
    assert!(bytes(&file("step-20")) == twentieth);
    let best = header(&file("last")).best.expect("a best");
    assert_eq!((best.step, header(&file("best")).step), (15, 15));
}

#[test]
fn a_first_best_comes_with_a_last_to_resume_from() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let steps = Arc::new(Mutex::new(Vec::new()));
    let seen = {
        let (steps, last) = (steps.clone(), last(dir.path()));
        Progress::new(move |event, _| {
            if let Event::Done(15) = event {
                // It is written while training goes on.
                let began = Instant::now();
                while !last.exists() && began.elapsed() < Duration::from_secs(30) {
                    sleep(Duration::from_millis(10));
                }
                steps.lock().expect("one thread trains").push(header(&last).step);
            }
        })
    };
    let words = ["train.steps=20", "train.val_every=10", "train.checkpoint_every=20"];
    trained(small(), dir.path(), &words, &seen).expect("a run");
    assert_eq!(*steps.lock().expect("no panic"), [10]);
    assert_eq!(header(&last(dir.path())).step, 20);
}

#[test]
fn a_run_that_is_made_longer_says_how_its_rate_changes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    stopped_at(4, dir.path(), &["train.steps=4", "optim.lr=0.002", "optim.warmup=0", "optim.final_lr=0"]);
    let mut resume = program();
    resume.args(["train", "--resume", "--steps", "8", "--data"]).arg(&small().data).arg("--split");
    let (code, said) = told(resume.arg(&small().split).arg("--out").arg(dir.path()));
    // From three quarters of a half wave to half of one twice as long.
    let note = "now ends at step 8: after step 4 the rate goes from 2.9e-4 to 1.0e-3";
    assert!(code == Some(0) && said.contains(note), "{code:?} {said}");
}

/// `train` of the small world, started by a launcher or a scheduler that knows one command.
fn again(run: &Path, words: &[&str]) -> (Option<i32>, String) {
    let mut command = program();
    command
        .args(["train", "--preset", "tiny", "--data"])
        .arg(&small().data)
        .arg("--split")
        .arg(&small().split);
    command.arg("--out").arg(run).args(set().iter().flat_map(|word| ["--set".to_string(), word.clone()]));
    told(command.args(words))
}

#[test]
fn one_command_begins_a_run_and_goes_on_with_it_as_it_is() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let auto = ["--resume", "auto", "--set", "train.steps=12"];
    let (code, said) = again(&run, &auto);
    assert!(code == Some(0) && !said.contains("continues"), "{code:?} {said}");
    let (code, said) = again(&run, &auto);
    assert!(code == Some(0) && said.contains("continues after step 12"), "{code:?} {said}");
    let (code, said) = again(&run, &[&auto[..], &["--set", "optim.lr=0.5"]].concat());
    assert!(
        code == Some(2) && said.contains("optim.lr: 0.5") && said.contains("has 0.002"),
        "{code:?} {said}"
    );
    let mut resume = program();
    resume.args(["train", "--resume", "--data"]).arg(&small().data).arg("--split").arg(&small().split);
    let (code, said) = told(resume.arg("--out").arg(dir.path().join("nothing")));
    assert!(code == Some(1) && said.contains("start again without --resume"), "{code:?} {said}");
}

#[test]
fn who_stops_at_a_line_of_the_log_gets_the_step_after_it() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let progress = Progress::new(|event, progress| match event {
        Event::Logged { step: 4, numbers } if numbers.iter().any(|(name, _)| name == "loss") => {
            progress.stop()
        }
        _ => {}
    });
    let run = trained(small(), dir.path(), &["train.steps=9", "train.log_every=2"], &progress);
    assert_eq!(run.expect("a run").step, 5);
}
