//! Chunks compressed with zstd (HDF5 filter 32015), which hdf5-pure finds but does not unpack.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use hdf5_pure::{Chunk, Dataset};
use ruzstd::decoding::StreamingDecoder;

use super::hdf5::{Named, filter_name};
use crate::error::{At, Error, Result};

const SHUFFLE: u16 = 2;
const FLETCHER: u16 = 3;
const ZSTD: u16 = 32015;

/// Where the chunks of an array of one or two axes lie, and how they are unpacked.
pub(super) struct Chunks {
    /// By rising offset.
    list: Vec<Chunk>,
    filters: Vec<u16>,
    /// Rows and columns, of the array and of a chunk; one column where there is one axis.
    shape: [usize; 2],
    chunk: [usize; 2],
    /// Bytes a number.
    width: usize,
}

impl Chunks {
    /// `None` where zstd is not among the filters.
    pub(super) fn of(dataset: &Dataset, path: &Path, what: &str) -> Result<Option<Chunks>> {
        let filters = dataset.filters();
        if !filters.contains(&ZSTD) {
            return Ok(None);
        }
        if let Some(other) = filters.iter().find(|filter| ![SHUFFLE, FLETCHER, ZSTD].contains(filter)) {
            let what =
                format!("{what} is packed by zstd and {}, a pair that is not read", filter_name(*other));
            return Err(Error::format(path, what));
        }
        let chunk = dataset.chunk_shape().named(path, what)?.unwrap_or_default();
        let shape = dataset.shape().named(path, what)?;
        let plane = |axes: &[u64]| match axes {
            [rows] => Ok([*rows as usize, 1]),
            [rows, columns] => Ok([*rows as usize, *columns as usize]),
            _ => {
                Err(Error::format(path, format!("{what} has shape {axes:?} where one or two axes are right")))
            }
        };
        let mut list = dataset.chunks().named(path, what)?;
        list.sort_by(|a, b| a.offset.cmp(&b.offset));
        let width = dataset.element_size().named(path, what)? as usize;
        Ok(Some(Chunks { list, filters, shape: plane(&shape)?, chunk: plane(&chunk)?, width }))
    }

    /// Bytes of some rows, as they would lie without chunks.
    pub(super) fn rows(&self, path: &Path, what: &str, start: usize, count: usize) -> Result<Vec<u8>> {
        let end = start.saturating_add(count).min(self.shape[0]);
        let columns = self.shape[1];
        let size = end.saturating_sub(start).saturating_mul(columns).saturating_mul(self.width);
        // Before memory is asked for.
        if size > self.list.len().saturating_mul(self.size()) {
            return Err(Error::format(
                path,
                format!("{what} holds fewer chunks than its shape needs: cut off?"),
            ));
        }
        let mut out = vec![0; size];
        let mut file = File::open(path).at(path)?;
        let at = |chunk: &Chunk, axis: usize| chunk.offset.get(axis).map_or(0, |&at| at as usize);
        let first = self.list.partition_point(|chunk| at(chunk, 0).saturating_add(self.chunk[0]) <= start);
        for chunk in self.list[first..].iter().take_while(|chunk| at(chunk, 0) < end) {
            let (row, column) = (at(chunk, 0), at(chunk, 1));
            let wide = self.chunk[1].min(columns.saturating_sub(column)) * self.width;
            if wide == 0 {
                continue;
            }
            let bytes = self.unpacked(&mut file, chunk, path, what)?;
            for place in row.max(start)..row.saturating_add(self.chunk[0]).min(end) {
                let from = (place - row) * self.chunk[1] * self.width;
                let to = ((place - start) * columns + column) * self.width;
                out[to..to + wide].copy_from_slice(&bytes[from..from + wide]);
            }
        }
        Ok(out)
    }

    /// Bytes of a chunk.
    fn size(&self) -> usize {
        self.chunk[0].saturating_mul(self.chunk[1]).saturating_mul(self.width)
    }

    fn unpacked(&self, file: &mut File, chunk: &Chunk, path: &Path, what: &str) -> Result<Vec<u8>> {
        let broken = |why: &str| {
            Error::format(
                path,
                format!("the chunk of {what} at {:?} {why}: the file is damaged", chunk.offset),
            )
        };
        let size = self.size();
        // Data that zstd does not shrink is a little longer than unpacked.
        if chunk.storage_size / 2 > size as u64 + 512 {
            return Err(broken("is longer than what it holds"));
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(chunk.address)).at(path)?;
        file.take(chunk.storage_size).read_to_end(&mut bytes).at(path)?;
        for (place, filter) in self.filters.iter().enumerate().rev() {
            if chunk.filter_mask.checked_shr(place as u32).unwrap_or(0) & 1 == 1 {
                continue;
            }
            bytes = match *filter {
                FLETCHER => checked(bytes).ok_or_else(|| broken("does not match its checksum"))?,
                ZSTD => inflated(&bytes, size).ok_or_else(|| broken("is no zstd frame"))?,
                _ => unshuffled(&bytes, self.width),
            };
        }
        if bytes.len() != size { Err(broken("has another length than the others")) } else { Ok(bytes) }
    }
}

/// At most a little more than a whole chunk, whatever the frame promises.
fn inflated(packed: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(size.min(16 * packed.len()));
    StreamingDecoder::new(packed).ok()?.take((size as u64).saturating_add(5)).read_to_end(&mut out).ok()?;
    Some(out)
}

/// Undoes HDF5's shuffle: first bytes of all numbers, then the second ones and so on; a rest stays as it is.
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

/// Without its Fletcher-32 checksum, `None` where that does not match.
fn checked(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let stored = bytes.split_off(bytes.len().checked_sub(4)?);
    let (mut low, mut high) = (0u64, 0u64);
    for pair in bytes.chunks(2) {
        low = (low + (u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)))) % 65_535;
        high = (high + low) % 65_535;
    }
    let stored = u32::from_le_bytes(stored.try_into().ok()?);
    // HDF5 folds sums so that 65535 stands where a remainder is 0.
    let same = |sum: u64, half: u32| sum == u64::from(half) % 65_535;
    (same(low, stored & 0xffff) && same(high, stored >> 16)).then_some(bytes)
}
