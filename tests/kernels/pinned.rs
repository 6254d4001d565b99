//! Page-locked memory: what is sent from it arrives, and it can be written again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use scale_engine::gpu::{Gpu, Real};

#[test]
fn pinned_memory_is_sent_in_parts_and_written_again() {
    let Some(folder) = super::emulated() else { return };
    let gpu = Gpu::emulated(folder, Real::F32, 1);
    let mut host = gpu.pinned("a step's data", 101);
    assert!(host.bytes() == 101 && host.numbers::<u8>().iter().all(|&byte| byte == 0));
    assert_eq!(host.numbers::<u64>().len(), 12);
    let device = gpu.buffer("a step's data", 64);
    for step in 0..3u16 {
        host.numbers::<u16>()[..40].iter_mut().zip(0..).for_each(|(x, i)| *x = 100 * step + i);
        host.send(16..80, &device, 0);
        host.send(0..16, &device, 48);
        let mut found = [0u16; 32];
        device.download(0, &mut found);
        let told = (8..32).chain(0..8).map(|i| 100 * step + i);
        assert!(found.iter().copied().eq(told), "step {step}: {found:?}");
    }
    drop((host, device));
    assert_eq!(gpu.overrun(), None);
}

#[test]
fn more_than_a_buffer_holds_is_refused() {
    let Some(folder) = super::emulated() else { return };
    let gpu = Gpu::emulated(folder, Real::F32, 1);
    let send = || gpu.pinned("numbers", 24).send(8..24, &gpu.buffer("numbers", 16), 4);
    let refused = catch_unwind(AssertUnwindSafe(send)).expect_err("a send beyond the buffer");
    let told = refused.downcast_ref::<String>().expect("words");
    assert!(told.contains("send: bytes 8..24"), "{told}");
}
