//! `scale-engine inspect`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::words::in_options;
use crate::checkpoint::{Checkpoint, Described};
use crate::data::h5ad;
use crate::data::shard::{self, Data};
use crate::error::{At, Error, Result};
use crate::folder::{name_of, names_in, paths_in};
use crate::run_folder::RunFolder;

mod text;

const EXAMPLE: &str = "\
Examples:
  scale-engine inspect cells.h5ad
  scale-engine inspect DATA
  scale-engine inspect RUN/metrics.jsonl
  scale-engine inspect RUN --json

Describes .h5ad files, 10x output, parquet, data directories and their shards, runs with their checkpoints and logs, \
configs, split files, requests, and scores with their reports and figures. Shards are verified against their checksums, \
for a data directory all of them.";

/// Describe any file or folder that the program reads or writes
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLE)]
pub struct Args {
    /// File or folder
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Describes the path and prints it.
pub fn run(args: Args) -> Result<()> {
    let mut value = describe(&args.path)?;
    if let Some(Value::String(text)) = value.get_mut("preprocess") {
        *text = in_options(text);
    }
    if args.json {
        println!("{value}");
    } else {
        print(&value, 0);
    }
    let of_run = value.get("last").unwrap_or(&value);
    match of_run.get("damaged").and_then(Value::as_str) {
        Some(_) => Err(Error::format(&args.path, "is damaged; see \"damaged\" above")),
        None => Ok(()),
    }
}

/// What the path holds.
fn describe(path: &Path) -> Result<Value> {
    if Data::is_at(path) {
        return data(path);
    }
    if RunFolder::at(path).checkpoints().exists() {
        return run_folder(path);
    }
    if h5ad::find_mtx(path)?.is_some() {
        return h5ad::describe(path);
    }
    if h5ad::is_parquet(path) {
        return parquet(path);
    }
    if path.is_dir() {
        return folder(path);
    }
    let name = name_of(path);
    match path.extension().and_then(|e| e.to_str()) {
        _ if !path.exists() => Err(Error::format(path, "there is no such file or folder")),
        Some("safetensors") => checkpoint(path),
        Some("h5ad" | "h5") => h5ad::describe(path),
        _ if h5ad::is_hdf5(path) => h5ad::describe(path),
        Some("shard") => shard::describe(path),
        _ if name == "manifest.json" => data(path.parent().unwrap_or(Path::new("."))),
        _ if name.contains(".tfevents.") => events(path),
        _ => text::describe(path),
    }
}

/// A folder that is neither data nor run: scores, figures, checkpoints, or everything a demo made.
fn folder(path: &Path) -> Result<Value> {
    let names = names_in(path)?;
    let ending = |end: &str| names.iter().filter(|name| name.ends_with(end)).collect::<Vec<_>>();
    let all = |end: &str| !names.is_empty() && ending(end).len() == names.len();
    if all(".safetensors") {
        let one = |name: &String| {
            let header = Checkpoint::describe(&path.join(name))?.header;
            Ok(json!({ "name": name, "kind": "checkpoint", "step": header.step, "best": header.best }))
        };
        let each = names.iter().map(one).collect::<Result<Vec<_>>>()?;
        return Ok(json!({ "kind": "checkpoints", "holds": each }));
    }
    if !ending("agg_results.csv").is_empty() {
        let one = |name: &&String| text::scores(name, &path.join(name));
        let results = ending("results.json").iter().map(one).collect::<Result<Vec<_>>>()?;
        return Ok(json!({ "kind": "scores", "results": results, "holds": names }));
    }
    Ok(json!({ "kind": if all(".svg") { "figures" } else { "folder" }, "holds": names }))
}

/// A parquet file or a folder of them. Files of a folder that are not Tahoe's shards may be of one table or of several; tables that
/// differ are listed one by one.
fn parquet(path: &Path) -> Result<Value> {
    let whole = h5ad::describe(path)?;
    if whole["kind"] != "parquet table" || whole["files"].as_u64() < Some(2) {
        return Ok(whole);
    }
    let mut files = paths_in(path)?;
    files.retain(|file| file.extension().is_some_and(|end| end == "parquet"));
    let each = files.iter().map(|file| h5ad::describe(file)).collect::<Result<Vec<_>>>()?;
    if each.iter().all(|told| told["columns"] == whole["columns"]) {
        return Ok(whole);
    }
    let one = |(file, told): (&PathBuf, &Value)| {
        let columns = told["columns"].as_array().into_iter().flatten();
        let columns: Vec<&Value> = columns.map(|column| &column["name"]).collect();
        let name = name_of(file);
        json!({ "name": name, "kind": told["kind"], "rows": told["rows"], "columns": columns })
    };
    let each: Vec<Value> = files.iter().zip(&each).map(one).collect();
    Ok(json!({ "kind": "folder of parquet files with different columns", "holds": each }))
}

fn events(path: &Path) -> Result<Value> {
    let bytes = std::fs::metadata(path).at(path)?.len();
    Ok(json!({
        "kind": "TensorBoard events",
        "bytes": bytes,
        "read_by": "tensorboard --logdir RUN; metrics.jsonl beside it has the same numbers",
    }))
}

fn data(path: &Path) -> Result<Value> {
    let data = Data::open(path)?;
    let m = data.manifest();
    let groups = (0..).zip(data.groups()).filter(|(number, _)| data.is_control(*number));
    let control_cells: u64 = groups.map(|(_, group)| u64::from(group.cells)).sum();
    Ok(json!({
        "kind": "data directory",
        "dataset": m.dataset,
        "cells": data.cells(),
        "control_cells": control_cells,
        "groups": data.groups().len(),
        "columns": m.columns,
        "source_genes": m.source_genes,
        "genes": m.genes.len(),
        "first_genes": m.genes.iter().take(5).collect::<Vec<_>>(),
        "perturbations": m.perturbations.len(),
        "control": m.control,
        "cell_types": m.cell_types,
        "batches": m.batches.len(),
        "scale": m.scale,
        "target": m.target,
        "factor": m.factor,
        "sources": m.sources,
        "shards": m.shards,
    }))
}

fn checkpoint(path: &Path) -> Result<Value> {
    let described = Checkpoint::describe(path)?;
    let Described { header, program, .. } = &described;
    let count: usize = described.weights().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let mut told = json!({
        "kind": "checkpoint",
        "program": program,
        "step": header.step,
        "best": header.best,
        "weights": count,
        "config": header.config,
        "genes": header.data.genes.len(),
        "perturbations": header.data.perturbations.len(),
        "cell_types": header.data.cell_types,
        "batches": header.data.batches.len(),
        "sources": header.data.sources,
        "split_sha256": header.split,
        "init_from": header.init_from,
        "perturbation_features": header.features,
        "tensors": described.weights().map(|(name, shape)| (name.clone(), json!(shape))).collect::<serde_json::Map<_, _>>(),
    });
    if let Err(error) = Checkpoint::check(path) {
        told["damaged"] = json!(error.to_string());
    }
    Ok(told)
}

fn run_folder(path: &Path) -> Result<Value> {
    let run = RunFolder::at(path);
    let mut names = names_in(&run.checkpoints())?;
    names.retain(|name| name.ends_with(".safetensors"));
    let last = run.last();
    let state = if last.exists() { checkpoint(&last)? } else { Value::Null };
    Ok(json!({ "kind": "run directory", "checkpoints": names, "last": state }))
}

/// `key: value`, with nested values indented and long lists cut.
fn print(value: &Value, depth: usize) {
    let Value::Object(fields) = value else { return };
    let pad = "  ".repeat(depth);
    for (key, value) in fields {
        match value {
            Value::Object(_) => {
                println!("{pad}{key}");
                print(value, depth + 1);
            }
            Value::String(text) => println!("{pad}{key:<16} {text}"),
            Value::Array(items) if !items.is_empty() && items.iter().all(Value::is_object) => {
                println!("{pad}{key}");
                items.iter().for_each(|item| println!("{pad}  {}", line(item)));
            }
            Value::Array(items) if key == "first" => {
                println!("{pad}{key}");
                items.iter().filter_map(Value::as_str).for_each(|row| println!("{pad}  {}", cut(row)));
            }
            Value::Array(items) if items.len() > 12 => {
                let shown: Vec<String> = items.iter().take(12).map(ToString::to_string).collect();
                println!("{pad}{key:<16} [{}, .. {} in all]", shown.join(", "), items.len());
            }
            other => println!("{pad}{key:<16} {other}"),
        }
    }
}

/// A row as far as it fits into a line.
fn cut(row: &str) -> String {
    match row.char_indices().nth(100) {
        Some((end, _)) => format!("{} ..", &row[..end]),
        None => row.to_string(),
    }
}

/// An entry of a list in one line: its name and kind, then everything else about it.
fn line(item: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), String::from);
    let told = |(key, value): (&String, &Value)| match value {
        _ if key == "name" => format!("{:<24}", plain(value)),
        _ if key == "kind" => format!("{:<12}", plain(value)),
        Value::Array(items) => format!("{key} {}", items.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => format!("{key} {}", plain(other)),
    };
    let fields = item.as_object().into_iter().flatten();
    fields.map(told).collect::<Vec<_>>().join("  ").trim_end().to_string()
}
