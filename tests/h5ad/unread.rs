//! A column that cannot be read does not close its file: only whoever asks for the column is refused, and told why.

use std::path::Path;

use hdf5_pure::AttrValue;
use scale_engine::data::h5ad::{H5ad, X, describe, write};

use super::{cells, raw_file, sparse_group};
use crate::encodings::golden;

/// Why a column of a file that opens is not read: the same whether all columns were asked for, or only this one.
fn told(path: &Path, column: &str) -> String {
    let file = H5ad::open(path).expect("opened");
    let what = file.obs().labels(path, column).expect_err("no labels").to_string();
    assert_eq!(what, file.obs().numbers(path, column).expect_err("no numbers").to_string());
    assert_eq!(what, H5ad::open_columns(path, &[column], "X").expect_err("only this one").to_string());
    what
}

#[test]
fn codes_without_a_category_are_told_and_not_written_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("codes.h5ad");
    raw_file(&path, [3, 4], sparse_group("csr_matrix", [3, 4], &[0, 0, 0, 0], &[], &[]), |obs| {
        let mut group = obs.create_group("kept");
        group.set_attr("encoding-type", AttrValue::VarLenString("categorical".into()));
        group.create_dataset("codes").with_i8_data(&[0, 5, 1]);
        group.create_dataset("categories").with_strings(&["a", "b"]).expect("categories");
        obs.add_group(group.finish());
    });
    let what = told(&path, "kept");
    let expected = "obs/kept: code 5 of row 1 is outside its 2 categories";
    assert_eq!(what, format!("{}: {expected}", path.display()));
    let unread = serde_json::json!([{ "name": "kept", "kind": "unread", "why": expected }]);
    assert_eq!(describe(&path).expect("described")["obs"], unread);
    let (file, copy) = (H5ad::open(&path).expect("opened"), dir.path().join("copy.h5ad"));
    let what =
        write(&copy, file.obs(), file.var(), X::Sparse(&cells()), &[]).expect_err("a hole").to_string();
    assert!(what.contains(expected) && !copy.exists(), "{what}");
}

#[test]
fn a_filter_that_is_not_read_is_told_column_by_column() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("blosc.h5ad");
    let bytes = std::fs::read(golden("filters")).expect("read");
    // Number and name of zstd, as each packed array of this file has them; 32001 is blosc.
    let packed =
        |&at: &usize| bytes[at..].starts_with(b"\x0f\x7d") && bytes[at + 8..].starts_with(b"HDF5 zstd");
    let mut refused = Vec::new();
    for at in (0..bytes.len() - 20).filter(packed) {
        let mut bytes = bytes.clone();
        bytes[at] = 1;
        std::fs::write(&path, bytes).expect("written");
        // What every reader needs, the names of the cells, may be what is packed.
        let Ok(file) = H5ad::open(&path) else { continue };
        for column in ["drug", "line", "plate", "kept"] {
            if file.obs().labels(&path, column).is_err() {
                let what = told(&path, column);
                assert!(what.contains("is compressed with blosc") && what.contains("gzip"), "{what}");
                refused.push(column);
            }
        }
    }
    refused.dedup();
    assert_eq!(refused, ["drug", "line", "plate", "kept"]);
}

#[test]
fn a_field_of_a_table_of_records_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("table.h5ad");
    let mut bytes = std::fs::read(golden("compound_fixed")).expect("read");
    // The cell without a drug: its code, -1, follows its name.
    let name = b"cell2\0\0\0\0\xff";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("a record");
    bytes[at + name.len() - 1] = -7i8 as u8;
    std::fs::write(&path, bytes).expect("written");
    let what = told(&path, "drug");
    assert!(what.ends_with("obs/drug: code -7 of row 2 is outside its 3 categories"), "{what}");
    H5ad::open(&path).expect("opened").obs().labels(&path, "line").expect("another field");
}

#[test]
fn a_field_that_ends_beyond_its_record_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("table.h5ad");
    let mut bytes = std::fs::read(golden("compound_fixed")).expect("read");
    // Where a record has this field, behind its name.
    let name = b"line\0\0\0\0\x0a";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("a field");
    bytes[at + name.len() - 1] = 30;
    std::fs::write(&path, bytes).expect("written");
    let told = H5ad::open(&path).expect_err("damaged").to_string();
    let expected = "obs has records of 32 bytes, but the field \"line\" ends at 39: the file is damaged";
    assert_eq!(told, format!("{}: {expected}", path.display()));
}

#[test]
fn a_link_is_told_and_never_called_absent() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("link.h5ad");
    let bytes = std::fs::read(golden("anndata_0_7")).expect("read");
    // The entries of groups (file format 3.0, section III.B): 40 bytes each, the address at 8 and the kind at 16. Each in turn
    // becomes a soft link, which has no address and kind 2.
    let tables = (0..bytes.len() - 8).filter(|&at| bytes[at..].starts_with(b"SNOD"));
    let entries = tables.flat_map(|at| {
        let count = usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
        (0..count).map(move |i| at + 8 + 40 * i)
    });
    let mut told = Vec::new();
    for at in entries {
        let mut bytes = bytes.clone();
        bytes[at + 8..at + 16].fill(0xff);
        bytes[at + 16] = 2;
        std::fs::write(&path, bytes).expect("written");
        let opened = H5ad::open_columns(&path, &["drug"], "X").and_then(|file| file.rows(0..1));
        let Err(error) = opened else { continue };
        let error = error.to_string();
        assert!(error.contains("is a link to another place, which is not followed"), "{error}");
        told.push(error.split(' ').nth(1).expect("a place").to_string());
    }
    for place in ["X", "obs", "var", "X/data", "obs/drug"] {
        assert!(told.iter().any(|there| there == place), "{place}: {told:?}");
    }
}

#[test]
fn whole_numbers_that_do_not_fit_are_told_and_not_wrapped() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("wide.h5ad");
    raw_file(&path, [3, 4], sparse_group("csr_matrix", [3, 4], &[0, 0, 0, 0], &[], &[]), |obs| {
        obs.create_dataset("kept").with_u64_data(&[1, u64::MAX, 3]);
    });
    let what = told(&path, "kept");
    assert!(what.contains("obs/kept contains whole numbers above 2^63; store them as text"), "{what}");
}

#[test]
fn what_is_no_hdf5_is_told() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, bytes, words) in [
        ("cells.h5ad.gz", &[0x1f, 0x8b, 8, 0][..], "is packed with gzip; unpack it first"),
        ("page.h5ad", b"<html>", "is not HDF5"),
        ("nothing.h5ad", b"", "is not HDF5"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("written");
        let what = H5ad::open(&path).expect_err("a refusal").to_string();
        assert!(what.contains(words), "{what}");
    }
}
