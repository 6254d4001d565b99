//! What must hold for the model whatever its weights.

use scale_engine::config::{Config, EncoderKind};
use scale_engine::error::Error;
use scale_engine::model::condition::{Vocabulary, three};
use scale_engine::model::losses::{Draws, Examples};
use scale_engine::model::{Model, Statistics};
use scale_engine::params::{Params, Table};
use scale_engine::profile::vocabulary;
use scale_engine::rng::Rng;
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;
use scale_engine::train::Learner;

const VOCABULARY: Vocabulary = Vocabulary { cell_types: 3, perturbations: 4, batches: 2, features: None };

fn small(set: &[&str]) -> Config {
    let mut all =
        vec!["encoder.patch=16", "encoder.layers=2", "data.sets=3", "data.cells=7", "flow.layers=2"];
    all.extend(set);
    let all: Vec<String> = all.into_iter().map(String::from).collect();
    Config::load(Some("tiny"), None, &all).expect("a good config")
}

fn build(config: &Config, genes: usize) -> (Model, Params) {
    let statistics = Statistics { mean: vec![0.05; genes], std: vec![0.1; genes] };
    let (model, table) = Model::new(config, &VOCABULARY, statistics);
    let weights = table.draw(Rng::new(3));
    (model, Params::new(table, weights).with_gradients())
}

/// Sparse cells [B, N, G] on the network's scale.
fn cells(shape: [usize; 3], seed: u64) -> Tensor {
    let rng = Rng::new(seed);
    let count = shape.iter().product::<usize>() as u64;
    Tensor::new(&shape, (0..count).map(|i| (0.2 * rng.normal(i)).max(0.0)).collect())
}

/// Cells of every set in another order.
fn permuted(x: &Tensor, order: &[usize]) -> Tensor {
    let [b, n, g] = x.dims("permuted");
    let mut out = Vec::with_capacity(x.len());
    for set in 0..b {
        for &cell in order {
            out.extend_from_slice(&x.data()[(set * n + cell) * g..][..g]);
        }
    }
    Tensor::new(&[b, n, g], out)
}

fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = a.data().iter().zip(b.data()).map(|(x, y)| square(x - y)).sum();
    (off / a.data().iter().map(|&x| square(x)).sum::<f64>()).sqrt()
}

#[test]
fn the_presets_have_the_papers_counts_of_parameters() {
    for (preset, expected, tolerance) in
        [("tiny", 2.2e6, 0.05), ("s40", 40e6, 0.05), ("s184", 184e6, 0.01), ("s280", 280e6, 0.01)]
    {
        let config = Config::new(preset, "paper").expect("a preset");
        let statistics = Statistics { mean: vec![0.0; 2000], std: vec![1.0; 2000] };
        let count = Model::new(&config, &vocabulary(), statistics).1.count() as f64;
        assert!(
            (count / expected - 1.0).abs() < tolerance,
            "{preset}: {count} parameters, expected {expected}"
        );
    }
}

#[test]
fn reordering_the_cells_reorders_the_prediction() {
    let config = small(&[]);
    let (model, params) = build(&config, 50);
    let x = cells([3, 7, 50], 1);
    let order = [4, 2, 6, 0, 5, 1, 3];
    let tokens = three(&[[0, 1, 0], [2, 3, 1], [1, 1, 1]]);
    let starts: Vec<Rng> = (0..3).map(Rng::new).collect();
    let straight = model.generate(&params, &x, None, &tokens, 2, &starts);
    let turned = model.generate(&params, &permuted(&x, &order), None, &tokens, 2, &starts);
    let error = distance(&permuted(&straight, &order), &turned);
    assert!(error < 1e-5, "relative error {error:.1e}");
}

#[test]
fn the_gene_encoder_lets_no_cell_see_another_and_the_set_encoder_does() {
    for kind in [EncoderKind::Llama, EncoderKind::Attention, EncoderKind::Mlp] {
        let mut config = small(&[]);
        config.encoder.kind = kind;
        let mut table = Table::default();
        let mut build = scale_engine::model::build::Build::new(&mut table);
        let encoder =
            scale_engine::model::gene_encoder::GeneEncoder::new(&mut build, &config.encoder, 50, 32);
        let weights = table.draw(Rng::new(3));
        let params = Params::new(table, weights);
        let encode = |x: &Tensor| {
            let mut t = Tape::off();
            let p = params.bind(&mut t);
            let x = t.constant(x.reshape(&[7, 50]));
            let h = encoder.forward(&mut t, &p, x);
            t.value(h).clone()
        };
        let x = cells([1, 7, 50], 2);
        let mut other = x.clone().into_vec();
        other[6 * 50..].fill(0.7);
        let (a, b) = (encode(&x), encode(&Tensor::new(&[1, 7, 50], other)));
        assert_eq!(a.slice(0..6).data(), b.slice(0..6).data(), "{kind:?}");
        assert_ne!(a.slice(6..7).data(), b.slice(6..7).data(), "{kind:?}");
    }
    let config = small(&[]);
    let (model, params) = build(&config, 50);
    let x = cells([1, 7, 50], 2);
    let mut other = x.clone().into_vec();
    other[6 * 50..].fill(0.7);
    let (a, b) =
        (model.reconstruct(&params, &x), model.reconstruct(&params, &Tensor::new(&[1, 7, 50], other)));
    let first = |t: &Tensor| t.data()[..50].to_vec();
    assert_ne!(first(&a), first(&b));
}

#[test]
fn latents_have_unit_mean_square() {
    let config = small(&[]);
    let (model, params) = build(&config, 50);
    let mut t = Tape::off();
    let p = params.bind(&mut t);
    let x = t.constant(cells([3, 7, 50], 5));
    let z = model.encode(&mut t, &p, x);
    for row in t.value(z).data().chunks(config.flow.width) {
        let square = row.iter().map(|x| x * x).sum::<f32>() / row.len() as f32;
        assert!((square - 1.0).abs() < 1e-3, "{square}");
    }
}

#[test]
fn one_euler_step_and_the_endpoint_agree_and_every_set_stands_alone() {
    for set in ["flow.prediction=x", "flow.prediction=v", "flow.start=mixed"] {
        let config = small(&[set]);
        let (model, params) = build(&config, 50);
        let x = cells([3, 7, 50], 1);
        let ids = [[0, 1, 0], [2, 3, 1], [1, 1, 1]];
        let starts: Vec<Rng> = (0..3).map(Rng::new).collect();
        let together = model.generate(&params, &x, None, &three(&ids), 1, &starts);
        for i in 0..3 {
            let alone = model.generate(
                &params,
                &x.slice(i..i + 1),
                None,
                &three(&ids[i..i + 1]),
                1,
                &starts[i..i + 1],
            );
            let error = distance(&together.slice(i..i + 1), &alone);
            assert!(error < 1e-5, "{set}: set {i}, relative error {error:.1e}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_bits_on_one_thread_and_on_two() {
    let config = small(&["loss.w_endpoint=0.1"]);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
        pool.install(|| {
            let (model, mut params) = build(&config, 50);
            let examples = Examples::new(cells([6, 7, 50], 9), None, &[[0, 1, 0], [2, 3, 1], [1, 1, 1]]);
            let mut tape = Tape::new();
            let vars = params.bind(&mut tape);
            let losses = model.losses(&mut tape, &vars, &examples, &Draws::at(1, 2, 0..3, 0.5));
            let loss = tape.value(losses.total).item();
            let found = tape.backward(losses.total);
            params.collect(&vars, found);
            (loss.to_bits(), params.grads().data().iter().map(|g| g.to_bits()).collect::<Vec<_>>())
        })
    };
    assert!(run(1) == run(2));
}

#[test]
#[should_panic(expected = "a shifted start needs the mean effects")]
fn a_shifted_start_is_not_predicted_from_cells_that_are_not_shifted() {
    predict("flow.start=shifted", 1);
}

#[test]
#[should_panic(expected = "no steps would decode the start")]
fn a_prediction_takes_a_step() {
    predict("flow.start=control", 0);
}

/// One cell of one set, without mean effects.
fn predict(set: &str, steps: usize) {
    let (model, params) = build(&small(&[set]), 50);
    model.generate(&params, &cells([1, 1, 50], 1), None, &three(&[[0, 1, 0]]), steps, &[Rng::new(1)]);
}

#[test]
fn a_learner_refuses_a_config_that_cannot_run() {
    let mut config = small(&[]);
    config.encoder.patch = 0;
    let statistics = Statistics { mean: vec![0.05; 50], std: vec![0.1; 50] };
    let error = Learner::new(&config, &VOCABULARY, statistics, None).expect_err("no genes per patch");
    assert!(matches!(&error, Error::Setting { field, .. } if field == "encoder.patch"), "{error}");
}

#[test]
#[should_panic(expected = "as many standard deviations as means")]
fn a_model_wants_both_statistics_of_the_same_genes() {
    Model::new(&small(&[]), &VOCABULARY, Statistics { mean: vec![0.05; 50], std: vec![0.1; 49] });
}

#[test]
fn weights_are_drawn_apart_as_wide_as_their_inputs_ask_and_only_matrices_decay() {
    let (_, params) = build(&small(&[]), 50);
    let numbers = |name: &str| params.tensor(params.table().find(name).expect(name)).into_vec();
    assert_ne!(numbers("set_encoder.phi.0.w"), numbers("set_encoder.phi.1.w"));
    let std = |x: Vec<f32>| (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
    // The ends of two blocks' branches, two to a block, add up to a variance of one.
    for (name, wanted) in [
        ("set_encoder.phi.0.w", 128f32.powf(-0.5)),
        ("gene_encoder.blocks.1.w_qkv", 64f32.powf(-0.5)),
        ("gene_encoder.blocks.1.w_out", 64f32.powf(-0.5) / 2.0),
        ("gene_encoder.blocks.1.w_down", 176f32.powf(-0.5) / 2.0),
    ] {
        let std = std(numbers(name));
        assert!((std / wanted - 1.0).abs() < 0.05, "{name}: {std}, not {wanted}");
    }
    let still =
        ["gene_encoder.patch.e", "conditions.cell_type", "conditions.perturbation", "conditions.batch"];
    for entry in params.entries() {
        let decays = entry.shape.len() > 1 && !still.contains(&entry.name.as_str());
        assert_eq!(entry.decay, decays, "{}", entry.name);
    }
}

#[test]
fn a_gene_that_is_never_seen_begins_at_a_number() {
    let config = small(&[]);
    let statistics = Statistics { mean: vec![0.0; 50], std: vec![0.0; 50] };
    let (_, table) = Model::new(&config, &VOCABULARY, statistics);
    assert!(table.draw(Rng::new(3)).data().iter().all(|w| w.is_finite()));
}
