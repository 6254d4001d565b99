//! Locks that a panic elsewhere does not close, and waiting for threads that need the pool.
//!
//! What locks guard is whole after every statement under them. A thread that panicked reports so itself; whoever comes next would
//! only hide that report behind one of a poisoned lock.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rayon::Yield;

/// Locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until notified, without the lock.
pub(crate) fn wait<'a, T>(news: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    news.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

/// To be called before a thread that computes on rayon's pool is joined. A worker of the pool, as whoever trains within a parallel
/// iterator is, does the pool's work until `done`: if all its workers only waited, nobody would be left to do that of the thread.
/// Any other thread returns at once.
pub(crate) fn help_until(done: impl Fn() -> bool) {
    while !done() {
        match rayon::yield_now() {
            None => return,
            Some(Yield::Executed) => {}
            Some(Yield::Idle) => thread::sleep(Duration::from_millis(1)),
        }
    }
}
