//! Text of a dataset: fixed-length in place, variable-length in HDF5's global heap (file format 3.0, section III.E).

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result, Seek, SeekFrom};
use std::path::Path;

use hdf5_pure::{Datatype, StringPadding};

use super::hdf5::SIGNATURE;

/// Length, address of the collection, and number of the object in it.
const REFERENCE: usize = 16;
/// Collections kept in memory: neighbours in a dataset share one, or a few that filled up in parallel.
const KEPT: usize = 64;

/// The heaps of one file.
pub(super) struct Heap {
    file: File,
    length: u64,
    /// Where addresses count from: after a user block.
    base: u64,
    kept: HashMap<u64, Collection>,
}

struct Collection {
    bytes: Vec<u8>,
    /// Start and length by object number.
    objects: HashMap<u32, (usize, usize)>,
}

/// Text of each entry; `None` if the type is not text. Entries that are not UTF-8 are read as Latin-1, as some programs
/// write it: names that differ stay different.
pub(super) fn texts(kind: &Datatype, bytes: &[u8], path: &Path) -> Result<Option<Vec<String>>> {
    match kind {
        // A record field can claim to have no bytes; its entries could not be counted.
        Datatype::String { size: 0, .. } => Ok(None),
        Datatype::String { size, padding, .. } => {
            let text = |entry: &[u8]| decoded(trimmed(entry, padding));
            Ok(Some(bytes.chunks_exact(*size as usize).map(text).collect()))
        }
        Datatype::VariableLength { is_string: true, .. } => {
            let mut heap = Heap::open(path)?;
            let text = |reference: &[u8]| heap.text(reference);
            bytes.chunks_exact(REFERENCE).map(text).collect::<Result<_>>().map(Some)
        }
        _ => Ok(None),
    }
}

fn decoded(text: &[u8]) -> String {
    match std::str::from_utf8(text) {
        Ok(text) => text.to_string(),
        Err(_) => text.iter().map(|&byte| char::from(byte)).collect(),
    }
}

fn trimmed<'a>(entry: &'a [u8], padding: &StringPadding) -> &'a [u8] {
    let pad = if *padding == StringPadding::SpacePad { b' ' } else { 0 };
    match padding {
        StringPadding::NullTerminate => entry.split(|&byte| byte == 0).next().unwrap_or(entry),
        _ => &entry[..entry.iter().rposition(|&byte| byte != pad).map_or(0, |last| last + 1)],
    }
}

impl Heap {
    fn open(path: &Path) -> Result<Heap> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut base = 0u64;
        loop {
            let mut start = [0; 16];
            file.seek(SeekFrom::Start(base))?;
            file.read_exact(&mut start)?;
            if start.starts_with(SIGNATURE) {
                // Superblocks 0 and 1 store the width of addresses further back than 2 and 3.
                let width = if start[8] < 2 { start[13] } else { start[9] };
                if width != 8 {
                    return Err(broken(format!("has addresses of {width} bytes instead of 8")));
                }
                return Ok(Heap { file, length, base, kept: HashMap::new() });
            }
            base = if base == 0 { 512 } else { base * 2 };
        }
    }

    fn text(&mut self, reference: &[u8]) -> Result<String> {
        let word = |at: usize| u32::from_le_bytes(reference[at..at + 4].try_into().expect("four bytes"));
        let address = u64::from(word(4)) | u64::from(word(8)) << 32;
        let (length, number) = (word(0) as usize, word(12));
        if length == 0 || address == 0 {
            return Ok(String::new());
        }
        if !self.kept.contains_key(&address) {
            if self.kept.len() == KEPT {
                self.kept.clear();
            }
            let collection = self.read(address)?;
            self.kept.insert(address, collection);
        }
        let collection = &self.kept[&address];
        match collection.objects.get(&number) {
            Some(&(start, size)) if length <= size => {
                let text = trimmed(&collection.bytes[start..start + length], &StringPadding::NullPad);
                Ok(decoded(text))
            }
            _ => Err(broken(format!("no text number {number} at address {address}"))),
        }
    }

    fn read(&mut self, address: u64) -> Result<Collection> {
        let at = address.saturating_add(self.base);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let mut head = [0; 16];
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(&mut head)?;
        let size = number(&head[8..]);
        if !head.starts_with(b"GCOL") || size < 16 || size > self.length.saturating_sub(at) {
            return Err(broken(format!("no collection of texts at address {address}")));
        }
        let mut bytes = vec![0; size as usize - 16];
        self.file.read_exact(&mut bytes)?;
        let mut objects = HashMap::new();
        let mut next = 0;
        while next + 16 <= bytes.len() {
            let index = u32::from(u16::from_le_bytes([bytes[next], bytes[next + 1]]));
            let size = number(&bytes[next + 8..next + 16]);
            // Object 0 is the free space at the end.
            if index == 0 || size > (bytes.len() - next - 16) as u64 {
                break;
            }
            objects.insert(index, (next + 16, size as usize));
            next += 16 + (size as usize).next_multiple_of(8);
        }
        Ok(Collection { bytes, objects })
    }
}

fn broken(what: String) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use hdf5_pure::CharacterSet;

    use super::*;

    #[test]
    fn text_of_no_bytes_is_no_text() {
        let (padding, charset) = (StringPadding::NullPad, CharacterSet::Ascii);
        let kind = Datatype::String { size: 0, padding, charset };
        assert_eq!(texts(&kind, &[], Path::new("")).expect("no heap is asked"), None);
    }
}
