//! The architecture as a test: a module uses only floors below its own.

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and its floor. A room is a file of `src` and the folder of its name.
const FLOORS: [(&str, u32); 33] = [
    // The top floor has steps: the program, its words, its tour.
    ("main", 13),
    ("cli", 12),
    ("demo", 11),
    ("selftest", 11),
    ("profile", 11),
    ("train", 10),
    ("predict", 10),
    ("evaluate", 10),
    ("baseline", 10),
    // A predictor is made of a checkpoint.
    ("predictor", 9),
    ("optim", 8),
    ("checkpoint", 8),
    ("collective", 8),
    ("model", 7),
    ("data", 7),
    ("ops", 5),
    ("params", 6),
    ("tape", 4),
    ("tensor", 3),
    ("laps", 3),
    ("gpu", 2),
    ("aside", 1),
    ("brief", 1),
    ("config", 1),
    ("correlation", 1),
    ("folder", 1),
    ("memory", 1),
    ("progress", 1),
    ("rng", 1),
    ("run_folder", 1),
    ("trace", 1),
    ("error", 0),
    ("lock", 0),
];

/// What several ops may share: they record nothing on the tape.
const SHARED_BY_OPS: [&str; 8] =
    ["blocks", "cast", "column_sums", "gate", "gemm", "loss", "product", "vector"];

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
pub fn files() -> Vec<(String, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&src, &mut paths);
    paths.sort();
    let name = |p: &Path| p.strip_prefix(&src).expect("below src").to_string_lossy().replace('\\', "/");
    paths.iter().map(|p| (name(p), fs::read_to_string(p).expect("readable"))).collect()
}

/// Paths after `crate::` in a file, not counting its comments and tests.
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
        // What begins with a capital is not a room but the crate's own.
        for path in uses(text).iter().filter(|path| !path.starts_with(char::is_uppercase)) {
            let other = path.split(':').next().expect("a name");
            let up = other != room && floor(other) >= floor(room);
            // `data` knows no tape and no model, nor anything else that computes.
            let data_knows_more = room == "data" && other != "data" && floor(other) > 1;
            if up || data_knows_more {
                wrong.push(format!("{file} (floor {}) uses {path} (floor {})", floor(room), floor(other)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// (room, floor) of every room in README's picture, whose first line shows `main`.
fn drawn() -> Vec<(String, u32)> {
    let readme =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("the README");
    let picture =
        readme.lines().skip_while(|line| !line.ends_with("  main")).take_while(|line| *line != "```");
    let rooms = |line: &str| -> Vec<(String, u32)> {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let number = words.next().and_then(|word| word.parse().ok()).expect("a line begins with its floor");
        words.map(|room| (room.to_string(), number)).collect()
    };
    picture.flat_map(rooms).collect()
}

#[test]
fn the_readme_draws_the_same_floors() {
    let (mut drawn, mut built) = (drawn(), FLOORS.map(|(room, floor)| (room.to_string(), floor)).to_vec());
    drawn.sort();
    built.sort();
    assert_eq!(drawn, built);
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
fn an_op_is_recorded_under_its_own_name() {
    let mut recorded = 0;
    for (file, text) in files().iter().filter(|(file, _)| file.starts_with("ops/")) {
        let op = file.trim_start_matches("ops/").split(['/', '.']).next().expect("a name");
        let named = ["record(\"", "record_remade(\"", "record_read(\"", "record_window(\"", "Op::of(\""]
            .into_iter()
            .flat_map(|call| text.split(call).skip(1))
            .filter_map(|rest| rest.split('"').next());
        for name in named {
            assert_eq!(name, op, "{file}");
            recorded += 1;
        }
    }
    assert!(recorded > 20, "{recorded} ops say their names");
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

/// Number of lines of the longest function in a text that rustfmt has laid out, and its first line.
fn longest_function(text: &str) -> (usize, &str) {
    let lines: Vec<&str> = text.lines().collect();
    let begins = |line: &str| {
        let words = line.trim_start().split("fn ").next().unwrap_or("");
        line.contains("fn ")
            && words
                .split(' ')
                .all(|w| w.is_empty() || w.starts_with("pub") || ["const", "unsafe", "super)"].contains(&w))
    };
    let length = |first: usize| {
        let indent = lines[first].len() - lines[first].trim_start().len();
        let end = format!("{}}}", " ".repeat(indent));
        lines[first..].iter().position(|line| *line == end).map_or(0, |last| last + 1)
    };
    let all = (0..lines.len()).filter(|&i| begins(lines[i]) && !lines[i].ends_with(';'));
    all.map(|i| (length(i), lines[i])).max_by_key(|(length, _)| *length).unwrap_or_default()
}

#[test]
fn functions_stay_short() {
    for (file, text) in files() {
        let (length, line) = longest_function(&text);
        assert!(length <= 60, "{file}: {length} lines of {}", line.trim());
    }
    assert_eq!(
        longest_function("impl A {\n    pub(super) fn b() {\n        1\n    }\n}\n"),
        (3, "    pub(super) fn b() {")
    );
}

/// (name, text) of every kernel file.
fn kernel_files() -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).expect("the folder kernels").map(|e| e.expect("readable").path()).collect();
    paths.sort();
    let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
    paths.iter().map(|p| (name(p), fs::read_to_string(p).expect("readable"))).collect()
}

/// Fields of a kernel file's head, in their order; the first two may be missing if the file has no such direction.
const HEAD: [&str; 8] =
    ["forward", "backward", "tensors", "needs", "work", "bound by", "repeatable", "reference"];

#[test]
fn a_kernel_file_has_its_head_its_op_and_its_rows() {
    let rows: Vec<String> = scale_engine::selftest::table().iter().map(|row| row.op().to_string()).collect();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, text) in kernel_files() {
        assert!(text.lines().count() <= 300, "{file} has {} lines; is it two files?", text.lines().count());
        let Some(name) = file.strip_suffix(".cu") else { continue };
        let head: Vec<&str> = text.lines().take_while(|line| line.starts_with("//")).collect();
        let places: Vec<Option<usize>> = HEAD
            .iter()
            .map(|field| head.iter().position(|l| l.starts_with(&format!("//   {field} "))))
            .collect();
        assert!(
            places[2..].iter().all(Option::is_some),
            "{file}: the head lacks a field: {HEAD:?}, {places:?}"
        );
        assert!(places.iter().flatten().is_sorted(), "{file}: the head's fields are out of order");
        let reference =
            head.iter().find_map(|line| line.strip_prefix("//   reference  ")).unwrap_or_default();
        let source = reference.split([',', ' ']).next().unwrap_or_default();
        assert!(here.join(source).is_file(), "{file}: the reference {source:?} is no file");
        let op = source.trim_start_matches("src/ops/").split(['/', '.']).next().unwrap_or_default();
        assert!(name == op || name.starts_with(&format!("{op}_")), "{file} belongs to the op {op:?}");
        let tested =
            rows.iter().any(|row| row == op) || here.join(format!("tests/kernels/{op}.rs")).is_file();
        assert!(tested, "{file}: no row of the table and no test of its own");
    }
}

/// How a line of code can put something on the terminal.
const PRINTS: [&str; 7] = ["print!(", "println!(", "eprint", "dbg!(", "stdout()", "stderr()", "ProgressBar"];

#[test]
fn only_the_program_prints() {
    let prints = |text: &str| {
        let code = text.split("#[cfg(test)]").next().unwrap_or(text);
        let mut lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.any(|line| PRINTS.iter().any(|word| line.contains(word)))
    };
    let program = |file: &str| ["main.rs", "cli.rs"].contains(&file) || file.starts_with("cli/");
    let (may, others): (Vec<_>, Vec<_>) = files().into_iter().partition(|(file, _)| program(file));
    let found: Vec<_> = others.iter().filter(|(_, text)| prints(text)).map(|(file, _)| file).collect();
    assert!(found.is_empty(), "a library that prints cannot be embedded: {found:?}");
    assert!(may.iter().filter(|(_, text)| prints(text)).count() > 10, "what prints is seen");
}
