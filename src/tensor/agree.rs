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
        let fits = x.shape() == shape && x.real() == real;
        assert!(fits, "{op}: {x:?} where {shape:?} {real:?} is needed, beside {first:?}");
        assert!(x.is_on(gpu), "{op}: {x:?} {}, beside {first:?}", elsewhere(x.gpu(), gpu));
    }
    gpu
}

/// What is said of a tensor that is on one device, or the host, and is needed on another.
fn elsewhere(found: Option<&Gpu>, wanted: Option<&Gpu>) -> String {
    let [found, wanted] = [found, wanted].map(|gpu| gpu.map_or("the host".to_string(), Gpu::name));
    match found == wanted {
        true => {
            format!("is on another {found} than is needed (a device is opened once, and its `Gpu` cloned)")
        }
        false => format!("is on {found}, but is needed on {wanted}"),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_elsewhere_is_told_where_it_is_and_where_it_is_needed() {
        let on = |gpu: Option<&Gpu>| {
            gpu.map_or(Tensor::zeros(&[2]), |gpu| Tensor::zeros(&[2]).to_gpu(gpu, "x", Real::F32))
        };
        let (one, other) = (Gpu::dry(Real::F32), Gpu::dry(Real::F32));
        let name = one.name();
        for (first, second, told) in [
            (None, Some(&one), format!("on {name} is on {name}, but is needed on the host, beside")),
            (Some(&one), None, format!("is on the host, but is needed on {name}, beside")),
            (Some(&one), Some(&other), format!("on {name} is on another {name} than is needed")),
        ] {
            let (first, second) = (on(first), on(second));
            let of = || agree("op", &[(&first, &[2])], &[(&second, &[2])]).is_some();
            let stopped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(of)).expect_err(&told);
            let words = stopped.downcast_ref::<String>().expect("words");
            assert!(words.starts_with("op: Tensor[2] ") && words.contains(&told), "{words}");
        }
        assert!(agree("op", &[(&on(Some(&one)), &[2])], &[(&on(Some(&one)), &[2])]).is_some());
    }
}
