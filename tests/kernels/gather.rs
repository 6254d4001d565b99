//! Dense rows made on the emulated device, compared with the host's.

use std::panic::{AssertUnwindSafe, catch_unwind};

use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::ops::gather::{Cells, Scaling, Span, gather};
use scale_engine::selftest;

fn hold(real: Real) {
    let Some(folder) = super::emulated() else { return };
    for seed in super::SEEDS {
        let gpu = crate::emulate::device(folder, real, seed);
        let check = gpu::guard(|| Ok(selftest::gather(&gpu))).expect("dense rows");
        assert!(check.holds(), "seed {seed}: {check:?}");
        assert_eq!(gpu.overrun(), None);
    }
}

#[test]
fn rows_are_the_hosts_in_f32() {
    hold(Real::F32);
}

#[test]
fn rows_are_the_hosts_in_bf16() {
    hold(Real::Bf16);
}

/// The logarithms of counts below 32 are looked up.
#[test]
fn counts_around_the_end_of_the_table_have_their_logarithms() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let (counts, ids): (Vec<u16>, Vec<u16>) = (1..=70).map(|count| (count, count - 1)).unzip();
    let (genes, values) = (gpu.upload("genes", &ids), gpu.upload("values", &counts));
    let spans = gpu.upload("spans", &[Span { begin: 0, count: 70, scale: 2.0 }]);
    let cells = Cells { stored: 70, genes: &genes, values: &values, wide: false };
    let made = gather(&cells, &spans, 1, 70, Scaling { log: true, by: 0.1 }).to_host();
    for (&count, x) in counts.iter().zip(made.data()) {
        let told = 0.1 * (0.5 * f32::from(count)).ln_1p();
        assert!((x - told).abs() < 1e-6, "{count}: {x} and {told}");
    }
}

/// Two stored numbers, and spans that say that there are more: what lies beyond the two is not read.
#[test]
fn a_span_beyond_what_is_stored_makes_an_empty_rest() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let (genes, values) = (gpu.upload("genes", &[1u16, 3]), gpu.upload("values", &[2f32, 4.0]));
    let cells = Cells { stored: 2, genes: &genes, values: &values, wide: true };
    let spans = [(1 << 40, 5), (1, u32::MAX), (u64::MAX, u32::MAX), (0, 2)];
    let spans = gpu.upload("spans", &spans.map(|(begin, count)| Span { begin, count, scale: 1.0 }));
    let scaling = Scaling { log: false, by: 1.0 };
    let y = gather(&cells, &spans, 4, 4, scaling).to_host();
    let (empty, one, all) = ([0.0; 4], [0.0, 0.0, 0.0, 4.0], [0.0, 2.0, 0.0, 4.0]);
    assert_eq!(y.data(), [empty, one, empty, all].concat());
    assert_eq!(gpu.overrun(), None);
    let other = Gpu::dry(Real::F32).upload("genes", &[1u16, 3]);
    let elsewhere = Cells { genes: &other, ..cells };
    let refused = catch_unwind(AssertUnwindSafe(|| gather(&elsewhere, &spans, 4, 4, scaling)));
    assert!(refused.is_err(), "buffers of two devices");
}
