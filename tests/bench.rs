//! `bench` reports a time, and what was done in it, for every op and for the loader.

use std::path::Path;
use std::process::Command;

use scale_engine::cli::bench::ops;
use scale_engine::gpu::{Real, guard};
use serde_json::Value;

use crate::emulate;
use crate::train::small;

/// Rows at trial sizes: seven ops in two directions, two in one.
const ROWS: usize = 16;

fn timed(words: &[&str]) -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_scale-engine"))
        .args(["bench", "ops", "--device", "cpu", "--turns", "3", "--json"])
        .args(words)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn each_op_is_timed_forward_and_backward() {
    let rows = timed(&["--small"]);
    assert_eq!(rows.len(), ROWS);
    for row in &rows {
        let number = |field: &str| row[field].as_f64().expect("a number");
        assert!(number("median_us") > 0.0 && number("gb_per_s") > 0.0 && number("bytes") > 0.0, "{row}");
        assert!(number("min_us") <= number("median_us") && number("median_us") <= number("max_us"), "{row}");
        assert!(row["name"] == "gather" || number("tflop_per_s") > 0.0, "{row}");
    }
    let asked = timed(&["--preset", "s280", "--case", "swiglu", "--shape", "3,8"]);
    assert!(asked.len() == 2 && asked[0]["shape"] == serde_json::json!({"M": 3, "F": 8}), "{asked:?}");
}

#[test]
fn on_a_device_the_same_rows_run_within_their_buffers() {
    let Some(folder) = emulate::folder("kernels", None) else { return };
    let gpu = emulate::device(Path::new(&folder), Real::Bf16, 1);
    let timed = guard(|| Ok(ops::tried(Some(&gpu), 1))).expect("every kernel runs");
    assert_eq!(timed.len(), ROWS);
    timed.iter().for_each(|row| assert!(row.median() > 0.0, "{}", row.name));
    assert_eq!(gpu.overrun(), None);
}

#[test]
fn the_loader_is_timed_on_a_users_own_shards() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.args([
        "bench", "loader", "--cold", "--json", "--sets", "2", "--cells", "8", "--steps", "2", "--data",
    ]);
    let output = command.arg(&small().data).output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let figures: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let lines = figures["lines"].as_array().expect("lines");
    let names: Vec<&str> = lines.iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names, ["open", "plain read", "cold", "sparse", "dense", "loader", "copy"]);
    // If the disk is in memory, no megabytes are read.
    let rate = |line: &Value| line[if line["name"] == "cold" { "cells_per_s" } else { "mb_per_s" }].as_f64();
    assert!(lines.iter().all(|line| rate(line).is_some_and(|rate| rate > 0.0)), "{figures}");
}

#[test]
fn each_way_of_scoring_is_timed() {
    let sizes = ["--cells", "300", "--genes", "40", "--perturbations", "3", "--turns", "2", "--json"];
    let output = Command::new(env!("CARGO_BIN_EXE_scale-engine"))
        .args(["bench", "evaluate"])
        .args(sizes)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("text");
    let rows: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let profiles: Vec<&str> = rows.iter().filter_map(|row| row["profile"].as_str()).collect();
    assert_eq!(profiles, ["full", "de", "anndata", "pds"]);
    for row in &rows {
        let seconds = |field: &str| row[field].as_f64().expect("a number");
        assert!(0.0 < seconds("min_s") && seconds("min_s") <= seconds("median_s"), "{row}");
        assert!(seconds("median_s") <= seconds("max_s") && row["turns"] == 2, "{row}");
    }
}

#[test]
fn bench_alone_times_everything_in_one_table() {
    let run = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        let output = command
            .args(["bench", "--device", "cpu", "--turns", "1"])
            .args(words)
            .output()
            .expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let rows: Vec<Value> =
        run(&["--json"]).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for what in ["copy", "matmul", "adamw step", "step", "prediction", "loader, sparse", "evaluate, full"] {
        let row =
            rows.iter().find(|row| row["what"] == what).unwrap_or_else(|| panic!("no row {what}: {rows:?}"));
        assert!(row["rate"].as_f64().is_some_and(|rate| rate > 0.0), "{row}");
    }
}
