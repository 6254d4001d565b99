//! What a Hopper GPU adds: a copy engine that reads boxes of a matrix.

use super::{Gpu, Operand, Real};

/// A bf16 matrix with contiguous rows, as the copy engine sees it: an argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Map {
    /// Device address of the first number.
    pub address: u64,
    /// Numbers per row, and rows. A box reads zeros outside them.
    pub size: [usize; 2],
    /// Bytes from one row to the next.
    pub down: usize,
    /// Rows per box, at most 256, each of [`Map::COLUMNS`] numbers.
    pub rows: usize,
}

impl Map {
    /// Numbers per row of a box: 128 bytes, the widest that can be swizzled.
    pub const COLUMNS: usize = 64;

    /// `matrix` of `height` rows of `width` numbers, in boxes of `rows` rows.
    ///
    /// # Panics
    /// If [`Map::can`] is false, the matrix is transposed, or `rows` is above 256.
    pub fn new(matrix: Operand, [height, width]: [usize; 2], rows: usize) -> Map {
        assert!(
            Map::can(&matrix) && !matrix.transposed && rows <= 256,
            "tensor map: {matrix:?}, boxes of {rows}"
        );
        Map { address: matrix.address, size: [width, height], down: 2 * matrix.down, rows }
    }

    /// True if the engine can read it: bf16, and address and rows at multiples of 16 bytes.
    pub fn can(matrix: &Operand) -> bool {
        matrix.real == Real::Bf16 && matrix.address.is_multiple_of(16) && matrix.down.is_multiple_of(8)
    }
}

impl Gpu {
    /// How many blocks of the kernels written for Hopper run at once, one per multiprocessor; `None` on other devices.
    pub fn hopper_blocks(&self) -> Option<usize> {
        self.0.driver.hopper()
    }
}
