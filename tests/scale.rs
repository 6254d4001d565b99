//! Counts or logarithms: what `preprocess` takes a matrix's values for.

use scale_engine::config::Observe;
use scale_engine::data::h5ad::{Column, Extra, Frame, H5ad, X, write};
use scale_engine::data::normalise;
use scale_engine::data::observe::Observer;
use scale_engine::data::population::log1p;
use scale_engine::data::preprocess::{Genes, Target};
use scale_engine::data::scale::Told;
use scale_engine::data::shard::{Data, Scale};
use scale_engine::predictor::ControlCells;
use scale_engine::rng::Rng;

use crate::preprocess::{COUNTS, GENES, obs, refusal, run, small, sparse, var, words};

#[test]
fn log_values_are_recognised_and_kept() {
    for (divisor, scale) in [(1.0, Scale::Log1p), (10.0, Scale::Log1p10)] {
        let (_dir, settings) = small(|_, _, x| {
            for row in x.iter_mut() {
                let factor = normalise::divisor(row.iter().sum(), 1e4);
                row.iter_mut().for_each(|value| *value = (*value / factor).ln_1p() / divisor);
            }
        });
        let summary = run(&settings).expect("made");
        assert_eq!((summary.contents.scale, summary.target), (scale, Some(1e4)), "{}", summary.contents.why);
        let data = Data::open(&settings.out).expect("opened");
        let group = data.groups().iter().find(|group| group.perturbation == 1).expect("b");
        let mut x = [0.0; 5];
        data.fill(group.first, &mut x);
        assert!((x[0] - (2e4f32 / 70_003.0).ln_1p() / 10.0).abs() < 1e-6, "{x:?}");
        // The rarest gene of the cell has one count.
        assert!((data.row(group.first).library / 70_003.0 - 1.0).abs() < 1e-3);
    }
}

#[test]
fn a_told_scale_is_believed() {
    let halves = |_: &mut Frame, _: &mut Frame, x: &mut [[f32; 5]; 6]| {
        x.as_flattened_mut().iter_mut().for_each(|v| *v /= 1e5)
    };
    let (_dir, mut settings) = small(halves);
    settings.scale = Some(Scale::Log1p);
    let summary = run(&settings).expect("made");
    assert_eq!((summary.contents.scale, summary.target), (Scale::Log1p, None));
    settings.scale = Some(Scale::Counts);
    settings.out.set_file_name("other");
    assert!(refusal(&settings).contains("which is not a count"));
    // So is the stated total to which log values were scaled, unless their cells show another.
    (settings.scale, settings.target) = (Some(Scale::Log1p), Some(Target::Sum(5e3)));
    assert_eq!(run(&settings).expect("made").target, Some(5e3));
    settings.out.set_file_name("third");
    settings.target = Some(Target::Median);
    assert!(refusal(&settings).starts_with("target: "));
}

/// A matrix of two data sets that were put together before they were brought to one scale.
#[test]
fn a_cell_on_another_scale_than_the_first_is_named() {
    let log = |row: &[f32; 5], total: f64| {
        let factor = normalise::divisor(row.iter().sum(), total);
        row.map(|value| (value / factor).ln_1p())
    };
    let (dir, mut settings) = small(|_, _, _| ());
    let n = 20_000; // more than a block holds
    let list = dir.path().join("genes.txt");
    std::fs::write(&list, "MYC\nACTB\n").expect("written");
    let write_with = |last: [f32; 5]| {
        let rows: Vec<[f32; 5]> =
            (0..n).map(|i| if i < n - 1 { log(&COUNTS[i % 3], 1e4) } else { last }).collect();
        let label = |names: [&str; 2]| words(&(0..n).map(|i| names[i % 2]).collect::<Vec<_>>());
        let columns =
            vec![("drug".to_string(), label(["none", "a"])), ("line".to_string(), label(["T", "T"]))];
        let obs = Frame { index: (0..n).map(|i| format!("cell{i}")).collect(), columns };
        let path = dir.path().join("many.h5ad");
        write(&path, &obs, &var(&GENES), X::Sparse(&sparse(&rows)), &[]).expect("written");
        path
    };
    for (last, told) in [(COUNTS[1], "contains 300"), (log(&COUNTS[1], 1e6), "sum to 1000000")] {
        settings.inputs = vec![write_with(last)];
        // By the pass that chooses genes; by the only pass, if they are given.
        for genes in [Genes::Top(1000), Genes::Listed(list.clone())] {
            settings.genes = genes;
            let what = refusal(&settings);
            assert!(what.contains("\"cell19999\"") && what.contains(told), "{what}");
        }
    }
    settings.inputs = vec![write_with(log(&COUNTS[2], 1e4))];
    run(&settings).expect("all on one scale");
}

#[test]
fn logarithms_to_another_base_are_recognised_without_a_mark() {
    let (_dir, mut settings) = small(|_, _, x| {
        for row in x.iter_mut() {
            let factor = normalise::divisor(row.iter().sum(), 1e4);
            row.iter_mut().for_each(|value| *value = (*value / factor + 1.0).log2());
        }
    });
    for told in [None, Some(Scale::Log1p)] {
        settings.scale = told;
        let what = refusal(&settings);
        assert!(what.contains("base 2") && what.contains("0.693147"), "{what}");
    }
}

#[test]
fn totals_that_a_column_holds_are_pointed_out() {
    let (_dir, mut settings) = small(|obs, _, x| {
        let totals = x.iter().map(|row| f64::from(row.iter().sum::<f32>()) * 3.0).collect();
        obs.columns.push(("n_counts".into(), Column::Float(totals)));
    });
    let notes = run(&settings).expect("made").contents.notes;
    assert!(
        notes.iter().any(|note| note.contains("`size = n_counts`") && note.contains("3.0 times")),
        "{notes:?}"
    );
    settings.out.set_file_name("other");
    settings.size = Some("n_counts".into());
    let notes = run(&settings).expect("made").contents.notes;
    assert!(notes.iter().all(|note| !note.contains("`size")), "{notes:?}");
}

#[test]
fn the_scale_mark_alone_decides_for_a_subset_of_genes() {
    let (dir, mut settings) = small(|_, _, _| ());
    let mut x = COUNTS;
    x.as_flattened_mut().iter_mut().for_each(|value| *value = (*value * 1.3).ln_1p());
    let marked = dir.path().join("marked.h5ad");
    let mark = [("uns/log1p/base".to_string(), Extra::Text("e".into()))];
    write(&marked, &obs(), &var(&GENES), X::Sparse(&sparse(&x)), &mark).expect("written");
    settings.inputs = vec![marked];
    let summary = run(&settings).expect("made");
    assert_eq!((summary.contents.scale, summary.target), (Scale::Log1p, None));
    assert!(summary.contents.why.contains("uns/log1p"));
    // What `sc.pp.log1p(base=2)` leaves in a file.
    let binary = dir.path().join("binary.h5ad");
    let mark = [("uns/log1p/base".to_string(), Extra::Numbers { shape: vec![1], values: &[2.0] })];
    write(&binary, &obs(), &var(&GENES), X::Sparse(&sparse(&x)), &mark).expect("written");
    (settings.inputs, settings.out) = (vec![binary], dir.path().join("other"));
    let error = run(&settings).expect_err("other logarithms").to_string();
    assert!(error.contains("uns/log1p/base") && error.contains("0.693147"), "{error}");
}

/// 10000.01 lies between two numbers of f32.
#[test]
fn counts_have_the_same_logs_wherever_they_come_from_whatever_the_total() {
    let counts = [5.0, 20.0, 975.0, 1500.0, 2500.0];
    let (_dir, mut settings) = small(|_, _, x| x[0] = counts);
    settings.target = Some(Target::Sum(10_000.01));
    run(&settings).expect("made");
    let data = Data::open(&settings.out).expect("opened");
    let cell = (0..data.cells()).find(|&cell| data.row(cell).library == 5000.0).expect("the cell");
    let row = data.row(cell);
    let measured: Vec<f32> = log1p(&data, &row).collect();

    // A matrix in memory.
    let names: Vec<String> = GENES.map(String::from).to_vec();
    let x = sparse(&[counts]);
    let manifest = data.manifest();
    let controls = ControlCells::of_matrix(manifest, &names, &x, None, Told::default()).expect("counts");
    let from_memory = controls.mean();
    for (&gene, &log) in row.genes.iter().zip(&measured) {
        assert_eq!(from_memory[usize::from(gene)], f64::from(log / manifest.factor), "gene {gene}");
    }

    // Counts that are drawn.
    let observer = Observer::asked(Observe::Poisson, manifest.target).expect("a total").expect("asked for");
    let mut drawn: Vec<f32> = (0..200).map(|i| (i as f32).ln_1p()).collect();
    observer.observe(&mut drawn, 5000.0, Rng::new(1));
    let known: Vec<f32> = (0..5000)
        .map(|count| normalise::log_value(count as f32, Scale::Counts, data.row_scale(5000.0)))
        .collect();
    let apart = drawn.iter().filter(|log| !known.contains(log)).count();
    assert_eq!(apart, 0, "of 200 counts drawn differ from the same counts measured");
}

#[test]
fn files_of_logs_were_scaled_to_one_total_and_tell_it_only_if_each_does() {
    let scaled = |total: f64| {
        COUNTS.map(|row| {
            let factor = normalise::divisor(row.iter().sum(), total);
            row.map(|value| (value / factor).ln_1p())
        })
    };
    let mut panel = COUNTS;
    panel.as_flattened_mut().iter_mut().for_each(|value| *value = (*value * 1.3).ln_1p());
    let mark = [("uns/log1p/base".to_string(), Extra::Text("e".into()))];
    for (second, marks, wanted) in [
        (scaled(1.005e4), &mark[..0], Ok(Some(1e4))),
        (panel, &mark[..], Ok(None)),
        (scaled(1.05e4), &mark[..0], Err("was scaled to 10500 per cell, but the files before it to 10000")),
    ] {
        let (dir, mut settings) = small(|_, _, x| *x = scaled(1e4));
        let path = dir.path().join("second.h5ad");
        write(&path, &obs(), &var(&GENES), X::Sparse(&sparse(&second)), marks).expect("written");
        settings.inputs.push(path);
        match wanted {
            Ok(target) => assert_eq!(run(&settings).expect("made").target, target),
            Err(said) => assert!(refusal(&settings).contains(said), "{}", refusal(&settings)),
        }
    }
}

/// Other programs keep the record when they change the values.
#[test]
fn a_total_is_believed_only_where_this_program_has_written_it() {
    let (dir, _settings) = small(|_, _, _| ());
    let path = dir.path().join("told.h5ad");
    let total = Extra::Numbers { shape: vec![1], values: &[1e4] };
    let program = || ("uns/scale_engine/program".to_string(), Extra::Text("scale-engine".into()));
    let mut told = vec![("uns/log1p/target_sum".to_string(), total)];
    let told_by = |told: &[(String, Extra)]| {
        write(&path, &obs(), &var(&GENES), X::Sparse(&sparse(&COUNTS)), told).expect("written");
        H5ad::open(&path).expect("opened").log_target()
    };
    assert_eq!(told_by(&told), None);
    told.push(program());
    assert_eq!(told_by(&told), Some(1e4));
}
