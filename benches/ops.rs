//! Times of the CPU ops at the widths of the preset `tiny`: 16 sets of 64 control and 64 perturbed cells (its own step has 32), 2,000 genes.
//!
//!   cargo bench --bench ops [-- FILTER]        forward alone, and forward with backward; elements per second are FLOP/s

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scale_engine::config::{Activation, MmdKernel};
use scale_engine::tape::{Tape, Var};
use scale_engine::tensor::Tensor;
use std::hint::black_box;
use std::time::Duration;

/// Cells of a batch: control and perturbed.
const CELLS: usize = 2048;
/// Gene tokens of those cells.
const TOKENS: usize = CELLS * 16;

/// Times `op` on inputs of these shapes; `flops` is for the forward alone, with the backward it counts three times.
fn measure(
    c: &mut Criterion,
    name: &str,
    shapes: &[&[usize]],
    flops: usize,
    op: impl Fn(&mut Tape, &[Var]) -> Var,
) {
    // Cheap and without equal rows: every bench makes its inputs, even those that a filter leaves out.
    let number = |i: usize| move |at: usize| ((at * 7919 + i * 31) % 100_003) as f32 / 100_003.0 - 0.5;
    let inputs: Vec<Tensor> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| Tensor::new(s, (0..s.iter().product()).map(number(i)).collect()))
        .collect();
    let mut group = c.benchmark_group(name);
    group.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Elements(flops as u64));
    group.bench_function("forward", |b| {
        b.iter(|| {
            let mut tape = Tape::off();
            let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            let y = op(&mut tape, &vars);
            black_box(tape.value(y).clone())
        });
    });
    group.throughput(Throughput::Elements(3 * flops as u64));
    group.bench_function("both", |b| {
        let dy = {
            let mut tape = Tape::off();
            let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            let y = op(&mut tape, &vars);
            tape.value(y).clone()
        };
        b.iter(|| {
            let mut tape = Tape::new();
            let vars: Vec<Var> = inputs.iter().map(|x| tape.leaf(x.clone())).collect();
            let y = op(&mut tape, &vars);
            let dy = dy.clone();
            let loss = tape.record("loss", &[y], Tensor::scalar(0.0), move |_| vec![Some(dy)]);
            let mut found = tape.backward(loss);
            black_box(vars.iter().map(|&v| found.take(v)).collect::<Vec<_>>())
        });
    });
    group.finish();
}

fn matmul(c: &mut Criterion) {
    let shapes = [
        ("genes", CELLS, 256, 2000),
        ("decoder", CELLS, 128, 256),
        ("tokens_qkv", TOKENS, 64, 192),
        ("tokens_up", TOKENS, 64, 352),
        ("tokens_down", TOKENS, 176, 64),
        ("flatten", CELLS, 1024, 128),
        ("cells_in", CELLS / 2, 128, 1024),
        ("sets", 16, 512, 128),
    ];
    for (name, m, i, j) in shapes {
        let name = format!("linear_{name}");
        measure(c, &name, &[&[m, i], &[j, i], &[j]], 2 * m * i * j, |t, v| t.linear(v[0], v[1], Some(v[2])));
    }
    let flops = 2 * CELLS * 2000 * 64;
    measure(c, "patch_embed", &[&[CELLS, 2000], &[16, 128, 64], &[16, 64]], flops, |t, v| {
        let x = t.constant(t.value(v[0]).clone());
        t.patch_embed(x, v[1], v[2])
    });
}

fn attention(c: &mut Criterion) {
    measure(c, "attention_in_cell", &[&[CELLS, 16, 192]], 4 * CELLS * 16 * 16 * 64, |t, v| {
        t.attention(v[0], None, 1)
    });
    for n in [64, 512] {
        let name = format!("attention_in_set_{n}");
        measure(c, &name, &[&[16, n, 384], &[16, 256]], 4 * 16 * n * n * 128, |t, v| {
            t.attention(v[0], Some(v[1]), 2)
        });
    }
    measure(c, "seed_attention", &[&[128], &[16, 3, 256]], 4 * 16 * 3 * 128, |t, v| {
        t.seed_attention(v[0], v[1], 1)
    });
}

fn losses(c: &mut Criterion) {
    for (name, n, kernel) in [
        ("mmd_gaussian_64", 64, MmdKernel::Gaussian),
        ("mmd_energy_64", 64, MmdKernel::Energy),
        ("mmd_gaussian_512", 512, MmdKernel::Gaussian),
    ] {
        measure(c, name, &[&[16, n, 2000], &[16, n, 2000]], 6 * 16 * n * n * 2000, |t, v| {
            let x = t.constant(t.value(v[1]).clone());
            t.mmd(v[0], x, kernel)
        });
    }
    measure(c, "squared_error", &[&[CELLS, 2000], &[CELLS, 2000]], 3 * CELLS * 2000, |t, v| {
        let x = t.constant(t.value(v[1]).clone());
        t.squared_error(v[0], x)
    });
}

fn rows(c: &mut Criterion) {
    measure(c, "swiglu", &[&[TOKENS, 352]], TOKENS * 176, |t, v| t.swiglu(v[0]));
    measure(c, "rms_norm", &[&[TOKENS, 64], &[64]], TOKENS * 64, |t, v| t.rms_norm(v[0], Some(v[1])));
    measure(c, "softplus", &[&[CELLS, 2000]], CELLS * 2000, |t, v| t.activation(v[0], Activation::Softplus));
    measure(c, "silu", &[&[CELLS, 256]], CELLS * 256, |t, v| t.activation(v[0], Activation::Silu));
    measure(c, "add", &[&[TOKENS, 64], &[TOKENS, 64]], TOKENS * 64, |t, v| t.add(v[0], v[1]));
}

criterion_group!(benches, matmul, attention, losses, rows);
criterion_main!(benches);
