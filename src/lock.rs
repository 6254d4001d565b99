//! Locks that a panic elsewhere does not close.
//!
//! What they guard is whole after every statement under them. A thread that panicked reports so itself; whoever comes next would
//! only hide that report behind one of a poisoned lock.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until notified, without the lock.
pub(crate) fn wait<'a, T>(news: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    news.wait(guard).unwrap_or_else(PoisonError::into_inner)
}
