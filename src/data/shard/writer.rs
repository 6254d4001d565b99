//! Writes a data directory from cells that come in source order.
//!
//! The labels of all cells are known first, so every cell's group is; how many genes it stores is not, so where it lies in its
//! shard is not. Rows are therefore sorted by group outside memory (`spill.rs`), and the shards are written in one go when all
//! sizes are known. Memory: one buffer, 8 bytes a cell for the labels, and a window a run. Disk: for a while, twice the shards.
//! The files depend on the cells alone, not on memory, threads or time.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::file::library_error;
use super::format::{self, Kind};
use super::spill::{Buffer, Chunk, Runs, Spill, spill_path};
use super::{Manifest, Scale, ShardEntry, Source};
use crate::error::{At, Error, Result};

/// A cell's labels, as positions in the vocabularies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellLabel {
    /// Position in the cell types.
    pub cell_type: u32,
    /// Position in the perturbations.
    pub perturbation: u32,
    /// Position in the batches.
    pub batch: u32,
}

/// Sizes that bound the writer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of rows held in memory before they are spilled.
    pub memory: usize,
    /// Bytes after which a shard is closed, at the next group.
    pub shard: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: 256 << 20, shard: 1 << 30 }
    }
}

/// A group on its way to a shard.
struct Pile {
    label: CellLabel,
    cells: u32,
    nonzeros: u64,
    largest: f32,
}

/// Writes one data directory: `new`, a `push` a cell, `finish`.
pub struct DataWriter {
    dir: PathBuf,
    manifest: Manifest,
    limits: Limits,
    /// Pile of each source cell.
    pile_of: Vec<u32>,
    piles: Vec<Pile>,
    pushed: usize,
    buffer: Buffer,
    spill: Spill,
}

impl DataWriter {
    /// Begins a directory in `dir`, the folder that `aside::folder` made. `manifest`: all but the shards. `labels`: of every
    /// cell, in the order of the pushes.
    pub fn new(dir: &Path, manifest: Manifest, labels: &[CellLabel]) -> Result<Self> {
        DataWriter::with_limits(dir, manifest, labels, Limits::default())
    }

    /// The same with other limits; the values written do not depend on `limits.memory`.
    pub fn with_limits(dir: &Path, manifest: Manifest, labels: &[CellLabel], limits: Limits) -> Result<Self> {
        manifest.check().map_err(|what| Error::format(dir, what))?;
        let (piles, pile_of) = sort_labels(&manifest, labels).map_err(|what| Error::format(dir, what))?;
        let spill = Spill::new(spill_path(dir), manifest.scale);
        let dir = dir.to_path_buf();
        Ok(DataWriter { dir, manifest, limits, pile_of, piles, pushed: 0, buffer: Buffer::default(), spill })
    }

    /// The next cell: gene ids ascending, one value each (counts as f32 when the scale is counts; zeros are dropped), and its
    /// total counts over all genes of the source.
    pub fn push(&mut self, genes: &[u16], values: &[f32], library: f32) -> Result<()> {
        if let Some(what) = self.refuse(genes, values, library) {
            return Err(Error::format(&self.dir, format!("cell {} of the source: {what}", self.pushed)));
        }
        let id = self.pile_of[self.pushed];
        let pile = &mut self.piles[id as usize];
        pile.nonzeros += self.buffer.push(id, genes, values, library) as u64;
        pile.largest = values.iter().fold(pile.largest, |a, &b| a.max(b));
        self.pushed += 1;
        if self.buffer.bytes() >= self.limits.memory {
            self.spill.add(&mut self.buffer)?;
        }
        Ok(())
    }

    fn refuse(&self, genes: &[u16], values: &[f32], library: f32) -> Option<String> {
        let known = self.manifest.genes.len();
        if self.pushed == self.pile_of.len() {
            return Some(format!("labels were given for {} cells only", self.pile_of.len()));
        }
        if genes.len() != values.len() {
            return Some(format!("{} genes with {} values", genes.len(), values.len()));
        }
        if let Some(pair) = genes.windows(2).find(|pair| pair[0] >= pair[1]) {
            return Some(format!(
                "gene {} stands before gene {}; ids ascend and are unique",
                pair[0], pair[1]
            ));
        }
        if let Some(last) = genes.last().filter(|last| usize::from(**last) >= known) {
            return Some(format!("gene {last} of {known}"));
        }
        if let Some(value) = values.iter().find(|v| !v.is_finite() || **v < 0.0) {
            return Some(format!("value {value} is not a finite number from zero up"));
        }
        let whole = self.manifest.scale == Scale::Counts;
        if let Some(value) = values.iter().find(|v| whole && v.fract() != 0.0) {
            return Some(format!("count {value} is not a whole number; is the source on a log scale?"));
        }
        library_error(library, values.iter().all(|&v| v == 0.0), self.manifest.scale)
    }

    /// Says where the cells come from, if that is known only now that they were read.
    pub fn name_sources(&mut self, sources: Vec<Source>) {
        self.manifest.sources = sources;
    }

    /// Writes shards and manifest.
    pub fn finish(mut self) -> Result<Manifest> {
        if self.pushed != self.pile_of.len() {
            let what = format!("{} cells came, labels were given for {}", self.pushed, self.pile_of.len());
            return Err(Error::format(&self.dir, what));
        }
        self.pile_of = Vec::new();
        let mut runs = self.spill.finish(self.buffer)?;
        let control = self.manifest.control_position();
        let mut numbers = [0; 2];
        for piles in divide(&self.piles, control, self.manifest.scale, self.limits.shard) {
            let controls = self.piles[piles.start].label.perturbation == control;
            let number = &mut numbers[usize::from(controls)];
            let file = format!("{}-{number:04}.shard", if controls { "controls" } else { "perturbed" });
            *number += 1;
            let entry =
                write_shard(&self.dir, file, &self.manifest, &self.piles, piles, controls, &mut runs)?;
            self.manifest.shards.push(entry);
        }
        runs.remove()?;
        self.manifest.write(&self.dir)?;
        Ok(self.manifest)
    }
}

/// The groups, in the directory's order, and the group of each cell.
fn sort_labels(
    manifest: &Manifest,
    labels: &[CellLabel],
) -> std::result::Result<(Vec<Pile>, Vec<u32>), String> {
    let control = manifest.control_position();
    let key = |l: &CellLabel| (l.perturbation != control, l.cell_type, l.perturbation, l.batch);
    let mut counts = std::collections::BTreeMap::new();
    for (cell, label) in labels.iter().enumerate() {
        let ids = [
            ("cell type", label.cell_type, manifest.cell_types.len()),
            ("perturbation", label.perturbation, manifest.perturbations.len()),
            ("batch", label.batch, manifest.batches.len()),
        ];
        if let Some((what, id, len)) = ids.into_iter().find(|&(_, id, len)| id as usize >= len) {
            return Err(format!("cell {cell} of the source has {what} {id}, the vocabulary holds {len}"));
        }
        let (_, cells) = counts.entry(key(label)).or_insert((*label, 0u32));
        *cells = cells.checked_add(1).ok_or("a condition has more than 4294967295 cells")?;
    }
    if counts.is_empty() {
        return Err("there are no cells to write".into());
    }
    let numbers: std::collections::HashMap<_, u32> = counts.keys().copied().zip(0u32..).collect();
    let pile_of = labels.iter().map(|label| numbers[&key(label)]).collect();
    let pile = |(label, cells)| Pile { label, cells, nonzeros: 0, largest: 0.0 };
    Ok((counts.into_values().map(pile).collect(), pile_of))
}

/// The piles of each shard: controls apart, closed when full.
fn divide(piles: &[Pile], control: u32, scale: Scale, limit: u64) -> Vec<Range<usize>> {
    let mut shards = Vec::new();
    let (mut begin, mut rows, mut nonzeros, mut largest) = (0, 0u64, 0u64, 0.0f32);
    for (i, pile) in piles.iter().enumerate() {
        let bytes = rows * 12 + nonzeros * (2 + Kind::of(scale, largest).width());
        let apart = (piles[begin].label.perturbation == control) != (pile.label.perturbation == control);
        if i > begin && (apart || bytes >= limit) {
            shards.push(begin..i);
            (begin, rows, nonzeros, largest) = (i, 0, 0, 0.0);
        }
        rows += u64::from(pile.cells);
        nonzeros += pile.nonzeros;
        largest = largest.max(pile.largest);
    }
    shards.push(begin..piles.len());
    shards
}

/// Writes the shard of some piles. Sections are written side by side, the header last, when the checksums are known.
fn write_shard(
    dir: &Path,
    file: String,
    manifest: &Manifest,
    piles: &[Pile],
    range: Range<usize>,
    controls: bool,
    runs: &mut Runs,
) -> Result<ShardEntry> {
    let path = dir.join(&file);
    let mut header = shard_header(manifest, &piles[range.clone()], controls);
    let layout = header.layout().ok_or_else(|| Error::format(&path, "its sections overflow any file"))?;
    for (section, (offset, bytes)) in header.sections.iter_mut().zip(layout) {
        (section.offset, section.bytes) = (offset, bytes);
    }
    let begin = header.encode().0.len() as u64;
    let (last, length) = layout[4];
    let bytes = begin + last + length;
    File::create_new(&path).and_then(|f| f.set_len(bytes)).at(&path)?;
    let streams = layout.map(|(offset, _)| Stream::open(&path, begin + offset));
    let mut sections = Sections { kind: header.values, end: 0, scratch: Vec::new(), streams: all(streams)? };
    sections.begin().at(&path)?;
    for (i, pile) in range.clone().zip(&piles[range]) {
        sections.group(pile).at(&path)?;
        runs.group(i as u32, |chunk| sections.rows(chunk).at(&path))?;
    }
    for (section, stream) in header.sections.iter_mut().zip(sections.streams) {
        section.crc = stream.finish().at(&path)?;
    }
    let (head, crc) = header.encode();
    let mut out = File::options().write(true).open(&path).at(&path)?;
    out.write_all(&head).and_then(|()| out.sync_all()).at(&path)?;
    Ok(ShardEntry { file, bytes, cells: header.rows, crc })
}

fn shard_header(manifest: &Manifest, piles: &[Pile], controls: bool) -> format::Header {
    let largest = piles.iter().map(|pile| pile.largest).fold(0.0, f32::max);
    format::Header {
        controls,
        genes: manifest.genes.len() as u64,
        cell_types: manifest.cell_types.len() as u64,
        perturbations: manifest.perturbations.len() as u64,
        batches: manifest.batches.len() as u64,
        scale: manifest.scale,
        target: manifest.target,
        factor: manifest.factor,
        values: Kind::of(manifest.scale, largest),
        groups: piles.len() as u64,
        rows: piles.iter().map(|pile| u64::from(pile.cells)).sum(),
        nonzeros: piles.iter().map(|pile| pile.nonzeros).sum(),
        sections: format::blank_sections(),
    }
}

fn all<T>(items: [Result<T>; 5]) -> Result<Vec<T>> {
    items.into_iter().collect()
}

/// The five sections of a shard being written.
struct Sections {
    kind: Kind,
    /// Values written so far: where the next row begins.
    end: u64,
    scratch: Vec<u8>,
    streams: Vec<Stream>,
}

impl Sections {
    fn begin(&mut self) -> std::io::Result<()> {
        self.streams[1].write(&0u64.to_le_bytes())
    }

    fn group(&mut self, pile: &Pile) -> std::io::Result<()> {
        let CellLabel { cell_type, perturbation, batch } = pile.label;
        self.streams[0].write(bytemuck::cast_slice(&[cell_type, perturbation, batch, pile.cells]))
    }

    fn rows(&mut self, chunk: &Chunk) -> std::io::Result<()> {
        for &length in &chunk.lengths {
            self.end += u64::from(length);
            self.streams[1].write(&self.end.to_le_bytes())?;
        }
        self.scratch.clear();
        self.kind.encode(&chunk.values, &mut self.scratch);
        self.streams[2].write(bytemuck::cast_slice(&chunk.genes))?;
        self.streams[3].write(&self.scratch)?;
        self.streams[4].write(bytemuck::cast_slice(&chunk.library))
    }
}

/// A section being written, and its checksum.
struct Stream {
    out: BufWriter<File>,
    crc: crc32fast::Hasher,
}

impl Stream {
    fn open(path: &Path, offset: u64) -> Result<Stream> {
        let mut file = File::options().write(true).open(path).at(path)?;
        file.seek(SeekFrom::Start(offset)).at(path)?;
        Ok(Stream { out: BufWriter::with_capacity(256 << 10, file), crc: crc32fast::Hasher::new() })
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.crc.update(bytes);
        self.out.write_all(bytes)
    }

    fn finish(mut self) -> std::io::Result<String> {
        self.out.flush()?;
        Ok(format!("{:08x}", self.crc.finalize()))
    }
}
