//! Shape + contiguous numbers.
//!
//! A tensor is a contiguous window of a shared buffer: copying one costs a count, a reshape costs a shape, and the weights of a
//! whole model can share one buffer and still be tensors. There are no strides and no broadcasting: an op names the shapes it takes
//! and refuses others.
//!
//! The numbers are on the host as f32, or on a device as f32 or bf16. They move between the two only by [`Tensor::to_gpu`],
//! [`Tensor::to_host`] and, to page-locked memory, `send_to`.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::gpu::{Arg, Buffer, Gpu, Operand, Real};

mod agree;
mod moves;

pub use agree::{Shaped, agree};

/// Contiguous numbers with a shape, row-major.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    /// Where in the buffer the numbers begin.
    offset: usize,
    storage: Storage,
}

/// The buffer; on a device its numbers are f32 or in the device's own storage.
#[derive(Clone)]
enum Storage {
    Host(Arc<Vec<f32>>),
    Device(Arc<Buffer>, Real),
}

/// Number of elements of a shape. Panics if the product of its axes, empty ones counted as 1, is more than any memory holds: a
/// product that wraps around could look small.
fn count(shape: &[usize]) -> usize {
    let most = shape.iter().try_fold(1usize, |n, &axis| n.checked_mul(axis.max(1)));
    let fits = most.is_some_and(|n| n <= isize::MAX as usize / size_of::<f32>());
    assert!(fits, "tensor: {shape:?} is more than any memory holds");
    shape.iter().product()
}

/// Panics unless the device's kernels can read `real`: f32 or the device's own storage.
fn check_storage(gpu: &Gpu, what: &str, real: Real) {
    let fits = real == Real::F32 || real == gpu.real();
    assert!(fits, "tensor: {what} as {real:?} on a device that stores {:?}", gpu.real());
}

impl Tensor {
    /// Takes over the numbers.
    ///
    /// # Panics
    /// If their count does not match the shape, or the shape has no axes.
    pub fn new(shape: &[usize], numbers: Vec<f32>) -> Self {
        assert_eq!(numbers.len(), count(shape), "tensor: {} numbers for shape {shape:?}", numbers.len());
        assert!(!shape.is_empty(), "tensor: a shape without axes; one number has the shape [1]");
        Tensor { shape: shape.to_vec(), offset: 0, storage: Storage::Host(Arc::new(numbers)) }
    }

    /// Numbers on a device, not yet written: an op's output. `what` names them in the error if there is no room.
    ///
    /// # Panics
    /// If the device's kernels cannot read `real`, or the shape has no axes or is more than any memory holds.
    pub fn on(gpu: &Gpu, what: &'static str, shape: &[usize], real: Real) -> Self {
        check_storage(gpu, what, real);
        assert!(!shape.is_empty(), "tensor: {what} without axes; one number has the shape [1]");
        let buffer = Arc::new(gpu.buffer(what, count(shape) * real.bytes()));
        Tensor { shape: shape.to_vec(), offset: 0, storage: Storage::Device(buffer, real) }
    }

    /// Numbers of the same shape and storage on the same device, not yet written.
    ///
    /// # Panics
    /// If these are on the host.
    pub fn like(&self, what: &'static str) -> Self {
        Tensor::on(self.device(), what, &self.shape, self.real())
    }

    /// All zero.
    ///
    /// # Panics
    /// If the shape has no axes or is more than any memory holds.
    pub fn zeros(shape: &[usize]) -> Self {
        Tensor::new(shape, vec![0.0; count(shape)])
    }

    /// Zeros as f32 on a device, or else on the host; `what` names them in the error if a device has no room.
    ///
    /// # Panics
    /// As [`Tensor::zeros`].
    pub fn zeros_on(gpu: Option<&Gpu>, what: &'static str, shape: &[usize]) -> Self {
        let Some(gpu) = gpu else { return Tensor::zeros(shape) };
        let zeros = Tensor::on(gpu, what, shape, Real::F32);
        zeros.zero();
        zeros
    }

    /// One number, shape `[1]`.
    pub fn scalar(x: f32) -> Self {
        Tensor::new(&[1], vec![x])
    }

    /// The axes' lengths.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Count of numbers.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// True if an axis has length zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Length of the last axis: the width of a row.
    pub fn width(&self) -> usize {
        *self.shape.last().unwrap_or_else(|| unreachable!("a tensor has at least one axis"))
    }

    /// Leading axes folded: the number of rows.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// The axes' lengths as an array, for `let [b, n, d] = x.dims("pool");`.
    ///
    /// # Panics
    /// If it has another number of axes; the message names the op.
    pub fn dims<const R: usize>(&self, op: &str) -> [usize; R] {
        let axes = self.shape.as_slice().try_into();
        axes.unwrap_or_else(|_| panic!("{op}: {R} axes expected, got {:?}", self.shape))
    }

    /// The numbers, row-major.
    ///
    /// # Panics
    /// If they are on a device.
    pub fn data(&self) -> &[f32] {
        match &self.storage {
            Storage::Host(buffer) => &buffer[self.offset..self.offset + self.len()],
            Storage::Device(..) => panic!("data: {:?} lies on a device", self.shape),
        }
    }

    /// The numbers, for writing.
    ///
    /// # Panics
    /// If they are on a device, or another tensor shares them.
    pub fn data_mut(&mut self) -> &mut [f32] {
        let range = self.offset..self.offset + self.len();
        match &mut self.storage {
            Storage::Host(buffer) => &mut Arc::get_mut(buffer)
                .expect("data_mut: another tensor shares the numbers; drop it, or keep `copied()` of it")
                [range],
            Storage::Device(..) => panic!("data_mut: {:?} lies on a device", self.shape),
        }
    }

    /// The only number of a one-element tensor. Waits for the device if it is on one.
    ///
    /// # Panics
    /// If there is not exactly one.
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item: shape {:?}", self.shape);
        self.to_host().data()[0]
    }

    /// The device that the numbers are on.
    pub fn gpu(&self) -> Option<&Gpu> {
        match &self.storage {
            Storage::Host(_) => None,
            Storage::Device(buffer, _) => Some(buffer.gpu()),
        }
    }

    /// The device that the numbers are on.
    ///
    /// # Panics
    /// If they are on the host.
    pub fn device(&self) -> &Gpu {
        self.gpu().unwrap_or_else(|| panic!("device: {:?} lies on the host", self.shape))
    }

    /// How the numbers are stored.
    pub fn real(&self) -> Real {
        match self.storage {
            Storage::Host(_) => Real::F32,
            Storage::Device(_, real) => real,
        }
    }

    /// Size of the numbers as stored.
    pub fn bytes(&self) -> u64 {
        (self.len() * self.real().bytes()) as u64
    }

    /// True if both share one buffer.
    pub fn shares(&self, other: &Tensor) -> bool {
        match (&self.storage, &other.storage) {
            (Storage::Host(a), Storage::Host(b)) => Arc::ptr_eq(a, b),
            (Storage::Device(a, _), Storage::Device(b, _)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// The buffer on a device, and its byte at which the numbers begin. Panics, naming what is to be done, on the host.
    fn place(&self, what: &str) -> (&Buffer, usize) {
        match &self.storage {
            Storage::Host(_) => panic!("{what}: {:?} lies on the host", self.shape),
            Storage::Device(buffer, real) => (buffer, self.offset * real.bytes()),
        }
    }

    /// Where on the device the numbers begin.
    ///
    /// # Panics
    /// If they are on the host.
    pub fn address(&self) -> u64 {
        let (buffer, at) = self.place("address");
        buffer.address() + at as u64
    }

    /// The rows as one side of a matrix product on the device.
    ///
    /// # Panics
    /// If they are on the host.
    pub fn operand(&self) -> Operand {
        Operand::rows(self.address(), self.real(), self.width())
    }

    /// True if no other tensor shares the buffer: an op may write over what nobody else reads.
    pub fn is_alone(&self) -> bool {
        match &self.storage {
            Storage::Host(buffer) => Arc::strong_count(buffer) == 1,
            Storage::Device(buffer, _) => Arc::strong_count(buffer) == 1,
        }
    }

    /// The same numbers under another shape. No copy.
    ///
    /// # Panics
    /// If the shape has another count, or no axes.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert!(!shape.is_empty() && self.len() == count(shape), "reshape: {:?} to {shape:?}", self.shape);
        Tensor { shape: shape.to_vec(), offset: self.offset, storage: self.storage.clone() }
    }

    /// Entries `range` of the first axis. No copy.
    ///
    /// # Panics
    /// If there are no such entries.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.shape[0],
            "slice: {range:?} of {:?}",
            self.shape
        );
        let stride: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        Tensor { shape, offset: self.offset + range.start * stride, storage: self.storage.clone() }
    }

    /// Numbers of the flattened tensor, from number `from` on, in this shape. No copy.
    ///
    /// # Panics
    /// If they go beyond the end, or the shape has no axes.
    pub fn part(&self, from: usize, shape: &[usize]) -> Self {
        let end = from.saturating_add(count(shape));
        self.reshape(&[self.len()]).slice(from..end).reshape(shape)
    }

    /// Some of its rows, `[rows, width]`. No copy.
    ///
    /// # Panics
    /// If there are no such rows.
    pub fn part_of_rows(&self, rows: &Range<usize>) -> Self {
        self.reshape(&[self.rows(), self.width()]).slice(rows.clone())
    }

    /// The numbers as a vector: moved out if this is the only owner of the whole buffer, copied otherwise.
    pub fn into_vec(self) -> Vec<f32> {
        let len = self.len();
        // `to_host` would add a second owner of numbers already on the host.
        let host = if self.gpu().is_some() { self.to_host() } else { self };
        let Tensor { offset, storage: Storage::Host(buffer), .. } = host else { unreachable!("to_host") };
        if offset == 0 && buffer.len() == len {
            return Arc::unwrap_or_clone(buffer);
        }
        buffer[offset..offset + len].to_vec()
    }
}

/// No numbers, shape `[0]`.
impl Default for Tensor {
    fn default() -> Self {
        Tensor::zeros(&[0])
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        if let Some(gpu) = self.gpu() {
            return write!(f, "Tensor{:?} {:?} on {}", self.shape, self.real(), gpu.name());
        }
        let shown = &self.data()[..self.len().min(6)];
        write!(f, "Tensor{:?} {shown:?}{}", self.shape, if self.len() > 6 { " .." } else { "" })
    }
}

impl From<&Tensor> for Arg {
    fn from(x: &Tensor) -> Arg {
        Arg::Pointer(x.address())
    }
}

impl From<&Option<Tensor>> for Arg {
    fn from(x: &Option<Tensor>) -> Arg {
        x.as_ref().into()
    }
}

impl From<Option<&Tensor>> for Arg {
    fn from(x: Option<&Tensor>) -> Arg {
        Arg::Pointer(x.map_or(0, Tensor::address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "[4294967296, 4294967296] is more than any memory holds")]
    fn a_shape_whose_count_wraps_to_zero_is_refused() {
        Tensor::new(&[1 << 32, 1 << 32], Vec::new());
    }

    #[test]
    #[should_panic(expected = "18446744073709551615..18446744073709551615 of [4]")]
    fn a_part_whose_end_wraps_is_refused() {
        Tensor::zeros(&[4]).part(usize::MAX, &[1]);
    }

    #[test]
    fn rows_are_refused_that_are_not_there() {
        let rows = |range: Range<usize>| Tensor::zeros(&[2, 3, 4]).part_of_rows(&range).shape().to_vec();
        assert_eq!((rows(1..5), rows(6..6)), (vec![4, 4], vec![0, 4]));
        #[expect(clippy::reversed_empty_ranges)]
        for none in [1 << 62..(1 << 62) + 1, 5..7, 3..2] {
            std::panic::catch_unwind(|| rows(none)).expect_err("no such rows");
        }
    }

    #[test]
    #[should_panic(expected = "numbers as Bf16 on a device that stores F32")]
    fn a_device_gets_no_numbers_that_its_kernels_cannot_read() {
        Tensor::zeros(&[8]).to_gpu(&Gpu::dry(Real::F32), "numbers", Real::Bf16);
    }

    #[test]
    fn a_slice_shares_the_buffer_and_into_vec_moves_when_it_can() {
        let whole = Tensor::new(&[4, 3], (0..12).map(|i| i as f32).collect());
        let rows = whole.slice(1..3);
        assert_eq!((rows.shape(), rows.data()), (&[2, 3][..], &[3.0, 4.0, 5.0, 6.0, 7.0, 8.0][..]));
        assert_eq!(rows.reshape(&[6]).into_vec(), vec![3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let address = whole.data().as_ptr();
        drop(rows);
        let moved = whole.into_vec();
        assert_eq!(moved.as_ptr(), address);
    }
}
