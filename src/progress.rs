//! What long work tells while it goes on: to the terminal, or to the program that embeds it.

use std::fmt::{self, Display};
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

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

/// Time between lines on how far the work has come.
const EVERY: Duration = Duration::from_secs(30);

/// Who is told. Clones tell the same one.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(Event) + Send + Sync>);

impl fmt::Debug for Reporter {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_tuple("Reporter").finish_non_exhaustive()
    }
}

impl Reporter {
    /// A function that is called with every event. The work waits for it.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Reporter {
        Reporter(Arc::new(tell))
    }

    /// Nobody.
    pub fn silent() -> Reporter {
        Reporter::new(|_| ())
    }

    /// Stderr: a line for what is worth knowing, and how far the work has come: in a progress bar or, where stderr is no terminal but
    /// a job's log, in a line every half minute.
    pub fn terminal() -> Reporter {
        Reporter::lines(std::io::stderr().is_terminal(), EVERY, |line| eprintln!("{line}"))
    }

    fn lines(bars: bool, every: Duration, write: impl Fn(&str) + Send + Sync + 'static) -> Reporter {
        let shown: Mutex<(Option<Shown>, Instant)> = Mutex::new((None, Instant::now()));
        Reporter::new(move |event| {
            let (shown, told) = &mut *shown.lock().unwrap_or_else(PoisonError::into_inner);
            let line = |line: &str| match shown.as_ref() {
                Some(Shown { bar, .. }) => bar.suspend(|| write(line)),
                None => write(line),
            };
            match event {
                Event::Note(what) => line(&format!("note: {what}")),
                Event::Stage(what) => match shown.as_ref() {
                    Some(Shown { bar, .. }) => bar.set_message(what.to_string()),
                    None => line(what),
                },
                Event::Warning(what) => line(&format!("warning: {what}")),
                Event::Error(what) => line(&format!("error: {what}")),
                Event::Begins { what, done, all, unit } => {
                    *shown = Some(Shown::new(bars, what, done, all, unit))
                }
                Event::Done(done) => {
                    let Some(shown) = shown else { return };
                    shown.bar.set_position(done);
                    if !bars && told.elapsed() >= every {
                        *told = Instant::now();
                        write(&shown.line());
                    }
                }
                Event::Logged { step, numbers } => {
                    let find = |name: &str| numbers.iter().find(|(n, _)| n == name).map(|(_, x)| *x);
                    if let (Some(Shown { bar, .. }), Some(loss), Some(rate)) =
                        (shown.as_ref(), find("loss"), find("cells_per_second"))
                    {
                        bar.set_message(format!("loss {loss:.3}  {rate:.0} cells/s"));
                    }
                    if let Some(pdcorr) = find("val_pdcorr") {
                        line(&format!("step {step}: PDCorr {pdcorr:.4}"));
                    }
                }
                Event::Ends => shown.take().iter().for_each(|shown| shown.bar.finish_and_clear()),
            }
        })
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

/// Work that goes on.
struct Shown {
    /// With rate and time left; hidden where there are no bars.
    bar: ProgressBar,
    unit: String,
}

impl Shown {
    fn new(bars: bool, what: &str, done: u64, all: u64, unit: &str) -> Shown {
        let target = match bars {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let template =
            format!("{{prefix}} {{bar:30}} {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}} {{msg}}");
        let style = ProgressStyle::with_template(&template).expect("a template of known fields");
        let bar = ProgressBar::with_draw_target(Some(all), target).with_style(style);
        let bar = bar.with_prefix(what.to_string()).with_position(done);
        bar.reset_eta();
        Shown { bar, unit: unit.to_string() }
    }

    /// How far it has come, for a log.
    fn line(&self) -> String {
        let Shown { bar, unit } = self;
        let (what, done, all) = (bar.prefix(), bar.position(), bar.length().unwrap_or(0));
        format!("{what} {done}/{all} {unit}  {}", bar.message()).trim_end().to_string()
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
    #[test]
    fn a_log_is_told_how_far_the_work_has_come() {
        let told = |every: Duration| {
            let lines = Arc::new(Mutex::new(Vec::new()));
            let written = lines.clone();
            let write = move |line: &str| written.lock().expect("one thread").push(line.to_string());
            let reporter = Reporter::lines(false, every, write);
            let work = reporter.begin("train", 5, 20, "steps");
            work.set(6);
            let number = |name: &str, x: f64| (name.to_string(), x);
            let numbers = [number("loss", 2.5), number("cells_per_second", 300.0)];
            reporter.tell(Event::Logged { step: 7, numbers: &numbers });
            reporter.tell(Event::Logged { step: 7, numbers: &[number("val_pdcorr", 0.25)] });
            work.set(7);
            drop(work);
            lines.lock().expect("one thread").clone()
        };
        let validated = "step 7: PDCorr 0.2500";
        let all = ["train 6/20 steps", validated, "train 7/20 steps  loss 2.500  300 cells/s"];
        assert_eq!(told(Duration::ZERO), all);
        assert_eq!(told(EVERY), [validated]);
    }
}
