//! Kernels without a GPU: every op's small rows on the emulator, warps in random order, against the op's reference.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::progress::Progress;
use scale_engine::selftest::{self, Case, Size, Verdict, graph, model, table};

use super::emulate;

mod adamw;
mod choices;
mod extremes;
mod forgotten;
mod gather;
mod gradients;
mod loss;
mod many_sets;
mod post;
mod routes;
mod stories;
mod train;

/// Orders of warps and blocks that each row is run under.
const SEEDS: [u64; 3] = [1, 2, 3];

/// Numbers of a row's inputs up to which it is emulated.
const SMALL: usize = 70_000;

/// The folder of the compiled kernels; `None` without g++.
pub fn emulated() -> Option<&'static Path> {
    static FOLDER: LazyLock<Option<PathBuf>> = LazyLock::new(|| emulate::folder("kernels", None));
    FOLDER.as_deref()
}

/// Holds every small row of an op to its bounds, in one storage, on the devices that `make` makes of a seed.
fn hold(op: &str, real: Real, make: fn(&Path, Real, u64) -> Gpu) {
    let Some(folder) = emulated() else { return };
    let mut missed = Vec::new();
    let rows: Vec<_> = table().into_iter().filter(|row| row.op() == op && row.size() <= SMALL).collect();
    assert!(!rows.is_empty(), "no row of {op} is small enough to be emulated");
    for row in rows {
        let gpus = SEEDS.map(|seed| make(folder, real, seed));
        let name = format!("{} {:?}, {real:?}", row.name, row.shapes);
        match gpu::guard(|| Ok(row.judge_each(&gpus))) {
            Err(e) => missed.push(format!("{name}: {e}")),
            Ok(judged) => {
                for (ways, seed) in judged.iter().zip(SEEDS) {
                    let all = ways.iter().flat_map(|(way, verdicts)| verdicts.iter().map(move |v| (way, v)));
                    missed.extend(all.filter(|(_, v)| !v.holds()).map(|(way, v)| {
                        let Verdict { output, error, allowed } = v;
                        format!(
                            "{name} on {way}, seed {seed}: {output} is {error:.1e} off, {allowed:.1e} allowed"
                        )
                    }));
                }
            }
        }
        missed.extend(gpus.iter().filter_map(Gpu::overrun).map(|what| format!("{name}: {what}")));
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

macro_rules! emulated_ops {
    ($($op:ident)*) => {
        const EMULATED: &[&str] = &[$(stringify!($op)),*];
        $(mod $op {
            use scale_engine::gpu::Real;

            use crate::emulate::device;

            #[test]
            fn matches_its_reference_in_f32() {
                super::hold(stringify!($op), Real::F32, device);
            }

            #[test]
            fn matches_its_reference_in_bf16() {
                super::hold(stringify!($op), Real::Bf16, device);
            }
        })*
    };
}

emulated_ops! {
    activation attention cast cells column_sums elementwise embedding flow layer_norm matmul matmul_swiglu mmd patch_embed pool rms_norm
    seed_attention squared_error swiglu time tokens
}

#[test]
fn kernels_of_other_gpus_match_their_references() {
    for op in ["attention", "matmul_swiglu", "mmd"] {
        hold(op, Real::Bf16, emulate::ada);
    }
}

#[test]
fn the_whole_model_on_the_emulator_is_the_cpus() {
    let Some(folder) = emulated() else { return };
    for real in [Real::F32, Real::Bf16] {
        let gpu = emulate::device(folder, real, 1);
        let second = emulate::device(folder, real, 2);
        let checks = gpu::guard(|| {
            let mut checks = model(&gpu, Size::Small, 4)?;
            checks.push(graph(&gpu, &second, Size::Small, 4)?);
            Ok(checks)
        })
        .expect("a device that answers");
        let missed: Vec<_> = checks.iter().filter(|check| !check.holds()).collect();
        assert!(missed.is_empty(), "{missed:#?}");
        assert_eq!((gpu.overrun(), second.overrun()), (None, None));
    }
}

#[test]
fn the_selftest_has_a_line_for_every_op() {
    let table = table();
    let ops: BTreeSet<&str> = table.iter().map(Case::op).collect();
    assert_eq!(ops, EMULATED.iter().copied().collect(), "the table's ops, and those that are emulated");
    let Some(folder) = emulated() else { return };
    let gpu = emulate::device(folder, Real::Bf16, 1);
    let rows: Vec<_> = selftest::table().into_iter().filter(|row| row.size() <= 4_000).collect();
    let checks = selftest::ops(&gpu, &rows, 0, &Progress::silent()).expect("a device that answers");
    assert!(checks.iter().all(selftest::Check::holds), "{checks:#?}");
    let names: BTreeSet<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    let of_hopper = names.iter().filter(|name| name.contains(" on Hopper")).count();
    assert!(ops.is_subset(&names) && names.len() == ops.len() + of_hopper, "{names:?}");
}
