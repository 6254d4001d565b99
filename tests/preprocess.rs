//! Preprocessing: the same directory from every kind of storage, and each refusal by name.

use std::path::Path;

use scale_engine::data::h5ad::{Cells, Column, Frame, Labels, X, write};
use scale_engine::data::preprocess::hvg::Flavor;
use scale_engine::data::preprocess::{Genes, Parts, Settings, Summary, Target, plan, preprocess};
use scale_engine::data::shard::{Data, Scale};
use scale_engine::error::Result;
use scale_engine::progress::Progress;

use crate::h5ad::{raw_file, sparse_group};

pub fn settings(input: &Path, out: &Path) -> Settings {
    Settings {
        inputs: vec![input.to_path_buf()],
        out: out.to_path_buf(),
        perturbation: "drug".into(),
        control: "none".into(),
        cell_type: Some("line".into()),
        genes: Genes::Top(1000),
        ..Settings::default()
    }
}

pub fn run(settings: &Settings) -> Result<Summary> {
    preprocess(settings, &Progress::silent())
}

/// What `preprocess` says when it refuses; nothing may be left behind.
pub fn refusal(settings: &Settings) -> String {
    let what = run(settings).expect_err("a refusal").to_string();
    assert!(!settings.out.exists(), "{what}: left {}", settings.out.display());
    what
}

pub fn words(items: &[&str]) -> Column {
    Column::Categorical(Labels::of(items))
}

pub const GENES: [&str; 5] = ["CD3E", "ACTB", "MYC", "TP53", "GATA1"];
/// Six cells; the last gene is never expressed, the fourth cell is empty.
pub const COUNTS: [[f32; 5]; 6] = [
    [3.0, 0.0, 1.0, 0.0, 0.0],
    [0.0, 300.0, 2.0, 0.0, 0.0],
    [1.0, 1.0, 0.0, 7.0, 0.0],
    [0.0, 0.0, 0.0, 0.0, 0.0],
    [2.0, 70_000.0, 0.0, 1.0, 0.0],
    [0.0, 5.0, 5.0, 0.0, 0.0],
];

pub fn obs() -> Frame {
    let columns = vec![
        ("drug".to_string(), words(&["none", "a", "none", "a", "b", "none"])),
        ("line".to_string(), words(&["T", "T", "B", "B", "T", "T"])),
        ("plate".to_string(), Column::Integer(vec![2, 10, 2, 2, 10, 10])),
    ];
    Frame { index: (0..6).map(|i| format!("cell{i}")).collect(), columns }
}

pub fn var(genes: &[&str]) -> Frame {
    Frame { index: genes.iter().map(|gene| gene.to_string()).collect(), columns: Vec::new() }
}

pub fn sparse(rows: &[[f32; 5]]) -> Cells {
    let (mut starts, mut genes, mut values) = (vec![0], Vec::new(), Vec::new());
    for row in rows {
        for (gene, &value) in row.iter().enumerate().filter(|(_, value)| **value != 0.0) {
            genes.push(gene as u32);
            values.push(value);
        }
        starts.push(values.len());
    }
    Cells::new((rows.len(), 5), starts, genes, values)
}

/// A folder with `in.h5ad`, changed by `change`, and settings that read it.
pub fn small(
    change: impl FnOnce(&mut Frame, &mut Frame, &mut [[f32; 5]; 6]),
) -> (tempfile::TempDir, Settings) {
    let dir = tempfile::tempdir().expect("a folder");
    let (mut obs, mut var, mut counts) = (obs(), var(&GENES), COUNTS);
    change(&mut obs, &mut var, &mut counts);
    let path = dir.path().join("in.h5ad");
    write(&path, &obs, &var, X::Sparse(&sparse(&counts)), &[]).expect("written");
    let settings = settings(&path, &dir.path().join("data"));
    (dir, settings)
}

pub fn row(data: &Data, cell: u64) -> (Vec<u16>, Vec<f32>, f32) {
    let row = data.row(cell);
    (row.genes.to_vec(), (0..row.values.len()).map(|i| row.values.get(i)).collect(), row.library)
}

#[test]
fn counts_arrive_whole_with_their_labels_and_totals() {
    let (_dir, mut settings) = small(|_, _, _| ());
    settings.batch = Some("plate".into());
    let summary = run(&settings).expect("made");
    let kept = &summary.contents;
    assert_eq!((kept.cells, kept.genes, kept.source_genes, kept.groups), (6, 5, 5, 6));
    assert_eq!((kept.scale, summary.target, kept.dropped), (Scale::Counts, Some(1e4), 0));
    let fewer = "1000 genes were asked for, but the source has 5";
    assert!(kept.notes.iter().any(|note| note.contains(fewer)), "{:?}", kept.notes);
    let data = Data::open(&settings.out).expect("opened");
    let manifest = data.manifest();
    assert_eq!(manifest.genes, GENES);
    assert_eq!(manifest.perturbations, ["a", "b", "none"]);
    assert_eq!(
        (&manifest.cell_types[..], &manifest.batches[..]),
        (&["B".into(), "T".into()][..], &["10".into(), "2".into()][..])
    );
    assert_eq!((manifest.dataset.as_str(), manifest.control.as_str()), ("in", "none"));
    let group =
        data.groups().iter().find(|group| (group.perturbation, group.cell_type) == (1, 1)).expect("b in T");
    assert_eq!(row(&data, group.first), (vec![0, 1, 3], vec![2.0, 70_000.0, 1.0], 70_003.0));
    let mut x = [0.0; 5];
    data.fill(group.first, &mut x);
    let wanted = (2.0f32 / (70_003.0 / 1e4)).ln_1p() / 10.0;
    assert!((x[0] - wanted).abs() < 1e-7, "{x:?}, {wanted}");
    let table = std::fs::read_to_string(settings.out.join("var.csv")).expect("var.csv");
    assert!(table.starts_with("gene,means,dispersions,dispersions_norm,highly_variable\nCD3E,"), "{table}");
}

#[test]
fn a_gene_list_is_kept_in_its_order() {
    let (dir, mut settings) = small(|_, _, _| ());
    let list = dir.path().join("genes.txt");
    std::fs::write(&list, "TP53\n\nCD3E\r\n").expect("written");
    settings.genes = Genes::Listed(list.clone());
    run(&settings).expect("made");
    let data = Data::open(&settings.out).expect("opened");
    assert_eq!(data.manifest().genes, ["TP53", "CD3E"]);
    assert_eq!(data.manifest().batches, ["all"]);
    let group = data.groups().iter().find(|group| group.perturbation == 1).expect("b");
    assert_eq!(row(&data, group.first), (vec![0, 1], vec![1.0, 2.0], 70_003.0));
    let table = std::fs::read_to_string(settings.out.join("var.csv")).expect("var.csv");
    assert_eq!(table, "gene,highly_variable\nCD3E,true\nACTB,false\nMYC,false\nTP53,true\nGATA1,false\n");

    settings.out = dir.path().join("other");
    for (text, said) in [("CD3F", "did you mean \"CD3E\""), ("MYC\nMYC", "twice"), (" \n", "names no gene")] {
        std::fs::write(&list, text).expect("written");
        let what = refusal(&settings);
        assert!(what.contains(said), "{what}");
    }
}

#[test]
fn the_genes_of_a_data_directory_are_taken_as_they_are_named_there() {
    let (dir, mut settings) = small(|_, var, _| var.index[2] = "MYC ".to_string());
    run(&settings).expect("made");
    settings.genes = Genes::Listed(settings.out.clone());
    settings.out = dir.path().join("other");
    run(&settings).expect("made");
    assert!(Data::open(&settings.out).expect("opened").manifest().genes.contains(&"MYC ".to_string()));
}

#[test]
fn each_mistake_has_its_own_message() {
    type Change = fn(&mut Frame, &mut Frame, &mut [[f32; 5]; 6]);
    let values: [(Change, &[&str]); 6] = [
        (|_, _, x| x[2][3] = f32::NAN, &["cell \"cell2\"", "gene \"TP53\"", "NaN"]),
        (|_, _, x| x[2][3] = f32::INFINITY, &["cell \"cell2\"", "inf"]),
        (|_, _, x| x[5][1] = -2.0, &["cell \"cell5\"", "gene \"ACTB\"", "negative"]),
        (|_, _, x| x[0][0] = 0.5, &["neither whole counts nor log1p", "`scale = counts`"]),
        (|_, var, _| var.index[4] = "MYC".into(), &["gene \"MYC\" appears twice"]),
        (|obs, _, _| obs.columns[1] = ("line".into(), Column::Float(vec![0.5; 6])), &["\"line\"", "decimal"]),
    ];
    for (change, said) in values {
        let what = refusal(&small(change).1);
        assert!(said.iter().all(|said| what.contains(said)), "{said:?}: {what}");
    }
    type Ask = fn(&mut Settings);
    let asked: [(Ask, &[&str]); 11] = [
        (|s| s.source = "raw".into(), &["has no raw;", "layers/NAME"]),
        (|s| s.source = String::new(), &["source: is empty; name a matrix: X, raw"]),
        (|s| s.perturbation = "drugs".into(), &["column \"drugs\": not in ", "\"drug\"", "line, plate"]),
        (|s| s.batch = Some("well".into()), &["column \"well\": not in "]),
        (|s| s.hvg_batch = Some("well".into()), &["column \"well\": not in "]),
        (|s| s.cell_type = Some("cell/line".into()), &["cell_type: ", "\"cell/line\" contains /"]),
        (|s| s.control = "nome".into(), &["unknown label \"nome\"", "did you mean \"none\"", "drug"]),
        (|s| s.inputs[0].set_file_name("no.h5ad"), &["no.h5ad"]),
        (|s| s.target = Some(Target::Sum(0.0)), &["target: "]),
        (|s| s.genes = Genes::Top(0), &["Genes::Top: "]),
        (|s| s.source = "layers/raw".into(), &["layers/raw"]),
    ];
    for (ask, said) in asked {
        let (_dir, mut settings) = small(|_, _, _| ());
        ask(&mut settings);
        let what = refusal(&settings);
        assert!(said.iter().all(|said| what.contains(said)), "{said:?}: {what}");
    }
}

#[test]
fn a_category_without_cells_is_no_control_label() {
    let (_dir, mut settings) = small(|obs, _, _| {
        let Column::Categorical(labels) = &mut obs.columns[0].1 else { panic!("labels") };
        labels.names.push("vehicle".to_string());
    });
    settings.control = "vehicle".into();
    let what = refusal(&settings);
    assert!(what.contains("unknown label \"vehicle\"") && what.contains("none"), "{what}");
}

#[test]
fn cell_rangers_bins_collapse_where_genes_share_a_mean() {
    let (_dir, mut settings) = small(|_, _, x| x.iter_mut().for_each(|row| row[2..].fill(0.0)));
    settings.flavor = Flavor::CellRanger;
    let what = refusal(&settings);
    assert!(
        what.contains("collapse") && what.contains("use seurat") && what.contains("`filters.min_cells = 1`"),
        "{what}"
    );
}

#[test]
fn cells_without_a_label_are_left_out_and_counted() {
    let labels = |codes: &[i32], names: &[&str]| {
        Column::Categorical(Labels {
            codes: codes.to_vec(),
            names: names.iter().map(|n| n.to_string()).collect(),
        })
    };
    let (_dir, settings) = small(|obs, _, _| {
        obs.columns[0].1 = labels(&[2, 0, -1, 0, 1, 2], &["a", "b", "none"]);
        obs.columns[1].1 = labels(&[1, -1, -1, 1, 1, 1], &["B", "T"]);
    });
    let kept = run(&settings).expect("made").contents;
    assert_eq!((kept.cells, kept.dropped, kept.cell_types), (4, 2, 1));
    assert_eq!(kept.missing, [("line".to_string(), 2), ("drug".to_string(), 1)]);
    assert_eq!(Data::open(&settings.out).expect("opened").cells(), 4);

    let (_dir, settings) = small(|obs, _, _| {
        obs.columns[0].1 = labels(&[2, 0, -1, 0, 1, 2], &["a", "b", "none"]);
        obs.columns[1].1 = labels(&[-1, 1, 1, 1, 1, -1], &["B", "T"]);
    });
    assert!(refusal(&settings).contains("no \"none\" cell has all its labels"));
    let (_dir, settings) = small(|obs, _, _| obs.columns[0].1 = labels(&[-1; 6], &["none"]));
    assert!(refusal(&settings).contains("no cell has all its labels"));
}

#[test]
fn a_cell_type_without_controls_is_told() {
    let (_dir, settings) = small(|obs, _, _| obs.columns[0].1 = words(&["none", "a", "a", "a", "b", "none"]));
    let kept = run(&settings).expect("made").contents;
    assert!(kept.notes.iter().any(|note| note.contains("no control cells in B")), "{:?}", kept.notes);
}

#[test]
fn medians_count_empty_cells_or_do_not() {
    // Totals 4, 302, 9, 0, 70003, 10.
    for (target, wanted) in [(Target::Median, 9.5), (Target::MedianNonzero, 10.0)] {
        let (_dir, mut settings) = small(|_, _, _| ());
        settings.target = Some(target);
        assert_eq!(run(&settings).expect("made").target, Some(wanted));
    }
    let (_dir, mut settings) = small(|_, _, x| x[..4].fill([0.0; 5]));
    settings.target = Some(Target::Median);
    assert!(refusal(&settings).contains("median-nonzero"));
}

#[test]
fn files_are_joined_by_the_names_of_their_genes() {
    let (dir, mut settings) = small(|_, _, _| ());
    let (turned, second) = (["GATA1", "TP53", "MYC", "ACTB", "CD3E"], dir.path().join("second.h5ad"));
    let counts = COUNTS.map(|mut row| {
        row.reverse();
        row
    });
    write(&second, &obs(), &var(&turned), X::Sparse(&sparse(&counts)), &[]).expect("written");
    settings.inputs.push(second.clone());
    let kept = run(&settings).expect("made").contents;
    assert_eq!((kept.cells, kept.groups), (12, 5));
    let data = Data::open(&settings.out).expect("opened");
    let group = data.groups().iter().find(|group| group.perturbation == 1).expect("b");
    assert_eq!((group.cells, row(&data, group.first)), (2, row(&data, group.first + 1)));
    assert_eq!(data.manifest().sources[1].path, "second.h5ad");

    settings.out = dir.path().join("other");
    write(&second, &obs(), &var(&["GATA1", "TP53", "MYC", "ACTB", "NEW"]), X::Sparse(&sparse(&counts)), &[])
        .expect("written");
    let what = refusal(&settings);
    assert!(what.contains("\"CD3E\" is missing") && what.contains("second.h5ad"), "{what}");
}

pub fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(dir).expect("readable").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<(String, Vec<u8>)> = entries
        .map(|path| {
            (
                path.file_name().expect("a name").to_string_lossy().into_owned(),
                std::fs::read(&path).expect("read"),
            )
        })
        .collect();
    files.sort();
    files
}

#[test]
fn every_storage_gives_the_same_bytes() {
    let cells = sparse(&COUNTS);
    let numbers: Vec<f32> = COUNTS.as_flattened().to_vec();
    let csc = cells.to_csc();
    let starts: Vec<i64> = csc.indptr().to_proper().iter().map(|&i| i as i64).collect();
    let places: Vec<i64> = csc.indices().iter().map(|&i| i64::from(i)).collect();
    let values: Vec<f64> = csc.data().iter().map(|&value| f64::from(value)).collect();
    let dir = tempfile::tempdir().expect("a folder");
    let mut made = Vec::new();
    for storage in ["csr", "dense", "csc"] {
        let path = dir.path().join(storage).join("in.h5ad");
        let names = Frame { index: (0..5).map(|i| format!("gene{i}")).collect(), columns: Vec::new() };
        let obs = Frame {
            columns: vec![("kept".into(), words(&["none", "a", "none", "a", "b", "none"]))],
            ..obs()
        };
        match storage {
            "csr" => write(&path, &obs, &names, X::Sparse(&cells), &[]).expect("written"),
            "dense" => write(&path, &obs, &names, X::Dense { shape: (6, 5), numbers: &numbers }, &[])
                .expect("written"),
            _ => {
                std::fs::create_dir_all(dir.path().join(storage)).expect("a folder");
                let x = sparse_group("csc_matrix", [6, 5], &starts, &places, &values);
                raw_file(&path, [6, 5], x, |group| {
                    group.create_dataset("kept").with_vlen_strings(&["none", "a", "none", "a", "b", "none"]);
                });
            }
        }
        let mut settings = settings(&path, &dir.path().join(storage).join("data"));
        (settings.perturbation, settings.cell_type, settings.genes) =
            ("kept".into(), Some("kept".into()), Genes::Top(3));
        run(&settings).expect("made");
        made.push(contents(&settings.out));
    }
    assert!(made[0].len() >= 4, "shards of both kinds, manifest.json and var.csv");
    assert_eq!(made[0], made[1]);
    assert_eq!(made[0], made[2]);
}

#[test]
fn the_checksum_of_a_source_covers_every_value_of_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let crc = |name: &str, last: f32| {
        let mut rows: Vec<[f32; 5]> = COUNTS.iter().copied().cycle().take(3000).collect();
        rows[2999][2] = last;
        let label = |names: [&str; 2]| words(&(0..3000).map(|i| names[i % 2]).collect::<Vec<_>>());
        let columns =
            vec![("drug".to_string(), label(["none", "a"])), ("line".to_string(), label(["T", "T"]))];
        let obs = Frame { index: (0..3000).map(|i| format!("cell{i}")).collect(), columns };
        let path = dir.path().join(format!("{name}.h5ad"));
        write(&path, &obs, &var(&GENES), X::Sparse(&sparse(&rows)), &[]).expect("written");
        let settings = settings(&path, &dir.path().join(name));
        run(&settings).expect("made");
        Data::open(&settings.out).expect("opened").manifest().sources[0].crc
    };
    assert_eq!(crc("one", 5.0), crc("same", 5.0));
    assert_ne!(crc("five", 5.0), crc("six", 6.0), "the last cell's value is another");
}

#[test]
fn a_plan_tells_what_is_then_made_and_makes_nothing() {
    // The most passes over the sources that there can be, and the fewest.
    for (many, passes) in [(true, 5), (false, 2)] {
        let (_dir, mut settings) = small(|_, _, _| ());
        if many {
            settings.flavor = Flavor::SeuratV3;
            settings.target = Some(Target::Median);
            settings.filters.min_counts = 1;
        }
        let plan = plan(&settings, &Parts::default()).expect("a plan");
        assert!(!settings.out.exists());
        assert_eq!(plan.passes.len(), passes);
        if many {
            continue; // seurat_v3 has too few cells here to fit anything
        }
        let made = run(&settings).expect("made");
        let (told, kept) = (&plan.contents, &made.contents);
        assert_eq!((told.cells, told.groups, told.genes), (kept.cells, kept.groups, kept.genes));
        assert_eq!((told.perturbations, told.source_genes), (kept.perturbations, kept.source_genes));
        assert!(made.bytes <= plan.bytes, "{} bytes, at most {}", made.bytes, plan.bytes);
    }
    let (_dir, mut settings) = small(|_, _, _| ());
    settings.control = "DMSO".into();
    assert!(plan(&settings, &Parts::default()).expect_err("no such control").to_string().contains("DMSO"));
    settings.target = Some(Target::Sum(f64::NAN));
    assert!(plan(&settings, &Parts::default()).expect_err("no total").to_string().starts_with("target: "));
}
