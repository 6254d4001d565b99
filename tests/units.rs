//! What `predict` writes: the counts that are drawn, and the log values that are predicted, are the same cells.

use std::path::{Path, PathBuf};

use scale_engine::config::Observe;
use scale_engine::data::h5ad::{Cells, Column, H5ad};
use scale_engine::data::normalise::{divisor, log_value};
use scale_engine::data::population::Unit;
use scale_engine::data::shard::{Data, Scale};
use scale_engine::data::split::Part;
use scale_engine::error::Result;
use scale_engine::predict::{ControlFile, Report, Settings, Source, predict};
use scale_engine::progress::Progress;

use crate::train::{names, small};

/// Predicts with the control cells and, from a data directory, what was measured.
fn written(unit: Unit, observe: Observe, source: &Source, out: &Path) -> Result<Report> {
    let settings = Settings {
        unit,
        observe: Some(observe),
        with_controls: true,
        ..Settings::new(&small().run, source.clone(), out)
    };
    predict(&settings, &Progress::silent())
}

fn held_out(real: &Path) -> Source {
    let (data, split) = (small().data.clone(), small().split.clone());
    Source::Data { data, split, part: Part::Test, real_out: Some(real.into()), real_controls: None }
}

fn asked(dir: &Path, controls: &Path) -> Source {
    let (types, perturbations) = names();
    let request = dir.join("request.csv");
    let rows = format!("perturbation,cell_type,batch,cells\n{},{},batch-1,20\n", perturbations[0], types[0]);
    std::fs::write(&request, rows).expect("written");
    Source::File { controls: ControlFile::new(controls), request }
}

fn read(path: &Path) -> (H5ad, Cells) {
    let file = H5ad::open(path).expect("readable");
    let x = file.rows(0..file.shape().0).expect("X");
    (file, x)
}

/// The logs of a file of counts must be those of the other file, to the bit.
fn same(counts: &Path, logs: &Path) {
    let ((file, counts), (other, logs)) = (read(counts), read(logs));
    assert!(!file.is_logged() && other.is_logged());
    assert_eq!(
        (file.told("unit").as_deref(), other.told("unit").as_deref()),
        (Some("counts"), Some("log1p"))
    );
    let Some(Column::Float(totals)) = file.obs().column("total_counts") else { panic!("no totals") };
    assert_eq!(counts.rows(), logs.rows());
    for ((counts, logs), &total) in counts.outer_iterator().zip(logs.outer_iterator()).zip(totals) {
        assert!(counts.indices() == logs.indices() && counts.data().iter().all(|count| count.fract() == 0.0));
        let by = divisor(total as f32, 1e4);
        let found = counts.data().iter().map(|&count| log_value(count, Scale::Counts, by));
        assert!(found.eq(logs.data().iter().copied()));
    }
}

#[test]
fn counts_are_those_behind_the_log_values() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let out = |name: &str, unit: Unit| place(&format!("{name}-{}.h5ad", unit.name()));
    let from_file = asked(dir.path(), &small().cells);
    for unit in [Unit::Counts, Unit::Log1p, Unit::Scaled] {
        written(unit, Observe::Poisson, &held_out(&out("real", unit)), &out("pred", unit)).expect("written");
        written(unit, Observe::Poisson, &from_file, &out("asked", unit)).expect("written");
    }
    let factor = Data::open(&small().data).expect("readable").manifest().factor;
    for name in ["pred", "real", "asked"] {
        same(&out(name, Unit::Counts), &out(name, Unit::Log1p));
        let [logs, scaled] = [Unit::Log1p, Unit::Scaled].map(|unit| read(&out(name, unit)).1);
        assert!(logs.data().iter().map(|x| x / factor).eq(scaled.data().iter().copied()), "{name}");
    }
}

#[test]
fn counts_that_nobody_knows_are_refused_before_anything_is_predicted() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| -> PathBuf { dir.path().join(name) };
    let (out, real) = (place("out.h5ad"), place("real.h5ad"));
    let told = written(Unit::Counts, Observe::None, &held_out(&real), &out).expect_err("means").to_string();
    assert!(told.starts_with("unit: counts are drawn"), "{told}");
    // A prediction in logs stands for a file of controls in logs.
    written(Unit::Log1p, Observe::Poisson, &held_out(&real), &place("logs.h5ad")).expect("written");
    let logs = asked(dir.path(), &place("logs.h5ad"));
    let told = written(Unit::Counts, Observe::Poisson, &logs, &out).expect_err("logs").to_string();
    assert!(told.starts_with("unit: measured cells") && !out.exists(), "{told}");
}
