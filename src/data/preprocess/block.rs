//! One input file, and its rows: in parts, which are made one by one, and in blocks, which are read at once.

use std::ops::Range;

use crate::data::h5ad::{Cells, H5ad, keep_columns};
use crate::data::normalise;

/// One input file.
pub(super) struct Input {
    pub file: H5ad,
    /// Position of each of its genes in the common list; `None` if the two lists are the same.
    pub(super) places: Option<Vec<u32>>,
    /// Which of its genes are left out; `None` if none are.
    pub(super) left_out: Option<Vec<bool>>,
    /// Which cells have all labels and pass the filters.
    pub used: Vec<bool>,
    /// Number of used cells.
    pub cells: u64,
    /// Total counts of each cell, if a column gives them.
    pub sizes: Option<Vec<f32>>,
    /// Batch for the choice of genes, -1 for none; empty without such a column.
    pub hvg_batch: Vec<i32>,
}

/// Row block of an input, its genes numbered as in the file.
pub(super) struct Block<'a> {
    pub input: &'a Input,
    /// Row numbers in the file.
    pub rows: Range<usize>,
    pub cells: Cells,
}

/// Some rows of one file.
pub(super) struct Part {
    pub number: usize,
    /// Which file.
    pub input: usize,
    pub rows: Range<usize>,
    /// Their range among all used cells.
    pub cells: Range<usize>,
}

/// The parts of all files, each of at most `cells` cells.
pub(super) fn cut(inputs: &[Input], cells: usize) -> Vec<Part> {
    let (mut parts, mut before, cells) = (Vec::new(), 0, cells.max(1));
    for (input, file) in inputs.iter().enumerate() {
        for start in (0..file.used.len()).step_by(cells) {
            let rows = start..file.used.len().min(start + cells);
            let used = file.used[rows.clone()].iter().filter(|&&used| used).count();
            parts.push(Part { number: parts.len(), input, rows, cells: before..before + used });
            before += used;
        }
    }
    parts
}

impl Input {
    /// Position of a gene of this file in the common list.
    pub fn place(&self, gene: u32) -> usize {
        self.places.as_ref().map_or(gene, |places| places[gene as usize]) as usize
    }

    /// Those positions for all genes; `None` if each is the same as in the file.
    pub fn places(&self) -> Option<&[u32]> {
        self.places.as_deref()
    }

    /// A row block without the genes that are left out.
    pub(super) fn without(&self, cells: Cells) -> Cells {
        let Some(left_out) = &self.left_out else { return cells };
        keep_columns(&cells, cells.cols(), |gene| (!left_out[gene]).then_some(gene as u32))
    }
}

impl Block<'_> {
    /// Total counts of a row of the file that holds these counts.
    pub fn total(&self, row: usize, counts: &[f32]) -> f32 {
        self.input.sizes.as_ref().map_or_else(|| normalise::total(counts), |sizes| sizes[row])
    }

    /// Position of a gene of this file in the common list.
    pub fn place(&self, gene: u32) -> usize {
        self.input.place(gene)
    }

    /// Row, genes and values of each used cell.
    pub fn used(&self) -> impl Iterator<Item = (usize, &[u32], &[f32])> {
        let used = &self.input.used;
        let rows = self.rows.clone().zip(self.cells.outer_iterator()).filter(|(row, _)| used[*row]);
        rows.map(|(row, cell)| {
            let (genes, values) = cell.into_raw_storage();
            (row, genes, values)
        })
    }
}
