//! The cells of [`super::tahoe`]'s shards: read one row group at a time, or part of one if it holds many numbers.

use std::ops::Range;
use std::path::Path;
use std::sync::Mutex;

use rayon::prelude::*;

use super::Cells;
use super::sparse::{BLOCK_ENTRIES, compressed};
use crate::data::parquet::{Pairs, Parquet};
use crate::error::{Error, Result};
use crate::lock::lock;

pub(super) const GENES: &str = "genes";
pub(super) const COUNTS: &str = "expressions";
/// Column of the cell names.
pub(super) const BARCODE: &str = "BARCODE_SUB_LIB_ID";
/// The table that says which gene a token is.
pub(super) const GENE_TABLE: &str = "gene_metadata.parquet";
/// Marks a token without a gene.
pub(super) const NO_GENE: u32 = u32::MAX;

/// Counts of all shards, by rows.
pub(super) struct Tokens {
    pub(super) shards: Vec<Parquet>,
    /// Row groups, in the order of their first cells.
    groups: Vec<Group>,
    pub(super) cells: usize,
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

impl Tokens {
    /// Those of some shards, one after the other; `genes` has the gene of each token, or [`NO_GENE`].
    pub(super) fn of(shards: Vec<Parquet>, genes: Vec<u32>) -> Result<Tokens> {
        let stored: Vec<Vec<u64>> =
            shards.par_iter().map(|shard| shard.stored(GENES)).collect::<Result<_>>()?;
        let (mut groups, mut cells) = (Vec::new(), 0);
        for (shard, (file, stored)) in shards.iter().zip(stored).enumerate() {
            for (number, (&rows, stored)) in file.groups().iter().zip(stored).enumerate() {
                groups.push(Group { shard, number, first: cells, rows, stored });
                cells += rows;
            }
        }
        Ok(Tokens { shards, groups, cells, genes, readers: Mutex::default() })
    }

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
                        let what = format!("token {token} is not a gene in {}", GENE_TABLE);
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
        let mut readers = lock(&self.readers);
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
            let mut readers = lock(&self.readers);
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
