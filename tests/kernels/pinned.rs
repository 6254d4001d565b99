//! Page-locked memory: what is sent from it, or to it, arrives, and it can be written again.

use std::panic::{AssertUnwindSafe, catch_unwind};

use scale_engine::gpu::{Post, Real};

#[test]
fn a_post_sends_parts_that_grow_from_pages_written_again() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let mut post = Post::new(&gpu);
    for step in 1..7u16 {
        let parts = [24, 40 * step].map(|count| (100 * step..100 * step + count).collect::<Vec<u16>>());
        let [first, second] = parts.each_ref().map(|part| bytemuck::cast_slice(part));
        post.send([("first", first), ("second", second)], |buffers| {
            for (part, buffer) in parts.iter().zip(buffers) {
                let mut found = vec![0u16; part.len()];
                buffer.download(0, &mut found);
                assert_eq!(found, *part, "step {step}");
            }
        });
    }
    drop(post);
    assert_eq!(gpu.overrun(), None);
}

#[test]
fn pinned_memory_receives_parts_and_is_read_again() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let mut host = gpu.pinned("a step's losses", 101);
    assert!(host.bytes() == 101 && host.numbers::<u8>().iter().all(|&byte| byte == 0));
    assert_eq!(host.numbers::<u64>().len(), 12);
    for step in 0..3u16 {
        let told: Vec<u16> = (0..32).map(|i| 100 * step + i).collect();
        let device = gpu.upload("a step's losses", &told);
        host.receive(16..64, &device, 0);
        host.receive(0..16, &device, 48);
        let found = &host.numbers::<u16>()[..32];
        assert!(found[8..].iter().chain(&found[..8]).eq(&told), "step {step}: {found:?}");
    }
    drop(host);
    assert_eq!(gpu.overrun(), None);
}

#[test]
fn more_than_a_buffer_holds_is_refused() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    for (at, told) in [(4, "receive: 16 bytes at 4 of 16"), (usize::MAX - 15, "receive: 16 bytes at 1844")] {
        let receive = || gpu.pinned("numbers", 24).receive(8..24, &gpu.buffer("numbers", 16), at);
        let refused = catch_unwind(AssertUnwindSafe(receive)).expect_err("more than the buffer holds");
        let found = refused.downcast_ref::<String>().expect("words");
        assert!(found.contains(told), "{found}");
    }
}
