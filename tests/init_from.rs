//! A run that begins with the weights of another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::SafeTensors;
use scale_engine::checkpoint::{Checkpoint, Trained};
use scale_engine::model::condition::Kind;
use scale_engine::progress::Progress;
use scale_engine::run_folder::checkpoint_of;

use crate::other_data::renamed;
use crate::refused::told;
use crate::train::{last, names, program, small, trained_by};

/// `train --init-from` the small world's run.
fn train(data: &Path, out: &Path, words: &[&str]) -> Command {
    let mut command = program();
    command.args(["train", "--data"]).arg(data).arg("--split").arg(&small().split).arg("--out").arg(out);
    command.arg("--init-from").arg(&small().run).args(words);
    command
}

/// One step that moves nothing.
const STILL: [&str; 6] = ["--steps", "1", "--set", "optim.lr=1e-30", "--set", "train.val_every=0"];

fn numbers(path: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(path).expect("readable");
    let file = SafeTensors::deserialize(&bytes).expect("a checkpoint");
    bytemuck::pod_collect_to_vec(file.tensor(name).expect("a tensor").data())
}

/// Rows of a table of conditions.
fn rows(path: &Path, table: &str) -> Vec<Vec<f32>> {
    numbers(path, table).chunks(16).map(<[f32]>::to_vec).collect()
}

#[test]
fn a_run_begins_where_another_ends_but_for_names_that_are_new() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (batch, data, run) = (dir.path().join("batch"), dir.path().join("data"), dir.path().join("run"));
    renamed(&small().data, &batch, "batch-2", "batch-9");
    renamed(&batch, &data, "non-targeting", "no-target");
    let (code, said) = told(&mut train(&data, &run, &STILL));
    assert!(code == Some(0), "{said}");
    let all = names();
    let known = format!(
        "{} of {} cell types, {n} of {n} perturbations",
        all.0.len(),
        all.0.len(),
        n = all.1.len() + 1
    );
    assert!(said.contains(&known) && said.contains("1 of 2 batches"), "{said}");

    let (from, to) = (checkpoint_of(&small().run).expect("a checkpoint"), last(&run));
    let described = Checkpoint::describe(&to).expect("readable");
    let origin = described.header.init_from.expect("where it began");
    assert_eq!((Path::new(&origin.checkpoint), origin.step > 0), (from.as_path(), true));
    // Its config is the other run's, except for what was set.
    let theirs = Checkpoint::describe(&from).expect("readable").header;
    assert_eq!(described.header.config.flow, theirs.config.flow);
    assert_eq!((described.header.config.train.steps, described.header.config.optim.lr), (1, 1e-30));

    // The average is that of two equal numbers, rounded; the weights have moved by less than their last digit.
    let near =
        |a: &[f32], b: &[f32], off: f32| a.iter().zip(b).all(|(a, b)| (a - b).abs() <= off * a.abs() + 1e-25);
    let names = described.tensors.iter().filter_map(|(name, _)| name.strip_prefix("average."));
    for name in names.filter(|name| !Kind::ALL.iter().any(|kind| kind.table() == *name)) {
        let average = format!("average.{name}");
        let theirs = numbers(&from, &average);
        assert!(near(&theirs, &numbers(&to, &average), 1e-6), "{average}");
        assert!(near(&theirs, &numbers(&to, name), 0.0), "{name}");
    }
    for name in ["statistics.mean", "statistics.std"] {
        assert_eq!(numbers(&from, name), numbers(&to, name), "{name}");
    }
    let known = |table: &str| {
        let there = rows(&from, &format!("average.{table}"));
        rows(&to, table)
            .iter()
            .map(|row| there.iter().position(|other| near(row, other, 0.0)))
            .collect::<Vec<_>>()
    };
    assert_eq!(known("conditions.cell_type"), [Some(0), Some(1)]);
    // The control label is the last of the names there, and the last here: it sorts after GENE...
    let order: Vec<_> = (0..all.1.len() + 1).map(Some).collect();
    assert_eq!(known("conditions.perturbation"), order);
    assert_eq!(known("conditions.batch"), [Some(0), None]);
}

/// A split file that holds out the fourth perturbation in every cell type.
pub fn untrained_fourth(path: &Path) {
    let (types, perturbations) = names();
    let held = types.iter().map(|c| format!("[fewshot.\"cells.{c}\"]\ntest = [{:?}]\n", perturbations[3]));
    let text = "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n".to_string();
    fs::write(path, text + &held.collect::<String>()).expect("written");
}

#[test]
fn what_another_run_was_trained_on_is_known() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (types, perturbations) = names();
    untrained_fourth(&place("split.toml"));
    let untrained = |run: &str| Checkpoint::describe(&last(&place(run))).expect("readable").header.untrained;
    let begin = |out: &str, from: &Path| {
        let mut command = program();
        command.args(["train", "--data"]).arg(&small().data).arg("--split").arg(place("split.toml"));
        let (code, said) =
            told(command.arg("--out").arg(place(out)).arg("--init-from").arg(from).args(STILL));
        assert!(code == Some(0), "{said}");
    };
    // The small run has seen the perturbation in one of the cell types.
    begin("tuned", &small().run);
    assert_eq!(untrained("tuned"), [""; 0]);
    let more = ["train.steps=2"];
    trained_by(small(), &place("split.toml"), &place("blind"), &more, &Progress::silent()).expect("a run");
    begin("tuned-blind", &place("blind"));
    assert_eq!(untrained("tuned-blind"), perturbations[3..]);

    let blind = Trained::load(&place("blind")).expect("a run");
    let asked = |name: &String| blind.request(&types[0], name, &blind.header.data.batches[0], 5);
    assert!(asked(&perturbations[2]).is_ok() && !blind.knows_only_name(&perturbations[2]));
    let told = asked(&perturbations[3]).expect_err("a refusal").to_string();
    assert!(told.contains("was not trained on any cell with") && told.contains("no features"), "{told}");
    let told = Checkpoint::check(&place("blind")).expect_err("a folder").to_string();
    assert!(told.contains("is a folder"), "{told}");
}

#[test]
fn a_run_that_began_with_anothers_weights_goes_on_to_the_same_bits() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let words = ["--steps", "8", "--set", "train.checkpoint_every=4", "--set", "train.keep_all=true"];
    let (code, said) = told(&mut train(&small().data, &run, &words));
    assert!(code == Some(0), "{said}");
    let whole = fs::read(last(&run)).expect("readable");
    fs::copy(run.join("checkpoints/step-4.safetensors"), last(&run)).expect("copied");
    let mut resume = program();
    resume.args(["train", "--resume", "--data"]).arg(&small().data).arg("--split").arg(&small().split);
    let (code, said) = told(resume.arg("--out").arg(&run));
    assert!(code == Some(0), "{said}");
    assert!(fs::read(last(&run)).expect("readable") == whole, "other bits");
}

#[test]
fn weights_that_only_one_of_two_models_has_are_named() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let words = [&STILL[..], &["--set", "flow.fusion=mean"]].concat();
    let (code, said) = told(&mut train(&small().data, &run, &words));
    assert!(code == Some(0) && said.contains("drawn at random: fusion.w_v"), "{said}");
    assert!(said.contains("not used: fusion.seed, fusion.w_qkv"), "{said}");
}

#[test]
fn what_cannot_be_inherited_is_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let out = dir.path().join("run");
    let genes = dir.path().join("genes");
    renamed(&small().data, &genes, "\"GENE0007\"", "\"GENE0077\"");
    let cases: [(&PathBuf, &[&str], i32, &str); 5] = [
        (&small().data, &["--preset", "tiny"], 2, "--preset"),
        (&small().data, &["--resume"], 2, "--resume"),
        (&small().data, &["--set", "decoder.width=40"], 2, "decoder."),
        (&small().data, &["--set", "recipe=paper"], 2, "recipe"),
        (&genes, &[], 1, "preprocess --genes"),
    ];
    for (data, words, expected, word) in cases {
        let (code, said) = told(&mut train(data, &out, words));
        assert!(code == Some(expected) && said.contains(word) && !out.exists(), "{words:?} {code:?} {said}");
    }
}
