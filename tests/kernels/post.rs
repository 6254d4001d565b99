//! A step's cells on their way to a device: what is sent arrives, from pages that are written again.

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
