//! What one process timed as quickest is what the next one does.

use std::cell::Cell;

use scale_engine::gpu::{Choices, Real, Route};
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
    let ran = Cell::new(0);
    let takes_first = |size| {
        let way = || ran.set(ran.get() + 1);
        gpu.either(Route::Any, "gate", size, Some(1), |_| way(), way)
    };
    // From another GPU, another cuBLASLt, a program that worded products differently.
    for other in [told("another GPU", 0, 3), told(&gpu.name(), 1, 3), told(&gpu.name(), 0, 2)] {
        assert!(!gpu.adopt(&other));
    }
    assert!(takes_first([8, 16, 24]));
    let choices = told(&gpu.name(), 0, 3);
    assert!(gpu.adopt(&choices) && gpu.choices() == choices);
    assert_eq!([takes_first([8, 16, 24]), takes_first([8, 16, 32])], [false, true]);
    assert_eq!(ran.get(), 3, "nothing is run to choose");
}
