//! Unpacks chunks on all cores. hdf5-pure finds them, but unpacks them one after another, and zstd (HDF5 filter 32015) not at all.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytemuck::Pod;
use flate2::{Decompress, FlushDecompress, Status};
use hdf5_pure::{Chunk, Dataset};
use rayon::prelude::*;
use ruzstd::decoding::StreamingDecoder;

use super::hdf5::{Named, filter_name};
use crate::error::{At, Error, Result};
use crate::memory;

const DEFLATE: u16 = 1;
const SHUFFLE: u16 = 2;
const FLETCHER: u16 = 3;
const ZSTD: u16 = 32015;

/// Most bytes of a chunk (file format 3.0, section IV.A.2.i: its sizes have 32 bits).
const MOST: u64 = u32::MAX as u64;

/// Fewest lines that are worth a thread's turn.
const LINES: usize = 64;

/// Where the chunks of an array of one or two axes are stored, and how they are unpacked.
pub(super) struct Chunks {
    /// By ascending offset.
    list: Vec<Chunk>,
    filters: Vec<u16>,
    /// Rows and columns of the array and of a chunk; one column if there is only one axis.
    shape: [usize; 2],
    chunk: [usize; 2],
    /// Bytes per number.
    width: usize,
}

impl Chunks {
    /// `None` if hdf5-pure must read it: not chunked, some chunks not stored, an index that cannot be listed, or other filters.
    pub(super) fn of(dataset: &Dataset, path: &Path, what: &str) -> Result<Option<Chunks>> {
        let filters = dataset.filters();
        let zstd = filters.contains(&ZSTD);
        if let Some(other) =
            filters.iter().find(|filter| ![DEFLATE, SHUFFLE, FLETCHER, ZSTD].contains(filter))
        {
            if !zstd {
                return Ok(None);
            }
            let what = format!(
                "{what} is compressed with zstd and {}, a combination that cannot be read",
                filter_name(*other)
            );
            return Err(Error::format(path, what));
        }
        let chunk = dataset.chunk_shape().named(path, what)?.unwrap_or_default();
        let shape = dataset.shape().named(path, what)?;
        let plane = |axes: &[u64]| match axes {
            [rows] => Ok([*rows as usize, 1]),
            [rows, columns] => Ok([*rows as usize, *columns as usize]),
            _ => Err(Error::format(
                path,
                format!("{what} has shape {axes:?}, but one or two axes are expected"),
            )),
        };
        if !zstd && (chunk.len() != shape.len() || !(1..=2).contains(&chunk.len()) || chunk.contains(&0)) {
            return Ok(None);
        }
        let list = dataset.chunks().named(path, what);
        let mut list = match list {
            Err(_) if !zstd => return Ok(None),
            list => list?,
        };
        list.sort_by(|a, b| a.offset.cmp(&b.offset));
        let width = dataset.element_size().named(path, what)? as usize;
        let (shape, chunk) = (plane(&shape)?, plane(&chunk)?);
        let bytes = chunk.iter().fold(width as u64, |bytes, &axis| bytes.saturating_mul(axis as u64));
        if bytes > MOST {
            let what = format!("{what} has chunks of more than {MOST} bytes: the file is damaged");
            return Err(Error::format(path, what));
        }
        memory::check_file(path, &format!("the chunks of {what}"), bytes)?;
        let whole =
            (0..2).map(|axis| shape[axis].div_ceil(chunk[axis].max(1))).fold(1, usize::saturating_mul);
        // Chunks that are not stored have a fill value, which only hdf5-pure looks up.
        let usable = zstd || list.len() == whole;
        Ok(usable.then_some(Chunks { list, filters, shape, chunk, width }))
    }

    /// Some rows as they would be laid out without chunks: bytes, or numbers of the stored width.
    pub(super) fn rows<T: Pod>(&self, path: &Path, what: &str, start: usize, count: usize) -> Result<Vec<T>> {
        assert!(self.width.is_multiple_of(size_of::<T>()), "{what}: {} bytes a number", self.width);
        let end = start.saturating_add(count).min(self.shape[0]);
        let line = self.shape[1].saturating_mul(self.width);
        let size = end.saturating_sub(start).saturating_mul(line);
        // Checked before memory is allocated.
        if size > self.list.len().saturating_mul(self.size()) {
            return Err(Error::format(
                path,
                format!("{what} has fewer chunks than its shape needs: was the file cut off?"),
            ));
        }
        memory::check_file(path, &format!("the numbers of {what}"), size as u64)?;
        let mut numbers: Vec<T> = bytemuck::zeroed_vec(size / size_of::<T>());
        let out: &mut [u8] = bytemuck::cast_slice_mut(&mut numbers);
        let source = Packed { file: &File::open(path).at(path)?, path, what };
        let first = self.list.partition_point(|chunk| self.row(chunk).saturating_add(self.chunk[0]) <= start);
        let after = self.list.partition_point(|chunk| self.row(chunk) < end);
        // Chunks next to each other fill whole rows: a band, which is one contiguous range of `out`.
        let (mut bands, mut rest, mut done) = (Vec::new(), out, start);
        for band in self.list[first..after.max(first)].chunk_by(|a, b| self.row(a) == self.row(b)) {
            let rows =
                self.row(&band[0]).max(start)..self.row(&band[0]).saturating_add(self.chunk[0]).min(end);
            let Some(gap) = rows.start.checked_sub(done) else {
                return Err(source.broken(&band[0], "overlaps another"));
            };
            let own;
            (own, rest) = std::mem::take(&mut rest)[gap * line..].split_at_mut(rows.len() * line);
            done = rows.end;
            bands.push((band, rows, own));
        }
        bands.into_par_iter().try_for_each(|(band, rows, out)| self.fill(&source, band, rows, out))?;
        Ok(numbers)
    }

    /// First row of a chunk.
    fn row(&self, chunk: &Chunk) -> usize {
        chunk.offset.first().map_or(0, |&at| at as usize)
    }

    /// Writes some rows of a band into `out`.
    fn fill(&self, source: &Packed, band: &[Chunk], rows: Range<usize>, out: &mut [u8]) -> Result<()> {
        let unpacked = |chunk: &Chunk| {
            let mut bytes = vec![0; self.size()];
            self.unpack(source, chunk, &mut bytes).map(|()| bytes)
        };
        // Bytes of a line of the array, and of a chunk.
        let (line, narrow) = (self.shape[1] * self.width, self.chunk[1] * self.width);
        if let [chunk] = band
            && line == narrow
        {
            if out.len() == self.size() {
                return self.unpack(source, chunk, out);
            }
            let from = (rows.start - self.row(chunk)) * line;
            out.copy_from_slice(&unpacked(chunk)?[from..from + out.len()]);
            return Ok(());
        }
        // A line holds little of each chunk: it is filled from as many of them as are unpacked at once.
        for some in band.chunks(rayon::current_num_threads()) {
            let parts: Vec<Vec<u8>> = some.par_iter().map(unpacked).collect::<Result<_>>()?;
            let lines = out.par_chunks_exact_mut(line.max(1)).zip(rows.clone()).with_min_len(LINES);
            lines.for_each(|(out, row)| {
                for (chunk, bytes) in some.iter().zip(&parts) {
                    let to =
                        chunk.offset.get(1).map_or(0, |&at| at as usize).saturating_mul(self.width).min(line);
                    let from = (row - self.row(chunk)) * narrow;
                    let wide = narrow.min(line - to);
                    out[to..to + wide].copy_from_slice(&bytes[from..from + wide]);
                }
            });
        }
        Ok(())
    }

    /// Bytes of a chunk.
    fn size(&self) -> usize {
        self.chunk[0] * self.chunk[1] * self.width
    }

    /// Unpacks a whole chunk into `out`, which has exactly its size.
    fn unpack(&self, source: &Packed, chunk: &Chunk, out: &mut [u8]) -> Result<()> {
        // Incompressible data become slightly longer when packed.
        if chunk.storage_size / 2 > out.len() as u64 + 512 {
            return Err(source.broken(chunk, "is longer than its contents"));
        }
        let used = |place: usize| chunk.filter_mask.checked_shr(place as u32).unwrap_or(0) & 1 == 0;
        let mut filters =
            (0..self.filters.len()).rev().filter(|&place| used(place)).map(|place| self.filters[place]);
        // The most common packings need no second copy.
        if self.filters.is_empty() && chunk.storage_size == out.len() as u64 {
            return source.file.read_exact_at(out, chunk.address).at(source.path);
        }
        let mut bytes = vec![0; chunk.storage_size as usize];
        source.file.read_exact_at(&mut bytes, chunk.address).at(source.path)?;
        if self.filters == [DEFLATE] && filters.next() == Some(DEFLATE) {
            return inflate(&bytes, out).ok_or_else(|| source.broken(chunk, "cannot be decompressed"));
        }
        for filter in filters {
            bytes = match filter {
                FLETCHER => {
                    checked(bytes).ok_or_else(|| source.broken(chunk, "does not match its checksum"))?
                }
                ZSTD => {
                    inflated(&bytes, out.len()).ok_or_else(|| source.broken(chunk, "is not a zstd frame"))?
                }
                DEFLATE => {
                    // Four more bytes for the Fletcher checksum, if it was packed too.
                    let mut whole = vec![0; out.len() + if self.filters[0] == FLETCHER { 4 } else { 0 }];
                    inflate(&bytes, &mut whole)
                        .ok_or_else(|| source.broken(chunk, "cannot be decompressed"))?;
                    whole
                }
                _ => unshuffled(&bytes, self.width),
            };
        }
        if bytes.len() != out.len() {
            return Err(source.broken(chunk, "has a different length from the others"));
        }
        out.copy_from_slice(&bytes);
        Ok(())
    }
}

/// Where chunks are read from, and what errors name.
struct Packed<'a> {
    file: &'a File,
    path: &'a Path,
    what: &'a str,
}

impl Packed<'_> {
    fn broken(&self, chunk: &Chunk, why: &str) -> Error {
        let what = format!("the chunk of {} at {:?} {why}: the file is damaged", self.what, chunk.offset);
        Error::format(self.path, what)
    }
}

/// Fills `out` from a zlib stream that must unpack to exactly as many bytes.
fn inflate(packed: &[u8], out: &mut [u8]) -> Option<()> {
    let mut stream = Decompress::new(true);
    let status = stream.decompress(packed, out, FlushDecompress::Finish).ok()?;
    (status == Status::StreamEnd && stream.total_out() == out.len() as u64).then_some(())
}

/// Unpacks at most slightly more than a whole chunk, whatever size the frame promises.
fn inflated(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(size.min(16 * packed.len()));
    StreamingDecoder::new(packed).ok()?.take((size as u64).saturating_add(5)).read_to_end(&mut out).ok()?;
    Some(out)
}

/// Undoes HDF5's shuffle: the first bytes of all numbers, then the second bytes, and so on; an
/// incomplete number at the end stays as it is.
fn unshuffled(bytes: &[u8], width: usize) -> Vec<u8> {
    let numbers = bytes.len() / width;
    let mut out = bytes.to_vec();
    for (plane, of) in bytes[..numbers * width].chunks_exact(numbers.max(1)).enumerate() {
        for (number, &byte) in of.iter().enumerate() {
            out[number * width + plane] = byte;
        }
    }
    out
}

/// The bytes without their Fletcher-32 checksum, `None` if it does not match.
fn checked(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let stored = bytes.split_off(bytes.len().checked_sub(4)?);
    let (mut low, mut high) = (0u64, 0u64);
    for pair in bytes.chunks(2) {
        low = (low + (u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))) % 65_535;
        high = (high + low) % 65_535;
    }
    let stored = u32::from_le_bytes(stored.try_into().ok()?);
    // HDF5 folds its sums so that 65535 can stand for a remainder of 0.
    let same = |sum: u64, half: u32| sum == u64::from(half) % 65_535;
    (same(low, stored & 0xffff) && same(high, stored >> 16)).then_some(bytes)
}
