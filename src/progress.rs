//! What long work tells the program that runs it, and how that program stops it.
//!
//! ```
//! use scale_engine::progress::{Event, Progress};
//!
//! let progress = Progress::new(|event, progress| match event {
//!     Event::Done(200) => progress.stop(),
//!     event => println!("{event:?}"),
//! });
//! let work = progress.begin("count", 0, 1000, "sheep");
//! let counted = (0..10).try_for_each(|_| {
//!     work.add(100);
//!     work.go_on()
//! });
//! assert_eq!(counted.expect_err("it is stopped").to_string(), "count was stopped after 200 of 1000 sheep");
//! ```

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::error::{Error, Result};
use crate::lock::lock;

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
    /// Units done so far, those of an earlier process included. A GPU may still be working on the last.
    Done(u64),
    /// What training writes to metrics.jsonl: a step and its numbers, by the names that they have there. Numbers that are not
    /// finite are left out. Several may tell of one step; norms of the parts' gradients come before it is done, its loss when it was
    /// too late to stop before the next ([`Progress::stop`]).
    Logged {
        /// The step, from 1.
        step: u64,
        /// Name and value.
        numbers: &'a [(String, f64)],
    },
    /// The work is over, finished or not.
    Ends,
}

/// An observer of long work: it is told every event and can ask the work to stop. Clones share one observer.
#[derive(Clone)]
pub struct Progress(Arc<Watch>);

struct Watch {
    tell: Box<Tell>,
    stop: AtomicBool,
}

type Tell = dyn Fn(Event, &Progress) + Send + Sync;

brief!(Progress, |progress| stopped: progress.is_stopped());

impl Progress {
    /// A function that is called with every event, and with the progress itself, by which it may stop the work. The work waits for
    /// it.
    pub fn new(tell: impl Fn(Event, &Progress) + Send + Sync + 'static) -> Progress {
        Progress(Arc::new(Watch { tell: Box::new(tell), stop: AtomicBool::new(false) }))
    }

    /// An observer that ignores every event.
    pub fn silent() -> Progress {
        Progress::new(|_, _| ())
    }

    /// Asks the work to stop, from any thread: it ends after the block of cells or the step that it is at. Training looks for this
    /// once a step is done and told by [`Event::Done`]; what [`Event::Logged`] tells of a step comes when the next one has begun, so
    /// who then stops gets that one too. What was stopped stays so: other work needs a progress of its own.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the work is asked to stop.
    pub fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    /// What the work asks where it can stop.
    ///
    /// # Errors
    /// [`Error::Stopped`] with these words once it is asked to stop.
    pub fn go_on(&self, otherwise: impl Display) -> Result<()> {
        match self.is_stopped() {
            true => Err(Error::Stopped(otherwise.to_string())),
            false => Ok(()),
        }
    }

    /// Tells an event.
    pub fn tell(&self, event: Event) {
        (self.0.tell)(event, self);
    }

    /// Tells what is worth knowing.
    pub fn note(&self, what: impl Display) {
        self.tell(Event::Note(&what.to_string()));
    }

    /// Tells that work begins, as [`Event::Begins`] has it. It ends when what is returned is dropped.
    pub fn begin(&self, what: &str, done: u64, all: u64, unit: &str) -> Work {
        self.tell(Event::Begins { what, done, all, unit });
        let (what, unit) = (what.to_string(), unit.to_string());
        Work { progress: self.clone(), what, all, unit, done: Mutex::new(done) }
    }
}

/// Work that has begun, and how much of it is done. Threads may share it.
///
/// [`Event::Ends`] is told when it is dropped: also where the work fails or panics.
#[must_use = "it ends when it is dropped"]
#[derive(Debug)]
pub struct Work {
    progress: Progress,
    what: String,
    all: u64,
    unit: String,
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

    /// [`Progress::go_on`], in words that tell how far the work has come.
    ///
    /// # Errors
    /// [`Error::Stopped`] once it is asked to stop.
    pub fn go_on(&self) -> Result<()> {
        let Work { progress, what, all, unit, done } = self;
        if !progress.is_stopped() {
            return Ok(());
        }
        let done = lock(done);
        progress.go_on(format_args!("{what} was stopped after {done} of {all} {unit}"))
    }

    fn tell(&self, now: impl FnOnce(u64) -> u64) {
        let mut done = lock(&self.done);
        *done = now(*done);
        self.progress.tell(Event::Done(*done));
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.progress.tell(Event::Ends);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn threads_tell_one_rising_count_and_work_that_panics_ends_too() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let progress = {
            let told = told.clone();
            Progress::new(move |event, _| {
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
            let work = progress.begin("count", 5, 305, "units");
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
