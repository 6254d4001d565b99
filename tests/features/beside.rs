//! Scores of what was never trained on, beside a baseline that has the same features.

use scale_engine::data::split::Part;
use scale_engine::predict::{self, Source, predict};
use scale_engine::progress::Progress;

use super::{HELD, described};
use crate::refused::told;
use crate::train::program;

#[test]
fn evaluate_gives_the_linear_baseline_the_features_too() {
    let world = described();
    let place = |name: &str| world.at(name);
    let source = Source::Data {
        data: place("data"),
        split: place("split.toml"),
        part: Part::Test,
        real_out: Some(place("beside-real.h5ad")),
        real_controls: None,
    };
    let settings = predict::Settings::new(&place("run"), source, &place("beside.h5ad"));
    let settings = predict::Settings { with_controls: true, ..settings };
    predict(&settings, &Progress::silent()).expect("predicted");
    let evaluate = |out: &str, features: bool| {
        let mut command = program();
        command.args(["evaluate", "--celltype-col", "cell_type", "--pred"]).arg(place("beside.h5ad"));
        command.arg("--real").arg(place("beside-real.h5ad")).arg("--out").arg(place(out));
        command.arg("--baselines").arg(place("data")).arg("--split").arg(place("split.toml"));
        if features {
            command.arg("--perturbation-features").arg(place("features.csv"));
        }
        let (code, said) = told(&mut command);
        assert_eq!(code, Some(0), "{said}");
        let blind = said.lines().filter(|line| line.starts_with("note: linear: ")).count();
        let table = std::fs::read_to_string(place(out).join("table.csv")).expect("a table");
        let of_linear =
            table.lines().filter(|line| line.contains("linear")).map(String::from).collect::<Vec<_>>();
        (blind, of_linear)
    };
    let (blind, described) = (evaluate("blind", false), evaluate("described", true));
    assert_eq!((blind.0, described.0), (HELD.len(), 0));
    assert!(!described.1.is_empty() && blind.1 != described.1);
}
