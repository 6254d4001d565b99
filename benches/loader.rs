//! Cells per second per core from a data directory in the page cache: `cargo bench --bench loader`.
//!
//! 40,000 cells of 2,000 genes, a fifth of which are stored, in 60 groups; steps of 16 sets of 2 x 512 cells. The lines:
//!   sample   which cells make up a step
//!   sparse   the step's rows, sampled and copied out of the map, on one core: the goal is 1 M cells/s
//!   dense    the same, then normalised to [2BN, G], on one core: the goal is 0.5 M cells/s
//!   dense_rows   the normalisation alone
//! These are in CPU time of the thread, so that other load on the machine does not count; in wall time
//!   loader   what `Loader::next` delivers with two threads

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Bencher, Criterion, Throughput, criterion_group, criterion_main};
use scale_engine::config::DataConfig;
use scale_engine::data::loader::{Batch, Carry, Loader};
use scale_engine::data::sampler::Sampler;
use scale_engine::data::shard::{Data, Limits, RowsWriter, write_cells};
use scale_engine::rng::Rng;

#[path = "../tests/small_data.rs"]
#[allow(dead_code)]
mod small_data;

const GENES: usize = 2000;
const CELLS: usize = 40_000;

/// 4 cell types x (12 perturbations and the control) x 1 batch, and 8 more groups of a second batch: 60 in all.
fn write(dir: &std::path::Path) {
    let header = small_data::header(GENES, 4, 12, 2);
    let mut groups: Vec<[u32; 3]> = (0..4).flat_map(|c| (0..13).map(move |p| [c, p, 0])).collect();
    groups.extend((0..4).flat_map(|c| [[c, 0, 1], [c, 1, 1]]));
    assert_eq!(groups.len(), 60);
    let labels: Vec<_> = (0..CELLS).map(|i| groups[i % 60]).collect();
    // A hundred distinct cells over and over: what a cell holds does not change how fast it is read.
    let kinds: Vec<_> =
        (0..100).map(|i| small_data::cell(Rng::new(1).at(i), labels[0], GENES, 0.2)).collect();
    let fill = |rows: &mut RowsWriter| {
        (0..CELLS)
            .map(|i| &kinds[i * 37 % 100])
            .try_for_each(|cell| rows.push(&cell.name, &cell.genes, &cell.values, cell.library))
    };
    write_cells(dir, header, &labels, Limits::default(), fill).expect("written");
}

/// CPU time of this thread if the system reports it (Linux), else wall time.
fn cpu_time(start: Instant) -> Duration {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = told.and_then(|text| text.split_whitespace().next()?.parse().ok());
    nanoseconds.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Steps 0, 1, .. by CPU time.
fn on_one_core(b: &mut Bencher, mut work: impl FnMut(u64)) {
    b.iter_custom(|steps| {
        let start = Instant::now();
        let before = cpu_time(start);
        (0..steps).for_each(&mut work);
        cpu_time(start) - before
    });
}

fn loader(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    write(dir.path());
    let data = Arc::new(Data::open(dir.path()).expect("opened"));
    let groups: Vec<u32> = (0..data.groups().len() as u32).collect();
    let settings = DataConfig::default();
    let sampler = Sampler::new(&data, &groups, settings, 0).expect("a sampler");
    let mut group = c.benchmark_group("loader");
    group
        .throughput(Throughput::Elements(16 * 512 * 2))
        .measurement_time(Duration::from_secs(4))
        .sample_size(20);
    group.bench_function("sample", |b| on_one_core(b, |k| drop(black_box(sampler.step(k)))));
    let mut batch = Batch::of(&data, 0, &sampler.step(0));
    group.bench_function("sparse", |b| {
        on_one_core(b, |k| batch.refill(&data, k, &sampler.step(k), Carry::Rows))
    });
    // One set at a time, as a CPU that then computes with it would take it: 8 MB, overwritten again and again.
    let mut out = vec![0.0; 512 * 2 * GENES];
    group.bench_function("dense_sets", |b| {
        on_one_core(b, |k| {
            batch.refill(&data, k, &sampler.step(k), Carry::Rows);
            (0..16).for_each(|set| batch.rows.dense_rows(set * 1024, black_box(&mut out)));
        })
    });
    let mut out = vec![0.0; 16 * 512 * 2 * GENES];
    group.bench_function("dense_rows", |b| on_one_core(b, |_| batch.rows.dense_rows(0, black_box(&mut out))));
    group.bench_function("zeros", |b| on_one_core(b, |_| black_box(&mut out).fill(0.0)));
    group.bench_function("dense", |b| {
        on_one_core(b, |k| {
            batch.refill(&data, k, &sampler.step(k), Carry::Rows);
            batch.rows.dense_rows(0, black_box(&mut out));
        })
    });
    let mut loader =
        Loader::start(data.clone(), sampler.clone(), 0, 2, Carry::Rows).expect("the sampler's data");
    group.bench_function("loader", |b| {
        b.iter(|| {
            let batch = loader.next();
            loader.give_back(black_box(batch));
        })
    });
    group.finish();
}

criterion_group!(benches, loader);
criterion_main!(benches);
