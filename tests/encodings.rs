//! The same six cells give the same values and labels in every encoding. Files of tests/golden/encodings: tools/encodings.py.

use std::path::{Path, PathBuf};

use hdf5_pure::{AttrValue, DatasetBuilder, Datatype, DatatypeByteOrder, FloatingPointLayout};
use scale_engine::data::h5ad::{Cells, H5ad, describe};
use scale_engine::data::shard::Data;
use scale_engine::evaluate::files::Sample;
use scale_engine::rng::Rng;

use crate::h5ad::raw_file;
use crate::preprocess::{run, settings};

const COUNTS: [[f32; 5]; 6] = [
    [3.0, 0.0, 1.0, 0.0, 0.0],
    [0.0, 100.0, 2.0, 0.0, 0.0],
    [1.0, 1.0, 0.0, 7.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [2.0, 70.0, 0.0, 1.0, 0.0],
    [0.0, 5.0, 5.0, 0.0, 9.0],
];
const GENES: [&str; 5] = ["CD3E", "ACTB", "MYC", "TP53", "GATA1"];
const LABELS: [(&str, [Option<&str>; 6]); 4] = [
    ("drug", [Some("none"), Some("é"), None, Some("é"), Some("b"), Some("none")]),
    ("line", [Some("T"), Some("T"), Some("B"), Some("B"), Some("T"), Some("T")]),
    ("plate", [Some("2"), Some("10"), Some("2"), Some("2"), Some("10"), Some("10")]),
    ("kept", [Some("True"), Some("False"), Some("True"), Some("True"), Some("False"), Some("True")]),
];

pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/encodings/{name}.h5ad"))
}

/// Rows of a file as plain numbers, and its genes.
fn dense(file: &H5ad) -> (Vec<Vec<f32>>, Vec<String>) {
    let (cells, genes) = file.shape();
    let mut rows = vec![vec![0.0; genes]; cells];
    let read: Cells = file.rows(0..cells).expect("rows");
    for (row, stored) in read.outer_iterator().enumerate() {
        stored.iter().for_each(|(gene, &value)| rows[row][gene] = value);
    }
    (rows, file.var().index.clone())
}

#[test]
fn every_encoding_gives_the_same_cells_and_labels() {
    let all = ["X", "layers/csc", "layers/dense"];
    let cases: [(&str, &[&str]); 7] = [
        ("filters", &all),
        ("filters_v110", &all),
        ("nullable", &all),
        ("anndata_0_7", &["X", "raw"]),
        ("compound_fixed", &["X", "raw"]),
        ("compound_vlen", &["X", "raw"]),
        ("fixed_text", &["X"]),
    ];
    for (name, sources) in cases {
        let path = golden(name);
        let columns = LABELS.map(|(column, _)| column);
        for source in sources {
            let file =
                H5ad::open_columns(&path, &columns, source).unwrap_or_else(|e| panic!("{source}: {e}"));
            assert_eq!(
                dense(&file),
                (COUNTS.map(Vec::from).to_vec(), GENES.map(String::from).to_vec()),
                "{name}"
            );
            assert_eq!(file.cell_name(4), "cell4", "{name}");
            let (_, names) = file.cell_names(2..5).expect("names");
            assert_eq!(names, ["cell2", "cell3", "cell4"], "{name}");
            // Only a window of the last block: not every chunk is needed.
            let last = file.rows(5..6).expect("a row");
            assert_eq!(
                (last.indices(), last.data()),
                (&[1, 2, 4][..], &[5.0, 5.0, 9.0][..]),
                "{name} {source}"
            );
        }
        let file = H5ad::open(&path).expect("opened");
        assert_eq!(file.obs().index, (0..6).map(|i| format!("cell{i}")).collect::<Vec<_>>(), "{name}");
        assert!(file.obs().columns.iter().all(|(column, _)| column != "__categories"), "{name}");
        for (column, mut wanted) in LABELS {
            // Where there are masks, labels are missing.
            match (name, column) {
                ("nullable", "plate") => wanted[2] = None,
                ("nullable", "kept") => wanted[1] = None,
                _ => (),
            }
            let labels = file.obs().labels(&path, column).unwrap_or_else(|e| panic!("{name}: {e}"));
            let found: Vec<Option<&str>> = (0..6).map(|i| labels.get(i)).collect();
            assert_eq!(found, wanted, "{name}, {column}");
        }
        assert_eq!(describe(&path).expect("inspected")["cells"], 6, "{name}");
    }
}

#[test]
fn preprocess_and_evaluate_take_every_encoding() {
    let names = [
        "filters",
        "filters_v110",
        "nullable",
        "anndata_0_7",
        "compound_fixed",
        "compound_vlen",
        "fixed_text",
    ];
    let dir = tempfile::tempdir().expect("a folder");
    let total: f32 = COUNTS.as_flattened().iter().sum();
    let mut checksums = Vec::new();
    for name in names {
        let mut settings = settings(&golden(name), &dir.path().join(name));
        (settings.perturbation, settings.control) = ("line".into(), "T".into());
        settings.cell_type = Some("drug".into());
        let kept = run(&settings).unwrap_or_else(|e| panic!("{name}: {e}")).contents;
        assert_eq!((kept.cells, kept.dropped, kept.groups), (5, 1, 4), "{name}");
        let data = Data::open(&settings.out).expect("opened");
        assert_eq!(data.manifest().cell_types, ["b", "none", "é"], "{name}");
        checksums.push(data.manifest().sources[0].crc);
        let side = Sample::read(&golden(name), "line", None).unwrap_or_else(|e| panic!("{name}: {e}")).side;
        assert_eq!((side.x.shape(), side.x.values().iter().sum::<f32>()), ((6, 5), total), "{name}");
        assert_eq!((side.labels.get(2), side.genes), (Some("B"), GENES.map(String::from).to_vec()), "{name}");
    }
    assert!(checksums.iter().all(|crc| *crc == checksums[0]), "{checksums:?}");
}

#[test]
fn an_array_beside_x_brings_the_genes_it_holds() {
    let path = golden("obsm");
    let wanted: Vec<Vec<f32>> = COUNTS.iter().map(|row| vec![row[0], row[1], row[3]]).collect();
    for source in ["obsm/X_hvg", "obsm/csr/X_hvg", "obsm/csc/X_hvg", "obsm/table"] {
        let file = H5ad::open_columns(&path, &[], source).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(
            dense(&file),
            (wanted.clone(), ["CD3E", "ACTB", "TP53"].map(String::from).to_vec()),
            "{source}"
        );
    }
    let refused = |name: &str, source: &str| {
        H5ad::open_columns(&golden(name), &[], source).expect_err("a refusal").to_string()
    };
    let what = refused("obsm", "obsm/X_pca");
    assert!(what.contains("obsm/X_pca does not say which genes its 2 columns are"), "{what}");
    let what = refused("obsm", "obsm/X_hgv");
    assert!(what.contains("has no matrix obsm/X_hgv; obsm has: X_hvg, X_pca, csc, csr, table"), "{what}");
    let what = refused("filters", "layers/counts");
    assert!(what.contains("layers has: csc, dense"), "{what}");
}

#[test]
fn the_genes_of_x_hvg_may_be_named_in_uns() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("state.h5ad");
    let with = |names: &[&str]| {
        raw_file(
            &path,
            [2, 3],
            |file| {
                let mut obsm = file.create_group("obsm");
                obsm.create_dataset("X_hvg").with_f32_data(&[1.0, 0.0, 0.0, 2.0]).with_shape(&[2, 2]);
                file.add_group(obsm.finish());
                let mut uns = file.create_group("uns");
                uns.create_dataset("hvg_names").with_vlen_strings(names);
                file.add_group(uns.finish());
            },
            |_| (),
        );
        H5ad::open_columns(&path, &[], "obsm/X_hvg")
    };
    let file = with(&["MYC", "TP53"]).expect("opened");
    let genes = ["MYC", "TP53"].map(String::from).to_vec();
    assert_eq!(dense(&file), (vec![vec![1.0, 0.0], vec![0.0, 2.0]], genes));
    let what = with(&["MYC"]).expect_err("of two columns").to_string();
    assert!(what.contains("true for 0 genes and uns/hvg_names names 1"), "{what}");
}

#[test]
fn a_filter_and_a_layout_that_are_not_read_are_named() {
    let what = H5ad::open(&golden("blosc")).expect("opened").rows(0..6).expect_err("blosc").to_string();
    assert!(
        what.contains("X is compressed with blosc (HDF5 filter 32001)") && what.contains("gzip"),
        "{what}"
    );
    let what = H5ad::open(&golden("hdf5_2")).expect_err("a newer layout").to_string();
    assert!(what.contains("obs/_index") && what.contains("libver"), "{what}");
}

#[test]
fn a_damaged_zstd_chunk_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("damaged.h5ad");
    let bytes = std::fs::read(golden("filters_v110")).expect("read");
    let magic: Vec<usize> =
        (0..bytes.len() - 4).filter(|&i| bytes[i..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])).collect();
    assert!(magic.len() >= 10, "a frame a chunk");
    let mut refused = 0;
    for at in magic {
        for (place, byte) in [(at, 0u8), (at + 9, 0xff), (at + 12, 0xff)] {
            let mut bytes = bytes.clone();
            bytes[place] ^= byte | 1;
            std::fs::write(&path, bytes).expect("written");
            // Whatever is read, nothing may panic.
            for source in ["X", "layers/dense"] {
                let read = H5ad::open_columns(&path, &["drug"], source).and_then(|file| file.rows(0..6));
                refused += usize::from(read.is_err());
            }
        }
    }
    assert!(refused > 10, "{refused} refusals");
}

#[test]
fn a_file_with_a_changed_byte_is_read_or_refused_but_never_a_panic() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("changed.h5ad");
    let rng = Rng::new(5);
    for name in ["filters", "filters_v110", "nullable", "anndata_0_7", "compound_vlen", "fixed_text", "obsm"]
    {
        let bytes = std::fs::read(golden(name)).expect("read");
        for i in 0..30 {
            let mut bytes = bytes.clone();
            let at = rng.below(i, bytes.len() as u64) as usize;
            bytes[at] = if i % 2 == 0 { 0xff } else { !bytes[at] };
            std::fs::write(&path, bytes).expect("written");
            let _ = describe(&path);
            for source in ["X", "raw", "layers/csc", "layers/dense", "obsm/X_hvg", "obsm/table"] {
                let Ok(file) = H5ad::open_columns(&path, &["drug"], source) else { continue };
                let _ = (
                    file.rows(0..file.shape().0.min(6)),
                    file.cell_names(0..file.shape().0),
                    file.cell_name(2),
                );
            }
        }
    }
}

/// The stored entries, in the order of CSR.
fn entries() -> (Vec<f64>, Vec<i64>, Vec<i64>) {
    let (mut values, mut places, mut starts) = (Vec::new(), Vec::new(), vec![0]);
    for row in COUNTS {
        for (gene, &value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            values.push(f64::from(value));
            places.push(gene as i64);
        }
        starts.push(values.len() as i64);
    }
    (values, places, starts)
}

/// Half-precision numbers, for which the writer has no method.
fn halves(dataset: &mut DatasetBuilder, values: &[f64]) {
    let layout = FloatingPointLayout {
        bit_offset: 0,
        bit_precision: 16,
        exponent_location: 10,
        exponent_size: 5,
        mantissa_location: 0,
        mantissa_size: 10,
        exponent_bias: 15,
    };
    let kind = Datatype::FloatingPoint { size: 2, byte_order: DatatypeByteOrder::LittleEndian, layout };
    let bytes = values.iter().flat_map(|&value| half::f16::from_f64(value).to_le_bytes()).collect();
    dataset.with_raw_data(kind, bytes, values.len() as u64);
}

fn numbers(dataset: &mut DatasetBuilder, kind: &str, values: &[f64]) {
    macro_rules! store {
        ($kind:ty) => {{
            dataset.with_data(&values.iter().map(|&value| value as $kind).collect::<Vec<_>>());
        }};
    }
    match kind {
        "i8" => store!(i8),
        "i16" => store!(i16),
        "i32" => store!(i32),
        "i64" => store!(i64),
        "u8" => store!(u8),
        "u16" => store!(u16),
        "u32" => store!(u32),
        "u64" => store!(u64),
        "f32" => store!(f32),
        "f64" => store!(f64),
        _ => halves(dataset, values),
    }
}

#[test]
fn every_width_of_values_indices_and_pointers_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (values, places, starts) = entries();
    let [places, starts] =
        [places, starts].map(|list| list.into_iter().map(|i| i as f64).collect::<Vec<_>>());
    let whole = ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64"];
    let kinds = whole.into_iter().chain(["f16", "f32", "f64"]).flat_map(|data| {
        [("i32", "i32"), ("i32", "i64"), ("i64", "i32"), ("u16", "u64")]
            .map(|(place, start)| (data, place, start))
    });
    for (data, place, start) in kinds {
        let x = |file: &mut hdf5_pure::FileBuilder| {
            let mut group = file.create_group("X");
            group.set_attr("encoding-type", AttrValue::VarLenString("csr_matrix".into()));
            // Some writers store the shape next to the three arrays.
            if data == "f16" {
                group.create_dataset("shape").with_i64_data(&[6, 5]);
            } else {
                group.set_attr("shape", AttrValue::I64Array(vec![6, 5]));
            }
            for (part, kind, list) in
                [("data", data, &values), ("indices", place, &places), ("indptr", start, &starts)]
            {
                let dataset = group.create_dataset(part);
                numbers(dataset, kind, list);
                dataset.with_chunks(&[4]).with_shuffle().with_lzf().with_fletcher32();
            }
            file.add_group(group.finish());
        };
        raw_file(&path, [6, 5], x, |obs| {
            obs.create_dataset("kept").with_i64_data(&[0; 6]);
        });
        let file = H5ad::open(&path).unwrap_or_else(|e| panic!("{data} {place} {start}: {e}"));
        assert_eq!(file.storage(), format!("CSR {data}"));
        assert_eq!(dense(&file).0, COUNTS.map(Vec::from), "{data} {place} {start}");
    }
}

#[test]
fn what_is_no_number_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let obs = |group: &mut hdf5_pure::GroupBuilder| {
        group.create_dataset("kept").with_i64_data(&[0; 2]);
    };
    let complex = |file: &mut hdf5_pure::FileBuilder| {
        file.create_dataset("X").with_complex32_data(&[(0.0, 1.0); 2]).with_shape(&[2, 1]);
    };
    raw_file(&path, [2, 1], complex, obs);
    let what = H5ad::open(&path).expect_err("complex numbers").to_string();
    assert!(what.contains("X contains compound{") && what.contains("not numbers of 8 to 64 bits"), "{what}");
    let text = |file: &mut hdf5_pure::FileBuilder| {
        file.create_dataset("X").with_vlen_strings(&["1", "2"]).with_shape(&[2, 1]);
    };
    raw_file(&path, [2, 1], text, obs);
    let what = H5ad::open(&path).expect_err("text").to_string();
    assert!(what.contains("X contains vlen_string"), "{what}");
}

#[test]
fn a_count_that_f32_would_round_is_refused_and_one_it_holds_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let obs = |group: &mut hdf5_pure::GroupBuilder| {
        group.create_dataset("kept").with_i64_data(&[0; 2]);
    };
    for (kind, count, exact) in [
        ("i64", 16_777_217.0, false),
        ("f64", 16_777_217.0, false),
        ("u32", 4_294_967_295.0, false),
        ("i32", 16_777_218.0, true),
        ("u64", 16_777_216.0, true),
        ("f64", 16_777_217.5, true),
    ] {
        for sparse in [false, true] {
            let x = |file: &mut hdf5_pure::FileBuilder| {
                if !sparse {
                    let dataset = file.create_dataset("X");
                    numbers(dataset, kind, &[1.0, count]);
                    dataset.with_shape(&[2, 1]);
                    return;
                }
                let mut group = file.create_group("X");
                group.set_attr("encoding-type", AttrValue::VarLenString("csr_matrix".into()));
                group.set_attr("shape", AttrValue::I64Array(vec![2, 1]));
                numbers(group.create_dataset("data"), kind, &[1.0, count]);
                numbers(group.create_dataset("indices"), "i32", &[0.0, 0.0]);
                numbers(group.create_dataset("indptr"), "i32", &[0.0, 1.0, 2.0]);
                file.add_group(group.finish());
            };
            raw_file(&path, [2, 1], x, obs);
            let rows = H5ad::open(&path).and_then(|file| file.rows(0..2));
            match rows {
                Ok(rows) => assert!(exact && rows.data() == [1.0, count as f32], "{kind} {count}"),
                Err(error) => {
                    let (what, count) = (error.to_string(), count.to_string());
                    assert!(!exact && what.contains(&count) && what.contains("rounded"), "{what}");
                }
            }
        }
    }
}
