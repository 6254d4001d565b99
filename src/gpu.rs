//! The only place that knows CUDA: memory, launches and matrix products on a device.
//!
//! A [`Gpu`] is one of three drivers behind one handle: an NVIDIA GPU (`cuda`); the same kernels compiled for the CPU and run under
//! an emulator (`emulated`), so that every line from an op's dispatch to its kernel is tested without a GPU; or nothing at all
//! (`dry`), to count what a step needs.
//! One stream orders all work, except copies and sums that are documented to run beside it. Work is queued and the host continues.
//! A call that waits says so: [`Buffer::download`], [`Gpu::wait`], reading pinned numbers, sending from pageable memory.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::lock::lock;
use crate::trace;

mod arena;
mod choices;
mod cuda;
mod driver;
mod dry;
mod emulated;
mod failure;
mod graph;
mod held;
mod hopper;
mod launch;
mod layout;
mod loaded;
mod nccl;
mod one;
mod packed;
mod pinned;
mod plans;
mod post;
mod probe;
pub mod product;
mod real;
mod routes;
mod stamp;

pub use choices::Choices;
pub use emulated::Chip;
pub use failure::guard;
pub use held::Peak;
pub use hopper::Map;
pub(crate) use launch::args;
pub use launch::{Arg, Grid, PROCESSORS};
pub use nccl::keep_nccl_buffers_private;
pub(crate) use nccl::{NCCL_ID, Nccl, end_process, part_of};
pub(crate) use pinned::Pinned;
pub use post::Post;
pub use product::{Operand, Product};
pub use real::{PACK, Real};
pub use routes::Route;
pub use stamp::{Ran, Stamp, Took};

use arena::Arena;
use driver::{ALIGN, Driver, Mark};
pub(crate) use failure::fail;
use failure::or_fail;
pub(crate) use one::in_block;

/// A device, its stream and its kernels; clones share them. If the device fails or has no room, its caller unwinds: do all work on
/// a device, that of tapes and models too, inside [`guard`], which turns the failure into an error. While one thread trains on it, no
/// other may use it: a step is recorded as the device's queue, with whatever another thread puts there.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    driver: Box<dyn Driver>,
    real: Real,
    /// Set in tests and `selftest`: new buffers are filled with NaN and followed by bytes that nothing may write.
    fenced: bool,
    /// The first overrun that a fence detected.
    overrun: Mutex<Option<String>>,
    heard: stamp::Heard,
    held: held::Held,
    chosen: choices::Chosen,
    arena: Mutex<Arena>,
    /// Stands in for the driver on a thread that rehearses a step.
    dry: dry::Dry,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Nobody else can hold the lock of a value being dropped. Every buffer holds the device, so none is left in the block.
        let block = self.arena.get_mut().ok().and_then(|arena| arena.give_block().ok()?);
        // SAFETY: from `allocate`, and the arena has given it up.
        block.inspect(|&block| unsafe { self.driver.free(block) });
    }
}

/// Bytes after a fenced buffer.
const FENCE: usize = ALIGN;
const FENCE_BYTE: u8 = 0xA5;

impl Gpu {
    /// Opens NVIDIA GPU `index`.
    ///
    /// # Errors
    /// No driver, an old one, no such device, no kernels for it: the message says which.
    pub fn open(index: usize, real: Real) -> Result<Gpu> {
        Ok(Gpu::new(Box::new(cuda::Cuda::open(index)?), real, false))
    }

    /// How many NVIDIA GPUs the driver reports; 0 without a driver.
    pub fn count() -> usize {
        probe::count()
    }

    /// [`Gpu::open`] with fenced buffers: slower, for `selftest`.
    ///
    /// # Errors
    /// As there.
    pub fn fenced(index: usize, real: Real) -> Result<Gpu> {
        Ok(Gpu::new(Box::new(cuda::Cuda::open(index)?), real, true))
    }

    /// The emulator of a chip, with CPU kernels in `folder`: `FILE_f32.so` and `FILE_bf16.so`. `seed` orders warps and blocks.
    ///
    /// # Safety
    /// The files in `folder`, which are opened when a kernel is first launched, were compiled from this version's kernels with
    /// `kernels/emulator.h`, and stay as they are.
    pub unsafe fn emulated(folder: &Path, real: Real, seed: u64, chip: Chip) -> Gpu {
        Gpu::new(Box::new(emulated::Emulated::new(folder, chip, seed)), real, true)
    }

    /// No device: buffers and launches are counted, nothing is computed.
    pub fn dry(real: Real) -> Gpu {
        Gpu::new(Box::new(dry::Dry::near()), real, false)
    }

    fn new(driver: Box<dyn Driver>, real: Real, fenced: bool) -> Gpu {
        let (overrun, heard, held, chosen, arena) = Default::default();
        let dry = dry::Dry::far();
        Gpu(Arc::new(Inner { driver, real, fenced, overrun, heard, held, chosen, arena, dry }))
    }

    /// The driver in use now: in a rehearsal the dry one.
    fn driver(&self) -> &dyn Driver {
        match self.rehearsing() {
            true => &self.0.dry,
            false => self.0.driver.as_ref(),
        }
    }

    /// How activations are stored.
    pub fn real(&self) -> Real {
        self.0.real
    }

    /// The device, in words.
    pub fn name(&self) -> String {
        self.0.driver.name()
    }

    /// False for a device that only counts.
    pub fn computes(&self) -> bool {
        self.0.driver.computes()
    }

    /// Refuses a device that only counts: what it was asked for would be whatever its memory holds.
    pub(crate) fn must_compute(&self) -> Result<()> {
        match self.computes() {
            true => Ok(()),
            false => {
                Err(Error::Device(format!("{} counts what would be done, and computes nothing", self.name())))
            }
        }
    }

    /// Free and total bytes of device memory.
    pub fn memory(&self) -> (u64, u64) {
        self.0.driver.memory()
    }

    /// The most bytes of device memory taken for this process, including what an allocator, if there is one, keeps between buffers.
    pub fn reserved(&self) -> u64 {
        self.0.driver.reserved().unwrap_or_else(|| self.peak().bytes)
    }

    /// True if both are handles of one device.
    pub fn same(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Memory for `bytes`, not yet written; `what` names it in the error if there is no room.
    ///
    /// # Panics
    /// If that is more than any memory holds.
    pub fn buffer(&self, what: &'static str, bytes: usize) -> Buffer {
        assert!(
            isize::try_from(bytes).is_ok(),
            "buffer: {what} of {bytes} bytes, more than any memory holds"
        );
        let fence = if self.0.fenced { FENCE } else { 0 };
        let address = self.allocate(bytes.max(1) + fence).unwrap_or_else(|why| {
            fail(Error::Device(format!(
                "no room for {what} ({:.1} MiB) on {}: {why}; lower data.sets or data.cells, or use a smaller preset",
                bytes as f64 / (1 << 20) as f64,
                self.name()
            )))
        });
        self.took(what, bytes);
        let buffer = Buffer { gpu: self.clone(), address, bytes, what };
        if fence > 0 {
            // SAFETY: both ranges lie in what was just allocated.
            unsafe {
                or_fail(self.driver().fill(address, 0xFF, bytes));
                or_fail(self.driver().fill(address + bytes as u64, FENCE_BYTE, fence));
            }
        }
        buffer
    }

    /// A new buffer that holds these numbers.
    pub fn upload<T: bytemuck::NoUninit>(&self, what: &'static str, numbers: &[T]) -> Buffer {
        let bytes = bytemuck::cast_slice(numbers);
        let buffer = self.buffer(what, bytes.len());
        // SAFETY: the buffer was made for these bytes.
        or_fail(unsafe { self.driver().upload(buffer.address, bytes) });
        buffer
    }

    /// Queues a kernel of `file`, compiled for this device's [`Real`].
    ///
    /// # Safety
    /// The arguments match the kernel's parameters in order; every pointer points to as many live numbers as the kernel touches.
    pub unsafe fn launch(&self, file: &'static str, kernel: &'static str, grid: Grid, args: &[Arg]) {
        if grid.blocks.contains(&0) {
            return;
        }
        let _range = trace::range(kernel);
        // SAFETY: the caller's contract.
        let launch = || unsafe { self.driver().launch(file, kernel, self.0.real, grid, args) };
        or_fail(self.timed(|| kernel.to_string(), launch));
    }

    /// Queues a matrix product. False if `sums` were requested but the library did not fuse them: the caller must compute them.
    ///
    /// # Panics
    /// If the inner size is 0, or operands are transposed, stored or combined as cuBLASLt does not accept.
    ///
    /// # Safety
    /// Every operand is in live memory of this device, and those written overlap no other.
    pub unsafe fn product(&self, product: &Product) -> bool {
        let [rows, cols, depth] = product.size;
        if rows == 0 || cols == 0 || product.batch == 0 {
            return false;
        }
        assert!(depth > 0, "product: nothing to add would leave {:?} unwritten", product.size);
        // Here, not in the drivers, so that a panic holds none of their locks.
        product.check();
        if self.rehearsing() {
            return self.0.driver.fuses(product);
        }
        let _range = trace::range(format_args!("product {:?}", product.size));
        // SAFETY: the caller's contract.
        let multiply = || unsafe { self.driver().product(product) };
        or_fail(self.timed(|| format!("product {:?}", product.size), multiply))
    }

    /// Waits until the device has finished everything queued; an error in any of it surfaces here.
    pub fn wait(&self) {
        or_fail(self.driver().wait());
    }

    /// Tells a profiler that was asked to wait for it (`nsys --capture-range cudaProfilerApi`) to watch from here on, or no longer.
    pub fn watch(&self, on: bool) {
        self.driver().watch(on);
    }

    /// Whether this device can sum with the GPUs of other ranks; if not, why.
    pub(crate) fn can_join(&self) -> Result<()> {
        self.0.driver.can_join().map_err(Error::Device)
    }

    /// A fresh identifier by which ranks whose GPUs can join find each other.
    pub(crate) fn new_id(&self) -> Result<[u8; NCCL_ID]> {
        nccl::new_id().map_err(Error::Device)
    }

    /// Joins the GPUs of the other ranks; all ranks pass the same `id`. Waits for them.
    pub(crate) fn join(&self, id: &[u8; NCCL_ID], rank: usize, ranks: usize) -> Result<Nccl> {
        self.0.driver.join(id, rank, ranks).map(|nccl| nccl.on(self.key())).map_err(Error::Device)
    }

    /// Which buffer a kernel first wrote past, if any since the device was opened (fenced devices only).
    pub fn overrun(&self) -> Option<String> {
        lock(&self.0.overrun).clone()
    }
}

impl fmt::Debug for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Gpu({}, {:?})", self.name(), self.real())
    }
}

/// Device memory, freed when dropped.
#[derive(Debug)]
pub struct Buffer {
    gpu: Gpu,
    address: u64,
    bytes: usize,
    what: &'static str,
}

impl Buffer {
    /// Its device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Its first byte on the device.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Its length.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Reads plain numbers from byte `from` on. Waits for the device.
    ///
    /// # Panics
    /// If they go beyond the end.
    pub fn download<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(&self, from: usize, numbers: &mut [T]) {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        self.check("download", from, bytes.len());
        // SAFETY: the range was checked, and `bytes` is borrowed until the wait.
        or_fail(unsafe { self.gpu.driver().download(bytes, self.address + from as u64) });
        self.gpu.wait();
    }

    /// Writes plain numbers from byte `at` on.
    ///
    /// # Panics
    /// If they go beyond the end.
    pub fn write<T: bytemuck::NoUninit>(&self, at: usize, numbers: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(numbers);
        self.check("upload", at, bytes.len());
        // SAFETY: the range was checked.
        or_fail(unsafe { self.gpu.driver().upload(self.address + at as u64, bytes) });
    }

    /// Copies `bytes` of another buffer of the same device, from byte `from` there to byte `at` here.
    ///
    /// # Panics
    /// If the bytes go beyond an end, or the other buffer is this one or on another device.
    pub fn copy_from(&self, at: usize, other: &Buffer, from: usize, bytes: usize) {
        assert!(self.gpu.same(&other.gpu) && self.address != other.address, "copy: {bytes} bytes");
        self.check("copy to", at, bytes);
        other.check("copy from", from, bytes);
        // SAFETY: the ranges were checked; two buffers never overlap.
        or_fail(unsafe {
            self.gpu.driver().copy(self.address + at as u64, other.address + from as u64, bytes)
        });
    }

    /// Zeroes `bytes` bytes from byte `at` on.
    ///
    /// # Panics
    /// If they go beyond the end.
    pub fn zero(&self, at: usize, bytes: usize) {
        self.check("zero", at, bytes);
        // SAFETY: the range was checked.
        or_fail(unsafe { self.gpu.driver().fill(self.address + at as u64, 0, bytes) });
    }

    /// Panics unless `bytes` bytes from byte `at` on are inside.
    fn check(&self, what: &str, at: usize, bytes: usize) {
        let fits = at <= self.bytes && bytes <= self.bytes - at;
        assert!(fits, "{what}: {bytes} bytes at {at} of {}", self.bytes);
    }

    fn overrun(&self) -> bool {
        let mut fence = [0u8; FENCE];
        // SAFETY: a fenced buffer is followed by that many bytes, and `fence` is read only after the wait.
        let read = unsafe { self.gpu.0.driver.download(&mut fence, self.address + self.bytes as u64) };
        read.and_then(|()| self.gpu.0.driver.wait()).is_ok() && fence != [FENCE_BYTE; FENCE]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.gpu.0.fenced && !self.gpu.rehearsing() && self.overrun() {
            let seen = format!("a kernel wrote past the end of {} ({} bytes)", self.what, self.bytes);
            lock(&self.gpu.0.overrun).get_or_insert(seen);
        }
        self.gpu.gave(self.what, self.bytes);
        // SAFETY: this is the only owner, and the stream's order lets queued work finish first.
        unsafe { self.gpu.free(self.address) };
    }
}
