//! Gradients of weights go straight to the flat buffer of a device: however often a weight is used, and in which parts.

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
        let gpu = Gpu::emulated(folder, real, 1);
        let found = gradients(Some(&gpu));
        let off = error(&wide(&found), &told);
        assert!(off < allowed, "{real:?}: {off:.1e} off");
        assert!(found == gradients(Some(&gpu)), "{real:?}: other bits");
        assert_eq!(gpu.overrun(), None);
    }
}
