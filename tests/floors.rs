//! The architecture is a test: a module uses only floors below its own.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and its floor. A room is a file of `src` and the folder of its name.
const FLOORS: [(&str, u32); 24] = [
    // The top floor has steps: the program, its words, its tour.
    ("main", 10),
    ("cli", 9),
    ("demo", 8),
    ("selftest", 8),
    ("train", 7),
    ("predict", 7),
    ("evaluate", 7),
    ("baseline", 7),
    ("optim", 6),
    ("checkpoint", 6),
    ("predictor", 6),
    ("model", 5),
    ("data", 5),
    ("ops", 4),
    ("params", 4),
    ("tape", 3),
    ("tensor", 2),
    ("gpu", 1),
    ("aside", 0),
    ("config", 0),
    ("correlation", 0),
    ("error", 0),
    ("progress", 0),
    ("rng", 0),
];

/// What several ops may share: they record nothing on the tape.
const SHARED_BY_OPS: [&str; 5] = ["blocks", "cast", "column_sums", "gemm", "vector"];

fn floor(room: &str) -> u32 {
    let found = FLOORS.iter().find(|(name, _)| *name == room);
    found.unwrap_or_else(|| panic!("room {room:?} has no floor: add it to tests/floors.rs and the README")).1
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of sources").map(|e| e.expect("readable").path()) {
        match entry.is_dir() {
            true => sources(&entry, found),
            false if entry.extension().is_some_and(|e| e == "rs") => found.push(entry),
            false => {}
        }
    }
}

/// (file below src, its text)
fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    paths.sort();
    let name = |p: &Path| p.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
    paths.iter().map(|p| (name(p), fs::read_to_string(p).expect("readable"))).collect()
}

/// Paths after `crate::` in a file, comments and tests of the file aside.
fn uses(text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .flat_map(|line| line.split("crate::").skip(1).map(str::to_string).collect::<Vec<_>>())
        .map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect())
        .collect()
}

#[test]
fn a_module_uses_only_floors_below_its_own() {
    let mut wrong = Vec::new();
    for (file, text) in files().iter().filter(|(file, _)| file != "lib.rs") {
        let room = file.split(['/', '.']).next().expect("a name");
        for path in uses(text) {
            let other = path.split(':').next().expect("a name");
            // Every room may fail.
            let up = other != room && other != "error" && floor(other) >= floor(room);
            let data_knows_model = room == "data" && ["tape", "params"].contains(&other);
            if up || data_knows_model {
                wrong.push(format!("{file} (floor {}) uses {path} (floor {})", floor(room), floor(other)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_op_never_uses_another_op() {
    for (file, text) in files().iter().filter(|(file, _)| file.starts_with("ops/")) {
        let op = file.trim_start_matches("ops/").split(['/', '.']).next().expect("a name").to_string();
        for path in uses(text).iter().filter(|p| p.starts_with("ops::")) {
            let other = path.split("::").nth(1).expect("a name");
            assert!(other == op || SHARED_BY_OPS.contains(&other), "{file} uses {path}");
        }
    }
}

#[test]
fn files_stay_small_and_nothing_is_left_undone() {
    for (file, text) in files() {
        assert!(text.lines().count() <= 400, "{file} has {} lines; is it two rooms?", text.lines().count());
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        for word in ["todo!(", "unimplemented!(", "dbg!(", ".unwrap()"] {
            let found = code.lines().find(|l| !l.trim_start().starts_with("//") && l.contains(word));
            assert!(found.is_none(), "{file}: {}", found.unwrap_or_default());
        }
        assert!(text.starts_with("//!"), "{file} does not say what it is");
    }
}
