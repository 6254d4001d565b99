//! Every route to a result, for checks. Left to itself a device takes the route that it timed as quicker: which one a check sees
//! would depend on sizes and chance, and the other would never be checked.

use std::fmt;
use std::sync::Mutex;

use super::Gpu;
use crate::lock::lock;

/// A choice of kernels for a result, from what every device has to what few have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Kernels for any device, and the library's products.
    Any,
    /// Kernels for Hopper.
    Hopper,
    /// The same, with what one block of theirs would do divided between several.
    HopperApart,
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Route::Any => "any device",
            Route::Hopper => "Hopper",
            Route::HopperApart => "Hopper, apart",
        })
    }
}

/// The route that is asked for, if any, and whether a choice made on it also offered the next one.
pub(super) type Asked = Mutex<Option<(Route, bool)>>;

impl Gpu {
    /// Does work by each route that this device has for it, without timing any: first as any device does. `work` must make the same
    /// choices each time.
    pub fn each_route<T>(&self, mut work: impl FnMut() -> T) -> Vec<(Route, T)> {
        let mut made = Vec::new();
        for route in [Route::Any, Route::Hopper, Route::HopperApart] {
            let pin = Forced::to(self, route);
            made.push((route, work()));
            if !pin.goes_on() {
                break;
            }
        }
        made
    }

    /// If a route is asked for: whether it takes the first of two kernels. `plain` takes the second, and goes on to the route that
    /// takes the first; earlier ones never come to this choice.
    pub(super) fn asked(&self, plain: Route) -> Option<bool> {
        let mut forced = lock(&self.0.chosen.forced);
        let (route, goes_on) = forced.as_mut()?;
        *goes_on |= *route == plain;
        Some(*route != plain)
    }
}

/// A device that takes one route.
struct Forced<'a>(&'a Gpu);

impl<'a> Forced<'a> {
    fn to(gpu: &'a Gpu, route: Route) -> Forced<'a> {
        *lock(&gpu.0.chosen.forced) = Some((route, false));
        Forced(gpu)
    }

    fn goes_on(&self) -> bool {
        lock(&self.0.0.chosen.forced).is_some_and(|(_, goes_on)| goes_on)
    }
}

impl Drop for Forced<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0.chosen.forced) = None;
    }
}
