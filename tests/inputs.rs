//! What goes into a data directory: labels from a table, genes of several files; and which cells and genes are left out.

use std::path::Path;

use scale_engine::data::h5ad::{Column, X, write};
use scale_engine::data::preprocess::{Genes, Settings};
use scale_engine::data::shard::Data;

use crate::preprocess::{COUNTS, GENES, obs, refusal, row, run, settings, small, sparse, var};
use crate::tenx;

/// (cell type, perturbation) of every cell, in the order of the shards.
fn conditions(out: &Path) -> Vec<(String, String)> {
    let data = Data::open(out).expect("opened");
    let manifest = data.manifest();
    let mut found = Vec::new();
    for group in data.groups() {
        let [kind, drug] = [
            &manifest.cell_types[group.cell_type as usize],
            &manifest.perturbations[group.perturbation as usize],
        ];
        (0..group.cells).for_each(|_| found.push((kind.clone(), drug.clone())));
    }
    found.sort();
    found
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
}

#[test]
fn output_of_10x_gets_its_labels_from_a_table() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, table) = (dir.path().join("a.h5"), dir.path().join("labels.csv"));
    tenx::cell_ranger(&input);
    std::fs::write(
        &table,
        "cell,drug,line\nAACC-1,none,T\nAAAG-1,\"a, b\",T\nAAAC-1,none,T\nelsewhere,b,T\nAACA-1,,T\n",
    )
    .expect("written");
    let mut settings = settings(&input, &dir.path().join("data"));
    assert!(refusal(&settings).contains("`preprocess::Settings::labels = FILE.csv`"));
    settings.labels = Some(table.clone());
    let kept = run(&settings).expect("made").contents;
    let joined = kept.joined.expect("a table");
    assert_eq!((joined.matched, joined.unmatched, joined.unused), (4, 0, 1));
    assert_eq!(joined.first_unused, ["elsewhere"]);
    assert_eq!((kept.cells, kept.dropped, kept.source_genes), (3, 1, 4));
    assert_eq!(conditions(&settings.out), pairs(&[("T", "a, b"), ("T", "none"), ("T", "none")]));
    assert!(kept.notes.iter().any(|note| note.contains("Antibody Capture: 1")), "{:?}", kept.notes);
    let data = Data::open(&settings.out).expect("opened");
    assert_eq!(data.row(0).library, 4.0, "antibodies are no part of a cell's total");

    settings.out = dir.path().join("other");
    let cases = [
        ("cell,drug,line\nAACC-1,none,T\nAACC-1,a,T\n", "cell \"AACC-1\" appears twice"),
        (
            "cell,drug,line\nAACC-2,none,T\n",
            "no cell has a row: its column \"cell\" starts with \"AACC-2\", but the cells with \"AAAC-1\"",
        ),
        ("cell\tdrug\tline\nAACC-1\tnone\tT\n", "needs a header and at least two columns"),
        ("cell,drug\nAACC-1,none\n", "labels.csv has: cell, drug"),
        ("cell,drug,line\nAACC-1,none\n", "labels.csv"),
        ("cell,drug,line\n", "has no rows"),
        ("cell,drug,line,drug\nAACC-1,none,T,a\n", "two columns \"drug\""),
    ];
    for (text, said) in cases {
        std::fs::write(&table, text).expect("written");
        let what = refusal(&settings);
        assert!(what.contains(said), "{said}: {what}");
    }
}

#[test]
fn columns_of_a_table_add_to_those_of_obs_and_replace_them() {
    let (dir, mut settings) = small(|_, _, _| ());
    let table = dir.path().join("labels.tsv");
    // The column with the same name as the index of obs holds the cell names, wherever it is.
    std::fs::write(
        &table,
        "donor\tdrug\t_index\nD1\tnone\tcell0\nD1\ta\tcell1\nD2\ta\tcell2\nD2\tnone\tcell3\nD2\t \tcell4\n",
    )
    .expect("written");
    settings.labels = Some(table.clone());
    settings.batch = Some("donor".into());
    let kept = run(&settings).expect("made").contents;
    let joined = kept.joined.expect("a table");
    assert_eq!((joined.matched, joined.unmatched, joined.unused), (5, 1, 0));
    assert_eq!((kept.cells, kept.dropped), (4, 2), "cell4 has no drug, cell5 no row");
    assert_eq!(kept.missing, [("drug".to_string(), 2), ("donor".to_string(), 1)]);
    assert_eq!(conditions(&settings.out), pairs(&[("B", "a"), ("B", "none"), ("T", "a"), ("T", "none")]));
    assert_eq!(Data::open(&settings.out).expect("opened").manifest().batches, ["D1", "D2"]);

    // The same names in two files: whose row is it?
    let second = dir.path().join("second.h5ad");
    write(&second, &obs(), &var(&GENES), X::Sparse(&sparse(&COUNTS)), &[]).expect("written");
    settings.inputs.push(second);
    settings.out = dir.path().join("other");
    let what = refusal(&settings);
    assert!(what.contains("second.h5ad") && what.contains("\"cell0\" appears a second time"), "{what}");
    assert!(what.contains("as in \"cell0-1\""), "{what}");
}

#[test]
fn files_that_share_barcodes_are_told_apart_in_a_table_by_their_numbers() {
    let (dir, mut settings) = small(|_, _, _| ());
    let [second, table] = ["second.h5ad", "labels.csv"].map(|name| dir.path().join(name));
    write(&second, &obs(), &var(&GENES), X::Sparse(&sparse(&COUNTS)), &[]).expect("written");
    std::fs::write(
        &table,
        "cell,drug\ncell0-0,none\ncell0-1,c\ncell1-1,none\ncell2,b\ncell2-1,d\ncell5-2,none\n",
    )
    .expect("written");
    settings.inputs.push(second);
    settings.labels = Some(table);
    let kept = run(&settings).expect("made").contents;
    let joined = kept.joined.expect("a table");
    assert_eq!((joined.matched, joined.unmatched, joined.first_unused), (5, 7, vec!["cell5-2".to_string()]));
    let named: Vec<(&str, &str)> = vec![("B", "b"), ("B", "d"), ("T", "c"), ("T", "none"), ("T", "none")];
    assert_eq!(conditions(&settings.out), pairs(&named));
    let data = Data::open(&settings.out).expect("opened");
    let mut names: Vec<&str> = (0..data.cells()).map(|cell| data.name(cell)).collect();
    names.sort_unstable();
    assert_eq!(names, ["cell0-0", "cell0-1", "cell1-1", "cell2-0", "cell2-1"], "as the table has them");
}

#[test]
fn packed_tables_and_lists_are_read() {
    let (dir, mut settings) = small(|_, _, _| ());
    let [table, list] = ["labels.tsv.gz", "genes.txt.gz"].map(|name| dir.path().join(name));
    tenx::gzip(&table, "cell\tdrug\ncell0\tnone\ncell1\ta\n");
    tenx::gzip(&list, "MYC\nACTB\n");
    (settings.labels, settings.genes) = (Some(table), Genes::Listed(list));
    let kept = run(&settings).expect("made").contents;
    assert_eq!((kept.cells, kept.dropped), (2, 4));
    assert_eq!(Data::open(&settings.out).expect("opened").manifest().genes, ["MYC", "ACTB"]);
}

/// A second file of five genes with the counts of the first, and both as inputs.
fn two_files(genes: [&str; 5], ids: [[&str; 5]; 2]) -> (tempfile::TempDir, Settings) {
    let with = |genes: &[&str], ids: [&str; 5]| {
        let mut var = var(genes);
        var.columns.push(("gene_id".to_string(), Column::Text(ids.map(String::from).to_vec())));
        var
    };
    let (dir, mut settings) = small(|_, var, _| *var = with(&GENES, ids[0]));
    let second = dir.path().join("second.h5ad");
    write(&second, &obs(), &with(&genes, ids[1]), X::Sparse(&sparse(&COUNTS)), &[]).expect("written");
    settings.inputs.push(second);
    (dir, settings)
}

/// Genes and values of the two cells of perturbation b, one per file.
fn pair(out: &Path) -> [(Vec<u16>, Vec<f32>, f32); 2] {
    let data = Data::open(out).expect("opened");
    let group = *data.groups().iter().find(|group| group.perturbation == 1).expect("b");
    assert_eq!(group.cells, 2);
    [row(&data, group.first), row(&data, group.first + 1)]
}

const IDS: [&str; 5] = ["E1", "E2", "E3", "E4", "E5"];

#[test]
fn genes_are_aligned_by_an_id_where_files_name_them_otherwise() {
    // The second file has its own names and another order; CD3E is E1 in one and E2 in the other.
    let (_dir, mut settings) = two_files(["CD3E", "b", "c", "d", "e"], [IDS, ["E2", "E1", "E3", "E4", "E5"]]);
    assert!(refusal(&settings).contains("`gene_id`"));
    settings.gene_id = Some("gene_id".into());
    let kept = run(&settings).expect("made").contents;
    assert_eq!(Data::open(&settings.out).expect("opened").manifest().genes, GENES);
    let shared = kept.shared.expect("two files");
    assert_eq!((shared.common, shared.partial, shared.lacking), (5, 0, Vec::new()));
    let [first, second] = pair(&settings.out);
    assert_eq!(first, (vec![0, 1, 3], vec![2.0, 70_000.0, 1.0], 70_003.0));
    assert_eq!(second, (vec![0, 1, 3], vec![70_000.0, 2.0, 1.0], 70_003.0));

    settings.out.set_file_name("other");
    settings.gene_id = Some("ensembl".into());
    let what = refusal(&settings);
    assert!(what.contains("column \"ensembl\": not in ") && what.contains("gene_id"), "{what}");
    let (_dir, mut settings) = two_files(GENES, [IDS, ["E1", "E1", "E3", "E4", "E5"]]);
    settings.gene_id = Some("gene_id".into());
    let what = refusal(&settings);
    assert!(what.contains("second.h5ad") && what.contains("\"E1\" appears twice in var/gene_id"), "{what}");
}

#[test]
fn a_gene_that_a_file_lacks_is_zeros_where_that_is_asked_for() {
    let (_dir, mut settings) = two_files(["NEW", "ACTB", "MYC", "TP53", "GATA1"], [IDS; 2]);
    let what = refusal(&settings);
    assert!(
        what.contains("second.h5ad: gene \"CD3E\" is missing") && what.contains("`fill_missing`"),
        "{what}"
    );
    settings.fill_missing = true;
    let kept = run(&settings).expect("made").contents;
    let shared = kept.shared.expect("two files");
    assert_eq!((shared.common, shared.partial), (4, 2));
    assert_eq!(shared.lacking, [("in.h5ad".to_string(), 1), ("second.h5ad".to_string(), 1)]);
    assert!(kept.notes.iter().any(|note| note.contains("2 genes are set to zero")), "{:?}", kept.notes);
    assert_eq!(
        Data::open(&settings.out).expect("opened").manifest().genes,
        ["CD3E", "ACTB", "MYC", "TP53", "GATA1", "NEW"]
    );
    let [first, second] = pair(&settings.out);
    assert_eq!(first, (vec![0, 1, 3], vec![2.0, 70_000.0, 1.0], 70_003.0));
    assert_eq!(second, (vec![1, 3, 5], vec![70_000.0, 1.0, 2.0], 70_003.0));

    // By id the second file adds a gene whose name is taken: it is named by its id.
    let (_dir, mut settings) = two_files(GENES, [IDS, ["E9", "E2", "E3", "E4", "E5"]]);
    (settings.fill_missing, settings.gene_id) = (true, Some("gene_id".into()));
    let kept = run(&settings).expect("made").contents;
    assert_eq!(Data::open(&settings.out).expect("opened").manifest().genes[5], "E9");
    assert!(kept.notes.iter().any(|note| note.contains("1 genes are named by their id")), "{:?}", kept.notes);
}
