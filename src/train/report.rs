//! What a run tells while it trains: to the terminal, or to the program that trains it.

use std::fmt::Display;
use std::sync::{Arc, OnceLock};

use indicatif::ProgressBar;
use serde_json::Value;

use crate::progress;

/// What happens in a run. Only the rank that writes files tells of steps.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Worth knowing, but no fault.
    Note(&'a str),
    /// Probably not what was meant; training goes on.
    Warning(&'a str),
    /// Everything is read; `done` of `steps` steps were done before.
    Begins {
        /// Steps that an earlier process did.
        done: u64,
        /// Steps of the whole run.
        steps: u64,
    },
    /// So many steps are done. A GPU may still be at work on the last of them.
    Step(u64),
    /// A line of metrics.jsonl: an object with `step` and, for a training step, `loss`, its parts, `grad_norm`, `lr` and
    /// `cells_per_second`; for a validation, `val_pdcorr`.
    Logged(&'a Value),
    /// No step is left, or the run was asked to stop; its last checkpoint is written next.
    Ends,
}

/// Who is told. Clones tell the same one.
#[derive(Clone)]
pub struct Reporter(Arc<dyn Fn(Event) + Send + Sync>);

impl Reporter {
    /// A function that is called with every event, on the thread that trains: a step waits for it.
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Reporter {
        Reporter(Arc::new(tell))
    }

    /// Nobody.
    pub fn silent() -> Reporter {
        Reporter::new(|_| ())
    }

    /// The terminal: notes and warnings on stderr, and a progress bar if stderr is a terminal.
    pub fn terminal() -> Reporter {
        let bar: OnceLock<ProgressBar> = OnceLock::new();
        let line = |bar: Option<&ProgressBar>, line: String| match bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        };
        Reporter::new(move |event| match event {
            Event::Note(what) => line(bar.get(), format!("note: {what}")),
            Event::Warning(what) => line(bar.get(), format!("warning: {what}")),
            Event::Begins { done, steps } => {
                bar.get_or_init(|| progress::bar("train", steps, "steps")).set_position(done);
            }
            Event::Step(done) => bar.get().into_iter().for_each(|bar| bar.set_position(done)),
            Event::Logged(line) => {
                if let (Some(bar), Some(loss), Some(rate)) =
                    (bar.get(), line["loss"].as_f64(), line["cells_per_second"].as_f64())
                {
                    bar.set_message(format!("loss {loss:.3}  {rate:.0} cells/s"));
                }
            }
            Event::Ends => bar.get().into_iter().for_each(ProgressBar::finish_and_clear),
        })
    }

    pub(super) fn tell(&self, event: Event) {
        (self.0)(event);
    }

    pub(super) fn note(&self, what: impl Display) {
        self.tell(Event::Note(&what.to_string()));
    }
}
