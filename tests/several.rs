//! Several runs that predict together: the mean of their cells, and how far they agree.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use scale_engine::checkpoint::Trained;
use scale_engine::config::{Config, Observe};
use scale_engine::correlation::pearson;
use scale_engine::data::h5ad::{Column, H5ad};
use scale_engine::data::shard::{Data, Scale};
use scale_engine::data::split::Part;
use scale_engine::error::Result;
use scale_engine::predict::{self, ControlFile, Report, Source, predict};
use scale_engine::predictor::{Context, ControlCells, Predictor};
use scale_engine::progress::Progress;
use scale_engine::train::{Begin, Settings, train};

use crate::other_data::renamed;
use crate::refused::told;
use crate::train::{names, program, set, small, trained, trained_by};

/// Runs like the small one, of other seeds, sets and passes: one whose sets divide its passes, one whose sets do not, trained by a
/// split file with other words.
fn others() -> [&'static Path; 2] {
    static RUNS: OnceLock<(tempfile::TempDir, [PathBuf; 2])> = OnceLock::new();
    let made = RUNS.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let place = |name: &str| dir.path().join(name);
        let (second, third) = (place("second"), place("third"));
        let other = ["train.seed=7", "data.cells=8", "data.sets=4", "train.steps=40"];
        trained(small(), &second, &other, &Progress::silent()).expect("a run");
        let text = std::fs::read_to_string(&small().split).expect("readable");
        std::fs::write(place("split.toml"), format!("{text}# a word\n")).expect("written");
        let other = ["train.seed=8", "data.cells=24", "data.sets=3", "train.steps=40"];
        trained_by(small(), &place("split.toml"), &third, &other, &Progress::silent()).expect("a run");
        (dir, [second, third])
    });
    made.1.each_ref().map(PathBuf::as_path)
}

/// Predicts two populations, one of them longer than any pass of the models; returns the cells and their control cells.
fn ask(runs: &[&Path], observe: Observe, out: &Path) -> Result<(Vec<Vec<f32>>, Vec<String>, Report)> {
    let (types, perturbations) = names();
    let request = out.with_extension("csv");
    let lines = format!(
        "{},{},batch-1,150\n{},{},batch-2,13\n",
        perturbations[0], types[0], perturbations[2], types[1]
    );
    std::fs::write(&request, format!("perturbation,cell_type,batch,cells\n{lines}")).expect("written");
    let source = Source::File { controls: ControlFile::new(&small().cells), request };
    let settings = predict::Settings {
        runs: runs.iter().map(PathBuf::from).collect(),
        effects_out: Some(out.with_extension("effects.h5ad")),
        observe: Some(observe),
        ..predict::Settings::new(runs[0], source, out)
    };
    let report = predict(&settings, &Progress::silent())?;
    let file = H5ad::open(out)?;
    let from = file.obs().labels(out, "predicted_from")?;
    let from = (0..from.len()).map(|i| from.get(i).expect("a cell").to_string()).collect();
    Ok((dense(&file)?, from, report))
}

fn dense(file: &H5ad) -> Result<Vec<Vec<f32>>> {
    let rows = file.rows(0..file.shape().0)?;
    Ok(rows.to_dense().outer_iter().map(|row| row.to_vec()).collect())
}

fn mean(rows: &[Vec<f32>]) -> Vec<f64> {
    let of = |gene: usize| rows.iter().map(|row| f64::from(row[gene])).sum::<f64>() / rows.len() as f64;
    (0..rows[0].len()).map(of).collect()
}

#[test]
fn the_cells_of_several_runs_are_the_mean_of_each_runs_cells() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (first, [second, third]) = (small().run.as_path(), others());
    let asked =
        |runs: &[&Path], name: &str| ask(runs, Observe::None, &dir.path().join(name)).expect("an answer");
    let (a, from, one) = asked(&[first], "a.h5ad");
    let (b, from_b, _) = asked(&[second], "b.h5ad");
    let (both, from_both, two) = asked(&[first, second], "both.h5ad");
    assert!(from == from_b && from == from_both, "the control cells are not the same");
    assert_eq!((one.checkpoints.len(), two.checkpoints.len(), two.cells), (1, 2, 163));
    assert!(a != b, "the two runs are one");
    for ((a, b), both) in a.iter().zip(&b).zip(&both) {
        assert!(a.iter().zip(b).zip(both).all(|((a, b), both)| *both == (a + b) / 2.0));
    }
    assert!(asked(&[second, first], "turned.h5ad").0 == both, "the order of the runs matters");
    // Sets of 24 reach beyond the longest pass, which has 128 cells: no control cell is lost on the way.
    assert!(asked(&[first, third], "odd.h5ad").1 == from, "the control cells are not the same");
    let told = |out: &Path, name: &str| H5ad::open(out).expect("readable").told(name).expect("a note");
    assert_eq!(told(&two.out, "step"), format!("{}, 40", told(&one.out, "step")));
    assert!(told(&two.out, "checkpoint").contains(", ") && told(&two.out, "trained_split").contains(", "));
}

#[test]
fn what_holds_of_one_run_alone_is_said_with_its_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let [second, third] = others();
    let report = |runs: &[&Path]| {
        let (data, split, part) = (small().data.clone(), small().split.clone(), Part::Val);
        let source = Source::Data { data, split, part, real_out: None, real_controls: None };
        let out = dir.path().join("out.h5ad");
        let runs: Vec<PathBuf> = runs.iter().map(PathBuf::from).collect();
        let settings = predict::Settings { runs, ..predict::Settings::new(second, source, &out) };
        predict(&settings, &Progress::silent())
    };
    let none = report(&[]).expect_err("no run").to_string();
    assert_eq!(none, "runs: give one run, or several to be averaged");
    let report = |runs: &[&Path]| report(runs).expect("a prediction");
    let (alone, several) = (report(&[third]).notes, report(&[second, third]).notes);
    assert!(alone.len() == 1 && alone[0].starts_with("the split file is not the one"), "{alone:?}");
    assert_eq!(several, [format!("{}: {}", third.display(), alone[0])]);
}

#[test]
fn the_file_of_effects_has_each_populations_mean_and_how_far_the_runs_agree() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (first, [second, _]) = (small().run.as_path(), others());
    let (a, ..) = ask(&[first], Observe::None, &place("a.h5ad")).expect("an answer");
    let (b, ..) = ask(&[second], Observe::None, &place("b.h5ad")).expect("an answer");
    // Drawn counts are around the means; the effects are the means' own.
    let (drawn, from, report) =
        ask(&[first, second], Observe::Poisson, &place("both.h5ad")).expect("an answer");
    let file = |name: &str| H5ad::open(&place(name)).expect("readable");
    let effects = file("both.effects.h5ad");
    assert_eq!(report.effects_out, Some(place("both.effects.h5ad")));
    let (types, perturbations) = names();
    assert_eq!(effects.obs().index[1], format!("{} / {} / batch-2", types[1], perturbations[2]));
    let column = |name: &str| match effects.obs().column(name) {
        Some(Column::Float(numbers)) => numbers.clone(),
        Some(Column::Integer(numbers)) => numbers.iter().map(|&n| n as f64).collect(),
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(column("cells"), [150.0, 13.0]);
    let layer = |name: &str| {
        let file = H5ad::open_columns(&place("both.effects.h5ad"), &[], name).expect("a layer");
        dense(&file).expect("numbers")
    };
    let (made, resting, spread) =
        (dense(&effects).expect("X"), layer("layers/control"), layer("layers/spread"));
    for (row, cells) in [0..150, 150..163].into_iter().enumerate() {
        let (a, b) = (mean(&a[cells.clone()]), mean(&b[cells]));
        let effect =
            |of: &[f64]| of.iter().zip(&resting[row]).map(|(x, c)| x - f64::from(*c)).collect::<Vec<_>>();
        for gene in 0..a.len() {
            let expected = (a[gene] + b[gene]) / 2.0 - f64::from(resting[row][gene]);
            assert!((f64::from(made[row][gene]) - expected).abs() < 1e-6);
            let expected = (a[gene] - b[gene]).abs() / 2f64.sqrt();
            assert!((f64::from(spread[row][gene]) - expected).abs() < 1e-6);
        }
        let expected = pearson(&effect(&a), &effect(&b));
        assert!((column("agreement")[row] - expected).abs() < 1e-5 && expected < 0.9999);
    }
    // The mean of the control cells that the second population was made from, in the file that they came from.
    let controls = H5ad::open(&small().cells).expect("readable");
    let all = dense(&controls).expect("X");
    let own: Vec<&Vec<f32>> = from[150..]
        .iter()
        .map(|name| &all[controls.obs().index.iter().position(|other| other == name).expect("a cell")])
        .collect();
    for (gene, name) in effects.var().index.iter().enumerate() {
        let column = controls.var().index.iter().position(|other| other == name).expect("a gene");
        let log = |cell: &&Vec<f32>| f64::from((cell[column] / cell.iter().sum::<f32>() * 1e4).ln_1p());
        let expected = own.iter().map(log).sum::<f64>() / 13.0;
        assert!((f64::from(resting[1][gene]) - expected).abs() < 1e-4, "{name}");
    }
    let zeros = |rows: &[Vec<f32>]| rows.iter().flatten().filter(|x| **x == 0.0).count();
    assert!(zeros(&drawn) > 4 * (zeros(&a) + 1), "counts were not drawn");
    let one = file("a.effects.h5ad");
    assert!(one.obs().column("agreement").is_none());
    assert!(H5ad::open_columns(&place("a.effects.h5ad"), &[], "layers/spread").is_err());
}

#[test]
fn runs_that_cannot_be_averaged_are_refused_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    renamed(&small().data, &place("data"), "\"GENE0007\"", "\"GENE0077\"");
    let mut words = set();
    words.extend(["train.steps=10".to_string(), "predict.observe=none".to_string()]);
    let begin = || Begin::drawn(Config::load(Some("tiny"), None, &words).expect("a config"));
    for (data, run) in [(&place("data"), place("other")), (&small().data, place("means"))] {
        train(&Settings::new(data, &small().split, &run, begin()), &Progress::silent()).expect("a run");
    }
    let copy = place("copy.safetensors");
    let best = small().run.join("checkpoints/best.safetensors");
    std::fs::copy(&best, &copy).expect("copied");
    let request = place("request.csv");
    let line = format!("{},{},batch-1,5", names().1[0], names().0[0]);
    std::fs::write(&request, format!("perturbation,cell_type,batch,cells\n{line}\n")).expect("written");
    let (out, effects) = (place("out.h5ad"), place("effects.h5ad"));
    let predict = |runs: &[&Path], effects: &Path| {
        let mut predict = program();
        predict
            .arg("predict")
            .args(runs)
            .arg("--controls")
            .arg(&small().cells)
            .arg("--request")
            .arg(&request);
        told(predict.arg("--out").arg(&out).arg("--effects-out").arg(effects))
    };
    let run = small().run.as_path();
    for (other, expected) in [
        (run, "is given twice"),
        (&best, "is given twice"),
        (&copy, "has the weights of"),
        (&place("other"), "is \"GENE0007\" there and \"GENE0077\" here"),
        (&place("means"), "--observe"),
    ] {
        let (code, said) = predict(&[run, other], &effects);
        assert!(matches!(code, Some(1 | 2)) && said.contains(expected), "{code:?} {said}");
        assert!(!out.exists() && !effects.exists());
    }
    let foreign = place("foreign.h5ad");
    std::fs::write(&foreign, "cells").expect("written");
    for (effects, expected) in [
        (out.as_path(), "twice"),
        (&small().cells, "which is an input"),
        (&foreign, "so it is not replaced"),
        (Path::new("/proc/effects.h5ad"), "/proc"),
    ] {
        let (code, said) = predict(&[run], effects);
        assert!(code == Some(1) && said.contains(expected) && !out.exists(), "{code:?} {said}");
    }
    // Two ways to write the path of one file, in a folder that is not there yet and is not made for a request that is refused.
    let within = |path: &str| dir.path().join(path);
    let mut twice = program();
    twice.arg("predict").arg(run).arg("--controls").arg(&small().cells).arg("--request").arg(&request);
    let (out_there, effects_there) = (within("new/out.h5ad"), within("./new/out.h5ad"));
    let (code, said) = told(twice.arg("--out").arg(out_there).arg("--effects-out").arg(effects_there));
    assert!(code == Some(1) && said.contains("twice") && !place("new").exists(), "{code:?} {said}");
    // Mean effects are not cells.
    let (code, said) = predict(&[run], &effects);
    assert_eq!(code, Some(0), "{said}");
    let mut evaluate = program();
    evaluate.arg("evaluate").arg("--pred").arg(&effects).arg("--real").arg(&small().cells);
    let (code, said) = told(evaluate.arg("--out").arg(place("scores")));
    assert!(code == Some(1) && said.contains("holds mean effects, not cells"), "{code:?} {said}");
}

#[test]
fn models_of_other_scales_or_seeds_are_not_asked_together() {
    let trained = Trained::load(&small().run).expect("the run's best");
    let (own, mut other) = (trained.predictor(0), trained.header.data.clone());
    (other.scale, other.target) = (Scale::Log1p, None);
    let data = Data::open(&small().data).expect("a data directory");
    let controls = ControlCells::of(&data, &(0..8).collect::<Vec<u64>>());
    let unlike = Predictor { data: &other, ..own };
    for (pair, expected) in [
        ([own, unlike], "an unknown total"),
        ([unlike, own], "an unknown total"),
        ([own, trained.predictor(1)], "the seeds 0 and 1"),
    ] {
        let why = Context::of(&pair, &controls).expect_err("a refusal").to_string();
        assert!(why.contains(expected), "{why}");
    }
    assert!(Context::of(&[], &controls).is_err() && Context::of(&[own, own], &controls).is_ok());
}
