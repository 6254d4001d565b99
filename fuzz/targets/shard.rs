//! A shard whose header and numbers have correct checksums: refused, or every row is what the format promises.
//!
//! The input is a list of five-byte changes, each a position (little-endian, 32 bits) and a byte, in the header's JSON and in
//! what follows it; the checksums and the manifest's entry are then made to match.
#![no_main]

#[path = "../../tests/small_data.rs"]
#[allow(dead_code)]
mod small_data;

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use scale_engine::data::shard::{Data, Limits};
use serde_json::Value;
use small_data::{World, header};

/// Bytes before a shard's header.
const PRELUDE: usize = 64;
const NAME: &str = "perturbed-0000.shard";

/// A directory, its manifest, and one shard of it, as the bytes before the header's length, the header, and the rest.
struct Honest {
    dir: tempfile::TempDir,
    manifest: Value,
    start: Vec<u8>,
    header: Vec<u8>,
    body: Vec<u8>,
}

thread_local! {
    static HONEST: RefCell<Honest> = RefCell::new(Honest::new());
}

impl Honest {
    fn new() -> Honest {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let groups = [(0, 0, 0, 3), (1, 0, 0, 2), (0, 1, 0, 3), (1, 2, 0, 3)];
        World::of_groups(header(12, 2, 2, 1), &groups).write(dir.path(), Limits::default()).expect("written");
        let bytes = std::fs::read(dir.path().join(NAME)).expect("a shard");
        let text = std::fs::read(dir.path().join("manifest.json")).expect("a manifest");
        let length = u32::from_le_bytes([bytes[12], bytes[13], bytes[14], bytes[15]]) as usize;
        Honest {
            dir,
            manifest: serde_json::from_slice(&text).expect("JSON"),
            start: bytes[..12].to_vec(),
            header: bytes[PRELUDE..PRELUDE + length].to_vec(),
            body: bytes[PRELUDE + length..].to_vec(),
        }
    }

    fn open(&mut self, changes: &[u8]) {
        let (mut header, mut body) = (self.header.clone(), self.body.clone());
        for change in changes.chunks_exact(5) {
            let place = u32::from_le_bytes([change[0], change[1], change[2], change[3]]) as usize;
            let place = place % (header.len() + body.len());
            match place.checked_sub(header.len()) {
                None => header[place] = change[4],
                Some(place) => body[place] = change[4],
            }
        }
        if let Ok(mut told) = serde_json::from_slice::<Value>(&header) {
            for section in told["sections"].as_array_mut().into_iter().flatten() {
                let (Some(at), Some(len)) = (section["offset"].as_u64(), section["bytes"].as_u64()) else { continue };
                let range = at as usize..(at as usize).saturating_add(len as usize);
                section["crc"] = format!("{:08x}", body.get(range).map_or(0, crc32fast::hash)).into();
            }
            header = told.to_string().into_bytes();
            header.resize(header.len().next_multiple_of(64), b' ');
            self.manifest["shards"][1]["cells"] = told["rows"].clone();
        }
        let mut file = self.start.clone();
        file.extend((header.len() as u32).to_le_bytes());
        file.extend(crc32fast::hash(&header).to_le_bytes());
        file.resize(PRELUDE, 0);
        file.extend(&header);
        file.extend(&body);
        self.manifest["shards"][1]["bytes"] = file.len().into();
        self.manifest["shards"][1]["crc"] = crc32fast::hash(&header).into();
        std::fs::write(self.dir.path().join(NAME), file).expect("written");
        std::fs::write(self.dir.path().join("manifest.json"), self.manifest.to_string()).expect("written");
        let Ok(data) = Data::open(self.dir.path()) else { return };
        let mut x = vec![0.0; data.genes()];
        for cell in 0..data.cells() {
            let row = data.row(cell);
            assert!(row.genes.is_sorted_by(|a, b| a < b) && row.genes.len() == row.values.len());
            data.fill(cell, &mut x);
            assert!(x.iter().all(|x| x.is_finite() && *x >= 0.0), "{x:?}");
        }
        let cells: u64 = data.groups().iter().map(|group| u64::from(group.cells)).sum();
        assert_eq!(cells, data.cells());
    }
}

fuzz_target!(|changes: &[u8]| HONEST.with(|honest| honest.borrow_mut().open(changes)));
