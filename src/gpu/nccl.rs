//! Sums over the GPUs of several ranks, by NVIDIA's library (libnccl.so.2), found at run time as the driver is.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use cudarc::driver::CudaStream;
use cudarc::nccl::{result, sys};

type Outcome<T> = std::result::Result<T, String>;

/// Bytes by which ranks find each other.
pub const NCCL_ID: usize = 128;

/// One rank's part of a communicator.
pub struct Nccl {
    communicator: sys::ncclComm_t,
    stream: Arc<CudaStream>,
}

// SAFETY: a handle of the library, used by one thread at a time: its owner's.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

/// Fresh bytes for a new communicator.
pub fn new_id() -> Outcome<[u8; NCCL_ID]> {
    let id = result::get_uniqueid().map_err(said("ncclGetUniqueId"))?;
    Ok(id.internal.map(|byte| byte as u8))
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
        id: &[u8; NCCL_ID],
        rank: usize,
        ranks: usize,
    ) -> Outcome<Nccl> {
        let mut communicator = std::ptr::null_mut();
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as std::ffi::c_char) };
        // SAFETY: writes one handle.
        unsafe { result::comm_init_rank(&mut communicator, ranks as c_int, id, rank as c_int) }
            .map_err(said("ncclCommInitRank"))?;
        Ok(Nccl { communicator, stream })
    }

    /// Means over all ranks in the place of `count` f32 at this address; queued as a kernel is.
    ///
    /// # Safety
    /// So many f32 of live memory of this rank's device. All ranks call with as many.
    pub unsafe fn mean(&self, at: u64, count: usize) -> Outcome<()> {
        let numbers = at as *mut c_void;
        let (kind, mean) = (sys::ncclDataType_t::ncclFloat32, sys::ncclRedOp_t::ncclAvg);
        // SAFETY: the caller's; in place is what the library allows.
        unsafe {
            let stream = self.stream.cu_stream().cast();
            result::all_reduce(numbers, numbers, count, kind, mean, self.communicator, stream)
        }
        .map(|_| ())
        .map_err(said("ncclAllReduce"))
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Abort, not destroy: that would wait for a rank that is gone.
        // SAFETY: the only owner; queued sums were waited for when the last checkpoint was read, or nobody wants them.
        let _ = unsafe { result::comm_abort(self.communicator) };
    }
}

fn said(call: &str) -> impl FnOnce(result::NcclError) -> String {
    move |e| format!("{call}: {:?}", e.0)
}
