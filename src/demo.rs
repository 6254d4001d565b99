//! The whole way on simulated cells: simulate, preprocess, split, train, predict, evaluate, baselines, one table.
//!
//! It calls what the commands call. Held out are pairs of a cell type and a perturbation that are both seen, apart.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use crate::aside;
use crate::baseline::{Kind, Settings as Baseline, baseline};
use crate::config::{Config, Observe};
use crate::data::preprocess::hvg::Flavor;
use crate::data::preprocess::{Genes, Settings as Preprocess, Target, preprocess};
use crate::data::shard::{Data, Manifest};
use crate::data::simulate::{CONTROL, Settings as World, simulate};
use crate::data::split::{Part, Split};
use crate::error::{At, Error, Result};
use crate::evaluate::Settings as Evaluate;
use crate::evaluate::board::{pooled, write_table};
use crate::evaluate::files::{Files, evaluate_files, fingerprints};
use crate::predict::{self, Source};
use crate::progress;
use crate::train::{self, train};

/// Where to, and which world.
pub struct Settings {
    /// Where to train and predict; `None` is the CPU.
    pub gpu: Option<crate::gpu::Gpu>,
    /// Folder for everything that is made.
    pub out: PathBuf,
    /// Of the world, the weights and all draws.
    pub seed: u64,
}

/// What the demo trains with, over the preset `tiny`.
pub const CONFIG: [&str; 6] = [
    "train.steps=600",
    "train.val_every=150",
    "train.checkpoint_every=300",
    "flow.start=shifted",
    "encoder.kind=mlp",
    "optim.lr=0.002",
];

/// One line of the table: a predictor and its score by each measure, the mean over the held-out pairs for which that is defined.
///
/// The name is `model`, or a kind of baseline; `, decoded means` or `, observed` where it is not what the command does by default.
pub type Row = (String, Vec<(String, f64)>);

/// Runs the demo; `say` gets a line a stage. Returns the table, which is also DIR/table.csv.
pub fn demo(settings: &Settings, stop: &AtomicBool, mut say: impl FnMut(&str)) -> Result<Vec<Row>> {
    let dir = &settings.out;
    let began = Instant::now();
    let mut stage = |what: &str| say(&format!("[{:4.0} s] {what}", began.elapsed().as_secs_f64()));
    let Places { cells, data, split, run, real } = &Places::within(dir);

    stage("simulate: 4 cell types x 20 perturbations x 2 batches, 16,000 cells x 2,000 genes");
    let world = World { cells: 16_000, seed: settings.seed, ..World::default() };
    simulate(&world)?.write(cells)?;

    stage("preprocess: normalise, log1p, shards");
    preprocess(&to_shards(cells, data), &progress::bar("preprocess", 0, "rows"))?;
    let opened = Data::open(data)?;
    let text = held_out(opened.manifest());
    aside::file(split, |aside| std::fs::write(aside, text).at(aside))?;

    stage("train: preset tiny, recipe default, shifted start");
    let mut set: Vec<String> = CONFIG.iter().map(|s| s.to_string()).collect();
    set.push(format!("train.seed={}", settings.seed));
    let config = Some(Config::load(Some("tiny"), None, &set)?);
    let training = train::Settings {
        data: data.clone(),
        split: split.clone(),
        out: run.clone(),
        config,
        steps: None,
        gpu: settings.gpu.clone(),
    };
    let outcome = train(&training, stop)?;
    if !outcome.finished {
        return Err(Error::Stopped(format!("stopped in training; {} can be resumed", run.display())));
    }

    stage("predict the held-out pairs, with the model and with every baseline, and evaluate");
    let mut table = Vec::new();
    for observe in [Observe::Poisson, Observe::None] {
        let name = if observe == Observe::Poisson { "model" } else { "model, decoded means" };
        let pred = dir.join(format!("{}.h5ad", name.replace(", ", "-").replace(' ', "-")));
        let source = Source::Data {
            data: data.clone(),
            split: split.clone(),
            part: Part::Test,
            real_out: Some(real.clone()),
        };
        let asked = predict::Settings {
            gpu: settings.gpu.clone(),
            run: run.clone(),
            out: pred.clone(),
            source,
            with_controls: true,
            observe: Some(observe),
            seed: settings.seed,
        };
        predict::predict(&asked)?;
        table.push(score(name, &pred, real, dir)?);
    }
    table.extend(baselines(settings, &opened, &Split::load(split, &opened)?, real)?);
    write_table(&dir.join("table.csv"), &table)?;
    stage("done");
    Ok(table)
}

/// Every baseline, scored as the model is.
fn baselines(settings: &Settings, data: &Data, split: &Split, real: &Path) -> Result<Vec<Row>> {
    let mut table = Vec::new();
    for observe in [Observe::None, Observe::Poisson] {
        for kind in Kind::ALL {
            let suffix = if observe == Observe::None { "" } else { ", observed" };
            let name = format!("{}{suffix}", kind.name());
            let pred = settings.out.join(format!("{}.h5ad", name.replace(", ", "-")));
            let wanted = Baseline { kind, observe, with_controls: true, seed: settings.seed };
            let answer = baseline(data, split.part(Part::Train), split.part(Part::Test), &wanted)?;
            answer.population.write(&pred)?;
            table.push(score(&name, &pred, real, &settings.out)?);
        }
    }
    Ok(table)
}

/// Where the demo keeps what it makes.
struct Places {
    cells: PathBuf,
    data: PathBuf,
    split: PathBuf,
    run: PathBuf,
    real: PathBuf,
}

impl Places {
    fn within(dir: &Path) -> Places {
        let place = |name: &str| dir.join(name);
        Places {
            cells: place("cells.h5ad"),
            data: place("data"),
            split: place("split.toml"),
            run: place("run"),
            real: place("real.h5ad"),
        }
    }
}

fn to_shards(cells: &Path, data: &Path) -> Preprocess {
    Preprocess {
        inputs: vec![cells.to_path_buf()],
        out: data.to_path_buf(),
        perturbation: "perturbation".into(),
        control: CONTROL.into(),
        cell_type: "cell_type".into(),
        batch: Some("batch".into()),
        genes: Genes::Top(2_000),
        flavor: Flavor::Seurat,
        hvg_batch: None,
        target: Target::Sum(1e4),
        source: "X".into(),
        scale: None,
    }
}

/// A split file in which each cell type lacks a quarter of the perturbations: four fifths of them for test, one pair for
/// validation. Every perturbation is seen in other cell types, every cell type under other perturbations.
fn held_out(manifest: &Manifest) -> String {
    let name = &manifest.dataset;
    let mut text = format!("[datasets]\n{name} = \"data\"\n\n[training]\n{name} = \"train\"\n");
    let perturbations: Vec<&String> =
        manifest.perturbations.iter().filter(|p| **p != manifest.control).collect();
    for (c, cell_type) in manifest.cell_types.iter().enumerate() {
        let list = |skip: usize, take: usize| {
            let chosen =
                perturbations.iter().skip(c).step_by(manifest.cell_types.len()).skip(skip).take(take);
            chosen.map(|p| format!("{p:?}")).collect::<Vec<_>>().join(", ")
        };
        text += &format!(
            "\n[fewshot.\"{name}.{cell_type}\"]\ntest = [{}]\nval = [{}]\n",
            list(1, usize::MAX),
            list(0, 1)
        );
    }
    text
}

/// Evaluates a prediction cell type by cell type; a score is the mean over all held-out pairs for which it is defined.
fn score(name: &str, pred: &Path, real: &Path, dir: &Path) -> Result<Row> {
    let files = Files {
        real: real.to_path_buf(),
        pred: pred.to_path_buf(),
        perturbation: "perturbation".into(),
        cell_type: Some("cell_type".into()),
    };
    let boards = evaluate_files(&files, &[], &Evaluate { control: CONTROL.into(), ..Evaluate::default() })?;
    let folder = dir.join("scores").join(pred.file_stem().expect("a file's name"));
    let sources = fingerprints(&files)?;
    boards.iter().try_for_each(|board| board.write(&folder, &sources))?;
    let (_, scores) = pooled(&boards).remove(0);
    Ok((name.to_string(), scores))
}
