//! Where a device has several routes to a result, each of them is run and judged.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use scale_engine::gpu::{Gpu, Real, Route};
use scale_engine::progress::Progress;
use scale_engine::selftest::{self, Case, Check, case, table};

fn checks(gpu: &Gpu, rows: &[Case]) -> Vec<Check> {
    selftest::ops(gpu, rows, 1, &Progress::silent()).expect("a device that answers")
}

/// Doubles its input, but on one route, which is wrong.
fn wrong_on(wrong: Option<Route>) -> Case {
    case("scale", &[&[5, 33]], move |t, v| {
        let by = Cell::new(2.0);
        let go = |route| by.set(if wrong == Some(route) { 3.0 } else { 2.0 });
        if let Some(gpu) = t.gpu() {
            let (size, blocks) = ([5, 33, 1], gpu.hopper_blocks());
            let (apart, whole) = (|_| go(Route::HopperApart), || go(Route::Hopper));
            let hopper = |_| {
                gpu.either(Route::Hopper, "apart", size, blocks, apart, whole);
            };
            gpu.either(Route::Any, "scale", size, blocks, hopper, || go(Route::Any));
        }
        t.scale(v[0], by.get())
    })
}

#[test]
fn a_fault_on_any_way_is_seen() {
    let Some(folder) = super::emulated() else { return };
    let routes = [Route::Any, Route::Hopper, Route::HopperApart];
    let names = ["scale", "scale on Hopper", "scale on Hopper, apart"];
    for wrong in [None].into_iter().chain(routes.map(Some)) {
        let found =
            checks(&crate::emulate::device(folder, Real::Bf16, 1), &[wrong_on(wrong), wrong_on(None)]);
        assert_eq!(found.iter().map(|check| check.name.as_str()).collect::<Vec<_>>(), names);
        for (check, route) in found.iter().zip(routes) {
            assert_eq!((check.rows, check.holds()), (2, wrong != Some(route)), "{wrong:?}: {check:?}");
        }
    }
    // A device that is not Hopper has one route, and tells of no other.
    let found = checks(&crate::emulate::ada(folder, Real::Bf16, 1), &[wrong_on(Some(Route::Hopper))]);
    assert_eq!(
        found.iter().map(|check| (check.name.as_str(), check.holds())).collect::<Vec<_>>(),
        [("scale", true)]
    );
}

#[test]
fn an_op_that_gives_other_bits_the_second_time_is_seen() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let runs = AtomicU32::new(0);
    let unsteady = case("scale", &[&[5, 33]], move |t, v| {
        // Far within the bounds of the reference.
        let by = if t.gpu().is_some() {
            2.0 + runs.fetch_add(1, Ordering::Relaxed) as f32 * 2.0 * f32::EPSILON
        } else {
            2.0
        };
        t.scale(v[0], by)
    });
    let found = checks(&gpu, &[wrong_on(None), unsteady]);
    assert!(!found[0].holds() && found[0].output.contains(" once more of scale"), "{found:?}");
}

#[test]
fn all_kernels_of_an_op_with_several_ways_are_launched() {
    let Some(folder) = super::emulated() else { return };
    let attention: &[&str] = &[
        "attention_forward_128",
        "attention_backward_128",
        "attention_hopper_forward",
        "attention_hopper_backward",
        "attention_hopper_backward_apart",
    ];
    let mmd: &[&str] = &["mmd_pairs", "mmd_backward", "mmd_hopper_pairs", "mmd_hopper_backward"];
    let gate: &[&str] =
        &["swiglu_forward", "swiglu_backward", "matmul_swiglu_forward", "matmul_swiglu_backward"];
    for (op, shape, kernels, routes) in [
        ("attention", [1, 180, 384].as_slice(), attention, 3),
        ("mmd", &[3, 72, 8], mmd, 2),
        ("matmul_swiglu", &[65, 136], gate, 2),
    ] {
        let gpu = crate::emulate::device(folder, Real::Bf16, 1);
        let mut rows = table();
        rows.retain(|row| row.op() == op && row.shapes[0] == shape);
        gpu.listen();
        let found = checks(&gpu, &rows);
        let ran: Vec<String> = gpu.ran().into_iter().map(|ran| ran.name).collect();
        let missing: Vec<_> = kernels.iter().filter(|&&name| !ran.iter().any(|ran| ran == name)).collect();
        assert!(missing.is_empty(), "{op}: {missing:?} of {ran:?}");
        assert!(found.len() == routes && found.iter().all(|check| check.rows == rows.len()), "{found:#?}");
    }
}
