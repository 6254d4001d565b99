//! What long work tells while it goes on: to the terminal, or to the program that embeds it.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What happens.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Worth knowing, but no fault.
    Note(&'a str),
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

impl Reporter {
    /// A function that is called with every event. The work waits for it.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Reporter {
        Reporter(Arc::new(tell))
    }

    /// Nobody.
    pub fn silent() -> Reporter {
        Reporter::new(|_| ())
    }

    /// Stderr: a line for what is worth knowing and, if it is a terminal, a progress bar.
    pub fn terminal() -> Reporter {
        let shown: Mutex<Option<ProgressBar>> = Mutex::new(None);
        Reporter::new(move |event| {
            let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let line = |line: String| match shown.as_ref() {
                Some(bar) => bar.suspend(|| eprintln!("{line}")),
                None => eprintln!("{line}"),
            };
            match event {
                Event::Note(what) => line(format!("note: {what}")),
                Event::Warning(what) => line(format!("warning: {what}")),
                Event::Error(what) => line(format!("error: {what}")),
                Event::Begins { what, done, all, unit } => {
                    let bar = bar(what, all, unit).with_position(done);
                    bar.reset_eta();
                    *shown = Some(bar);
                }
                Event::Done(done) => shown.iter().for_each(|bar| bar.set_position(done)),
                Event::Logged { numbers, .. } => {
                    let find = |name: &str| numbers.iter().find(|(n, _)| n == name).map(|(_, x)| *x);
                    if let (Some(bar), Some(loss), Some(rate)) =
                        (shown.as_ref(), find("loss"), find("cells_per_second"))
                    {
                        bar.set_message(format!("loss {loss:.3}  {rate:.0} cells/s"));
                    }
                }
                Event::Ends => shown.take().iter().for_each(ProgressBar::finish_and_clear),
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
}

/// A bar on stderr of `len` units with rate and time left, e.g. `bar("preprocess", cells, "cells")`; hidden if stderr is not a
/// terminal.
pub fn bar(what: &str, len: u64, unit: &str) -> ProgressBar {
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let template = format!("{{prefix}} {{bar:30}} {{pos}}/{{len}} {unit} {{per_sec}} eta {{eta}} {{msg}}");
    let style = ProgressStyle::with_template(&template).expect("a template of known fields");
    ProgressBar::with_draw_target(Some(len), target).with_style(style).with_prefix(what.to_string())
}
