//! What a Hopper GPU has besides: its copy engine reads boxes of a matrix, and kernels of ours that use it compete with the library.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use super::{Clock, Gpu, Grid, Operand, Real, Stamp};

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

/// Seconds of two ways to one result, by what is made and its sizes.
pub(super) type Chosen = Mutex<HashMap<(Cow<'static, str>, [usize; 3]), [f64; 2]>>;

/// Timed runs of each way; the fastest counts.
const RUNS: usize = 3;

impl Gpu {
    /// How many multiprocessors, on a device that runs the kernels written for Hopper.
    pub fn hopper(&self) -> Option<usize> {
        self.0.driver.hopper()
    }

    /// Whether a block may have as much shared memory as that: of compute capability 8.6, 8.9 and 12.0 it has 99 KiB at most.
    pub fn holds(&self, grid: Grid) -> bool {
        grid.shared as usize <= self.0.driver.shared()
    }

    /// Does it by a kernel for Hopper, given how many blocks run at once, or in any device's way: the quicker. The first wants a
    /// device that has it, and what it must `fit`: matrices that the copy engine can read, among others. True if it was the first.
    pub fn either(
        &self,
        what: &'static str,
        size: [usize; 3],
        fits: bool,
        hopper: impl Fn(usize),
        any: impl Fn(),
    ) -> bool {
        let blocks = self.hopper().filter(|_| fits);
        let taken = blocks.filter(|&blocks| self.quicker(what, size, [&|| hopper(blocks), &any]) == 0);
        taken.map_or_else(any, &hopper);
        taken.is_some()
    }

    /// Which of two ways to one result is the quicker, by timing both when the sizes are first seen. The first on a device whose
    /// time says nothing, and where a step is only counted.
    pub fn quicker(&self, what: &'static str, size: [usize; 3], ways: [&dyn Fn(); 2]) -> usize {
        let chosen = || self.0.chosen.lock().expect("no panic under this lock");
        let (key, quicker) = ((Cow::from(what), size), |took: [f64; 2]| usize::from(took[1] < took[0]));
        if let Some(&took) = chosen().get(&key) {
            return quicker(took);
        }
        if matches!(self.stamp(), Stamp::Clock(_)) {
            return 0;
        }
        let time = |way: &dyn Fn()| {
            let run = |_| {
                let clock = Clock::start(Some(self));
                way();
                clock.stop().seconds()
            };
            (0..=RUNS).map(run).skip(1).fold(f64::INFINITY, f64::min) // the first run loads or chooses
        };
        let took = self.aside(|| ways.map(time));
        chosen().insert(key, took);
        // A step that is counted takes the first way where nothing is known.
        if quicker(took) == 1 {
            self.count_anew();
        }
        quicker(took)
    }

    /// What [`Gpu::quicker`] has timed: what was made, its sizes, seconds of each way.
    pub fn timed_ways(&self) -> Vec<(String, [usize; 3], [f64; 2])> {
        let chosen = self.0.chosen.lock().expect("no panic under this lock");
        let mut ways: Vec<_> =
            chosen.iter().map(|((what, size), took)| (what.to_string(), *size, *took)).collect();
        ways.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        ways
    }

    pub(super) fn take_ways(&self, ways: &[(String, [usize; 3], [f64; 2])]) {
        let mut chosen = self.0.chosen.lock().expect("no panic under this lock");
        chosen.extend(ways.iter().map(|(what, size, took)| ((what.clone().into(), *size), *took)));
    }
}
