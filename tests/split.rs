//! Split files: where the cells go, and which clauses are refused.

use std::collections::HashSet;
use std::path::Path;

use scale_engine::data::shard::Data;
use scale_engine::data::split::{Part, Split};

use crate::small_data::{World, header};

mod presets;

/// `type000`, `type001` and the dotted `type.2`; `type.2` has no p002, `type003` has no controls.
fn world() -> World {
    let mut header = header(10, 4, 3, 2);
    header.cell_types = ["type.2", "type000", "type001", "type003"].map(String::from).to_vec();
    let groups = [
        (0, 0, 0, 4),
        (0, 1, 0, 6),
        (1, 0, 0, 10),
        (1, 0, 1, 11),
        (1, 1, 0, 3),
        (1, 1, 1, 4),
        (1, 2, 0, 5),
        (1, 3, 1, 2),
        (2, 0, 0, 8),
        (2, 1, 0, 7),
        (2, 2, 0, 9),
        (3, 1, 0, 5),
    ];
    World::of_groups(header, &groups)
}

const DATASETS: &str = "[datasets]\nsmall = \"small.h5ad\"\n";
const TRAINING: &str = "[training]\nsmall = \"train\"\n";

fn load(data: &Data, text: &str) -> Result<Split, String> {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("split.toml");
    std::fs::write(&path, text).expect("written");
    Split::load(&path, data).map_err(|error| {
        let message = error.to_string();
        assert!(message.contains("split.toml: "), "{message}");
        message
    })
}

/// (cell type, perturbation, batch) of a part.
fn part(split: &Split, part: Part, data: &Data) -> Vec<(u32, u32, u32)> {
    let ids = |&g: &u32| {
        (
            data.groups()[g as usize].cell_type,
            data.groups()[g as usize].perturbation,
            data.groups()[g as usize].batch,
        )
    };
    split.part(part).iter().map(ids).collect()
}

#[test]
fn training_takes_every_cell_type() {
    let (_dir, data) = world().open();
    let split = load(&data, &format!("{DATASETS}{TRAINING}")).expect("a split");
    assert_eq!(split.part(Part::Train).len(), data.groups().len());
    assert!(split.part(Part::Val).is_empty() && split.part(Part::Test).is_empty());
    let said = split.warnings.join("\n");
    assert!(
        said.contains("val has no perturbed cells") && said.contains("test has no perturbed cells"),
        "{said}"
    );
    assert!(
        said.contains("groups without controls of their cell type are not used: 1 in train, such as type003"),
        "{said}"
    );
}

#[test]
fn a_zeroshot_cell_type_leaves_its_controls_in_train() {
    let (_dir, data) = world().open();
    let split = load(&data, &format!("{DATASETS}{TRAINING}[zeroshot]\n\"small.type001\" = \"test\"\n"))
        .expect("a split");
    assert_eq!(part(&split, Part::Test, &data), [(2, 0, 0), (2, 1, 0), (2, 2, 0)]);
    let train = part(&split, Part::Train, &data);
    assert!(train.contains(&(2, 0, 0)) && !train.contains(&(2, 1, 0)) && train.contains(&(1, 1, 0)));
    assert!(split.part(Part::Val).is_empty());
}

#[test]
fn a_fewshot_cell_type_gives_its_controls_to_each_part_it_is_in() {
    let (_dir, data) = world().open();
    let text = format!("{DATASETS}[fewshot.\"small.type000\"]\nval = [\"p003\"]\ntest = [\"p001\"]\n");
    let split = load(&data, &text).expect("a split");
    assert_eq!(part(&split, Part::Val, &data), [(1, 0, 0), (1, 0, 1), (1, 3, 1)]);
    assert_eq!(part(&split, Part::Test, &data), [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1)]);
    // The other cell types are named nowhere, and the data set is not in [training]: dropped, with a warning.
    assert_eq!(part(&split, Part::Train, &data), [(1, 0, 0), (1, 0, 1), (1, 2, 0)]);
    let said = split.warnings.join("\n");
    assert!(said.contains("in no part") && said.contains("\"type.2\", \"type001\", \"type003\""), "{said}");
    assert!(said.contains("a run that has seen them: \"p003\""), "{said}");
}

#[test]
fn a_cell_type_may_hold_dots() {
    let (_dir, data) = world().open();
    let split = load(&data, &format!("{DATASETS}{TRAINING}[zeroshot]\n\"small.type.2\" = \"val\"\n"))
        .expect("a split");
    assert_eq!(part(&split, Part::Val, &data), [(0, 0, 0), (0, 1, 0)]);
}

#[test]
fn no_perturbed_group_is_in_two_parts() {
    let (_dir, data) = world().open();
    let text = format!(
        "{DATASETS}{TRAINING}[zeroshot]\n\"small.type001\" = \"val\"\n[fewshot.\"small.type000\"]\ntest = [\"p001\", \"p002\"]\n"
    );
    let split = load(&data, &text).expect("a split");
    let mut seen = HashSet::new();
    for part in Part::ALL {
        assert!(split.perturbed(part, &data).into_iter().all(|group| seen.insert(group)));
    }
    assert_eq!(seen.len(), data.groups().iter().filter(|g| g.perturbation != data.control_id()).count());
}

#[test]
fn the_report_counts_what_is_there() {
    let (_dir, data) = world().open();
    let text = format!("{DATASETS}{TRAINING}[fewshot.\"small.type000\"]\ntest = [\"p001\"]\n");
    let report = load(&data, &text).expect("a split").report(&data);
    let test = &report.test;
    assert_eq!((test.cells, test.groups, test.perturbations, test.cell_types), (7, 2, 1, 1));
    assert_eq!((test.control_cells, test.control_groups), (21, 2));
    assert_eq!((report.train.cells, report.train.control_cells), (6 + 5 + 2 + 7 + 9 + 5, 4 + 21 + 8));
    assert_eq!((report.dropped.cells, report.dropped.control_cells), (0, 0));
    assert_eq!((report.dataset.as_str(), report.sha256.len()), ("small", 64));
}

#[test]
fn the_hash_is_of_the_text() {
    let (_dir, data) = world().open();
    let hash = |text: &str| load(&data, text).expect("a split").hash;
    let text = format!("{DATASETS}{TRAINING}");
    // What sha256sum prints for a file of this text.
    assert_eq!(hash(&text), "7a6f3507690b4518424873d5761fe0a46ecbcac68c486a90e268c5b94af265a0");
    assert_ne!(hash(&text), hash(&format!("{text}# a word\n")));
}

#[test]
fn clauses_that_match_nothing_are_refused() {
    refused(&[
        ("[trainig]\nsmall = \"train\"", "unknown table \"trainig\"; did you mean \"training\"?"),
        (
            "[training]\nsmal = \"train\"",
            "[training] smal: unknown data set \"smal\"; did you mean \"small\"?",
        ),
        (
            "[zeroshot]\n\"other.type000\" = \"val\"",
            "[zeroshot] \"other.type000\": unknown data set \"other\"",
        ),
        (
            "[zeroshot]\n\"small.Type000\" = \"val\"",
            "unknown cell type \"Type000\"; did you mean \"type000\"",
        ),
        (
            "[fewshot.\"small.type00\"]\ntest = [\"p001\"]",
            "[fewshot.\"small.type00\"]: unknown cell type \"type00\"; did you mean",
        ),
        (
            "[fewshot.\"small.type000\"]\ntest = [\"p01\"]",
            "[fewshot.\"small.type000\"] test: unknown perturbation \"p01\"; did you mean",
        ),
        (
            "[fewshot.\"small.type.2\"]\nval = [\"p002\"]",
            "[fewshot.\"small.type.2\"] val: no cells in this cell type for \"p002\"",
        ),
        ("[fewshot.\"small.type000\"]\ntets = [\"p001\"]", "unknown list \"tets\"; did you mean \"test\"?"),
        ("[fewshot.\"small.type000\"]\ntest = []", "lists no perturbations"),
        ("", "puts no cells into any part"),
    ]);
}

#[test]
fn contradictions_and_leaks_are_refused() {
    refused(&[
        (
            "[zeroshot]\n\"small.type000\" = \"train\"\n[fewshot.\"small.type000\"]\ntest = [\"p001\"]",
            "[fewshot.\"small.type000\"]: [zeroshot] \"small.type000\" already places the whole cell type",
        ),
        (
            "[fewshot.\"small.type000\"]\nval = [\"p001\"]\ntest = [\"p001\"]",
            "\"p001\" is in both val and test",
        ),
        ("[fewshot.\"small.type000\"]\ntest = [\"ctrl\"]", "\"ctrl\" is the control label"),
        (
            "[zeroshot]\n\"small.type003\" = \"test\"",
            "[zeroshot] \"small.type003\": \"type003\" has no \"ctrl\" cells to predict from",
        ),
        ("[fewshot.\"small.type003\"]\ntest = [\"p001\"]", "has no \"ctrl\" cells to predict from"),
    ]);
}

#[test]
fn clauses_of_the_wrong_form_say_the_right_one() {
    refused(&[
        ("[training]\nsmall = \"tarin\"", "[training] small = \"tarin\": the only value is \"train\""),
        ("[zeroshot]\n\"small.type000\" = \"dev\"", "the value must be \"train\", \"val\" or \"test\""),
        ("[zeroshot]\nsmall.type000 = \"val\"", "put quotes around the whole name"),
        ("[fewshot.small.type000]\ntest = [\"p001\"]", "put quotes around the whole name"),
        ("[fewshot]\n\"small.type000\" = [\"p001\"]", "it must be a table with val and test"),
        ("[fewshot.\"small.type000\"]\ntest = \"p001\"", "test must be a list"),
        ("[fewshot.\"small.type000\"]\ntest = [1]", "1 is not a perturbation in quotes"),
        ("[zeroshot]\n\"type000\" = \"val\"", "write \"small.type000\""),
        ("[zeroshot", "is not TOML"),
    ]);
}

fn refused(cases: &[(&str, &str)]) {
    let (_dir, data) = world().open();
    for (clauses, expected) in cases {
        let message = load(&data, &format!("{DATASETS}{clauses}\n")).expect_err("refused");
        assert!(message.contains(expected), "{message:?} should say {expected:?}");
    }
}

#[test]
fn a_data_set_needs_a_path_as_in_cell_load() {
    let (_dir, data) = world().open();
    let message = load(&data, TRAINING).expect_err("refused");
    assert!(message.contains("[datasets] has no path for \"small\""), "{message}");
    let message = load(&data, "datasets = 3").expect_err("refused");
    assert!(message.contains("datasets is an integer; it must be a table"), "{message}");
}

#[test]
fn the_only_data_set_of_a_file_is_the_directory_whatever_its_name() {
    let (_dir, data) = world().open();
    let own = load(&data, &format!("{DATASETS}{TRAINING}")).expect("a split");
    let named = |text: &str| text.replace("small", "any");
    let other = load(&data, &named(&format!("{DATASETS}{TRAINING}"))).expect("a split");
    assert_eq!(own.part(Part::Train), other.part(Part::Train));
}

#[test]
fn other_data_sets_in_the_list_are_said() {
    let (_dir, data) = world().open();
    let split = load(&data, &format!("{DATASETS}other = \"other.h5ad\"\n{TRAINING}")).expect("a split");
    assert!(split.warnings[0].contains("\"other\" is not in this directory"), "{:?}", split.warnings);
}

#[test]
fn a_data_set_with_a_dot_can_be_named() {
    let mut world = world();
    world.header.dataset = "small.v1".into();
    let (_dir, data) = world.open();
    let text = "[datasets]\n\"small.v1\" = \"x\"\n[zeroshot]\n\"small.v1.type000\" = \"test\"\n";
    let split = load(&data, text).expect("a split");
    assert_eq!(split.perturbed(Part::Test, &data).len(), 4);
    assert!(split.warnings.iter().any(|w| w.contains("cell-load would cut")), "{:?}", split.warnings);
}

#[test]
fn a_missing_file_is_named() {
    let (_dir, data) = world().open();
    let message = Split::load(Path::new("nowhere.toml"), &data).expect_err("refused").to_string();
    assert!(message.starts_with("nowhere.toml: "), "{message}");
}

#[test]
fn the_command_prints_a_split_and_refuses_a_wrong_one() {
    let (dir, _data) = world().open();
    let path = dir.path().join("split.toml");
    let run = |text: &str, options: &[&str]| {
        std::fs::write(&path, text).expect("written");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.arg("split").arg(&path).arg("--data").arg(dir.path()).args(options);
        let output = command.output().expect("started");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let good = format!("{DATASETS}{TRAINING}");
    let (code, table, notes) = run(&good, &[]);
    assert!(code == Some(0) && table.lines().count() == 6, "{table}");
    assert!(notes.contains("warning: val has no perturbed cells"), "{notes}");
    let (code, json, _) = run(&good, &["--json"]);
    let report: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((code, report["train"]["groups"].as_u64()), (Some(0), Some(8)));
    let (code, _, notes) = run(&good, &["--out", "nowhere.toml"]);
    assert!(code == Some(2) && notes.contains("--out"), "{notes}");
    let (code, table, notes) = run(&format!("{DATASETS}[training]\nother = \"train\"\n"), &[]);
    assert_eq!((code, table.as_str()), (Some(1), ""));
    assert!(notes.contains("unknown data set \"other\""), "{notes}");
}

#[test]
fn a_path_that_means_other_files_to_cell_load_is_told() {
    let (_dir, data) = world().open();
    let said = |path: &str| {
        let text = format!("[datasets]\nsmall = \"{path}\"\n{TRAINING}");
        load(&data, &text).map(|split| split.notes.join("\n"))
    };
    for path in ["small.h5ad", "/somewhere/sm*.h5ad", "folder"] {
        assert!(!said(path).expect("a split").contains("[datasets]"), "{path}");
    }
    let other = said("{large,medium}.h5ad").expect("a split");
    assert!(
        other.starts_with("[datasets] small = \"{large,medium}.h5ad\" is for cell-load alone, which would not read \"small.h5ad\""),
        "{other}"
    );
    assert!(
        said("sm[.h5ad")
            .expect_err("no pattern")
            .contains("[datasets] small = \"sm[.h5ad\": not a valid pattern")
    );
}

#[test]
fn a_fewshot_cell_type_gives_no_controls_to_a_part_of_which_it_lists_nothing() {
    let (_dir, data) = world().open();
    let text = format!("{DATASETS}{TRAINING}[fewshot.\"small.type000\"]\ntest = [\"p001\"]\n");
    let split = load(&data, &text).expect("a split");
    assert!(split.part(Part::Val).is_empty() && !split.part(Part::Test).is_empty());
}

#[test]
fn a_split_is_used_with_its_own_data_alone() {
    let (dir, data) = world().open();
    let split = load(&data, &format!("{DATASETS}{TRAINING}")).expect("a split");
    // As many groups, which are others.
    let mut other = world();
    other.header.cell_types[0] = "type".into();
    let (_dir, other) = other.open();
    let uses: [fn(&Split, &Data); 4] = [
        |split, data| drop(split.perturbed(Part::Train, data)),
        |split, data| drop(split.usable(data)),
        |split, data| drop(split.untrained(data)),
        |split, data| drop(split.report(data)),
    ];
    for using in uses {
        // Opened anew they are the same data.
        using(&split, &Data::open(dir.path()).expect("opened"));
        let stopped = std::panic::catch_unwind(|| using(&split, &other)).expect_err("other data");
        let told = stopped.downcast_ref::<String>().expect("words");
        assert!(told.contains("the split is of other data than"), "{told}");
    }
}
