//! The bytes of an h5ad or a 10x file: described and read through, or refused.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::h5ad::{H5ad, describe};

fuzz_target!(|bytes: &[u8]| {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let path = DIR.get_or_init(|| tempfile::tempdir().expect("a temporary folder")).path().join("in.h5ad");
    std::fs::write(&path, bytes).expect("written");
    let _ = describe(&path);
    let Ok(file) = H5ad::open(&path) else { return };
    let (cells, genes) = file.shape();
    // Beyond what a file of this size could plausibly hold.
    if cells.saturating_mul(genes) > 1 << 20 {
        return;
    }
    let mut next = 0;
    for block in file.blocks() {
        let Ok((rows, block)) = block else { return };
        assert_eq!((rows.start, rows.len(), genes), (next, block.rows(), block.cols()));
        next = rows.end;
    }
    assert_eq!(next, cells);
});
