//! A loss from its parts on the emulated device, compared with their sum.

use scale_engine::gpu::{self, Real};
use scale_engine::ops::loss;
use scale_engine::rng::Rng;

#[test]
fn a_loss_is_the_sum_of_its_parts() {
    let Some(folder) = super::emulated() else { return };
    for (seed, count) in [(1, 1), (2, 255), (3, 256), (1, 257), (2, 2112)] {
        let gpu = crate::emulate::device(folder, Real::Bf16, seed);
        let parts: Vec<f64> = (0..count).map(|i| f64::from(Rng::new(4).normals(i)[0]) + 1e6).collect();
        let found = gpu::guard(|| {
            let on_device = gpu.upload("parts", &parts);
            Ok(loss::total("loss", &on_device, parts.len(), 0.125).item())
        });
        let wanted = (parts.iter().sum::<f64>() / 8.0) as f32;
        assert!(
            (found.expect("a device that answers") - wanted).abs() <= wanted * f32::EPSILON,
            "{count} parts"
        );
        assert_eq!(gpu.overrun(), None);
    }
}
