//! What a device was timed to do quickest, in a form that outlives the process. Another algorithm rounds its sums otherwise, so a run
//! that goes on in another process to the same bits must not choose anew.

use serde::{Deserialize, Serialize};

use super::Gpu;

/// How cuBLASLt names one of its ways to a product; means something to the same version of it, on the same kind of device.
pub(super) type Algorithm = [u64; 8];

/// How products are worded among the choices; raised where one would be looked for under other words.
const WORDS: u32 = 3;

/// The choices of a device so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Choices {
    /// The device, in words.
    device: String,
    /// Version of the library of matrix products.
    library: u64,
    /// [`WORDS`] of who chose.
    #[serde(default)]
    words: u32,
    /// Of products, by all that they may depend on.
    algorithms: Vec<(String, Algorithm)>,
    /// Of two ways to one result: what is made, its sizes, seconds of each way.
    ways: Vec<(String, [usize; 3], [f64; 2])>,
}

impl Choices {
    /// True where nothing was timed: on a CPU, and on devices that are no GPU.
    pub fn is_empty(&self) -> bool {
        self.algorithms.is_empty() && self.ways.is_empty()
    }
}

impl Gpu {
    /// What was chosen until now, in a fixed order.
    pub fn choices(&self) -> Choices {
        let (library, mut algorithms) = self.0.driver.algorithms();
        algorithms.sort();
        Choices { device: self.name(), library, words: WORDS, algorithms, ways: self.timed_ways() }
    }

    /// Chooses as it was chosen. False, and nothing is done, where that was another kind of device, or another version of the library or
    /// of this program.
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
