//! Rows in source order in, rows by group out, in bounded memory: an external merge sort.
//!
//! Rows are collected in a buffer; a full buffer is written to a file as a run, its rows ordered by group. Once all cells have been
//! added, every run is read from front to back, one chunk (one group's rows of one run) at a time, so that disk reads are long,
//! memory holds one buffer and a small window per run, and a group's rows come out in source order, because runs are in source
//! order and so are the rows inside a chunk. Several files of runs, whose cells follow each other, are merged in the same way. They
//! may come from other machines: each chunk has a checksum, which is held against it before any of it is used.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crc32fast::Hasher;

use super::file::library_error;
use super::format::Kind;
use super::piles::{Piles, Sizes};
use super::{Manifest, Scale};
use crate::data::h5ad::unfit;
use crate::data::scale::misfit;
use crate::error::{At, Error, Result};

/// Bytes read at a time from a run.
const WINDOW: usize = 64 << 10;

/// Bytes of a gene and its value.
const ENTRY: usize = 2 + 4;

/// Most bytes of a cell's name: no genuine one comes near this.
const NAME: usize = 1 << 16;

/// Bytes of rows held in memory before they are written as a run.
pub(super) const MEMORY: usize = 256 << 20;

/// The most that can be held: a chunk, which is all of a run where that has one group, counts its numbers in 32 bits.
const MOST: usize = 2 << 30;

/// Words before a chunk: its group, rows, nonzeros, kind and bytes of names, the CRC-32 of its bytes, and that of these words.
const HEAD: usize = 7;

#[derive(Clone, Copy)]
struct Stored {
    group: u32,
    length: u32,
    start: u64,
    name: u32,
    name_start: u64,
    library: f32,
}

/// Rows as they arrived.
#[derive(Default)]
pub(super) struct Buffer {
    rows: Vec<Stored>,
    genes: Vec<u16>,
    values: Vec<f32>,
    names: Vec<u8>,
}

/// Rows of one group: row i has `lengths[i]` genes and values, and `name_lengths[i]` bytes of its cell's name.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) lengths: Vec<u32>,
    pub(super) library: Vec<f32>,
    pub(super) name_lengths: Vec<u32>,
    pub(super) genes: Vec<u16>,
    pub(super) values: Vec<f32>,
    pub(super) names: Vec<u8>,
}

impl Buffer {
    /// With room for this many bytes of rows. Memory that is never written is only address space, and
    /// reserving it spares a copy on growth.
    fn of(bytes: usize) -> Buffer {
        let entries = bytes / ENTRY;
        let (genes, values) = (Vec::with_capacity(entries), Vec::with_capacity(entries));
        Buffer { rows: Vec::new(), genes, values, names: Vec::new() }
    }

    /// Adds a row, without its stored zeros. Returns how many values were kept.
    fn push(&mut self, group: u32, name: &str, genes: &[u16], values: &[f32], library: f32) -> usize {
        let start = self.genes.len();
        if values.contains(&0.0) {
            let kept = || genes.iter().zip(values).filter(|(_, v)| **v != 0.0);
            self.genes.extend(kept().map(|(g, _)| *g));
            self.values.extend(kept().map(|(_, v)| *v));
        } else {
            self.genes.extend_from_slice(genes);
            self.values.extend_from_slice(values);
        }
        let length = self.genes.len() - start;
        let (start, name_start) = (start as u64, self.names.len() as u64);
        let (length, name_length) = (length as u32, name.len() as u32);
        self.rows.push(Stored { group, length, start, name: name_length, name_start, library });
        self.names.extend_from_slice(name.as_bytes());
        length as usize
    }

    fn bytes(&self) -> usize {
        self.rows.len() * size_of::<Stored>() + self.genes.len() * ENTRY + self.names.len()
    }

    /// Writes the rows by group and empties the buffer. Returns the bytes written.
    fn drain(&mut self, scale: Scale, out: &mut impl Write) -> io::Result<u64> {
        // A stable sort: the rows of a group stay in source order.
        self.rows.sort_by_key(|row| row.group);
        let mut written = 0;
        let mut bytes = Vec::new();
        for rows in self.rows.chunk_by(|a, b| a.group == b.group) {
            let range = |row: &Stored| row.start as usize..row.start as usize + row.length as usize;
            let largest = |row: &Stored| self.values[range(row)].iter().fold(0.0f32, |a, &b| a.max(b));
            let kind = Kind::of(scale, rows.iter().map(largest).fold(0.0, f32::max));
            let nonzeros: u32 = rows.iter().map(|row| row.length).sum();
            let names: u32 = rows.iter().map(|row| row.name).sum();
            bytes.clear();
            rows.iter().for_each(|row| bytes.extend(row.length.to_le_bytes()));
            rows.iter().for_each(|row| bytes.extend(row.library.to_le_bytes()));
            rows.iter().for_each(|row| bytes.extend(row.name.to_le_bytes()));
            rows.iter()
                .for_each(|row| bytes.extend_from_slice(bytemuck::cast_slice(&self.genes[range(row)])));
            rows.iter().for_each(|row| kind.encode(&self.values[range(row)], &mut bytes));
            let name = |row: &Stored| &self.names[row.name_start as usize..][..row.name as usize];
            rows.iter().for_each(|row| bytes.extend_from_slice(name(row)));
            let (group, crc) = (rows[0].group, crc32fast::hash(&bytes));
            let mut head: [u32; HEAD] = [group, rows.len() as u32, nonzeros, kind as u32, names, crc, 0];
            head[HEAD - 1] = sum_of(&head);
            out.write_all(bytemuck::cast_slice(&head))?;
            out.write_all(&bytes)?;
            written += (size_of_val(&head) + bytes.len()) as u64;
        }
        self.rows.clear();
        self.genes.clear();
        self.values.clear();
        self.names.clear();
        Ok(written)
    }
}

/// The rows of consecutive cells, on disk as runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// File of the runs.
    pub path: PathBuf,
    /// End of each run in the file, in bytes.
    pub ends: Vec<u64>,
    /// Number and sizes of each group that has rows here.
    pub groups: Vec<(u32, Sizes)>,
}

/// Writes [`Rows`]: `new`, one `push` per cell, `finish`.
pub struct RowsWriter<'a> {
    manifest: &'a Manifest,
    piles: &'a Piles,
    path: PathBuf,
    /// Cells yet to be pushed.
    cells: Range<usize>,
    memory: usize,
    buffer: Buffer,
    file: BufWriter<File>,
    ends: Vec<u64>,
    /// Sizes of each group so far.
    found: Vec<Sizes>,
}

brief!(RowsWriter<'_>, |rows| path: rows.path, cells: rows.cells);

impl<'a> RowsWriter<'a> {
    /// Starts a file for cells `cells` of the source; an existing one is overwritten.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn new(
        path: &Path,
        manifest: &'a Manifest,
        piles: &'a Piles,
        cells: Range<usize>,
    ) -> Result<RowsWriter<'a>> {
        RowsWriter::with_memory(path, manifest, piles, cells, MEMORY)
    }

    pub(super) fn with_memory(
        path: &Path,
        manifest: &'a Manifest,
        piles: &'a Piles,
        cells: Range<usize>,
        memory: usize,
    ) -> Result<RowsWriter<'a>> {
        let file = BufWriter::with_capacity(1 << 20, File::create(path).at(path)?);
        let memory = memory.min(MOST);
        let (path, found) = (path.to_path_buf(), vec![Sizes::default(); piles.all.len()]);
        let (buffer, ends) = (Buffer::of(memory), Vec::new());
        Ok(RowsWriter { manifest, piles, path, cells, memory, buffer, file, ends, found })
    }

    /// Adds the next cell: its name (empty if it has none), gene ids ascending, one value each (counts as f32 when the scale
    /// is counts; zeros are dropped), and its total counts over all genes of the source.
    ///
    /// # Errors
    /// A cell too many, one that the format cannot hold, or genes, values and a total that do not form one; a file that cannot be
    /// written.
    ///
    /// # Panics
    /// If a cell has no label.
    pub fn push(&mut self, name: &str, genes: &[u16], values: &[f32], library: f32) -> Result<()> {
        let Some(cell) = self.cells.next() else {
            let what = format!("labels were given for only {} cells", self.piles.cells());
            return Err(Error::format(&self.path, what));
        };
        if let Some(what) = refuse(self.manifest, name, genes, values, library) {
            return Err(Error::format(&self.path, format!("cell {cell} of the source: {what}")));
        }
        let pile = self.piles.of_cell(cell);
        let nonzeros = self.buffer.push(pile, name, genes, values, library) as u64;
        let largest = values.iter().fold(0.0f32, |a, &b| a.max(b));
        let found = &mut self.found[pile as usize];
        *found = found.and(Sizes { nonzeros, names: name.len() as u64, largest });
        if self.buffer.bytes() >= self.memory {
            self.end_run()?;
        }
        Ok(())
    }

    fn end_run(&mut self) -> Result<()> {
        let written = self.buffer.drain(self.manifest.scale, &mut self.file).at(&self.path)?;
        self.ends.push(self.ends.last().copied().unwrap_or(0) + written);
        Ok(())
    }

    /// Writes what is left. Every cell must have been pushed.
    ///
    /// # Errors
    /// Cells that are missing; a file that cannot be written.
    pub fn finish(mut self) -> Result<Rows> {
        if !self.cells.is_empty() {
            let what = format!("{} of {} cells are missing", self.cells.len(), self.piles.cells());
            return Err(Error::format(&self.path, what));
        }
        if self.buffer.bytes() > 0 {
            self.end_run()?;
        }
        self.file.flush().and_then(|()| self.file.get_ref().sync_all()).at(&self.path)?;
        let groups = (0u32..).zip(self.found).filter(|(_, sizes)| *sizes != Sizes::default()).collect();
        Ok(Rows { path: self.path, ends: self.ends, groups })
    }
}

fn refuse(manifest: &Manifest, name: &str, genes: &[u16], values: &[f32], library: f32) -> Option<String> {
    if name.len() > NAME {
        return Some(format!("its name has {} bytes; at most {NAME} are allowed", name.len()));
    }
    if let Some(what) = unfit(genes, values, manifest.genes.len()) {
        return Some(what);
    }
    if let Some(place) = misfit(values, false) {
        return Some(format!("value {} is negative or not finite", values[place]));
    }
    if let Some(place) = misfit(values, manifest.scale == Scale::Counts) {
        return Some(format!("count {} is not a whole number; is the source on a log scale?", values[place]));
    }
    let most = values.iter().copied().reduce(f32::max).filter(|&most| most > 0.0);
    library_error(library, most, manifest.scale)
}

/// A run in a file. The file is opened for each read: there can be more files than a process may hold open.
struct Window {
    path: PathBuf,
    at: u64,
    end: u64,
}

impl Read for Window {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let room = out.len().min((self.end - self.at) as usize);
        if room == 0 {
            return Ok(0);
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.at))?;
        let read = file.read(&mut out[..room])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.at += read as u64;
        Ok(read)
    }
}

struct Run {
    path: PathBuf,
    input: BufReader<Window>,
    /// What stands before the next chunk.
    next: Option<[u32; HEAD]>,
}

impl Run {
    fn new(path: &Path, at: u64, end: u64) -> io::Result<Run> {
        let window = Window { path: path.to_path_buf(), at, end };
        let input = BufReader::with_capacity(WINDOW, window);
        let mut run = Run { path: path.to_path_buf(), input, next: None };
        run.advance()?;
        Ok(run)
    }

    fn advance(&mut self) -> io::Result<()> {
        let mut head = [0u32; HEAD];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut head);
        let first = self.input.read(&mut bytes[..1])?;
        if first == 1 {
            self.input.read_exact(&mut bytes[1..])?;
            if head[HEAD - 1] != sum_of(&head) {
                return Err(ErrorKind::InvalidData.into());
            }
        }
        self.next = (first == 1).then_some(head);
        Ok(())
    }

    fn read(&mut self, chunk: &mut Chunk, head: [u32; HEAD]) -> io::Result<()> {
        let [_, rows, nonzeros, kind, names, crc, _] = head;
        let (rows, nonzeros) = (rows as usize, nonzeros as usize);
        let kind = Kind::of_code(kind).ok_or(ErrorKind::InvalidData)?;
        let mut values = vec![0u8; nonzeros * kind.width() as usize];
        chunk.lengths.resize(rows, 0);
        chunk.library.resize(rows, 0.0);
        chunk.name_lengths.resize(rows, 0);
        chunk.genes.resize(nonzeros, 0);
        chunk.names.resize(names as usize, 0);
        let parts: [&mut [u8]; 6] = [
            bytemuck::cast_slice_mut(&mut chunk.lengths),
            bytemuck::cast_slice_mut(&mut chunk.library),
            bytemuck::cast_slice_mut(&mut chunk.name_lengths),
            bytemuck::cast_slice_mut(&mut chunk.genes),
            &mut values,
            &mut chunk.names,
        ];
        let mut sum = Hasher::new();
        for part in parts {
            self.input.read_exact(part)?;
            sum.update(part);
        }
        if sum.finalize() != crc {
            return Err(ErrorKind::InvalidData.into());
        }
        chunk.values.clear();
        kind.decode(&values, &mut chunk.values);
        self.advance()
    }
}

/// CRC-32 of what stands before a chunk, without this sum itself.
fn sum_of(head: &[u32; HEAD]) -> u32 {
    crc32fast::hash(bytemuck::cast_slice(&head[..HEAD - 1]))
}

/// What is wrong with a file of runs: the system refused to read it, or it is not as it was written.
fn unread(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Error::format(
            path,
            "is damaged: rows do not match their checksum; remove it and do the same again",
        ),
        _ => Error::Io { path: path.to_path_buf(), cause: error },
    }
}

/// The runs, being merged.
pub(super) struct Runs(Vec<Run>);

impl Runs {
    /// Opens the runs of cells in the order of `rows`.
    pub(super) fn open(rows: &[Rows]) -> Result<Runs> {
        let mut runs = Vec::new();
        for Rows { path, ends, .. } in rows {
            let mut begin = 0;
            for &end in ends {
                runs.push(Run::new(path, begin, end).map_err(|error| unread(path, error))?);
                begin = end;
            }
        }
        Ok(Runs(runs))
    }

    /// Passes the rows of `group` to `take`, in source order. Groups must be requested in ascending order.
    pub(super) fn group(&mut self, group: u32, mut take: impl FnMut(&Chunk) -> Result<()>) -> Result<()> {
        let mut chunk = Chunk::default();
        for run in &mut self.0 {
            if let Some(head) = run.next.filter(|head| head[0] == group) {
                run.read(&mut chunk, head).map_err(|error| unread(&run.path, error))?;
                take(&chunk)?;
            }
        }
        Ok(())
    }
}
