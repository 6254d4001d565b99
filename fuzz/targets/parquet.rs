//! The bytes of a shard of Tahoe's release, next to valid tables of metadata: described and read through, or refused.
#![no_main]

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::h5ad::{H5ad, describe};

fuzz_target!(|bytes: &[u8]| {
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tahoe/metadata");
        for name in ["gene_metadata.parquet", "sample_metadata.parquet"] {
            std::fs::copy(golden.join(name), dir.path().join(name)).expect("copied");
        }
        dir
    });
    let path: PathBuf = dir.path().join("shard.parquet");
    std::fs::write(&path, bytes).expect("written");
    let _ = describe(&path);
    let Ok(file) = H5ad::open_columns(&path, &["drugname_drugconc", "plate"], "X") else { return };
    if file.shape().0 > 1 << 16 {
        return;
    }
    for block in file.blocks() {
        let Ok((rows, block)) = block else { return };
        assert_eq!((rows.len(), file.shape().1), (block.rows(), block.cols()));
    }
    let _ = file.cell_names(0..file.shape().0);
});
