//! What the work between two calls takes: by events in a device's queue, by the host's clock elsewhere.
//!
//! Events are read long after they were recorded: whoever times a kernel queues many first, so that the device and not the host
//! is what it waits for.

use std::time::Instant;

use super::{Gpu, or_stop};

type Outcome<T> = std::result::Result<T, String>;

/// Called where the timed work ends.
pub(super) type Stop = Box<dyn FnOnce() -> Outcome<Read>>;
/// Waits until that end is reached; seconds.
pub(super) type Read = Box<dyn FnOnce() -> Outcome<f64>>;

/// A running clock.
pub struct Clock(Stop);

/// A stopped one.
pub struct Took(Read);

impl Clock {
    /// Starts: on a device when what was queued before is done, on the host now.
    pub fn start(gpu: Option<&Gpu>) -> Clock {
        Clock(gpu.map_or_else(host, |gpu| or_stop(gpu.0.driver.clock())))
    }

    /// Stops: on a device when what was queued until now is done.
    pub fn stop(self) -> Took {
        Took(or_stop((self.0)()))
    }
}

impl Took {
    /// Seconds between the two. Waits for the device.
    pub fn seconds(self) -> f64 {
        or_stop((self.0)())
    }
}

impl Gpu {
    /// Bytes of its level-2 cache; 0 where nobody knows.
    pub fn cache(&self) -> usize {
        self.0.driver.cache()
    }
}

/// The clock of the host, and of a driver whose calls return when their work is done.
pub(super) fn host() -> Stop {
    let began = Instant::now();
    Box::new(move || {
        let took = began.elapsed().as_secs_f64();
        Ok(Box::new(move || Ok(took)))
    })
}
