//! Rows in source order in, rows by group out, in bounded memory: an external merge sort.
//!
//! Rows gather in a buffer; a full buffer is written to one spill file as a run, its rows ordered by group. At the end every run
//! is read from front to back, a chunk (one group's rows of one run) at a time, so that disks see long reads, memory holds one
//! buffer and a small window a run, and a group's rows come out in source order: runs are in order, and rows inside a chunk too.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::Scale;
use super::format::Kind;
use crate::error::{At, Result};

/// Bytes read at a time from a run.
const WINDOW: usize = 64 << 10;

#[derive(Clone, Copy)]
struct Stored {
    group: u32,
    length: u32,
    start: u64,
    library: f32,
}

/// Rows as they came.
#[derive(Default)]
pub(super) struct Buffer {
    rows: Vec<Stored>,
    genes: Vec<u16>,
    values: Vec<f32>,
}

/// Rows of one group: `lengths[i]` genes and values each.
#[derive(Default)]
pub(super) struct Chunk {
    pub(super) lengths: Vec<u32>,
    pub(super) library: Vec<f32>,
    pub(super) genes: Vec<u16>,
    pub(super) values: Vec<f32>,
}

impl Buffer {
    /// Adds a row, without its stored zeros. Returns how many values were kept.
    pub(super) fn push(&mut self, group: u32, genes: &[u16], values: &[f32], library: f32) -> usize {
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
        self.rows.push(Stored { group, length: length as u32, start: start as u64, library });
        length
    }

    pub(super) fn bytes(&self) -> usize {
        self.rows.len() * size_of::<Stored>() + self.genes.len() * 6
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
            bytes.clear();
            bytes.extend_from_slice(bytemuck::cast_slice(&[
                rows[0].group,
                rows.len() as u32,
                nonzeros,
                kind as u32,
            ]));
            rows.iter().for_each(|row| bytes.extend(row.length.to_le_bytes()));
            rows.iter().for_each(|row| bytes.extend(row.library.to_le_bytes()));
            rows.iter()
                .for_each(|row| bytes.extend_from_slice(bytemuck::cast_slice(&self.genes[range(row)])));
            rows.iter().for_each(|row| kind.encode(&self.values[range(row)], &mut bytes));
            out.write_all(&bytes)?;
            written += bytes.len() as u64;
        }
        *self = Buffer::default();
        Ok(written)
    }
}

/// The runs written so far.
pub(super) struct Spill {
    path: PathBuf,
    scale: Scale,
    file: Option<BufWriter<File>>,
    /// End of each run in the file.
    ends: Vec<u64>,
}

impl Spill {
    /// Nothing is made at `path` until a buffer is full.
    pub(super) fn new(path: PathBuf, scale: Scale) -> Self {
        Spill { path, scale, file: None, ends: Vec::new() }
    }

    /// Takes a full buffer as a run.
    pub(super) fn add(&mut self, buffer: &mut Buffer) -> Result<()> {
        if self.file.is_none() {
            let options =
                File::options().read(true).write(true).create_new(true).open(&self.path).at(&self.path)?;
            self.file = Some(BufWriter::with_capacity(1 << 20, options));
        }
        let file = self.file.as_mut().expect("just made");
        let written = buffer.drain(self.scale, file).at(&self.path)?;
        self.ends.push(self.ends.last().copied().unwrap_or(0) + written);
        Ok(())
    }

    /// The runs, ready to be merged; the last buffer stays in memory.
    pub(super) fn finish(self, mut last: Buffer) -> Result<Runs> {
        let mut runs = Vec::new();
        let mut memory = Vec::new();
        last.drain(self.scale, &mut memory).at(&self.path)?;
        if let Some(writer) = self.file {
            let file = writer.into_inner().map_err(io::IntoInnerError::into_error).at(&self.path)?;
            let file = Rc::new(RefCell::new(file));
            let mut begin = 0;
            for end in self.ends {
                let window = Window { file: file.clone(), at: begin, end };
                runs.push(Run::new(Box::new(BufReader::with_capacity(WINDOW, window))).at(&self.path)?);
                begin = end;
            }
        }
        runs.push(Run::new(Box::new(Cursor::new(memory))).at(&self.path)?);
        Ok(Runs { path: self.path, runs })
    }
}

/// A part of the spill file. All runs share one file handle: there can be more runs than a process may open files.
struct Window {
    file: Rc<RefCell<File>>,
    at: u64,
    end: u64,
}

impl Read for Window {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(self.at))?;
        let room = out.len().min((self.end - self.at) as usize);
        let read = file.read(&mut out[..room])?;
        self.at += read as u64;
        Ok(read)
    }
}

struct Run {
    input: Box<dyn Read>,
    /// Group, rows, nonzeros and kind of the next chunk.
    next: Option<[u32; 4]>,
}

impl Run {
    fn new(input: Box<dyn Read>) -> io::Result<Run> {
        let mut run = Run { input, next: None };
        run.advance()?;
        Ok(run)
    }

    fn advance(&mut self) -> io::Result<()> {
        let mut head = [0u32; 4];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut head);
        let first = self.input.read(&mut bytes[..1])?;
        if first == 1 {
            self.input.read_exact(&mut bytes[1..])?;
        }
        self.next = (first == 1).then_some(head);
        Ok(())
    }

    fn read(&mut self, chunk: &mut Chunk, [_, rows, nonzeros, kind]: [u32; 4]) -> io::Result<()> {
        let (rows, nonzeros) = (rows as usize, nonzeros as usize);
        let kind = [Kind::U8, Kind::U16, Kind::F32][kind as usize];
        let mut values = vec![0u8; nonzeros * kind.width() as usize];
        chunk.lengths.resize(rows, 0);
        chunk.library.resize(rows, 0.0);
        chunk.genes.resize(nonzeros, 0);
        self.input.read_exact(bytemuck::cast_slice_mut(&mut chunk.lengths))?;
        self.input.read_exact(bytemuck::cast_slice_mut(&mut chunk.library))?;
        self.input.read_exact(bytemuck::cast_slice_mut(&mut chunk.genes))?;
        self.input.read_exact(&mut values)?;
        chunk.values.clear();
        kind.decode(&values, &mut chunk.values);
        self.advance()
    }
}

/// The runs, being merged.
pub(super) struct Runs {
    path: PathBuf,
    runs: Vec<Run>,
}

impl Runs {
    /// Hands the rows of `group` to `take`, in source order. Groups must be asked for in ascending order.
    pub(super) fn group(&mut self, group: u32, mut take: impl FnMut(&Chunk) -> Result<()>) -> Result<()> {
        let mut chunk = Chunk::default();
        for run in &mut self.runs {
            if let Some(head) = run.next.filter(|head| head[0] == group) {
                run.read(&mut chunk, head).at(&self.path)?;
                take(&chunk)?;
            }
        }
        Ok(())
    }

    /// Removes the spill file.
    pub(super) fn remove(self) -> Result<()> {
        let Runs { path, runs } = self;
        drop(runs);
        if path.exists() { std::fs::remove_file(&path).at(&path) } else { Ok(()) }
    }
}

/// Where a directory's writer spills.
pub(super) fn spill_path(dir: &Path) -> PathBuf {
    dir.join(".spill")
}
