//! Points in a device's time, and which kernels ran between them.

use std::sync::Mutex;
use std::time::Instant;

use cudarc::driver::CudaEvent;

use super::{Gpu, or_fail};
use crate::lock::lock;

/// A point in the device's time, reached when the work queued before it is done.
#[derive(Debug)]
pub enum Stamp {
    /// On a GPU.
    Event(CudaEvent),
    /// On the host, or on a device that does its work at once.
    Clock(Instant),
}

impl Stamp {
    /// The point after everything queued on the device; without one, this moment.
    pub fn now(gpu: Option<&Gpu>) -> Stamp {
        gpu.map_or_else(|| Stamp::Clock(Instant::now()), Gpu::stamp)
    }

    /// Seconds from this point to a later one of the same device. Waits for both.
    ///
    /// # Panics
    /// If one is of a device and the other of the host.
    pub fn until(&self, later: &Stamp) -> f64 {
        match (self, later) {
            (Stamp::Event(a), Stamp::Event(b)) => {
                or_fail(a.elapsed_ms(b).map_err(|e| format!("cuEventElapsedTime: {e}"))) as f64 / 1e3
            }
            (Stamp::Clock(a), Stamp::Clock(b)) => b.duration_since(*a).as_secs_f64(),
            _ => panic!("stamps of two devices"),
        }
    }
}

/// How long some work took.
#[derive(Debug)]
pub struct Took {
    begin: Stamp,
    end: Stamp,
}

impl Took {
    /// Does the work between two stamps: on a device the first is reached when what was queued before is done, the second when the
    /// work is.
    pub fn of(gpu: Option<&Gpu>, work: impl FnOnce()) -> Took {
        let begin = Stamp::now(gpu);
        work();
        Took { begin, end: Stamp::now(gpu) }
    }

    /// Seconds between the two. Waits for the device: call it long after the work was queued, so that the device, not the host,
    /// limits the timed work.
    pub fn seconds(self) -> f64 {
        self.begin.until(&self.end)
    }
}

/// A kernel or product that ran.
#[derive(Debug)]
pub struct Ran {
    /// The kernel's name, or a product's sizes.
    pub name: String,
    /// Before it.
    pub begin: Stamp,
    /// After it.
    pub end: Stamp,
}

/// What a device remembers of its launches; nothing until someone listens.
#[derive(Default)]
pub(super) struct Heard(Mutex<Option<Vec<Ran>>>);

impl Gpu {
    /// Bytes of its level-2 cache; 0 if unknown.
    pub fn cache(&self) -> usize {
        self.0.driver.cache()
    }

    /// The point after everything queued so far.
    pub fn stamp(&self) -> Stamp {
        or_fail(self.driver().stamp())
    }

    /// Records every kernel launch from here on: two stamps each, which cost a few microseconds.
    pub fn listen(&self) {
        *self.heard() = Some(Vec::new());
    }

    /// What was launched since the last call, or since [`Gpu::listen`].
    pub fn ran(&self) -> Vec<Ran> {
        self.heard().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Forgets them and stops recording.
    pub fn unlisten(&self) {
        *self.heard() = None;
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Option<Vec<Ran>>> {
        lock(&self.0.heard.0)
    }

    /// Does the work between two stamps, if someone listens.
    pub(super) fn timed<T>(&self, name: impl FnOnce() -> String, work: impl FnOnce() -> T) -> T {
        if self.heard().is_none() {
            return work();
        }
        let begin = self.stamp();
        let found = work();
        let end = self.stamp();
        if let Some(heard) = self.heard().as_mut() {
            heard.push(Ran { name: name(), begin, end });
        }
        found
    }
}
