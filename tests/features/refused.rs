//! Tables that cannot be used, and runs that do not know features.

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
        ("gene\nMYC\n", "no numbers behind the names; commas separate columns, in a .tsv tabs"),
        ("gene,x\n", "no row below the names of the columns"),
        ("gene,x\nMYC,1\nMYC,2\n", "two rows for \"MYC\""),
        ("gene,x\n,1\n", "a row without a name"),
        ("gene,x\nMYC,inf\n", "\"MYC\" has the feature inf"),
        ("gene,x\nTP53,1\nMYC,high\n", "\"MYC\" has \"high\" in column \"x\", which is not a number"),
        ("gene,x\nMYC,1,2\n", "is not a table of text"),
        ("gene,x\nPERT0001,1\n", "has no row for these perturbations of the data: \"PERT0010\", "),
        ("PERT0010,x\nPERT0001,1\n", "its first line must name the columns"),
        ("gene;x\nPERT0001;1\n", "commas separate columns"),
    ];
    let run = world.at("refused");
    let flat = rows().iter().fold("gene,x".to_string(), |all, (name, _)| format!("{all}\n{name},7"));
    let flat = (flat.as_str(), "describes nothing: each column is the same for all perturbations");
    for (text, reason) in cases.into_iter().chain([flat]) {
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
    assert!(told.contains("feature 2 is \"none\", but there it is \"x1\""), "{told}");
    // Rows that are all new, with columns in another order.
    std::fs::write(world.at("turned.csv"), "gene,x1,x0,x2,x3\nNEW,1,2,3,4\n").expect("written");
    let table = FeatureTable::read(&world.at("turned.csv")).expect("a table");
    let run = Trained::load(&world.at("run")).expect("a run");
    let told = run.knowing(&table).expect_err("another order").to_string();
    assert!(told.contains("feature 1 is \"x1\", but there it is \"x0\""), "{told}");
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
    assert!(error.contains("knows perturbations by name"), "{error}");

    let run = |table: Option<&str>, resume: &[&str]| {
        let mut command = program();
        command.arg("train").args(resume).arg("--data").arg(world.at("data"));
        command.arg("--split").arg(world.at("split.toml")).arg("--out").arg(world.at("auto"));
        if let Some(table) = table {
            command.arg("--perturbation-features").arg(world.at(table));
        }
        told(&mut command)
    };
    let words = [set(), vec!["flow.start=control".into(), "train.steps=1".into()]].concat();
    let set = words.iter().flat_map(|word| ["--set", word]);
    let auto: Vec<&str> = ["--preset", "tiny", "--resume", "auto"].into_iter().chain(set).collect();
    assert_eq!(run(Some("features.csv"), &auto).0, Some(0));
    // A table may have gained rows.
    let grown = [rows(), vec![("NEW".to_string(), vec![0.5; 4])]].concat();
    world.table("grown.csv", &grown);
    assert_eq!(run(Some("grown.csv"), &auto).0, Some(0), "it is at its end");
    let (code, said) = run(None, &auto);
    assert!(
        code == Some(2) && said.contains("was begun with \"features.csv\": give it again"),
        "{code:?} {said}"
    );
    let mut other = rows();
    other[0].1[0] += 1.0;
    world.table("another.csv", &other);
    let (code, said) = run(Some("another.csv"), &auto);
    assert!(
        code == Some(2) && said.contains("was begun with other ones (\"features.csv\")"),
        "{code:?} {said}"
    );
    let (code, said) = run(Some("features.csv"), &["--resume"]);
    assert!(code == Some(2) && said.contains("keeps its own config and features"), "{code:?} {said}");
}
