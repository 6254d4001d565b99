//! Which of two ways to the same result was timed to be quicker on a device, in a form that outlives the process. Different ways
//! round their sums differently, so a run that resumes in another process with the same bits must not choose again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::ways::Asked;
use super::{Gpu, Stamp, Took, Way, or_stop};

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

/// Timed runs of each way, after one more that finds caches as something else left them; the fastest counts.
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
            blocks.filter(|&blocks| self.choose(Way::Any, what, size, [&|| hopper(blocks), &any]) == 0);
        taken.map_or_else(any, &hopper);
        taken.is_some()
    }

    /// Which of two ways of kernels for Hopper to the same result is quicker, work divided or whole, found by timing both when the
    /// sizes are first seen. Sizes not yet timed get the first way on a device whose timing means nothing, and while a step is only
    /// counted.
    pub fn quicker(&self, what: &'static str, size: [usize; 3], ways: [&dyn Fn(); 2]) -> usize {
        self.choose(Way::Hopper, what, size, ways)
    }

    /// [`Gpu::quicker`] of two ways of which `plain` is the second.
    fn choose(&self, plain: Way, what: &'static str, size: [usize; 3], ways: [&dyn Fn(); 2]) -> usize {
        if let Some(way) = self.asked(plain) {
            return way;
        }
        let chosen = || self.0.chosen.timed.lock().expect("no panic under this lock");
        let (key, quicker) = ((Cow::from(what), size), |took: [f64; 2]| usize::from(took[1] < took[0]));
        if let Some(&took) = chosen().get(&key) {
            return quicker(took);
        }
        if matches!(self.stamp(), Stamp::Clock(_)) {
            return 0;
        }
        let time = |way: &dyn Fn()| {
            way(); // loads or chooses
            // All runs are queued before the device comes to them: otherwise what the host does for each would count, which is
            // nothing in a step that is one graph.
            or_stop(self.driver().keep_busy());
            let took: Vec<Took> = (0..=RUNS).map(|_| Took::of(Some(self), way)).collect();
            took.into_iter().skip(1).map(Took::seconds).fold(f64::INFINITY, f64::min)
        };
        let took = self.aside(|| ways.map(time));
        chosen().insert(key, took);
        // The step was counted with the first way, as nothing was known yet.
        if quicker(took) == 1 {
            self.count_anew();
        }
        quicker(took)
    }

    /// What [`Gpu::quicker`] has timed: what was made, its sizes, seconds of each way.
    pub fn timed_ways(&self) -> Vec<(String, [usize; 3], [f64; 2])> {
        let chosen = self.0.chosen.timed.lock().expect("no panic under this lock");
        let mut ways: Vec<_> =
            chosen.iter().map(|((what, size), took)| (what.to_string(), *size, *took)).collect();
        ways.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        ways
    }

    pub(super) fn take_ways(&self, ways: &[(String, [usize; 3], [f64; 2])]) {
        let mut chosen = self.0.chosen.timed.lock().expect("no panic under this lock");
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
