//! Sums over the GPUs of several ranks, by NVIDIA's library (libnccl.so.2), which is found at run time, like the driver.

use std::env;
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::CudaStream;
use cudarc::driver::result::stream;
use cudarc::nccl::{result, sys};

use super::Real;
use super::driver::{DriverResult, said};
use super::graph::{Communicator, Graph};
use super::one::is_rehearsed;
use crate::error::{Error, Result};
use crate::lock::lock;

type Answer = std::result::Result<result::NcclStatus, result::NcclError>;

/// Bytes of the identifier by which ranks find each other.
pub(crate) const NCCL_ID: usize = 128;

/// One rank's part of a communicator.
pub(crate) struct Nccl {
    communicator: Arc<Communicator>,
    /// `stream` carries the device's work, `sums` the sums beside it.
    stream: Arc<CudaStream>,
    sums: Arc<CudaStream>,
    /// Both may be captured into it.
    graph: Arc<Mutex<Graph>>,
    rank: usize,
    ranks: usize,
    /// Its device's key: nothing is summed while a step of that device is only rehearsed.
    device: usize,
}

brief!(Nccl, |nccl| rank: nccl.rank, ranks: nccl.ranks);

/// A handle on its way to the thread that aborts it.
struct Last(sys::ncclComm_t);

// SAFETY: nobody else holds it.
unsafe impl Send for Last {}

impl Last {
    fn abort(self) {
        // SAFETY: live until now, and nobody else holds it.
        let _ = unsafe { result::comm_abort(self.0) };
    }
}

/// Sets NCCL_GRAPH_REGISTER to 0, unless it is set. Otherwise the library makes the memory of a captured sum known to the other
/// ranks, which makes each rank wait for all others in the middle of the capture. The host would then wait for a rank that is gone,
/// and for one that runs the same step without capturing it. A program that trains on several GPUs calls it first of all.
///
/// # Safety
/// No other thread runs yet: any may read a variable.
pub unsafe fn keep_nccl_buffers_private() {
    const SETTING: &str = "NCCL_GRAPH_REGISTER";
    if env::var_os(SETTING).is_none() {
        // SAFETY: by the caller's promise.
        unsafe { env::set_var(SETTING, "0") };
    }
}

/// A fresh identifier for a new communicator.
pub fn new_id() -> DriverResult<[u8; NCCL_ID]> {
    let id = result::get_uniqueid().map_err(refused("ncclGetUniqueId"))?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// Ends the process without its libraries' exit handlers, which would wait for whatever one of them is stuck on.
pub(crate) fn end_process(code: i32) -> ! {
    // SAFETY: never returns; a file being written stays aside until it is complete.
    unsafe { libc::_exit(code) }
}

/// Whether the library is present; if not, why.
pub fn present() -> DriverResult<()> {
    // SAFETY: opens the library and closes it again.
    match unsafe { sys::is_culib_present() } {
        true => Ok(()),
        false => {
            Err("libnccl.so.2 was not found (it comes with PyTorch's wheels and NVIDIA's packages)".into())
        }
    }
}

impl Nccl {
    /// Waits until all ranks have joined. The stream's device is this rank's, and is current.
    pub(super) fn join(
        stream: Arc<CudaStream>,
        graph: Arc<Mutex<Graph>>,
        id: &[u8; NCCL_ID],
        rank: usize,
        ranks: usize,
    ) -> DriverResult<Nccl> {
        let mut communicator = std::ptr::null_mut();
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
        // SAFETY: writes one handle.
        unsafe { result::comm_init_rank(&mut communicator, ranks as c_int, id, rank as c_int) }
            .map_err(refused("ncclCommInitRank"))?;
        // Sums take precedence over work that can wait for them: among blocks that are ready, theirs run first.
        let (_, first) = stream::get_priority_range().map_err(said("cuCtxGetStreamPriorityRange"))?;
        let sums = stream.context().new_stream_with_priority(first);
        let sums = sums.map_err(said("cuStreamCreateWithPriority"))?;
        let communicator = Arc::new(Communicator(Mutex::new(Some(communicator))));
        Ok(Nccl { communicator, stream, sums, graph, rank, ranks, device: 0 })
    }

    /// The same communicator, of the device with that key.
    pub(super) fn on(mut self, device: usize) -> Nccl {
        self.device = device;
        self
    }

    fn rests(&self) -> bool {
        is_rehearsed(self.device)
    }

    /// Begins to replace `count` numbers at this address by their means over all ranks, after the device's work so far and beside
    /// what follows.
    ///
    /// # Safety
    /// `at` points to `count` numbers in live memory of this rank's device, which nothing touches before [`Nccl::end`]. All ranks
    /// pass the same `count`.
    pub unsafe fn begin_mean(&self, at: u64, count: usize, real: Real) -> Result<()> {
        let (all, mean) = (at as *mut c_void, sys::ncclRedOp_t::ncclAvg);
        self.begin("ncclAllReduce", |communicator, stream| {
            // SAFETY: the caller's contract; in place is what the library allows, here and below.
            unsafe { result::all_reduce(all, all, count, kind(real), mean, communicator, stream) }
        })
    }

    /// The same for this rank's part of the numbers alone, which are split into one equal part per rank; the other parts are then
    /// undefined.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn begin_mean_part(&self, at: u64, count: usize, real: Real) -> Result<()> {
        let (all, mean) = (at as *const c_void, sys::ncclRedOp_t::ncclAvg);
        let (own, part) = self.part(at, count, real);
        self.begin("ncclReduceScatter", |communicator, stream| {
            // SAFETY: the caller's contract; the part lies within the numbers.
            unsafe { result::reduce_scatter(all, own, part, kind(real), mean, communicator, stream) }
        })
    }

    /// Begins to fetch the other ranks' parts of the numbers; this rank holds its own.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn begin_gather(&self, at: u64, count: usize, real: Real) -> Result<()> {
        let (own, part) = self.part(at, count, real);
        self.begin("ncclAllGather", |communicator, stream| {
            // SAFETY: the caller's contract; the part lies within the numbers.
            unsafe { result::all_gather(own, at as *mut c_void, part, kind(real), communicator, stream) }
        })
    }

    /// Where this rank's part of `count` numbers begins, and how many it has.
    fn part(&self, at: u64, count: usize, real: Real) -> (*mut c_void, usize) {
        let part = part_of(count, self.rank, self.ranks);
        ((at + (part.start * real.bytes()) as u64) as *mut c_void, part.len())
    }

    /// Queues a call on the stream beside the device's, after the device's work so far.
    fn begin(
        &self,
        call: &str,
        queue: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> Answer,
    ) -> Result<()> {
        if self.rests() {
            return Ok(());
        }
        self.sums.join(&self.stream).map_err(said("cuStreamWaitEvent")).map_err(Error::Device)?;
        let mut graph = self.graph();
        if graph.writing() {
            graph.hold(&self.communicator);
        }
        drop(graph);
        let communicator = self.communicator.live();
        let Some(communicator) = *communicator else {
            return Err(Error::Device("another rank was lost".into()));
        };
        let begun = queue(communicator, self.sums.cu_stream().cast());
        begun.map(|_| ()).map_err(refused(call)).map_err(Error::Device)
    }

    /// Makes the device's work from here on wait for everything begun so far. The host does not wait.
    pub fn end(&self) -> Result<()> {
        if self.rests() {
            return Ok(());
        }
        self.stream.join(&self.sums).map_err(said("cuStreamWaitEvent")).map_err(Error::Device)
    }

    /// Ends all sums, including those that wait for a rank that is gone; their results are undefined. Callable from any thread.
    pub fn abort(&self) {
        let Some(communicator) = self.communicator.live().take() else { return };
        // The library first ends the sums, which the holder of the graph's lock may be waiting for, and then waits until no graph
        // holds one.
        let last = Last(communicator);
        std::thread::scope(|scope| {
            scope.spawn(move || last.abort());
            self.graph().let_go();
        });
    }

    /// True once [`Nccl::abort`] was called.
    pub fn aborted(&self) -> bool {
        self.communicator.live().is_none()
    }

    fn graph(&self) -> MutexGuard<'_, Graph> {
        lock(&self.graph)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Abort, not destroy: destroy would wait for a rank that is gone. Queued sums were waited for when the last checkpoint was
        // read from the device, or are not wanted.
        self.abort();
    }
}

/// A rank's part of `len` numbers: one of as many equal parts, in order, as there are ranks.
pub(crate) fn part_of(len: usize, rank: usize, ranks: usize) -> Range<usize> {
    assert!(len.is_multiple_of(ranks), "ranks: {len} numbers for {ranks} of them");
    rank * (len / ranks)..(rank + 1) * (len / ranks)
}

fn kind(real: Real) -> sys::ncclDataType_t {
    match real {
        Real::F32 => sys::ncclDataType_t::ncclFloat32,
        Real::Bf16 => sys::ncclDataType_t::ncclBfloat16,
    }
}

/// As [`said`], for the library's errors, which have no text of their own.
fn refused(call: &str) -> impl FnOnce(result::NcclError) -> String {
    move |e| format!("{call}: {:?}", e.0)
}
