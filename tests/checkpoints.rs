//! Which checkpoints a run writes, and what its log says of the steps between them.

use scale_engine::checkpoint::Checkpoint;
use scale_engine::optim::learning_rate;
use scale_engine::progress::Progress;
use serde_json::json;

use crate::train::{checkpoints, last, log, small, trained};

#[test]
fn of_equal_validations_the_first_is_the_best() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    // No weight moves.
    let more = ["train.steps=20", "train.val_every=10", "optim.lr=1e-30", "optim.ema=0"];
    let outcome = trained(small(), dir.path(), &more, &Progress::silent()).expect("trained");
    let scores: Vec<f64> = log(dir.path()).iter().filter_map(|line| line["val_pdcorr"].as_f64()).collect();
    assert!(scores.len() == 2 && scores[0] == scores[1], "{scores:?}");
    assert_eq!(outcome.best.map(|best| best.step), Some(10));
}

#[test]
fn a_best_that_is_no_checkpoint_to_go_on_from_is_not_kept_under_its_step() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let more = ["train.steps=20", "train.val_every=10", "train.checkpoint_every=20", "train.keep_all=true"];
    trained(small(), dir.path(), &more, &Progress::silent()).expect("trained");
    assert_eq!(
        checkpoints(dir.path()),
        ["best", "last", "step-20"].map(|name| format!("{name}.safetensors"))
    );
}

#[test]
fn a_line_tells_the_rate_at_which_its_step_was_taken() {
    let config = Checkpoint::describe(&last(&small().run)).expect("a checkpoint").header.config;
    let lines: Vec<_> = log(&small().run).into_iter().filter(|line| !line["lr"].is_null()).collect();
    assert!(lines.len() > 5);
    for line in lines {
        let step = line["step"].as_u64().expect("a step");
        assert_eq!(line["lr"], json!(learning_rate(&config.optim, step - 1, config.train.steps)), "{step}");
    }
}
