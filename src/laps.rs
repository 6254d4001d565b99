//! What each op of a step costs: time, bytes and arithmetic.
//!
//! Ops run one after the other, so an op's time runs from when the op before it was recorded. On a device the same points are
//! stamps in its stream, which are waited for only at the end.

use std::sync::{Arc, Mutex, MutexGuard};

use crate::gpu::{Gpu, Ran, Stamp};
use crate::lock::lock;

/// Which part of a step an op ran in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pass {
    /// Values.
    Forward,
    /// Gradients.
    Backward,
    /// Weights.
    Update,
}

/// One run of an op.
#[derive(Clone, Debug)]
pub struct Lap {
    /// The op's file.
    pub op: String,
    /// Shape of its value; empty if the op's runs are not distinguished by it.
    pub shape: Vec<usize>,
    /// Forward, backward or update.
    pub pass: Pass,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Bytes it must read and write: its inputs and outputs, once each.
    pub bytes: u64,
    /// Its multiplications and additions, if it is mainly arithmetic.
    pub flops: u64,
    /// Name and seconds of each kernel it launched.
    pub kernels: Vec<(String, f64)>,
    /// Bytes of device memory held after it; 0 on the host.
    pub held: u64,
}

/// A lap whose times have yet to be read from a device.
struct Open {
    lap: Lap,
    begin: Arc<Stamp>,
    end: Arc<Stamp>,
    ran: Vec<Ran>,
}

/// A record written by a tape and the code around it; clones share it.
#[derive(Clone)]
pub struct Laps(Arc<Mutex<Book>>);

brief!(Laps, |_|);

struct Book {
    gpu: Option<Gpu>,
    /// Where the next lap begins.
    since: Arc<Stamp>,
    laps: Vec<Open>,
}

impl Laps {
    /// An empty record; the first lap runs from here.
    pub fn start(gpu: Option<&Gpu>) -> Laps {
        gpu.inspect(|gpu| gpu.listen());
        let since = Arc::new(Stamp::now(gpu));
        Laps(Arc::new(Mutex::new(Book { gpu: gpu.cloned(), since, laps: Vec::new() })))
    }

    /// Ignores what happened since the last lap: the next one runs from here.
    pub fn skip(&self) {
        let mut book = self.lock();
        book.gpu.as_ref().map(Gpu::ran);
        book.since = Arc::new(Stamp::now(book.gpu.as_ref()));
    }

    /// Notes that an op has run. `cost` is bytes and FLOPs.
    pub fn lap(&self, op: &str, shape: &[usize], pass: Pass, cost: (u64, u64)) {
        let mut book = self.lock();
        let lap = Lap {
            op: op.to_string(),
            // Runs of ops that only move numbers differ only in their bytes, which are counted anyway.
            shape: if cost.1 > 0 { shape.to_vec() } else { Vec::new() },
            pass,
            seconds: 0.0,
            bytes: cost.0,
            flops: cost.1,
            kernels: Vec::new(),
            held: book.gpu.as_ref().map_or(0, Gpu::held),
        };
        let end = Arc::new(Stamp::now(book.gpu.as_ref()));
        let begin = std::mem::replace(&mut book.since, end.clone());
        let ran = book.gpu.as_ref().map(Gpu::ran).unwrap_or_default();
        book.laps.push(Open { lap, begin, end, ran });
    }

    /// All laps. Waits for the device.
    pub fn end(self) -> Vec<Lap> {
        let mut book = self.lock();
        book.gpu.as_ref().inspect(|gpu| gpu.unlisten());
        let read = |Open { lap, begin, end, ran }: Open| {
            let kernel = |ran: Ran| (ran.name, ran.begin.until(&ran.end));
            Lap { seconds: begin.until(&end), kernels: ran.into_iter().map(kernel).collect(), ..lap }
        };
        std::mem::take(&mut book.laps).into_iter().map(read).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        lock(&self.0)
    }
}
