//! A table of features, as text: refused, or numbers of an ordinary size for each perturbation that is trained on.
#![no_main]

#[path = "../../tests/small_data.rs"]
#[allow(dead_code)]
mod small_data;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::features::{FeatureTable, Features};
use small_data::header;

fuzz_target!(|text: &[u8]| {
    static PLACE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("features.csv");
        (dir, path)
    });
    std::fs::write(path, text).expect("written");
    let Ok(table) = FeatureTable::read(path) else { return };
    let mut data = header(4, 1, 3, 1);
    let untrained = ["p003".to_string()];
    let Ok(features) = Features::of(&table, &data, &untrained) else { return };
    features.check(&table, &data).expect("the table that they are from");
    let features = features.extended(&table, &mut data).expect("the same table");
    let (width, inputs) = features.inputs(&data);
    let names = || data.perturbations.iter().chain(&data.unmeasured);
    assert!(width % 8 == 0 && inputs.len() == width * names().count());
    // Of two numbers each is one deviation from their mean.
    for (name, row) in names().zip(inputs.chunks(width)) {
        assert!(!["p001", "p002"].contains(&name.as_str()) || row.iter().all(|x| x.abs() < 1.01), "{name}: {row:?}");
        assert!(row.iter().all(|x| x.is_finite()), "{name}: {row:?}");
    }
    features.doubts(&data, &untrained, &(0..inputs.len() as u32).collect::<BTreeSet<u32>>());
});
