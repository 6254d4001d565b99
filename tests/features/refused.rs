//! Tables that cannot be used, and runs that do not know features.

use std::process::Command;

use scale_engine::checkpoint::Trained;
use scale_engine::config::Config;
use scale_engine::data::features::FeatureTable;
use scale_engine::progress::Progress;
use scale_engine::train::{Begin, train};

use super::{described, rows};
use crate::refused::told;
use crate::train::{program, set, small};

#[test]
fn a_table_that_cannot_be_used_is_refused() {
    let world = described();
    let cases = [
        ("gene\nMYC\n", "1 rows of 0 numbers"),
        ("gene,x\n", "0 rows of 1 numbers"),
        ("gene,x\nMYC,1\nMYC,2\n", "two rows for \"MYC\""),
        ("gene,x\n,1\n", "a row without a name"),
        ("gene,x\nMYC,inf\n", "\"MYC\" has the feature inf"),
        ("gene,x\nTP53,1\nMYC,high\n", "line 3: \"high\" in column \"x\""),
        ("gene,x\nMYC,1,2\n", "read from a .csv, .tsv or .h5ad"),
        ("gene,x\nPERT0001,1\n", "has no row for \"PERT0010\", "),
    ];
    let run = world.at("refused");
    for (text, reason) in cases {
        std::fs::write(world.at("bad.csv"), text).expect("written");
        let mut settings = world.settings(&run, 5);
        if let Begin::Anew { features, .. } = &mut settings.begin {
            *features = Some(world.at("bad.csv"));
        }
        let error = train(&settings, &Progress::silent()).expect_err(reason).to_string();
        assert!(error.contains("bad.csv") && error.contains(reason), "{error}");
        assert!(!run.exists(), "{reason}");
    }
    let own = |rows: &[(String, Vec<f32>)]| {
        let table = FeatureTable::read(&world.table("other.csv", rows)).expect("a table");
        let run = Trained::load(&world.at("run")).expect("a run");
        run.knowing(&table).err().map(|error| error.to_string())
    };
    let mut rows = rows();
    assert_eq!(own(&rows), None);
    rows[3].1[0] += 0.25;
    let told = own(&rows).expect("another table");
    assert!(
        told.contains("other.csv") && told.contains(&format!("other numbers for {:?}", rows[3].0)),
        "{told}"
    );
    let told = own(&[("NEW".to_string(), vec![1.0])]).expect("another width");
    assert!(told.contains("has 1 numbers per perturbation, not"), "{told}");
}

#[test]
fn features_and_names_are_not_mixed_up() {
    let world = described();
    let mut shifted = world.settings(&world.at("shifted"), 5);
    if let Begin::Anew { config, .. } = &mut shifted.begin {
        **config = Config::load(Some("tiny"), None, &set()).expect("a good config");
    }
    let error = train(&shifted, &Progress::silent()).expect_err("no effect elsewhere").to_string();
    assert!(error.starts_with("flow.start: shifted starts from"), "{error}");
    // A run that knows names.
    let named = &small().run;
    let table = FeatureTable::read(&world.at("features.csv")).expect("a table");
    let error = Trained::load(named).and_then(|run| run.knowing(&table)).expect_err("names").to_string();
    assert!(error.contains("knows perturbations by their names"), "{error}");

    let mut command = program();
    command.args(["train", "--preset", "tiny", "--resume", "auto", "--data"]).arg(world.at("data"));
    command.arg("--split").arg(world.at("split.toml")).arg("--out").arg(world.at("auto"));
    let words = [set(), vec!["flow.start=control".into(), "train.steps=1".into()]].concat();
    command.args(words.iter().flat_map(|word| ["--set", word]));
    let with =
        |command: &mut Command| told(command.arg("--perturbation-features").arg(world.at("features.csv")));
    let mut blind = clone(&command);
    assert_eq!(with(&mut command).0, Some(0));
    let (code, said) = told(&mut blind);
    assert!(code == Some(2) && said.contains("--perturbation-features: is not what"), "{code:?} {said}");
    assert_eq!(told(&mut command).0, Some(0), "it is at its end");
    let (code, said) = with(blind.args(["--resume"]));
    assert!(code == Some(2), "{code:?} {said}");
}

fn clone(command: &Command) -> Command {
    let mut other = program();
    other.args(command.get_args());
    other
}
