//! What a run learns from, and what its validations say.

use std::collections::BTreeMap;

use scale_engine::checkpoint::{Checkpoint, Trained};
use scale_engine::data::controls::control_pool;
use scale_engine::data::effects::Effects;
use scale_engine::data::shard::Data;
use scale_engine::data::split::{Part, Split};
use scale_engine::error::Error;
use scale_engine::evaluate::pearson;
use scale_engine::predictor::{ControlCells, Request};
use scale_engine::progress::Progress;

use crate::train::{last, names, small, trained, trained_by};

fn data_and_split() -> (Data, Split) {
    let data = Data::open(&small().data).expect("data");
    let split = Split::load(&small().split, &data).expect("a split");
    (data, split)
}

#[test]
fn statistics_and_effects_are_those_of_the_training_part() {
    let (data, split) = data_and_split();
    let state = Checkpoint::load(&last(&small().run)).expect("a checkpoint").state;
    let moments = data.moments(split.part(Part::Train));
    assert_eq!((&state.statistics.mean, &state.statistics.std), (&moments.mean, &moments.std));
    let all: Vec<u32> = (0..data.groups().len() as u32).collect();
    assert_ne!(data.moments(&all).mean, moments.mean);
    assert_eq!(*state.effects, Effects::measure(&data, split.part(Part::Train)));
    for group in [Part::Val, Part::Test].into_iter().flat_map(|part| split.perturbed(part, &data)) {
        let group = data.groups()[group as usize];
        assert!(!state.effects.pairs().contains(&(group.cell_type, group.perturbation)), "{group:?}");
    }
}

#[test]
fn the_test_part_chooses_no_checkpoint() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (split, run) = (dir.path().join("split.toml"), dir.path().join("run"));
    let (types, perturbations) = names();
    let text = format!(
        "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n[fewshot.\"cells.{}\"]\ntest = [{:?}]\n",
        types[0], perturbations[0]
    );
    std::fs::write(&split, text).expect("written");
    let more = ["train.steps=4", "train.val_every=2"];
    let outcome = trained_by(small(), &split, &run, &more, &Progress::silent()).expect("a run");
    assert!(outcome.best.is_none() && !run.join("checkpoints/best.safetensors").exists());
}

#[test]
fn a_validation_correlates_changes_in_which_each_batch_counts_by_its_cells() {
    let (data, split) = data_and_split();
    let trained = Trained::load(&small().run).expect("the run's best");
    let best = trained.header.best.expect("a best");
    assert_eq!(best.step, trained.header.step);
    let predictor = trained.predictor(0);
    let (genes, factor) = (data.genes(), f64::from(data.manifest().factor));
    let mut pairs: BTreeMap<(u32, u32), [Vec<f64>; 2]> = BTreeMap::new();
    for number in split.perturbed(Part::Val, &data) {
        let group = data.groups()[number as usize];
        let of = |cells: Vec<u64>| ControlCells::of(&data, &cells);
        let controls = of(control_pool(&data, number).expect("controls").iter().collect());
        let (resting, after) = (controls.mean(), of(group.range().collect()).mean());
        let cells = (group.cells as usize).min(2 * trained.header.config.data.cells);
        let request = Request { conditions: group.ids(), cells };
        let mut predicted = vec![0.0; genes];
        let context = predictor.context(&controls).expect("controls");
        let answered = context.predict(request, None, |row, _| {
            predicted.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) / cells as f64);
            Ok(())
        });
        answered.expect("an answer");
        let key = (group.cell_type, group.perturbation);
        let [told, measured] = pairs.entry(key).or_insert_with(|| [vec![0.0; genes], vec![0.0; genes]]);
        for gene in 0..genes {
            told[gene] += f64::from(group.cells) * (predicted[gene] / factor - resting[gene]);
            measured[gene] += f64::from(group.cells) * (after[gene] - resting[gene]);
        }
    }
    let score =
        pairs.values().map(|[told, measured]| pearson(told, measured)).sum::<f64>() / pairs.len() as f64;
    assert!((score - best.pdcorr).abs() < 1e-9, "{score} and {}", best.pdcorr);
}

#[test]
fn a_gradient_that_overflows_stops_the_run_even_if_the_loss_does_not() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let set = ["loss.w_mmd=3e38", "train.steps=1"];
    let error = trained(small(), dir.path(), &set, &Progress::silent()).expect_err("it overflows");
    let text = error.to_string();
    assert!(matches!(error, Error::Diverged(_)) && text.starts_with("step 1: the loss is 1"), "{text}");
    assert!(
        ["inf", "NaN"].iter().any(|norm| text.contains(&format!("the gradient norm is {norm}"))),
        "{text}"
    );
}
