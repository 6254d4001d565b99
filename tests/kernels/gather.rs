//! Dense rows made on the emulated device, compared with the host's.

use scale_engine::gpu::{self, Real};
use scale_engine::ops::gather::{self, Cells, Scaling, Span};
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
    let made = gather::gather(&cells, &spans, 1, 70, Scaling { log: true, by: 0.1 }).to_host();
    for (&count, x) in counts.iter().zip(made.data()) {
        let told = 0.1 * (0.5 * f32::from(count)).ln_1p();
        assert!((x - told).abs() < 1e-6, "{count}: {x} and {told}");
    }
}
