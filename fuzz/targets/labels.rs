//! A table of labels, as text: refused, or labels for the cells that have a row, each of which is counted.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::preprocess::{Genes, Parts, Settings, plan};
use scale_engine::data::simulate::{Settings as World, simulate};

const CELLS: u64 = 12;

fuzz_target!(|text: &[u8]| {
    static PLACE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (dir, cells) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cells = dir.path().join("cells.h5ad");
        let world =
            World { cells: CELLS as usize, genes: 10, perturbations: 2, cell_types: 1, batches: 1, ..World::default() };
        simulate(&world).expect("a small world").write(&cells).expect("written");
        (dir, cells)
    });
    let table = dir.path().join("labels.csv");
    std::fs::write(&table, text).expect("written");
    let settings = Settings {
        labels: Some(table),
        genes: Genes::Top(10),
        size: Some("size".into()),
        ..Settings::of_simulated(cells, &dir.path().join("out"))
    };
    for settings in [&settings, &Settings { size: None, ..settings.clone() }] {
        let Ok(plan) = plan(settings, &Parts::default()) else { continue };
        let (contents, joined) = (&plan.contents, plan.contents.joined.as_ref().expect("a table"));
        assert!(joined.matched > 0 && joined.matched + joined.unmatched == CELLS);
        assert!(contents.cells > 0 && contents.cells + contents.dropped == CELLS);
    }
});
