//! Counts or logarithms: what `preprocess` takes a matrix's values for.

use scale_engine::data::h5ad::{Extra, Frame, X, write};
use scale_engine::data::preprocess::{Target, normalise};
use scale_engine::data::shard::{Data, Scale};

use crate::preprocess::{COUNTS, GENES, obs, refusal, run, small, sparse, var};

#[test]
fn log_values_are_recognised_and_kept() {
    for (divisor, scale) in [(1.0, Scale::Log1p), (10.0, Scale::Log1p10)] {
        let (_dir, settings) = small(|_, _, x| {
            for row in x.iter_mut() {
                let factor = normalise::factor(row.iter().sum(), 1e4);
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
    assert!(refusal(&settings).contains("--target-sum"));
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
