//! h5ad files: what is written comes back, in every storage; what cannot be used is refused by name.

mod chunks;
mod refused;
mod streamed;

use std::path::Path;

use hdf5_pure::{AttrValue, FileBuilder, GroupBuilder};
use scale_engine::data::h5ad::{Cells, Column, Extra, Frame, H5ad, Labels, X, describe, write};
use scale_engine::error::Error;

use crate::shared::shared;

mod unread;

/// Three cells, four genes: an empty row, and a row that ends in the last gene.
fn cells() -> Cells {
    Cells::new((3, 4), vec![0, 2, 2, 5], vec![1, 3, 0, 2, 3], vec![1.0, 2.5, 3.0, 4.0, 70_000.0])
}

/// The last of these cells, alone.
fn last() -> Cells {
    Cells::new((1, 4), vec![0, 3], vec![0, 2, 3], vec![3.0, 4.0, 70_000.0])
}

fn named(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{prefix}{i}")).collect()
}

fn frames() -> (Frame, Frame) {
    let columns = vec![
        ("drug".to_string(), Column::Categorical(Labels { codes: vec![1, -1, 0], names: named("drug", 2) })),
        ("note".to_string(), Column::Text(vec!["é".into(), String::new(), "a b".into()])),
        ("plate".to_string(), Column::Integer(vec![-7, 12, 1 << 40])),
        ("score".to_string(), Column::Float(vec![0.25, f64::NAN, f64::NEG_INFINITY])),
        ("passed".to_string(), Column::Boolean(vec![true, false, true])),
    ];
    (Frame { index: named("cell", 3), columns }, Frame { index: named("gene", 4), columns: Vec::new() })
}

fn dense(cells: &Cells) -> Vec<f32> {
    cells.to_dense().into_iter().collect()
}

#[test]
fn every_kind_of_column_comes_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (obs, var) = frames();
    write(&path, &obs, &var, X::Sparse(&cells()), &[]).expect("written");
    let file = H5ad::open(&path).expect("opened");
    assert_eq!(file.obs().index, obs.index);
    assert_eq!(file.var().index, var.index);
    assert!(file.var().columns.is_empty());
    assert_eq!(format!("{:?}", file.obs().columns), format!("{:?}", obs.columns));
    assert_eq!((file.shape(), file.storage(), file.is_logged()), ((3, 4), "CSR f32", false));
    assert_eq!(file.cell_name(2), "cell2");
}

#[test]
fn sparse_and_dense_x_come_back_the_same() {
    let dir = tempfile::tempdir().expect("a folder");
    let (obs, var) = frames();
    let wanted = cells();
    let numbers = dense(&wanted);
    for (name, x) in [("csr", X::Sparse(&wanted)), ("dense", X::Dense { shape: (3, 4), numbers: &numbers })] {
        let path = dir.path().join(name);
        write(&path, &obs, &var, x, &[]).expect("written");
        let file = H5ad::open(&path).expect("opened");
        assert_eq!(file.rows(0..3).expect("rows"), wanted, "{name}");
        assert_eq!(file.rows(2..3).expect("rows"), last(), "{name}");
        assert_eq!(file.rows(1..1).expect("rows").rows(), 0);
        let blocks: Vec<_> = file.blocks().map(|block| block.expect("a block")).collect();
        assert_eq!(blocks.iter().map(|(range, _)| range.len()).sum::<usize>(), 3);
    }
}

#[test]
fn blocks_hold_every_row_once_and_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("long.h5ad");
    let rows = 50_000;
    // Row i holds i + 1 at gene i % 3; every seventh row is empty.
    let full = |row: &usize| !row.is_multiple_of(7);
    let mut indptr = vec![0];
    (0..rows).for_each(|row| indptr.push(indptr[row] + usize::from(full(&row))));
    let kept: Vec<usize> = (0..rows).filter(full).collect();
    let genes = kept.iter().map(|row| (row % 3) as u32).collect();
    let values = kept.iter().map(|row| (row + 1) as f32).collect();
    let cells = Cells::new((rows, 3), indptr, genes, values);
    let obs = Frame { index: named("cell", rows), columns: Vec::new() };
    let var = Frame { index: named("gene", 3), columns: Vec::new() };
    write(&path, &obs, &var, X::Sparse(&cells), &[]).expect("written");
    let file = H5ad::open(&path).expect("opened");
    let one_by_one: Vec<_> = file.blocks().map(|block| block.expect("a block")).collect();
    let mut ahead = Vec::new();
    let read = |range: std::ops::Range<usize>| Ok((range.clone(), file.rows(range)?));
    let keep = |block| {
        ahead.push(block);
        Ok(())
    };
    file.blocks_ahead(0..rows, read, keep).expect("all blocks");
    assert!(one_by_one.len() > 3 && one_by_one == ahead);
    let mut next = 0;
    for (range, block) in one_by_one {
        assert_eq!(range.start, next);
        for (i, row) in block.outer_iterator().enumerate() {
            let stored: Vec<(usize, f32)> = row.iter().map(|(gene, &value)| (gene, value)).collect();
            let row = next + i;
            let wanted = full(&row).then_some((row % 3, (row + 1) as f32));
            assert_eq!(stored, Vec::from_iter(wanted));
        }
        next = range.end;
    }
    assert_eq!(next, rows);
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "they are what is refused")]
fn rows_that_a_file_does_not_have_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (obs, var) = frames();
    write(&path, &obs, &var, X::Sparse(&cells()), &[]).expect("written");
    for file in [H5ad::open(&path), H5ad::open_columns(&path, &[], "X")].map(|file| file.expect("opened")) {
        for rows in [0..4, 2..1, 3..4, 5..5, usize::MAX..usize::MAX] {
            let told = [
                file.rows(rows.clone()).err(),
                file.cell_names(rows.clone()).err(),
                file.blocks_ahead(rows, Ok, |_| Ok(())).err(),
            ];
            for told in told.map(|told| told.expect("a refusal").to_string()) {
                assert!(told.contains("a.h5ad: has 3 cells, but rows"), "{told}");
            }
        }
        assert_eq!(file.rows(3..3).expect("no rows").rows(), 0);
        assert_eq!((file.cell_name(2), file.cell_name(3)), ("cell2".into(), "#3".into()));
        assert_eq!(file.cell_name(usize::MAX), format!("#{}", usize::MAX));
    }
}

#[test]
fn labels_are_read_from_text_numbers_and_truth_values() {
    let (obs, _) = frames();
    let path = Path::new("a.h5ad");
    let drug = obs.labels(path, "drug").expect("labels");
    assert_eq!([drug.get(0), drug.get(1), drug.get(2)], [Some("drug1"), None, Some("drug0")]);
    assert_eq!(obs.labels(path, "plate").expect("labels").names, ["-7", "1099511627776", "12"]);
    assert_eq!(obs.labels(path, "passed").expect("labels").names, ["False", "True"]);
    assert_eq!(obs.labels(path, "note").expect("labels").codes, [2, 0, 1]);
    let wrong = obs.labels(path, "score").expect_err("decimal numbers").to_string();
    assert!(wrong.contains("decimal numbers"), "{wrong}");
    let wrong = obs.labels(path, "drgu").expect_err("no such column");
    assert!(matches!(&wrong, Error::Setting { field, .. } if field == "column \"drgu\""), "{wrong:?}");
    let wrong = wrong.to_string();
    assert!(wrong.contains("did you mean \"drug\"") && wrong.contains("plate, score"), "{wrong}");
}

#[test]
fn only_the_columns_asked_for_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (obs, var) = frames();
    write(&path, &obs, &var, X::Sparse(&cells()), &[]).expect("written");
    let file = H5ad::open_columns(&path, &["plate"], "X").expect("opened");
    assert!(file.obs().index.is_empty() && file.obs().columns.len() == 1);
    assert_eq!((file.cell_name(1), file.shape()), ("cell1".to_string(), (3, 4)));
    let wrong = H5ad::open_columns(&path, &["plat"], "X").expect_err("no such column").to_string();
    assert!(wrong.contains("did you mean \"plate\"") && wrong.contains("score"), "{wrong}");
    let wrong = H5ad::open_columns(&path, &[], "layers/counts").expect_err("no such layer").to_string();
    assert!(wrong.contains("layers/counts"), "{wrong}");
}

#[test]
fn extras_lie_where_they_were_put_and_inspect_sees_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (obs, var) = frames();
    let extras = [
        ("uns/log1p/base".to_string(), Extra::Text("e".into())),
        ("uns/simulation/effects".to_string(), Extra::Numbers { shape: vec![2, 4], values: &[0.5; 8] }),
        ("uns/simulation/names".to_string(), Extra::Strings(vec!["x".into(), "y".into()])),
        ("varm/loadings".to_string(), Extra::Numbers { shape: vec![4, 1], values: &[1.0; 4] }),
    ];
    write(&path, &obs, &var, X::Sparse(&cells()), &extras).expect("written");
    assert!(H5ad::open(&path).expect("opened").is_logged());
    let stored = hdf5_pure::File::open(&path).expect("HDF5");
    let effects = stored.dataset("uns/simulation/effects").expect("effects");
    assert_eq!(
        (effects.shape().expect("a shape"), effects.read_f32().expect("numbers")),
        (vec![2, 4], vec![0.5; 8])
    );
    let found = describe(&path).expect("described");
    assert_eq!(found["holds"]["uns"], serde_json::json!(["log1p", "simulation"]));
    assert_eq!((&found["cells"], &found["x"]["stored"]), (&serde_json::json!(3), &serde_json::json!(5)));
    let wrong =
        write(&path, &obs, &var, X::Sparse(&cells()), &[("obs/x".into(), Extra::Text(String::new()))]);
    assert!(wrong.expect_err("not a mapping").to_string().contains("obs/x"));
}

#[test]
fn a_frame_of_another_length_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut obs, var) = frames();
    obs.columns.push(("short".into(), Column::Integer(vec![1])));
    let path = dir.path().join("a.h5ad");
    let wrong = write(&path, &obs, &var, X::Sparse(&cells()), &[]).expect_err("short column").to_string();
    assert!(wrong.contains("short") && !path.exists(), "{wrong}");
}

/// A file whose X group is written number by number; columns of obs may be added.
pub fn raw_file(
    path: &Path,
    shape: [i64; 2],
    x: impl FnOnce(&mut FileBuilder),
    obs: impl FnOnce(&mut GroupBuilder),
) {
    let mut file = FileBuilder::new();
    x(&mut file);
    let mut group = file.create_group("var");
    group.set_attr("_index", AttrValue::AsciiString("_index".into()));
    group.set_attr("encoding-type", AttrValue::AsciiString("dataframe".into()));
    group.set_attr("column-order", AttrValue::F64Array(Vec::new()));
    let names = named("gene", shape[1] as usize);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    group.create_dataset("_index").with_strings(&names).expect("names");
    file.add_group(group.finish());
    let mut group = file.create_group("obs");
    group.set_attr("_index", AttrValue::VarLenString("_index".into()));
    group.set_attr("column-order", AttrValue::VarLenStringArray(vec!["kept".into()]));
    let names: Vec<String> = named("cell", shape[0] as usize);
    group.create_dataset("_index").with_vlen_strings(&names.iter().map(String::as_str).collect::<Vec<_>>());
    obs(&mut group);
    file.add_group(group.finish());
    file.write(path).expect("written");
}

/// X as a compressed matrix of the named encoding, with 64-bit indices.
pub fn sparse_group(
    kind: &str,
    shape: [i64; 2],
    starts: &[i64],
    places: &[i64],
    values: &[f64],
) -> impl FnOnce(&mut FileBuilder) {
    let (kind, starts, places, values) =
        (kind.to_string(), starts.to_vec(), places.to_vec(), values.to_vec());
    move |file| {
        let mut group = file.create_group("X");
        group.set_attr("encoding-type", AttrValue::VarLenString(kind));
        group.set_attr("shape", AttrValue::I64Array(shape.to_vec()));
        group.create_dataset("data").with_f64_data(&values);
        group.create_dataset("indices").with_i64_data(&places);
        group.create_dataset("indptr").with_i64_data(&starts);
        file.add_group(group.finish());
    }
}

fn kept(group: &mut GroupBuilder) {
    group.create_dataset("kept").with_i64_data(&[1, 2, 3]);
}

fn refused(path: &Path) -> String {
    match H5ad::open(path) {
        Ok(file) => file.rows(0..file.shape().0).expect_err("a bad matrix").to_string(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn csc_is_transposed_and_unsorted_rows_are_sorted() {
    let dir = tempfile::tempdir().expect("a folder");
    let wanted = cells();
    let csc = wanted.to_csc();
    let path = dir.path().join("csc.h5ad");
    let starts: Vec<i64> = csc.indptr().to_proper().iter().map(|&i| i as i64).collect();
    let places: Vec<i64> = csc.indices().iter().map(|&i| i64::from(i)).collect();
    let values: Vec<f64> = csc.data().iter().map(|&value| f64::from(value)).collect();
    raw_file(&path, [3, 4], sparse_group("csc_matrix", [3, 4], &starts, &places, &values), kept);
    let file = H5ad::open(&path).expect("opened");
    assert_eq!(file.storage(), "CSC f64");
    assert_eq!(file.rows(2..3).expect("rows"), last());
    assert_eq!(file.rows(0..3).expect("rows"), wanted);

    let path = dir.path().join("unsorted.h5ad");
    let unsorted = sparse_group(
        "csr_matrix",
        [3, 4],
        &[0, 3, 3, 6],
        &[3, 0, 1, 3, 2, 0],
        &[2.5, 0.0, 1.0, 70_000.0, 4.0, 3.0],
    );
    raw_file(&path, [3, 4], unsorted, kept);
    assert_eq!(H5ad::open(&path).expect("opened").rows(0..3).expect("rows"), wanted);
}

#[test]
fn a_bad_matrix_is_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("bad.h5ad");
    let ones = [1.0; 3];
    type Case = (&'static str, [i64; 2], &'static [i64], &'static [i64], &'static str);
    let cases: [Case; 8] = [
        ("csr_matrix", [3, 4], &[0, 2, 2, 3], &[1, 1, 0], "twice"),
        ("csr_matrix", [3, 4], &[0, 2, 2, 3], &[1, 4, 0], "outside 0..4"),
        ("csr_matrix", [3, 4], &[0, 2, 2, 3], &[-1, 1, 0], "outside 0..4"),
        ("csr_matrix", [3, 4], &[0, 2, 1, 3], &[0, 1, 0], "out of order"),
        ("csr_matrix", [3, 4], &[0, 2, 2, 2], &[0, 1, 0], "not from 0 to 3"),
        ("csr_matrix", [3, 4], &[0, 2, 3], &[0, 1, 0], "pointers"),
        ("csr_matrix", [3, 5], &[0, 2, 2, 3], &[0, 1, 0], "4 genes in var"),
        ("coo_matrix", [3, 4], &[0, 2, 2, 3], &[0, 1, 0], "coo_matrix"),
    ];
    for (kind, shape, starts, places, said) in cases {
        raw_file(&path, [3, 4], sparse_group(kind, shape, starts, places, &ones), kept);
        let what = refused(&path);
        assert!(what.contains(said) && what.contains("bad.h5ad"), "{said}: {what}");
    }
    raw_file(&path, [3, 4], |_| (), kept);
    assert!(refused(&path).contains("has no X"));
    std::fs::write(&path, "no HDF5").expect("written");
    assert!(refused(&path).contains("bad.h5ad"));
    std::fs::remove_file(&path).expect("removed");
    assert!(refused(&path).contains("bad.h5ad"));
}

#[test]
fn nullable_and_legacy_columns_are_labels() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("nullable.h5ad");
    let matrix = || sparse_group("csr_matrix", [3, 4], &[0, 0, 0, 0], &[], &[]);
    raw_file(&path, [3, 4], matrix(), |obs| {
        let mut group = obs.create_group("kept");
        group.set_attr("encoding-type", AttrValue::VarLenString("nullable-integer".into()));
        group.create_dataset("values").with_i64_data(&[30, 4, 30]);
        group.create_dataset("mask").with_i8_data(&[0, 1, 0]);
        obs.add_group(group.finish());
    });
    let labels = H5ad::open(&path).expect("opened").obs().labels(&path, "kept").expect("labels");
    assert_eq!(labels, Labels { codes: vec![0, -1, 0], names: vec!["30".into()] });

    raw_file(&path, [3, 4], matrix(), |obs| {
        obs.create_dataset("kept").with_i8_data(&[1, -1, 0]);
        let mut group = obs.create_group("__categories");
        group.create_dataset("kept").with_strings(&["a", "bc"]).expect("categories");
        obs.add_group(group.finish());
    });
    let labels = H5ad::open(&path).expect("opened").obs().labels(&path, "kept").expect("labels");
    assert_eq!(labels, Labels { codes: vec![1, -1, 0], names: vec!["a".into(), "bc".into()] });

    // A category that is listed twice is one.
    raw_file(&path, [3, 4], matrix(), |obs| {
        obs.create_dataset("kept").with_i8_data(&[2, 1, 0]);
        let mut group = obs.create_group("__categories");
        group.create_dataset("kept").with_strings(&["a", "bc", "a"]).expect("categories");
        obs.add_group(group.finish());
    });
    let labels = H5ad::open(&path).expect("opened").obs().labels(&path, "kept").expect("labels");
    assert_eq!(labels, Labels { codes: vec![0, 1, 0], names: vec!["a".into(), "bc".into()] });

    raw_file(&path, [3, 4], matrix(), |obs| {
        let mut group = obs.create_group("kept");
        group.set_attr("encoding-type", AttrValue::VarLenString("awkward-array".into()));
        obs.add_group(group.finish());
    });
    let wrong = H5ad::open_columns(&path, &["kept"], "X").expect_err("an exotic column").to_string();
    assert!(wrong.contains("awkward-array"), "{wrong}");
}

#[test]
fn the_real_data_sets_open() {
    for (name, cells, genes) in [
        ("kang2018_ifnb_mini", 1686, 2000),
        ("kang2018_muscat_mini", 1556, 1267),
        ("norman2019_k562_crispra_hvg500", 3375, 500),
        ("schraivogel2020_k562_tapseq_72g", 19_098, 72),
        ("zhao2021_gbm_panobinostat_300g", 5000, 300),
    ] {
        let Some(path) = shared(&format!("data/{name}.h5ad")) else { continue };
        let file = H5ad::open(&path).expect("opened");
        assert_eq!(file.shape(), (cells, genes), "{name}");
        let labels = file.obs().labels(&path, "perturbation").expect("labels");
        assert!(labels.names.iter().any(|label| label == "control"), "{name}");
        let rows: usize = file.blocks().map(|block| block.expect("a block").1.rows()).sum();
        assert_eq!(rows, cells, "{name}");
    }
}
