//! What a single shard holds, for `scale-engine inspect`.

use std::path::Path;

use serde_json::{Value, json};

use super::file::{check_bytes, map, place};
use super::format::Header;
use crate::error::{Error, Result};

/// What the shard states about itself, as JSON. Layout and checksums are checked; ids and rows only with the directory's manifest.
///
/// # Errors
/// A file that is not a shard, or a damaged one.
pub fn describe(path: &Path) -> Result<Value> {
    let map = map(path)?;
    let wrong = |what| Error::format(path, what);
    let (header, crc, begin) = Header::decode(&map).map_err(wrong)?;
    let sections = place(&header, begin, map.len()).map_err(wrong)?;
    check_bytes(&map, &header, begin, &sections).map_err(wrong)?;
    Ok(json!({
        "kind": "shard",
        "of": if header.controls { "control cells" } else { "perturbed cells" },
        "cells": header.rows,
        "groups": header.groups,
        "genes": header.genes,
        "stored": header.nonzeros,
        "values": header.values,
        "scale": header.scale,
        "target": header.target,
        "factor": header.factor,
        "vocabularies": {
            "cell_types": header.cell_types,
            "perturbations": header.perturbations,
            "batches": header.batches,
        },
        "bytes": map.len(),
        "crc": format!("{crc:08x}"),
        "sections": header.sections.iter().map(|s| (s.name.clone(), json!(s.bytes))).collect::<serde_json::Map<_, _>>(),
        "checksums": "agree",
    }))
}
