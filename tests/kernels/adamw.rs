//! Ten steps of AdamW on the emulated device, compared with the host's own.

use scale_engine::config::Config;
use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::ops::adamw::Weights;
use scale_engine::optim::Optimizer;
use scale_engine::params::{Init, Param, Params, Share, Table};
use scale_engine::rng::Rng;
use scale_engine::selftest::{error, wide};
use scale_engine::tape::Tape;
use scale_engine::tensor::Tensor;

const STEPS: u64 = 10;

/// To the nearest bf16, ties away from zero.
fn rounded(w: f32) -> f32 {
    f32::from_bits((w.to_bits() + 0x8000) & 0xFFFF_0000)
}

/// What a run of some steps leaves behind.
struct Trained {
    params: Params,
    table: Vec<Param>,
    optimizer: Optimizer,
    norms: Vec<f64>,
}

impl Trained {
    /// Weights, moments and average: flat.
    fn flats(&self) -> [(&'static str, Vec<f32>); 4] {
        let Trained { params, optimizer, .. } = self;
        let weights = optimizer.weights(params);
        [("weights", weights), ("m", optimizer.m()), ("v", optimizer.v()), ("average", optimizer.average())]
            .map(|(name, x)| (name, x.into_vec()))
    }
}

/// Parameters of awkward lengths, every other one a matrix that decays, moved by random gradients of norm about `size`.
fn trained(gpu: Option<&Gpu>, size: f32) -> Trained {
    let mut named = Table::default();
    let mut add = |len: usize, decay: bool| named.add(&format!("p{len}"), &[len], Init::Normal(0.1), decay);
    let table = vec![add(1, true), add(33, false), add(97, true), add(8193, false), add(40, true)];
    assert_eq!((named.count(), named.len()), (8364, 8 + 40 + 104 + 8200 + 40));
    let weights = named.draw(Rng::new(1));
    let mut params = Params::new(named, weights).with_gradients();
    if let Some(gpu) = gpu {
        params = params.to_gpu(gpu);
    }
    let mut config = Config::new("tiny", "default").expect("a preset").optim;
    config.weight_decay = 0.3;
    let share = Share::whole(params.len());
    let mut optimizer = Optimizer::new(&mut params, share);
    let mut norms = Vec::new();
    for k in 0..STEPS {
        let mut tape = Tape::new();
        let vars = params.bind(&mut tape);
        let gradient = |&p: &Param| {
            let shape = params.entries()[p.index()].shape.clone();
            let rng = Rng::new(2).at(k).at(p.index() as u64);
            let scale = size / 91.0;
            // One parameter gets no gradient at every other step.
            let flows = p.index() != 2 || k % 2 == 0;
            let numbers =
                (0..shape.iter().product::<usize>() as u64).map(|i| scale * rng.normal(i)).collect();
            let gradient = Tensor::new(&shape, numbers);
            flows.then(|| gpu.map_or(gradient.clone(), |gpu| gradient.to_gpu(gpu, "a gradient", Real::F32)))
        };
        let gradients: Vec<Option<Tensor>> = table.iter().map(gradient).collect();
        let inputs: Vec<_> = table.iter().map(|&p| vars[p]).collect();
        let loss = tape.record("loss", &inputs, Tensor::scalar(0.0), move |_| gradients);
        let found = tape.backward(loss);
        params.collect(&vars, found);
        norms.push(f64::from(optimizer.step(&mut params, &config, k, STEPS).item()));
    }
    Trained { params, table, optimizer, norms }
}

/// Compares ten steps in one storage with the host's.
fn hold(real: Real) {
    let Some(folder) = super::emulated() else { return };
    // The limit is 1: one gradient is clipped, the other is not.
    for size in [7.0, 0.3] {
        let host = trained(None, size);
        for seed in super::SEEDS {
            let gpu = crate::emulate::device(folder, real, seed);
            let device = gpu::guard(|| Ok(trained(Some(&gpu), size))).expect("ten steps");
            assert!(error(&device.norms, &host.norms) < 1e-6, "norm of about {size}, seed {seed}");
            for ((name, found), (_, told)) in device.flats().iter().zip(host.flats()) {
                let off = error(&wide(found), &wide(&told));
                assert!(off < 1e-6, "{name}: {off:.1e} off, norm of about {size}, seed {seed}");
            }
            let weights = device.params.weights().to_host();
            for &p in &device.table {
                let entry = &device.params.entries()[p.index()];
                let read = device.params.tensor(p);
                assert_eq!((read.real(), read.shape()), (real, &entry.shape[..]));
                let stored = |&w: &f32| if real == Real::Bf16 { rounded(w) } else { w };
                let told: Vec<f32> = weights.data()[entry.range()].iter().map(stored).collect();
                assert!(read.to_host().data() == told, "{}: products read other weights", entry.name);
            }
            drop(device);
            assert_eq!(gpu.overrun(), None);
        }
    }
}

#[test]
fn ten_steps_are_the_hosts_in_f32() {
    hold(Real::F32);
}

#[test]
fn ten_steps_are_the_hosts_and_the_rounded_copy_follows_in_bf16() {
    hold(Real::Bf16);
}

#[test]
fn other_weights_take_the_place_of_those_on_a_device() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::Bf16, 1);
    let Trained { params, table, optimizer, .. } = trained(Some(&gpu), 1.0);
    let other = params.over(optimizer.average());
    let average = optimizer.average().to_host();
    let holds_average = |params: &Params| {
        table.iter().all(|&p| {
            let told = average.data()[params.entries()[p.index()].range()].iter().copied().map(rounded);
            params.tensor(p).to_host().data().iter().copied().eq(told)
        })
    };
    assert!(holds_average(&other));
    let whole = gpu.held();
    let other = other.to_predict();
    assert_eq!(whole - gpu.held(), 2 * other.len() as u64, "the lower halves are gone");
    assert!(holds_average(&other), "the upper halves are as they were");
    let read = |params: &Params| params.tensor(table[3]).to_host().into_vec();
    assert!(read(&params) != read(&other), "the average is no copy of the weights");
}

#[test]
fn weights_in_halves_are_whole_again_to_the_bit() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::Bf16, 1);
    // Ties up and down, the smallest and the largest, both infinities, and any other bits that are a number.
    let ties = [0x3F80_8000, 0x3F81_8000, 0xBF80_8000, 0xBF81_8000, 0x0000_8000, 0x7F7F_8000, 0x7F7F_FFFF];
    let ends = [0, 0x8000_0000, 1, 0x8000_0001, 0x7F80_0000, 0xFF80_0000];
    let any = (0..8179).map(|i| Rng::new(3).below(i, 1 << 32) as u32).map(|bits| bits & !(1 << 30));
    let bits: Vec<u32> = ties.into_iter().chain(ends).chain(any).collect();
    let weights = Tensor::new(&[bits.len()], bits.iter().map(|&bits| f32::from_bits(bits)).collect());
    assert!(weights.data().iter().all(|w| !w.is_nan()));
    let halves = Weights::of(weights.to_gpu(&gpu, "weights", Real::F32));
    let again: Vec<u32> = halves.whole().to_host().data().iter().map(|w| w.to_bits()).collect();
    assert!(again == bits);
    let read = halves.read().to_host();
    assert!(read.data().iter().zip(weights.data()).all(|(read, &w)| read.to_bits() == rounded(w).to_bits()));
    // A NaN weight stays NaN, also in what products read.
    let nan = Tensor::new(
        &[8],
        [0x7FFF_FFFF, 0xFFFF_FFFF, 0x7F80_0001, 0x7FC0_0000]
            .repeat(2)
            .into_iter()
            .map(f32::from_bits)
            .collect(),
    );
    let halves = Weights::of(nan.to_gpu(&gpu, "weights", Real::F32));
    for found in [halves.whole().to_host(), halves.read().to_host()] {
        assert!(found.data().iter().all(|w| w.is_nan()));
    }
}
