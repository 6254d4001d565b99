//! The measures through `cust`.

use cust::context::Context;
use cust::event::{Event, EventFlags};
use cust::function::Function;
use cust::launch;
use cust::memory::{AsyncCopyDestination, DeviceBuffer};
use cust::module::Module;
use cust::stream::{Stream, StreamFlags};

use super::{BLOCKS, BYTES, Library, Outcome, PACK, PTX, THREADS};

pub struct Cust {
    // Dropped in this order: the context last.
    stream: Stream,
    nothing: Function<'static>,
    copy: Function<'static>,
    to: DeviceBuffer<u8>,
    from: DeviceBuffer<u8>,
    _context: Context,
}

impl Cust {
    pub fn open() -> Outcome<Cust> {
        let context = cust::quick_init()?;
        // Functions borrow their module; this one lives as long as the process.
        let module: &'static Module = Box::leak(Box::new(Module::from_ptx(PTX, &[])?));
        let (nothing, copy) = (module.get_function("nothing")?, module.get_function("copy")?);
        let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
        // SAFETY: bytes of any value; what is copied is never looked at.
        let (to, from) =
            unsafe { (DeviceBuffer::uninitialized(BYTES)?, DeviceBuffer::uninitialized(BYTES)?) };
        Ok(Cust { stream, nothing, copy, to, from, _context: context })
    }

    fn event(&self) -> Outcome<Event> {
        let event = Event::new(EventFlags::DEFAULT)?;
        event.record(&self.stream)?;
        Ok(event)
    }

    /// Milliseconds from an event to now.
    fn since(&self, first: Event) -> Outcome<f32> {
        let last = self.event()?;
        last.synchronize()?;
        Ok(last.elapsed_time_f32(&first)?)
    }
}

impl Library for Cust {
    fn name(&self) -> &'static str {
        "cust 0.3.2"
    }

    fn launch(&self) -> Outcome<()> {
        let (function, stream) = (&self.nothing, &self.stream);
        // SAFETY: a kernel without arguments that touches nothing.
        unsafe { launch!(function<<<1, 32, 0, stream>>>())? };
        Ok(())
    }

    fn wait(&self) -> Outcome<()> {
        Ok(self.stream.synchronize()?)
    }

    fn kernel_copy(&mut self) -> Outcome<f32> {
        let (function, stream) = (&self.copy, &self.stream);
        let (to, from, packs) = (self.to.as_device_ptr(), self.from.as_device_ptr(), (BYTES / PACK) as u64);
        let first = self.event()?;
        // SAFETY: copy(to, from, packs); both hold that many packs.
        unsafe { launch!(function<<<BLOCKS, THREADS, 0, stream>>>(to, from, packs))? };
        self.since(first)
    }

    fn memcpy(&mut self) -> Outcome<f32> {
        let first = self.event()?;
        // SAFETY: both live until the wait in `since`.
        unsafe { self.to.async_copy_from(&self.from, &self.stream)? };
        self.since(first)
    }
}
