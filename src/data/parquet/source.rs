//! A file that reports its end: the crate's reader of page headers otherwise retries for ever at the end of a file.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Result};

use bytes::Bytes;
use parquet::file::reader::{ChunkReader, Length};

/// An open file.
pub(super) struct Source(pub File);

/// The file's bytes from some offset on; reading past the end is an error.
pub(super) struct Ended(BufReader<File>);

impl Length for Source {
    fn len(&self) -> u64 {
        self.0.len()
    }
}

impl ChunkReader for Source {
    type T = Ended;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Ended> {
        self.0.get_read(start).map(Ended)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}

impl Read for Ended {
    fn read(&mut self, out: &mut [u8]) -> Result<usize> {
        match self.0.read(out)? {
            0 if !out.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}
