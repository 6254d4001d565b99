//! The whole model against an independent twin in PyTorch (tools/golden.py): loss, parts, every gradient, ten AdamW losses.

use std::path::Path;

use safetensors::SafeTensors;
use scale_engine::config::Config;
use scale_engine::model::condition::Vocabulary;
use scale_engine::model::losses::{Draws, Examples};
use scale_engine::model::{Model, Statistics};
use scale_engine::optim::Optimizer;
use scale_engine::params::{Entry, Params, Share};
use scale_engine::rng::Rng;
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;
use serde_json::Value;

/// f32 against f64: the loss, and a gradient by its relative norm error.
const LOSS: f64 = 2e-5;
const GRADIENT: f64 = 1e-3;
/// Ten steps at a rate of 0.01 carry rounding along with the weights.
const AFTER_STEPS: f64 = 2e-3;

struct Golden {
    cases: Value,
    bytes: Vec<u8>,
}

impl Golden {
    fn open() -> Golden {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        let text = std::fs::read_to_string(dir.join("cases.json")).expect("tests/golden/cases.json");
        let bytes = std::fs::read(dir.join("golden.safetensors")).expect("tests/golden/golden.safetensors");
        Golden { cases: serde_json::from_str(&text).expect("JSON"), bytes }
    }

    fn tensor(&self, name: &str) -> Tensor {
        let file = SafeTensors::deserialize(&self.bytes).expect("a safetensors file");
        let view = file.tensor(name).unwrap_or_else(|_| panic!("golden.safetensors lacks {name}"));
        Tensor::new(view.shape(), bytemuck::pod_collect_to_vec(view.data()))
    }

    fn size(&self, name: &str) -> usize {
        self.cases["sizes"][name].as_u64().expect("a size") as usize
    }
}

/// The base config with the case's settings on top.
fn config(golden: &Golden, case: &Value) -> Config {
    let mut set = vec!["recipe=paper".to_string(), "conditions.width=12".into()];
    for (section, fields) in golden.cases["base"].as_object().expect("sections") {
        for (field, value) in fields.as_object().expect("fields") {
            set.push(format!("{section}.{field}={value}"));
        }
    }
    set.push(format!("optim.lr={}", golden.cases["optimizer"]["lr"]));
    // The twin's schedule has round(0.02 * 10) = 0 steps of warm-up.
    set.push("train.steps=10".into());
    set.extend(
        case["set"].as_array().expect("settings").iter().map(|s| s.as_str().expect("text").to_string()),
    );
    Config::load(None, None, &set).expect("a good config")
}

/// The twin's parameters that make up one of ours, each with the places of its numbers in ours. The twin keeps the matrices of a
/// flow block apart; ours are stacked (`w_in`) or side by side (`w_out`).
fn twins(entry: &Entry) -> Vec<(Entry, Vec<usize>)> {
    let part = |name: &str, shape: &[usize], places: Vec<usize>| {
        (Entry { name: name.into(), shape: shape.into(), offset: 0, ..entry.clone() }, places)
    };
    let (block, name) = entry.name.rsplit_once('.').unwrap_or_default();
    let (len, named) = (entry.range().len(), |name: &str| format!("{block}.{name}"));
    if !block.starts_with("flow.blocks.") || !["w_in", "w_out"].contains(&name) {
        return vec![part(&entry.name, &entry.shape, (0..len).collect())];
    }
    let [rows, columns] = entry.shape[..] else { panic!("{} is no matrix", entry.name) };
    if name == "w_in" {
        let cut = 3 * columns * columns;
        return vec![
            part(&named("w_qkv"), &[3 * columns, columns], (0..cut).collect()),
            part(&named("w_gate_up"), &[rows - 3 * columns, columns], (cut..len).collect()),
        ];
    }
    let places = |of_attention: bool| (0..len).filter(|i| (i % columns < rows) == of_attention).collect();
    vec![
        part(&named("w_out"), &[rows, rows], places(true)),
        part(&named("w_down"), &[rows, columns - rows], places(false)),
    ]
}

/// The twin's weights: drawn by name, so that the file need not contain them.
fn weight(entry: &Entry) -> Vec<f32> {
    let rng = Rng::new(1234).at(u64::from(crc32fast::hash(entry.name.as_bytes())));
    let name = entry.name.as_str();
    let (offset, std) = if name.ends_with("patch.e") {
        (0.0, 0.02)
    } else if name.starts_with("conditions.") && !name.ends_with("project") && name.matches('.').count() == 1
        || ["fusion.seed", "fusion.class", "gene_encoder.pool.query"].contains(&name)
    {
        (0.0, 1.0)
    } else if entry.shape.len() == 1 {
        let gain = name.ends_with("norm") || name.ends_with(".gain");
        (if gain { 1.0 } else { 0.0 }, 0.1)
    } else {
        let fan_in =
            if name.ends_with("patch.w") { entry.shape[1] } else { entry.shape[entry.shape.len() - 1] };
        (0.0, 1.0 / (fan_in as f32).sqrt())
    };
    (0..entry.range().len() as u64).map(|i| offset + std * rng.normal(i)).collect()
}

struct Walk {
    model: Model,
    params: Params,
    examples: Examples,
    seed: u64,
    step: u64,
}

impl Walk {
    fn new(golden: &Golden, case: &Value) -> Walk {
        let config = config(golden, case);
        let vocabulary = Vocabulary {
            cell_types: golden.size("cell_types"),
            perturbations: golden.size("perturbations"),
            batches: golden.size("batches"),
            features: (case["features"] == true).then(|| golden.tensor("input/features")),
        };
        let statistics = Statistics {
            mean: golden.tensor("input/mean").into_vec(),
            std: golden.tensor("input/std").into_vec(),
        };
        let (model, table) = Model::new(&config, &vocabulary, statistics);
        let mut weights = vec![0.0; table.len()];
        for (entry, (twin, places)) in
            table.entries().iter().flat_map(|e| twins(e).into_iter().map(move |t| (e, t)))
        {
            places.iter().zip(weight(&twin)).for_each(|(at, w)| weights[entry.offset + at] = w);
        }
        let params = Params::new(table, Tensor::new(&[weights.len()], weights)).with_gradients();
        let (b, n, g) = (golden.size("sets"), golden.size("cells"), golden.size("genes"));
        let mut cells = golden.tensor("input/x0").into_vec();
        cells.extend(golden.tensor("input/x1").into_vec());
        let ids: Vec<[u32; 3]> =
            serde_json::from_value(golden.cases["conditions"].clone()).expect("three ids a set");
        let examples =
            Examples::new(Tensor::new(&[2 * b, n, g], cells), Some(golden.tensor("input/shift")), &ids);
        let number = |name: &str| case[name].as_u64().expect("a number");
        Walk { model, params, examples, seed: number("seed"), step: number("step") }
    }

    /// Loss, parts and gradients (in the parameters), `ahead` steps after the case's.
    fn losses(&mut self, ahead: u64) -> (f64, Vec<(&'static str, f64)>) {
        let config = self.model.config();
        let sets = self.examples.tokens[0].1.len();
        let draws = Draws::at(self.seed, self.step + ahead, 0..sets, config.flow.t_zero);
        let mut tape = Tape::new();
        let vars = self.params.bind(&mut tape);
        let losses = self.model.losses(&mut tape, &vars, &self.examples, &draws);
        let item = |var| f64::from(tape.value(var).item());
        let parts = losses.parts.iter().map(|part| (part.name, item(part.value))).collect();
        let loss = item(losses.total);
        let found = tape.backward(losses.total);
        self.params.collect(&vars, found);
        (loss, parts)
    }
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}

/// The relative norm error of a gradient, from the full tensor if the golden file has it, else from its norm and one random
/// projection.
fn gradient_error(golden: &Golden, case: &Value, entry: &Entry, found: &[f32]) -> f64 {
    let truth = &case["grad"][&entry.name];
    let size = truth["norm"].as_f64().unwrap_or_else(|| panic!("the twin has no parameter {}", entry.name));
    let floor = size.max(1e-6);
    if case["full"] == true {
        let name = format!("{}/grad/{}", case["name"].as_str().expect("text"), entry.name);
        let truth = golden.tensor(&name);
        assert_eq!(truth.shape(), entry.shape, "{name}");
        return norm(truth.data().iter().zip(found).map(|(a, b)| f64::from(*a) - f64::from(*b))) / floor;
    }
    let probe = Rng::new(7).at(u64::from(crc32fast::hash(entry.name.as_bytes())));
    let dot: f64 = found.iter().zip(0..).map(|(&g, i)| f64::from(g) * f64::from(probe.normal(i))).sum();
    let norm = norm(found.iter().map(|&g| f64::from(g)));
    let by_norm = (norm - size).abs() / floor;
    by_norm.max((dot - truth["dot"].as_f64().expect("a number")).abs() / floor)
}

#[test]
fn loss_parts_and_every_gradient_are_the_twins() {
    let golden = Golden::open();
    let mut wrong = Vec::new();
    for case in golden.cases["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("text");
        let mut walk = Walk::new(&golden, case);
        let (loss, parts) = walk.losses(0);
        let mut check = |what: String, error: f64, allowed: f64| {
            if error.is_nan() || error > allowed {
                wrong.push(format!("{name}: {what} off by {error:.1e}"));
            }
        };
        let truth = case["loss"].as_f64().expect("a number");
        check("loss".into(), ((loss - truth) / truth).abs(), LOSS);
        for (part, value) in parts {
            let truth = case["components"][part].as_f64().expect("a number");
            check(part.into(), (value - truth).abs() / truth.abs().max(0.1), LOSS);
        }
        let named = case["grad"].as_object().expect("gradients").len();
        let mut met = 0;
        for entry in walk.params.entries() {
            let found = &walk.params.grads().data()[entry.range()];
            for (twin, places) in twins(entry) {
                let found: Vec<f32> = places.iter().map(|&at| found[at]).collect();
                check(twin.name.clone(), gradient_error(&golden, case, &twin, &found), GRADIENT);
                met += 1;
            }
        }
        assert_eq!(named, met, "{name}: parameters");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ten_adamw_steps_are_the_twins() {
    let golden = Golden::open();
    let mut wrong = Vec::new();
    for case in golden.cases["cases"].as_array().expect("cases") {
        let mut walk = Walk::new(&golden, case);
        let share = Share::whole(walk.params.len());
        let mut optimizer = Optimizer::new(&mut walk.params, share);
        let optim = walk.model.config().optim.clone();
        for (i, truth) in case["adamw_losses"].as_array().expect("ten losses").iter().enumerate() {
            let (loss, truth) = (walk.losses(i as u64).0, truth.as_f64().expect("a number"));
            let error = ((loss - truth) / truth).abs();
            if error.is_nan() || error > AFTER_STEPS {
                wrong.push(format!("{}: loss {i} is {loss}, the twin's {truth}", case["name"]));
            }
            optimizer.step(&mut walk.params, &optim, i as u64, 10);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
