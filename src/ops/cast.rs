//! placeholder until merged
use crate::gpu::Real;
use crate::tensor::Tensor;
/// x
pub fn cast(x: &Tensor, real: Real) -> Tensor {
    if x.real() == real {
        return x.clone();
    }
    x.to_host().to_gpu(x.device(), "x", real)
}
