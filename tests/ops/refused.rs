//! What ops refuse, and in which words: a kernel that was told of larger tensors, of others or of another device than those it is
//! given would read and write beside them. Devices that only count show it: nothing runs there, and a refusal comes before a launch.

use std::panic::{AssertUnwindSafe, catch_unwind};

use scale_engine::config::{Activation, MmdKernel};
use scale_engine::gpu::{Gpu, Real};
use scale_engine::ops::adamw::{Stretches, Weights, squares};
use scale_engine::ops::attention::{self, Given};
use scale_engine::ops::{
    activation, cast, column_sums, gate, layer_norm, loss, matmul, mmd, patch_embed, rms_norm,
    seed_attention, squared_error, swiglu,
};
use scale_engine::tape::{Back, Sink, Tape};
use scale_engine::tensor::Tensor;

/// The words with which `work` panics.
fn refusal<T>(work: impl FnOnce() -> T) -> String {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(_) => "no refusal".into(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(words) => *words,
            Err(panic) => panic.downcast::<&str>().map_or("other words".into(), |words| words.to_string()),
        },
    }
}

/// Panics unless `work` does, with these words in its own.
fn refuses<T>(words: &str, work: impl FnOnce() -> T) {
    let told = refusal(work);
    assert!(told.contains(words), "{told:?} should say {words:?}");
}

/// Numbers on a device, stored as activations are.
fn on(gpu: &Gpu, shape: &[usize]) -> Tensor {
    Tensor::on(gpu, "numbers", shape, gpu.real())
}

fn single(gpu: &Gpu, shape: &[usize]) -> Tensor {
    Tensor::on(gpu, "numbers", shape, Real::F32)
}

#[test]
fn tensors_of_two_devices_are_refused() {
    let [here, there] = [Real::F32; 2].map(Gpu::dry);
    let (x, w) = (on(&here, &[4, 8]), on(&there, &[8, 8]));
    refuses("matmul: ", || matmul::forward(None, &x, &w, None));
    refuses("matmul: ", || matmul::forward(None, &x, &Tensor::zeros(&[8, 8]), None));
    refuses("matmul: ", || matmul::forward(None, &Tensor::zeros(&[4, 8]), &w, None));
    refuses("rms_norm: ", || rms_norm::forward(&x, Some(&on(&there, &[8]))));
    let rounded = Tensor::on(&Gpu::dry(Real::Bf16), "numbers", &[4, 8], Real::Bf16);
    refuses("cast: ", || cast::cast_into(&rounded, &x));
    let mut tape = Tape::new();
    let [a, b] = [&here, &there].map(|gpu| tape.leaf(on(gpu, &[2, 3, 8])));
    let row = tape.leaf(on(&there, &[2, 8]));
    refuses("add: ", || tape.add(a, b));
    refuses("add_to_set: ", || tape.add_to_set(a, row));
    refuses("shifted: ", || tape.shifted(a, row));
    refuses("flow: ", || tape.flow_path(a, b, &[0.5; 2]));
    let stretch = 0..8;
    let stretches = Stretches::new(vec![stretch], Some(&there));
    refuses("on the gradients' device", || squares(&single(&here, &[8]), &stretches, 0, 1));
}

#[test]
fn numbers_stored_in_another_way_are_refused() {
    let gpu = Gpu::dry(Real::Bf16);
    let (x, wide) = (on(&gpu, &[4, 8]), single(&gpu, &[4, 8]));
    let (row, wide_row) = (on(&gpu, &[8]), single(&gpu, &[8]));
    refuses("[4, 8] Bf16 is needed", || rms_norm::forward(&wide, None));
    refuses("[8] Bf16 is needed", || layer_norm::forward(&x, &row, &wide_row));
    refuses("[4, 2] F32 is needed", || layer_norm::backward(&x, &x, &row, &on(&gpu, &[4, 2])));
    refuses("activation: ", || activation::forward(&wide, Activation::Silu));
    refuses("column_sums: ", || column_sums::column_sums(&wide));
    refuses("matmul: ", || matmul::forward(None, &x, &single(&gpu, &[8, 8]), None));
    refuses("adamw: weights of ", || Weights::of(row.clone()));
    refuses("is not f32 on a device", || Sink::new(row.clone()));
    refuses("is not f32 on a device", || Sink::new(Tensor::zeros(&[8])));
    let mut tape = Tape::new();
    let [cells, statistics] = [wide, row].map(|x| tape.leaf(x));
    refuses("embedding: ", || tape.embedding(cells, &[1]));
    let mean = tape.value(statistics).clone();
    refuses("standardize: ", || tape.standardize(cells, &mean, &mean));
}

#[test]
fn gradients_of_another_shape_than_the_values_are_refused() {
    for gpu in [None, Some(Gpu::dry(Real::F32))] {
        let of = |shape: &[usize]| gpu.as_ref().map_or_else(|| Tensor::zeros(shape), |gpu| on(gpu, shape));
        let (x, w, row, short) = (of(&[4, 8]), of(&[8, 8]), of(&[8]), of(&[1, 1]));
        refuses("matmul: ", || matmul::backward_x(&short, &[1, 100_000_000], &of(&[1, 4])));
        refuses("matmul: ", || matmul::backward_x(&short, &[4, 8], &w));
        refuses("matmul: ", || matmul::backward_w(&short, &x, &w, true, [None, None]));
        refuses("activation: ", || activation::backward(&short, &x, Activation::Gelu));
        refuses("layer_norm: ", || layer_norm::backward(&short, &x, &row, &of(&[4, 2])));
        refuses("layer_norm: ", || layer_norm::backward(&x, &x, &row, &of(&[3, 2])));
        let back = |dy, so_far| Back { dy, again: false, so_far };
        refuses("rms_norm: ", || rms_norm::backward(&mut back(&short, None), &x, None, &of(&[4]), None));
        let so_far = Some(short.clone());
        refuses("rms_norm: ", || rms_norm::backward(&mut back(&x, so_far), &x, None, &of(&[4]), None));
        refuses("squared_error: ", || squared_error::backward(&short, &x, &x, [true; 2]));
        refuses("swiglu: ", || swiglu::backward(&short, &x, false));
        let kv = of(&[2, 3, 16]);
        refuses("seed_attention: ", || seed_attention::backward(&short, &row, &kv, 1, &of(&[2, 1, 3])));
        refuses("seed_attention: ", || seed_attention::backward(&of(&[2, 8]), &row, &kv, 1, &short));
        let (qkv, y, lse) = (of(&[2, 3, 24]), of(&[2, 3, 8]), of(&[2, 1, 3]));
        let given = Given { dy: &short, qkv: &qkv, seed: None, y: &y, lse: &lse };
        refuses("attention: ", || attention::backward(&given, 1, false));
        let given = Given { dy: &y, qkv: &qkv, seed: None, y: &y, lse: &short };
        refuses("attention: ", || attention::backward(&given, 1, false));
        let (cells, patches) = (of(&[4, 7]), of(&[2, 4, 8]));
        refuses("patch_embed: ", || patch_embed::backward_x(&short, &cells, &patches));
        refuses("patch_embed: ", || patch_embed::backward_w(&short, &cells, &patches, None));
        let [small, large] = [2, 3].map(|cells| of(&[2, cells, 8]));
        let saved = mmd::forward(&small, &small, MmdKernel::Energy, true).1.expect("wanted");
        let one = of(&[1]);
        refuses("mmd: ", || mmd::backward(&one, &large, &large, &saved));
        refuses("mmd: x is data", || {
            let mut tape = Tape::new();
            let [y, x] = [small.clone(), small.clone()].map(|value| tape.leaf(value));
            tape.mmd(y, x, MmdKernel::Energy)
        });
    }
}

#[test]
fn a_gated_row_is_written_only_where_there_is_room() {
    let gpu = Gpu::dry(Real::F32);
    let (x, y) = (on(&gpu, &[4, 16]), on(&gpu, &[4, 8]));
    refuses("swiglu: ", || gate::forward_into(&on(&gpu, &[4, 7]), None, &x, 0));
    refuses("swiglu: ", || gate::backward_on(&on(&gpu, &[4, 8]), &y, None, &x, 0, false));
    refuses("without its other branch", || gate::backward_on(&x, &on(&gpu, &[4, 9]), None, &x, 0, true));
}

#[test]
fn a_place_for_a_gradient_takes_only_its_own() {
    let [gpu, other] = [Real::F32; 2].map(Gpu::dry);
    let sink = Sink::new(on(&gpu, &[8]));
    sink.add(&on(&gpu, &[8]));
    refuses("sink: ", || sink.add(&on(&gpu, &[16])));
    refuses("sink: ", || sink.add(&on(&other, &[8])));
    refuses("sink: ", || Tape::new().leaf_into(on(&gpu, &[4]), sink.clone()));
    let (dy, x, w) = (on(&gpu, &[4, 8]), on(&gpu, &[4, 8]), on(&gpu, &[8, 8]));
    refuses("matmul: ", || matmul::backward_w(&dy, &x, &w, false, [Some(&sink), None]));
    let over = Sink::new(w.clone());
    refuses("written over", || matmul::backward_w(&w, &w, &w, false, [Some(&over), None]));
}

#[test]
fn the_tape_hands_an_op_no_gradient_that_is_unlike_its_value() {
    let [gpu, other] = [Real::F32; 2].map(Gpu::dry);
    let found = |dx: Tensor| {
        let mut tape = Tape::new();
        let x = tape.leaf(on(&gpu, &[2, 3, 8]));
        let pooled = tape.pool(x);
        let loss = tape.record("loss", &[pooled], single(&gpu, &[1]), move |_| vec![Some(dx)]);
        tape.backward(loss).take(x)
    };
    assert!(found(on(&gpu, &[2, 8])).is_some());
    refuses("another shape", || found(on(&gpu, &[16])));
    refuses("backward of pool: ", || found(on(&other, &[2, 8])));
    refuses("backward of pool: ", || found(Tensor::zeros(&[2, 8])));
}

#[test]
fn buffers_with_fewer_numbers_than_told_are_refused() {
    let gpu = Gpu::dry(Real::F32);
    let parts = gpu.buffer("parts", 8 * 3);
    refuses("loss: 4 parts in 24 bytes", || loss::total("loss", &parts, 4, 1.0));
    // Packs of four are read.
    let stretch = 1..4;
    refuses("adamw: stretches [1..4]", || Stretches::new(vec![stretch], Some(&gpu)));
}
