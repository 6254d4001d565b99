//! Files whose rows are written as they come.

use std::path::Path;

use scale_engine::data::h5ad::{Cells, Column, Frame, H5ad, Writer, write};
use scale_engine::data::population::Rows;
use scale_engine::sprs::CompressedStorage::CSR;

use super::{X, cells, frames, named};

/// The half-written files of a folder, and their bytes.
fn under_way(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    entries.map(|entry| entry.metadata().expect("a size").len()).collect()
}

#[test]
fn rows_reach_the_disk_as_they_come_and_come_back_in_order() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    // 3.3 million values, seven pieces: of those on their way at once, two at most are not yet written.
    let (rows, genes) = (12_000usize, 300usize);
    let row = |i: usize| -> (Vec<u32>, Vec<f32>) {
        let own = (0..genes as u32).filter(|gene| i == 7 || !(*gene as usize + i).is_multiple_of(13));
        own.map(|gene| (gene, (i * genes) as f32 + gene as f32 + 1.0)).unzip()
    };
    let mut file = Writer::create(&path, genes).expect("begun");
    let mut sizes = Vec::new();
    for i in 0..rows {
        let (own, values) = row(i);
        file.push(&own, &values).expect("room");
        if i == 0 || i == rows - 1 {
            sizes.extend(under_way(dir.path()));
        }
    }
    assert!(sizes.len() == 2 && sizes[0] < sizes[1] && !path.exists(), "{sizes:?}");
    let columns = vec![("number".to_string(), Column::Integer((0..rows as i64).collect()))];
    let obs = Frame { index: named("cell", rows), columns };
    let var = Frame { index: named("gene", genes), columns: Vec::new() };
    file.finish(&obs, &var, &[]).expect("written");
    let file = H5ad::open(&path).expect("opened");
    assert_eq!(file.shape(), (rows, genes));
    for i in [0, 1, 7, 999, 1_747, 1_748, rows - 1] {
        let (own, values) = row(i);
        let found = file.rows(i..i + 1).expect("a row");
        assert_eq!((found.indices(), found.data()), (&own[..], &values[..]), "row {i}");
    }
}

#[test]
fn a_file_that_is_given_up_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("new/a.h5ad");
    let mut file = Writer::create(&path, 3).expect("begun");
    file.push(&[0, 2], &[1.0, 2.0]).expect("room");
    assert_eq!(under_way(&dir.path().join("new")).len(), 1);
    drop(file);
    assert!(under_way(&dir.path().join("new")).is_empty());
    // Refused at its end: two names for one cell.
    let mut file = Writer::create(&path, 3).expect("begun");
    file.push(&[], &[]).expect("room");
    let frame = |count| Frame { index: named("x", count), columns: Vec::new() };
    let told = file.finish(&frame(2), &frame(3), &[]).expect_err("a refusal").to_string();
    assert!(told.contains("obs: 2 names, but X has 1"), "{told}");
    assert!(under_way(&dir.path().join("new")).is_empty());
}

#[test]
fn the_same_cells_give_the_same_bytes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (obs, var) = frames();
    let bytes = ["a.h5ad", "b.h5ad"].map(|name| {
        let path = dir.path().join(name);
        write(&path, &obs, &var, X::Sparse(&cells()), &[]).expect("written");
        std::fs::read(path).expect("readable")
    });
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn many_columns_come_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (mut obs, var) = frames();
    obs.columns = (0..60).map(|i| (format!("column {i}"), Column::Integer(vec![i, i + 1, i + 2]))).collect();
    write(&path, &obs, &var, X::Sparse(&cells()), &[]).expect("written");
    let file = H5ad::open(&path).expect("opened");
    assert_eq!(format!("{:?}", file.obs().columns), format!("{:?}", obs.columns));
}

#[test]
fn a_cell_that_is_no_row_is_refused_and_the_others_are_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5ad");
    let (mut file, mut held) = (Writer::create(&path, 3).expect("begun"), Cells::empty(CSR, 3));
    let cells: [(&[u32], &[f32], &str); 5] = [
        (&[0, 2], &[1.0, 2.0], ""),
        (&[1, 3], &[1.0, 2.0], "cell 1: gene 3 is out of range: there are 3"),
        (&[2, 1], &[1.0, 2.0], "cell 1: gene 2 is followed by gene 1"),
        (&[1, 1], &[1.0, 2.0], "cell 1: gene 1 is followed by gene 1"),
        (&[0, 1], &[1.0], "cell 1: 2 genes, but 1 values"),
    ];
    for (genes, values, expected) in cells {
        let told = file.push(genes, values).map_err(|error| error.to_string());
        let refused =
            matches!(&told, Err(what) if what.starts_with(&format!("{}: {expected}", path.display())));
        assert!(if expected.is_empty() { told.is_ok() } else { refused }, "{expected}: {told:?}");
        assert_eq!(
            Rows::push(&mut held, genes, values).is_ok(),
            expected.is_empty(),
            "in memory: {expected}"
        );
    }
    file.push(&[1], &[3.0]).expect("room");
    let frame = |count| Frame { index: named("x", count), columns: Vec::new() };
    file.finish(&frame(2), &frame(3), &[]).expect("written");
    let written = H5ad::open(&path).and_then(|file| file.rows(0..2)).expect("readable");
    assert_eq!((written.nnz(), held.nnz(), held.rows()), (3, 2, 1));
}
