//! The command as a user types it, and what any input may do to it.

use std::path::Path;
use std::process::{Command, Output};

use scale_engine::baseline::Kind;
use scale_engine::data::h5ad::{self, H5ad, X};
use scale_engine::data::population::{Population, Unit, measured};
use scale_engine::data::shard::Data;
use scale_engine::data::simulate::{CONTROL, Settings as World, simulate};
use scale_engine::evaluate::board::Board;
use scale_engine::evaluate::files::{Files, Sample, evaluate_files};
use scale_engine::evaluate::side::{Matrix, Side};
use scale_engine::evaluate::{Rules, Settings, evaluate};
use scale_engine::rng::Rng;
use serde_json::Value;

use super::{settings, simulated};
use crate::small_data::{World as Small, header};

fn scale_engine(words: &[&str], within: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_scale-engine"));
    command.args(words).current_dir(within).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs words separated by blanks; the run must succeed.
fn must(words: &str, within: &Path) -> String {
    let output = scale_engine(&words.split_whitespace().collect::<Vec<_>>(), within);
    assert!(output.status.success(), "{words}\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// Two cell types, one held-out pair each.
const SPLIT: &str = "[datasets]\ncells = \"data\"\n\n[training]\ncells = \"train\"\n
[fewshot.\"cells.type-1\"]\ntest = [\"PERT001\", \"PERT003\"]\n\n[fewshot.\"cells.type-2\"]\ntest = [\"PERT002\", \"PERT004\"]\n";

fn world(dir: &Path) {
    let world = World { cells: 900, genes: 120, perturbations: 5, cell_types: 2, ..World::default() };
    let cells = simulate(&world).expect("a world");
    cells.write(&dir.join("cells.h5ad")).expect("written");
    let labels = "--pert-col perturbation --celltype-col cell_type --batch-col batch";
    must(
        &format!("preprocess cells.h5ad --out data --control-pert {CONTROL} {labels} --n-top-genes 100"),
        dir,
    );
    std::fs::write(dir.join("split.toml"), SPLIT).expect("written");
}

#[test]
fn the_commands_baselines_are_those_of_the_baseline_command() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    world(dir);
    must("baseline mean --data data --split split.toml --out mean.h5ad --real-out real.h5ad", dir);
    let labels = format!("--pert-col perturbation --celltype-col cell_type --control-pert {CONTROL}");
    let beside = "--baselines data --split split.toml --ceiling --bootstrap 50";
    let shown = must(
        &format!("evaluate --pred mean.h5ad --real real.h5ad --out scores {labels} {beside} --rules fixed"),
        dir,
    );
    assert!(shown.contains("the measured control cells, for both sides"), "{shown}");
    // Baselines of another part than the one predicted.
    for (part, is_other) in [("test", false), ("train", true)] {
        let words = format!(
            "evaluate --pred mean.h5ad --real real.h5ad --out other {labels} --baselines data --split split.toml --subset {part}"
        );
        let said = text(&scale_engine(&words.split_whitespace().collect::<Vec<_>>(), dir).stderr);
        assert_eq!(said.contains("note: --subset has"), is_other, "{said}");
    }
    // The file passed as measured says that it is a prediction.
    let words = ["evaluate", "--pred", "real.h5ad", "--real", "mean.h5ad", "--out", "swapped"];
    let swapped = scale_engine(&words, dir);
    let said = text(&swapped.stderr);
    let asked = "mean.h5ad is marked as a prediction: are --real and --pred swapped?";
    assert!(said.contains(asked), "{said}");
    let mut table = csv::Reader::from_path(dir.join("scores/table.csv")).expect("table.csv");
    let rows: Vec<Vec<String>> =
        table.records().map(|row| row.expect("a row").iter().map(String::from).collect()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0].as_str()).collect();
    let kinds = ["mean", "mean-per-cell-type", "mean-per-batch", "mean-overall", "linear"];
    assert_eq!(names, [&["prediction"], &kinds[..], &["ceiling"]].concat());
    assert_eq!(rows[0][1..], rows[1][1..], "the file of `baseline mean` and the row `mean`");
    assert_ne!(rows[0][1..], rows[5][1..]);

    let json: Value = serde_json::from_slice(
        &std::fs::read(dir.join("scores/type-1_results.json")).expect("type-1_results.json"),
    )
    .expect("JSON");
    assert_eq!(json["rules"], "fixed");
    assert_eq!(json["definitions"]["family"], "perturbation");
    let sum = Command::new("sha256sum").arg(dir.join("real.h5ad")).output();
    if let Ok(sum) = sum {
        assert!(text(&sum.stdout).starts_with(json["files"]["real"]["sha256"].as_str().expect("a hash")));
    }
}

/// What is read does not matter: the files are told of before they are compared.
#[test]
fn numbers_that_cell_eval_does_not_round_are_said() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/encodings/FILE.h5ad");
    let said = |file: &str, rules: &str| {
        let path = golden.replace("FILE", file);
        let files = ["evaluate", "--pred", &path, "--real", &path, "--out", "scores", "--rules", rules];
        text(&scale_engine(&files, dir.path()).stderr)
    };
    let note = "X is float64 and is read as float32";
    assert!(said("fixed_text", "cell-eval-0.6.6").contains(note));
    assert!(
        !said("fixed_text", "fixed").contains(note) && !said("nullable", "cell-eval-0.6.6").contains(note)
    );
}

/// Measured cells as counts and as logs: at a total of some hundreds values are smaller than at 10,000, and so are errors.
#[test]
fn the_baselines_are_on_the_scale_of_the_measured_cells() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    world(dir);
    let of = |values: &str| {
        must(
            &format!("export data --split split.toml --subset test --values {values} --out {values}.h5ad"),
            dir,
        );
        let labels =
            format!("--pert-col perturbation --control-pert {CONTROL} --baselines data --split split.toml");
        let files = format!("--pred {values}.h5ad --real {values}.h5ad --out {values} --rules fixed");
        let words = format!("evaluate {files} {labels} --observe poisson");
        let output = scale_engine(&words.split_whitespace().collect::<Vec<_>>(), dir);
        let said = text(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert_eq!(said.contains("were brought to the total"), values == "counts", "{said}");
        let mut table = csv::Reader::from_path(dir.join(values).join("table.csv")).expect("table.csv");
        let at = table.headers().expect("names").iter().position(|name| name == "mae").expect("a column");
        let mae = |row: csv::Result<csv::StringRecord>| row.expect("a row")[at].parse().expect("a number");
        table.records().map(mae).collect::<Vec<f64>>()
    };
    let (logs, counts) = (of("log1p"), of("counts"));
    // The prediction, which is what was measured, and the baselines.
    assert!(logs.len() == 1 + Kind::ALL.len() && counts.len() == logs.len(), "{logs:?} {counts:?}");
    assert_eq!([logs[0], counts[0]], [0.0; 2]);
    for (logs, counts) in logs.iter().zip(&counts).skip(1) {
        assert!(*counts < 0.9 * logs, "{logs} of logs, {counts} of counts");
    }
}

/// They would be scored as log values of a tenth of their size.
#[test]
fn values_that_are_scaled_for_the_network_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let dir = dir.path();
    world(dir);
    for values in ["log1p", "counts", "scaled"] {
        must(
            &format!("export data --split split.toml --subset test --values {values} --out {values}.h5ad"),
            dir,
        );
        let file = H5ad::open(&dir.join(format!("{values}.h5ad"))).expect("readable");
        assert_eq!(file.told("unit").as_deref(), Some(values));
    }
    let labels = format!("--pert-col perturbation --control-pert {CONTROL}");
    for (pred, real) in [("scaled", "scaled"), ("log1p", "scaled"), ("scaled", "counts")] {
        let words = format!("evaluate --pred {pred}.h5ad --real {real}.h5ad --out scores {labels}");
        let output = scale_engine(&words.split_whitespace().collect::<Vec<_>>(), dir);
        let said = text(&output.stderr);
        assert!(
            output.status.code() == Some(1) && said.contains("scaled.h5ad: holds what the network"),
            "{said}"
        );
        assert!(said.contains("write these with --values log1p") && !dir.join("scores").exists(), "{said}");
    }
    let path = |name: &str| dir.join(format!("{name}.h5ad"));
    let read = Sample::read(&path("scaled"), "perturbation", None).expect_err("refused").to_string();
    let files = Files {
        real: path("log1p"),
        pred: path("scaled"),
        perturbation: "perturbation".into(),
        cell_type: None,
    };
    let compared = evaluate_files(&files, [], &settings()).expect_err("refused").to_string();
    assert!(read == compared && read.contains("scaled.h5ad"), "{read} {compared}");
    let data = Data::open(&dir.join("data")).expect("data");
    let mut scaled = Population::like(data.manifest());
    scaled.unit = Unit::Scaled;
    let held = Sample::of("mine", scaled, false).expect_err("refused").to_string();
    assert!(held.starts_with("mine: holds what the network sees"), "{held}");
}

#[test]
fn words_that_need_each_other_are_asked_for_and_failures_have_their_codes() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let files = ["evaluate", "--pred", "p.h5ad", "--real", "r.h5ad", "--out", "scores"];
    let code = |more: &[&str]| {
        let output = scale_engine(&[&files[..], more].concat(), dir.path());
        (output.status.code(), text(&output.stderr))
    };
    let (two, said) = code(&["--baselines", "data"]);
    assert!(two == Some(2) && said.contains("--split"), "{said}");
    let (two, said) = code(&["--profile", "everything"]);
    assert!(two == Some(2) && said.contains("minimal"), "{said}");
    let (two, said) = code(&["--rules", "fixd"]);
    let asked = "invalid value 'fixd' for '--rules <RULES>'";
    assert!(
        two == Some(2) && said.contains(asked) && said.contains("a similar value exists: 'fixed'"),
        "{said}"
    );
    let (failed, said) = code(&[]);
    assert!(failed == Some(1) && said.contains("r.h5ad"), "{said}");
    assert!(!dir.path().join("scores").exists(), "nothing is left of a run that failed");
}

#[test]
fn counts_against_logs_are_said() {
    let real = simulated(&[40, 12], 6, 0.3, 0, 1);
    let counts = simulated(&[40, 12], 6, 0.3, 0, 2);
    let values = counts.x.values().iter().map(|v| (v * 3.0).round()).collect();
    let counts = Side { x: Matrix::Dense { genes: 6, values }, ..counts };
    let notes = evaluate(&real, &counts, &settings()).expect("a report").notes().join("\n");
    assert!(
        notes.contains("raw counts, scaled to the median") && notes.contains("one side has counts"),
        "{notes}"
    );
}

#[test]
fn sides_of_other_scales_are_said() {
    let real = simulated(&[40, 12], 6, 0.3, 0, 1);
    let times = |factor: f32| {
        let values = real.x.values().iter().map(|v| v * factor).collect();
        let pred = Side { x: Matrix::Dense { genes: 6, values }, ..real.clone() };
        evaluate(&real, &pred, &settings()).expect("a report").notes().join("\n")
    };
    for factor in [std::f32::consts::LOG2_E, 1.0 / std::f32::consts::LN_10] {
        let notes = times(factor);
        assert!(notes.contains("the mean value of") && notes.contains("natural log1p"), "{notes}");
    }
    assert_eq!(times(1.1), "");
}

#[test]
fn an_unused_category_is_no_perturbation() {
    let mut side = simulated(&[20, 10], 5, 0.3, 0, 1);
    side.labels.names.push("nobody".into());
    assert_eq!(evaluate(&side, &side, &settings()).expect("a report").perturbations, ["P001"]);
}

/// Any small numbers and labels give an error or a board, never a panic, and no NaN if the rules leave it out.
#[test]
fn no_input_panics() {
    let (mut boards, mut errors) = (0, 0);
    for seed in 0..600 {
        let rng = Rng::new(seed);
        let genes = 1 + rng.below(0, 4) as usize;
        let side = |rng: Rng| {
            let cells = rng.below(0, 9) as usize;
            let label = |i: u64| ["ctrl", "A", "B", "C"][rng.at(1).below(i, 4) as usize];
            let labels: Vec<&str> = (0..cells as u64).map(label).collect();
            // Rarely something that is not expression; half of the sides are constant, a fifth of the others whole numbers.
            let odd = [f32::NAN, -1.0, f32::INFINITY, 16.0][rng.below(1, 4) as usize];
            let (flat, whole, wrong) = (rng.below(2, 2), rng.below(3, 5), rng.below(4, 6));
            let value = |i: u64| match rng.at(2).below(i, 20) {
                0 if wrong == 0 => odd,
                _ if flat == 0 => 0.5,
                draw if whole == 0 => draw as f32,
                draw if draw < 6 => 0.0,
                draw => draw as f32 * 0.3 + 0.05,
            };
            let values = (0..(cells * genes) as u64).map(value).collect();
            let names = (0..genes).map(|gene| if gene == 2 { "A".into() } else { format!("G{gene}") });
            Side::new("side", Matrix::Dense { genes, values }, &labels, names.collect())
        };
        let real = side(rng.at(1));
        // Compared with itself, or with another side.
        let pred = if seed % 3 == 0 { real.clone() } else { side(rng.at(2)) };
        for rules in Rules::ALL {
            let settings = Settings { rules, ceiling: true, bootstrap: 3, ..settings() };
            match Board::of(None, &real, &pred, &[], &settings) {
                Err(_) => errors += 1,
                Ok(board) => {
                    boards += 1;
                    let undefined = board.report.columns.iter().any(|column| column.summary().nan > 0);
                    assert!(
                        !undefined || rules == Rules::CellEval066,
                        "seed {seed}: NaN by {}",
                        rules.name()
                    );
                }
            }
        }
    }
    assert!(boards > 100 && errors > 100, "{boards} boards, {errors} errors");
}

#[test]
fn columns_and_control_label_are_those_that_our_files_record() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let place = |name: &str| dir.path().join(name);
    let (_data, data) = Small::of_groups(header(20, 1, 1, 1), &[(0, 0, 0, 9), (0, 1, 0, 8)]).open();
    let cells = measured(&data, &[1], true).expect("cells");
    cells.clone().write(&place("own.h5ad")).expect("written");
    must("evaluate --pred own.h5ad --real own.h5ad --out scores --profile minimal", dir.path());
    let told = std::fs::read_to_string(place("scores/results.json")).expect("results");
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(
        (cells.columns.perturbation.as_str(), &told["settings"]["control_pert"]),
        ("gene", &Value::from("ctrl"))
    );
    // Another program's file records nothing.
    let own = H5ad::open(&place("own.h5ad")).expect("readable");
    h5ad::write(&place("other.h5ad"), own.obs(), own.var(), X::Sparse(cells.cells()), &[]).expect("written");
    let refused = |words: &str| {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = scale_engine(&words, dir.path());
        assert_eq!(output.status.code(), Some(2));
        text(&output.stderr)
    };
    let said = refused("evaluate --pred other.h5ad --real other.h5ad --out none");
    assert!(
        said.contains("target_gene is the default of --pert-col") && said.contains("gene, cell_type"),
        "{said}"
    );
    // The label is that of the recorded column alone.
    let said = refused("evaluate --pred own.h5ad --real own.h5ad --out none --pert-col cell_type");
    assert!(said.contains("--control-pert: ") && said.contains("\"non-targeting\""), "{said}");
    let said = refused("evaluate --pred other.h5ad --real other.h5ad --out none --pert-col gene");
    assert!(said.contains("--control-pert: ") && said.contains("\"non-targeting\""), "{said}");
}
