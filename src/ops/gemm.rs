//! Matrix products on the CPU.
//!
//! ```text
//!   C[i, j] = sum_l A[i, l] B[l, j]        or += with `Keep::Add`
//! ```
//!
//! The crate `gemm-f32` does the work; it picks AVX-512, AVX2 or NEON at run time. It splits rows and columns between threads but
//! never the sum over l, so the bits do not depend on the number of threads.

use gemm_common::Parallelism;

/// A matrix laid over numbers: element (i, j) is at `i * down + j * across`.
#[derive(Clone, Copy, Debug)]
pub struct Mat<'a> {
    numbers: &'a [f32],
    rows: usize,
    cols: usize,
    down: usize,
    across: usize,
}

impl<'a> Mat<'a> {
    /// Contiguous rows.
    ///
    /// # Panics
    /// If there are fewer numbers.
    pub fn new(numbers: &'a [f32], rows: usize, cols: usize) -> Self {
        Mat::strided(numbers, rows, cols, cols)
    }

    /// Rows of contiguous numbers, `down` apart.
    ///
    /// # Panics
    /// If the matrix exceeds the numbers.
    pub fn strided(numbers: &'a [f32], rows: usize, cols: usize, down: usize) -> Self {
        check(numbers.len(), rows, cols, down);
        Mat { numbers, rows, cols, down, across: 1 }
    }

    /// The transpose. No copy.
    pub fn t(self) -> Self {
        Mat { rows: self.cols, cols: self.rows, down: self.across, across: self.down, ..self }
    }
}

/// A matrix to write: rows of contiguous numbers, `down` apart.
#[derive(Debug)]
pub struct MatMut<'a> {
    numbers: &'a mut [f32],
    rows: usize,
    cols: usize,
    down: usize,
}

impl<'a> MatMut<'a> {
    /// Contiguous rows.
    ///
    /// # Panics
    /// If there are fewer numbers.
    pub fn new(numbers: &'a mut [f32], rows: usize, cols: usize) -> Self {
        MatMut::strided(numbers, rows, cols, cols)
    }

    /// Rows of contiguous numbers, `down` apart.
    ///
    /// # Panics
    /// If the matrix exceeds the numbers.
    pub fn strided(numbers: &'a mut [f32], rows: usize, cols: usize, down: usize) -> Self {
        check(numbers.len(), rows, cols, down);
        MatMut { numbers, rows, cols, down }
    }
}

fn check(len: usize, rows: usize, cols: usize, down: usize) {
    let last = rows.saturating_sub(1).checked_mul(down);
    let end = if rows == 0 || cols == 0 { Some(0) } else { last.and_then(|last| last.checked_add(cols)) };
    assert!(
        // The library takes strides as isize.
        end.is_some_and(|end| end <= len) && (cols <= down || rows <= 1) && isize::try_from(down).is_ok(),
        "gemm: [{rows}, {cols}] every {down} of {len} numbers"
    );
}

/// What becomes of the numbers that C holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// C = A B.
    Nothing,
    /// C += A B.
    Add,
}

/// Which threads work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The caller's alone: it is one of many that work at the same time.
    One,
    /// All cores, if the product is large enough.
    All,
}

/// Multiplications below which waking other threads costs more than it saves.
const ALONE: usize = 1 << 20;

/// C = A B or C += A B.
///
/// # Panics
/// If the shapes do not fit.
pub fn product(c: MatMut, a: Mat, b: Mat, keep: Keep, threads: Threads) {
    assert!(
        a.cols == b.rows && c.rows == a.rows && c.cols == b.cols,
        "gemm: [{}, {}] = [{}, {}] [{}, {}]",
        c.rows,
        c.cols,
        a.rows,
        a.cols,
        b.rows,
        b.cols
    );
    let alone = threads == Threads::One || c.rows * c.cols * a.cols < ALONE;
    let parallelism = if alone { Parallelism::None } else { Parallelism::Rayon(0) };
    let gemm = gemm_f32::gemm::f32::get_gemm_fn();
    // The kernels are column-major, so they are asked for C^T = B^T A^T: its columns are our contiguous rows.
    // SAFETY: `check` has found every element of A, B and C inside its slice, and no stride beyond an isize; transposing swaps rows
    // with columns and their strides together. C is borrowed mutably, so it overlaps neither A nor B. With `read_dst` false C is
    // never read.
    unsafe {
        gemm(
            c.cols,
            c.rows,
            a.cols,
            c.numbers.as_mut_ptr(),
            c.down as isize,
            1,
            keep == Keep::Add,
            b.numbers.as_ptr(),
            b.down as isize,
            b.across as isize,
            a.numbers.as_ptr(),
            a.down as isize,
            a.across as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "gemm: [2, 2] every 18446744073709551614 of 2 numbers")]
    fn rows_that_would_begin_before_their_numbers_are_refused() {
        Mat::strided(&[0.0; 2], 2, 2, usize::MAX - 1);
    }

    #[test]
    #[should_panic(expected = "gemm: [2, 2] every 18446744073709551614 of 2 numbers")]
    fn rows_that_would_be_written_before_their_numbers_are_refused() {
        MatMut::strided(&mut [0.0; 2], 2, 2, usize::MAX - 1);
    }

    #[test]
    #[should_panic(expected = "gemm: [1, 2] every 9223372036854775808 of 2 numbers")]
    fn a_stride_that_would_turn_around_is_refused() {
        Mat::strided(&[0.0; 2], 1, 2, 1 << 63);
    }
}
