//! Shape + contiguous numbers.
//!
//! A tensor is a contiguous window of a shared buffer: copying one costs a count, a reshape costs a shape, and the weights of a
//! whole model can lie in one buffer and still be tensors. There are no strides and no broadcasting: an op names the shapes it
//! takes and refuses others.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Contiguous f32 numbers with a shape, row-major.
#[derive(Clone)]
pub struct Tensor {
    shape: Vec<usize>,
    storage: Storage,
}

/// Where the numbers lie. A device buffer is the other arm this enum is made for.
#[derive(Clone)]
enum Storage {
    Host { buffer: Arc<Vec<f32>>, offset: usize },
}

impl Tensor {
    /// Takes the numbers over. Panics if their count is not the shape's.
    pub fn new(shape: &[usize], numbers: Vec<f32>) -> Self {
        Tensor::window(Arc::new(numbers), 0, shape).whole()
    }

    /// A window of a shared buffer, from `offset` on.
    pub fn window(buffer: Arc<Vec<f32>>, offset: usize, shape: &[usize]) -> Self {
        let len: usize = shape.iter().product();
        assert!(offset + len <= buffer.len(), "tensor: {shape:?} at {offset} of {} numbers", buffer.len());
        Tensor { shape: shape.to_vec(), storage: Storage::Host { buffer, offset } }
    }

    fn whole(self) -> Self {
        let Storage::Host { buffer, .. } = &self.storage;
        assert_eq!(buffer.len(), self.len(), "tensor: {} numbers for shape {:?}", buffer.len(), self.shape);
        self
    }

    /// All zero.
    pub fn zeros(shape: &[usize]) -> Self {
        Tensor::new(shape, vec![0.0; shape.iter().product()])
    }

    /// One number, shape [1].
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
        *self.shape.last().expect("a tensor has at least one axis")
    }

    /// Leading axes folded: the number of rows.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len() - 1].iter().product()
    }

    /// The axes' lengths as an array, for `let [b, n, d] = x.dims("pool");`. Panics, naming the op, on another rank.
    pub fn dims<const R: usize>(&self, op: &str) -> [usize; R] {
        self.shape
            .clone()
            .try_into()
            .unwrap_or_else(|s: Vec<usize>| panic!("{op}: {R} axes expected, got {s:?}"))
    }

    /// The numbers, row-major.
    pub fn data(&self) -> &[f32] {
        let Storage::Host { buffer, offset } = &self.storage;
        &buffer[*offset..*offset + self.len()]
    }

    /// The only number of a one-element tensor.
    pub fn item(&self) -> f32 {
        assert_eq!(self.len(), 1, "item: shape {:?}", self.shape);
        self.data()[0]
    }

    /// The same numbers under another shape. No copy.
    pub fn reshape(&self, shape: &[usize]) -> Self {
        assert_eq!(self.len(), shape.iter().product::<usize>(), "reshape: {:?} to {shape:?}", self.shape);
        Tensor { shape: shape.to_vec(), storage: self.storage.clone() }
    }

    /// Entries `range` of the first axis. No copy.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= self.shape[0],
            "slice: {range:?} of {:?}",
            self.shape
        );
        let stride: usize = self.shape[1..].iter().product();
        let mut shape = self.shape.clone();
        shape[0] = range.len();
        let Storage::Host { buffer, offset } = &self.storage;
        Tensor::window(buffer.clone(), offset + range.start * stride, &shape)
    }

    /// The numbers as a vector: moved out where this is the only owner of the whole buffer, copied otherwise.
    pub fn into_vec(self) -> Vec<f32> {
        let len = self.len();
        let Storage::Host { buffer, offset } = self.storage;
        if offset == 0 && buffer.len() == len {
            return Arc::try_unwrap(buffer).unwrap_or_else(|shared| shared.as_ref().clone());
        }
        buffer[offset..offset + len].to_vec()
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let shown = &self.data()[..self.len().min(6)];
        write!(f, "Tensor{:?} {shown:?}{}", self.shape, if self.len() > 6 { " .." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
