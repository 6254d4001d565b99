//! What is forgotten in the forward pass and made again in the backward pass is the same to the bit, on the host and on a device.

use scale_engine::gpu::{Gpu, Real};
use scale_engine::rng::Rng;
use scale_engine::tape::{Tape, Var};
use scale_engine::tensor::Tensor;

/// An op on inputs of these shapes, whose value a product reads.
struct Story {
    shapes: Vec<Vec<usize>>,
    /// Width of a row of its value.
    width: usize,
    op: fn(&mut Tape, &[Var]) -> Var,
}

/// Gradients of all inputs and of the product's matrix.
fn gradients(story: &Story, gpu: Option<&Gpu>, forget: bool) -> Vec<Vec<u32>> {
    let mut tape = Tape::new().on(gpu);
    let place = |x: Tensor| gpu.map_or(x.clone(), |gpu| x.to_gpu(gpu, "numbers", gpu.real()));
    let normals = |shape: &[usize], seed: u64| {
        let len = shape.iter().product::<usize>() as u64;
        place(Tensor::new(shape, (0..len).map(|i| Rng::new(seed).normal(i)).collect()))
    };
    let mut vars: Vec<Var> = (1..).zip(&story.shapes).map(|(i, s)| tape.leaf(normals(s, i))).collect();
    let w = tape.leaf(normals(&[5, story.width], 99));
    let value = (story.op)(&mut tape, &vars);
    let y = tape.linear(value, w, None);
    if forget {
        tape.forget(value);
    }
    let dy = normals(tape.value(y).shape(), 100);
    let loss = tape.record("loss", &[y], Tensor::scalar(0.0), move |_| vec![Some(dy)]);
    let mut found = tape.backward(loss);
    vars.push(w);
    let bits = |leaf: &Var| {
        let gradient = found.take(*leaf).expect("a gradient").to_host().into_vec();
        assert!(gradient.iter().all(|g| g.is_finite()));
        gradient.iter().map(|g| g.to_bits()).collect()
    };
    vars.iter().map(bits).collect()
}

#[test]
fn a_forgotten_value_changes_no_bit() {
    let attend = |t: &mut Tape, v: &[Var]| t.attention(v[0], Some(v[1]), 2);
    let stories = [
        Story { shapes: vec![vec![7, 33], vec![33]], width: 33, op: |t, v| t.rms_norm(v[0], Some(v[1])) },
        Story { shapes: vec![vec![19, 520], vec![520]], width: 520, op: |t, v| t.rms_norm(v[0], Some(v[1])) },
        Story { shapes: vec![vec![3, 2056]], width: 2056, op: |t, v| t.rms_norm(v[0], None) },
        Story { shapes: vec![vec![7, 26]], width: 13, op: |t, v| t.swiglu(v[0]) },
        Story { shapes: vec![vec![3, 11, 96]], width: 48, op: |t, v| t.swiglu(v[0]) },
        Story { shapes: vec![vec![2, 5, 3 * 18 + 14], vec![2, 36]], width: 18 + 7, op: attend },
        Story { shapes: vec![vec![2, 70, 3 * 128 + 80], vec![2, 256]], width: 128 + 40, op: attend },
    ];
    let gpus = super::emulated()
        .map(|folder| [Real::F32, Real::Bf16].map(|real| crate::emulate::device(folder, real, 1)));
    for gpu in [None].into_iter().chain(gpus.iter().flatten().map(Some)) {
        for story in &stories {
            let told = gradients(story, gpu, false);
            assert!(gradients(story, gpu, true) == told, "{:?} on {gpu:?}", story.shapes);
        }
        assert_eq!(gpu.and_then(Gpu::overrun), None);
    }
}
