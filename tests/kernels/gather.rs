//! Dense rows made on the emulated device, compared with the host's.

use scale_engine::gpu::{self, Real};
use scale_engine::selftest::gather;

fn hold(real: Real) {
    let Some(folder) = super::emulated() else { return };
    for seed in super::SEEDS {
        let gpu = crate::emulate::device(folder, real, seed);
        let check = gpu::guard(|| Ok(gather(&gpu))).expect("dense rows");
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
