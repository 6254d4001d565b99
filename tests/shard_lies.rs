//! Data directories that lie: every field of a shard and of the manifest, changed one at a time, is refused by its own message.

use std::path::PathBuf;

use scale_engine::data::shard::{Data, Limits, Scale};
use serde_json::Value as Json;

use crate::small_data::{World, header};

/// A written directory whose files a test may change, and then make consistent again except for the lie it wants to tell.
struct Forgery {
    dir: tempfile::TempDir,
}

impl Forgery {
    fn new() -> Self {
        Forgery::of(Scale::Log1p, &[0.5, 1.0, 1.5])
    }

    fn of(scale: Scale, values: &[f32; 3]) -> Self {
        // Two perturbed groups of three cells, two control groups; log values are f32, so that every check has something to read.
        let mut header = header(8, 2, 2, 1);
        header.scale = scale;
        let groups = [(0, 0, 0, 3), (1, 0, 0, 2), (0, 1, 0, 3), (1, 2, 0, 3)];
        let mut world = World::of_groups(header, &groups);
        for cell in &mut world.cells {
            (cell.name, cell.genes, cell.values) = ("ab".to_string(), vec![0, 3, 5], values.to_vec());
        }
        let dir = tempfile::tempdir().expect("a temporary folder");
        world.write(dir.path(), Limits::default()).expect("written");
        Forgery { dir }
    }

    fn shard(&self) -> PathBuf {
        self.dir.path().join("perturbed-0000.shard")
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.shard()).expect("readable")
    }

    /// Changes the file and nothing else.
    fn raw(&self, change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = self.bytes();
        change(&mut bytes);
        std::fs::write(self.shard(), bytes).expect("writable");
        self.refusal()
    }

    /// Changes the manifest.
    fn manifest(&self, change: impl FnOnce(&mut Json)) {
        let path = self.dir.path().join("manifest.json");
        let mut json = serde_json::from_slice(&std::fs::read(&path).expect("readable")).expect("JSON");
        change(&mut json);
        std::fs::write(&path, json.to_string()).expect("writable");
    }

    /// Changes header and sections, then makes every checksum and the manifest's entry agree with them.
    fn consistent(&self, change: impl FnOnce(&mut Json, &mut Vec<u8>)) -> String {
        let bytes = self.bytes();
        let length = u32::from_le_bytes(bytes[12..16].try_into().expect("four bytes")) as usize;
        let mut header: Json = serde_json::from_slice(&bytes[64..64 + length]).expect("JSON");
        let mut body = bytes[64 + length..].to_vec();
        change(&mut header, &mut body);
        for section in header["sections"].as_array_mut().into_iter().flatten() {
            let (Some(at), Some(len)) = (section["offset"].as_u64(), section["bytes"].as_u64()) else {
                continue;
            };
            let range = at as usize..(at as usize).saturating_add(len as usize);
            let crc = body.get(range).map_or(0, crc32fast::hash);
            section["crc"] = format!("{crc:08x}").into();
        }
        let mut json = header.to_string().into_bytes();
        json.resize(json.len().next_multiple_of(64), b' ');
        let mut file = bytes[..12].to_vec();
        file.extend((json.len() as u32).to_le_bytes());
        file.extend(crc32fast::hash(&json).to_le_bytes());
        file.resize(64, 0);
        file.extend(&json);
        file.extend(&body);
        std::fs::write(self.shard(), &file).expect("writable");
        self.manifest(|manifest| {
            let entry = &mut manifest["shards"][1];
            entry["bytes"] = file.len().into();
            entry["crc"] = crc32fast::hash(&json).into();
            entry["cells"] = header["rows"].clone();
        });
        self.refusal()
    }

    fn refusal(&self) -> String {
        match Data::open(self.dir.path()) {
            Ok(_) => "opened".into(),
            Err(error) => error.to_string(),
        }
    }
}

/// Offset of a number of a section.
fn at(header: &Json, section: usize, number: usize, width: usize) -> usize {
    header["sections"][section]["offset"].as_u64().expect("an offset") as usize + number * width
}

fn put<const N: usize>(body: &mut [u8], at: usize, number: [u8; N]) {
    body[at..at + N].copy_from_slice(&number);
}

fn assert_says(message: &str, expected: &str) {
    assert!(
        message.contains(expected) && message.contains("perturbed-0000.shard"),
        "{message:?}: {expected:?}"
    );
}

#[test]
fn an_untouched_directory_opens() {
    assert_eq!(Forgery::new().refusal(), "opened");
    assert_eq!(Forgery::new().consistent(|_, _| ()), "opened");
}

#[test]
fn a_damaged_file_is_refused() {
    type Change = fn(&mut Vec<u8>);
    let cases: &[(&str, Change)] = &[
        ("is empty", |b| b.clear()),
        ("is 63 bytes long", |b| b.truncate(63)),
        ("is not a shard", |b| b[0] ^= 1),
        ("is a shard of format 1, but this program reads 2", |b| b[8] = 1),
        ("header length 513", |b| b[12] = 1),
        ("header length 0 ", |b| put(b, 12, [0u8; 4])),
        ("header length 4294967232", |b| put(b, 12, (u32::MAX - 63).to_le_bytes())),
        ("does not fit in a file", |b| put(b, 12, (1u32 << 20).to_le_bytes())),
        ("header checksum", |b| b[16] ^= 1),
        ("header checksum", |b| b[70] ^= 1),
        ("reserved part", |b| b[40] = 1),
        ("was cut short", |b| b.truncate(b.len() - 1)),
        ("the last section ends at byte", |b| b.push(0)),
        ("section names has checksum", |b| *b.last_mut().expect("not empty") ^= 1),
    ];
    for (expected, change) in cases {
        assert_says(&Forgery::new().raw(change), expected);
    }
}

#[test]
fn no_byte_of_a_shard_can_change_unnoticed() {
    let forgery = Forgery::new();
    for shard in ["controls-0000.shard", "perturbed-0000.shard"] {
        let path = forgery.dir.path().join(shard);
        let bytes = std::fs::read(&path).expect("readable");
        for i in 0..bytes.len() {
            for flipped in [0x01, 0x80, 0xFF] {
                let mut damaged = bytes.clone();
                damaged[i] ^= flipped;
                std::fs::write(&path, damaged).expect("writable");
                assert_ne!(forgery.refusal(), "opened", "{shard}, byte {i}");
            }
        }
        std::fs::write(&path, bytes).expect("writable");
        assert_eq!(forgery.refusal(), "opened");
    }
}

#[test]
fn a_header_that_lies_is_refused() {
    type Change = fn(&mut Json, &mut Vec<u8>);
    let cases: &[(&str, Change)] = &[
        ("unknown field `more`", |h, _| h["more"] = 1.into()),
        ("missing field `nonzeros`", |h, _| drop(h.as_object_mut().expect("an object").remove("nonzeros"))),
        ("written for 9 genes, but the manifest lists 8", |h, _| h["genes"] = 9.into()),
        ("written for 3 cell types", |h, _| h["cell_types"] = 3.into()),
        ("written for 4 perturbations", |h, _| h["perturbations"] = 4.into()),
        ("written for 2 batches", |h, _| h["batches"] = 2.into()),
        ("contains Counts, but the manifest says Log1p", |h, _| h["scale"] = "counts".into()),
        ("has target Some(5.0)", |h, _| h["target"] = 5.0.into()),
        ("factor 3", |h, _| h["factor"] = 3.0.into()),
        ("unknown variant `u32`", |h, _| h["values"] = "u32".into()),
        ("stores Log1p values as U8", |h, _| h["values"] = "u8".into()),
        ("too much for any file", |h, _| h["rows"] = u64::MAX.into()),
        ("too much for any file", |h, _| h["nonzeros"] = (u64::MAX / 2).into()),
        ("section groups has 32 bytes, but its numbers need 48", |h, _| h["groups"] = 3.into()),
        ("section starts has 56 bytes, but its numbers need 64", |h, _| h["rows"] = 7.into()),
        ("section genes has 36 bytes, but its numbers need 38", |h, _| h["nonzeros"] = 19.into()),
        ("has 6 sections, not 7", |h, _| drop(h["sections"].as_array_mut().expect("a list").pop())),
        ("section 1 is \"ends\", expected \"starts\"", |h, _| h["sections"][1]["name"] = "ends".into()),
        ("section names has 12 bytes, but its numbers need 13", |h, _| h["names"] = 13.into()),
        ("not at a multiple of 64", |h, _| h["sections"][1]["offset"] = 65.into()),
        ("section starts begins at 128", |h, _| h["sections"][1]["offset"] = 128.into()),
        ("non-zero bytes before section starts", |_, body| body[32] = 1),
        ("group 0 is control, in a shard of perturbed cells", |h, b| put(b, at(h, 0, 1, 4), [0])),
        ("group 0 is perturbed, in a shard of controls", |h, _| h["controls"] = true.into()),
    ];
    for (expected, change) in cases {
        assert_says(&Forgery::new().consistent(change), expected);
    }
}

#[test]
fn numbers_that_lie_are_refused() {
    type Change = fn(&mut Json, &mut Vec<u8>);
    let cases: &[(&str, Change)] = &[
        ("group 1 has cell type 2, but the vocabulary has only 2", |h, b| put(b, at(h, 0, 4, 4), [2])),
        ("group 1 has perturbation 3", |h, b| put(b, at(h, 0, 5, 4), [3])),
        ("group 1 has batch 1", |h, b| put(b, at(h, 0, 6, 4), [1])),
        ("group 1 has no cells", |h, b| put(b, at(h, 0, 7, 4), [0])),
        ("groups have 7 cells in all, but the shard has 6 rows", |h, b| put(b, at(h, 0, 7, 4), [4])),
        ("group 1 repeats or belongs before", |h, b| put(b, at(h, 0, 4, 4), (1u64 << 32).to_le_bytes())),
        ("row 0 begins at 1", |h, b| put(b, at(h, 1, 0, 8), [1])),
        ("row 1 ends at 2, before its start at 3", |h, b| put(b, at(h, 1, 2, 8), [2])),
        ("the last row ends at 17, but the shard stores 18", |h, b| put(b, at(h, 1, 6, 8), [17])),
        ("row 0: gene 3 is followed by gene 3", |h, b| put(b, at(h, 2, 2, 2), [3])),
        ("row 5: gene 8 is out of range: there are 8", |h, b| put(b, at(h, 2, 17, 2), [8])),
        ("row 1: value NaN", |h, b| put(b, at(h, 3, 4, 4), f32::NAN.to_le_bytes())),
        ("row 1: value -2", |h, b| put(b, at(h, 3, 4, 4), (-2.0f32).to_le_bytes())),
        ("row 2: value inf", |h, b| put(b, at(h, 3, 6, 4), f32::INFINITY.to_le_bytes())),
        ("name 0 begins at 1, not at the first byte", |h, b| put(b, at(h, 5, 0, 8), [1])),
        ("name 2 ends at 3, before its start at 4", |h, b| put(b, at(h, 5, 3, 8), [3])),
        ("the last name ends at 11, but the shard stores 12 bytes", |h, b| put(b, at(h, 5, 6, 8), [11])),
        ("name 2 is not UTF-8", |h, b| put(b, at(h, 6, 5, 1), [0xC3])),
        // Two letters, valid together but cut in the middle of one.
        ("name 2 is not UTF-8", |h, b| put(b, at(h, 6, 4, 1), [b'a', 0xC3, 0xA4])),
        ("row 4: library size -1", |h, b| put(b, at(h, 4, 4, 4), (-1.0f32).to_le_bytes())),
    ];
    for (expected, change) in cases {
        assert_says(&Forgery::new().consistent(change), expected);
    }
}

#[test]
fn a_manifest_that_lies_is_refused() {
    type Change = fn(&mut Json);
    let cases: &[(&str, Change)] = &[
        ("version is 2", |m| m["version"] = 2.into()),
        ("unknown field `more`", |m| m["more"] = 1.into()),
        ("cell_types: 0 names", |m| m["cell_types"] = serde_json::json!([])),
        ("perturbations: \"p001\" is followed by \"p001\"", |m| m["perturbations"][2] = "p001".into()),
        ("control: unknown perturbation", |m| m["control"] = "dmso".into()),
        ("shard \"../x.shard\" is not a plain file name", |m| m["shards"][0]["file"] = "../x.shard".into()),
        ("shards: there are none", |m| m["shards"] = serde_json::json!([])),
        ("the manifest says 1, 6 and", |m| m["shards"][1]["bytes"] = 1.into()),
        ("it is from another directory", |m| m["shards"][1]["crc"] = 5.into()),
        ("it is from another directory", |m| m["shards"][1]["cells"] = 5.into()),
        ("No such file", |m| m["shards"][1]["file"] = "gone.shard".into()),
        ("repeats or belongs before", |m| m["shards"].as_array_mut().expect("a list").reverse()),
        ("repeats or belongs before", |m| m["shards"][1] = m["shards"][0].clone()),
        ("target is -1", |m| m["target"] = (-1.0).into()),
        ("genes: 65536 names", |m| m["genes"] = (0..65_536).map(|i| format!("gene{i:05}")).collect()),
        ("genes: \"gene001\" appears twice", |m| m["genes"][0] = "gene001".into()),
    ];
    for (expected, change) in cases {
        let forgery = Forgery::new();
        forgery.manifest(change);
        let message = forgery.refusal();
        assert!(message.contains(expected), "{message:?} should say {expected:?}");
    }
}

#[test]
fn counts_that_lie_are_refused() {
    type Change = fn(&mut Json, &mut Vec<u8>);
    let cases: &[(&str, Change)] = &[
        ("row 1: a count is not a whole number", |h, b| put(b, at(h, 3, 4, 4), 1.5f32.to_le_bytes())),
        ("row 1: library size NaN", |h, b| put(b, at(h, 4, 1, 4), f32::NAN.to_le_bytes())),
        ("row 1: library size 0 is too small for stored counts", |h, b| put(b, at(h, 4, 1, 4), [0u8; 4])),
        // Above zero, but dividing by it does not give a number.
        ("row 1: library size 0.0000000", |h, b| put(b, at(h, 4, 1, 4), 1e-40f32.to_le_bytes())),
    ];
    for (expected, change) in cases {
        assert_says(&Forgery::of(Scale::Counts, &[1.0, 70000.0, 2.0]).consistent(change), expected);
    }
}
