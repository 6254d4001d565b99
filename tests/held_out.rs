//! What a part of a split holds out is predicted alike by a run and by baselines, also where a cell type has no control cells.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use scale_engine::checkpoint::Checkpoint;
use scale_engine::data::h5ad::{self, Column, H5ad, Labels, X};
use scale_engine::data::preprocess::{self, Genes};
use scale_engine::data::shard::Data;
use scale_engine::data::simulate::{CONTROL, Settings as World, simulate};
use scale_engine::data::split::{Part, Split};
use scale_engine::predict::{self, ControlFile, Source};
use scale_engine::progress::Progress;
use serde_json::{Value, json};

use crate::init_from::untrained_fourth;
use crate::refused::told;
use crate::train::{WORLD, last, names, program, small, trained_by};

/// The small world without the control cells of its second cell type, and a split that puts all into training.
fn without_controls(dir: &Path) -> (PathBuf, PathBuf) {
    let (cells, data, split) = (dir.join("cells.h5ad"), dir.join("data"), dir.join("split.toml"));
    let file = H5ad::open(&small().cells).expect("readable");
    let (types, perturbations) = names();
    let labels = |name: &str| file.obs().labels(&small().cells, name).expect("a column");
    let (of_type, perturbation) = (labels("cell_type"), labels("perturbation"));
    let relabelled: Vec<&str> = (0..perturbation.len())
        .map(|i| match (of_type.get(i).expect("a label"), perturbation.get(i).expect("a label")) {
            (cell_type, CONTROL) if cell_type == types[1] => perturbations[2].as_str(),
            (_, name) => name,
        })
        .collect();
    let mut obs = file.obs().clone();
    for (name, column) in &mut obs.columns {
        if name == "perturbation" {
            *column = Column::Categorical(Labels::of(&relabelled));
        }
    }
    let x = file.rows(0..file.shape().0).expect("X");
    h5ad::write(&cells, &obs, file.var(), X::Sparse(&x), &[]).expect("written");
    let settings =
        preprocess::Settings { genes: Genes::Top(60), ..preprocess::Settings::of_simulated(&cells, &data) };
    preprocess::preprocess(&settings, &Progress::silent()).expect("shards");
    std::fs::write(&split, "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n").expect("written");
    (data, split)
}

#[test]
fn baselines_leave_out_the_groups_that_a_run_leaves_out() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (data, split) = without_controls(dir.path());
    let place = |name: &str| dir.path().join(name);
    let must = |words: &[&str], files: &[(&str, &Path)]| {
        let mut command = program();
        command.args(words);
        files.iter().for_each(|(option, path)| {
            command.arg(option).arg(path);
        });
        let (code, said) = told(&mut command);
        assert!(code == Some(0), "{words:?}: {code:?} {said}");
        said
    };
    let note = "not predicted: no control cells of their cell type, such as ";
    let run = small().run.to_str().expect("a path").to_string();
    let (real, pred) = (place("real.h5ad"), place("pred.h5ad"));
    let said = must(
        &["predict", &run, "--with-controls", "--subset", "train"],
        &[("--data", &data), ("--split", &split), ("--out", &pred), ("--real-out", &real)],
    );
    assert!(said.contains(note) && said.contains(&names().0[1]), "{said}");
    let (mean, own) = (place("mean.h5ad"), place("measured.h5ad"));
    let said = must(
        &["baseline", "mean", "--subset", "train"],
        &[("--data", &data), ("--split", &split), ("--out", &mean), ("--real-out", &own)],
    );
    assert!(said.contains(note), "{said}");
    let cells = |path: &Path| H5ad::open(path).expect("readable").obs().index.clone();
    assert_eq!(cells(&own), cells(&real));
    must(
        &["evaluate", "--pert-col", "perturbation", "--control-pert", CONTROL, "--celltype-col", "cell_type"],
        &[("--pred", &pred), ("--real", &real), ("--out", &place("all"))],
    );
    let scored = |name: &String| place("all").join(format!("{name}_results.csv")).exists();
    let (types, _) = names();
    assert!(scored(&types[0]) && !scored(&types[1]), "the first cell type alone has control cells");
    let said = must(
        &["evaluate", "--pert-col", "perturbation", "--control-pert", CONTROL, "--subset", "train"],
        &[
            ("--pred", &pred),
            ("--real", &real),
            ("--out", &place("scores")),
            ("--baselines", &data),
            ("--split", &split),
        ],
    );
    assert!(said.matches(note).count() == 1 && !said.contains("--subset has"), "{said}");
    let table = std::fs::read_to_string(place("scores/table.csv")).expect("a table");
    assert!(table.contains("mean-per-cell-type") && table.contains("linear"), "{table}");
}

#[test]
fn measured_cells_that_cannot_be_written_are_known_of_before_anything_is_predicted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (small, out) = (small(), dir.path().join("pred.h5ad"));
    let (data, split, real_out) = (small.data.clone(), small.split.clone(), Some("/proc/real.h5ad".into()));
    let source = Source::Data { data, split, part: Part::Test, real_out, real_controls: None };
    let told = predict::predict(&predict::Settings::new(&small.run, source, &out), &Progress::silent());
    let told = told.expect_err("no such file can be made").to_string();
    assert!(told.contains("/proc") && !out.exists(), "{told}");
}

#[test]
fn a_file_tells_which_split_chose_its_cells_and_which_one_the_run_was_trained_with() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (small, split) = (small(), place("other.toml"));
    let text = std::fs::read_to_string(&small.split).expect("readable");
    std::fs::write(&split, format!("{text}# a word\n")).expect("written");
    let header = Checkpoint::describe(&last(&small.run)).expect("readable").header;
    let hash = Split::load(&split, &Data::open(&small.data).expect("data")).expect("a split").hash;
    let predict = |source: Source, out: &Path| {
        predict::predict(&predict::Settings::new(&small.run, source, out), &Progress::silent())
            .expect("a prediction");
        let file = H5ad::open(out).expect("readable");
        [file.told("split"), file.told("trained_split")]
    };
    let (data, real) = (small.data.clone(), place("real.h5ad"));
    let source =
        Source::Data { data, split, part: Part::Test, real_out: Some(real.clone()), real_controls: None };
    assert_eq!(predict(source, &place("pred.h5ad")), [Some(hash.clone()), Some(header.split.clone())]);
    assert_eq!(H5ad::open(&real).expect("readable").told("split"), Some(hash));
    let line = format!("{},{},{},3\n", names().1[0], names().0[0], header.data.batches[0]);
    let request = place("request.csv");
    std::fs::write(&request, format!("perturbation,cell_type,batch,cells\n{line}")).expect("written");
    let source = Source::File { controls: ControlFile::new(&small.cells), request };
    assert_eq!(predict(source, &place("asked.h5ad")), [None, Some(header.split)]);
}

/// Cells of the small world that are not in its file, in shards of `genes`.
fn unseen(dir: &Path, name: &str, genes: Genes) -> PathBuf {
    let (cells, data) = (dir.join(format!("{name}.h5ad")), dir.join(name));
    simulate(&World { skip: WORLD.cells, ..WORLD }).and_then(|world| world.write(&cells)).expect("written");
    let settings = preprocess::Settings { genes, ..preprocess::Settings::of_simulated(&cells, &data) };
    preprocess::preprocess(&settings, &Progress::silent()).expect("shards");
    data
}

#[test]
fn what_was_measured_may_have_control_cells_that_training_has_not_seen() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (unseen_data, fewer) = (
        unseen(dir.path(), "unseen", Genes::Listed(small().data.clone())),
        unseen(dir.path(), "fewer", Genes::Top(20)),
    );
    let predict = |controls: Option<&Path>, name: &str| {
        let mut command = program();
        command.arg("predict").arg(&small().run).args(["--with-controls", "--subset", "val"]);
        command.arg("--data").arg(&small().data).arg("--split").arg(&small().split);
        command.arg("--out").arg(place(name)).arg("--real-out").arg(place(&format!("real-{name}")));
        told(command.args(controls.map(|_| "--real-controls")).args(controls))
    };
    let (code, said) = predict(Some(&fewer), "refused.h5ad");
    assert!(code == Some(1) && said.contains("preprocess --genes"), "{code:?} {said}");
    assert!(!place("refused.h5ad").exists() && !place("real-refused.h5ad").exists());
    for (controls, name) in [(None, "own.h5ad"), (Some(unseen_data.as_path()), "others.h5ad")] {
        let (code, said) = predict(controls, name);
        assert!(code == Some(0), "{code:?} {said}");
    }
    // Names of the perturbed cells, and of the control cells.
    let cells = |name: &str| -> [Vec<String>; 2] {
        let file = H5ad::open(&place(name)).expect("readable");
        let labels = file.obs().labels(&place(name), "perturbation").expect("a column");
        [false, true].map(|control| {
            let wanted = |i: &usize| (labels.get(*i) == Some(CONTROL)) == control;
            (0..labels.len()).filter(wanted).map(|i| file.obs().index[i].clone()).collect()
        })
    };
    let [own, others] = ["real-own.h5ad", "real-others.h5ad"].map(cells);
    assert_eq!(own[0], others[0]);
    let seen = H5ad::open(&small().cells).expect("readable").obs().index.clone();
    assert!(own[1].iter().all(|name| seen.contains(name)));
    assert!(!others[1].is_empty() && others[1].iter().all(|name| !seen.contains(name)), "{:?}", others[1]);
    // The prediction keeps the control cells that it was made from.
    assert_eq!(cells("own.h5ad"), cells("others.h5ad"));
}

#[test]
fn a_part_of_which_nothing_can_be_predicted_is_refused_by_both() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (data, split) = without_controls(dir.path());
    let out = dir.path().join("out.h5ad");
    let text = format!("[datasets]\ncells = \"data\"\n[zeroshot]\n\"cells.{}\" = \"train\"\n", names().0[1]);
    std::fs::write(&split, text).expect("written");
    let run = small().run.to_str().expect("a path").to_string();
    for words in [&["predict", run.as_str()][..], &["baseline", "mean"]] {
        let mut command = program();
        command.args(words).args(["--subset", "train", "--data"]).arg(&data).arg("--split").arg(&split);
        let (code, said) = told(command.arg("--out").arg(&out));
        assert!(code == Some(2) && said.contains("--subset: no perturbed group"), "{code:?} {said}");
        assert!(!out.exists());
    }
}

#[test]
fn a_run_and_a_baseline_report_the_same_fields_of_what_they_wrote() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = small().run.to_str().expect("a path").to_string();
    let report = |words: &[&str], name: &str| {
        let (out, real) =
            (dir.path().join(format!("{name}.h5ad")), dir.path().join(format!("{name}-real.h5ad")));
        let mut command = program();
        command.args(words).arg("--data").arg(&small().data).arg("--split").arg(&small().split);
        command.args(["--subset", "val", "--json", "--out"]).arg(&out).arg("--real-out").arg(&real);
        let done =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("the program starts");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let report: Value = serde_json::from_slice(&done.stdout).expect("one document");
        let cells = |path: &Path| H5ad::open(path).expect("readable").shape().0 as u64;
        let field = |name: &str| report[name].as_u64().expect("a number");
        assert_eq!(field("cells") + field("control_cells"), cells(&out));
        assert_eq!(field("measured_cells"), cells(&real));
        assert_eq!([&report["out"], &report["real_out"]], [&json!(out), &json!(real)]);
        report
    };
    let predicted = report(&["predict", &run, "--with-controls"], "model");
    let baseline = report(&["baseline", "mean"], "mean");
    for field in ["populations", "cells", "control_cells", "measured_cells"] {
        assert_eq!(predicted[field], baseline[field], "{field}");
    }
    assert!(
        [&predicted, &baseline]
            .iter()
            .all(|report| report["notes"].is_array() && report["warnings"].is_array())
    );
}

#[test]
fn only_perturbations_that_are_predicted_are_warned_of_and_a_finished_run_is_not_said_to_be_unfinished() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    untrained_fourth(&place("split.toml"));
    let more = ["train.steps=2"];
    trained_by(small(), &place("split.toml"), &place("run"), &more, &Progress::silent()).expect("a run");
    let report = |part: Part| {
        let (data, split) = (small().data.clone(), place("split.toml"));
        let source = Source::Data { data, split, part, real_out: None, real_controls: None };
        let settings = predict::Settings::new(&place("run"), source, &place("out.h5ad"));
        predict::predict(&settings, &Progress::silent()).expect("a prediction")
    };
    assert_eq!(report(Part::Train).warnings, [""; 0]);
    let of_test = report(Part::Test);
    assert_eq!(of_test.warnings.len(), 1);
    assert!(
        of_test.notes.iter().all(|note| !note.contains("the checkpoint is from step")),
        "{:?}",
        of_test.notes
    );
}
