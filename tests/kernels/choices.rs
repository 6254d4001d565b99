//! What one process has timed is what the next one does; and a way that an emulator does not choose is right too.

use std::cell::Cell;

use scale_engine::gpu::{Choices, Gpu, Real};
use scale_engine::selftest::{Case, table};
use scale_engine::tensor::Tensor;
use serde_json::{from_value, json};

#[test]
fn choices_are_taken_over_by_the_same_device_alone() {
    let Some(folder) = super::emulated() else { return };
    let gpu = Gpu::emulated(folder, Real::Bf16, 1);
    assert!(gpu.choices().is_empty(), "an emulator's time says nothing");
    let told = |device: &str, library: u64| -> Choices {
        let way = json!(["gate", [8, 16, 24], [2e-3, 1e-3]]);
        from_value(json!({ "device": device, "library": library, "algorithms": [], "ways": [way] }))
            .expect("choices")
    };
    let asked = Cell::new(0);
    let choose = |size| {
        let way = || asked.set(asked.get() + 1);
        gpu.quicker("gate", size, [&way, &way])
    };
    assert!(!gpu.adopt(&told("another GPU", 0)) && !gpu.adopt(&told(&gpu.name(), 1)));
    assert_eq!(choose([8, 16, 24]), 0);
    let choices = told(&gpu.name(), 0);
    assert!(gpu.adopt(&choices) && gpu.choices() == choices);
    assert_eq!([choose([8, 16, 24]), choose([8, 16, 32])], [1, 0]);
    assert_eq!(asked.get(), 0, "nothing is run to choose");
}

/// By itself an emulator has them in pairs, which are held against the reference elsewhere.
#[test]
fn matmul_swiglus_blocks_alone_have_the_bits_of_pairs() {
    let Some(folder) = super::emulated() else { return };
    let alone = |gpu: &Gpu, row: &Case| {
        let [m, e, f] = [row.shapes[1][0], row.shapes[1][1], row.shapes[3][1]];
        let way = |what| json!([what, [m, e, f], [2e-3, 1e-3]]);
        let ways = ["gate: in pairs", "gate, kept: in pairs", "gate backward: in pairs"].map(way);
        let told = json!({ "device": gpu.name(), "library": 0, "algorithms": [], "ways": ways });
        assert!(gpu.adopt(&from_value(told).expect("choices")));
    };
    for row in table().iter().filter(|row| row.op() == "matmul_swiglu" && row.size() <= super::SMALL) {
        let inputs = row.inputs();
        let bits = |gpu: &Gpu| -> Vec<Vec<f32>> {
            let run = row.run(&inputs, Some(gpu));
            let of = |x: &Tensor| x.to_host().data().to_vec();
            [&run.y].into_iter().chain(&run.gradients).map(of).collect()
        };
        let pairs = bits(&Gpu::emulated(folder, Real::Bf16, 4));
        for seed in super::SEEDS {
            let gpu = Gpu::emulated(folder, Real::Bf16, seed);
            alone(&gpu, row);
            gpu.listen();
            assert!(bits(&gpu) == pairs, "{:?}, seed {seed}", row.shapes);
            assert!(gpu.ran().iter().all(|ran| !ran.name.contains("paired")), "{:?}: not alone", row.shapes);
        }
    }
}
