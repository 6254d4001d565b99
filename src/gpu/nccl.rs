//! Sums over the GPUs of several ranks, by NVIDIA's library (libnccl.so.2), found at run time as the driver is.

use std::env;
use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use cudarc::driver::CudaStream;
use cudarc::driver::result::stream;
use cudarc::nccl::{result, sys};

use super::Real;
use super::driver::{Outcome, said};
use super::graph::Graph;

type Answer = std::result::Result<result::NcclStatus, result::NcclError>;

/// Bytes by which ranks find each other.
pub const NCCL_ID: usize = 128;

/// One rank's part of a communicator.
pub struct Nccl {
    communicator: Arc<Communicator>,
    /// The device's work, and the sums beside it.
    stream: Arc<CudaStream>,
    sums: Arc<CudaStream>,
    /// Where both may be written down.
    graph: Arc<Mutex<Graph>>,
    rank: usize,
    ranks: usize,
    /// A step is counted: nothing is to be summed.
    resting: Arc<AtomicBool>,
}

/// The library's handle; none once it was aborted, which frees it: nobody may ask anything of it then.
pub(super) struct Communicator(Mutex<Option<sys::ncclComm_t>>);

// SAFETY: a handle of the library, which the lock gives to one thread at a time.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Communicator {
    pub(super) fn live(&self) -> MutexGuard<'_, Option<sys::ncclComm_t>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

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

/// Before the library is first asked: it makes the memory of a written-down sum known to the other ranks, for which each waits for
/// all in the middle of writing. A rank that is gone would then be waited for on the host, and so would one that runs the same
/// step as it comes.
fn keep_buffers_private() {
    const SETTING: &str = "NCCL_GRAPH_REGISTER";
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if env::var_os(SETTING).is_none() {
            // SAFETY: no thread of ours that runs here reads or sets a variable: rank 0 alone comes first, the other ranks of its process
            // wait for its id or in this very call, and loaders begin after it. The driver's threads wait for the device.
            unsafe { env::set_var(SETTING, "0") };
        }
    });
}

/// Fresh bytes for a new communicator.
pub fn new_id() -> Outcome<[u8; NCCL_ID]> {
    keep_buffers_private();
    let id = result::get_uniqueid().map_err(refused("ncclGetUniqueId"))?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// Ends the process without its libraries' farewells, which would wait for what one of them waits for.
pub fn end_process(code: i32) -> ! {
    // SAFETY: returns to nobody; what is written lies aside until it is whole.
    unsafe { libc::_exit(code) }
}

/// Whether the library is there, and why not.
pub fn present() -> Outcome<()> {
    // SAFETY: opens the library and closes it again.
    match unsafe { sys::is_culib_present() } {
        true => Ok(()),
        false => {
            Err("libnccl.so.2 was not found (it comes with PyTorch's wheels and NVIDIA's packages)".into())
        }
    }
}

impl Nccl {
    /// Waits until all ranks have come. The stream's device is this rank's, and is current.
    pub(super) fn join(
        stream: Arc<CudaStream>,
        graph: Arc<Mutex<Graph>>,
        id: &[u8; NCCL_ID],
        rank: usize,
        ranks: usize,
    ) -> Outcome<Nccl> {
        keep_buffers_private();
        let mut communicator = std::ptr::null_mut();
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
        // SAFETY: writes one handle.
        unsafe { result::comm_init_rank(&mut communicator, ranks as c_int, id, rank as c_int) }
            .map_err(refused("ncclCommInitRank"))?;
        // Sums wait for nothing that can wait for them: of blocks that are ready theirs come first.
        let (_, first) = stream::get_priority_range().map_err(said("cuCtxGetStreamPriorityRange"))?;
        let sums = stream.context().new_stream_with_priority(first);
        let sums = sums.map_err(said("cuStreamCreateWithPriority"))?;
        let communicator = Arc::new(Communicator(Mutex::new(Some(communicator))));
        Ok(Nccl { communicator, stream, sums, graph, rank, ranks, resting: Default::default() })
    }

    /// The same, which sums nothing while this is true.
    pub(super) fn resting(mut self, resting: &Arc<AtomicBool>) -> Nccl {
        self.resting = resting.clone();
        self
    }

    fn rests(&self) -> bool {
        self.resting.load(Ordering::Relaxed)
    }

    /// Begins to put means over all ranks in the place of `count` numbers at this address, behind the device's work so far and
    /// beside what follows.
    ///
    /// # Safety
    /// So many numbers of live memory of this rank's device, which nobody touches before [`Nccl::end`]. All ranks call with as many.
    pub unsafe fn begin_mean(&self, at: u64, count: usize, real: Real) -> Outcome<()> {
        let (all, mean) = (at as *mut c_void, sys::ncclRedOp_t::ncclAvg);
        self.begin("ncclAllReduce", |communicator, stream| {
            // SAFETY: the caller's; in place is what the library allows, here and below.
            unsafe { result::all_reduce(all, all, count, kind(real), mean, communicator, stream) }
        })
    }

    /// The same in the place of this rank's part of the numbers, of as many equal ones as there are ranks; what is then in the other
    /// parts is worth nothing.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn begin_mean_part(&self, at: u64, count: usize, real: Real) -> Outcome<()> {
        let (all, mean) = (at as *const c_void, sys::ncclRedOp_t::ncclAvg);
        let (own, part) = self.part(at, count, real);
        self.begin("ncclReduceScatter", |communicator, stream| {
            // SAFETY: the caller's; the part lies within the numbers.
            unsafe { result::reduce_scatter(all, own, part, kind(real), mean, communicator, stream) }
        })
    }

    /// Begins to fetch the other ranks' parts of the numbers, of which this rank has its own.
    ///
    /// # Safety
    /// As above.
    pub unsafe fn begin_gather(&self, at: u64, count: usize, real: Real) -> Outcome<()> {
        let (own, part) = self.part(at, count, real);
        self.begin("ncclAllGather", |communicator, stream| {
            // SAFETY: the caller's; the part lies within the numbers.
            unsafe { result::all_gather(own, at as *mut c_void, part, kind(real), communicator, stream) }
        })
    }

    /// Where this rank's part of so many numbers begins, and how many it has.
    fn part(&self, at: u64, count: usize, real: Real) -> (*mut c_void, usize) {
        assert!(count.is_multiple_of(self.ranks), "nccl: {count} numbers for {} ranks", self.ranks);
        let part = count / self.ranks;
        ((at + (self.rank * part * real.bytes()) as u64) as *mut c_void, part)
    }

    /// Queues a call on the stream beside the device's, behind the device's work so far.
    fn begin(
        &self,
        call: &str,
        queue: impl FnOnce(sys::ncclComm_t, sys::cudaStream_t) -> Answer,
    ) -> Outcome<()> {
        if self.rests() {
            return Ok(());
        }
        let made = self.stream.record_event(None).map_err(said("cuEventRecord"))?;
        self.sums.wait(&made).map_err(said("cuStreamWaitEvent"))?;
        let mut graph = self.graph();
        if graph.writing() {
            graph.hold(&self.communicator);
        }
        drop(graph);
        let communicator = self.communicator.live();
        let Some(communicator) = *communicator else { return Err("another rank is gone".into()) };
        queue(communicator, self.sums.cu_stream().cast()).map(|_| ()).map_err(refused(call))
    }

    /// The device's work from here on comes behind all that was begun. Does not wait.
    pub fn end(&self) -> Outcome<()> {
        if self.rests() {
            return Ok(());
        }
        let summed = self.sums.record_event(None).map_err(said("cuEventRecord"))?;
        self.stream.wait(&summed).map_err(said("cuStreamWaitEvent"))
    }

    /// Ends all sums, also those that wait for a rank that is gone; their numbers are worth nothing. From any thread.
    pub fn abort(&self) {
        let Some(communicator) = self.communicator.live().take() else { return };
        // The library first ends the sums, for which whoever holds the graph may be waiting, and then waits until no graph holds one.
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
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Abort, not destroy: that would wait for a rank that is gone. Queued sums were waited for when the last checkpoint was
        // read, or nobody wants them.
        self.abort();
    }
}

fn kind(real: Real) -> sys::ncclDataType_t {
    match real {
        Real::F32 => sys::ncclDataType_t::ncclFloat32,
        Real::Bf16 => sys::ncclDataType_t::ncclBfloat16,
    }
}

/// As [`said`], of the library's errors, which have no words of their own.
fn refused(call: &str) -> impl FnOnce(result::NcclError) -> String {
    move |e| format!("{call}: {:?}", e.0)
}
