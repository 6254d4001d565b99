//! Matrix products on a device, all through one description.
//!
//! ```text
//!   out[r, c] = sum_d a[r, d] b[d, c]  (+ bias[c])  (+ plus[r, c] or out[r, c])          sums in f32
//!   sums[r]   = sum_d a[r, d]                                               if requested: the gradient of a bias
//! ```
//!
//! A kernel of our own can replace cuBLASLt for any of them: nothing above this module knows which one multiplies.

use super::Real;

/// A matrix laid over device memory: element (i, j) is number `i * down + j` from its address, or `j * down + i` if transposed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operand {
    /// Device address of the first number.
    pub address: u64,
    /// How the numbers are stored.
    pub real: Real,
    /// Numbers from one stored row to the next.
    pub down: usize,
    /// True if the stored rows are the matrix's columns.
    pub transposed: bool,
    /// Numbers from one matrix of a batch to the next.
    pub step: usize,
}

impl Operand {
    /// Contiguous rows of `width` numbers.
    pub fn rows(address: u64, real: Real, width: usize) -> Operand {
        Operand { address, real, down: width, transposed: false, step: 0 }
    }

    /// The transpose.
    pub fn t(self) -> Operand {
        Operand { transposed: !self.transposed, ..self }
    }

    /// The same layout, beginning `numbers` later.
    pub fn skip(self, numbers: usize) -> Operand {
        Operand { address: self.address + (numbers * self.real.bytes()) as u64, ..self }
    }

    /// One of a batch: the next begins `step` numbers later.
    pub fn every(self, step: usize) -> Operand {
        Operand { step, ..self }
    }

    /// Address of element (i, j) of batch item n.
    pub(super) fn at(&self, n: usize, i: usize, j: usize) -> u64 {
        let (i, j) = if self.transposed { (j, i) } else { (i, j) };
        self.address + ((n * self.step + i * self.down + j) * self.real.bytes()) as u64
    }
}

/// A product to compute, once or for each matrix of a batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// R, C and D of the formula.
    pub size: [usize; 3],
    /// Matrices of the batch.
    pub batch: usize,
    /// Written, `[R, C]`; not transposed.
    pub out: Operand,
    /// `[R, D]`.
    pub a: Operand,
    /// `[D, C]`.
    pub b: Operand,
    /// `[C]`, stored as `out`; its `down` is not used.
    pub bias: Option<Operand>,
    /// `[R, C]`, not `out` itself.
    pub plus: Option<Operand>,
    /// True if the product is added to what `out` holds; only without `plus`.
    pub more: bool,
    /// Written, `[R]`, f32; only without a bias.
    pub sums: Option<u64>,
}

impl Product {
    /// out `[R, C]` = a `[R, D]` b `[D, C]`.
    pub fn new(out: Operand, a: Operand, b: Operand, size: [usize; 3]) -> Product {
        Product { size, batch: 1, out, a, b, bias: None, plus: None, more: false, sums: None }
    }

    /// What cuBLASLt accepts; a violation is our own bug.
    pub(super) fn check(&self) {
        let fits = !self.out.transposed
            && self
                .plus
                .is_none_or(|p| !p.transposed && p.real == self.out.real && p.address != self.out.address)
            && self.a.real == self.b.real
            && !(self.more && self.plus.is_some())
            && self.bias.is_none_or(|b| b.real == self.out.real)
            && (self.sums.is_none()
                || (self.bias.is_none() && self.out.real == Real::F32 && self.batch == 1));
        assert!(fits, "product: {self:?}");
    }
}
