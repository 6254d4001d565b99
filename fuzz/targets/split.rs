//! The text of a split file: refused, or a split in which no perturbed group is in two parts and none is lost.
#![no_main]

#[path = "../../tests/small_data.rs"]
#[allow(dead_code)]
mod small_data;

use std::path::Path;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::shard::Data;
use scale_engine::data::split::{Part, Split};
use small_data::{World, header};

fuzz_target!(|text: &str| {
    static DATA: OnceLock<(tempfile::TempDir, Data)> = OnceLock::new();
    let (_, data) = DATA.get_or_init(|| {
        let mut header = header(4, 3, 2, 1);
        header.cell_types = ["a.b", "t0", "t1"].map(String::from).to_vec();
        let groups = [(0, 0, 0, 2), (1, 0, 0, 2), (2, 0, 0, 2), (0, 1, 0, 2), (1, 1, 0, 2), (1, 2, 0, 2), (2, 2, 0, 2)];
        World::of_groups(header, &groups).open()
    });
    let Ok(split) = Split::of_text(text, Path::new("split.toml"), data) else { return };
    let mut placed: Vec<u32> = Part::ALL.iter().flat_map(|&part| split.perturbed(part, data)).collect();
    placed.sort_unstable();
    assert!(placed.windows(2).all(|pair| pair[0] < pair[1]), "{placed:?}");
    let report = split.report(data);
    let cells: u64 = [&report.train, &report.val, &report.test, &report.dropped].iter().map(|part| part.cells).sum();
    assert_eq!(cells, 8);
});
