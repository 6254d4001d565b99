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
//! Cells are read one row group at a time, or part of one if it holds many numbers.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;
use serde_json::{Value, json};

use super::column::missing_column;
use super::matrix::Matrix;
use super::sparse::{BLOCK_ENTRIES, compressed};
use super::tenx::Features;
use super::{Cells, Column, Format, Frame, H5ad, Labels};
use crate::data::parquet::{Pairs, Parquet, is_parquet};
use crate::error::{Error, Result, unknown};
use crate::folder::paths_in;

const GENES: &str = "genes";
const COUNTS: &str = "expressions";
const SAMPLE: &str = "sample";
/// Column of the cell names.
const BARCODE: &str = "BARCODE_SUB_LIB_ID";
const TABLES: [&str; 2] = ["gene_metadata.parquet", "sample_metadata.parquet"];
/// Tokens are small numbers; anything above this is not a token.
const MOST_TOKENS: i64 = 1 << 24;
/// Marks a token without a gene.
const NO_GENE: u32 = u32::MAX;

/// Counts of all shards, by rows.
pub(super) struct Tokens {
    shards: Vec<Parquet>,
    /// Row groups, in the order of their first cells.
    groups: Vec<Group>,
    cells: usize,
    /// The gene of each token.
    genes: Vec<u32>,
    /// Readers inside a row group, by its position in `groups`: reading the next rows of a large
    /// group continues where the last read ended.
    readers: Mutex<Vec<(usize, Pairs)>>,
}

/// A row group: cells that are read together.
struct Group {
    shard: usize,
    /// Its number within the shard.
    number: usize,
    /// First cell, counted over all shards.
    first: usize,
    rows: usize,
    /// Numbers stored, markers included.
    stored: u64,
}

/// The shards that a path stands for: itself, or those of a folder, without metadata tables; empty if it is neither.
pub(super) fn shards(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(if is_parquet(path) { vec![path.to_path_buf()] } else { Vec::new() });
    }
    let mut found = paths_in(path)?;
    found.retain(|shard| {
        let name = shard.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".parquet") && !name.ends_with("_metadata.parquet")
    });
    Ok(found)
}

/// Opens shards as one data set; errors and summaries name `given`.
pub(super) fn open(given: &Path, shards: &[PathBuf], columns: Option<&[&str]>, source: &str) -> Result<H5ad> {
    if source != "X" {
        let what = format!("is parquet, which has a single matrix and no {source}: omit --source");
        return Err(Error::format(given, what));
    }
    let opened: Vec<Parquet> = shards.par_iter().map(|shard| Parquet::open(shard)).collect::<Result<_>>()?;
    let folder = metadata(given)?;
    let (genes, var, notes) = tokens(&folder.join(TABLES[0]))?;
    let stored: Vec<Vec<u64>> = opened.par_iter().map(|shard| shard.stored(GENES)).collect::<Result<_>>()?;
    let (mut groups, mut cells) = (Vec::new(), 0);
    for (shard, (file, stored)) in opened.iter().zip(stored).enumerate() {
        for (number, (&rows, stored)) in file.groups().iter().zip(stored).enumerate() {
            groups.push(Group { shard, number, first: cells, rows, stored });
            cells += rows;
        }
    }
    let obs = labels(&opened, columns, &folder.join(TABLES[1]))?;
    let tokens = Tokens { shards: opened, groups, cells, genes, readers: Mutex::default() };
    Ok(H5ad {
        path: given.to_path_buf(),
        format: Format::Tahoe,
        file: None,
        cells,
        genes: var.index.len(),
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
        _ if !lists => "reads its labels with --labels; it has no lists of genes and expressions".to_string(),
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
    let mut labels = Labels::default();
    parts.into_iter().for_each(|part| labels.append(part));
    Ok(labels)
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
    let codes =
        samples.codes.iter().map(|&code| usize::try_from(code).map_or(-1, |code| code_of[code])).collect();
    Ok(Labels { codes, names: told.names })
}

impl Tokens {
    /// Numbers stored, markers included.
    pub(super) fn entries(&self) -> u64 {
        self.groups.iter().map(|group| group.stored).sum()
    }

    /// End of the row block that starts at `start`: within one row group.
    pub(super) fn block_end(&self, start: usize) -> usize {
        let Some(group) = self.groups.get(self.group_of(start)) else { return self.cells };
        let rows = u128::from(BLOCK_ENTRIES) * group.rows as u128 / u128::from(group.stored.max(1));
        let rows = usize::try_from(rows).unwrap_or(usize::MAX).clamp(1, group.rows);
        (group.first + group.rows).min(start + rows)
    }

    /// The name of the column of cell names, and the names of some cells.
    pub(super) fn names(&self, rows: Range<usize>) -> Result<(String, Vec<String>)> {
        let (first, end) = (self.group_of(rows.start), self.groups.partition_point(|g| g.first < rows.end));
        let groups = self.groups.get(first..end).unwrap_or_default();
        let mut names = Vec::new();
        for of_shard in groups.chunk_by(|a, b| a.shard == b.shard) {
            let numbers = of_shard[0].number..of_shard[0].number + of_shard.len();
            names.extend(self.shards[of_shard[0].shard].names(BARCODE, numbers)?);
        }
        let before = rows.start - groups.first().map_or(rows.start, |group| group.first);
        Ok((BARCODE.to_string(), names.into_iter().skip(before).take(rows.len()).collect()))
    }

    fn group_of(&self, cell: usize) -> usize {
        // Groups without rows start where the next one does: the last that starts there holds the cell.
        self.groups.partition_point(|group| group.first <= cell).saturating_sub(1)
    }

    /// Some rows: tokens mapped to genes, markers dropped.
    pub(super) fn rows(&self, range: Range<usize>, genes: usize) -> Result<Cells> {
        let (mut columns, mut values, mut bounds) = (Vec::new(), Vec::new(), vec![0]);
        let mut path = Path::new("");
        for (place, group) in self.groups.iter().enumerate().skip(self.group_of(range.start)) {
            let from = range.start.max(group.first);
            let to = range.end.min(group.first + group.rows);
            if from >= to {
                if group.first >= range.end {
                    break;
                }
                continue;
            }
            let shard = &self.shards[group.shard];
            path = shard.path();
            let rows = from - group.first..to - group.first;
            let mut reader = self.reader(place, rows.start)?;
            let (tokens, counts) = reader.rows(rows)?;
            self.put_back(place, reader);
            for row in 0..to - from {
                let span = tokens.bounds[row]..tokens.bounds[row + 1];
                if span != (counts.bounds[row]..counts.bounds[row + 1]) {
                    let what = format!("{GENES} and {COUNTS} have different lengths");
                    return Err(self.wrong(path, from + row, what));
                }
                let marker =
                    usize::from(counts.values[span.clone()].first().is_some_and(|&count| count < 0.0));
                for entry in span.start + marker..span.end {
                    let token = tokens.values[entry];
                    let gene = usize::try_from(token).ok().and_then(|token| self.genes.get(token)).copied();
                    let Some(gene) = gene.filter(|&gene| gene != NO_GENE) else {
                        let what = format!("token {token} is not a gene in {}", TABLES[0]);
                        return Err(self.wrong(path, from + row, what));
                    };
                    columns.push(gene);
                    values.push(counts.values[entry]);
                }
                bounds.push(values.len());
            }
        }
        compressed(path, range.start, &bounds, columns, values, genes)
    }

    /// A reader of a row group, positioned at a row or, as near as possible, before it.
    fn reader(&self, place: usize, row: usize) -> Result<Pairs> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting =
            readers.iter().enumerate().filter(|(_, (of, pairs))| *of == place && pairs.row() <= row);
        let nearest = fitting.max_by_key(|(_, (_, pairs))| pairs.row()).map(|(i, _)| i);
        if let Some((_, pairs)) = nearest.map(|i| readers.remove(i)) {
            return Ok(pairs);
        }
        drop(readers);
        let group = &self.groups[place];
        self.shards[group.shard].pairs([GENES, COUNTS], group.number)
    }

    /// Keeps a reader for the following rows, if there are any; at most one per thread, each of which holds a page of each column.
    fn put_back(&self, place: usize, reader: Pairs) {
        if reader.row() < self.groups[place].rows {
            let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
            if readers.len() >= rayon::current_num_threads() {
                readers.remove(0);
            }
            readers.push((place, reader));
        }
    }

    fn wrong(&self, path: &Path, cell: usize, what: String) -> Error {
        let name = self.names(cell..cell + 1).ok().and_then(|(_, mut name)| name.pop());
        let name = name.unwrap_or_else(|| format!("#{cell}"));
        Error::format(path, format!("cell {name:?}: {what}"))
    }
}
