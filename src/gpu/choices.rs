//! Which of two ways to the same result a device timed as quicker, in a form that outlives the process. Different ways round their
//! sums differently: a run that is resumed in another process keeps its bits only if it does not choose again.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use super::routes::Asked;
use super::{Gpu, Route, Took, or_fail};
use crate::lock::lock;

/// How cuBLASLt identifies one of its algorithms; valid only for the same version of it on the same kind of device.
pub(super) type Algorithm = [u64; 8];

/// Version of the text keys under which products are stored; raised whenever a product's key changes.
const WORDS: u32 = 3;

/// Two ways to each result: what is made, its sizes, seconds of each way.
type Ways = Vec<(String, [usize; 3], [f64; 2])>;

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
    ways: Ways,
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
    pub forced: Asked,
}

/// Timed runs of each way; the fastest counts. One more run comes first and does not count: it finds the caches as other work left
/// them.
const RUNS: usize = 3;

impl Gpu {
    /// Runs the quicker of two ways to one result: `first`, which is told how many blocks run at once ([`Gpu::hopper_blocks`]), and
    /// `second`, which lies on the route `plain`. Without `blocks` the first cannot be used. True if it ran. Both are timed when the
    /// sizes are first seen; a device that cannot be timed, and a rehearsal, take the first at sizes that were not timed yet.
    pub fn either(
        &self,
        plain: Route,
        what: &'static str,
        size: [usize; 3],
        blocks: Option<usize>,
        first: impl Fn(usize),
        second: impl Fn(),
    ) -> bool {
        let taken = blocks.filter(|&blocks| self.choose(plain, what, size, [&|| first(blocks), &second]));
        taken.map_or_else(second, first);
        taken.is_some()
    }

    /// True for the first way.
    fn choose(&self, plain: Route, what: &'static str, size: [usize; 3], ways: [&dyn Fn(); 2]) -> bool {
        if let Some(first) = self.asked(plain) {
            return first;
        }
        let chosen = || lock(&self.0.chosen.timed);
        let (key, first_wins) = ((Cow::from(what), size), |took: [f64; 2]| took[0] <= took[1]);
        if let Some(&took) = chosen().get(&key) {
            return first_wins(took);
        }
        if !self.driver().can_time() {
            return true;
        }
        let time = |way: &dyn Fn()| {
            way(); // loads kernels, chooses the algorithms of products
            // All runs are queued before the device reaches them. Otherwise the host's time per launch would count, which a step
            // that is one graph does not spend.
            or_fail(self.driver().keep_busy());
            let took: Vec<Took> = (0..=RUNS).map(|_| Took::of(Some(self), way)).collect();
            took.into_iter().skip(1).map(Took::seconds).fold(f64::INFINITY, f64::min)
        };
        let took = self.aside(|| ways.map(time));
        chosen().insert(key, took);
        // The step was rehearsed with the first way, as nothing was known yet.
        if !first_wins(took) {
            self.drop_layout();
        }
        first_wins(took)
    }

    /// What [`Gpu::either`] has timed: what was made, its sizes, seconds of each way.
    pub fn timed_ways(&self) -> Ways {
        let chosen = lock(&self.0.chosen.timed);
        let mut ways: Vec<_> =
            chosen.iter().map(|((what, size), took)| (what.to_string(), *size, *took)).collect();
        ways.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
        ways
    }

    pub(super) fn take_ways(&self, ways: &Ways) {
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
