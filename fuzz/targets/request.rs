//! A request for populations, as text: refused, or one population or more.
#![no_main]

#[path = "../../tests/small_data.rs"]
#[allow(dead_code)]
mod small_data;

use std::path::PathBuf;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::predict::count_requested;
use small_data::header;

fuzz_target!(|text: &[u8]| {
    static PLACE: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PLACE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("request.csv");
        (dir, path)
    });
    std::fs::write(path, text).expect("written");
    for batches in [1, 2] {
        let Ok(populations) = count_requested(&header(4, 2, 3, batches), path) else { continue };
        // A line is as long as the columns and what separates them, at least.
        assert!(populations > 0 && populations < text.len());
    }
});
