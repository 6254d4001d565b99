//! How a kernel is called: its arguments, and how many threads run it.

use super::{Buffer, Gpu, Map};

/// Multiprocessors for which fixed grids are made: those of an H100 or an H200. Where each block adds up its share of the numbers,
/// the number of blocks decides the order of the sum: taken from the device, it would give the same step other bits on another
/// device.
pub const PROCESSORS: usize = 132;

/// One argument of a kernel; pointers are device addresses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// Address of numbers, 0 for "not given".
    Pointer(u64),
    /// `int`.
    Int(i32),
    /// `uint32_t`.
    Word(u32),
    /// `uint64_t`.
    Long(u64),
    /// `float`.
    Float(f32),
    /// `const __grid_constant__ TensorMap`.
    Map(Map),
}

impl From<Map> for Arg {
    fn from(map: Map) -> Arg {
        Arg::Map(map)
    }
}

impl From<usize> for Arg {
    fn from(n: usize) -> Arg {
        Arg::Int(i32::try_from(n).unwrap_or_else(|_| panic!("launch: {n} does not fit a kernel's int")))
    }
}

impl From<bool> for Arg {
    fn from(flag: bool) -> Arg {
        Arg::Int(i32::from(flag))
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg::Float(x)
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Arg {
        Arg::Word(x)
    }
}

impl From<u64> for Arg {
    fn from(x: u64) -> Arg {
        Arg::Long(x)
    }
}

impl From<&Buffer> for Arg {
    fn from(buffer: &Buffer) -> Arg {
        Arg::Pointer(buffer.address())
    }
}

/// A kernel's arguments in its own order: tensors, buffers, maps, sizes, scalars.
macro_rules! args {
    ($($x:expr),* $(,)?) => { [$($crate::gpu::Arg::from($x)),*] };
}

pub(crate) use args;

/// Blocks, threads per block, dynamic shared memory per block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads per block.
    pub threads: u32,
    /// Bytes of dynamic shared memory per block.
    pub shared: u32,
}

/// The most blocks that a device accepts along y.
const MOST_ALONG_Y: usize = 65_535;

impl Grid {
    /// `blocks` blocks along x.
    pub fn new(blocks: usize, threads: u32) -> Grid {
        Grid { blocks: [count(blocks), 1, 1], threads, shared: 0 }
    }

    /// `blocks` blocks along x for each of `sets` sets, which are spread along y and z: see `OfSet` in the kernels.
    pub fn of_sets(sets: usize, blocks: usize, threads: u32) -> Grid {
        let layers = sets.div_ceil(MOST_ALONG_Y).max(1);
        Grid { blocks: [blocks, sets.div_ceil(layers), layers].map(count), threads, shared: 0 }
    }

    /// `x` blocks along x and `y`, at most 65,535, along y.
    ///
    /// # Panics
    /// If `y` is larger.
    pub fn plane(x: usize, y: usize, threads: u32) -> Grid {
        assert!(y <= MOST_ALONG_Y, "launch: {y} blocks along y");
        Grid { blocks: [count(x), count(y), 1], threads, shared: 0 }
    }

    /// One thread per number (or pack of numbers), 256 threads per block.
    pub fn elements(count: usize) -> Grid {
        Grid::new(count.div_ceil(256), 256)
    }

    /// One thread per eight of the numbers: see `each_eight` in the kernels.
    pub fn eights(count: usize) -> Grid {
        Grid::elements(count.div_ceil(8))
    }

    /// One warp per row, 8 warps per block.
    pub fn rows(rows: usize) -> Grid {
        Grid::new(rows.div_ceil(8), 256)
    }

    /// With dynamic shared memory.
    pub fn with_shared(self, bytes: usize) -> Grid {
        Grid { shared: count(bytes), ..self }
    }
}

impl Gpu {
    /// Whether a block may have that much shared memory: on compute capability 8.6, 8.9 and 12.0 the limit is 99 KiB.
    pub fn has_shared_for(&self, grid: Grid) -> bool {
        grid.shared as usize <= self.0.driver.shared()
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n)
        .ok()
        .filter(|&n| n <= i32::MAX as u32)
        .unwrap_or_else(|| panic!("launch: {n} blocks or bytes"))
}
