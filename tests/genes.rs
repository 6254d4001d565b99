//! The table of genes alone: the one that `preprocess` writes, from files without labels too, and a list that it reads.

use std::fs;
use std::path::Path;

use scale_engine::data::h5ad::{Frame, H5ad, X, write};
use scale_engine::data::preprocess::{Genes, Knockdown, Ranking, Settings, preprocess, rank_genes};
use scale_engine::data::shard::Data;
use scale_engine::error::Result;
use scale_engine::progress::Progress;

use crate::parts::two_files;
use crate::refused::told;
use crate::sizes::shards;
use crate::train::program;

fn ranked(settings: &Settings, out: &Path) -> Result<Ranking> {
    rank_genes(&Settings { out: out.to_path_buf(), ..settings.clone() }, &Progress::silent())
}

#[test]
fn it_is_the_table_of_a_data_directory() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let table = dir.path().join("genes.csv");
    let ranking = ranked(&settings, &table).expect("a table");
    let summary = preprocess(&settings, &Progress::silent()).expect("a data directory");
    assert!(fs::read(&table).expect("a table") == fs::read(settings.out.join("var.csv")).expect("a table"));
    assert_eq!((ranking.cells, ranking.genes), (summary.contents.cells, summary.contents.genes));
    assert_eq!((ranking.target, ranking.source_genes), (summary.target, summary.contents.source_genes));
    let names: Vec<_> = fs::read_dir(dir.path()).expect("a folder").flatten().collect();
    assert_eq!(names.len(), 4, "two files, the table and the data directory: {names:?}");
}

#[test]
fn cells_without_labels_count_and_the_marked_genes_are_those_that_preprocess_keeps() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let place = |name: &str| dir.path().join(name);
    // The first file's matrix again, under other names of its cells and without a single column of labels.
    let file = H5ad::open(&settings.inputs[0]).expect("a file");
    let (cells, genes) = file.shape();
    let rows = file.rows(0..cells).expect("its cells");
    let bare = Frame { index: (0..cells).map(|i| format!("c{i}")).collect(), columns: Vec::new() };
    let var = Frame { index: file.var().index.clone(), columns: Vec::new() };
    write(&place("bare.h5ad"), &bare, &var, X::Sparse(&rows), &[]).expect("written");

    let said = told(
        program().args(["genes", "--n-top-genes", "30", "--out"]).args([place("v.csv"), place("bare.h5ad")]),
    );
    assert_eq!(said.0, Some(0), "{}", said.1);
    let list = place("v.csv");
    for (genes, out) in
        [(["--genes", list.to_str().expect("text")], "listed"), (["--n-top-genes", "30"], "ranked")]
    {
        let (code, said) = shards(&[&settings.inputs[0]], &place(out), &genes);
        assert_eq!(code, Some(0), "{said}");
    }
    let kept = |out: &str| Data::open(&place(out)).expect("a data directory").manifest().genes.clone();
    assert_eq!(kept("listed"), kept("ranked"));
    assert_eq!((kept("listed").len(), genes), (30, 80));
}

#[test]
fn what_cannot_be_ranked_is_refused_and_no_table_is_written() {
    let dir = tempfile::tempdir().expect("a folder");
    let settings = two_files(dir.path());
    let table = dir.path().join("genes.csv");
    let refused = |change: &dyn Fn(&mut Settings), says: &str| {
        let mut settings = settings.clone();
        change(&mut settings);
        let error = ranked(&settings, &table).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
        assert!(!table.exists(), "{says}");
    };
    refused(&|s| s.filters.knockdown = Some(Knockdown { residual: 0.3, cell_residual: 0.5 }), "needs labels");
    refused(&|s| s.filters.min_cells_per_pert = 3, "needs labels");
    refused(&|s| s.genes = Genes::Listed("list.txt".into()), "nothing to rank");
    refused(&|s| s.filters.min_genes = 1000, "filters.min_genes: no cell is left");
    refused(&|s| s.filters.min_cells = 100_000, "no gene is expressed in that many cells");
    let over = ranked(&settings, &settings.inputs[0]).expect_err("an input").to_string();
    assert!(over.contains("which is an input"), "{over}");
}
