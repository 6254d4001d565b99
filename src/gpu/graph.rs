//! A step as one CUDA graph: the driver captures what is queued, which is then launched as one.
//!
//! Each step is captured afresh, with its own addresses and numbers, while the device is busy with the step before. The graph of
//! the step before is then updated in place, which is quick if the two have the same form.

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{CudaEvent, CudaStream, result, sys};
use cudarc::nccl::sys::ncclComm_t;

use super::driver::{DriverResult, said};
use crate::lock::lock;

/// Bytes of a page for data to send; longer data gets a page of its own length.
const PAGE: usize = 64 << 10;

pub struct Graph {
    stream: Arc<CudaStream>,
    writing: bool,
    /// The last step's graph, ready to be launched again.
    ready: Option<sys::CUgraphExec>,
    /// What steps send: two sheets that take turns, as a graph reads its sheet only when it runs.
    sheets: [Sheet; 2],
    turn: usize,
    /// Memory from before the step that was freed during it.
    late: Vec<u64>,
    /// The communicator whose sums were captured.
    sums: Option<Arc<Communicator>>,
}

/// NCCL's handle, which a graph keeps alive; none once it was aborted, which frees it: it must not be used after that.
pub struct Communicator(pub(super) Mutex<Option<ncclComm_t>>);

// SAFETY: a handle of the library, which the lock gives to one thread at a time.
unsafe impl Send for Communicator {}
// SAFETY: as above.
unsafe impl Sync for Communicator {}

impl Communicator {
    pub fn live(&self) -> MutexGuard<'_, Option<ncclComm_t>> {
        lock(&self.0)
    }
}

/// Page-locked copies of what a step sends.
#[derive(Default)]
struct Sheet {
    /// Address and length.
    pages: Vec<(u64, usize)>,
    page: usize,
    used: usize,
    /// Reached after the graph that reads them.
    read: Option<CudaEvent>,
}

// SAFETY: handles of the driver and host memory, which may be used from any thread; a lock guards them.
unsafe impl Send for Graph {}

impl Graph {
    pub fn new(stream: &Arc<CudaStream>) -> Graph {
        Graph {
            stream: stream.clone(),
            writing: false,
            ready: None,
            sheets: Default::default(),
            turn: 0,
            late: Vec::new(),
            sums: None,
        }
    }

    /// True between `begin` and `launch`.
    pub fn writing(&self) -> bool {
        self.writing
    }

    /// Captures what is queued from here on. First waits until the step before last has run: the host is never further ahead.
    pub fn begin(&mut self) -> DriverResult<()> {
        self.turn = 1 - self.turn;
        let sheet = &mut self.sheets[self.turn];
        if let Some(read) = sheet.read.take() {
            read.synchronize().map_err(|e| format!("the GPU failed in an earlier step: {e}"))?;
        }
        (sheet.page, sheet.used) = (0, 0);
        self.sums = None;
        // Other threads, with GPUs of their own, are not restricted.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: a live stream.
        unsafe { result::stream::begin_capture(self.stream.cu_stream(), mode) }
            .map_err(said("cuStreamBeginCapture"))?;
        self.writing = true;
        Ok(())
    }

    /// A copy of these bytes that lives until the graph has run.
    pub fn copy(&mut self, bytes: &[u8]) -> DriverResult<u64> {
        let sheet = &mut self.sheets[self.turn];
        while let Some(&(_, room)) = sheet.pages.get(sheet.page)
            && sheet.used + bytes.len() > room
        {
            (sheet.page, sheet.used) = (sheet.page + 1, 0);
        }
        if sheet.page == sheet.pages.len() {
            let room = bytes.len().max(PAGE);
            // SAFETY: fresh memory, given back by `drop`.
            let page = unsafe { result::malloc_host(room, 0) }.map_err(said("cuMemHostAlloc"))?;
            sheet.pages.push((page as u64, room));
        }
        let at = sheet.pages[sheet.page].0 + sheet.used as u64;
        // SAFETY: the page has room for them after what is used.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), at as *mut u8, bytes.len()) };
        sheet.used += bytes.len().next_multiple_of(16);
        Ok(at)
    }

    /// Notes that sums of this communicator were captured.
    pub fn hold(&mut self, communicator: &Arc<Communicator>) {
        self.sums = Some(communicator.clone());
    }

    /// Frees this memory once the step has run.
    pub fn free_later(&mut self, address: u64) {
        self.late.push(address);
    }

    /// Queues what was captured, as one. Fails if its sums were aborted meanwhile.
    pub fn launch(&mut self) -> DriverResult<()> {
        let graph = self.end().inspect_err(|_| self.free_late())?;
        let launched = self.bring_up_to_date(graph).and_then(|ready| {
            let sums = self.sums.take();
            // Locked only until the graph is queued: before that, the communicator it sums with must not be freed.
            let communicator = sums.as_ref().map(|sums| sums.live());
            if matches!(communicator.as_deref(), Some(None)) {
                return Err("another rank was lost".into());
            }
            // SAFETY: both live.
            unsafe { result::graph::launch(ready, self.stream.cu_stream()) }.map_err(said("cuGraphLaunch"))
        });
        // SAFETY: a live graph; the launched one holds its own copy.
        let destroyed = unsafe { result::graph::destroy(graph) }.map_err(said("cuGraphDestroy"));
        self.free_late();
        launched.and(destroyed)?;
        let read = self.stream.record_event(None).map_err(said("cuEventRecord"))?;
        self.sheets[self.turn].read = Some(read);
        Ok(())
    }

    /// Discards what was captured.
    pub fn forget(&mut self) {
        if let Ok(graph) = self.end() {
            // SAFETY: a live graph.
            let _ = unsafe { result::graph::destroy(graph) };
        }
        self.free_late();
    }

    fn end(&mut self) -> DriverResult<sys::CUgraph> {
        self.writing = false;
        // SAFETY: a live stream, on which `begin` started the capture.
        unsafe { result::stream::end_capture(self.stream.cu_stream()) }.map_err(said("cuStreamEndCapture"))
    }

    fn bring_up_to_date(&mut self, graph: sys::CUgraph) -> DriverResult<sys::CUgraphExec> {
        if let Some(ready) = self.ready {
            // SAFETY: plain numbers and handles.
            let mut info: sys::CUgraphExecUpdateResultInfo = unsafe { std::mem::zeroed() };
            // SAFETY: both live; the call writes one struct.
            if unsafe { sys::cuGraphExecUpdate_v2(ready, graph, &mut info) }.result().is_ok() {
                return Ok(ready);
            }
            // The form differs: make a new one.
            self.let_go();
        }
        // Without it NCCL's sums would have the priority of the stream that the graph is launched on, not of their own.
        let flags = sys::CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_USE_NODE_PRIORITY;
        // SAFETY: a live graph.
        let ready =
            unsafe { result::graph::instantiate(graph, flags) }.map_err(said("cuGraphInstantiate"))?;
        self.ready = Some(ready);
        Ok(ready)
    }

    /// Releases the graph that could be launched again, and with it its sums; a launch already queued still completes.
    pub fn let_go(&mut self) {
        if let Some(ready) = self.ready.take() {
            // After a context has failed there is nobody left to tell.
            // SAFETY: made here, and nobody launches it again.
            let _ = self
                .stream
                .context()
                .bind_to_thread()
                .and_then(|()| unsafe { result::graph::exec_destroy(ready) });
        }
    }

    fn free_late(&mut self) {
        for address in self.late.drain(..) {
            // SAFETY: from the pool, and not used by what is queued from here on.
            let _ = unsafe { result::free_async(address, self.stream.cu_stream()) };
        }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // What fails here is harmless: the context has failed, and its memory goes with it.
        let _ = self.stream.synchronize();
        self.let_go();
        for &(page, _) in self.sheets.iter().flat_map(|sheet| &sheet.pages) {
            // SAFETY: made here, and nothing that is queued reads it any more.
            let _ = unsafe { result::free_host(page as *mut std::ffi::c_void) };
        }
    }
}
