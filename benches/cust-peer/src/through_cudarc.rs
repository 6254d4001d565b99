//! The measures through `cudarc`, as the engine has it: one stream, no events of its own between streams.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

use super::{BLOCKS, BYTES, Library, Outcome, PACK, PTX, THREADS};

pub struct Cudarc {
    stream: Arc<CudaStream>,
    nothing: CudaFunction,
    copy: CudaFunction,
    to: CudaSlice<u8>,
    from: CudaSlice<u8>,
}

fn grid(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

impl Cudarc {
    pub fn open() -> Outcome<Cudarc> {
        let context = CudaContext::new(0)?;
        // SAFETY: no memory is shared between streams.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let module = context.load_module(Ptx::from_src(PTX))?;
        let (nothing, copy) = (module.load_function("nothing")?, module.load_function("copy")?);
        // SAFETY: bytes of any value; what is copied is never looked at.
        let (to, from) = unsafe { (stream.alloc(BYTES)?, stream.alloc(BYTES)?) };
        Ok(Cudarc { stream, nothing, copy, to, from })
    }

    fn event(&self) -> Outcome<CudaEvent> {
        Ok(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT))?)
    }
}

impl Library for Cudarc {
    fn name(&self) -> &'static str {
        "cudarc 0.19.10"
    }

    fn launch(&self) -> Outcome<()> {
        // SAFETY: a kernel without arguments that touches nothing.
        unsafe { self.stream.launch_builder(&self.nothing).launch(grid(1, 32))? };
        Ok(())
    }

    fn wait(&self) -> Outcome<()> {
        Ok(self.stream.synchronize()?)
    }

    fn kernel_copy(&mut self) -> Outcome<f32> {
        let (first, packs) = (self.event()?, (BYTES / PACK) as u64);
        let mut launch = self.stream.launch_builder(&self.copy);
        launch.arg(&mut self.to).arg(&self.from).arg(&packs);
        // SAFETY: copy(to, from, packs); both hold that many packs.
        unsafe { launch.launch(grid(BLOCKS, THREADS))? };
        Ok(first.elapsed_ms(&self.event()?)?)
    }

    fn memcpy(&mut self) -> Outcome<f32> {
        let first = self.event()?;
        self.stream.memcpy_dtod(&self.from, &mut self.to)?;
        Ok(first.elapsed_ms(&self.event()?)?)
    }
}
