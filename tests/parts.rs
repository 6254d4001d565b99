//! Preprocessing in parts: made separately, in any order, or by a run that was killed, they give the same bytes.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use scale_engine::data::preprocess::{Genes, PartName, Parts, Settings, Target, plan, preprocess_parts};
use scale_engine::data::simulate;
use scale_engine::progress::{Event, Progress};

use crate::preprocess::{contents, settings};

/// Two files of simulated cells, and settings that need every pass that a dispersion flavour can have.
pub fn two_files(dir: &Path) -> Settings {
    let mut all = settings(&dir.join("a.h5ad"), &dir.join("data"));
    for (seed, cells) in [(0, 700), (1, 450)] {
        let path = dir.join(if seed == 0 { "a.h5ad" } else { "b.h5ad" });
        let world = simulate::Settings { cells, genes: 80, perturbations: 5, seed, ..Default::default() };
        simulate::simulate(&world).and_then(|world| world.write(&path)).expect("a world");
    }
    all.inputs = vec![dir.join("a.h5ad"), dir.join("b.h5ad")];
    (all.perturbation, all.control) = ("perturbation".into(), simulate::CONTROL.into());
    (all.cell_type, all.batch) = (Some("cell_type".into()), Some("batch".into()));
    all.hvg_batch = Some("batch".into());
    (all.genes, all.target, all.filters.min_genes) = (Genes::Top(30), Some(Target::Median), 3);
    all
}

fn parts(work: &Path, only: Option<(&str, usize)>) -> Parts {
    let only = only.map(|(pass, number)| PartName { pass: pass.to_string(), number });
    Parts { cells: 200, work: Some(work.to_path_buf()), only }
}

fn made(settings: &Settings, parts: &Parts) -> Vec<(String, Vec<u8>)> {
    preprocess_parts(settings, parts, &Progress::silent()).expect("made").expect("a summary");
    contents(&settings.out)
}

fn refusal(settings: &Settings, parts: &Parts) -> String {
    preprocess_parts(settings, parts, &Progress::silent()).expect_err("a refusal").to_string()
}

#[test]
fn parts_that_are_made_apart_and_backwards_give_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = two_files(dir.path());
    let whole = made(&settings, &Parts { cells: 200, ..Parts::default() });
    let names: Vec<_> = std::fs::read_dir(dir.path()).expect("a folder").flatten().collect();
    assert_eq!(names.len(), 3, "two files and the data directory: {names:?}");

    settings.out = dir.path().join("again");
    let work = dir.path().join("work");
    let plan = plan(&settings, &parts(&work, None)).expect("a plan");
    assert_eq!((plan.passes, plan.parts), (vec!["filters", "totals", "moments", "rows"], 7));
    for pass in ["filters", "totals", "moments", "rows"] {
        for part in (0..7).rev() {
            let only = parts(&work, Some((pass, part)));
            let summary = preprocess_parts(&settings, &only, &Progress::silent()).expect("a part");
            assert!(summary.is_none() && !settings.out.exists());
        }
    }
    assert!(made(&settings, &parts(&work, None)) == whole);
    assert!(!work.exists(), "what was made of it stands");
}

#[test]
fn a_part_that_is_there_is_not_made_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = two_files(dir.path());
    let whole = made(&settings, &Parts { cells: 200, ..Parts::default() });
    settings.out = dir.path().join("again");
    let work = dir.path().join("work");
    for (pass, part) in [("filters", 0..7), ("totals", 0..7), ("moments", 0..2)] {
        for part in part {
            preprocess_parts(&settings, &parts(&work, Some((pass, part))), &Progress::silent())
                .expect("a part");
        }
    }
    // The second part takes the place of the first: the table shows it only if the first is not made again.
    let moments = work.join("moments");
    std::fs::copy(moments.join("00001"), moments.join("00000")).expect("copied");
    let told = made(&settings, &parts(&work, None));
    let table = |made: &[(String, Vec<u8>)]| {
        made.iter().find(|(name, _)| name == "var.csv").expect("a table").1.clone()
    };
    assert!(table(&told) != table(&whole));
}

#[test]
fn every_pass_counts_every_cell_also_where_a_part_was_there_and_a_failed_run_ends() {
    let dir = tempfile::tempdir().expect("a folder");
    let (settings, work) = (two_files(dir.path()), dir.path().join("work"));
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = {
        let told = told.clone();
        Progress::new(move |event, _| {
            told.lock().expect("no panic holds it").push(match event {
                Event::Begins { what: "preprocess", done: 0, all, unit: "cells" } => ("begins", all),
                Event::Done(done) => ("done", done),
                Event::Ends => ("ends", 0),
                other => panic!("{other:?}"),
            });
        })
    };
    let run = |parts: &Parts| {
        let made = preprocess_parts(&settings, parts, &progress);
        (made, std::mem::take(&mut *told.lock().expect("no panic holds it")))
    };
    let (all, ends) = (4 * (700 + 450), ("ends", 0));
    let (_, told) = run(&parts(&work, Some(("filters", 0))));
    assert_eq!(told, [("begins", all), ("done", 200), ends]);
    std::fs::write(work.join("filters/00001"), "half").expect("written");
    let (made, told) = run(&parts(&work, None));
    assert!(made.is_err());
    assert_eq!(told, [("begins", all), ("done", 200), ("done", 400), ends], "a part that is there counts");
    std::fs::remove_file(work.join("filters/00001")).expect("removed");
    let (made, told) = run(&parts(&work, None));
    assert!(made.is_ok() && told[1..].is_sorted_by_key(|&(what, done)| (what, done)), "{told:?}");
    assert_eq!(told[told.len() - 2..], [("done", all), ends]);
}

#[test]
fn a_run_that_was_killed_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let whole = made(&settings, &Parts { cells: 4, ..Parts::default() });
    let out = dir.path().join("killed");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
        command.arg("preprocess").args(&settings.inputs).arg("--out").arg(&out);
        command.args([
            "--pert-col",
            "perturbation",
            "--control-pert",
            simulate::CONTROL,
            "--batch-col",
            "batch",
        ]);
        command.args(["--celltype-col", "cell_type", "--hvg-batch-key", "batch", "--n-top-genes", "30"]);
        command.args(["--target-sum", "median", "--min-genes", "3", "--part-cells", "4"]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("started")
    };
    let left: PathBuf = dir.path().join(".killed.parts");
    // Each file of a part that is done, with what tells it from one that is made anew.
    let done = || -> BTreeMap<PathBuf, (u64, SystemTime)> {
        let passes = ["filters", "totals", "moments", "rows"].map(|pass| std::fs::read_dir(left.join(pass)));
        let files = passes.into_iter().flatten().flatten().map(|entry| entry.expect("readable"));
        let files = files.filter(|file| !file.file_name().to_string_lossy().starts_with('.'));
        files
            .map(|file| {
                let told = file.metadata().expect("a file");
                (file.path(), (told.ino(), told.modified().expect("a time")))
            })
            .collect()
    };
    let (mut killed, mut before) = (0, BTreeMap::new());
    // Killed a little later each time, until a run reaches its end.
    for part in (0..288).step_by(60) {
        let mut child = run();
        let marks =
            ["filters", "totals", "moments", "rows"].map(|pass| left.join(pass).join(format!("{part:05}")));
        while child.try_wait().expect("a child").is_none() && !marks[killed % 4].exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        if child.try_wait().expect("a child").is_none() {
            child.kill().expect("killed");
            killed += 1;
        }
        child.wait().expect("ended");
        if out.exists() {
            break;
        }
        // What earlier runs made is kept as it is, and each of the four passes adds to it.
        let now = done();
        let kept = before.iter().filter(|(path, file)| now.get(*path) == Some(file)).count();
        assert_eq!(kept, before.len(), "{killed}: parts that were done are made again");
        assert!(
            killed > 4 || now.len() > before.len(),
            "{killed}: {} parts, and no more than before",
            now.len()
        );
        before = now;
    }
    if !out.exists() {
        assert!(run().wait().expect("ended").success());
    }
    assert!(killed > 0 && contents(&out) == whole && !left.exists());
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = two_files(dir.path());
    let work = dir.path().join("work");
    let what = refusal(&settings, &parts(&work, Some(("moments", 0))));
    assert!(what.contains("only: filters/0 must be made first"), "{what}");
    let what = refusal(&settings, &parts(&work, Some(("filters", 7))));
    assert!(what.contains("filters/7: there are 7 parts"), "{what}");
    let what = refusal(&settings, &Parts { cells: 201, ..parts(&work, None) });
    assert!(what.contains("parts of another command"), "{what}");

    preprocess_parts(&settings, &parts(&work, Some(("filters", 0))), &Progress::silent()).expect("a part");
    std::fs::write(work.join("filters/00000"), "half").expect("written");
    let what = refusal(&settings, &parts(&work, None));
    assert!(what.contains("00000") && what.contains("remove it"), "{what}");
    assert!(work.exists(), "a folder that was named stays");

    // Parts can be made one by one, but not those of a pass that this command lacks.
    settings.filters.min_genes = 0;
    (settings.target, settings.genes) = (None, Genes::Listed(dir.path().join("genes.txt")));
    std::fs::write(dir.path().join("genes.txt"), "GENE0001\nGENE0002\n").expect("written");
    let work = dir.path().join("other");
    for part in 0..7 {
        preprocess_parts(&settings, &parts(&work, Some(("rows", part))), &Progress::silent())
            .expect("a part");
    }
    let what = refusal(&settings, &parts(&work, Some(("moments", 0))));
    assert!(what.contains("moments is not a pass of this command, which has: rows"), "{what}");
    std::fs::write(work.join("rows/00003.rows"), "half").expect("written");
    let what = refusal(&settings, &parts(&work, None));
    assert!(what.contains("00003.rows: is cut off"), "{what}");
}

#[test]
fn a_part_that_is_not_as_it_was_written_is_named_and_made_again_once_removed() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = two_files(dir.path());
    let whole = made(&settings, &Parts { cells: 200, ..Parts::default() });
    settings.out = dir.path().join("again");
    let work = dir.path().join("work");
    for pass in ["filters", "totals", "moments", "rows"] {
        for part in 0..7 {
            let only = parts(&work, Some((pass, part)));
            preprocess_parts(&settings, &only, &Progress::silent()).expect("a part");
        }
    }
    let all = parts(&work, None);
    let way = "remove it and do the same again";
    for part in ["filters/00001", "totals/00002", "moments/00003", "rows/00004", "rows/00005.rows"] {
        let path = work.join(part);
        let good = std::fs::read(&path).expect("a part");
        // The rows begin with what stands before a chunk, seven words.
        let first = if part.ends_with("rows") { 0..28 } else { 0..1 };
        let places = first.chain((28..good.len()).step_by(good.len() / 20)).chain([good.len() - 1]);
        for place in places {
            let mut bad = good.clone();
            bad[place] ^= 1 << (place % 8);
            std::fs::write(&path, bad).expect("written");
            let what = refusal(&settings, &all);
            let told = what.starts_with(&path.display().to_string()) && what.contains(way);
            assert!(told && !settings.out.exists(), "byte {place} of {part}: {what}");
        }
        std::fs::write(&path, good).expect("written");
    }

    // Parts from before there were checksums.
    let command = std::fs::read_to_string(work.join("command")).expect("text");
    let before = command.replace(", parts of format 3", "");
    assert!(before != command);
    std::fs::write(work.join("command"), before).expect("written");
    let what = refusal(&settings, &all);
    assert!(what.contains("parts of another command"), "{what}");
    std::fs::write(work.join("command"), command).expect("written");

    for part in ["totals/00002", "rows/00004", "rows/00005.rows"] {
        std::fs::remove_file(work.join(part)).expect("removed");
    }
    assert!(made(&settings, &all) == whole && !work.exists());
}

#[test]
fn snakemake_makes_the_same_bytes() {
    let found = Command::new("snakemake").arg("--version").stdout(Stdio::null()).status();
    if !found.is_ok_and(|status| status.success()) {
        crate::shared::skipped("there is no snakemake (pip install snakemake)");
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let run = env!("CARGO_BIN_EXE_scale-engine");
    let options = format!(
        "a.h5ad b.h5ad --pert-col perturbation --control-pert {} --celltype-col cell_type --min-genes 3 --n-top-genes 30",
        simulate::CONTROL
    );
    let workflow = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/preprocess.smk");
    let output = Command::new("snakemake")
        .current_dir(dir.path())
        .arg("-s")
        .arg(workflow)
        .args(["--cores", "2", "--config", "out=flow", "part_cells=400"])
        .arg(format!("command={run} preprocess {options}"))
        .output()
        .expect("started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let whole = Settings { target: Some(Target::Sum(1e4)), batch: None, hvg_batch: None, ..settings };
    let whole = made(&whole, &Parts { cells: 400, ..Parts::default() });
    assert!(contents(&dir.path().join("flow")) == whole && !dir.path().join("flow.work").exists());
}

#[test]
fn a_linked_output_is_made_where_the_link_leads() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let whole = made(&settings, &Parts::default());
    let place = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(place("scratch/empty")).expect("made");
    for (link, to) in [("linked", "scratch/empty"), ("dangling", "scratch/made")] {
        std::os::unix::fs::symlink(place(to), place(link)).expect("linked");
        let linked = Settings { out: place(link), ..settings.clone() };
        assert!(made(&linked, &Parts::default()) == whole, "{link}");
        assert!(place(link).is_symlink() && place(to).join("manifest.json").exists(), "{link}");
    }
    let left =
        std::fs::read_dir(dir.path()).expect("readable").map(|entry| entry.expect("readable").file_name());
    assert!(!left.into_iter().any(|name| name.to_string_lossy().starts_with('.')), "parts are left");
}
