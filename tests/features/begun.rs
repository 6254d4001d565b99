//! Features where two runs, or two data directories, meet.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use scale_engine::checkpoint::Checkpoint;
use scale_engine::data::features::{FeatureTable, Features};
use scale_engine::data::h5ad;
use scale_engine::data::shard::Data;
use scale_engine::data::split::Part;
use scale_engine::error::Result;
use scale_engine::predict::{self, Source, predict};
use scale_engine::progress::{Event, Progress};
use scale_engine::train::{Begin, train};

use super::{HELD, described, name, rows};
use crate::other_data::renamed;
use crate::train::last;

#[test]
fn a_tuned_run_sees_features_as_the_first_did() {
    let world = described();
    let mut settings = world.settings(&world.at("tuned"), 1);
    // A split with other perturbations in training has other means.
    let text = std::fs::read_to_string(world.at("split.toml")).expect("readable");
    std::fs::write(world.at("all.toml"), text.split("[fewshot").next().expect("a start")).expect("written");
    settings.split = world.at("all.toml");
    let features =
        |run: &Path| Checkpoint::load(&last(run)).expect("a checkpoint").state.features.expect("features");
    train(&settings, &Progress::silent()).expect("a run");
    let (first, fresh) = (features(&world.at("run")), features(&world.at("tuned")));
    assert!(first.values == fresh.values && first.mean != fresh.mean);
    let mut tuned = |out: &str, table: &Path| {
        settings.out = world.at(out);
        if let Begin::Anew { init_from, features, .. } = &mut settings.begin {
            (*init_from, *features) = (Some(world.at("run")), Some(table.to_path_buf()));
        }
        train(&settings, &Progress::silent())
    };
    tuned("tuned-again", &world.at("features.csv")).expect("a run");
    assert!(*first == *features(&world.at("tuned-again")));
    // Nor from weights that were made for other features, be there as many numbers or not.
    let mut rows = rows();
    rows.iter_mut().for_each(|(_, row)| row.swap(0, 1));
    let error = tuned("other", &world.table("swapped.csv", &rows)).expect_err("other numbers").to_string();
    assert!(
        error.contains("swapped.csv: is not like \"features.csv\"") && error.contains("other numbers"),
        "{error}"
    );
    rows.iter_mut().for_each(|(_, row)| row.push(1.0));
    let error = tuned("other", &world.table("wider.csv", &rows)).expect_err("other columns").to_string();
    assert!(
        error.contains("feature 5 is \"x4\", but there it is \"none\"") && !world.at("other").exists(),
        "{error}"
    );
}

#[test]
fn a_feature_that_was_the_same_for_all_is_learned_by_a_run_that_begins_with_another() {
    let data = Data::open(&described().at("data")).expect("data");
    let features = |spread: f32| {
        let mut rows = rows();
        rows.iter_mut().for_each(|(_, row)| row[3] *= spread);
        let path = described().table(&format!("spread-{spread}.csv"), &rows);
        Features::of(&FeatureTable::read(&path).expect("a table"), data.manifest(), &[]).expect("features")
    };
    let (flat, ours) = (features(0.0), features(2.0));
    let read = ours.clone().as_in(&flat);
    // The perturbations that the first run knew stay where they were.
    assert!(flat.std[3] == 0.0 && read.std[3] == ours.std[3] && read.mean == flat.mean);
    assert_eq!(read.std[..3], flat.std[..3]);

    // One that differs in nothing else is told to be no other.
    let mut manifest = data.manifest().clone();
    let path = described().table("differs.csv", &[("NEW".to_string(), vec![1.0, 0.0, 0.0, 1.0])]);
    let table = FeatureTable::read(&path).expect("a table");
    let id = manifest.perturbations.len() as u32;
    let extended = flat.extended(&table, &mut manifest).expect("the same columns");
    let told = extended.doubts(&manifest, &[], &[0, id].into());
    let expected =
        "features ignored, as they are the same for all perturbations that were trained on: \"x3\"";
    assert_eq!(told, [expected]);
    let (width, inputs) = extended.inputs(&manifest);
    let new = &inputs[id as usize * width..];
    assert!(width == 8 && new.len() == width && new[3..] == [0.0; 5] && new[0] > 0.5, "{new:?}");
}

#[test]
fn what_training_reached_is_not_far() {
    let data = Data::open(&described().at("data")).expect("data");
    // The control label is the last of all.
    let (manifest, last) = (data.manifest(), data.manifest().perturbations.len() - 2);
    let rare = manifest.perturbations.iter().enumerate().map(|(i, name)| {
        // In the first column one of them is far from all others, as in a one-hot column of many perturbations.
        (name.clone(), [vec![if i == last { 1e4 } else { (i % 2) as f32 }], vec![i as f32; 8]].concat())
    });
    let path = described().table("rare.csv", &rare.collect::<Vec<_>>());
    let features =
        Features::of(&FeatureTable::read(&path).expect("a table"), manifest, &[]).expect("features");
    let all = (0..=last as u32).collect();
    assert_eq!(features.doubts(manifest, &[], &all), [""; 0]);
    let held = [manifest.perturbations[last].clone()];
    let table = FeatureTable::read(&path).expect("a table");
    let features = Features::of(&table, manifest, &held).expect("features");
    let told = features.doubts(manifest, &held, &all);
    assert!(told.len() == 1 && told[0].ends_with(&format!("trained on: {:?}", held[0])), "{told:?}");
    // Nine features, the mark of the control label, and zeros.
    assert_eq!(features.inputs(manifest).0, 16);
}

#[test]
fn what_a_run_by_name_knew_of_perturbations_is_of_no_use_to_one_by_features() {
    let world = described();
    let begun = |out: &str, from: &str, features: Option<PathBuf>| -> Result<(Vec<String>, String)> {
        let mut settings = world.settings(&world.at(out), 1);
        // All are trained on in the first run, three are not in the second.
        if from.is_empty() {
            std::fs::write(
                world.at("whole.toml"),
                "[datasets]\ncells = \"data\"\n[training]\ncells = \"train\"\n",
            )
            .expect("written");
            settings.split = world.at("whole.toml");
        }
        if let Begin::Anew { init_from, features: given, .. } = &mut settings.begin {
            (*init_from, *given) = ((!from.is_empty()).then(|| world.at(from)), features);
        }
        let told = Arc::new(Mutex::new(String::new()));
        let heard = told.clone();
        let progress = Progress::new(move |event, _| {
            if let Event::Note(note) = event {
                heard.lock().expect("no panic").push_str(note);
            }
        });
        train(&settings, &progress)?;
        let untrained = Checkpoint::describe(&last(&world.at(out)))?.header.untrained;
        Ok((untrained, told.lock().expect("no panic").clone()))
    };
    let table = Some(world.at("features.csv"));
    begun("by-name", "", None).expect("a run");
    begun("by-features", "", table.clone()).expect("a run");
    let (untrained, told) = begun("from-names", "by-name", table.clone()).expect("a run");
    assert_eq!(untrained, HELD.map(name));
    assert!(told.contains("0 of 16 perturbations"), "{told}");
    assert_eq!(begun("from-features", "by-features", table).expect("a run").0, [""; 0]);
    let error = begun("forgotten", "by-features", None).expect_err("it needs the table").to_string();
    assert!(error.contains("features: is missing") && error.contains("\"features.csv\""), "{error}");
}

#[test]
fn other_data_is_predicted_by_the_names_in_the_table() {
    let world = described();
    renamed(&world.at("data"), &world.at("others"), &name(HELD[2]), "PERT1001-B");
    let split = std::fs::read_to_string(world.at("split.toml")).expect("readable");
    std::fs::write(world.at("others.toml"), split.replace(&name(HELD[2]), "PERT1001-B")).expect("written");
    let source = || Source::Data {
        data: world.at("others"),
        split: world.at("others.toml"),
        part: Part::Test,
        real_out: None,
        real_controls: None,
    };
    let ask = |features: Option<PathBuf>| {
        let settings = predict::Settings::new(&world.at("run"), source(), &world.at("others.h5ad"));
        predict(&predict::Settings { features, ..settings }, &Progress::silent())
    };
    let error = ask(None).expect_err("it is not known").to_string();
    assert!(error.contains("\"PERT1001-B\"") && error.contains("the table of `features`"), "{error}");
    let far = vec![1.0, 0.0, 0.0, 90.0];
    let report = ask(Some(world.table("others.csv", &[("PERT1001-B".into(), far)]))).expect("predicted");
    let told = report.notes.join("\n");
    assert!(told.contains("\"PERT0011\", \"PERT0110\", \"PERT1001-B\""), "{told}");
    assert!(
        told.contains("more than 10 standard deviations") && told.ends_with("on: \"PERT1001-B\""),
        "{told}"
    );
    let written = h5ad::H5ad::open(&world.at("others.h5ad")).expect("readable");
    assert_eq!(written.told("perturbation_features").as_deref(), Some("features.csv, others.csv"));
}
