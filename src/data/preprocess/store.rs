//! The last pass: kept genes of each cell into shards.

use std::path::Path;

use crc32fast::Hasher;
use indicatif::ProgressBar;

use super::input::{Input, Inputs};
use super::scale::{self, Found};
use super::{Settings, normalise};
use crate::data::h5ad::Cells;
use crate::data::shard::{CellLabel, Columns, DataWriter, Manifest, Scale, Source};
use crate::error::Result;

/// SCALE v1, section 4.1: the network sees log1p values divided by ten.
pub(super) const FACTOR: f32 = 10.0;
/// Mark of a gene that is not kept.
const LEFT_OUT: u32 = u32::MAX;

/// Writes the shards and the manifest into `dir`; returns the size of the shards.
pub(super) fn write(
    dir: &Path,
    settings: &Settings,
    inputs: &Inputs,
    found: &Found,
    target: Option<f64>,
    kept: &[u32],
    progress: &ProgressBar,
) -> Result<u64> {
    let mut ids = vec![LEFT_OUT; inputs.genes.len()];
    kept.iter().enumerate().for_each(|(id, &gene)| ids[gene as usize] = id as u32);
    let labels: Vec<CellLabel> = inputs
        .labels
        .iter()
        .map(|&[cell_type, perturbation, batch]| CellLabel { cell_type, perturbation, batch })
        .collect();
    let mut writer = DataWriter::new(dir, manifest(settings, inputs, found, target, kept), &labels)?;
    let mut fingerprints: Vec<Fingerprint> = inputs.files.iter().map(Fingerprint::new).collect();
    let mut row = Row::default();
    inputs.walk(progress, |block| {
        scale::check(block.input, block.rows.clone(), &block.cells, found.scale)?;
        fingerprints[block.number].add(&block.cells);
        for (_, genes, values) in block.used() {
            row.take(genes.iter().map(|&gene| ids[block.place(gene)]), values);
            writer.push(&row.genes, &row.values, library(values, found, target))?;
        }
        Ok(())
    })?;
    let sources = inputs.files.iter().zip(fingerprints).map(|(input, print)| {
        let path = input.file.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Source { path, crc: print.finish(), cells: input.cells }
    });
    writer.name_sources(sources.collect());
    let manifest = writer.finish()?;
    Ok(manifest.shards.iter().map(|shard| shard.bytes).sum())
}

/// All that is known before the values are read.
fn manifest(
    settings: &Settings,
    inputs: &Inputs,
    found: &Found,
    target: Option<f64>,
    kept: &[u32],
) -> Manifest {
    let [cell_types, perturbations, batches] = inputs.vocabularies.clone();
    let stem = settings.inputs[0].file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Manifest {
        version: Manifest::VERSION,
        dataset: stem,
        scale: found.scale,
        target,
        factor: FACTOR,
        control: settings.control.clone(),
        columns: Columns {
            perturbation: settings.perturbation.clone(),
            cell_type: settings.cell_type.clone(),
            batch: settings.batch.clone(),
        },
        sources: Vec::new(),
        shards: Vec::new(),
        cell_types,
        perturbations,
        batches,
        genes: kept.iter().map(|&gene| inputs.genes[gene as usize].clone()).collect(),
    }
}

/// CRC-32 of a source: of its genes, of which cells are used, and of every value. It grows with the blocks of a pass and does not
/// depend on where they are cut, nor on whether the matrix is CSR, CSC or dense.
struct Fingerprint {
    names: Hasher,
    /// Of the lengths of the rows, their genes and their values.
    cells: [Hasher; 3],
}

impl Fingerprint {
    fn new(input: &Input) -> Fingerprint {
        let mut names = Hasher::new();
        for name in &input.file.var().index {
            names.update(name.as_bytes());
            names.update(&[0]);
        }
        names
            .update(bytemuck::cast_slice(&input.used.iter().map(|&used| u8::from(used)).collect::<Vec<_>>()));
        Fingerprint { names, cells: Default::default() }
    }

    fn add(&mut self, cells: &Cells) {
        let starts = cells.indptr();
        let starts = starts.as_slice().expect("blocks are whole matrices");
        let lengths: Vec<u32> = starts.windows(2).map(|pair| (pair[1] - pair[0]) as u32).collect();
        let [rows, genes, values] = &mut self.cells;
        rows.update(bytemuck::cast_slice(&lengths));
        genes.update(bytemuck::cast_slice(cells.indices()));
        values.update(bytemuck::cast_slice(cells.data()));
    }

    fn finish(mut self) -> u32 {
        for cells in self.cells {
            self.names.update(&cells.finalize().to_le_bytes());
        }
        self.names.finalize()
    }
}

/// Total counts of a cell over all genes of the source. Of log values an estimate: the smallest is one count.
fn library(values: &[f32], found: &Found, target: Option<f64>) -> f32 {
    if found.scale == Scale::Counts {
        return normalise::total(values);
    }
    let smallest = values.iter().copied().filter(|&value| value > 0.0).fold(f32::INFINITY, f32::min);
    let one = normalise::exp_m1(normalise::log_value(smallest, found.scale, 1.0));
    target.map_or(f32::NAN, |target| if smallest.is_finite() { target as f32 / one } else { f32::NAN })
}

/// The kept genes of a cell, by rising id.
#[derive(Default)]
struct Row {
    genes: Vec<u16>,
    values: Vec<f32>,
    pairs: Vec<(u16, f32)>,
}

impl Row {
    fn take(&mut self, ids: impl Iterator<Item = u32>, values: &[f32]) {
        self.pairs.clear();
        self.pairs
            .extend(ids.zip(values).filter(|(id, _)| *id != LEFT_OUT).map(|(id, &value)| (id as u16, value)));
        // Genes of a list, or of a file in another order, do not rise by themselves.
        if !self.pairs.is_sorted_by_key(|&(id, _)| id) {
            self.pairs.sort_unstable_by_key(|&(id, _)| id);
        }
        self.genes.clear();
        self.values.clear();
        self.genes.extend(self.pairs.iter().map(|&(id, _)| id));
        self.values.extend(self.pairs.iter().map(|&(_, value)| value));
    }
}
