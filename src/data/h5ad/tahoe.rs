//! The parquet release of Tahoe-100M: a shard, or a folder of them as one data set.
//!
//! ```text
//!   a row     a cell: `genes` list<int64>, token ids; `expressions` list<float32>, counts; labels in flat columns
//!   marker    the first entry of both lists, where its expression is below zero; no count
//!   genes     gene_metadata.parquet: `token_id`, `gene_symbol`, `ensembl_id`
//!   labels    sample_metadata.parquet: more about a cell, joined by its `sample`, including `drugname_drugconc`, drug with dose
//! ```
//!
//! The two tables are in the release's folder `metadata`, which is searched for next to the shards and next to their folder.
//! Cells are read by [`super::tokens`].

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::column::missing_column;
use super::matrix::Matrix;
use super::tenx::Features;
use super::tokens::{BARCODE, COUNTS, GENE_TABLE, GENES, NO_GENE, Tokens};
use super::{Column, Format, Frame, Growing, H5ad, Labels, recoded};
use crate::data::parquet::{Parquet, is_parquet_file};
use crate::error::{Error, Result, unknown};
use crate::folder::{name_of, paths_in};

const SAMPLE: &str = "sample";
const TABLES: [&str; 2] = [GENE_TABLE, "sample_metadata.parquet"];
/// Tokens are small numbers; anything above this is not a token.
const MOST_TOKENS: i64 = 1 << 24;

/// The shards that a path stands for: itself, or those of a folder, without metadata tables; empty if it is neither.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(if is_parquet_file(path) { vec![path.to_path_buf()] } else { Vec::new() });
    }
    let mut found = paths_in(path)?;
    found.retain(|shard| {
        let name = name_of(shard);
        name.ends_with(".parquet") && !name.ends_with("_metadata.parquet")
    });
    Ok(found)
}

/// Opens shards as one data set; errors and summaries name `given`.
pub(super) fn open(given: &Path, shards: &[PathBuf], columns: Option<&[&str]>, source: &str) -> Result<H5ad> {
    if source != "X" {
        let what = format!("is parquet, which has a single matrix and no {source}: omit `source`");
        return Err(Error::format(given, what));
    }
    let opened: Vec<Parquet> = shards.par_iter().map(|shard| Parquet::open(shard)).collect::<Result<_>>()?;
    let folder = metadata(given)?;
    let (genes, var, notes) = tokens(&folder.join(TABLES[0]))?;
    let tokens = Tokens::of(opened, genes)?;
    let obs = labels(&tokens.shards, columns, &folder.join(TABLES[1]))?;
    Ok(H5ad {
        path: given.to_path_buf(),
        format: Format::Tahoe,
        file: None,
        cells: tokens.cells,
        obs,
        var,
        matrix: Matrix::of_tokens(tokens),
        notes,
    })
}

/// What [`super::describe()`] adds for shards, and what it reports for other parquet files: `Ok` if cells can be read.
pub(super) fn about(given: &Path, shards: &[PathBuf]) -> Result<std::result::Result<Value, Value>> {
    let opened: Vec<Parquet> = shards.par_iter().map(|shard| Parquet::open(shard)).collect::<Result<_>>()?;
    let first = &opened[0];
    let groups = || opened.iter().flat_map(|file| file.groups());
    let mut told = first.describe()?;
    told["files"] = json!(opened.len());
    told["rows"] = json!(groups().sum::<usize>());
    told["row_groups"] = json!(groups().count());
    let lists = [GENES, COUNTS].iter().all(|column| first.stored(column).is_ok());
    let missing = metadata(given).err().filter(|_| lists);
    told["preprocess"] = json!(match &missing {
        _ if !lists =>
            "reads its labels, given as `labels`; it has no lists of genes and expressions".to_string(),
        Some(error) => error.to_string(),
        None =>
            "reads it as it is: genes and expressions, labels of its columns and of the samples".to_string(),
    });
    told["kind"] = json!(if lists { "Tahoe parquet" } else { "parquet table" });
    Ok(if lists && missing.is_none() { Ok(told) } else { Err(told) })
}

/// The folder with the two tables.
fn metadata(given: &Path) -> Result<PathBuf> {
    let beside = if given.is_dir() { given } else { given.parent().unwrap_or(given) };
    let places = [beside.to_path_buf(), beside.join("metadata"), beside.join("../metadata")];
    let has = |place: &&PathBuf| TABLES.iter().all(|table| place.join(table).is_file());
    places.iter().find(has).cloned().ok_or_else(|| {
        let what = format!(
            "needs {} and {} of the release, which are neither beside it nor in a folder named metadata \
             there or one level up; download or link that folder",
            TABLES[0], TABLES[1]
        );
        Error::format(given, what)
    })
}

/// The gene of each token, and the genes as a frame.
fn tokens(path: &Path) -> Result<(Vec<u32>, Frame, Vec<String>)> {
    let table = Parquet::open(path)?;
    let features =
        Features { ids: table.texts("ensembl_id")?, names: table.texts("gene_symbol")?, kinds: None };
    let (_, var, notes) = features.genes(path)?;
    let mut genes = Vec::new();
    for (gene, text) in table.texts("token_id")?.iter().enumerate() {
        let token = text.parse().ok().filter(|token| (0..MOST_TOKENS).contains(token));
        let Some(token) = token.map(|token: i64| token as usize) else {
            return Err(Error::format(
                path,
                format!("row {gene}: {text:?} is not a token id from 0 to {MOST_TOKENS}"),
            ));
        };
        if genes.len() <= token {
            genes.resize(token + 1, NO_GENE);
        }
        if std::mem::replace(&mut genes[token], gene as u32) != NO_GENE {
            return Err(Error::format(path, format!("token {token} stands for two genes")));
        }
    }
    Ok((genes, var, notes))
}

/// The requested label columns, or all; those that the shards lack are joined by sample.
fn labels(shards: &[Parquet], columns: Option<&[&str]>, samples: &Path) -> Result<Frame> {
    let Some(first) = shards.first() else { return Ok(Frame::default()) };
    let own = first.columns()?;
    let table = Parquet::open(samples)?;
    let mut more = table.columns()?;
    // pandas' row numbers are not labels.
    more.retain(|name| !own.contains(name) && !name.starts_with("__index_level_"));
    let all = own.iter().chain(&more).filter(|name| *name != BARCODE).cloned();
    let wanted = columns
        .map_or_else(|| all.collect(), |some| some.iter().map(|name| name.to_string()).collect::<Vec<_>>());
    let mut frame = Frame::default();
    for column in wanted {
        let labels = if own.contains(&column) {
            of_all(shards, &column)?
        } else if more.contains(&column) {
            by_sample(&of_all(shards, SAMPLE)?, &table, &column, first.path())?
        } else {
            let names: Vec<String> = own.iter().chain(&more).cloned().collect();
            return Err(missing_column(first.path(), &column, &names));
        };
        frame.columns.push((column, Column::Categorical(labels)));
    }
    if columns.is_none() {
        frame.index = names(shards)?;
    }
    Ok(frame)
}

fn of_all(shards: &[Parquet], column: &str) -> Result<Labels> {
    let parts: Vec<Labels> = shards.par_iter().map(|shard| shard.labels(column)).collect::<Result<_>>()?;
    let mut labels = Growing::default();
    parts.iter().for_each(|part| labels.append(part));
    Ok(labels.finish())
}

fn names(shards: &[Parquet]) -> Result<Vec<String>> {
    let parts: Vec<Vec<String>> =
        shards.par_iter().map(|shard| shard.texts(BARCODE)).collect::<Result<_>>()?;
    Ok(parts.concat())
}

/// The table's label for each cell's sample. Every sample must have a row.
fn by_sample(samples: &Labels, table: &Parquet, column: &str, shard: &Path) -> Result<Labels> {
    let (keys, told) = (table.texts(SAMPLE)?, table.labels(column)?);
    let mut row_of: HashMap<&str, usize> = HashMap::with_capacity(keys.len());
    for (row, key) in keys.iter().enumerate() {
        if row_of.insert(key, row).is_some() {
            return Err(Error::format(table.path(), format!("sample {key:?} appears twice")));
        }
    }
    let mut code_of = Vec::with_capacity(samples.names.len());
    for sample in &samples.names {
        let Some(&row) = row_of.get(sample.as_str()) else {
            let what = format!(
                "the {column} of its cells is not known, as shards and metadata are from different releases: \
                 {}",
                unknown("sample", sample, &keys)
            );
            return Err(Error::format(shard, format!("{what} ({})", table.path().display())));
        };
        code_of.push(told.codes[row]);
    }
    Ok(Labels { codes: recoded(&samples.codes, &code_of), names: told.names })
}
