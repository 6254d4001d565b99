//! placeholder until merged
use crate::gpu::Real;
use crate::ops::blocks;
use crate::tensor::Tensor;
/// x
pub fn column_sums(dy: &Tensor) -> Tensor {
    let w = dy.width();
    let host = Tensor::new(&[w], blocks::column_sums(dy.to_host().data(), w));
    match dy.gpu() {
        Some(gpu) => host.to_gpu(gpu, "x", Real::F32),
        None => host,
    }
}
