//! What an op asks of the tensors it is given.

use super::Tensor;
use crate::gpu::{Gpu, Real};

/// A tensor that an op is given, and the shape that it must have there.
pub type Shaped<'a, 's> = (&'a Tensor, &'s [usize]);

/// The device that an op runs on; `None` for the host. On a device `reals` are stored as activations are, `singles` as f32.
///
/// # Panics
/// With the op and what does not fit, unless every tensor has its shape and its storage, and all are on one device or all on the
/// host. Every op asks this before it launches a kernel, which believes what it is told.
pub fn agree<'a>(op: &str, reals: &[Shaped<'a, '_>], singles: &[Shaped<'a, '_>]) -> Option<&'a Gpu> {
    let (first, _) = reals.first().or(singles.first())?;
    let gpu = first.gpu();
    let real = gpu.map_or(Real::F32, Gpu::real);
    let reals = reals.iter().map(|x| (x, real));
    for (&(x, shape), real) in reals.chain(singles.iter().map(|x| (x, Real::F32))) {
        let fits = x.shape() == shape && x.real() == real && x.is_on(gpu);
        assert!(fits, "{op}: {x:?} where {shape:?} {real:?} is needed, beside {first:?}");
    }
    gpu
}

impl Tensor {
    /// True if the numbers are on that device, or, without one, on the host.
    pub fn is_on(&self, gpu: Option<&Gpu>) -> bool {
        match (self.gpu(), gpu) {
            (Some(here), Some(gpu)) => here.same(gpu),
            (here, gpu) => here.is_none() && gpu.is_none(),
        }
    }
}
