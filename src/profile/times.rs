//! Several timings of one piece of work.

use crate::correlation;
use crate::error::Result;
use crate::gpu::{Gpu, Stamp};

/// Seconds of each turn, sorted; there is at least one.
pub struct Times(Vec<f64>);

brief!(Times, |times| turns: times.turns());

/// Turns before the clock starts, in which a GPU chooses its algorithms and lays out its memory.
const WARM: u64 = 5;

impl Times {
    /// Times of so many turns, numbered from 0 with those before the clock starts: on a device from the end of the previous turn to
    /// the end of this one. As in training, nobody waits in between, so that what the host does beside the device costs nothing.
    ///
    /// # Errors
    /// The first of `turn`.
    ///
    /// # Panics
    /// If there are none.
    pub fn of_turns(turns: u64, gpu: Option<&Gpu>, mut turn: impl FnMut(u64) -> Result<()>) -> Result<Times> {
        let warm = WARM.min(turns);
        (0..warm).try_for_each(&mut turn)?;
        let mut ends = vec![Stamp::now(gpu)];
        for k in warm..warm + turns {
            turn(k)?;
            ends.push(Stamp::now(gpu));
        }
        Ok(Times::of(ends.windows(2).map(|pair| pair[0].until(&pair[1])).collect()))
    }

    /// Of turns that took so many seconds.
    ///
    /// # Panics
    /// If there are none.
    pub fn of(mut seconds: Vec<f64>) -> Times {
        assert!(!seconds.is_empty(), "times: nothing was timed");
        seconds.sort_by(f64::total_cmp);
        Times(seconds)
    }

    /// How many turns there were.
    pub fn turns(&self) -> usize {
        self.0.len()
    }

    /// The fastest turn.
    pub fn least(&self) -> f64 {
        self.0[0]
    }

    /// The slowest turn.
    pub fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// The median turn.
    pub fn median(&self) -> f64 {
        correlation::median(&mut self.0.clone()).unwrap_or_else(|| unreachable!("there is a turn"))
    }
}
