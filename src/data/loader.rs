//! Prepares batches ahead of the step that needs them.
//!
//! Worker threads claim step numbers in order, draw the step's sets, copy their rows out of the map, and put the batch on a shelf,
//! from which `next` takes them in step order. No worker claims a step more than `ahead` beyond the last one taken. This bounds
//! memory however unevenly the workers run (with a channel and a reordering reader, only the channel would be bounded).
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use scale_engine::data::loader::{Carry, Loader};
//! use scale_engine::config::DataConfig;
//! use scale_engine::data::sampler::Sampler;
//! use scale_engine::data::shard::Data;
//! use scale_engine::data::split::{Part, Split};
//!
//! # fn main() -> scale_engine::error::Result<()> {
//! let data = Arc::new(Data::open("DATA".as_ref())?);
//! let split = Split::load("held_out.toml".as_ref(), &data)?;
//! let sampling = DataConfig { sets: 8, cells: 32, ..DataConfig::default() };
//! let sampler = Sampler::new(&data, split.part(Part::Train), sampling, 0)?;
//! let mut loader = Loader::start(data, sampler, 0, 2, Carry::Rows)?;
//! let batch = loader.next();
//! // Controls first, then perturbed cells: [2, sets, cells, genes].
//! let mut x = vec![0.0; 2 * batch.sets * batch.cells * batch.genes];
//! batch.rows.dense(&mut x);
//! loader.give_back(batch);
//! # Ok(())
//! # }
//! ```

mod rows;

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

pub use rows::{Counts, Rows};

use super::sampler::{Sampler, SetOfCells};
use super::shard::Data;
use crate::error::{Error, Result};
use crate::lock::{lock, wait};

/// Sparse rows of 2 B N cells: the B * N controls first, set by set, then the B * N perturbed cells.
#[derive(Clone, PartialEq)]
pub struct Batch {
    /// Step the batch is for.
    pub step: u64,
    /// Index of its first set within the step: above 0 if ranks share the step.
    pub first: usize,
    /// Sets, B.
    pub sets: usize,
    /// Cells of a set on each side, N.
    pub cells: usize,
    /// Genes, G.
    pub genes: usize,
    /// Cell numbers.
    pub numbers: Vec<u64>,
    /// The cells' rows; empty if the loader carries only numbers.
    pub rows: Rows,
    /// Cell type, perturbation and batch ids of each set, `[B]`.
    pub conditions: Vec<[u32; 3]>,
    /// Group of each set's perturbed cells, `[B]`.
    pub groups: Vec<u32>,
}

brief!(Batch, |batch| step: batch.step, sets: batch.sets, cells: batch.cells, genes: batch.genes);

impl Batch {
    /// The rows of some sets, which must be of equal size.
    ///
    /// # Panics
    /// If they have a cell that does not exist.
    pub fn of(data: &Data, step: u64, sets: &[SetOfCells]) -> Batch {
        let mut batch = Batch::empty(data);
        batch.refill(data, step, sets, Carry::Rows);
        batch
    }

    fn empty(data: &Data) -> Batch {
        Batch {
            step: 0,
            first: 0,
            sets: 0,
            cells: 0,
            genes: data.genes(),
            numbers: Vec::new(),
            rows: Rows::empty(data),
            conditions: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// The same, reusing the memory of a batch of the same data that is no longer needed. The step's first set is the first here.
    ///
    /// # Panics
    /// As [`Batch::of`].
    pub fn refill(&mut self, data: &Data, step: u64, sets: &[SetOfCells], carry: Carry) {
        let controls = sets.iter().flat_map(|set| &set.controls);
        self.numbers.clear();
        self.numbers.extend(controls.chain(sets.iter().flat_map(|set| &set.perturbed)));
        match carry {
            Carry::Rows => self.rows.refill(data, &self.numbers),
            Carry::Numbers => self.rows.refill(data, &[]),
        }
        (self.step, self.first, self.sets) = (step, 0, sets.len());
        self.cells = sets.first().map_or(0, |set| set.perturbed.len());
        self.conditions.clear();
        self.conditions.extend(sets.iter().map(|set| set.conditions));
        self.groups.clear();
        self.groups.extend(sets.iter().map(|set| set.group));
    }
}

/// What a batch carries for its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// Their rows.
    Rows,
    /// Their numbers only: the rows are already where the step is computed.
    Numbers,
}

/// What workers and the loader share.
struct Shelf {
    state: Mutex<State>,
    /// A worker may claim a step, or must stop.
    room: Condvar,
    /// A batch was laid down, or a worker has failed.
    laid: Condvar,
}

struct State {
    claim: u64,
    taken: u64,
    ready: BTreeMap<u64, Batch>,
    spare: Vec<Batch>,
    failure: Option<Box<dyn Any + Send>>,
    stop: bool,
}

impl Shelf {
    /// Nothing panics while the lock is held, so even a poisoned lock guards a consistent state.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Makes batches on its own threads and returns them in step order. Stops when dropped.
pub struct Loader {
    shelf: Arc<Shelf>,
    workers: Vec<JoinHandle<()>>,
}

brief!(Loader, |loader| threads: loader.workers.len());

impl Loader {
    /// Starts at a step and keeps up to `ahead` batches (at least one) in hand, made by as many threads, or by
    /// one per thread of rayon's pool if that has fewer.
    ///
    /// # Errors
    /// A sampler of another data directory, whose cells are numbered otherwise.
    pub fn start(
        data: Arc<Data>,
        sampler: Sampler,
        first_step: u64,
        ahead: usize,
        carry: Carry,
    ) -> Result<Loader> {
        if !sampler.is_of(&data) {
            return Err(Error::format(data.dir(), "is not the data directory that the sampler draws from"));
        }
        let ahead = ahead.max(1);
        let state = State {
            claim: first_step,
            taken: first_step,
            ready: BTreeMap::new(),
            spare: Vec::new(),
            failure: None,
            stop: false,
        };
        let shelf = Arc::new(Shelf { state: Mutex::new(state), room: Condvar::new(), laid: Condvar::new() });
        let sampler = Arc::new(sampler);
        let spawn = |_| {
            let (shelf, data, sampler) = (shelf.clone(), data.clone(), sampler.clone());
            std::thread::spawn(move || work(&shelf, &data, &sampler, ahead as u64, carry))
        };
        let workers = (0..ahead.min(rayon::current_num_threads())).map(spawn).collect();
        Ok(Loader { shelf, workers })
    }

    /// The batch of the next step; waits until it is ready.
    ///
    /// # Panics
    /// If a worker panicked, whose panic it resumes.
    #[expect(clippy::should_implement_trait, reason = "batches never end")]
    pub fn next(&mut self) -> Batch {
        let mut state = self.shelf.lock();
        loop {
            let step = state.taken;
            if let Some(batch) = state.ready.remove(&step) {
                state.taken += 1;
                self.shelf.room.notify_all();
                return batch;
            }
            if state.stop {
                let failure = state.failure.take();
                drop(state);
                resume_unwind(
                    failure.unwrap_or_else(|| Box::new("loader: asked again after a worker failed")),
                );
            }
            state = wait(&self.shelf.laid, state);
        }
    }

    /// Returns a used batch's memory, which saves the system from clearing new pages at each step. The batch must be this loader's.
    pub fn give_back(&mut self, batch: Batch) {
        self.shelf.lock().spare.push(batch);
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.shelf.lock().stop = true;
        self.shelf.room.notify_all();
        for worker in self.workers.drain(..) {
            // A worker's panic is kept on the shelf; if `next` never fetched it, there is nobody to report it to.
            let _ = worker.join();
        }
    }
}

fn work(shelf: &Shelf, data: &Data, sampler: &Sampler, ahead: u64, carry: Carry) {
    loop {
        let mut state = shelf.lock();
        while !state.stop && state.claim - state.taken >= ahead {
            state = wait(&shelf.room, state);
        }
        if state.stop {
            return;
        }
        let step = state.claim;
        state.claim += 1;
        let spare = state.spare.pop();
        drop(state);
        let made = catch_unwind(AssertUnwindSafe(|| {
            let sets = sampler.step(step);
            let mut batch = spare.unwrap_or_else(|| Batch::empty(data));
            batch.refill(data, step, &sets, carry);
            batch.first = sampler.first();
            batch
        }));
        let mut state = shelf.lock();
        match made {
            Ok(batch) => drop(state.ready.insert(step, batch)),
            // Only the first failure is reported: any others come from workers that had started before it.
            Err(failure) if !state.stop => (state.failure, state.stop) = (Some(failure), true),
            Err(_) => {}
        }
        shelf.laid.notify_all();
        if state.stop {
            shelf.room.notify_all();
            return;
        }
    }
}
