//! Runs every op on this machine's device, against its plain reference; then the whole model, against the CPU.
//!
//! These are the rows that `cargo test` runs on the CPU and the emulator. The check needs nothing but the program itself, so it can
//! be carried to a machine that has a GPU and nothing else.

mod case;
mod feed;
mod gather;
mod model;
mod nccl;
mod table;

use serde::Serialize;

use crate::error::{Error, Result};
use crate::gpu::{self, Gpu, Real, Route};
use crate::progress::{Event, Progress};

pub use case::{Case, Run, Values, Verdict, case, error, wide};
pub use feed::check as feed;
pub use gather::check as gather;
pub use model::{Size, beside_cpu as model, in_pieces as graph};
pub use nccl::check as nccl;
pub use table::table;

/// One line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Op, with its route if that is not any device's; or what was checked of the model.
    pub name: String,
    /// How the device stored numbers.
    pub real: Real,
    /// Rows of the table, gradients or steps that were compared.
    pub rows: usize,
    /// The output that came closest to its bound.
    pub output: String,
    /// Its error, as a relative norm.
    pub error: f64,
    /// Its bound.
    pub allowed: f64,
}

impl Check {
    fn new(name: String, real: Real) -> Check {
        Check { name, real, rows: 0, output: String::new(), error: 0.0, allowed: f64::INFINITY }
    }

    /// True if the error is a number within its bound.
    pub fn holds(&self) -> bool {
        self.error <= self.allowed
    }

    /// Adds what was found of a row.
    fn add(&mut self, row: &Case, verdicts: Vec<Verdict>) {
        self.rows += 1;
        for Verdict { output, error, allowed } in verdicts {
            // NaN is worse than anything; if nothing is off, the last output is reported.
            if error.is_nan() || error / allowed >= self.error / self.allowed {
                self.output = format!("{output} of {} {:?}", row.name, row.shapes);
                (self.error, self.allowed) = (error, allowed);
            }
        }
    }
}

/// Runs rows of the table on a device; one check per op and route, with its worst output. The check under the op's own name covers
/// all its rows, computed as on any device; the checks of its Hopper routes cover the rows whose sizes these take, and are missing
/// if there are none. Each row is run up to `again` more times, fewer if it is large, and must give the same bits. `progress` is told
/// of the rows, each by name before it is run.
///
/// # Errors
/// [`Error::Stopped`] if `progress` is asked to stop; a device that fails, or on which a kernel writes past the end of a buffer:
/// the message names the row.
pub fn ops(gpu: &Gpu, rows: &[Case], again: usize, progress: &Progress) -> Result<Vec<Check>> {
    let mut checks: Vec<Check> = Vec::new();
    let work = progress.begin("selftest", 0, rows.len() as u64, "rows");
    for row in rows {
        work.go_on()?;
        progress.tell(Event::Stage(row.name));
        let judged = gpu::guard(|| Ok(row.judge(gpu, again)))
            .map_err(|e| Error::Device(format!("{} {:?}: {e}", row.name, row.shapes)))?;
        if let Some(what) = gpu.overrun() {
            return Err(Error::Device(format!("{} {:?}: {what}", row.name, row.shapes)));
        }
        for (route, verdicts) in judged {
            let name = match route {
                Route::Any => row.op().to_string(),
                route => format!("{} on {route}", row.op()),
            };
            let at = checks.iter().position(|check| check.name == name).unwrap_or(checks.len());
            if at == checks.len() {
                checks.push(Check::new(name, gpu.real()));
            }
            checks[at].add(row, verdicts);
        }
        work.add(1);
    }
    Ok(checks)
}
