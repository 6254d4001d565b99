//! What long work tells the program that runs it while it goes on.

use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};

/// What happens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Worth knowing, but no fault.
    Note(&'a str),
    /// What the work has come to, in a few words: a stage of the demo, a row of the selftest.
    Stage(&'a str),
    /// Probably not what was meant; the work goes on.
    Warning(&'a str),
    /// What went wrong beside the error that is returned, or before the process is ended.
    Error(&'a str),
    /// Everything is read and the work begins.
    Begins {
        /// The work, in a word.
        what: &'a str,
        /// Units that an earlier process did.
        done: u64,
        /// Units in all.
        all: u64,
        /// What is counted.
        unit: &'a str,
    },
    /// So many units are done, those of an earlier process among them. A GPU may still be at work on the last.
    Done(u64),
    /// What training writes to metrics.jsonl: a step and its numbers, by the names that they have there. Numbers that are not finite
    /// are left out. Several may tell of one step; norms of the parts' gradients come before it is done.
    Logged {
        /// The step, from 1.
        step: u64,
        /// Name and value.
        numbers: &'a [(String, f64)],
    },
    /// The work is over, finished or not.
    Ends,
}

/// Who is told. Clones tell the same one.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(Event) + Send + Sync>);

brief!(Reporter, |_|);

impl Reporter {
    /// A function that is called with every event. The work waits for it.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Reporter {
        Reporter(Arc::new(tell))
    }

    /// Nobody.
    pub fn silent() -> Reporter {
        Reporter::new(|_| ())
    }

    /// Tells an event.
    pub fn tell(&self, event: Event) {
        (self.0)(event);
    }

    /// Tells what is worth knowing.
    pub fn note(&self, what: impl Display) {
        self.tell(Event::Note(&what.to_string()));
    }

    /// Tells that work begins, as [`Event::Begins`] has it. It ends when what is returned is dropped.
    pub fn begin(&self, what: &str, done: u64, all: u64, unit: &str) -> Work {
        self.tell(Event::Begins { what, done, all, unit });
        Work { reporter: self.clone(), done: Mutex::new(done) }
    }
}

/// Work that has begun, and how much of it is done. Threads may share it.
///
/// [`Event::Ends`] is told when it is dropped: also where the work fails or panics.
#[derive(Debug)]
pub struct Work {
    reporter: Reporter,
    /// Held while its number is told, so that no thread tells less than another has told before.
    done: Mutex<u64>,
}

impl Work {
    /// Tells that so many more units are done.
    pub fn add(&self, units: u64) {
        self.tell(|done| done + units);
    }

    /// Tells how many units are done, those of an earlier process among them.
    pub fn set(&self, done: u64) {
        self.tell(|_| done);
    }

    fn tell(&self, now: impl FnOnce(u64) -> u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done = now(*done);
        self.reporter.tell(Event::Done(*done));
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.reporter.tell(Event::Ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn threads_tell_one_rising_count_and_work_that_panics_ends_too() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let reporter = {
            let told = told.clone();
            Reporter::new(move |event| {
                let line = match event {
                    Event::Begins { what, done, all, unit } => format!("{what} {done} of {all} {unit}"),
                    Event::Done(done) => done.to_string(),
                    Event::Ends => "ends".to_string(),
                    _ => "other".to_string(),
                };
                told.lock().expect("no panic holds it").push(line);
            })
        };
        let work = || {
            let work = reporter.begin("count", 5, 305, "units");
            std::thread::scope(|scope| {
                (0..3).for_each(|_| drop(scope.spawn(|| (0..100).for_each(|_| work.add(1)))));
            });
            work.set(7);
            panic!("on purpose");
        };
        assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
        let expected = ["count 5 of 305 units".to_string()]
            .into_iter()
            .chain((6..=305).map(|done| done.to_string()))
            .chain(["7".to_string(), "ends".to_string()]);
        assert!(told.lock().expect("no panic holds it").iter().cloned().eq(expected));
    }
}
