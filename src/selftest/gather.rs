//! Dense rows made on a device, compared with the host's. No tape records this, so it is no row of the table.

use crate::data::loader::{Counts, Rows};
use crate::data::shard::Scale;
use crate::gpu::{Gpu, Real};
use crate::ops::gather::{Cells, Span, gather};
use crate::rng::Rng;
use crate::train::{row_scaling, row_spans, stored_bytes};

use super::Check;

/// Cells and genes to make: one gene, odd ones, the model's, more than a tile of shared memory holds.
const SIZES: [[usize; 2]; 5] = [[3, 1], [13, 97], [11, 2000], [6, 8200], [3, 20_011]];

/// How cells are stored.
#[derive(Clone, Copy, Debug)]
enum Stored {
    Narrow,
    Wide,
    Log,
    Log10,
}

/// Cells that each store about a certain share of their genes: the first none, the second all of them.
fn cells(count: usize, genes: usize, stored: Stored) -> Rows {
    let rng = Rng::new(genes as u64);
    let (mut starts, mut ids, mut values, mut scale) = (vec![0u32], Vec::new(), Vec::new(), Vec::new());
    for row in 0..count as u64 {
        let stream = rng.at(row);
        let share = [0.0, 1.0, 0.15, 0.3, 0.02][row as usize % 5];
        for gene in (0..genes as u64).filter(|&g| stream.uniform(2 * g) < share) {
            let size = -stream.uniform(2 * gene + 1).max(1e-7).ln();
            ids.push(gene as u16);
            values.push(match stored {
                // Mostly small counts, some beyond what a table holds, a few that fill a u16.
                Stored::Narrow => [1.0, 30.0, 500.0, 65535.0][(size as usize).min(3)] * size.min(1.0),
                Stored::Wide => 1e5 * size,
                Stored::Log | Stored::Log10 => size,
            });
        }
        starts.push(ids.len() as u32);
        scale.push(0.05 + stream.uniform(9_999_999));
    }
    let (values, kind) = match stored {
        Stored::Narrow => (Counts::U16(values.iter().map(|&v| v.ceil() as u16).collect()), Scale::Counts),
        Stored::Wide => (Counts::F32(values.iter().map(|v| v.ceil()).collect()), Scale::Counts),
        Stored::Log => (Counts::F32(values), Scale::Log1p),
        Stored::Log10 => (Counts::F32(values), Scale::Log1p10),
    };
    Rows { starts, genes: ids, values, scale, kind, factor: 7.3, width: genes }
}

/// Makes some of the rows, in the given order, from arrays that hold all of them.
fn gathered(gpu: &Gpu, all: &Rows, order: &[usize], genes: usize) -> Vec<f32> {
    let (values, wide) = stored_bytes(&all.values);
    let values = gpu.upload("values", values);
    let genes_of = gpu.upload("genes", &all.genes);
    let resident = Cells { stored: all.genes.len(), genes: &genes_of, values: &values, wide };
    let of_all = row_spans(all);
    let spans = gpu.upload("spans", &order.iter().map(|&r| of_all[r]).collect::<Vec<Span>>());
    gather(&resident, &spans, order.len(), genes, row_scaling(all)).to_host().into_vec()
}

/// Checks every storage and size; the error is the largest of any number, relative to the host's.
pub fn check(gpu: &Gpu) -> Check {
    let allowed = if gpu.real() == Real::F32 { 1e-6 } else { 1.0 / 256.0 };
    let mut check = Check {
        name: "gather".into(),
        real: gpu.real(),
        rows: 0,
        output: String::new(),
        error: 0.0,
        allowed,
    };
    for [count, genes] in SIZES {
        for stored in [Stored::Narrow, Stored::Wide, Stored::Log, Stored::Log10] {
            let all = cells(count, genes, stored);
            let mut told = vec![0.0; count * genes];
            all.dense(&mut told);
            let order: Vec<usize> = (0..count).rev().chain([1, 1]).collect();
            let found = gathered(gpu, &all, &order, genes);
            let told = order.iter().flat_map(|&r| &told[r * genes..][..genes]);
            let off = found
                .iter()
                .zip(told)
                .map(|(x, y)| if x == y { 0.0 } else { f64::from((x - y).abs() / y.abs()) });
            let worst =
                off.fold(0.0, |worst: f64, off| if off.is_nan() || off > worst { off } else { worst });
            check.rows += 1;
            if worst.is_nan() || worst >= check.error {
                (check.error, check.output) = (worst, format!("{stored:?} [{count}, {genes}]"));
            }
        }
    }
    check
}
