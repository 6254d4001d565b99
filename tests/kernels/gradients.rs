//! Gradients of weights go straight to the flat buffer of a device: however often a weight is used, and in which parts.

use std::cell::Cell;
use std::rc::Rc;

use scale_engine::gpu::{Gpu, Real};
use scale_engine::params::{Init, Param, Params, Table};
use scale_engine::rng::Rng;
use scale_engine::selftest::{error, wide};
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;

/// Flat gradients of a small net, twice in a row: the second pass must not see the first.
fn gradients(gpu: Option<&Gpu>) -> Vec<f32> {
    let mut table = Table::default();
    let mut add = |name: &str, shape: &[usize]| table.add(name, shape, Init::Normal(0.5), true);
    let [whole, parts, both, never] = ["whole", "parts", "both", "never"].map(|name| add(name, &[8, 8]));
    let (gain, bias, row) = (add("gain", &[8]), add("bias", &[8]), add("row", &[8]));
    let (patches, places) = (add("patches", &[2, 4, 8]), add("places", &[2, 8]));
    let weights = table.draw(Rng::new(1));
    let mut params = Params::new(table, weights).with_gradients();
    if let Some(gpu) = gpu {
        params = params.to_gpu(gpu);
    }
    let normals = |shape: &[usize], seed: u64| {
        let len = shape.iter().product::<usize>() as u64;
        Tensor::new(shape, (0..len).map(|i| Rng::new(seed).normal(i)).collect())
    };
    for pass in 0..2 {
        let mut tape = Tape::new().on(gpu);
        let vars = params.bind(&mut tape);
        let t = &mut tape;
        let x = t.constant(normals(&[5, 8], 10 + pass));
        // The whole used twice; two parts and never the whole; a part before and a part after the whole.
        let once = t.linear(x, vars[whole], Some(vars[bias]));
        let normed = t.rms_norm(once, Some(vars[gain]));
        let twice = t.linear(normed, vars[whole], None);
        t.forget(normed);
        let [top, bottom] = [0..4, 4..8].map(|rows| t.slice(vars[parts], rows));
        let mut outs = [top, bottom].map(|part| t.linear(twice, part, None)).to_vec();
        let seen = t.slice(vars[both], 2..6);
        outs.push(t.linear(twice, seen, None));
        let all = t.linear(twice, vars[both], Some(vars[bias]));
        let again = t.slice(vars[both], 4..8);
        outs.push(t.linear(all, again, None));
        // The last patch of seven genes has three.
        for seed in [20, 30] {
            let genes = t.constant(normals(&[5, 7], seed + pass));
            outs.push(t.patch_embed(genes, vars[patches], vars[places]));
        }
        // By way of another shape, whose gradient arrives stored as activations are.
        let row = t.reshape(vars[row], &[1, 8]);
        outs.push(t.linear(row, vars[both], None));
        let squares: Vec<_> = outs
            .iter()
            .map(|&y| {
                let zero = t.value(y).shape().to_vec();
                let zero = t.constant(Tensor::zeros(&zero));
                (t.squared_error(y, zero), 1.0)
            })
            .collect();
        let loss = t.weighted_sum(&squares);
        let found = tape.backward(loss);
        params.collect(&vars, found);
        assert!(flat(&params)[range(&params, never)].iter().all(|&g| g == 0.0));
    }
    flat(&params)
}

fn flat(params: &Params) -> Vec<f32> {
    params.grads().to_host().into_vec()
}

fn range(params: &Params, p: Param) -> std::ops::Range<usize> {
    params.entries()[p.index()].range()
}

#[test]
fn every_use_of_a_weight_is_in_its_gradient() {
    let Some(folder) = super::emulated() else { return };
    let told = wide(&gradients(None));
    for (real, allowed) in [(Real::F32, 1e-5), (Real::Bf16, 3e-2)] {
        let gpu = crate::emulate::device(folder, real, 1);
        let found = gradients(Some(&gpu));
        let off = error(&wide(&found), &told);
        assert!(off < allowed, "{real:?}: {off:.1e} off");
        assert!(found == gradients(Some(&gpu)), "{real:?}: other bits");
        assert_eq!(gpu.overrun(), None);
    }
}

/// An op that sums over sets makes a gradient in f32. Who gets it as the gradient of its value finds it stored as that value; a
/// weight keeps all of it, also under another shape.
#[test]
fn a_gradient_is_stored_as_its_value_and_a_weights_is_not_rounded() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::Bf16, 1);
    let placed = |x: f32, real| Tensor::new(&[8], vec![x; 8]).to_gpu(&gpu, "numbers", real);
    let mut tape = Tape::new().on(Some(&gpu));
    let [x, w] = [1.0, 2.0].map(|x| tape.leaf(placed(x, Real::Bf16)));
    let twice = tape.scale(x, 2.0);
    let (seen, told) = (Rc::new(Cell::new(None)), tape.value(twice).clone());
    let of_twice = seen.clone();
    let made = tape.record("made", &[twice], told, move |dy| {
        of_twice.set(Some(dy.real()));
        vec![Some(dy.clone())]
    });
    let shown = tape.reshape(w, &[2, 4]);
    // No bf16 is 1.001.
    let (of_made, of_shown) = (placed(1.001, Real::F32), placed(1.001, Real::F32));
    let loss = tape.record("loss", &[made, shown], Tensor::scalar(0.0), move |_| {
        vec![Some(of_made), Some(of_shown.reshape(&[2, 4]))]
    });
    let mut found = tape.backward(loss);
    assert_eq!(seen.get(), Some(Real::Bf16));
    let [dx, dw] = [x, w].map(|leaf| found.take(leaf).expect("a gradient").to_host().data()[0]);
    assert_eq!((dx, dw), (2.0, 1.001));
}

/// A weight that nobody gave a place for its gradient: one op makes it in f32, others in bf16, in either order.
#[test]
fn gradients_of_either_storage_add_up() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::Bf16, 1);
    for last in [false, true] {
        let mut tape = Tape::new().on(Some(&gpu));
        let table = tape.leaf(Tensor::new(&[2, 8], vec![1.0; 16]).to_gpu(&gpu, "table", Real::Bf16));
        let whole = |tape: &mut Tape| tape.scale(table, 3.0);
        let early = (!last).then(|| whole(&mut tape));
        let rows = tape.embedding(table, &[0, 1]);
        let all = early.unwrap_or_else(|| whole(&mut tape));
        let dy = Tensor::new(&[2, 8], vec![1.0; 16]).to_gpu(&gpu, "dy", Real::Bf16);
        let loss =
            tape.record("loss", &[rows, all], Tensor::scalar(0.0), move |_| vec![Some(dy.clone()), Some(dy)]);
        let sum = tape.backward(loss).take(table).expect("a gradient");
        assert_eq!((sum.real(), sum.to_host().data()), (Real::F32, [4.0; 16].as_slice()));
    }
}
