//! One training step: forward, backward, clip, AdamW; 2,000 genes, 16 sets of 32 pairs, 4 of s40.
//!
//! cargo bench --bench step                     (tools/step_torch.py times the same steps in PyTorch)

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scale_engine::config::Config;
use scale_engine::memory;
use scale_engine::model::condition::Vocabulary;
use scale_engine::model::losses::{Draws, Examples};
use scale_engine::model::{Model, Statistics};
use scale_engine::optim::Optimizer;
use scale_engine::params::{Params, Share};
use scale_engine::rng::Rng;
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;

const GENES: usize = 2000;

/// As `train::train` does it: memory is kept, the step runs inside the pool.
fn step(c: &mut Criterion) {
    memory::keep();
    let mut group = c.benchmark_group("step");
    group.sample_size(10);
    for (name, preset, sets, set) in [
        ("llama", "tiny", 16, vec![]),
        ("mlp", "tiny", 16, vec!["encoder.kind=mlp".to_string()]),
        ("paper", "tiny", 16, vec!["recipe=paper".into()]),
        ("s40", "s40", 4, vec![]),
    ] {
        let config = Config::load(Some(preset), None, &set).expect("a preset");
        let (b, n) = (sets, 32);
        let vocabulary = Vocabulary { cell_types: 4, perturbations: 21, batches: 2, features: None };
        let statistics = Statistics { mean: vec![0.05; GENES], std: vec![0.1; GENES] };
        let (model, table) = Model::new(&config, &vocabulary, statistics);
        let weights = table.draw(Rng::new(0));
        let mut params = Params::new(table, weights).with_gradients();
        let share = Share::whole(params.len());
        let mut optimizer = Optimizer::new(&mut params, share);
        let rng = Rng::new(1);
        let count = (2 * b * n * GENES) as u64;
        // A fifth of the values are above zero.
        let cells: Vec<f32> = (0..count).map(|i| (0.2 * (rng.normal(i) - 0.84)).max(0.0)).collect();
        let ids: Vec<[u32; 3]> = (0..b as u32).map(|i| [i % 4, i % 21, i % 2]).collect();
        let examples = Examples::new(Tensor::new(&[2 * b, n, GENES], cells), None, &ids);
        group.throughput(Throughput::Elements((b * n) as u64));
        let mut k = 0;
        group.bench_function(name, |bench| {
            let mut step = || {
                let mut tape = Tape::new();
                let vars = params.bind(&mut tape);
                let draws = Draws::at(0, k, 0..b, config.flow.t_zero);
                let losses = model.losses(&mut tape, &vars, &examples, &draws);
                let found = tape.backward(losses.total);
                params.collect(&vars, found);
                optimizer.step(&mut params, &config.optim, k, 1 << 20);
                k += 1;
            };
            bench.iter(|| rayon::scope(|_| step()));
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
