//! What a Hopper GPU has besides: its copy engine reads boxes of a matrix.

use super::{Gpu, Operand, Real};

/// A matrix of bf16, contiguous in its rows, as the copy engine sees it: an argument of a kernel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Map {
    /// Device address of the first number.
    pub address: u64,
    /// Numbers of a row, and rows. What a box holds outside of them is zero.
    pub size: [usize; 2],
    /// Bytes from one row to the next.
    pub down: usize,
    /// Rows of a box, at most 256; each brings [`Map::COLUMNS`] numbers.
    pub rows: usize,
}

impl Map {
    /// Numbers of a box's row: 128 bytes, the widest that are swizzled.
    pub const COLUMNS: usize = 64;

    /// `matrix` of `height` rows of `width` numbers. Panics where it is not one that [`Map::can`] see.
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
    /// How many multiprocessors, on a device that runs the kernels written for Hopper.
    pub fn hopper(&self) -> Option<usize> {
        self.0.driver.hopper()
    }
}
