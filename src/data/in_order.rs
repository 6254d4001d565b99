//! Parallel work whose results are consumed one at a time, in order.
//!
//! Each thread consumes the next result in order if it is ready and no other thread is consuming; otherwise it makes
//! another result. So no thread waits for the slowest of a batch, and none is reserved for consuming. At most twice as
//! many results are in hand as are made at once.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::error::{Error, Result};
use crate::lock::{help_until, lock, wait};

/// Passes the items of `next` through `make`, on up to `at_once` threads at a time, to `take` in the order of
/// `next`. The first error in that order ends the work. `make` may use rayon: these threads are not in its
/// pool and never wait inside one of its jobs.
pub(crate) fn in_order<I, T: Send>(
    threads: usize,
    at_once: usize,
    next: impl FnMut() -> Option<Result<I>> + Send,
    make: impl Fn(I) -> Result<T> + Sync,
    take: impl FnMut(T) -> Result<()> + Send,
) -> Result<()> {
    let state = State {
        next,
        begun: 0,
        taken: 0,
        making: 0,
        taking: false,
        ended: false,
        over: false,
        made: BTreeMap::new(),
        failure: None,
    };
    let work =
        Work { state: Mutex::new(state), changed: Condvar::new(), take: Mutex::new(take), make, at_once };
    let in_pool = rayon::current_thread_index().is_some();
    thread::scope(|scope| {
        let begun = usize::from(!in_pool)..threads;
        let lanes: Vec<_> = begun.map(|_| scope.spawn(|| work.lane())).collect();
        if in_pool { help_until(|| lanes.iter().all(|lane| lane.is_finished())) } else { work.lane() }
    });
    match work.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

struct State<N, T> {
    next: N,
    /// Items fetched from `next`, and results consumed.
    begun: u64,
    taken: u64,
    /// Items being made.
    making: usize,
    /// Whether a thread is consuming a result.
    taking: bool,
    /// Nothing more will be started.
    ended: bool,
    /// Nothing more will be done at all.
    over: bool,
    made: BTreeMap<u64, Result<T>>,
    failure: Option<Error>,
}

struct Work<N, T, M, K> {
    state: Mutex<State<N, T>>,
    changed: Condvar,
    take: Mutex<K>,
    make: M,
    at_once: usize,
}

/// Stops the other threads if one panics: they would wait for its result for ever.
struct Alarm<'a, N, T, M, K>(&'a Work<N, T, M, K>);

impl<N, T, M, K> Drop for Alarm<'_, N, T, M, K> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().over = true;
            self.0.changed.notify_all();
        }
    }
}

impl<N, T, M, K> Work<N, T, M, K> {
    /// A panic propagates when the threads are joined; until then a poisoned lock only says that there was one.
    fn lock(&self) -> MutexGuard<'_, State<N, T>> {
        lock(&self.state)
    }
}

impl<I, T, N, M, K> Work<N, T, M, K>
where
    N: FnMut() -> Option<Result<I>>,
    M: Fn(I) -> Result<T>,
    K: FnMut(T) -> Result<()>,
{
    fn lane(&self) {
        let _alarm = Alarm(self);
        let mut state = self.lock();
        while !state.over {
            let turn = state.taken;
            let ready = if state.taking { None } else { state.made.remove(&turn) };
            if let Some(result) = ready {
                state.taking = true;
                drop(state);
                let mut take = lock(&self.take);
                let done = result.and_then(&mut *take);
                drop(take);
                state = self.lock();
                (state.taking, state.taken) = (false, turn + 1);
                state.failure = done.err();
                state.over = state.failure.is_some();
            } else if !state.ended
                && state.making < self.at_once
                && state.begun < state.taken + 2 * self.at_once as u64
            {
                let Some(item) = (state.next)() else {
                    state.ended = true;
                    continue;
                };
                let number = state.begun;
                state.begun += 1;
                state.making += 1;
                drop(state);
                let result = item.and_then(&self.make);
                state = self.lock();
                state.making -= 1;
                // Results after an error are never consumed.
                state.ended |= result.is_err();
                state.made.insert(number, result);
            } else if state.ended && state.taken == state.begun {
                state.over = true;
            } else {
                state = wait(&self.changed, state);
                continue;
            }
            self.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(end: u64) -> impl FnMut() -> Option<Result<u64>> + Send {
        let mut items = 0..end;
        move || items.next().map(Ok)
    }

    #[test]
    fn results_come_in_order_whatever_they_took() {
        for (threads, at_once) in [(1, 1), (2, 1), (2, 2), (5, 5)] {
            let slow = |i: u64| {
                thread::sleep(std::time::Duration::from_micros(i * 7919 % 300));
                Ok(i)
            };
            let mut seen = Vec::new();
            in_order(threads, at_once, counted(100), slow, |i| {
                seen.push(i);
                Ok(())
            })
            .expect("no error");
            assert_eq!(seen, (0..100).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_in_order_ends_it() {
        let fails = |i: u64| if i % 10 == 7 { Err(Error::setting("item", i.to_string())) } else { Ok(i) };
        let mut last = 0;
        let error = in_order(3, 3, counted(100), fails, |i| {
            last = i;
            Ok(())
        });
        assert!(error.expect_err("item 7").to_string().contains('7') && last == 6);
        let refused = in_order(3, 3, counted(100), Ok, |i| match i {
            5 => Err(Error::setting("taking", "5")),
            _ => Ok(()),
        });
        assert!(refused.is_err());
        assert!(in_order(2, 2, counted(0), Ok, |_: u64| Ok(())).is_ok());
    }

    #[test]
    fn a_panic_reaches_the_caller() {
        let panics = || {
            let _ = in_order(3, 3, counted(9), |i| if i == 4 { panic!("4") } else { Ok(i) }, |_| Ok(()));
        };
        assert!(std::panic::catch_unwind(panics).is_err());
    }
}
