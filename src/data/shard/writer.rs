//! Writes a data directory: rows are sorted by group on disk (`spill.rs`), then merged into shards.
//!
//! The labels of all cells are known first, and so is every cell's group; how many genes it stores is not, and so neither is
//! its place in its shard. The shards are therefore written in one go once all sizes are known. Memory: one buffer, 4 bytes
//! per cell for its group, the caller's labels (12 bytes per cell) and one window per run. Disk: temporarily twice the shards. The
//! files depend only on the cells, not on memory, threads, time, or the number of parts that the cells were cut into.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use super::format::{self, Kind, Part};
use super::piles::{Pile, Piles, Sizes};
use super::spill::{Chunk, MEMORY, Rows, RowsWriter, Runs};
use super::{Manifest, ShardEntry};
use crate::aside;
use crate::error::{At, Error, Result};

/// Sizes that bound the writer.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of rows held in memory before they are spilled; above 2 GiB, as if 2 GiB.
    pub memory: usize,
    /// Bytes after which a shard is closed, at the next group.
    pub shard: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { memory: MEMORY, shard: 1 << 30 }
    }
}

/// Writes shards and manifest into `dir`. `manifest` is complete except for the shards; `rows` are those of all cells, in
/// order; `shard` is the number of bytes after which a shard is closed.
///
/// # Errors
/// A manifest that contradicts itself, rows that cannot be read, a file that cannot be written.
///
/// # Panics
/// If a cell of `rows` is in no pile.
pub fn merge(
    dir: &Path,
    mut manifest: Manifest,
    mut piles: Piles,
    rows: &[Rows],
    shard: u64,
) -> Result<Manifest> {
    manifest.check().map_err(|what| Error::format(dir, what))?;
    for &(pile, sizes) in rows.iter().flat_map(|rows| &rows.groups) {
        let pile = &mut piles.all[pile as usize];
        pile.sizes = pile.sizes.and(sizes);
    }
    let mut runs = Runs::open(rows)?;
    let control = manifest.control_position();
    let mut numbers = [0; 2];
    for range in piles.divide(control, manifest.scale, shard) {
        let controls = piles.all[range.start].label[1] == control;
        let number = &mut numbers[usize::from(controls)];
        let file = format!("{}-{number:04}.shard", if controls { "controls" } else { "perturbed" });
        *number += 1;
        let entry = write_shard(dir, file, &manifest, &piles.all, range, controls, &mut runs)?;
        manifest.shards.push(entry);
    }
    manifest.write(dir)?;
    Ok(manifest)
}

/// Writes a data directory of cells that are at hand. `manifest` is complete except for the shards, `labels` are the cell type,
/// perturbation and batch of each cell, as places in the manifest's lists, and `fill` pushes the cells in the same order. The
/// result does not depend on `limits.memory`.
///
/// ```
/// use scale_engine::data::shard::{AsRead, Columns, Data, Limits, Manifest, Scale, write_cells};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let dir = folder.path().join("DATA");
/// let names = |text: &str| text.split(' ').map(String::from).collect::<Vec<String>>();
/// let manifest = Manifest {
///     version: Manifest::VERSION,
///     dataset: "mine".into(),
///     scale: Scale::Counts,
///     target: Some(1e4),
///     factor: 10.0,
///     control: "control".into(),
///     columns: Columns { perturbation: "drug".into(), cell_type: "type".into(), batch: None, size: None },
///     as_read: AsRead::default(),
///     sources: Vec::new(),
///     shards: Vec::new(),
///     // Sorted, all three.
///     cell_types: names("B T"),
///     perturbations: names("IFNB1 control"),
///     batches: names("all"),
///     unmeasured: Vec::new(),
///     genes: names("CD19 CD3E ISG15"),
///     source_genes: Some(3),
/// };
/// let labels = [[0, 1, 0], [0, 0, 0], [1, 1, 0], [1, 0, 0]];
/// let counts = [[3.0, 0.0, 1.0], [2.0, 0.0, 9.0], [0.0, 4.0, 0.0], [0.0, 1.0, 7.0]];
/// write_cells(&dir, manifest, &labels, Limits::default(), |rows| {
///     let mut cells = counts.iter().enumerate();
///     cells.try_for_each(|(i, x)| rows.push(&format!("cell {i}"), &[0, 1, 2], x, x.iter().sum()))
/// })?;
/// assert_eq!(Data::open(&dir)?.cells(), 4);
/// # Ok(())
/// # }
/// ```
///
/// `dir` appears whole or not at all: it is written under another name beside it, then renamed. It may be an empty folder.
///
/// # Errors
/// A folder that is not empty; a manifest that cannot be true; a label beyond its lists; fewer or more cells than labels; what
/// `fill` or the system refuses.
pub fn write_cells(
    dir: &Path,
    manifest: Manifest,
    labels: &[[u32; 3]],
    limits: Limits,
    fill: impl FnOnce(&mut RowsWriter) -> Result<()>,
) -> Result<Manifest> {
    let bad = |what| Error::format(dir, what);
    manifest.check().map_err(bad)?;
    let piles = Piles::of(&manifest, labels.iter().copied()).map_err(bad)?;
    aside::folder(dir, |aside| {
        let spill = aside.join(".spill");
        let every = 0..piles.cells();
        let mut writer = RowsWriter::with_memory(&spill, &manifest, &piles, every, limits.memory)?;
        // What is wrong with a cell is not that file's fault.
        let of_cells = |error| match error {
            Error::Format { path, what } if path == spill => bad(what),
            other => other,
        };
        let rows = fill(&mut writer).and_then(|()| writer.finish()).map_err(of_cells)?;
        let manifest = merge(aside, manifest, piles, &[rows], limits.shard)?;
        std::fs::remove_file(&spill).at(&spill)?;
        Ok(manifest)
    })
}

/// Writes the shard of some piles. Sections are written alongside one another, the header last, once the checksums are known.
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
    let layout =
        header.layout().ok_or_else(|| Error::format(&path, "its sections are too large for any file"))?;
    for (section, (offset, bytes)) in header.sections.iter_mut().zip(layout) {
        (section.offset, section.bytes) = (offset, bytes);
    }
    let begin = header.encode().0.len() as u64;
    let (last, length) = layout[layout.len() - 1];
    let bytes = begin + last + length;
    match File::create_new(&path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(Error::format(&path, "is there already, and is not replaced"));
        }
        made => made.and_then(|file| file.set_len(bytes)).at(&path)?,
    }
    let streams = layout.map(|(offset, _)| Stream::open(&path, begin + offset));
    let streams = streams.into_iter().collect::<Result<Vec<Stream>>>()?;
    let mut sections =
        Sections { kind: header.values, end: 0, name_end: 0, scratch: Vec::new(), streams: Streams(streams) };
    sections.begin().at(&path)?;
    for (i, pile) in range.clone().zip(&piles[range]) {
        sections.group(pile).at(&path)?;
        runs.group(i as u32, |chunk| sections.rows(chunk).at(&path))?;
    }
    for (section, stream) in header.sections.iter_mut().zip(sections.streams.0) {
        section.crc = stream.finish().at(&path)?;
    }
    let (head, crc) = header.encode();
    let mut out = File::options().write(true).open(&path).at(&path)?;
    out.write_all(&head).and_then(|()| out.sync_all()).at(&path)?;
    Ok(ShardEntry { file, bytes, cells: header.rows, crc })
}

fn shard_header(manifest: &Manifest, piles: &[Pile], controls: bool) -> format::Header {
    let sizes = piles.iter().fold(Sizes::default(), |all, pile| all.and(pile.sizes));
    format::Header {
        controls,
        genes: manifest.genes.len() as u64,
        cell_types: manifest.cell_types.len() as u64,
        perturbations: manifest.perturbations.len() as u64,
        batches: manifest.batches.len() as u64,
        scale: manifest.scale,
        target: manifest.target,
        factor: manifest.factor,
        values: Kind::of(manifest.scale, sizes.largest),
        groups: piles.len() as u64,
        rows: piles.iter().map(|pile| u64::from(pile.cells)).sum(),
        nonzeros: sizes.nonzeros,
        names: sizes.names,
        sections: format::blank_sections(),
    }
}

/// The sections of a shard being written.
struct Sections {
    kind: Kind,
    /// Values written so far: where the next row begins.
    end: u64,
    /// Bytes of names written so far.
    name_end: u64,
    scratch: Vec<u8>,
    streams: Streams,
}

impl Sections {
    fn begin(&mut self) -> std::io::Result<()> {
        self.streams.write(Part::Starts, &0u64.to_le_bytes())?;
        self.streams.write(Part::NameStarts, &0u64.to_le_bytes())
    }

    fn group(&mut self, pile: &Pile) -> std::io::Result<()> {
        let [cell_type, perturbation, batch] = pile.label;
        self.streams.write(Part::Groups, bytemuck::cast_slice(&[cell_type, perturbation, batch, pile.cells]))
    }

    fn rows(&mut self, chunk: &Chunk) -> std::io::Result<()> {
        for &length in &chunk.lengths {
            self.end += u64::from(length);
            self.streams.write(Part::Starts, &self.end.to_le_bytes())?;
        }
        self.scratch.clear();
        self.kind.encode(&chunk.values, &mut self.scratch);
        self.streams.write(Part::Genes, bytemuck::cast_slice(&chunk.genes))?;
        self.streams.write(Part::Values, &self.scratch)?;
        self.streams.write(Part::Library, bytemuck::cast_slice(&chunk.library))?;
        for &length in &chunk.name_lengths {
            self.name_end += u64::from(length);
            self.streams.write(Part::NameStarts, &self.name_end.to_le_bytes())?;
        }
        self.streams.write(Part::Names, &chunk.names)
    }
}

/// One for each section.
struct Streams(Vec<Stream>);

impl Streams {
    fn write(&mut self, part: Part, bytes: &[u8]) -> std::io::Result<()> {
        self.0[part as usize].write(bytes)
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
