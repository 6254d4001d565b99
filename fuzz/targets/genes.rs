//! A list of genes, or a table that marks some: refused, or some of the genes that the cells have.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::preprocess::{Genes, Parts, Settings, plan};
use scale_engine::data::simulate::{Settings as World, simulate};

fuzz_target!(|text: &[u8]| {
    static PLACE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (dir, cells) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cells = dir.path().join("cells.h5ad");
        let world = World { cells: 12, genes: 10, perturbations: 2, cell_types: 1, batches: 1, ..World::default() };
        simulate(&world).expect("a small world").write(&cells).expect("written");
        (dir, cells)
    });
    let list = dir.path().join("genes.txt");
    std::fs::write(&list, text).expect("written");
    let settings = Settings { genes: Genes::Listed(list), ..Settings::of_simulated(cells, &dir.path().join("out")) };
    let Ok(plan) = plan(&settings, &Parts::default()) else { return };
    assert!((1..=10).contains(&plan.contents.genes));
});
