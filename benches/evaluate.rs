//! 10,000 cells, 2,000 genes, 50 perturbations: rank sums with means and Benjamini-Hochberg, mean profiles, energy distances.
//!
//! cargo bench --bench evaluate

use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use scale_engine::data::h5ad::{Cells, Labels};
use scale_engine::evaluate::Rules;
use scale_engine::evaluate::de::Table;
use scale_engine::evaluate::edistance::edistances;
use scale_engine::evaluate::pseudobulk::Pseudobulk;
use scale_engine::evaluate::side::{Groups, Matrix, Rows, Side};
use scale_engine::rng::Rng;

const CELLS: usize = 10_000;
const GENES: usize = 2000;
const PERTURBATIONS: u64 = 50;

/// Measured cells: a fifth of the values above zero, few distinct ones per cell. A fifth of the cells are controls.
fn measured() -> Matrix {
    let rng = Rng::new(1);
    let (mut starts, mut genes, mut values) = (vec![0], Vec::new(), Vec::new());
    for cell in 0..CELLS as u64 {
        let rng = rng.at(cell);
        let total = 3000.0 + 9000.0 * rng.uniform(1 << 40);
        for gene in 0..GENES as u64 {
            let draw = rng.uniform(gene);
            if draw < 0.2 {
                genes.push(gene as u32);
                values.push(((1.0 + (0.2 / (draw + 0.01)).floor()) / total * 1e4).ln_1p());
            }
        }
        starts.push(genes.len());
    }
    Matrix::Sparse(Cells::new((CELLS, GENES), starts, genes, values))
}

/// Predicted cells: every value above zero, no two alike.
fn predicted() -> Matrix {
    let rng = Rng::new(2);
    Matrix::Dense {
        genes: GENES,
        values: (0..(CELLS * GENES) as u64).map(|i| 2.0 * rng.uniform(i)).collect(),
    }
}

fn differential_expression(c: &mut Criterion) {
    let rng = Rng::new(3);
    let label = |i: u64| match rng.below(2 * i, 5) {
        0 => "control".to_string(),
        _ => format!("P{}", rng.below(2 * i + 1, PERTURBATIONS)),
    };
    let labels: Vec<String> = (0..CELLS as u64).map(label).collect();
    let mut group = c.benchmark_group("evaluate");
    group.sample_size(10).throughput(Throughput::Elements(GENES as u64 * PERTURBATIONS));
    for (name, x) in [("measured", measured()), ("predicted", predicted())] {
        let genes = (0..GENES).map(|g| format!("G{g}")).collect();
        let (source, labels) = (PathBuf::from(name), Labels::of(&labels));
        let side = Side { source, x, labels, genes, total: None };
        let groups = Groups::of(&side, "control").expect("a control");
        let rows = Rows::of(&side.x, &groups);
        group.bench_function(format!("de/{name}"), |b| {
            b.iter(|| Table::of(rows, &side.genes, "control", &Rules::default().definitions()));
        });
        group.bench_function(format!("pseudobulk/{name}"), |b| b.iter(|| Pseudobulk::of(rows)));
        group.bench_function(format!("edistance/{name}"), |b| b.iter(|| edistances(rows)));
    }
}

criterion_group!(benches, differential_expression);
criterion_main!(benches);
