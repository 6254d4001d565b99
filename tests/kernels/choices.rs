//! What one process timed as quickest is what the next one does.

use std::cell::Cell;

use scale_engine::gpu::{Choices, Real};
use serde_json::{from_value, json};

#[test]
fn choices_are_taken_over_by_the_same_device_alone() {
    let Some(folder) = super::emulated() else { return };
    let gpu = crate::emulate::device(folder, Real::Bf16, 1);
    assert!(gpu.choices().is_empty(), "an emulator's time says nothing");
    let told = |device: &str, library: u64, words: u32| -> Choices {
        let way = json!(["gate", [8, 16, 24], [2e-3, 1e-3]]);
        let choices =
            json!({ "device": device, "library": library, "words": words, "algorithms": [], "ways": [way] });
        from_value(choices).expect("choices")
    };
    let asked = Cell::new(0);
    let choose = |size| {
        let way = || asked.set(asked.get() + 1);
        gpu.quicker("gate", size, [&way, &way])
    };
    // From another GPU, another cuBLASLt, a program that worded products differently.
    for other in [told("another GPU", 0, 3), told(&gpu.name(), 1, 3), told(&gpu.name(), 0, 2)] {
        assert!(!gpu.adopt(&other));
    }
    assert_eq!(choose([8, 16, 24]), 0);
    let choices = told(&gpu.name(), 0, 3);
    assert!(gpu.adopt(&choices) && gpu.choices() == choices);
    assert_eq!([choose([8, 16, 24]), choose([8, 16, 32])], [1, 0]);
    assert_eq!(asked.get(), 0, "nothing is run to choose");
}
