//! The library speaks of its fields, the program of its options: each field that a message names has its option.

use std::collections::BTreeSet;

use clap::CommandFactory;
use scale_engine::cli::Cli;
use scale_engine::cli::words::{OPTIONS, option};
use scale_engine::config::Config;

use crate::floors::files;

/// The library's files and their code, without comments and tests. `cli` and the `demo` are of the program.
fn library() -> Vec<(String, String)> {
    let program = |file: &str| ["main.rs", "cli.rs", "demo.rs"].contains(&file) || file.starts_with("cli/");
    let code = |text: String| {
        let code = text.split("#[cfg(test)]").next().unwrap_or(&text);
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
    };
    let files = files().into_iter().filter(|(file, _)| !program(file));
    files.map(|(file, text)| (file, code(text))).collect()
}

/// What is called with the field of a setting that is at fault, as its first argument or behind these.
const REFUSALS: [&str; 4] = ["Error::setting(", "memory::check(", "check_some(data,", "few_enough("];

/// Where that argument is no literal: the file, and the fields that it may be.
const CHOSEN: [(&str, &[&str]); 14] = [
    // Variables of launchers.
    ("collective/launch.rs", &["RANK"]),
    // `column "name"`.
    ("data/h5ad/column.rs", &[]),
    ("data/h5ad/tenx.rs", &[]),
    // What their callers name.
    ("data/controls.rs", &[]),
    ("data/preprocess/genes.rs", &[]),
    ("memory.rs", &[]),
    // One of several, or some of them.
    ("config/load.rs", &["preset", "set", "train.steps"]),
    ("config/presets.rs", &["preset", "recipe"]),
    ("data/preprocess.rs", &["perturbation", "cell_type", "batch"]),
    ("data/preprocess/filter.rs", &FILTERS),
    ("data/sampler.rs", &["data.sets", "data.cells"]),
    ("data/simulate.rs", &["cells", "skip", "genes", "perturbations", "cell_types", "batches"]),
    ("data/split/presets.rs", &["Preset::Tahoe", "Preset::Pbmc", "Preset::Replogle"]),
    ("profile/made_up.rs", &["sets", "cells", "genes"]),
];

const FILTERS: [&str; 5] = [
    "filters.min_counts",
    "filters.min_genes",
    "filters.min_cells",
    "filters.knockdown",
    "filters.min_cells_per_pert",
];

/// What no option of the program sets, or what is called so by its users too.
const OWN_NAMES: [&str; 14] = [
    // A config's own, which has no section.
    "config",
    "preset",
    "recipe",
    // Of the library's callers alone: matrices, models and places.
    "beside",
    "controls",
    "matrix",
    "place",
    "predictors",
    "rank",
    "totals",
    "values",
    // Positions of the command line, and a file that it is given.
    "inputs",
    "request",
    "runs",
];

/// The literal first argument of each refusal in some code; `None` if it is another expression.
fn refused(code: &str) -> Vec<Option<String>> {
    let calls = REFUSALS.iter().flat_map(|call| {
        code.match_indices(call)
            .filter(|(at, _)| !code[..*at].ends_with("fn "))
            .map(|(at, call)| at + call.len())
    });
    calls
        .map(|argument| {
            let text = code[argument..].trim_start().strip_prefix('"')?;
            Some(text.split('"').next().unwrap_or_default().to_string())
        })
        .collect()
}

#[test]
fn every_field_that_is_refused_has_an_option_or_no_other_name() {
    let config: BTreeSet<String> = fields_of_a_config();
    let variable = |field: &str| field.bytes().all(|letter| letter.is_ascii_uppercase() || letter == b'_');
    let known = |field: &str| {
        option(field).is_some() || config.contains(field) || OWN_NAMES.contains(&field) || variable(field)
    };
    let mut found = 0;
    for (file, code) in library() {
        for field in refused(&code) {
            let chosen = CHOSEN.iter().find(|(of, _)| *of == file).map(|(_, fields)| *fields);
            let fields: Vec<&str> = match (&field, chosen) {
                (Some(field), _) => field.split(", ").flat_map(|fields| fields.split(" or ")).collect(),
                (None, Some(fields)) => fields.to_vec(),
                (None, None) => panic!("{file}: a field that is no literal: add it to CHOSEN"),
            };
            for field in fields {
                assert!(known(field), "{file}: {field:?} has no option: add it to cli::words::OPTIONS");
                found += 1;
            }
        }
    }
    assert!(found > 80, "{found} fields are seen");
}

/// `section.field` of every setting of a run.
fn fields_of_a_config() -> BTreeSet<String> {
    let config = Config::new("tiny", "default").expect("a preset").to_toml();
    let mut section = String::new();
    let mut fields = BTreeSet::new();
    for line in config.lines() {
        match (line.strip_prefix('['), line.split_once(" = ")) {
            (Some(name), _) => section = name.trim_end_matches(']').to_string(),
            (None, Some((field, _))) => drop(fields.insert(format!("{section}.{field}"))),
            (None, None) => {}
        }
    }
    fields
}

#[test]
fn every_option_of_the_table_is_one_of_the_program() {
    let cli = Cli::command();
    let has = |command: &clap::Command, option: &str| {
        command
            .get_arguments()
            .any(|known| known.get_long().is_some_and(|long| option == format!("--{long}")))
    };
    let mut fields = BTreeSet::new();
    for (field, said) in OPTIONS {
        assert!(fields.insert(field), "{field} is there twice");
        let mut words = said.split(' ');
        let first = words.next().unwrap_or_default();
        let is_known = match cli.find_subcommand(first) {
            Some(command) => words.next().is_none_or(|option| has(command, option)),
            None => cli.get_subcommands().any(|command| has(command, first)),
        };
        assert!(is_known, "{field}: the program has no {said}");
    }
}

/// Options that the library's texts keep, and why.
const KEPT: [(&str, &str); 1] = [
    // That of another program.
    ("train/prepared.rs", "cp --remove-destination"),
];

#[test]
fn the_library_names_no_options() {
    for (file, code) in library() {
        let kept = KEPT.iter().filter(|(of, _)| *of == file);
        let code = kept.fold(code, |code, (_, words)| code.replacen(words, "", 1));
        // Variables of style sheets.
        let code = code.replace("var(--", "");
        let found = code
            .match_indices("--")
            .find(|(at, _)| code[at + 2..].starts_with(|letter: char| letter.is_ascii_lowercase()));
        let line = found.map(|(at, _)| code[..at].rsplit('\n').next().unwrap_or_default().trim());
        assert!(found.is_none(), "{file}: an option after {line:?}: name the field, in backticks");
    }
}

#[test]
fn a_value_is_set_apart_from_its_field() {
    for (file, code) in library() {
        for (field, _) in OPTIONS {
            assert!(
                !code.replace(&format!("`{field} = "), "").contains(&format!("`{field} ")),
                "{file}: {field}"
            );
        }
        // Commands and modules have no fields: settings have.
        for module in ["`preprocess::", "`predict::", "`population::"] {
            let mut named = code.split(module).skip(1);
            let path = named.find(|path| !path.starts_with("Settings::"));
            assert!(path.is_none(), "{file}: {module}{:.20}", path.unwrap_or_default());
        }
        assert!(!code.contains("same command"), "{file}: a library's user runs no commands");
    }
}

#[test]
fn every_field_of_the_table_is_named_by_the_library() {
    let code: String = library().into_iter().map(|(_, code)| code).collect();
    for (field, _) in OPTIONS.iter().filter(|(field, _)| !field.starts_with("Preset::")) {
        let ways = ["\"", "`", ", ", " or "].map(|before| format!("{before}{field}"));
        assert!(ways.iter().any(|way| code.contains(way)), "no message names {field}");
    }
}
