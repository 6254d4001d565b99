//! What 10x writes is read as cells times genes: both layouts of Cell Ranger's `.h5`, and `mtx` folders.

use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use hdf5_pure::{DatasetBuilder, FileBuilder, GroupBuilder};
use scale_engine::data::h5ad::{H5ad, describe};
use scale_engine::data::preprocess::{Parts, Settings, plan};

/// Four barcodes times five features; the second name occurs twice, the last feature is an antibody.
const COUNTS: [[i32; 5]; 4] = [[3, 0, 1, 0, 40], [0, 100, 2, 0, 0], [0, 0, 0, 0, 7], [2, 70_000, 0, 1, 0]];
const BARCODES: [&str; 4] = ["AAAC-1", "AAAG-1", "AACA-1", "AACC-1"];
const IDS: [&str; 5] = ["ENSG01", "ENSG02", "ENSG03", "ENSG04", "CD3"];
const NAMES: [&str; 5] = ["CD3E", "TBCE", "MYC", "TBCE", "CD3"];
const KINDS: [&str; 5] =
    ["Gene Expression", "Gene Expression", "Gene Expression", "Gene Expression", "Antibody Capture"];

fn words(dataset: &mut DatasetBuilder, words: &[&str]) {
    dataset.with_strings(words).expect("words of fixed length");
}

/// Data, indices, pointers, shape and barcodes, as both versions write them.
fn matrix(group: &mut GroupBuilder, features: usize) {
    let (mut values, mut places, mut starts) = (Vec::new(), Vec::new(), vec![0i64]);
    for row in COUNTS {
        for (feature, &value) in row[..features].iter().enumerate().filter(|(_, value)| **value != 0) {
            values.push(value);
            places.push(feature as i64);
        }
        starts.push(values.len() as i64);
    }
    group.create_dataset("data").with_i32_data(&values);
    group.create_dataset("indices").with_i64_data(&places);
    group.create_dataset("indptr").with_i64_data(&starts);
    group.create_dataset("shape").with_i32_data(&[features as i32, 4]);
    words(group.create_dataset("barcodes"), &BARCODES);
}

/// The layout of Cell Ranger 3 and later.
pub fn cell_ranger(path: &Path) {
    let mut file = FileBuilder::new();
    let mut group = file.create_group("matrix");
    matrix(&mut group, 5);
    let mut features = group.create_group("features");
    for (name, list) in [("id", IDS), ("name", NAMES), ("feature_type", KINDS), ("genome", ["GRCh38"; 5])] {
        words(features.create_dataset(name), &list);
    }
    group.add_group(features.finish());
    file.add_group(group.finish());
    file.write(path).expect("written");
}

/// The layout of Cell Ranger 2, with a group for each genome.
fn cell_ranger_2(path: &Path, genomes: &[&str]) {
    let mut file = FileBuilder::new();
    for genome in genomes {
        let mut group = file.create_group(genome);
        matrix(&mut group, 4);
        words(group.create_dataset("genes"), &IDS[..4]);
        words(group.create_dataset("gene_names"), &NAMES[..4]);
        file.add_group(group.finish());
    }
    file.write(path).expect("written");
}

pub fn gzip(path: &Path, text: &str) {
    let mut file = GzEncoder::new(std::fs::File::create(path).expect("made"), Compression::fast());
    file.write_all(text.as_bytes()).expect("written");
    file.finish().expect("finished");
}

/// Entries ordered by feature, so not by cell.
fn market(features: usize) -> String {
    let mut entries = Vec::new();
    for feature in 0..features {
        for (cell, row) in COUNTS.iter().enumerate().filter(|(_, row)| row[feature] != 0) {
            entries.push(format!("{} {} {}\n", feature + 1, cell + 1, row[feature]));
        }
    }
    let head = "%%MatrixMarket matrix coordinate integer general\n%metadata_json: {}\n";
    format!("{head}{features} 4 {}\n{}", entries.len(), entries.concat())
}

fn features(features: usize, kinds: bool) -> String {
    let kind = |i: usize| if kinds { format!("\t{}", KINDS[i]) } else { String::new() };
    (0..features).map(|i| format!("{}\t{}{}\n", IDS[i], NAMES[i], kind(i))).collect()
}

/// A folder as Cell Ranger 3 and later write it, with a prefix as on GEO.
fn folder(dir: &Path, prefix: &str) {
    gzip(&dir.join(format!("{prefix}matrix.mtx.gz")), &market(5));
    gzip(&dir.join(format!("{prefix}barcodes.tsv.gz")), &(BARCODES.join("\n") + "\n"));
    gzip(&dir.join(format!("{prefix}features.tsv.gz")), &features(5, true));
}

fn check(path: &Path, kind: &str) -> Vec<String> {
    let file = H5ad::open(path).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(file.shape(), (4, 4), "{kind}");
    assert_eq!(file.obs().index, BARCODES, "{kind}");
    assert_eq!(file.var().index, ["CD3E", "TBCE", "MYC", "TBCE-1"], "{kind}");
    assert_eq!(file.cell_name(2), "AACA-1", "{kind}");
    let ids = file.var().labels(path, "gene_ids").expect("ids");
    assert_eq!(ids.names, IDS[..4], "{kind}");
    for rows in [0..4, 1..4] {
        let read = file.rows(rows.clone()).expect("rows").to_dense();
        for row in rows.clone() {
            let wanted: Vec<f32> = COUNTS[row][..4].iter().map(|&count| count as f32).collect();
            assert_eq!(read.row(row - rows.start).to_vec(), wanted, "{kind}, cell {row}");
        }
    }
    let told = describe(path).expect("inspected");
    assert!(told["kind"].as_str().is_some_and(|told| told.starts_with("10x")), "{told}");
    assert_eq!(told["notes"].as_array().map(Vec::len), Some(file.notes().len()), "{told}");
    let what = H5ad::open_columns(path, &["drug"], "X").expect_err("no labels").to_string();
    assert!(
        what.contains("\"drug\"") && what.contains("`preprocess::Settings::labels = FILE.csv`"),
        "{what}"
    );
    let what = H5ad::open_columns(path, &[], "layers/x").expect_err("one matrix").to_string();
    assert!(what.contains("layers/x"), "{what}");
    file.notes().to_vec()
}

#[test]
fn both_layouts_of_cell_ranger_are_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("a.h5");
    cell_ranger(&path);
    let notes = check(&path, "3");
    assert!(
        notes[0].contains("1 features that are not genes are left out (Antibody Capture: 1)"),
        "{notes:?}"
    );
    assert!(notes[1].contains("1 genes share a name"), "{notes:?}");
    cell_ranger_2(&path, &["GRCh38"]);
    assert_eq!(check(&path, "2").len(), 1);
    cell_ranger_2(&path, &["GRCh38", "mm10"]);
    let what = H5ad::open(&path).expect_err("two genomes").to_string();
    assert!(what.contains("several genomes (\"GRCh38\", \"mm10\")"), "{what}");
}

#[test]
fn folders_are_read_with_any_names_that_10x_gave_them() {
    let dir = tempfile::tempdir().expect("a folder");
    folder(dir.path(), "");
    assert_eq!(check(dir.path(), "features.tsv.gz").len(), 2);

    let old = dir.path().join("old");
    std::fs::create_dir(&old).expect("made");
    for (name, text) in [
        ("matrix.mtx", market(4)),
        ("barcodes.tsv", BARCODES.join("\r\n")),
        ("genes.tsv", features(4, false)),
    ] {
        std::fs::write(old.join(name), text).expect("written");
    }
    assert_eq!(check(&old, "genes.tsv").len(), 1);

    let geo = dir.path().join("geo");
    std::fs::create_dir(&geo).expect("made");
    folder(&geo, "GSM1_");
    check(&geo, "a prefix");
    folder(&geo, "GSM2_");
    let what = H5ad::open(&geo).expect_err("two samples").to_string();
    assert!(what.contains("GSM1_matrix.mtx.gz") && what.contains("name the one to read"), "{what}");
    check(&geo.join("GSM2_matrix.mtx.gz"), "one by its name");
}

#[test]
fn a_bad_folder_is_refused_by_file_and_line() {
    let dir = tempfile::tempdir().expect("a folder");
    let refused = |name: &str, text: &str| {
        folder(dir.path(), "");
        gzip(&dir.path().join(format!("{name}.gz")), text);
        H5ad::open(dir.path()).expect_err("a refusal").to_string()
    };
    let good = market(5);
    let head = "%%MatrixMarket matrix coordinate integer general\n";
    let cases = [
        ("matrix.mtx", "cell,gene\n".to_string(), "line 1"),
        ("matrix.mtx", good.replace("general", "symmetric"), "line 1"),
        ("matrix.mtx", format!("{head}5 4\n"), "rows, columns and entries"),
        ("matrix.mtx", good.replace("5 4 ", "4 5 "), "5 features and 4 barcodes"),
        ("matrix.mtx", good.replace("\n1 1 3", "\n6 1 3"), "\"6 1 3\""),
        ("matrix.mtx", good.replace("\n1 1 3", "\n0 1 3"), "\"0 1 3\""),
        ("matrix.mtx", good.replace("\n1 1 3", "\n1 1"), "\"1 1\""),
        ("matrix.mtx", good.replace("\n1 1 3", "\n1 1 16777217"), "16777217, a whole number above 2^24"),
        ("matrix.mtx", good.replace("\n1 1 3", ""), "cut off"),
        ("matrix.mtx", good.replace("\n1 1 3", "\n1 4 3"), "twice"),
        ("barcodes.tsv", "A\nB\n".to_string(), "5 features and 2 barcodes"),
        ("features.tsv", "CD3E\n".to_string(), "line 1 has no column 2"),
        ("features.tsv", "1\ta\tb\n".repeat(5), "no features of type \"Gene Expression\""),
    ];
    for (name, text, said) in cases {
        let what = refused(name, &text);
        assert!(what.contains(said), "{said}: {what}");
    }
    std::fs::remove_file(dir.path().join("barcodes.tsv.gz")).expect("removed");
    let what = H5ad::open(dir.path()).expect_err("a table is missing").to_string();
    assert!(what.contains("barcodes.tsv.gz or barcodes.tsv"), "{what}");
    std::fs::remove_file(dir.path().join("matrix.mtx.gz")).expect("removed");
    let what = H5ad::open(dir.path()).expect_err("no matrix").to_string();
    assert!(what.contains("a folder without a matrix.mtx"), "{what}");
}

#[test]
fn a_plan_counts_the_bytes_of_files_that_a_folder_links_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let [files, links] = ["files", "links"].map(|name| dir.path().join(name));
    [&files, &links].into_iter().for_each(|folder| std::fs::create_dir(folder).expect("made"));
    folder(&files, "");
    for entry in std::fs::read_dir(&files).expect("listed").map(|entry| entry.expect("readable")) {
        std::os::unix::fs::symlink(entry.path(), links.join(entry.file_name())).expect("a link");
    }
    let labels = dir.path().join("labels.csv");
    let rows: String =
        BARCODES.iter().zip(["a", "a", "b", "b"]).map(|(b, drug)| format!("{b},{drug}\n")).collect();
    std::fs::write(&labels, format!("cell,drug\n{rows}")).expect("written");
    let bytes = |input| {
        let settings = Settings {
            inputs: vec![input],
            out: dir.path().join("DATA"),
            labels: Some(labels.clone()),
            perturbation: "drug".to_string(),
            control: "a".to_string(),
            ..Settings::default()
        };
        plan(&settings, &Parts::default()).expect("a plan").source_bytes
    };
    assert_eq!(bytes(links), bytes(files));
}
