//! Where the oracles and real data sets are: next to the project, never in it; and what a test says if it cannot run.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Says once why a test does not run: past the harness, which shows only what failing tests print.
pub fn skipped(why: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(why.to_string()) {
        let _ = writeln!(std::io::stderr(), "skipped: {why}");
    }
}

/// `../shared/<rel>`, or `None`, with a note, if it is missing.
pub fn shared(rel: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared").join(rel);
    if !path.exists() {
        skipped(&format!("../shared/{rel} is missing"));
        return None;
    }
    Some(path)
}
