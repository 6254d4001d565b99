//! Where the oracles and real data sets lie: beside the project, never in it.

use std::path::{Path, PathBuf};

/// `../shared/<rel>`, or `None` (said on stderr) where it is missing.
pub fn shared(rel: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(rel);
    if !path.exists() {
        eprintln!("skipped: ../shared/{rel} is missing");
        return None;
    }
    Some(path)
}
