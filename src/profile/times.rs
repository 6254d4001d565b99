//! Several timings of one piece of work.

use crate::correlation;

/// Seconds of each turn, sorted; there is at least one.
pub struct Times(Vec<f64>);

impl Times {
    /// Panics without a turn.
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
        correlation::median(&mut self.0.clone()).expect("there is a turn")
    }
}
