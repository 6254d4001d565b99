//! Files of text: tables, logs, settings, lists.

use std::fs::File;
use std::path::Path;

use serde_json::{Map, Value, json};
use toml::Table;

use crate::data::gzip::{UNPACK, is_packed};
use crate::error::{At, Error, Result};

/// How many lines of a file are shown.
const SHOWN: usize = 5;

/// Tables, recognised by two of their columns.
const TABLES: [(&str, &str, &str); 6] = [
    ("gene", "highly_variable", "genes of a source (var.csv)"),
    ("perturbation", "cells", "request for predict"),
    ("perturbation", "", "scores by perturbation (results.csv)"),
    ("statistic", "", "summary of scores (agg_results.csv)"),
    ("target", "p_value", "differential expression"),
    ("name", "pearson_delta", "table of predictors, from `demo` or `evaluate`"),
];

/// Longer than any text that is read as a whole here; a longer file is something else.
const MOST: u64 = 1 << 30;

/// What other files could have been.
const KNOWN: &str = "not a .h5ad, .shard or .safetensors file, data directory or run";

/// What a file of text holds, by its ending and first line.
pub fn describe(path: &Path) -> Result<Value> {
    let kind = path.extension().and_then(|e| e.to_str());
    if kind == Some("csv") {
        return csv(path);
    }
    let text = read(path)?;
    match kind {
        Some("jsonl") => log(path, &text),
        Some("json") => json(path, &text),
        Some("toml") => toml(path, &text),
        Some("html") => Ok(page("page", &text)),
        Some("svg") => Ok(page("figure", &text)),
        _ => Ok(json!({
            "kind": "list, one name per line",
            "lines": text.lines().filter(|line| !line.trim().is_empty()).count(),
            "first": text.lines().take(SHOWN).collect::<Vec<_>>(),
        })),
    }
}

fn read(path: &Path) -> Result<String> {
    if path.metadata().at(path)?.len() > MOST {
        return Err(Error::format(
            path,
            format!("is larger than the 1 GiB that a text file may have here, and {KNOWN}"),
        ));
    }
    let bytes = std::fs::read(path).at(path)?;
    String::from_utf8(bytes).map_err(|_| not_text(path))
}

fn not_text(path: &Path) -> Error {
    match is_packed(path) {
        true => Error::format(path, UNPACK),
        false => Error::format(path, format!("is not text, and {KNOWN}")),
    }
}

/// Row by row: a table of differential expression has millions.
fn csv(path: &Path) -> Result<Value> {
    let bad = |e: csv::Error| match e.kind() {
        csv::ErrorKind::Utf8 { .. } => not_text(path),
        _ => Error::format(path, e.to_string()),
    };
    let mut reader = csv::Reader::from_reader(File::open(path).at(path)?);
    let columns: Vec<String> = reader.headers().map_err(bad)?.iter().map(String::from).collect();
    let (mut rows, mut first) = (0, Vec::new());
    for row in reader.records() {
        let row = row.map_err(bad)?;
        if first.len() < SHOWN {
            first.push(row.iter().collect::<Vec<_>>().join(","));
        }
        rows += 1;
    }
    let is = |(first, other, _): &&(&str, &str, &str)| {
        columns.first().is_some_and(|c| c == first)
            && (other.is_empty() || columns.iter().any(|c| c == other))
    };
    Ok(json!({
        "kind": "table",
        "of": TABLES.iter().find(is).map_or("unknown", |(.., what)| what),
        "rows": rows,
        "columns": columns,
        "first": first,
    }))
}

/// metrics.jsonl: how far it has got, and the last value of each number.
fn log(path: &Path, text: &str) -> Result<Value> {
    let (mut last, mut first) = (Map::new(), Value::Null);
    for (i, line) in text.lines().enumerate() {
        let value: Map<String, Value> =
            serde_json::from_str(line).map_err(|e| Error::format(path, format!("line {}: {e}", i + 1)))?;
        if i == 0 {
            first = value.get("step").cloned().unwrap_or_default();
        }
        last.extend(value);
    }
    Ok(json!({ "kind": "log of a run", "lines": text.lines().count(), "first_step": first, "last": last }))
}

fn json(path: &Path, text: &str) -> Result<Value> {
    let value: Value = serde_json::from_str(text).map_err(|e| Error::format(path, e.to_string()))?;
    let scores = value.get("rules").is_some() && value.get("metrics").is_some();
    Ok(json!({ "kind": if scores { "scores (results.json)" } else { "JSON" }, "holds": value }))
}

/// A results.json, as one entry of a list.
pub fn scores(name: &str, path: &Path) -> Result<Value> {
    let text = std::fs::read_to_string(path).at(path)?;
    let found: Value = serde_json::from_str(&text).map_err(|e| Error::format(path, e.to_string()))?;
    let of = |field: &str| found.get(field).cloned().unwrap_or_default();
    let measures = found.get("metrics").and_then(Value::as_object).map_or(0, Map::len);
    Ok(json!({
        "name": name,
        "rules": of("rules"),
        "perturbations": of("perturbations"),
        "genes": of("genes"),
        "measures": measures,
    }))
}

/// A page or figure, with its title.
fn page(kind: &str, text: &str) -> Value {
    let title = text.split_once("<title").and_then(|(_, rest)| rest.split_once('>')?.1.split_once('<'));
    json!({ "kind": kind, "title": title.map(|(title, _)| title.trim()), "bytes": text.len() })
}

fn toml(path: &Path, text: &str) -> Result<Value> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| Error::format(path, e.to_string()))?;
    let kind = match table.contains_key("datasets") {
        true => "split file; `scale-engine split` checks it against its data",
        false => "config",
    };
    Ok(json!({ "kind": kind, "holds": table }))
}
