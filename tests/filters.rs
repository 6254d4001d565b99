//! Leaving out cells, genes and perturbations, as scanpy's and cell-load's filters do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use scale_engine::data::h5ad::{Cells, Column, Frame, Labels, X, write};
use scale_engine::data::preprocess::{Filters, Genes, Knockdown, Settings, preprocess};
use scale_engine::data::shard::Data;
use scale_engine::progress::{Event, Progress};

use crate::preprocess::{refusal, run, settings, small, words};
use crate::refused::told;
use crate::train::program;

/// How many cells of each perturbation are left.
fn cells_of(settings: &Settings) -> BTreeMap<String, u32> {
    let data = Data::open(&settings.out).expect("opened");
    let mut cells = BTreeMap::new();
    for group in data.groups() {
        let name = data.manifest().perturbations[group.perturbation as usize].clone();
        *cells.entry(name).or_default() += group.cells;
    }
    cells
}

fn counted(pairs: &[(&str, u32)]) -> BTreeMap<String, u32> {
    pairs.iter().map(|(name, cells)| (name.to_string(), *cells)).collect()
}

#[test]
fn cells_with_few_counts_or_genes_and_genes_in_few_cells_are_left_out() {
    // Totals 4, 302, 9, 0, 70003, 10; genes 2, 2, 3, 0, 3, 2.
    let (_dir, mut settings) = small(|_, _, _| ());
    settings.batch = Some("plate".into());
    settings.hvg_batch = Some("plate".into());
    settings.filters = Filters { min_counts: 10, min_genes: 2, ..Filters::default() };
    let summary = run(&settings).expect("made");
    let filtered = summary.filtered.expect("filters");
    assert_eq!((filtered.few_counts, filtered.few_genes, filtered.rare_genes), (3, 0, 0));
    assert_eq!(cells_of(&settings), counted(&[("a", 1), ("b", 1), ("none", 1)]));
    let manifest = Data::open(&settings.out).expect("opened").manifest().clone();
    assert_eq!((manifest.cell_types, manifest.batches), (vec!["T".to_string()], vec!["10".to_string()]));

    settings.out.set_file_name("genes");
    settings.filters = Filters { min_genes: 3, min_counts: 10, ..Filters::default() };
    assert!(refusal(&settings).contains("filters.min_counts, filters.min_genes: no \"none\" cell is left"));
    settings.filters = Filters { min_genes: 1, min_cells: 3, ..Filters::default() };
    let summary = run(&settings).expect("made");
    let filtered = summary.filtered.expect("filters");
    // CD3E is in 3 cells, ACTB in 4, MYC in 3, TP53 in 2 and GATA1 in none.
    assert_eq!((filtered.few_genes, filtered.rare_genes, summary.contents.source_genes), (1, 2, 3));
    let data = Data::open(&settings.out).expect("opened");
    assert_eq!(data.manifest().genes, ["CD3E", "ACTB", "MYC"]);
    let group = *data.groups().iter().find(|group| group.perturbation == 1).expect("b");
    assert_eq!(data.row(group.first).library, 70_002.0, "a gene that is left out is no part of the total");
}

#[test]
fn counts_are_not_counted_among_logs_and_something_must_be_left() {
    let (_dir, mut settings) = small(|_, _, x| {
        for row in x.iter_mut() {
            let total: f32 = row.iter().sum();
            row.iter_mut().for_each(|value| *value = (*value / total.max(1.0) * 1e4).ln_1p());
        }
    });
    settings.filters.min_counts = 3;
    assert!(refusal(&settings).contains("filters.min_counts: the values are logs"));
    settings.filters = Filters { min_cells: 7, ..Filters::default() };
    assert!(refusal(&settings).contains("filters.min_cells: no gene is expressed in that many cells"));
    settings.filters = Filters { min_cells_per_pert: 3, ..Filters::default() };
    assert!(refusal(&settings).contains("filters.min_cells_per_pert: no perturbed cell is left"));
    settings.filters.min_cells_per_pert = 2;
    let summary = run(&settings).expect("made");
    let filtered = summary.filtered.expect("filters");
    assert_eq!((filtered.small_groups, filtered.small_group_cells), (1, 1));
    assert_eq!(cells_of(&settings), counted(&[("a", 2), ("none", 3)]));
}

/// Ten control cells with 8 counts each of CD3E and MYC, none of TP53; of each perturbation, cells with these counts of its gene.
fn screen(perturbations: &[(&str, &[f32])], index: [&str; 3], names: &str) -> (tempfile::TempDir, Settings) {
    let genes = ["CD3E", "MYC", "TP53"];
    let (mut drugs, mut rows) = (vec!["none"; 10], vec![[8.0, 8.0, 0.0]; 10]);
    for (name, own) in perturbations {
        for &count in *own {
            drugs.push(name);
            rows.push([0, 1, 2].map(|gene| if genes[gene] == *name { count } else { 5.0 }));
        }
    }
    let starts = (0..=rows.len()).map(|row| row * 3).collect();
    let columns = (0..rows.len()).flat_map(|_| 0..3u32).collect();
    let x = Cells::new((rows.len(), 3), starts, columns, rows.concat());
    let obs = Frame {
        index: (0..drugs.len()).map(|i| format!("cell{i}")).collect(),
        columns: vec![
            ("drug".to_string(), Column::Categorical(Labels::of(&drugs))),
            ("line".to_string(), Column::Categorical(Labels::of(&vec!["T"; drugs.len()]))),
        ],
    };
    let symbols = (names.to_string(), Column::Text(genes.map(String::from).to_vec()));
    let var = Frame { index: index.map(String::from).to_vec(), columns: vec![symbols] };
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("in.h5ad");
    write(&path, &obs, &var, X::Sparse(&x), &[]).expect("written");
    let mut settings = settings(&path, &dir.path().join("data"));
    settings.filters = Filters { knockdown: Some(Knockdown::default()), ..Filters::default() };
    (dir, settings)
}

#[test]
fn perturbations_that_do_not_lower_their_gene_are_left_out_and_then_such_cells() {
    // The mean of CD3E is 2.25 of 8, below 0.3; one of its cells has half of 8, which is not below 0.5. MYC's is 2.4, not
    // below 0.3; control cells do not express TP53; "drug" is not a gene.
    let groups: [(&str, &[f32]); 4] = [
        ("CD3E", &[1.0, 1.0, 3.0, 4.0]),
        ("MYC", &[2.0, 2.0, 2.0, 2.0, 4.0]),
        ("TP53", &[0.0, 0.0]),
        ("drug", &[0.0, 0.0, 0.0]),
    ];
    for (index, column) in [
        (["CD3E", "MYC", "TP53"], "other"),
        (["E1", "E2", "E3"], "gene_name"),
        (["E1", "E2", "E3"], "gene_symbols"),
    ] {
        let (_dir, settings) = screen(&groups, index, column);
        let found = run(&settings).expect("made").filtered.and_then(|f| f.knockdown).expect("a knock-down");
        assert_eq!(found.names, if index[0] == "E1" { column } else { "index" });
        assert_eq!((found.kept, found.not_lowered, found.not_expressed, found.no_gene), (1, 1, 1, 1));
        assert_eq!((found.cells_of_others, found.cells_not_lowered), (10, 1));
        assert_eq!(cells_of(&settings), counted(&[("CD3E", 3), ("none", 10)]));
    }
    let (_dir, mut settings) = screen(&groups, ["CD3E", "MYC", "TP53"], "other");
    settings.filters.min_cells_per_pert = 4;
    assert!(
        refusal(&settings)
            .contains("filters.knockdown, filters.min_cells_per_pert: no perturbed cell is left")
    );
    settings.filters.knockdown = Some(Knockdown { residual: 0.31, cell_residual: 0.51 });
    let filtered = run(&settings).expect("made").filtered.expect("filters");
    assert_eq!((filtered.small_groups, filtered.small_group_cells), (0, 0));
    assert_eq!(cells_of(&settings), counted(&[("CD3E", 4), ("MYC", 5), ("none", 10)]));
    let (_dir, settings) = screen(&[("drug", &[0.0])], ["CD3E", "MYC", "TP53"], "other");
    assert!(refusal(&settings).contains("no perturbation has the name of a gene"));
    let (_dir, mut settings) = screen(&groups, ["CD3E", "MYC", "TP53"], "other");
    settings.filters.knockdown = Some(Knockdown { residual: 0.0, cell_residual: 0.5 });
    assert!(refusal(&settings).contains("numbers above 0: shares of"));
}

#[test]
fn several_labels_of_controls_become_the_first_before_anything_is_judged() {
    // With the three cells of "drug" the controls' mean of CD3E is 7.3, and 2.25 is no longer below 0.3 of it.
    let groups: [(&str, &[f32]); 3] =
        [("CD3E", &[1.0, 1.0, 3.0, 4.0]), ("MYC", &[1.0, 1.0]), ("drug", &[5.0; 3])];
    let (dir, mut settings) = screen(&groups, ["CD3E", "MYC", "TP53"], "other");
    settings.other_controls = vec!["drug".into()];
    let found = run(&settings).expect("made").filtered.and_then(|f| f.knockdown).expect("a knock-down");
    assert_eq!((found.kept, found.not_lowered, found.no_gene), (1, 1, 0));
    assert_eq!(cells_of(&settings), counted(&[("MYC", 2), ("none", 13)]));

    let input = settings.inputs[0].clone();
    settings.out = dir.path().join("asked");
    let options = "--pert-col drug --celltype-col line --control-pert drug --control-pert none";
    let (code, said) =
        told(program().arg("preprocess").arg(input).args(options.split(' ')).arg("--out").arg(&settings.out));
    assert!(code == Some(0), "{said}");
    assert_eq!(cells_of(&settings), counted(&[("CD3E", 4), ("MYC", 2), ("drug", 13)]));
    assert_eq!(Data::open(&settings.out).expect("opened").manifest().control, "drug");

    settings.out = dir.path().join("other");
    for (control, other) in [("none", "nome"), ("nome", "none")] {
        (settings.control, settings.other_controls) = (control.into(), vec![other.into()]);
        let what = refusal(&settings);
        assert!(what.contains("control: unknown label \"nome\"; did you mean \"none\"?"), "{what}");
    }
}

#[test]
fn few_control_cells_are_no_small_group() {
    let (_dir, mut settings) =
        small(|obs, _, _| obs.columns[0].1 = words(&["none", "a", "a", "a", "a", "none"]));
    settings.filters.min_cells_per_pert = 4;
    let filtered = run(&settings).expect("made").filtered.expect("filters");
    assert_eq!((filtered.small_groups, filtered.small_group_cells), (0, 0));
    assert_eq!(cells_of(&settings), counted(&[("a", 4), ("none", 2)]));
}

#[test]
fn a_perturbation_whose_gene_is_left_out_has_no_gene() {
    let groups: [(&str, &[f32]); 2] = [("CD3E", &[1.0, 1.0, 2.0, 1.0]), ("TP53", &[0.0, 0.0])];
    let (_dir, mut settings) = screen(&groups, ["CD3E", "MYC", "TP53"], "other");
    settings.filters.min_cells = 5;
    let filtered = run(&settings).expect("made").filtered.expect("filters");
    let found = filtered.knockdown.expect("a knock-down");
    assert_eq!((filtered.rare_genes, found.kept, found.no_gene, found.not_expressed), (1, 1, 1, 0));
}

#[test]
fn the_knock_down_filter_leaves_out_small_groups_unless_told_otherwise() {
    let (dir, settings) = screen(&[("CD3E", &[1.0, 1.0, 2.0])], ["CD3E", "MYC", "TP53"], "other");
    let asked = |more: &[&str]| {
        let options = "--pert-col drug --celltype-col line --control-pert none --knockdown-filter";
        let mut command = program();
        command.arg("preprocess").arg(&settings.inputs[0]).args(options.split(' ')).args(more);
        told(command.arg("--out").arg(dir.path().join("asked")))
    };
    let (code, said) = asked(&[]);
    assert!(
        code == Some(2) && said.contains("--min-cells-per-pert: no perturbed cell is left"),
        "{code:?} {said}"
    );
    assert_eq!(asked(&["--min-cells-per-pert", "3"]).0, Some(0));
}

#[test]
fn a_list_of_genes_is_read_before_the_passes_and_again_for_what_they_leave() {
    let (dir, mut settings) = small(|_, _, _| ());
    settings.filters.min_cells = 3;
    let list = dir.path().join("genes.txt");
    settings.genes = Genes::Listed(list.clone());
    // The second gene is in no cell, and the filter leaves it out.
    for (name, told, passes) in [("CD3F", "did you mean \"CD3E\"", 0), ("GATA1", "unknown gene \"GATA1\"", 1)]
    {
        std::fs::write(&list, name).expect("written");
        let done = Arc::new(AtomicU64::new(0));
        let seen = done.clone();
        let progress = Progress::new(move |event, _| {
            if let Event::Done(cells) = event {
                seen.fetch_max(cells, Ordering::Relaxed);
            }
        });
        let error = preprocess(&settings, &progress).expect_err("refused").to_string();
        assert!(error.contains(told), "{error}");
        assert_eq!(done.load(Ordering::Relaxed), passes * 6, "cells read for {name}");
    }
}
