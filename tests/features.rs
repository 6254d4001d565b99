//! Perturbations that are known by their features: trained on some, asked for others.

mod begun;
mod beside;
mod refused;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::write::GzEncoder;
use scale_engine::baseline::{self, Kind};
use scale_engine::checkpoint::Trained;
use scale_engine::config::{Config, Observe};
use scale_engine::data::controls::control_pool;
use scale_engine::data::features::{FeatureTable, Features};
use scale_engine::data::h5ad::{self, Column, Frame, X};
use scale_engine::data::preprocess::{self, Genes};
use scale_engine::data::shard::Data;
use scale_engine::data::simulate::CONTROL;
use scale_engine::data::split::{Part, Split};
use scale_engine::error::Result;
use scale_engine::evaluate::pearson;
use scale_engine::model::condition::three;
use scale_engine::predict::{self, ControlFile, Report, Source, predict};
use scale_engine::predictor::{ControlCells, Request};
use scale_engine::progress::{Event, Progress};
use scale_engine::rng::Rng;
use scale_engine::tensor::Tensor;
use scale_engine::train::{Begin, Place, Settings, train};

use crate::refused::told;
use crate::small_data::header;
use crate::train::{bytes, last, program, set};

/// Cells of which every fourth gene answers to one of four features, and three combinations of features held out.
struct Described {
    dir: tempfile::TempDir,
}

const FEATURES: usize = 4;
const GENES: usize = 60;
const TYPES: [&str; 2] = ["A", "B"];
/// Never trained on; two features each.
const HELD: [u32; 3] = [0b0011, 0b0110, 0b1001];

/// The perturbation that has these features.
fn name(features: u32) -> String {
    if features == 0 { CONTROL.into() } else { format!("PERT{features:04b}") }
}

fn row(features: u32) -> Vec<f32> {
    (0..FEATURES).map(|k| (features >> k & 1) as f32).collect()
}

/// 60 cells of each type and combination, 240 controls.
fn write_cells(path: &Path) {
    let (mut names, mut labels, mut counts) = (Vec::new(), [Vec::new(), Vec::new()], Vec::new());
    for (t, cell_type) in TYPES.iter().enumerate() {
        for features in 0..1 << FEATURES {
            for i in 0..if features == 0 { 240 } else { 60 } {
                let rng = Rng::new(7).at(t as u64).at(features.into()).at(i);
                counts.extend((0..GENES as u64).map(|gene| {
                    let base = 2.0 + 8.0 * Rng::new(1).at(t as u64).uniform(gene);
                    let answers = features >> (gene % FEATURES as u64) & 1 == 1;
                    let factor = [1.0, if gene % 3 == 0 { 0.3 } else { 2.5 }][usize::from(answers)];
                    (base * factor + 3.0 * (rng.uniform(gene) - 0.5)).round().max(0.0)
                }));
                names.push(format!("cell{}", names.len()));
                labels[0].push(name(features));
                labels[1].push(cell_type.to_string());
            }
        }
    }
    let [perturbations, types] = labels.map(Column::Text);
    let columns = vec![("perturbation".into(), perturbations), ("cell_type".into(), types)];
    let (shape, genes) = ((names.len(), GENES), (0..GENES).map(|gene| format!("G{gene}")).collect());
    let obs = Frame { index: names, columns };
    let var = Frame { index: genes, columns: Vec::new() };
    h5ad::write(path, &obs, &var, X::Dense { shape, numbers: &counts }, &[]).expect("written");
}

impl Described {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn table(&self, name: &str, rows: &[(String, Vec<f32>)]) -> PathBuf {
        let mut text = "gene".to_string();
        (0..rows[0].1.len()).for_each(|k| write!(text, ",x{k}").expect("a string"));
        for (name, row) in rows {
            write!(text, "\n{name}").expect("a string");
            row.iter().for_each(|x| write!(text, ",{x}").expect("a string"));
        }
        std::fs::write(self.at(name), text + "\n").expect("written");
        self.at(name)
    }

    fn settings(&self, run: &Path, steps: u64) -> Settings {
        let mut set = set();
        set.extend(["flow.start=control", "train.val_every=0", "data.sets=4"].map(String::from));
        set.push(format!("train.steps={steps}"));
        let config = Box::new(Config::load(Some("tiny"), None, &set).expect("a good config"));
        let begin = Begin::Anew { config, init_from: None, features: Some(self.at("features.csv")) };
        Settings::new(&self.at("data"), &self.at("split.toml"), run, begin)
    }

    fn trained(&self, run: &Path, steps: u64) {
        train(&self.settings(run, steps), &Progress::silent()).expect("a run");
    }
}

fn rows() -> Vec<(String, Vec<f32>)> {
    (1..1 << FEATURES).map(|features| (name(features), row(features))).collect()
}

fn described() -> &'static Described {
    static WORLD: OnceLock<Described> = OnceLock::new();
    WORLD.get_or_init(|| {
        let made = Described { dir: tempfile::tempdir().expect("a temporary folder") };
        write_cells(&made.at("cells.h5ad"));
        let settings = preprocess::Settings {
            genes: Genes::Top(GENES),
            batch: None,
            ..preprocess::Settings::of_simulated(&made.at("cells.h5ad"), &made.at("data"))
        };
        preprocess::preprocess(&settings, &Progress::silent()).expect("shards");
        let mut text = "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n".to_string();
        for cell_type in TYPES {
            writeln!(text, "[fewshot.\"cells.{cell_type}\"]\ntest = {:?}", HELD.map(name)).expect("a string");
        }
        std::fs::write(made.at("split.toml"), text).expect("written");
        made.table("features.csv", &rows());
        made.trained(&made.at("run"), 300);
        made
    })
}

/// The control cells of a group, and the mean change of its cells from them.
fn changed(data: &Data, group: u32) -> (ControlCells, Vec<f64>) {
    let of = |cells: Vec<u64>| ControlCells::of(data, &cells);
    let controls = of(control_pool(data, group).expect("controls").iter().collect());
    let (before, after) = (controls.mean(), of(data.groups()[group as usize].range().collect()).mean());
    (controls, before.iter().zip(after).map(|(before, after)| after - before).collect())
}

#[test]
fn what_training_never_saw_is_predicted_by_its_features() {
    let world = described();
    let trained = Trained::load(&world.at("run")).expect("a run");
    let untrained = &trained.header.untrained;
    assert_eq!(*untrained, HELD.map(name));
    assert!(!trained.knows_only_name(&untrained[0]), "its features describe it");
    let data = Data::open(&world.at("data")).expect("data");
    let split = Split::load(&world.at("split.toml"), &data).expect("a split");
    let predictor = trained.predictor(0);
    let mut scores = Vec::new();
    for number in split.perturbed(Part::Test, &data) {
        let group = data.groups()[number as usize];
        let (controls, mut measured) = changed(&data, number);
        let mut told: Vec<f64> = controls.mean().iter().map(|resting| -resting).collect();
        let request = Request { conditions: group.ids(), cells: 128 };
        let context = predictor.context(&controls).expect("controls");
        let answered = context.predict(request, None, |row, _| {
            told.iter_mut()
                .zip(row)
                .for_each(|(sum, x)| *sum += f64::from(x / data.manifest().factor) / 128.0);
            Ok(())
        });
        answered.expect("an answer");
        // What all perturbations have in common is no prediction.
        let mut others = split.perturbed(Part::Train, &data);
        others.retain(|&other| data.groups()[other as usize].cell_type == group.cell_type);
        for other in &others {
            for (gene, x) in changed(&data, *other).1.iter().enumerate() {
                let x = x / others.len() as f64;
                (told[gene], measured[gene]) = (told[gene] - x, measured[gene] - x);
            }
        }
        scores.push(pearson(&told, &measured));
    }
    assert!(scores.len() == 6 && scores.iter().all(|&score| score > 0.3), "{scores:?}");
}

#[test]
fn a_new_name_with_known_features_is_what_has_them() {
    let world = described();
    let twin = [("A-NEW-ONE".to_string(), row(HELD[0])), ("ZZZ".to_string(), row(HELD[1]))];
    let table = FeatureTable::read(&world.table("new.csv", &twin)).expect("a table");
    let trained = Trained::load(&world.at("run")).and_then(|run| run.knowing(&table)).expect("a run");
    let ids = |name: &str| {
        let request = trained.request(TYPES[0], name, "all", 1);
        request.expect("a name").conditions
    };
    let (known, new) = (ids(&name(HELD[0])), ids("A-NEW-ONE"));
    assert_eq!(new[1] as usize, trained.header.data.perturbations.len());
    let cells = Tensor::new(&[1, 16, GENES], (0..16 * GENES).map(|i| (i % 7) as f32 / 40.0).collect());
    let [known, new, other] = [known, new, ids("ZZZ")]
        .map(|ids| trained.model.generate(&trained.params, &cells, None, &three(&[ids]), 1, &[Rng::new(1)]));
    assert!(known.data() == new.data() && known.data() != other.data());

    // The same by the command, and the names in its file.
    let request = world.at("request.csv");
    let asked = format!("perturbation,cell_type,batch,cells\nA-NEW-ONE,{},all,20\n", TYPES[0]);
    std::fs::write(&request, asked).expect("written");
    let ask = |runs: &[&str], features: Option<PathBuf>| -> Result<Report> {
        let runs = runs.iter().map(|run| world.at(run)).collect();
        let source =
            Source::File { controls: ControlFile::new(world.at("cells.h5ad")), request: request.clone() };
        let settings = predict::Settings::new(&world.at("run"), source, &world.at("new.h5ad"));
        predict(&predict::Settings { runs, features, ..settings }, &Progress::silent())
    };
    let error = ask(&["run"], None).expect_err("it is not known").to_string();
    assert!(
        error.contains("line 2: unknown perturbation") && error.contains("the table of `features`"),
        "{error}"
    );
    // Two runs know the new names alike; what holds of both is said once.
    world.trained(&world.at("short"), 30);
    for runs in [&["run"][..], &["short", "run"]] {
        let Report { cells, notes, .. } = ask(runs, Some(world.at("new.csv"))).expect("predicted");
        let told = notes.iter().filter(|note| note.starts_with("predicted from features alone"));
        assert!(cells == 20 && told.filter(|note| note.ends_with("\"A-NEW-ONE\"")).count() == 1, "{notes:?}");
    }
    let file = h5ad::H5ad::open(&world.at("new.h5ad")).expect("readable");
    assert_eq!(file.labels("perturbation").expect("a column").names, ["A-NEW-ONE"]);
}

#[test]
fn a_run_by_features_goes_on_to_the_same_bits() {
    let world = described();
    let (whole, halves) = (world.at("whole"), world.at("halves"));
    world.trained(&whole, 20);
    let stopped = Progress::new(|event, progress| {
        if let Event::Done(10) = event {
            progress.stop();
        }
    });
    let settings = world.settings(&halves, 20);
    assert_eq!(train(&settings, &stopped).expect("a run").step, 10);
    let settings = Settings { begin: Begin::RESUME, ..settings };
    assert_eq!(train(&settings, &Progress::silent()).expect("it goes on").step, 20);
    assert!(bytes(&last(&whole)) == bytes(&last(&halves)));
}

#[test]
fn a_table_is_the_same_as_text_packed_or_as_h5ad() {
    let world = described();
    let manifest = Data::open(&world.at("data")).expect("data").manifest().clone();
    let text = std::fs::read_to_string(world.at("features.csv")).expect("readable");
    let windows = format!("\u{feff}{}", text.replace(',', " , ").replace('\n', "\r\n")).replace(" ,", ",");
    std::fs::write(world.at("windows.csv"), windows).expect("written");
    let mut packed = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, text.replace(',', "\t").as_bytes()).expect("packed");
    std::fs::write(world.at("packed.tsv.gz"), packed.finish().expect("packed")).expect("written");
    let (names, numbers): (Vec<String>, Vec<Vec<f32>>) = rows().into_iter().unzip();
    let frame = |index: Vec<String>| Frame { index, columns: Vec::new() };
    let columns = (0..FEATURES).map(|k| format!("x{k}")).collect();
    let x = X::Dense { shape: (names.len(), FEATURES), numbers: &numbers.concat() };
    h5ad::write(&world.at("table.h5ad"), &frame(names), &frame(columns), x, &[]).expect("written");
    let ids = ["features.csv", "windows.csv", "packed.tsv.gz", "table.h5ad"].map(|name| {
        let table = FeatureTable::read(&world.at(name)).expect("a table");
        table.id(&manifest).expect("all perturbations")
    });
    assert!(ids.iter().all(|id| (&id.columns, id.crc) == (&ids[0].columns, ids[0].crc)), "{ids:?}");
}

#[test]
fn features_as_large_as_numbers_go_are_standardised_too() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("large.csv");
    std::fs::write(&path, "gene,a,b\np001,3e38,1e-40\np002,-3e38,3e-40\n").expect("written");
    let data = header(4, 1, 2, 1);
    let table = FeatureTable::read(&path).expect("a table");
    let (width, inputs) = Features::of(&table, &data, &[]).expect("features").inputs(&data);
    assert_eq!(width, 8);
    for (made, expected) in [8, 9, 16, 17].map(|at| inputs[at]).into_iter().zip([1.0, -1.0, -1.0, 1.0]) {
        assert!((made - expected as f32).abs() < 1e-3, "{inputs:?}");
    }
}

#[test]
fn a_device_sees_the_features_that_the_cpu_sees() {
    let Some(folder) = crate::kernels::emulated() else { return };
    let world = described();
    for real in [scale_engine::gpu::Real::F32, scale_engine::gpu::Real::Bf16] {
        let gpu = crate::emulate::device(folder, real, 1);
        let losses = [None, Some(gpu.clone())].map(|place| {
            let run = world.at(&format!("{real:?} {}", place.is_some()));
            let mut settings = world.settings(&run, 3);
            settings.place = Place::Here(vec![place]);
            if let Begin::Anew { config, .. } = &mut settings.begin {
                (config.data.sets, config.data.cells, config.train.log_every) = (2, 9, 1);
            }
            train(&settings, &Progress::silent()).expect("a run");
            let log = crate::train::log(&run);
            log.iter().filter_map(|line| line["loss"].as_f64()).collect::<Vec<_>>()
        });
        let allowed = if real == scale_engine::gpu::Real::F32 { 1e-4 } else { 2e-2 };
        for (told, found) in losses[0].iter().zip(&losses[1]) {
            assert!(
                (found - told).abs() < allowed * told,
                "{real:?}: {found} on the device, {told} on the CPU"
            );
        }
        assert_eq!((losses[0].len(), gpu.overrun()), (3, None));
    }
}

#[test]
fn the_linear_baseline_takes_features_for_the_factors_of_perturbations() {
    let world = described();
    let data = Data::open(&world.at("data")).expect("data");
    let split = Split::load(&world.at("split.toml"), &data).expect("a split");
    let table = FeatureTable::read(&world.at("features.csv")).expect("a table");
    let features = Features::of(&table, data.manifest(), &split.untrained(&data)).expect("features");
    let settings =
        baseline::Settings { kind: Kind::Linear, observe: Observe::None, with_controls: false, seed: 0 };
    let asked = split.part(Part::Test);
    let blind = baseline::Baselines::on(&data, split.part(Part::Train)).expect("trained");
    assert_eq!(blind.predict(asked, &settings).expect("an answer").fallbacks.len(), HELD.len());
    let answer = blind.with_features(&features).predict(asked, &settings).expect("an answer");
    assert_eq!(answer.fallbacks, [""; 0]);
    let mut at = 0;
    for number in split.perturbed(Part::Test, &data) {
        let cells = data.groups()[number as usize].cells as usize;
        let (controls, measured) = changed(&data, number);
        let mut told: Vec<f64> = controls.mean().iter().map(|resting| -resting).collect();
        for row in (at..at + cells).map(|cell| answer.population.cells().outer_view(cell).expect("a cell")) {
            let weight = 1.0 / (cells as f64 * f64::from(data.manifest().factor));
            row.iter().for_each(|(gene, x)| told[gene] += f64::from(*x) * weight);
        }
        let score = pearson(&told, &measured);
        assert!(score > 0.9, "{:?}: {score}", data.names(number));
        at += cells;
    }
    let mut command = program();
    command
        .args(["baseline", "mean", "--data"])
        .arg(world.at("data"))
        .arg("--split")
        .arg(world.at("split.toml"));
    command
        .arg("--out")
        .arg(world.at("mean.h5ad"))
        .arg("--perturbation-features")
        .arg(world.at("features.csv"));
    let (code, said) = told(&mut command);
    assert!(
        code == Some(2) && said.contains("is only for `linear`; `mean` does not use features"),
        "{code:?} {said}"
    );
}
