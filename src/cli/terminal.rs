//! What long work tells, on a terminal or in the log of a job.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::words::{self, in_options};
use crate::lock::lock;
use crate::progress::{Event, Progress};

/// Time between lines on how far the work has come.
const EVERY: Duration = Duration::from_secs(30);

impl Progress {
    /// Stderr: a line for what is worth knowing, and how far the work has come: in a progress bar or, where stderr is no terminal but
    /// a job's log, in a line every half minute.
    pub fn terminal() -> Progress {
        Progress::lines(std::io::stderr().is_terminal(), EVERY, |line| words::say(line))
    }

    fn lines(bars: bool, every: Duration, write: impl Fn(&str) + Send + Sync + 'static) -> Progress {
        let shown: Mutex<(Option<Shown>, Instant)> = Mutex::new((None, Instant::now()));
        Progress::new(move |event, _| {
            let (shown, told) = &mut *lock(&shown);
            let line = |line: &str| match shown.as_ref() {
                Some(Shown { bar, .. }) => bar.suspend(|| write(line)),
                None => write(line),
            };
            match event {
                Event::Note(what) => line(&format!("note: {}", in_options(what))),
                Event::Stage(what) => match shown.as_ref() {
                    Some(Shown { bar, .. }) => bar.set_message(what.to_string()),
                    None => line(what),
                },
                Event::Warning(what) => line(&format!("warning: {}", in_options(what))),
                Event::Error(what) => line(&format!("error: {}", in_options(what))),
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
    use std::sync::Arc;

    #[test]
    fn a_log_is_told_how_far_the_work_has_come() {
        let told = |every: Duration| {
            let lines = Arc::new(Mutex::new(Vec::new()));
            let written = lines.clone();
            let write = move |line: &str| written.lock().expect("one thread").push(line.to_string());
            let progress = Progress::lines(false, every, write);
            let work = progress.begin("train", 5, 20, "steps");
            work.set(6);
            let number = |name: &str, x: f64| (name.to_string(), x);
            let numbers = [number("loss", 2.5), number("cells_per_second", 300.0)];
            progress.tell(Event::Logged { step: 7, numbers: &numbers });
            progress.tell(Event::Logged { step: 7, numbers: &[number("val_pdcorr", 0.25)] });
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
