//! The driver of an NVIDIA GPU: a context, memory from the stream-ordered pool, and streams.
//!
//! One stream carries all the work and orders it. Side copies use a second: `hold_beside` makes them wait for a point of the first,
//! and `meet_beside` makes what follows on the first wait for them. Memory requested while the first is captured comes from a
//! third, which is waited for at once. Sums with other devices use a fourth ([`Nccl`]).

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{CudaContext, CudaStream, DriverError, profiler_start, profiler_stop, result, sys};

use super::choices::Algorithm;
use super::driver::{DriverResult, said};
use super::graph::Graph;
use super::loaded::Loaded;
use super::packed::{Packed, pack};
use super::plans::Plans;
use super::{Arg, Driver, Grid, Mark, NCCL_ID, Nccl, Product, Real, Stamp, nccl, probe};
use crate::error::{Error, Result};
use crate::lock::lock;

pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Mutex<Loaded>,
    plans: Mutex<Plans>,
    graph: Arc<Mutex<Graph>>,
    /// For memory requested while the stream is captured.
    allocator: Arc<CudaStream>,
    /// For side copies.
    copies: Arc<CudaStream>,
    /// Multiprocessors, if this is a Hopper GPU.
    processors: Option<usize>,
    /// The most bytes of shared memory that a block may request.
    shared: usize,
}

impl Cuda {
    /// Device `index`, once the probe has found it usable.
    pub fn open(index: usize) -> Result<Cuda> {
        probe::probe(index)?;
        let open = || -> DriverResult<Cuda> {
            let context = CudaContext::new(index).map_err(said("cuCtxCreate"))?;
            // One stream orders everything except side copies, which state what they wait for: cudarc's own events would only cost
            // time.
            // SAFETY: what two streams share is ordered by `hold_beside` and `meet_beside`, by a wait, or by `Nccl`'s events.
            unsafe { context.disable_event_tracking() };
            let new_stream = || context.new_stream().map_err(said("cuStreamCreate"));
            let (stream, allocator, copies) = (new_stream()?, new_stream()?, new_stream()?);
            keep_memory(&context).map_err(said("cuMemPoolSetAttribute"))?;
            let plans = Mutex::new(Plans::new(&stream)?);
            let processors = processors(&context, index).map_err(said("cuDeviceGetAttribute"))?;
            let most = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
            let shared = context.attribute(most).map_err(said("cuDeviceGetAttribute"))? as usize;
            let graph = Arc::new(Mutex::new(Graph::new(&stream)));
            Ok(Cuda {
                context,
                stream,
                kernels: Mutex::default(),
                plans,
                graph,
                allocator,
                copies,
                processors,
                shared,
            })
        };
        open().map_err(|what| Error::Device(format!("CUDA device {index}: {what}")))
    }

    /// Makes the device this thread's.
    fn current(&self) -> DriverResult<()> {
        self.context.bind_to_thread().map_err(said("cuCtxSetCurrent"))
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        lock(&self.graph)
    }
}

fn processors(context: &CudaContext, index: usize) -> std::result::Result<Option<usize>, DriverError> {
    let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
    let hopper = probe::capability(index)? == (9, 0);
    Ok(if hopper { Some(context.attribute(count)? as usize) } else { None })
}

fn mark(stream: &CudaStream) -> DriverResult<Mark> {
    let event = stream.record_event(None).map_err(said("cuEventRecord"))?;
    Ok(Box::new(move || event.synchronize().map_err(|e| format!("the GPU failed: {e}"))))
}

/// Lets the pool keep freed memory: a step needs the same buffers as the step before.
fn keep_memory(context: &CudaContext) -> std::result::Result<(), DriverError> {
    let mut all = u64::MAX;
    // SAFETY: the pool is the device's own; the attribute is a u64.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device())?;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        result::mem_pool::set_attribute(pool, threshold, (&raw mut all).cast())
    }
}

impl Driver for Cuda {
    fn name(&self) -> String {
        self.context.name().unwrap_or_else(|_| "an NVIDIA GPU".into())
    }

    fn memory(&self) -> (u64, u64) {
        self.context.mem_get_info().map_or((0, 0), |(free, total)| (free as u64, total as u64))
    }

    fn reserved(&self) -> Option<u64> {
        let mut most = 0u64;
        self.context.bind_to_thread().ok()?;
        // SAFETY: the pool is the device's own; the attribute is a u64.
        let asked = unsafe {
            let pool = result::device::get_default_mem_pool(self.context.cu_device()).ok()?;
            let high = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH;
            result::mem_pool::get_attribute(pool, high, (&raw mut most).cast())
        };
        asked.ok().map(|()| most)
    }

    fn allocate(&self, bytes: usize) -> DriverResult<u64> {
        self.current()?;
        let ask = |stream: &CudaStream| {
            // SAFETY: used and freed on one stream alone, or waited for below.
            unsafe { result::malloc_async(stream.cu_stream(), bytes) }.map_err(said("cuMemAllocAsync"))
        };
        if !self.graph().writing() {
            // The pool may hold enough memory, but in pieces.
            return ask(&self.stream).or_else(|_| {
                self.trim();
                ask(&self.stream)
            });
        }
        // A graph that allocates cannot be updated in place.
        let address = ask(&self.allocator)?;
        self.allocator.synchronize().map_err(said("cuStreamSynchronize"))?;
        Ok(address)
    }

    unsafe fn free(&self, address: u64) {
        let mut graph = self.graph();
        if graph.writing() {
            return graph.free_later(address);
        }
        // A buffer may outlive a failed context; there is nobody left to tell.
        // SAFETY: the caller's contract.
        let _ = self
            .context
            .bind_to_thread()
            .and_then(|()| unsafe { result::free_async(address, self.stream.cu_stream()) });
    }

    fn pin(&self, bytes: usize) -> DriverResult<u64> {
        self.current()?;
        // Not write-combined: that would make host reads slow.
        // SAFETY: fresh memory of that many bytes.
        unsafe {
            let address = result::malloc_host(bytes, 0).map_err(said("cuMemHostAlloc"))?;
            address.write_bytes(0, bytes);
            Ok(address as u64)
        }
    }

    unsafe fn unpin(&self, address: u64) {
        // As with `free`.
        // SAFETY: the caller's contract.
        let _ =
            self.context.bind_to_thread().and_then(|()| unsafe { result::free_host(address as *mut c_void) });
    }

    unsafe fn upload(&self, to: u64, from: &[u8]) -> DriverResult<()> {
        self.current()?;
        let mut graph = self.graph();
        let copy = if graph.writing() { Some(graph.copy(from)?) } else { None };
        // SAFETY: the caller's contract; pageable memory has been read when the call returns, and a graph reads the copy.
        unsafe {
            let from = copy.map_or(from, |at| std::slice::from_raw_parts(at as *const u8, from.len()));
            result::memcpy_htod_async(to, from, self.stream.cu_stream())
        }
        .map_err(said("cuMemcpyHtoDAsync"))
    }

    unsafe fn upload_beside(&self, to: u64, from: &[u8]) -> DriverResult<()> {
        self.current()?;
        // SAFETY: the caller's contract.
        unsafe { result::memcpy_htod_async(to, from, self.copies.cu_stream()) }
            .map_err(said("cuMemcpyHtoDAsync"))
    }

    fn hold_beside(&self, point: &Stamp) -> DriverResult<()> {
        let Stamp::Event(event) = point else { return Ok(()) };
        self.copies.wait(event).map_err(said("cuStreamWaitEvent"))
    }

    fn meet_beside(&self) -> DriverResult<()> {
        self.stream.join(&self.copies).map_err(said("cuStreamWaitEvent"))
    }

    fn mark_beside(&self) -> DriverResult<Mark> {
        mark(&self.copies)
    }

    unsafe fn download(&self, to: &mut [u8], from: u64) -> DriverResult<()> {
        self.current()?;
        // SAFETY: the caller's contract.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(said("cuMemcpyDtoHAsync"))
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: usize) -> DriverResult<()> {
        self.current()?;
        // SAFETY: the caller's contract.
        unsafe { result::memcpy_dtod_async(to, from, bytes, self.stream.cu_stream()) }
            .map_err(said("cuMemcpyDtoDAsync"))
    }

    unsafe fn fill(&self, at: u64, byte: u8, bytes: usize) -> DriverResult<()> {
        self.current()?;
        // SAFETY: the caller's contract.
        unsafe { result::memset_d8_async(at, byte, bytes, self.stream.cu_stream()) }
            .map_err(said("cuMemsetD8Async"))
    }

    unsafe fn launch(
        &self,
        file: &'static str,
        kernel: &'static str,
        real: Real,
        grid: Grid,
        args: &[Arg],
    ) -> DriverResult<()> {
        self.current()?;
        let function = lock(&self.kernels).function(file, kernel, real, grid.shared)?;
        let mut packed = args.iter().map(pack).collect::<DriverResult<Vec<Packed>>>()?;
        let mut pointers: Vec<*mut c_void> = packed.iter_mut().map(|arg| (&raw mut *arg).cast()).collect();
        let [x, y, z] = grid.blocks;
        // SAFETY: the caller's contract; `packed` lives until the driver has copied the arguments.
        unsafe {
            result::launch_kernel(
                function,
                (x, y, z),
                (grid.threads, 1, 1),
                grid.shared,
                self.stream.cu_stream(),
                &mut pointers,
            )
        }
        .map_err(|e| format!("{kernel} {grid:?}: {e}"))
    }

    unsafe fn product(&self, product: &Product) -> DriverResult<bool> {
        self.current()?;
        // SAFETY: the caller's contract.
        unsafe { lock(&self.plans).run(product) }
    }

    fn fuses(&self, product: &Product) -> bool {
        lock(&self.plans).fuses(product)
    }

    fn mark(&self) -> DriverResult<Mark> {
        mark(&self.stream)
    }

    fn write_down(&self) -> DriverResult<()> {
        self.current()?;
        self.graph().begin()
    }

    fn play(&self) -> DriverResult<()> {
        self.graph().launch()
    }

    fn forget(&self) {
        self.graph().forget();
    }

    fn trim(&self) {
        // A failure is harmless: memory that is not given back serves the next buffer.
        // SAFETY: the pool is the device's own.
        let _ = self.wait().map(|()| unsafe {
            result::device::get_default_mem_pool(self.context.cu_device())
                .and_then(|pool| result::mem_pool::trim_to(pool, 0))
        });
    }

    fn stamp(&self) -> DriverResult<Stamp> {
        // cudarc's default events cannot measure time.
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        self.stream.record_event(flags).map(Stamp::Event).map_err(said("cuEventRecord"))
    }

    fn watch(&self, on: bool) {
        // No profiler is no failure.
        let _ = if on { profiler_start() } else { profiler_stop() };
    }

    fn keep_busy(&self) -> DriverResult<()> {
        lock(&self.plans).keep_busy()
    }

    fn hopper(&self) -> Option<usize> {
        self.processors
    }

    fn shared(&self) -> usize {
        self.shared
    }

    fn cache(&self) -> usize {
        let size = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE;
        self.context.attribute(size).map_or(0, |bytes| bytes as usize)
    }

    fn algorithms(&self) -> (u64, Vec<(String, Algorithm)>) {
        lock(&self.plans).algorithms()
    }

    fn adopt(&self, algorithms: &[(String, Algorithm)]) {
        lock(&self.plans).adopt(algorithms);
    }

    fn can_join(&self) -> DriverResult<()> {
        nccl::present()
    }

    fn join(&self, id: &[u8; NCCL_ID], rank: usize, ranks: usize) -> DriverResult<Nccl> {
        self.current()?;
        Nccl::join(self.stream.clone(), self.graph.clone(), id, rank, ranks)
    }

    fn wait(&self) -> DriverResult<()> {
        self.stream.synchronize().map_err(|e| format!("the GPU failed in earlier work: {e}"))
    }
}
