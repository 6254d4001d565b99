//! Which of two ways to the same result a device timed as quicker, in a form that outlives the process. Different ways round their
//! sums differently: a run that is resumed in another process keeps its bits only if it does not choose again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::routes::Asked;
use super::{Gpu, Route, Stamp, Took, or_stop};
use crate::lock::lock;

/// How cuBLASLt identifies one of its algorithms; valid only for the same version of it on the same kind of device.
pub(super) type Algorithm = [u64; 8];

/// Version of the text keys under which products are stored; raised whenever a product's key changes.
const WORDS: u32 = 3;

/// The choices of a device so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choices {
    /// The device, in words.
    device: String,
    /// Version of the matrix-product library.
    library: u64,
    /// [`WORDS`] of the program that chose.
    #[serde(default)]
    words: u32,
    /// The algorithm of each product, by everything it may depend on.
    algorithms: Vec<(String, Algorithm)>,
    /// Two ways to one result: what is made, its sizes, seconds of each way.
    ways: Vec<(String, [usize; 3], [f64; 2])>,
}

impl Choices {
    /// True if nothing was timed: on a CPU, and on devices that are not GPUs.
    pub fn is_empty(&self) -> bool {
        self.algorithms.is_empty() && self.ways.is_empty()
    }
}

/// Seconds of two ways to one result, by what is made and its sizes.
type Timed = HashMap<(Cow<'static, str>, [usize; 3]), [f64; 2]>;

/// What decides between two ways.
#[derive(Default)]
pub(super) struct Chosen {
    /// What was timed.
    timed: Mutex<Timed>,
    /// What a check asks for instead.
    pub pinned: Asked,
}

/// Timed runs of each way; the fastest counts. One more run comes first and does not count: it finds the caches as other work left
/// them.
const RUNS: usize = 3;

impl Gpu {
    /// Runs the quicker of `hopper`, a kernel for Hopper that is given how many blocks run at once, and `any`, which works on any
    /// device. `hopper` needs a device that supports it, and `fits`: matrices that the copy engine can read, among other things.
    /// True if `hopper` ran.
    pub fn either(
        &self,
        what: &'static str,
        size: [usize; 3],
        fits: bool,
        hopper: impl Fn(usize),
        any: impl Fn(),
    ) -> bool {
        let blocks = self.hopper().filter(|_| fits);
        let taken =
            blocks.filter(|&blocks| self.choose(Route::Any, what, size, [&|| hopper(blocks), &any]) == 0);
        taken.map_or_else(any, &hopper);
        taken.is_some()
    }

    /// Which of two Hopper kernels for one result is faster at these sizes: 0 if the one that divides its work between blocks, 1 if
    /// the one that does not. Both are timed when the sizes are first seen. Sizes that were not timed yet give 0 on a device that
    /// cannot be timed and during a rehearsal.
    pub fn quicker(&self, what: &'static str, size: [usize; 3], ways: [&dyn Fn(); 2]) -> usize {
        self.choose(Route::Hopper, what, size, ways)
    }

    /// [`Gpu::quicker`] for any two ways; `plain` names the second.
    fn choose(&self, plain: Route, what: &'static str, size: [usize; 3], ways: [&dyn Fn(); 2]) -> usize {
        if let Some(way) = self.asked(plain) {
            return way;
        }
        let chosen = || lock(&self.0.chosen.timed);
        let (key, quicker) = ((Cow::from(what), size), |took: [f64; 2]| usize::from(took[1] < took[0]));
        if let Some(&took) = chosen().get(&key) {
            return quicker(took);
        }
        if matches!(self.stamp(), Stamp::Clock(_)) {
            return 0;
        }
        let time = |way: &dyn Fn()| {
            way(); // loads kernels, chooses the algorithms of products
            // All runs are queued before the device reaches them. Otherwise the host's time per launch would count, which a step
            // that is one graph does not spend.
            or_stop(self.driver().keep_busy());
            let took: Vec<Took> = (0..=RUNS).map(|_| Took::of(Some(self), way)).collect();
            took.into_iter().skip(1).map(Took::seconds).fold(f64::INFINITY, f64::min)
        };
        let took = self.aside(|| ways.map(time));
        chosen().insert(key, took);
        // The step was rehearsed with the first way, as nothing was known yet.
        if quicker(took) == 1 {
            self.drop_layout();
        }
        quicker(took)
    }

    /// What [`Gpu::quicker`] has timed: what was made, its sizes, seconds of each way.
    pub fn timed_ways(&self) -> Vec<(String, [usize; 3], [f64; 2])> {
        let chosen = lock(&self.0.chosen.timed);
        let mut ways: Vec<_> =
            chosen.iter().map(|((what, size), took)| (what.to_string(), *size, *took)).collect();
        ways.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        ways
    }

    pub(super) fn take_ways(&self, ways: &[(String, [usize; 3], [f64; 2])]) {
        let mut chosen = lock(&self.0.chosen.timed);
        chosen.extend(ways.iter().map(|(what, size, took)| ((what.clone().into(), *size), *took)));
    }

    /// The choices so far, in a fixed order.
    pub fn choices(&self) -> Choices {
        let (library, mut algorithms) = self.0.driver.algorithms();
        algorithms.sort();
        Choices { device: self.name(), library, words: WORDS, algorithms, ways: self.timed_ways() }
    }

    /// Adopts these choices. False, and nothing is done, if they come from another kind of device, or from another version of the
    /// library or of this program. An algorithm that the library refuses for its product is chosen anew when that is requested.
    pub fn adopt(&self, choices: &Choices) -> bool {
        let (library, _) = self.0.driver.algorithms();
        if (&choices.device, choices.library, choices.words) != (&self.name(), library, WORDS) {
            return false;
        }
        self.0.driver.adopt(&choices.algorithms);
        self.take_ways(&choices.ways);
        true
    }
}
