//! The contents of an h5ad file, or of one that is read as such, for `scale-engine inspect`.

use std::path::Path;

use serde::Serialize;
use serde_json::{Value, json};

use super::hdf5::Named;
use super::{Column, Format, Frame, H5ad, tahoe};
use crate::error::Result;
use crate::folder::name_of;

/// Example values shown per column.
const SHOWN: usize = 5;

/// Sizes, storage, columns and other contents of the file, as JSON.
///
/// # Errors
/// As [`H5ad::open`]; but a parquet file without cells, or without the tables that name its genes, is described as a table.
pub fn describe(path: &Path) -> Result<Value> {
    let shards = tahoe::shards(path)?;
    let parquet = match shards.is_empty() {
        true => None,
        false => match tahoe::about(path, &shards)? {
            Ok(about) => Some(about),
            Err(table) => return Ok(table),
        },
    };
    // For a release the first shard's labels stand for all: the others are read only when needed.
    let file = match shards.first() {
        Some(first) => tahoe::open(path, std::slice::from_ref(first), None, "X")?,
        None => H5ad::open(path)?,
    };
    let (cells, genes) = file.shape();
    let mut kept = serde_json::Map::new();
    for name in ["layers", "obsm", "varm", "obsp", "varp", "uns"] {
        if let Some(Ok(group)) = file.file.as_ref().map(|file| file.group(name)) {
            let members = group.groups().and_then(|groups| Ok([groups, group.datasets()?].concat()));
            let told = members.named(path, &format!("a member of {name}")).map(|mut members| {
                members.sort();
                json!(members)
            });
            kept.insert(name.to_string(), told.unwrap_or_else(|error| json!(error.to_string())));
        }
    }
    let cells = parquet.as_ref().map_or(json!(cells), |about| about["rows"].clone());
    let mut told = json!({
        "kind": match file.format {
            Format::H5ad => "h5ad",
            Format::TenX => "10x h5",
            Format::Mtx => "10x mtx",
            Format::Tahoe => "Tahoe parquet",
        },
        "cells": cells,
        "genes": genes,
        "x": { "storage": file.storage(), "stored": file.stored(), "logged": file.is_logged() },
        "raw": file.has_raw(),
        "obs": columns(file.obs()),
        "var": columns(file.var()),
        "first_cells": shown(&file.obs().index),
        "first_genes": shown(&file.var().index),
        "holds": kept,
        "notes": file.notes(),
    });
    if let Some(mut about) = parquet {
        about["labels_of"] = json!(name_of(&shards[0]));
        told["parquet"] = about;
    }
    Ok(told)
}

fn columns(frame: &Frame) -> Vec<Value> {
    let describe = |(name, column): &(String, Column)| match column {
        Column::Categorical(labels) => json!({
            "name": name,
            "kind": column.kind(),
            "labels": labels.names.len(),
            "missing": labels.codes.iter().filter(|&&code| code < 0).count(),
            "first": shown(&labels.names),
        }),
        Column::Unread(why) => json!({ "name": name, "kind": column.kind(), "why": why }),
        _ => json!({ "name": name, "kind": column.kind(), "first": first(column) }),
    };
    frame.columns.iter().map(describe).collect()
}

fn shown<T: Serialize>(items: &[T]) -> Value {
    json!(items[..items.len().min(SHOWN)])
}

fn first(column: &Column) -> Value {
    match column {
        Column::Text(items) => shown(items),
        Column::Integer(items) => shown(items),
        Column::Float(items) => shown(items),
        Column::Boolean(items) => shown(items),
        Column::Categorical(_) | Column::Unread(_) => Value::Null,
    }
}
