//! More sets than groups of lanes, or than blocks: too large for a row of the table, which is run in every order.

use half::bf16;
use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::ops::attention::{self, Given};
use scale_engine::ops::seed_attention::{backward, forward};
use scale_engine::rng::Rng;
use scale_engine::selftest::{case, error, wide};
use scale_engine::tape::{Tape, Var};
use scale_engine::tensor::Tensor;
use serde_json::{from_value, json};

fn normals(shape: &[usize], seed: u64) -> Tensor {
    let len: usize = shape.iter().product();
    Tensor::new(shape, (0..len as u64).map(|i| Rng::new(seed).normal(i)).collect())
}

#[test]
fn seed_attention_deals_sets_out_to_groups() {
    let Some(folder) = super::emulated() else { return };
    // 17 columns take 32 lanes: 8,192 sets fill the grid.
    let (sets, width) = (8500, 17);
    let (q, kv) = (normals(&[width], 1), normals(&[sets, 2, 2 * width], 2));
    let dy = normals(&[sets, width], 3);
    let (_, p) = forward(&q, &kv, 1);
    let (dq, dkv) = backward(&dy, &q, &kv, 1, &p);
    let gpu = crate::emulate::device(folder, Real::F32, 1);
    let on = |x: &Tensor| x.to_gpu(&gpu, "input", Real::F32);
    let found = gpu::guard(|| Ok(backward(&on(&dy), &on(&q), &on(&kv), 1, &on(&p)))).expect("gradients");
    let off = |x: &Tensor, told: &Tensor| error(&wide(x.to_host().data()), &wide(told.data()));
    assert!(off(&found.0, &dq) < 1e-5, "dq is {:.1e} off", off(&found.0, &dq));
    assert!(off(&found.1, &dkv) < 1e-5, "dkv is {:.1e} off", off(&found.1, &dkv));
    drop(found);
    assert_eq!(gpu.overrun(), None);
}

/// More sets than a grid may have blocks along y: two layers, of which the second has one block to spare.
#[test]
fn sets_have_blocks_of_their_own_along_y_and_z() {
    let Some(folder) = super::emulated() else { return };
    let sets = 65_601;
    let times: Vec<f32> = (0..sets).map(|set| set as f32 / sets as f32).collect();
    let shape: &[usize] = &[sets, 1, 3];
    let row = case("flow path", &[shape; 2], move |t, v| t.flow_path(v[0], v[1], &times));
    let inputs = row.inputs();
    let (told, found) = (row.run(&inputs, None), {
        let gpu = crate::emulate::device(folder, Real::F32, 1);
        gpu::guard(|| Ok(row.run(&inputs, Some(&gpu)))).expect("a launch that a device takes")
    });
    for (told, found) in
        [&told.y].into_iter().chain(&told.gradients).zip([&found.y].into_iter().chain(&found.gradients))
    {
        let off = error(&wide(found.to_host().data()), &wide(told.data()));
        assert!(off < 1e-6, "{off:.1e} off");
    }
}

/// Several tiles of queries and several heads per block, in rings that wrap around more than once; a block's second head in several
/// passes over keys, and one with four passes; all once more in other orders.
#[test]
fn attention_deals_heads_out_to_blocks() {
    let Some(folder) = super::emulated() else { return };
    let sizes = [
        [7, 40, 2],
        [17, 64, 3],
        [26, 128, 1],
        [4, 200, 1],
        [5, 300, 1],
        [2, 300, 1],
        [10, 300, 1],
        [5, 450, 1],
    ];
    for [sets, n, h] in sizes {
        let d = h * 128;
        let stored = |shape: &[usize], seed| {
            let x = normals(shape, seed);
            Tensor::new(shape, x.data().iter().map(|&x| bf16::from_f32(x).to_f32()).collect())
        };
        let (qkv, seed) = (stored(&[sets, n, 3 * d], 1), stored(&[sets, 2 * d], 2));
        let dy = stored(&[sets, n, d], 3);
        let run = |qkv: &Tensor, seed: &Tensor, dy: &Tensor| {
            let (y, lse) = attention::forward(qkv, Some(seed), h);
            let given = Given { dy, qkv, seed: Some(seed), y: &y, lse: &lse };
            let found = attention::backward(&given, h, false);
            [y, found.dx, found.dseed.expect("there is a seed")]
        };
        let told = run(&qkv, &seed, &dy);
        let gpu = crate::emulate::device(folder, Real::Bf16, 1);
        let on = |x: &Tensor| x.to_gpu(&gpu, "input", Real::Bf16);
        let found = gpu::guard(|| Ok(run(&on(&qkv), &on(&seed), &on(&dy)))).expect("all of them");
        for (what, (x, told)) in ["y", "dqkv", "dseed"].into_iter().zip(found.iter().zip(&told)) {
            let off = error(&wide(x.to_host().data()), &wide(told.data()));
            assert!(off < 1e-2, "{sets} sets of {n}: {what} is {off:.1e} off");
        }
        let (qkv, seed, dy) = (on(&qkv), on(&seed), on(&dy));
        let first = found.map(|x| x.to_host());
        for order in 0..8 {
            let again = gpu::guard(|| Ok(attention::forward(&qkv, Some(&seed), h).0.to_host())).expect("y");
            assert!(again.data() == first[0].data(), "{sets} sets of {n}: order {order} gives another y");
        }
        for order in 0..2 {
            let again = gpu::guard(|| Ok(run(&qkv, &seed, &dy))).expect("all of them");
            let same = again.iter().zip(&first).all(|(again, first)| again.to_host().data() == first.data());
            assert!(same, "{sets} sets of {n}: order {order} gives other gradients");
        }
        drop((qkv, seed, dy));
        assert_eq!(gpu.overrun(), None);
    }
}

/// Three panels of three tiles: blocks move from one to the next in its middle and fetch x anew, in part to slots that are taken.
/// Two orders must give the same bits, and so must a prediction, which keeps nothing. Rows of 513 to 768 numbers have kernels of
/// their own.
#[test]
fn a_gate_goes_on_to_another_panel() {
    let Some(folder) = super::emulated() else { return };
    for [m, e, f, own] in [[257, 392, 136, 0], [257, 536, 136, 1], [200, 712, 264, 1], [257, 768, 136, 1]] {
        let record = move |t: &mut Tape, v: &[Var]| {
            let x = t.scale(v[1], (e as f32).powf(-0.5));
            t.matmul_swiglu(v[0], x, v[2], v[3])
        };
        let row = case("matmul_swiglu", &[&[m, e], &[m, e], &[2 * f, e], &[e, f]], record);
        let stored = |x: Tensor| {
            Tensor::new(x.shape(), x.data().iter().map(|&x| bf16::from_f32(x).to_f32()).collect())
        };
        let inputs: Vec<Tensor> = row.inputs().into_iter().map(stored).collect();
        let numbers = |gpu: Option<&Gpu>| {
            let run = gpu::guard(|| Ok(row.run(&inputs, gpu))).expect("all of them");
            let all: Vec<_> = [&run.y].into_iter().chain(&run.gradients).map(Tensor::to_host).collect();
            all
        };
        let told = numbers(None);
        let found = [1, 2].map(|seed| {
            let gpu = crate::emulate::device(folder, Real::Bf16, seed);
            gpu.listen();
            let found = numbers(Some(&gpu));
            let ran = gpu.ran();
            assert_eq!(ran.iter().filter(|ran| ran.name.ends_with("_wide")).count(), 2 * own, "{e} numbers");
            let mut tape = Tape::off().on(Some(&gpu));
            let inputs: Vec<Var> = inputs.iter().map(|x| tape.constant(x.clone())).collect();
            let y = record(&mut tape, &inputs);
            assert!(tape.value(y).to_host().data() == found[0].data(), "{e} numbers: predicted");
            drop(tape);
            assert_eq!(gpu.overrun(), None);
            found
        });
        for (i, (told, found)) in told.iter().zip(&found[0]).enumerate() {
            let off = error(&wide(found.data()), &wide(told.data()));
            assert!(off < 1e-2, "{e} numbers: output {i} is {off:.1e} off");
        }
        let same = found[0].iter().zip(&found[1]).all(|(a, b)| a.data() == b.data());
        assert!(same, "{e} numbers: another order, other bits");
    }
}

/// More rows than two steps take at a time, of sizes that no kernel for Hopper can read; also a prediction, which keeps nothing.
#[test]
fn a_gate_in_two_steps_goes_over_its_rows_in_parts() {
    let Some(folder) = super::emulated() else { return };
    let [m, e, f] = [16_500, 9, 5];
    let record = move |t: &mut Tape, v: &[Var]| {
        let x = t.scale(v[1], (e as f32).powf(-0.5));
        t.matmul_swiglu(v[0], x, v[2], v[3])
    };
    let row = case("matmul_swiglu", &[&[m, e], &[m, e], &[2 * f, e], &[e, f]], record);
    let stored =
        |x: Tensor| Tensor::new(x.shape(), x.data().iter().map(|&x| bf16::from_f32(x).to_f32()).collect());
    let inputs: Vec<Tensor> = row.inputs().into_iter().map(stored).collect();
    let told = row.run(&inputs, None);
    for (real, allowed) in [(Real::F32, 1e-5), (Real::Bf16, 1e-2)] {
        let gpu = crate::emulate::device(folder, real, 1);
        let run = gpu::guard(|| Ok(row.run(&inputs, Some(&gpu)))).expect("all of them");
        let pairs = [(&told.y, &run.y)].into_iter().chain(told.gradients.iter().zip(&run.gradients));
        for (i, (told, found)) in pairs.enumerate() {
            let off = error(&wide(found.to_host().data()), &wide(told.data()));
            assert!(off < allowed, "{real:?}: output {i} is {off:.1e} off");
        }
        let mut tape = Tape::off().on(Some(&gpu));
        let inputs: Vec<Var> = inputs.iter().map(|x| tape.constant(x.clone())).collect();
        let y = record(&mut tape, &inputs);
        assert_eq!(tape.value(y).to_host().data(), run.y.to_host().data(), "{real:?}: predicted");
        drop((tape, run));
        assert_eq!(gpu.overrun(), None);
    }
}

/// Few heads: blocks take 128 keys of one head at a time, and what they leave of dq is added. Keys and values are unaffected.
#[test]
fn attentions_keys_may_be_taken_apart() {
    let Some(folder) = super::emulated() else { return };
    let [sets, n, d] = [2, 300, 128];
    let [qkv, seed, dy] = [([sets, n, 3 * d], 1), ([sets, 1, 2 * d], 2), ([sets, n, d], 3)]
        .map(|(shape, number)| normals(&shape, number));
    let found = [[1e-3, 2e-3], [2e-3, 1e-3]].map(|took| {
        let gpu = crate::emulate::device(folder, Real::Bf16, 1);
        let ways = json!([["attention backward: keys apart", [sets, n, 1], took]]);
        let choices =
            json!({ "device": gpu.name(), "library": 0, "words": 3, "algorithms": [], "ways": ways });
        assert!(gpu.adopt(&from_value(choices).expect("choices")));
        let [qkv, seed, dy] = [&qkv, &seed, &dy].map(|x| x.to_gpu(&gpu, "input", Real::Bf16));
        let seed = seed.reshape(&[sets, 2 * d]);
        let (y, lse) = attention::forward(&qkv, Some(&seed), 1);
        gpu.listen();
        let given = Given { dy: &dy, qkv: &qkv, seed: Some(&seed), y: &y, lse: &lse };
        let dqkv = attention::backward(&given, 1, false).dx.to_host();
        let apart = gpu.ran().iter().any(|ran| ran.name == "attention_hopper_sum_dq");
        assert_eq!(apart, took[0] < took[1]);
        dqkv
    });
    let [apart, whole] = found.each_ref().map(|dqkv| dqkv.data().chunks(3 * d));
    for (apart, whole) in apart.zip(whole) {
        assert_eq!(apart[d..], whole[d..]);
        assert!(error(&wide(&apart[..d]), &wide(&whole[..d])) < 1.0 / 128.0);
    }
}
