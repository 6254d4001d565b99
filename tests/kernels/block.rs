//! A step's buffers are counted before the first of them is made.

use std::cell::RefCell;

use scale_engine::error::Result;
use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::tensor::Tensor;

const LEN: usize = 1000;

/// Three buffers, the last of which outlives the step; counts how often the step is done.
fn step(gpu: &Gpu, done: &RefCell<usize>, more: usize) -> Result<Tensor> {
    *done.borrow_mut() += 1;
    let make = |what, len| Tensor::on(gpu, what, &[len], Real::F32);
    let first = make("first", LEN);
    let second = make("second", 2 * LEN + more);
    drop(first);
    let third = make("third", LEN);
    third.copy_from(0, &second.part(0, &[LEN]));
    Ok(third)
}

#[test]
fn a_step_is_laid_out_before_it_is_done_and_again_where_it_goes_another_way() {
    let Some(folder) = super::emulated() else { return };
    let gpu = Gpu::emulated(folder, Real::F32, 1);
    let done = RefCell::new(0);
    let run = |shape: usize, more: usize| {
        let made = gpu.as_one(&[shape], || step(&gpu, &done, more)).expect("room");
        assert_eq!(made.len(), LEN);
        *done.borrow()
    };
    assert!(gpu.block().is_none());
    // Counted, then done.
    assert_eq!(run(1, 0), 2);
    let block = gpu.block().expect("laid out");
    assert!(gpu.went_as_laid_out() && (12 * LEN..16 * LEN).contains(&block), "{block} bytes");
    assert_eq!(run(1, 0), 3);
    // Larger than what was laid out: served from elsewhere, and counted again at the next one.
    assert_eq!(run(1, 10 * LEN), 4);
    assert!(!gpu.went_as_laid_out());
    assert_eq!(run(1, 10 * LEN), 6);
    assert!(gpu.went_as_laid_out() && gpu.block() > Some(48 * LEN));
    // Another shape.
    assert_eq!(run(2, 0), 8);
    assert!(gpu.went_as_laid_out() && gpu.block() == Some(block));
    assert_eq!(gpu.overrun(), None);
}

#[test]
fn a_step_that_does_not_fit_says_what_is_largest_before_it_is_begun() {
    let Some(folder) = super::emulated() else { return };
    let gpu = Gpu::emulated(folder, Real::F32, 1);
    let mut done = 0;
    let work = || {
        done += 1;
        drop(gpu.buffer("scores of all pairs", 1 << 60));
        Ok(())
    };
    let said = gpu::guard(|| gpu.as_one(&[1], work)).expect_err("no machine has an exbibyte").to_string();
    assert!(said.contains("scores of all pairs 1073741824.00 GiB") && said.contains("data.sets"), "{said}");
    assert_eq!((done, gpu.held()), (1, 0));
    // The device is as it was before.
    let numbers = gpu.upload("numbers", &[1.0f32, 2.0]);
    let mut back = [0.0f32; 2];
    numbers.download(0, &mut back);
    assert_eq!(back, [1.0, 2.0]);
}
