//! The whole pipeline on simulated cells: simulate, preprocess, split, train, predict, evaluate, baselines, one table.
//!
//! It calls what the commands call. Held out are pairs whose cell type and perturbation are both seen in training, never together.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::aside;
use crate::baseline::{Baselines, Kind, Settings as Baseline};
use crate::config::{Config, Observe};
use crate::data::preprocess::{Genes, Settings as Preprocess, preprocess};
use crate::data::shard::{Data, Manifest};
use crate::data::simulate::{CONTROL, Settings as World, simulate};
use crate::data::split::{Part, Split};
use crate::error::{Error, Result};
use crate::evaluate::Settings as Evaluate;
use crate::evaluate::files::{Files, Sample, evaluate_files, fingerprints};
use crate::evaluate::scores::{self, Scores};
use crate::predict::{self, Source};
use crate::progress::{Event, Progress};
use crate::train::{self, train};

/// Where to, and which world.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where to train and predict; `None` is the CPU.
    pub gpu: Option<crate::gpu::Gpu>,
    /// Folder for everything the demo makes.
    pub out: PathBuf,
    /// Seed of the world, the weights and all draws.
    pub seed: u64,
}

/// What the demo trains with, on top of the preset `tiny`.
pub const CONFIG: [&str; 6] = [
    "train.steps=600",
    "train.val_every=150",
    "train.checkpoint_every=300",
    "flow.start=shifted",
    "encoder.kind=mlp",
    "optim.lr=0.002",
];

/// Cells to train and predict from; as many more are drawn for control cells that only scoring sees. A measured change is cells minus
/// control cells: with the same control cells in training and scoring, their noise is learned with the one and rewarded in the other.
const CELLS: usize = 16_000;

/// Runs the demo. Returns the table, also written to DIR/table.csv: one row per predictor, means over
/// the held-out pairs for which a measure is defined.
///
/// The names are `model`, or a kind of baseline; `, means only` or `, counts drawn` marks what is not the command's default.
///
/// # Errors
/// [`Error::Stopped`] if `progress` is asked to stop; only training can then be continued. What the stages' own functions refuse.
pub fn demo(settings: &Settings, progress: &Progress) -> Result<Vec<Scores>> {
    let dir = &settings.out;
    aside::free(dir)?;
    let began = Instant::now();
    let stage = |what: &str| {
        let line = format!("[{:4.0} s] {what}", began.elapsed().as_secs_f64());
        progress.tell(Event::Stage(&line));
    };
    let places = &Places::within(dir);
    let Places { cells, data, split, unseen_cells, unseen, .. } = places;

    stage("simulate: 4 cell types x 20 perturbations x 2 batches, 2 x 16,000 cells x 2,000 genes");
    let world = World { cells: CELLS, seed: settings.seed, ..World::default() };
    simulate(&world)?.write(cells)?;
    simulate(&World { skip: CELLS, ..world })?.write(unseen_cells)?;

    progress.go_on(STOPPED)?;
    stage("preprocess: normalise, log1p, write shards");
    preprocess(&Preprocess::of_simulated(cells, data), progress).map_err(elsewhere)?;
    let genes = Genes::Listed(data.clone());
    let fresh = Preprocess { genes, ..Preprocess::of_simulated(unseen_cells, unseen) };
    preprocess(&fresh, progress).map_err(elsewhere)?;
    let opened = Data::open(data)?;
    let text = held_out(opened.manifest());
    aside::whole(split, text)?;

    stage("train: preset tiny, recipe default, encoder mlp, shifted start");
    trained(settings, places, progress)?;

    progress.go_on(STOPPED)?;
    stage("predict the held-out combinations, with the model and with every baseline");
    let pred = |observe| predicted(settings, places, observe, progress).map_err(elsewhere);
    let [drawn, means] = [pred(Observe::Poisson)?, pred(Observe::None)?];
    let mut beside = vec![("model, means only".to_string(), means)];
    beside.extend(baselines(settings, &opened, &Split::load(split, &opened)?)?);

    progress.go_on(STOPPED)?;
    stage("evaluate");
    let table = scored(places, drawn, beside)?;
    scores::write(&dir.join("table.csv"), &table)?;
    stage("done");
    Ok(table)
}

const STOPPED: &str = "stopped between two stages; start again in another folder";

/// A stage that is stopped could go on by itself, but the demo begins in a folder of its own.
fn elsewhere(error: Error) -> Error {
    match error {
        Error::Stopped(_) => Error::Stopped("stopped within a stage; start again in another folder".into()),
        other => other,
    }
}

fn trained(settings: &Settings, places: &Places, progress: &Progress) -> Result<()> {
    let mut set: Vec<String> = CONFIG.iter().map(|s| s.to_string()).collect();
    set.push(format!("train.seed={}", settings.seed));
    let config = Config::load(Some("tiny"), None, &set)?;
    let begin = train::Begin::drawn(config);
    let training = train::Settings {
        place: train::Place::Here(vec![settings.gpu.clone()]),
        ..train::Settings::new(&places.data, &places.split, &places.run, begin)
    };
    match train(&training, progress)?.finished {
        true => Ok(()),
        false => {
            let [data, split, run] = [&places.data, &places.split, &places.run].map(|path| path.display());
            Err(Error::Stopped(format!(
                "stopped during training, which can be continued:\n  \
                 scale-engine train --resume --data {data} --split {split} --out {run}"
            )))
        }
    }
}

/// The table of the model and the baselines; each cell type's scores become files.
fn scored(places: &Places, pred: PathBuf, beside: Vec<(String, PathBuf)>) -> Result<Vec<Scores>> {
    let files = Files {
        real: places.real.clone(),
        pred,
        perturbation: "perturbation".into(),
        cell_type: Some("cell_type".into()),
    };
    let rules = Evaluate { control: CONTROL.into(), ceiling: true, ..Evaluate::default() };
    let read = |(name, path): (String, PathBuf)| {
        Ok((name, Sample::read(&path, &files.perturbation, files.cell_type.as_deref())?))
    };
    let boards = evaluate_files(&files, beside.into_iter().map(read), &rules)?;
    let sources = fingerprints(&files)?;
    boards.iter().try_for_each(|board| board.write(&places.scores, &sources).map(drop))?;
    let mut table = scores::predictors(&boards);
    table[0].name = "model".into();
    Ok(table)
}

/// The model's prediction of the held-out pairs, as a file; the measured cells go into another next to it.
fn predicted(settings: &Settings, places: &Places, observe: Observe, progress: &Progress) -> Result<PathBuf> {
    let name = if observe == Observe::Poisson { "model.h5ad" } else { "model-means-only.h5ad" };
    let out = settings.out.join(name);
    let source = Source::Data {
        data: places.data.clone(),
        split: places.split.clone(),
        part: Part::Test,
        real_out: (observe == Observe::Poisson).then(|| places.real.clone()),
        real_controls: Some(places.unseen.clone()),
    };
    let wanted = predict::Settings {
        gpu: settings.gpu.clone(),
        with_controls: true,
        observe: Some(observe),
        seed: settings.seed,
        ..predict::Settings::new(&places.run, source, &out)
    };
    predict::predict(&wanted, progress)?;
    Ok(out)
}

/// Every baseline's name and file.
fn baselines(settings: &Settings, data: &Data, split: &Split) -> Result<Vec<(String, PathBuf)>> {
    let trained = Baselines::on(data, split.part(Part::Train))?;
    let mut files = Vec::new();
    for observe in [Observe::None, Observe::Poisson] {
        for kind in Kind::ALL {
            let suffix = if observe == Observe::None { "" } else { ", counts drawn" };
            let name = format!("{}{suffix}", kind.name());
            let wanted = Baseline { kind, observe, with_controls: true, seed: settings.seed };
            let path = settings.out.join(format!("{}.h5ad", name.replace(", ", "-").replace(' ', "-")));
            trained.predict_to(&path, split.part(Part::Test), &wanted)?.population.close()?;
            files.push((name, path));
        }
    }
    Ok(files)
}

/// Where the demo keeps what it makes.
struct Places {
    cells: PathBuf,
    data: PathBuf,
    unseen_cells: PathBuf,
    unseen: PathBuf,
    split: PathBuf,
    run: PathBuf,
    real: PathBuf,
    scores: PathBuf,
}

impl Places {
    fn within(dir: &Path) -> Places {
        let place = |name: &str| dir.join(name);
        Places {
            cells: place("cells.h5ad"),
            data: place("data"),
            unseen_cells: place("unseen.h5ad"),
            unseen: place("unseen"),
            split: place("split.toml"),
            run: place("run"),
            real: place("real.h5ad"),
            scores: place("scores"),
        }
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
