//! Where numbers move: between host and device, and on a device.

use std::sync::Arc;

use half::bf16;

use super::{Storage, Tensor, check_storage};
use crate::gpu::{Gpu, Grid, Pinned, Real, args};

impl Tensor {
    /// A copy of host numbers on a device, rounded if stored as bf16.
    ///
    /// # Panics
    /// If they are on a device already, or its kernels cannot read `real`.
    pub fn to_gpu(&self, gpu: &Gpu, what: &'static str, real: Real) -> Self {
        check_storage(gpu, what, real);
        let buffer = match real {
            Real::F32 => gpu.upload(what, self.data()),
            Real::Bf16 => {
                let rounded: Vec<bf16> = self.data().iter().map(|&x| bf16::from_f32(x)).collect();
                gpu.upload(what, &rounded)
            }
        };
        Tensor { shape: self.shape.clone(), offset: 0, storage: Storage::Device(Arc::new(buffer), real) }
    }

    /// The same numbers on the host; if they are on a device, a copy, after waiting for it.
    pub fn to_host(&self) -> Self {
        if self.gpu().is_none() {
            return self.clone();
        }
        let (buffer, at) = self.place("to_host");
        let numbers = match self.real() {
            Real::F32 => {
                let mut numbers = vec![0f32; self.len()];
                buffer.download(at, &mut numbers);
                numbers
            }
            Real::Bf16 => {
                let mut numbers = vec![bf16::ZERO; self.len()];
                buffer.download(at, &mut numbers);
                numbers.iter().map(|x| x.to_f32()).collect()
            }
        };
        Tensor::new(&self.shape, numbers)
    }

    /// The same numbers where they are, in a buffer of their own; `what` names it in the error if a device has no room.
    pub fn copied(&self, what: &'static str) -> Self {
        if self.gpu().is_none() {
            return Tensor::new(&self.shape, self.data().to_vec());
        }
        let own = self.like(what);
        own.copy_from(0, self);
        own
    }

    /// Queues a copy of its numbers, f32 on a device, to page-locked memory of that device, from number `at` there on.
    ///
    /// # Panics
    /// If the numbers are not f32 on a device, or go beyond the end of the memory.
    pub(crate) fn send_to(&self, to: &mut Pinned, at: usize) {
        assert!(self.real() == Real::F32, "send: {self:?} is not f32");
        let (buffer, from) = self.place("send");
        to.receive(4 * at..4 * (at + self.len()), buffer, from);
    }

    /// Writes the numbers of `other`, as many in the other storage on the same device, over these: rounded to the nearest, ties to
    /// even, if these are bf16.
    ///
    /// # Panics
    /// If their number, storage or device does not fit.
    pub(crate) fn cast_from(&self, other: &Tensor) {
        let fits = self.len() == other.len() && self.real() != other.real() && self.is_on(other.gpu());
        assert!(fits, "cast: {other:?} into {self:?}");
        let kernel = if self.real() == Real::F32 { "cast_to_f32" } else { "cast_to_real" };
        let args = args![self, other, other.len() as u64];
        // SAFETY: both casts read `other` and write these element by element; one of the two is f32, the other the device's `real`:
        // there is no third storage.
        unsafe { self.device().launch("cast", kernel, Grid::eights(other.len()), &args) };
    }

    /// Copies the numbers of `other`, in the same storage on the same device, over these, from number `at` on.
    ///
    /// # Panics
    /// If the storage or the device differs, both share one buffer, or the numbers go beyond the end.
    pub(crate) fn copy_from(&self, at: usize, other: &Tensor) {
        let fits = self.real() == other.real() && at <= self.len() && other.len() <= self.len() - at;
        assert!(fits, "copy: {other:?} to {at} of {self:?}");
        let ((buffer, start), (from, first)) = (self.place("copy"), other.place("copy"));
        buffer.copy_from(start + at * self.real().bytes(), from, first, other.bytes() as usize);
    }

    /// Sets all numbers on a device to zero.
    ///
    /// # Panics
    /// If they are on the host.
    pub(crate) fn zero(&self) {
        let (buffer, at) = self.place("zero");
        buffer.zero(at, self.bytes() as usize);
    }
}
