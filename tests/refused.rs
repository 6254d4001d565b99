//! What cannot be done, or would be passed over in silence, is reported.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::train::{program, small};

/// Runs the program; returns its exit code and what it said on stderr.
pub fn told(command: &mut Command) -> (Option<i32>, String) {
    let done = command.stderr(Stdio::piped()).output().expect("the program starts");
    (done.status.code(), String::from_utf8(done.stderr).expect("text"))
}

/// A command over the small world's data and split.
fn over_data(words: &[&str]) -> Command {
    let mut command = program();
    command.args(words).arg("--data").arg(&small().data).arg("--split").arg(&small().split);
    command
}

/// `preprocess` of files of the small world.
fn preprocess(inputs: &[&PathBuf], out: &Path) -> Command {
    let mut command = program();
    command.arg("preprocess").args(inputs).args([
        "--pert-col",
        "perturbation",
        "--control-pert",
        "non-targeting",
    ]);
    command.args(["--celltype-col", "cell_type", "--out"]).arg(out);
    command
}

#[test]
fn an_option_of_the_other_way_to_predict_is_not_passed_over() {
    for (words, option) in [(["--size-col", "ncounts"], "--size-col"), (["--request", "r.csv"], "--request")]
    {
        let mut predict = over_data(&["predict"]);
        let (code, said) = told(predict.arg(&small().run).args(["--out", "out.h5ad"]).args(words));
        assert!(code == Some(2) && said.contains(option), "{code:?} {said}");
    }
}

#[test]
fn what_memory_cannot_hold_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let run = dir.path().join("run");
    let mut train = over_data(&["train", "--set", "encoder.width=8000000", "--set", "encoder.heads=8"]);
    let (code, said) = told(train.arg("--out").arg(&run));
    assert!(code == Some(2) && said.contains("this machine has") && !run.exists(), "{code:?} {said}");
    let mut train = over_data(&["train", "--set", "data.cells=100000000"]);
    let (code, said) = told(train.arg("--out").arg(&run));
    assert!(code == Some(2) && said.contains("data.cells") && !run.exists(), "{code:?} {said}");
    let (code, said) = told(program().args(["profile", "--dry", "--sets", "100000000"]));
    assert!(code == Some(2) && said.contains("--sets"), "{code:?} {said}");
    // Half a million pairs, whose cells are never drawn.
    let (code, said) = told(program().args(["profile", "--dry", "--sets", "500", "--cells", "1024"]));
    assert!(code == Some(0), "{code:?} {said}");
    // What a file asks for is no fault of an option, whatever its path may look like.
    let request = dir.path().join("cells or steps");
    std::fs::write(&request, "perturbation,cell_type,batch,cells\nX,A,1,100000000000\n").expect("written");
    let mut predict = program();
    predict
        .arg("predict")
        .arg(&small().run)
        .arg("--controls")
        .arg(&small().cells)
        .arg("--request")
        .arg(&request);
    let (code, said) = told(predict.arg("--out").arg(dir.path().join("out.h5ad")));
    assert!(
        code == Some(1)
            && said.contains("/cells or steps: names and labels of the cells it asks for need 20000 GB"),
        "{code:?} {said}"
    );
}

#[test]
fn options_that_would_be_passed_over_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (run, config) = (dir.path().join("run"), small().run.join("config.toml"));
    let mut train = over_data(&["train", "--preset", "s40"]);
    let (code, said) = told(train.arg("--config").arg(&config).arg("--out").arg(&run));
    assert!(code == Some(2) && said.contains("give only one of them") && !run.exists(), "{code:?} {said}");
    let both = ["train", "--steps", "2", "--set", "train.steps=7"];
    let (code, said) = told(over_data(&both).arg("--out").arg(&run));
    assert!(code == Some(2) && said.contains("cannot be combined with --set train.steps"), "{code:?} {said}");
    let wrong = dir.path().join("wrong.toml");
    std::fs::write(&wrong, "[optim]\nlr = -1.0\n").expect("written");
    let (code, said) = told(over_data(&["train"]).arg("--config").arg(&wrong).arg("--out").arg(&run));
    assert!(code == Some(2) && said.contains("wrong.toml: optim.lr"), "{code:?} {said}");
    let mut predict = program();
    predict.arg("predict").arg(&small().run).args([
        "--subset",
        "val",
        "--controls",
        "c.h5ad",
        "--request",
        "r.csv",
    ]);
    let (code, said) = told(predict.args(["--out", "out.h5ad"]));
    assert!(code == Some(2) && said.contains("--subset"), "{code:?} {said}");
    let mut predict = program();
    predict.arg("predict").arg(&small().run).args(["--split", "s.toml", "--controls", "c.h5ad"]);
    let (code, said) = told(predict.args(["--request", "r.csv", "--out", "out.h5ad"]));
    assert!(code == Some(2) && said.contains("--split"), "{code:?} {said}");
    for (option, value) in [("--flavor", "cell_ranger"), ("--hvg-batch-key", "batch")] {
        let mut listed = preprocess(&[&small().cells], &run);
        let (code, said) = told(listed.arg("--genes").arg(&small().data).args([option, value]));
        assert!(code == Some(2) && said.contains(option), "{code:?} {said}");
    }
    for (words, option) in [
        (["bench", "ops", "--turns", "0"], "--turns"),
        (["bench", "step", "--steps", "0"], "--steps"),
        (["profile", "--steps", "0", "--dry"], "--steps"),
    ] {
        let (code, said) = told(program().args(words));
        let expected = format!("invalid value '0' for '{option} ");
        assert!(code == Some(2) && said.contains(&expected), "{code:?} {said}");
    }
}

#[test]
fn a_loss_in_another_space_that_is_the_same_loss_is_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (conversion, is_told) in [("displacement", true), ("jit", false)] {
        let conversion = format!("flow.conversion={conversion}");
        let words = ["train", "--steps", "1", "--set", "flow.loss=v", "--set", &conversion];
        let (code, said) = told(over_data(&words).arg("--out").arg(dir.path().join(&conversion)));
        assert!(code == Some(0) && said.contains("flow.loss changes nothing") == is_told, "{code:?} {said}");
    }
}

#[test]
fn a_part_without_perturbed_cells_has_no_baseline() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (split, out) = (dir.path().join("split.toml"), dir.path().join("out.h5ad"));
    std::fs::write(&split, "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n").expect("written");
    let mut command = program();
    command.args(["baseline", "mean", "--data"]).arg(&small().data).arg("--split").arg(&split);
    let (code, said) = told(command.arg("--out").arg(&out));
    assert!(code == Some(2) && said.contains("no perturbed cells") && !out.exists(), "{code:?} {said}");
    let nothing = format!("{}\n[zeroshot]\n{}", std::fs::read_to_string(&split).expect("text"), {
        let types = crate::train::names().0;
        types.iter().map(|name| format!("\"cells.{name}\" = \"test\"\n")).collect::<String>()
    });
    std::fs::write(&split, nothing).expect("written");
    let mut train = program();
    train.args(["train", "--steps", "1", "--data"]).arg(&small().data).arg("--split").arg(&split);
    let (code, said) = told(train.arg("--out").arg(dir.path().join("run")));
    assert!(
        code == Some(1) && said.contains("error: ") && said.contains("nothing to learn from"),
        "{code:?} {said}"
    );
}

#[test]
fn a_data_directory_is_made_by_one_process_at_a_time() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let parts = dir.path().join(".data.parts");
    std::fs::create_dir(&parts).expect("made");
    let other = File::open(&parts).expect("readable");
    other.lock().expect("locked");
    let preprocess = || told(&mut preprocess(&[&small().cells], &dir.path().join("data")));
    let (code, said) = preprocess();
    assert!(code == Some(1) && said.contains("another process"), "{code:?} {said}");
    drop(other);
    let (code, said) = preprocess();
    assert!(code == Some(0) && !parts.exists(), "{code:?} {said}");
}

fn evaluate(dir: &Path, words: &[&str]) -> String {
    let mut command = program();
    command.arg("evaluate").arg("--real").arg(dir.join("real.h5ad")).arg("--pred").arg(dir.join("pred.h5ad"));
    command
        .args(["--pert-col", "perturbation", "--control-pert", "non-targeting", "--out"])
        .arg(dir.join("scores"));
    let (code, said) = told(command.args(words));
    assert_eq!(code, Some(0), "{said}");
    said
}

#[test]
fn baselines_are_made_as_the_prediction_was_and_older_results_are_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let mut predict = program();
    predict
        .arg("predict")
        .arg(&small().run)
        .arg("--data")
        .arg(&small().data)
        .arg("--split")
        .arg(&small().split);
    predict.args(["--with-controls", "--observe", "poisson", "--out"]).arg(place("pred.h5ad"));
    let (code, said) = told(predict.arg("--real-out").arg(place("real.h5ad")));
    assert_eq!(code, Some(0), "{said}");
    let (data, split) = (small().data.display().to_string(), small().split.display().to_string());
    let beside = ["--baselines", &data, "--split", &split];
    let said = evaluate(dir.path(), &beside);
    assert!(said.contains("counts are drawn around the baselines' means"), "{said}");
    let said = evaluate(dir.path(), &[&beside[..], &["--observe", "none"]].concat());
    assert!(!said.contains("counts are drawn") && !said.contains("earlier run"), "{said}");
    let mut swapped = program();
    swapped.arg("evaluate").arg("--real").arg(place("pred.h5ad")).arg("--pred").arg(place("real.h5ad"));
    swapped.args(["--pert-col", "perturbation", "--control-pert", "non-targeting", "--profile", "minimal"]);
    let (code, said) = told(swapped.arg("--out").arg(place("swapped")));
    assert!(code == Some(0) && said.contains("are --real and --pred swapped?"), "{code:?} {said}");
    let said = evaluate(dir.path(), &[]);
    assert!(said.contains("contains results of an earlier run: \"table.csv\""), "{said}");
}

#[test]
fn a_full_disk_behind_stdout_is_an_error_and_no_panic() {
    let full = File::options().write(true).open("/dev/full").expect("there on Linux");
    let (code, said) = told(program().arg("inspect").arg(&small().run).stdout(full));
    assert!(
        code == Some(1) && said.contains("error: failed printing") && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn files_of_what_is_read_and_data_directories_are_not_written_over() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (code, said) =
        told(program().arg("export").arg(&small().data).arg("--out").arg(small().data.join("manifest.json")));
    assert!(code == Some(1) && said.contains("is a file in"), "{code:?} {said}");
    let mut split = program();
    split.args(["split", "--preset", "tahoe", "--data"]).arg(&small().data);
    let (code, said) = told(split.arg("--out").arg(small().data.join("manifest.json")));
    assert!(code == Some(1) && said.contains("is a file in"), "{code:?} {said}");
    // A file of another program may be the only copy; one that this program wrote is replaced.
    let (theirs, ours) = (dir.path().join("theirs.h5ad"), dir.path().join("ours.h5ad"));
    std::fs::write(&theirs, "measured").expect("written");
    for (out, expected) in [(&theirs, 1), (&ours, 0), (&ours, 0)] {
        let (code, said) = told(program().arg("export").arg(&small().data).arg("--out").arg(out));
        assert!(
            code == Some(expected) && (expected == 0 || said.contains("is not replaced")),
            "{code:?} {said}"
        );
    }
    for (words, out) in
        [("split --preset tahoe --data", "--out"), ("genes", "--out"), ("evaluate", "--report")]
    {
        let mut command = program();
        command.args(words.split(' '));
        match words {
            "genes" => command.arg(&small().cells).args(["--n-top-genes", "2"]),
            "evaluate" => command.arg("--real").arg(&small().cells).arg("--pred").arg(&small().cells),
            _ => command.arg(&small().data),
        };
        if words == "evaluate" {
            command.arg("--out").arg(dir.path().join("scores"));
        }
        let (code, said) = told(command.arg(out).arg(&theirs));
        assert!(code == Some(1) && said.contains("is not replaced"), "{words}: {code:?} {said}");
    }
    // A text may replace a text.
    for _ in 0..2 {
        let mut genes = program();
        genes.arg("genes").arg(&small().cells).args(["--n-top-genes", "2", "--out"]);
        let (code, said) = told(genes.arg(dir.path().join("var.csv")));
        assert!(code == Some(0), "{code:?} {said}");
    }
    let (code, said) = told(over_data(&["train", "--steps", "1"]).arg("--out").arg(&small().data));
    assert!(code == Some(1) && said.contains("is a data directory"), "{code:?} {said}");
    let (code, said) = told(&mut preprocess(&[&small().cells; 2], &dir.path().join("data")));
    assert!(code == Some(1) && said.contains("is given twice"), "{code:?} {said}");
    let mut evaluate = program();
    evaluate.arg("evaluate").arg("--real").arg(&small().cells).arg("--pred").arg(&small().cells);
    evaluate.args(["--pert-col", "perturbation", "--control-pert", "non-targeting"]);
    let (code, said) = told(evaluate.arg("--out").arg(&small().data));
    assert!(code == Some(1) && said.contains("is a data directory"), "{code:?} {said}");
    let (code, said) = told(evaluate.args(["--bootstrap", "1"]));
    assert!(code == Some(2) && said.contains("two or more"), "{code:?} {said}");
    // A file where a folder is wanted.
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("written");
    let (code, said) = told(&mut preprocess(&[&small().cells], &file.join("data")));
    assert!(code == Some(1) && said.contains("is a file, but a folder is needed"), "{code:?} {said}");
}
