//! `inspect` knows every kind of file that the program reads or writes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::train::small;

fn inspect(path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.arg("inspect").arg(path).arg("--json").output().expect("the program starts")
}

fn inspect_in_words(path: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_scale-engine")).arg("inspect").arg(path).output();
    String::from_utf8(output.expect("the program starts").stdout).expect("text")
}

fn told(path: &Path) -> Value {
    let output = inspect(path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", path.display());
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn each_kind_of_file_and_folder_is_described() {
    let small = small();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let written = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let (data, run) = (&small.data, &small.run);
    let events = std::fs::read_dir(run).expect("a run").map(|e| e.expect("an entry").path());
    let events = events.into_iter().find(|p| p.to_string_lossy().contains("tfevents")).expect("events");
    for (path, kind) in [
        (small.cells.clone(), "h5ad"),
        (data.clone(), "data directory"),
        (data.join("manifest.json"), "data directory"),
        (data.join("controls-0000.shard"), "shard"),
        (data.join("var.csv"), "table"),
        (small.split.clone(), "split file"),
        (run.clone(), "run directory"),
        (run.join("config.toml"), "config"),
        (run.join("metrics.jsonl"), "log of a run"),
        (run.join("checkpoints/last.safetensors"), "checkpoint"),
        (events, "TensorBoard events"),
        (written("wanted.csv", "perturbation,cell_type,batch,cells\na,b,c,3\n"), "table"),
        (written("genes.txt", "CD3E\nACTB\n"), "list"),
        (written("results.json", r#"{"rules": "x", "metrics": {}}"#), "scores"),
        (written("scores.html", "<!doctype html><title>Scores of a prediction</title>"), "page"),
        (written("overlap.svg", "<svg><title>Overlap</title></svg>"), "figure"),
        (dir.path().to_path_buf(), "folder"),
        (run.join("checkpoints"), "checkpoints"),
    ] {
        let found = told(&path)["kind"].as_str().expect("a kind").to_string();
        assert!(found.starts_with(kind), "{}: {found:?} is not {kind:?}", path.display());
    }
    assert_eq!(told(&dir.path().join("scores.html"))["title"], "Scores of a prediction");
    let held = told(&run.join("checkpoints"));
    let last = held["holds"].as_array().expect("a list").iter().find(|c| c["name"] == "last.safetensors");
    assert_eq!(last.expect("written")["step"], 120);
    written("agg_results.csv", "statistic,mae\ncount,1\n");
    let scores = told(dir.path());
    assert_eq!((&scores["kind"], &scores["results"][0]["rules"]), (&"scores".into(), &"x".into()));
    let shard = told(&data.join("perturbed-0000.shard"));
    let whole = told(data);
    let cells = |value: &Value, field: &str| value[field].as_u64().expect("a number");
    assert_eq!(cells(&shard, "cells"), cells(&whole, "cells") - cells(&whole, "control_cells"));
    assert_eq!(told(&run.join("metrics.jsonl"))["last"]["step"], 120);
    assert_eq!(
        told(&written("wanted.csv", "perturbation,cell_type,cells\na,b,3\n"))["of"],
        "request for predict"
    );
}

#[test]
fn a_damaged_shard_and_a_file_of_another_kind_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("some.shard");
    let mut bytes = std::fs::read(small().data.join("controls-0000.shard")).expect("readable");
    *bytes.last_mut().expect("bytes") ^= 1;
    std::fs::write(&path, bytes).expect("written");
    let output = inspect(&path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("checksum"), "{said}");
    // Of several modalities, and told by its first bytes.
    let path = dir.path().join("rna.h5mu");
    let mut file = hdf5_pure::FileBuilder::new();
    file.set_attr("encoding-type", hdf5_pure::AttrValue::VarLenString("MuData".into()));
    file.write(&path).expect("written");
    let said = String::from_utf8_lossy(&inspect(&path).stderr).into_owned();
    assert!(said.contains("\"MuData\", not an h5ad file; write the modality"), "{said}");
    let other = "is not text, and not a .h5ad";
    for (name, bytes, words) in [
        ("some.bin", [0xff, 0xfe, 0x00], other),
        ("some.csv", [0xff, 0xfe, 0x00], other),
        ("cells.h5ad.gz", [0x1f, 0x8b, 0x08], "is packed with gzip; unpack it first"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let output = inspect(&path);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(words), "{said}");
    }
}

/// The file is one hole: nothing of it is read.
#[test]
fn a_file_that_is_too_long_for_a_text_is_not_read() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("reads.fastq");
    std::fs::File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("made");
    let output = inspect(&path);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("larger than the 1 GiB"), "{said}");
}

#[test]
fn names_of_a_folder_that_are_no_text_are_told_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let name = OsStr::from_bytes(b"caf\xe9.txt");
    std::fs::write(dir.path().join(name), "").expect("written");
    assert_eq!(told(dir.path())["holds"][0], "caf\u{fffd}.txt");
}

#[test]
#[cfg(feature = "parquet")]
fn unlike_parquet_files_of_a_folder_are_told_apart() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tahoe");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let copy = |from: &str, to: &str| std::fs::copy(golden.join(from), dir.path().join(to)).expect("copied");
    copy("labels.parquet", "a.parquet");
    copy("labels.parquet", "b.parquet");
    let [one, two] = [told(&dir.path().join("a.parquet")), told(dir.path())];
    assert_eq!((&two["kind"], two["rows"].as_u64()), (&one["kind"], one["rows"].as_u64().map(|n| 2 * n)));
    copy("metadata/gene_metadata.parquet", "c.parquet");
    let three = told(dir.path());
    assert_eq!(
        (three["kind"].as_str(), three.get("rows")),
        (Some("folder of parquet files with different columns"), None)
    );
    assert_eq!((&three["holds"][1]["rows"], &three["holds"][2]["name"]), (&one["rows"], &"c.parquet".into()));
}

#[test]
fn a_data_directory_tells_the_columns_that_it_was_made_of() {
    let told = told(&small().data);
    assert_eq!(told["columns"]["perturbation"], "perturbation");
    assert_eq!((&told["columns"]["batch"], &told["source_genes"]), (&"batch".into(), &60.into()));
}

#[test]
fn columns_are_told_a_line_each() {
    let output = inspect_in_words(&small().cells);
    let line = output.lines().find(|line| line.trim_start().starts_with("perturbation ")).expect("a column");
    assert!(line.contains("categorical") && line.contains("labels 5") && !line.contains('{'), "{line}");
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_program_quietly() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.arg("inspect").arg(&small().data).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("an end");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(141));
}
