//! A run meets data other than those it learned from: whatever would then mean something else is refused.

use std::fs;
use std::path::Path;

use scale_engine::checkpoint::{Checkpoint, Trained, vocabulary};
use scale_engine::data::h5ad::{self, H5ad, X};
use scale_engine::data::preprocess::{self, Genes, Target};
use scale_engine::data::shard::{Data, Scale};
use scale_engine::data::simulate::CONTROL;
use scale_engine::model::Model;
use scale_engine::params::Flats;
use scale_engine::predictor::{ControlCells, Predictor};
use scale_engine::progress::Progress;

use crate::refused::told;
use crate::train::{last, program, set, small};

/// The small world's cells, scaled to another total.
fn other_total(out: &Path) {
    let settings = preprocess::Settings {
        genes: Genes::Top(60),
        target: Some(Target::Sum(5e3)),
        ..preprocess::Settings::of_simulated(&small().cells, out)
    };
    preprocess::preprocess(&settings, &Progress::silent()).expect("shards");
}

/// A copy of a data directory, with one word of its manifest replaced.
pub fn renamed(data: &Path, out: &Path, from: &str, to: &str) {
    fs::create_dir(out).expect("made");
    for entry in fs::read_dir(data).expect("a folder") {
        let path = entry.expect("readable").path();
        fs::copy(&path, out.join(path.file_name().expect("a name"))).expect("copied");
    }
    let path = out.join("manifest.json");
    let text = fs::read_to_string(&path).expect("readable");
    assert!(text.contains(from), "{text}");
    fs::write(&path, text.replace(from, to)).expect("written");
}

#[test]
fn a_run_does_not_go_on_with_other_names_or_another_total() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (run, total) = (dir.path().join("run"), dir.path().join("total"));
    fs::create_dir_all(run.join("checkpoints")).expect("made");
    fs::copy(last(&small().run), last(&run)).expect("copied");
    let resumed = |data: &Path| {
        let mut train = program();
        train
            .args(["train", "--resume", "--steps", "121", "--data"])
            .arg(data)
            .arg("--split")
            .arg(&small().split);
        told(train.arg("--out").arg(&run))
    };
    other_total(&total);
    let (code, said) = resumed(&total);
    assert!(code == Some(1) && said.contains("5000 counts") && said.contains("10000"), "{code:?} {said}");
    for (from, to, word) in [
        ("batch-2", "batch-9", "batches"),
        ("\"GENE0007\"", "\"GENE0077\"", "GENE0077"),
        (CONTROL, "non-target", "non-target"),
    ] {
        let data = dir.path().join(word);
        renamed(&small().data, &data, from, to);
        let (code, said) = resumed(&data);
        assert!(code == Some(1) && said.contains(word) && said.contains("trained on"), "{code:?} {said}");
    }
}

#[test]
fn a_prediction_from_data_with_another_total_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (data, out) = (dir.path().join("data"), dir.path().join("out.h5ad"));
    other_total(&data);
    let mut predict = program();
    predict.arg("predict").arg(&small().run).arg("--data").arg(&data).arg("--split").arg(&small().split);
    let (code, said) = told(predict.arg("--out").arg(&out));
    assert!(code == Some(1) && said.contains("5000 counts") && !out.exists(), "{code:?} {said}");
}

#[test]
fn control_cells_of_data_with_another_total_or_factor_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let trained = Trained::load(&small().run).expect("the run's best");
    let predictor = trained.predictor(0);
    let controls = |data: &Path| {
        let data = Data::open(data).expect("a data directory");
        ControlCells::of(&data, &(0..8).collect::<Vec<u64>>())
    };
    assert!(predictor.context(&controls(&small().data)).is_ok());
    other_total(&dir.path().join("total"));
    let of_other = controls(&dir.path().join("total"));
    let why = predictor.context(&of_other).expect_err("another total").to_string();
    assert!(why.contains("5000 counts") && why.contains("10000"), "{why}");
    // A run whose logs are divided by something else.
    let mut other = trained.header.data.clone();
    other.factor = 5.0;
    let other = Predictor { data: &other, ..predictor };
    let of_own = controls(&small().data);
    let why = other.context(&of_own).expect_err("another factor").to_string();
    assert!(why.contains("divided by 5 in the run and by 10 here"), "{why}");
}

#[test]
fn a_checkpoint_that_lies_of_its_data_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("lies.safetensors");
    let bytes = fs::read(last(&small().run)).expect("readable");
    for (from, to) in [("factor\\\":10.0", "factor\\\":-1.0"), ("target\\\":10000.0", "target\\\":-1000.0")] {
        let at = bytes
            .windows(from.len())
            .position(|word| word == from.as_bytes())
            .expect("a field of the header");
        let mut lies = bytes.clone();
        lies[at..][..to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, &lies).expect("written");
        let (code, said) = told(program().arg("inspect").arg(&path));
        assert!(code == Some(1) && said.contains("header: "), "{code:?} {said}");
    }
}

#[test]
fn a_damaged_checkpoint_is_refused_with_the_tensor_that_is_damaged() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (dir.path().join("damaged.safetensors"), dir.path().join("out.h5ad"));
    let mut bytes = fs::read(last(&small().run)).expect("readable");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    // Every tensor is hit, including the averaged weights, which a prediction reads.
    for at in (8 + header..bytes.len()).step_by(64) {
        bytes[at] ^= 1;
    }
    fs::write(&path, &bytes).expect("written");
    let mut predict = program();
    predict.arg("predict").arg(&path).arg("--data").arg(&small().data).arg("--split").arg(&small().split);
    let (code, said) = told(predict.arg("--out").arg(&out));
    assert!(code == Some(1) && said.contains("damaged") && said.contains("tensor"), "{code:?} {said}");
    assert!(!out.exists());
    let (code, said) = told(program().arg("inspect").arg(&path));
    assert!(code == Some(1) && said.contains("damaged") && said.contains("tensor"), "{code:?} {said}");
}

/// A checkpoint's bytes, with a part of its header replaced.
fn reworded(mut bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).expect("in the header");
    bytes.splice(at..at + from.len(), to.bytes());
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let length = length + to.len() - from.len();
    // The header is padded with blanks to a multiple of eight.
    let pad = length.next_multiple_of(8) - length;
    bytes.splice(8 + length..8 + length, std::iter::repeat_n(b' ', pad));
    bytes[..8].copy_from_slice(&((length + pad) as u64).to_le_bytes());
    bytes
}

#[test]
fn a_checkpoint_whose_config_asks_for_more_than_it_holds_is_refused_before_memory_is_taken() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (dir.path().join("lies.safetensors"), dir.path().join("out.h5ad"));
    let bytes = fs::read(last(&small().run)).expect("readable");
    fs::write(&path, reworded(bytes, r#"\"ffn\":48"#, r#"\"ffn\":8388608"#)).expect("written");
    let mut predict = program();
    predict.arg("predict").arg(&path).arg("--data").arg(&small().data).arg("--split").arg(&small().split);
    let (code, said) = told(predict.arg("--out").arg(&out));
    assert!(code == Some(1) && said.contains("expected F32 [16777"), "{code:?} {said}");
}

/// Before its fields had names it was a pair.
#[test]
fn a_checkpoint_whose_best_validation_is_a_pair_is_read() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("pair.safetensors");
    let bytes = fs::read(last(&small().run)).expect("readable");
    let text = String::from_utf8_lossy(&bytes);
    let (_, rest) = text.split_once(r#"\"best\":{\"pdcorr\":"#).expect("a best validation");
    let (score, rest) = rest.split_once(r#",\"step\":"#).expect("its step");
    let (step, _) = rest.split_once('}').expect("an end");
    let named = format!(r#"{{\"pdcorr\":{score},\"step\":{step}}}"#);
    let pair = reworded(bytes.clone(), &named, &format!("[{score},{step}]"));
    fs::write(&path, pair).expect("written");
    let best = |path: &Path| Checkpoint::load(path).expect("readable").state.header.best;
    assert_eq!(best(&path).expect("found"), best(&last(&small().run)).expect("found"));
}

#[test]
fn another_split_is_told_with_what_was_trained_on() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let split = fs::read_to_string(&small().split).expect("readable");
    let predict = |run: &Path, text: &str, subset: &str| {
        let path = dir.path().join("other.toml");
        fs::write(&path, text).expect("written");
        let mut predict = program();
        predict.arg("predict").arg(run).arg("--data").arg(&small().data).arg("--split").arg(&path);
        told(predict.args(["--subset", subset, "--out"]).arg(dir.path().join("out.h5ad")))
    };
    let exchanged = split.replace("test = ", "val2 = ").replace("val = ", "test = ").replace("val2", "val");
    for run in [small().run.clone(), last(&small().run)] {
        let (code, said) = predict(&run, &format!("{split}# a word\n"), "test");
        assert!(code == Some(0) && said.contains("trained on none of these cells"), "{code:?} {said}");
        let (code, said) = predict(&run, &exchanged, "train");
        assert!(code == Some(0) && said.contains("it was trained on"), "{code:?} {said}");
    }
}

#[test]
fn log_values_of_an_unknown_total_are_predicted_as_means_and_say_so() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let file = H5ad::open(&small().cells).expect("readable");
    let mut x = file.rows(0..file.shape().0).expect("X");
    // Each cell is scaled to a different total, so none can be detected.
    let totals: Vec<f32> = x.outer_iterator().map(|row| row.data().iter().sum::<f32>()).collect();
    for (i, mut row) in x.outer_iterator_mut().enumerate() {
        row.iter_mut().for_each(|(_, v)| *v = (*v / totals[i] * (5e3 + i as f32)).ln_1p());
    }
    h5ad::write(&place("logs.h5ad"), file.obs(), file.var(), X::Sparse(&x), &[]).expect("written");
    let mut settings = preprocess::Settings {
        batch: None,
        genes: Genes::Top(60),
        scale: Some(Scale::Log1p),
        ..preprocess::Settings::of_simulated(&place("logs.h5ad"), &place("data"))
    };
    let silent = Progress::silent();
    assert_eq!(preprocess::preprocess(&settings, &silent).expect("shards").target, None);
    fs::write(place("split.toml"), "[datasets]\nx = \"logs.h5ad\"\n[training]\nx = \"train\"\n")
        .expect("written");
    let mut train = program();
    train.arg("train").arg("--data").arg(place("data")).arg("--split").arg(place("split.toml"));
    for set in set().iter().filter(|set| !set.starts_with("train.steps")) {
        train.args(["--set", set]);
    }
    let (code, said) = told(train.args(["--preset", "tiny", "--steps", "1", "--out"]).arg(place("run")));
    assert!(code == Some(0) && said.contains("--target-sum"), "{code:?} {said}");
    let predict = |words: &[&str]| {
        let mut predict = program();
        predict.arg("predict").arg(place("run")).arg("--data").arg(place("data")).arg("--split");
        predict.arg(place("split.toml")).args(["--subset", "train", "--out"]).arg(place("out.h5ad"));
        told(predict.args(words))
    };
    let (code, said) = predict(&[]);
    assert!(code == Some(0) && said.contains("predicted means are written"), "{code:?} {said}");
    let (code, said) = predict(&["--observe", "poisson"]);
    assert!(code == Some(2) && said.contains("--observe"), "{code:?} {said}");
    let trained = Trained::load(&place("run")).expect("a run");
    assert!(trained.observer().expect("a config of its own").is_none());

    // A total given by the user is accepted, unless the cells show another.
    (settings.out, settings.target) = (place("told"), Some(Target::Sum(5e3)));
    assert_eq!(preprocess::preprocess(&settings, &silent).expect("shards").target, Some(5e3));
}

/// Writes a run's last checkpoint again, with other averaged weights.
fn with_average(path: &Path, change: impl Fn(f32) -> f32) {
    let Checkpoint { state, flats } = Checkpoint::load(&last(&small().run)).expect("a checkpoint");
    let header = &state.header;
    let (_, table) = Model::new(&header.config, &vocabulary(&header.data, None), state.statistics.clone());
    let average: Vec<f32> = flats.average.data().iter().map(|&w| change(w)).collect();
    let (weights, moment1, moment2) = (flats.weights.data(), flats.moment1.data(), flats.moment2.data());
    let flats = Flats { weights, average: &average[..], moment1, moment2 };
    state.save(path, table.entries(), flats).expect("written");
}

#[test]
fn predictions_are_made_with_the_averaged_weights_as_long_as_they_are_numbers() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let (path, out) = (dir.path().join("run.safetensors"), dir.path().join("out.h5ad"));
    with_average(&path, |w| 0.5 * w);
    let flats = Checkpoint::load(&path).expect("a checkpoint").flats;
    let weights = Trained::load(&path).expect("a run").params.weights();
    assert!(weights.data() == flats.average.data() && weights.data() != flats.weights.data());
    let refused = |change: fn(f32) -> f32| {
        with_average(&path, change);
        let mut predict = program();
        predict.arg("predict").arg(&path).arg("--data").arg(&small().data).arg("--split").arg(&small().split);
        let (code, said) = told(predict.arg("--out").arg(&out));
        assert!(code == Some(1) && !out.exists(), "{code:?} {said}");
        said
    };
    let said = refused(|w| if w > 0.0 { f32::NAN } else { w });
    assert!(said.contains("contains weights that are NaN or infinite; use an earlier checkpoint"), "{said}");
    let said = refused(|w| 1e30 * w);
    assert!(said.contains("predicts ") && said.contains("predict from an earlier checkpoint"), "{said}");
}

#[test]
fn a_checkpoint_of_another_layout_or_with_effects_in_disorder_is_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("run.safetensors");
    let whole = fs::read(last(&small().run)).expect("readable");
    for (from, to, said) in [
        (r#"version\":3,"#, r#"version\":2,"#, "has checkpoint layout 2, but this program reads layout 3"),
        (r#"effects\":[[0,"#, r#"effects\":[[9,"#, "the pairs in `effects` are not sorted and unique"),
    ] {
        let at = whole.windows(from.len()).position(|bytes| bytes == from.as_bytes()).expect("in the header");
        let mut other = whole.clone();
        other[at..at + to.len()].copy_from_slice(to.as_bytes());
        fs::write(&path, other).expect("written");
        let told = Trained::load(&path).expect_err("a refusal").to_string();
        assert!(told.contains(said), "{told}");
    }
}
