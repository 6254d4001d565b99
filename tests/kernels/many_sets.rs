//! More sets than there are groups of lanes: too large for a row of the table, which is run in every order.

use scale_engine::gpu::{self, Gpu, Real};
use scale_engine::ops::seed_attention::{backward, forward};
use scale_engine::rng::Rng;
use scale_engine::selftest::{error, wide};
use scale_engine::tensor::Tensor;

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
    let gpu = Gpu::emulated(folder, Real::F32, 1);
    let on = |x: &Tensor| x.to_gpu(&gpu, "input", Real::F32);
    let found = gpu::guard(|| Ok(backward(&on(&dy), &on(&q), &on(&kv), 1, &on(&p)))).expect("gradients");
    let off = |x: &Tensor, told: &Tensor| error(&wide(x.to_host().data()), &wide(told.data()));
    assert!(off(&found.0, &dq) < 1e-5, "dq is {:.1e} off", off(&found.0, &dq));
    assert!(off(&found.1, &dkv) < 1e-5, "dkv is {:.1e} off", off(&found.1, &dkv));
    drop(found);
    assert_eq!(gpu.overrun(), None);
}
