//! Columns of labels: without one of cell types those of a file are one type, from `preprocess` to `evaluate`; one may be two kinds.

use std::path::{Path, PathBuf};

use scale_engine::data::features::FeatureTable;
use scale_engine::data::h5ad::{Column, Frame, H5ad, X, write};
use scale_engine::data::population::{Beside, Unit, write_measured};
use scale_engine::data::shard::Data;
use scale_engine::data::simulate::{CONTROL, Settings as World, simulate};

use crate::preprocess::{run, small};
use crate::refused::told;
use crate::train::{program, set};

/// Runs a command, which must end well.
fn done(dir: &Path, words: &str) {
    let (code, said) = told(program().current_dir(dir).args(words.split_whitespace()));
    assert!(code == Some(0), "{words}: {code:?} {said}");
}

/// A file of simulated cells of one line, with a column of perturbations alone.
fn world(dir: &Path, name: &str, seed: u64) -> (PathBuf, Vec<String>) {
    let path = dir.join(name);
    let world = World { cells: 300, skip: 0, genes: 40, perturbations: 3, cell_types: 1, batches: 1, seed };
    let world = simulate(&world).expect("a world");
    world.write(&path).expect("written");
    let file = H5ad::open(&path).expect("readable");
    let named: Vec<String> = file.obs().index.iter().map(|cell| format!("{name}{cell}")).collect();
    let labels = file.obs().labels(&path, "perturbation").expect("a column");
    let obs =
        Frame { index: named, columns: vec![("perturbation".to_string(), Column::Categorical(labels))] };
    let (var, x) = (file.var().clone(), file.rows(0..file.shape().0).expect("readable"));
    write(&path, &obs, &var, X::Sparse(&x), &[]).expect("written");
    (path, world.truth.perturbations.into_iter().filter(|name| name != CONTROL).collect())
}

#[test]
fn the_whole_way_can_be_gone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let names = world(dir, "K562.h5ad", 1).1;
    world(dir, "RPE1.h5ad", 2);
    let columns = format!("--pert-col perturbation --control-pert {CONTROL}");
    done(dir, &format!("preprocess K562.h5ad RPE1.h5ad --out DATA --n-top-genes 40 {columns}"));
    let split = format!(
        "[datasets]\nd = \"DATA\"\n[training]\nd = \"train\"\n[fewshot.\"d.K562\"]\ntest = [{:?}, {:?}]\n",
        names[0], names[1]
    );
    std::fs::write(dir.join("split.toml"), split).expect("written");
    done(dir, "split split.toml --data DATA");
    let short =
        |set: &String| if set.starts_with("train.steps") { "train.steps=20".into() } else { set.clone() };
    let set: String = set().iter().map(|set| format!(" --set {}", short(set))).collect();
    let train = "train --data DATA --split split.toml --out RUN --preset tiny";
    done(dir, &format!("{train}{set}"));
    let of = "--data DATA --split split.toml --subset test";
    done(dir, &format!("predict RUN {of} --real-out real.h5ad --with-controls --out pred.h5ad"));
    done(dir, "export DATA --out all.h5ad");
    let both = "evaluate --pred pred.h5ad --real real.h5ad --celltype-col cell_type --out SCORES";
    done(dir, &format!("{both} {columns}"));

    let exported = H5ad::open(&dir.join("all.h5ad")).expect("readable");
    let types = exported.obs().labels(exported.path(), "cell_type").expect("a column");
    assert_eq!(types.names, ["K562", "RPE1"]);
    assert_eq!(types.codes.iter().filter(|&&code| code == 0).count(), 300);

    // A run of one type takes control cells that do not name it.
    done(dir, &format!("preprocess K562.h5ad --out ONE --n-top-genes 40 {columns}"));
    let split = format!(
        "[datasets]\nd = \"x\"\n[training]\nd = \"train\"\n[fewshot.\"d.K562\"]\ntest = [{:?}]\n",
        names[0]
    );
    std::fs::write(dir.join("one.toml"), split).expect("written");
    let set = set.replace("flow.start=shifted", "flow.start=control");
    done(dir, &format!("train --data ONE --split one.toml --out R1 --preset tiny{set}"));
    std::fs::write(dir.join("wanted.csv"), format!("perturbation,cell_type,cells\n{},K562,20\n", names[1]))
        .expect("written");
    done(dir, "predict R1 --controls K562.h5ad --request wanted.csv --out asked.h5ad");
}

/// Cell Ranger names all its files alike.
#[test]
fn files_of_one_name_are_not_one_cell_type() {
    let (dir, mut settings) = small(|_, _, _| ());
    let column = settings.cell_type.take();
    let folder = dir.path().join("other");
    std::fs::create_dir(&folder).expect("a folder");
    let first = settings.inputs[0].clone();
    let second = folder.join(first.file_name().expect("a name"));
    std::fs::copy(&first, &second).expect("copied");
    settings.inputs.push(second);
    let what = run(&settings).expect_err("two files of one name").to_string();
    assert!(what.contains("other/in.h5ad: has the name of") && what.contains("give `cell_type`"), "{what}");
    settings.cell_type = column;
    run(&settings).expect("cell types of their own");
}

#[test]
fn the_column_gets_a_name_that_is_free() {
    let (_dir, mut settings) = small(|_, _, _| ());
    settings.cell_type = None;
    let kept = run(&settings).expect("made").contents;
    assert_eq!((kept.cells, kept.cell_types), (6, 1));
    assert!(kept.notes.iter().any(|note| note.ends_with("named after the file: \"in\"")), "{:?}", kept.notes);
    let named = |out: &Path| Data::open(out).expect("opened").manifest().columns.cell_type.clone();
    assert_eq!(named(&settings.out), "cell_type");

    let (_dir, mut settings) = small(|obs, _, _| obs.columns[0].0 = "cell_type".to_string());
    (settings.cell_type, settings.perturbation) = (None, "cell_type".into());
    run(&settings).expect("made");
    assert_eq!(named(&settings.out), "cell_line");
}

#[test]
fn a_column_that_is_two_kinds_of_label_is_written_once() {
    let (dir, mut settings) = small(|_, _, _| ());
    settings.batch = settings.cell_type.clone();
    let kept = run(&settings).expect("made").contents;
    assert!(kept.notes.iter().any(|note| note.contains("two kinds of label")), "{:?}", kept.notes);
    let data = Data::open(&settings.out).expect("opened");
    let groups: Vec<u32> = (0..data.groups().len() as u32).collect();
    let out = dir.path().join("cells.h5ad");
    write_measured(&out, &data, &groups, Beside::Own, Unit::Log1p, "").expect("written");
    let file = H5ad::open(&out).expect("readable");
    let names: Vec<&str> = file.obs().columns.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [settings.perturbation.as_str(), settings.batch.as_deref().expect("one")]);
}

#[test]
fn whole_numbers_that_pandas_made_decimal_are_labels() {
    let batches = |plates: Vec<f64>| {
        let (dir, mut settings) = small(|obs, _, _| obs.columns[2].1 = Column::Float(plates));
        settings.batch = Some("plate".into());
        let kept = run(&settings).map(|summary| summary.contents)?;
        let batches = Data::open(&dir.path().join("data")).expect("opened").manifest().batches.clone();
        Ok::<_, scale_engine::error::Error>((kept.dropped, batches))
    };
    let (dropped, names) = batches(vec![2.0, 10.0, 2.0, f64::NAN, 10.0, 10.0]).expect("made");
    assert_eq!((dropped, names), (1, vec!["10.0".to_string(), "2.0".to_string()]));
    for other in [0.5, f64::INFINITY] {
        let what = batches(vec![2.0, 10.0, 2.0, other, 10.0, 10.0]).expect_err("no labels").to_string();
        assert!(what.contains("\"plate\" contains decimal numbers"), "{what}");
    }
}

/// Tahoe's release has a drug `"Erdafitinib "`.
#[test]
fn blanks_around_a_label_belong_to_it_in_tables_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    let (path, names) = world(dir, "K562.h5ad", 1);
    let file = H5ad::open(&path).expect("readable");
    let labels = file.obs().labels(&path, "perturbation").expect("a column");
    // Two perturbations that only a blank tells apart, named in a table.
    let [first, second] = [&names[0], &names[1]];
    let mut table = String::from("cell,drug\n");
    for (cell, name) in file.obs().index.iter().enumerate() {
        let label = labels.get(cell).expect("a label");
        let label = if label == second { format!("{first} ") } else { label.to_string() };
        table += &format!("{name}, {label}\r\n");
    }
    std::fs::write(dir.join("labels.csv"), table).expect("written");
    let columns = format!("--labels labels.csv --pert-col drug --control-pert {CONTROL}");
    done(dir, &format!("preprocess K562.h5ad --out DATA --n-top-genes 40 {columns}"));
    let data = Data::open(&dir.join("DATA")).expect("readable");
    assert!(
        data.manifest().perturbations.contains(&format!("{first} ")),
        "{:?}",
        data.manifest().perturbations
    );

    let split = format!(
        "[datasets]\nd = \"x\"\n[training]\nd = \"train\"\n[fewshot.\"d.K562\"]\ntest = [{:?}]\n",
        names[2]
    );
    std::fs::write(dir.join("split.toml"), split).expect("written");
    let features = format!("drug,a,b\n{first},1,2\n\"{first} \",2,1\n{} ,3,3\n", names[2]);
    std::fs::write(dir.join("features.csv"), features).expect("written");
    let set: String = set().iter().map(|set| format!(" --set {set}")).collect();
    let set = set.replace("flow.start=shifted", "flow.start=control");
    let features = "--perturbation-features features.csv --set train.steps=2";
    done(dir, &format!("train --data DATA --split split.toml --out RUN --preset tiny{set} {features}"));
    let request = format!("perturbation,cell_type,cells\n\"{first} \",K562,5\n {first},K562,6\n");
    std::fs::write(dir.join("wanted.csv"), request).expect("written");
    done(dir, "predict RUN --controls K562.h5ad --labels labels.csv --request wanted.csv --out asked.h5ad");
    let asked = H5ad::open(&dir.join("asked.h5ad")).expect("readable");
    let told = asked.obs().labels(asked.path(), "drug").expect("a column");
    let count = |name: &str| (0..asked.shape().0).filter(|&cell| told.get(cell) == Some(name)).count();
    assert_eq!((count(&format!("{first} ")), count(first)), (5, 6));

    // Nor are there two spellings of a name where features describe more perturbations.
    std::fs::write(dir.join("more.csv"), format!("drug,a,b\n {first},1,2\nnew ,4,4\n")).expect("written");
    std::fs::write(
        dir.join("wanted.csv"),
        format!("perturbation,cell_type,cells\n {first},K562,5\nnew,K562,6\n"),
    )
    .expect("written");
    let request =
        "--controls K562.h5ad --labels labels.csv --request wanted.csv --perturbation-features more.csv";
    done(dir, &format!("predict RUN {request} --out more.h5ad"));
    let more = H5ad::open(&dir.join("more.h5ad")).expect("readable");
    let told = more.obs().labels(more.path(), "drug").expect("a column");
    assert_eq!(told.names, [first.as_str(), "new"]);
    std::fs::write(dir.join("twice.csv"), "drug,a,b\n\"A \",1,2\n A  ,4,4\n").expect("written");
    let twice = FeatureTable::read(&dir.join("twice.csv")).expect_err("two of one name").to_string();
    assert!(twice.contains("two rows for \"A\""), "{twice}");
}
