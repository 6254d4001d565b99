//! A user's control cells are read as the files were that a run learned from: the same matrix, genes by the same ids, the same labels
//! for controls, cell types by file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use scale_engine::config::Config;
use scale_engine::data::h5ad::{Column, Extra, Frame, H5ad, X, write};
use scale_engine::data::population::log1p;
use scale_engine::data::preprocess::{self, Genes};
use scale_engine::data::shard::Data;
use scale_engine::error::Result;
use scale_engine::predict::{self, ControlFile, Report, Source, predict};
use scale_engine::progress::Progress;
use scale_engine::rng::Rng;
use scale_engine::train::{Begin, Settings, train};

use crate::predict::ask_for;
use crate::train::{set, small};

const CELLS: usize = 60;
const GENES: usize = 12;

/// Counts in a layer beside an X that is no counts; two genes of one name, told apart by ids; two labels of controls. `backwards`: the
/// genes in reverse.
fn source(path: &Path, seed: u64, backwards: bool) {
    let label = |cell: usize| ["safe", "a", "non-targeting", "b"][cell % 4].to_string();
    let order: Vec<usize> = if backwards { (0..GENES).rev().collect() } else { (0..GENES).collect() };
    let count = |cell: usize, gene: usize| {
        (Rng::new(seed).at(cell as u64).uniform(gene as u64) * (gene + 2) as f32).floor()
    };
    let counts: Vec<f32> =
        (0..CELLS).flat_map(|cell| order.iter().map(move |&gene| count(cell, gene))).collect();
    let smooth: Vec<f32> = counts.iter().map(|count| 0.7 * count - 0.3).collect();
    let name = |gene: usize| if gene == 7 { "G3".to_string() } else { format!("G{gene}") };
    let obs = Frame {
        index: (0..CELLS).map(|cell| format!("cell{cell}")).collect(),
        columns: vec![("guide".into(), Column::Text((0..CELLS).map(label).collect()))],
    };
    let var = Frame {
        index: order.iter().map(|&gene| name(gene)).collect(),
        columns: vec![(
            "ids".into(),
            Column::Text(order.iter().map(|gene| format!("ENSG{gene:02}")).collect()),
        )],
    };
    let layer = Extra::Numbers { shape: vec![CELLS, GENES], values: &counts };
    let x = X::Dense { shape: (CELLS, GENES), numbers: &smooth };
    write(path, &obs, &var, x, &[("layers/counts".into(), layer)]).expect("written");
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    /// Two such files, a data directory of them and a run.
    fn new() -> World {
        let world = World { dir: tempfile::tempdir().expect("a temporary folder") };
        let at = |name: &str| world.at(name);
        source(&at("A.h5ad"), 1, false);
        source(&at("B.h5ad"), 2, false);
        let settings = preprocess::Settings {
            inputs: vec![at("A.h5ad"), at("B.h5ad")],
            out: at("data"),
            perturbation: "guide".into(),
            control: "non-targeting".into(),
            other_controls: vec!["safe".into()],
            gene_id: Some("ids".into()),
            source: "layers/counts".into(),
            genes: Genes::Top(GENES),
            ..preprocess::Settings::default()
        };
        preprocess::preprocess(&settings, &Progress::silent()).expect("shards");
        std::fs::write(at("split.toml"), "[datasets]\nA = \"data\"\n[training]\nA = \"train\"\n")
            .expect("written");
        let mut set = set();
        set.extend(["train.steps=2", "train.val_every=0", "flow.start=control"].map(String::from));
        let begin = Begin::drawn(Config::load(Some("tiny"), None, &set).expect("a good config"));
        train(&Settings::new(&at("data"), &at("split.toml"), &at("run"), begin), &Progress::silent())
            .expect("a run");
        world
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the run predicts from control cells of type A, with these cells beside it.
    fn ask(&self, controls: ControlFile) -> Result<(H5ad, Report)> {
        let [request, out] = ["request.csv", "out.h5ad"].map(|name| self.at(name));
        std::fs::write(&request, "perturbation,cell_type,batch,cells\na,A,all,5\n").expect("written");
        let settings = predict::Settings {
            with_controls: true,
            ..predict::Settings::new(&self.at("run"), Source::File { controls, request }, &out)
        };
        let report = predict(&settings, &Progress::silent())?;
        Ok((H5ad::open(&out)?, report))
    }
}

fn sorted(row: impl Iterator<Item = (usize, f32)>) -> Vec<(usize, u32)> {
    let mut row: Vec<(usize, u32)> = row.map(|(gene, x)| (gene, x.to_bits())).collect();
    row.sort_unstable();
    row
}

#[test]
fn control_cells_are_read_as_the_data_were() {
    let world = World::new();
    let data = Data::open(&world.at("data")).expect("readable");
    let manifest = data.manifest();
    assert_eq!(manifest.genes[7], "ENSG07", "another gene has its name");
    // The first of two genes of one name is now the other one.
    std::fs::create_dir(world.at("other")).expect("made");
    let other = world.at("other/A.h5ad");
    source(&other, 1, true);
    let of_name: HashMap<&str, u64> = (0..data.cells()).map(|cell| (data.name(cell), cell)).collect();
    for controls in [world.at("A.h5ad"), other] {
        let (made, report) = world.ask(ControlFile::new(&controls)).expect("predicted");
        assert!(report.missing_genes.is_empty() && report.ignored_genes == 0, "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("read from layers/counts")), "{report:?}");
        assert_eq!(report.control_cells, CELLS / 2, "both labels");
        let x = made.rows(0..made.shape().0).expect("X");
        for cell in report.cells..made.shape().0 {
            let row = data.row(of_name[format!("{}-0", made.cell_name(cell)).as_str()]);
            let wanted = row.genes.iter().map(|&gene| usize::from(gene)).zip(log1p(&data, &row));
            let found = x.outer_view(cell).expect("a row");
            assert_eq!(sorted(found.iter().map(|(gene, x)| (gene, *x))), sorted(wanted), "cell {cell}");
        }
    }

    // What cannot be read alike says how it can be.
    let refused = |controls: ControlFile| world.ask(controls).expect_err("not readable alike").to_string();
    std::fs::copy(world.at("A.h5ad"), world.at("mine.h5ad")).expect("copied");
    let said = refused(ControlFile::new(world.at("mine.h5ad")));
    assert!(said.contains("rename the file to one of \"A\", \"B\"") && said.contains("cell_type"), "{said}");
    let said = refused(ControlFile { source: Some("X".into()), ..ControlFile::new(world.at("A.h5ad")) });
    assert!(said.contains("contains -0.3") && said.contains("with `source`, such as raw"), "{said}");
    let said = refused(ControlFile::new(&small().cells));
    assert!(
        said.contains("the run's data were read from layers/counts") && said.contains("source"),
        "{said}"
    );
}

#[test]
fn labels_of_control_cells_may_come_from_a_table() {
    let world = World::new();
    let file = H5ad::open(&world.at("A.h5ad")).expect("readable");
    let guides = file.obs().labels(file.path(), "guide").expect("labels");
    std::fs::create_dir(world.at("bare")).expect("made");
    let (bare, table) = (world.at("bare/A.h5ad"), world.at("guides.csv"));
    let mut obs = file.obs().clone();
    obs.columns.clear();
    let x = file.rows(0..CELLS).expect("X");
    let counts =
        H5ad::open_source(file.path(), "layers/counts").and_then(|file| file.rows(0..CELLS)).expect("counts");
    let dense: Vec<f32> = counts.to_dense().iter().copied().collect();
    let layer = Extra::Numbers { shape: vec![CELLS, GENES], values: &dense };
    write(&bare, &obs, file.var(), X::Sparse(&x), &[("layers/counts".into(), layer)]).expect("written");

    let all = world.ask(ControlFile::new(&bare)).expect("predicted").1;
    assert_eq!(all.control_cells, CELLS, "nothing tells that some are not controls");
    let rows = |range: std::ops::Range<usize>, total: f32| {
        let row = |cell: usize| format!("cell{cell},{},{total}\n", guides.get(cell).expect("a label"));
        format!("barcode,guide,total\n{}", range.rev().map(row).collect::<String>())
    };
    let labelled = || ControlFile { labels: Some(table.clone()), ..ControlFile::new(&bare) };
    let numbers = |made: &H5ad| made.rows(0..made.shape().0).expect("X");
    let wanted = numbers(&world.ask(ControlFile::new(file.path())).expect("predicted").0);
    std::fs::write(&table, rows(0..CELLS, 1.0)).expect("written");
    let (made, report) = world.ask(labelled()).expect("predicted");
    assert_eq!((report.control_cells, numbers(&made)), (CELLS / 2, wanted));
    // The first cell, a control, has no row; totals come from the table too.
    std::fs::write(&table, rows(1..CELLS, 0.5)).expect("written");
    let (_, report) = world.ask(labelled()).expect("predicted");
    assert_eq!(report.control_cells, CELLS / 2 - 1);
    assert!(report.notes.iter().any(|note| note.contains("1 cell of") && note.contains("without a row")));
    let sized = ControlFile { size: Some("total".into()), ..labelled() };
    let said = world.ask(sized).expect_err("less than is counted").to_string();
    assert!(said.contains("total of 0.5"), "{said}");
    let over = ControlFile { labels: Some(world.at("out.h5ad")), ..labelled() };
    let said = world.ask(over).expect_err("it would replace its table").to_string();
    assert!(said.contains("which is an input"), "{said}");
}

/// Log values of a few of the genes, so that no total shows, of counts that were scaled to `total`.
fn logs_of_some_genes(path: &Path, total: f32) {
    let file = H5ad::open(&small().cells).expect("readable");
    let x = file.rows(0..file.shape().0).expect("X");
    let genes = file.shape().1;
    let kept = genes - genes / 8;
    let mut dense = vec![0.0; x.rows() * kept];
    for (row, cell) in x.outer_iterator().zip(dense.chunks_mut(kept)) {
        let sum: f32 = row.data().iter().sum();
        row.iter()
            .filter(|(gene, _)| *gene < kept)
            .for_each(|(gene, x)| cell[gene] = (x / sum * total).ln_1p());
    }
    let var = Frame { index: file.var().index[..kept].to_vec(), columns: Vec::new() };
    let mark =
        [("uns/log1p/base".to_string(), Extra::Numbers { shape: vec![1], values: &[std::f32::consts::E] })];
    write(path, file.obs(), &var, X::Dense { shape: (x.rows(), kept), numbers: &dense }, &mark)
        .expect("written");
}

#[test]
fn log_values_of_another_total_are_refused_where_it_shows_and_warned_of_where_it_may() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("logs.h5ad");
    let perturbation = crate::train::names().1[0].clone();
    let request = format!("{perturbation},{},batch-1,4\n", crate::train::names().0[0]);
    let asked = |total: f32| {
        logs_of_some_genes(&path, total);
        ask_for(&path, &request, "perturbation").map(|(_, _, report)| report)
    };
    let same = asked(1e4).expect("the run's own total");
    assert!(same.warnings.is_empty(), "{same:?}");
    let more = asked(1e6).expect_err("another total").to_string();
    assert!(more.contains("more than the 10000 to which the run's cells are scaled"), "{more}");
    let less = asked(5e2).expect("nothing shows");
    assert!(less.warnings.iter().any(|what| what.contains("scaled to 10000 counts")), "{less:?}");
}
