//! Every way to a result, for checks. Left to its timing a device takes the quicker way: which one is judged would change with the
//! sizes and with chance, and the other would never be.

use std::fmt;
use std::sync::Mutex;

use super::Gpu;

/// A way to a result, from what every device has to what few have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Kernels for any device, and the library's products.
    Any,
    /// Kernels for Hopper.
    Hopper,
    /// The same, with what one block of theirs would do divided between several.
    HopperApart,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Way::Any => "any device",
            Way::Hopper => "Hopper",
            Way::HopperApart => "Hopper, apart",
        })
    }
}

/// The way that is asked for, if one is, and whether something on it could also have gone the next one.
pub(super) type Asked = Mutex<Option<(Way, bool)>>;

impl Gpu {
    /// Does work in each way that this device has for it, without timing any: first as any device does. `work` must choose alike
    /// each time.
    pub fn each_way<T>(&self, mut work: impl FnMut() -> T) -> Vec<(Way, T)> {
        let mut made = Vec::new();
        for way in [Way::Any, Way::Hopper, Way::HopperApart] {
            let pin = Pin::to(self, way);
            made.push((way, work()));
            if !pin.goes_on() {
                break;
            }
        }
        made
    }

    /// If a way is asked for: which of two it takes, where `plain` and the ways before it take the second.
    pub(super) fn asked(&self, plain: Way) -> Option<usize> {
        let mut pinned = self.0.chosen.pinned.lock().expect("no panic under this lock");
        let (way, goes_on) = pinned.as_mut()?;
        *goes_on |= *way == plain;
        Some(usize::from(*way == plain))
    }
}

/// A device that takes one way.
struct Pin<'a>(&'a Gpu);

impl<'a> Pin<'a> {
    fn to(gpu: &'a Gpu, way: Way) -> Pin<'a> {
        *gpu.0.chosen.pinned.lock().expect("no panic under this lock") = Some((way, false));
        Pin(gpu)
    }

    fn goes_on(&self) -> bool {
        self.0.0.chosen.pinned.lock().expect("no panic under this lock").is_some_and(|(_, goes_on)| goes_on)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        *self.0.0.chosen.pinned.lock().expect("no panic under this lock") = None;
    }
}
