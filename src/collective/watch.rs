//! A thread that ends a device's sums once a rank is gone: they would wait for that rank forever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Collective, GLANCE};
use crate::error::Error;

/// How long ending a device's sums may take. A rank has six times as long to end on its own: it may be writing a checkpoint.
pub const ABORT_WITHIN: Duration = Duration::from_secs(10);
const TO_END: u32 = 6;
/// How long the others may take to say why they ended.
const WORDS: Duration = Duration::from_secs(1);

/// Watches for as long as it lives.
pub struct Watch {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `abort` ends the sums, and whoever waits for them then gets an error. NCCL itself may be stuck on the host in the middle of
    /// a call, and whatever waits for that call waits forever: if `abort` has not returned after `patience`, or this rank has not
    /// ended long after it, the rank is given up, with the reason that the others give.
    pub fn over(
        host: Arc<dyn Collective>,
        abort: impl FnOnce() + Send + 'static,
        patience: Duration,
        give_up: impl FnOnce(Error) + Send + 'static,
    ) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let asked = over.clone();
        let is_over = move || asked.load(Ordering::Relaxed);
        let watch = move || {
            while !host.lost() {
                if is_over() {
                    return;
                }
                std::thread::park_timeout(GLANCE);
            }
            // `abort` may not return.
            let (began, aborting) = (Instant::now(), std::thread::spawn(abort));
            while !(is_over() && aborting.is_finished()) {
                let allowed = if aborting.is_finished() { TO_END * patience } else { patience };
                match allowed.saturating_sub(began.elapsed()) {
                    Duration::ZERO if is_over() => return,
                    Duration::ZERO => return give_up(why(host)),
                    left => std::thread::park_timeout(left.min(GLANCE)),
                }
            }
        };
        Watch { over, thread: Some(std::thread::spawn(watch)) }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // The thread cannot panic: all it calls returns.
            let _ = thread.join();
        }
    }
}

/// The reason that the others give, if they give one: a sum of this rank may be waiting for one that says nothing.
fn why(host: Arc<dyn Collective>) -> Error {
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || tell.send(host.sum(&mut [0.0])));
    match told.recv_timeout(WORDS) {
        Ok(Err(why)) => why,
        _ => Error::Rank("another rank was lost; this one stops too".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Threads;

    const SHORT: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(20);

    /// Watches the second of two seats; the receiver gets the reason if it is given up.
    fn watched(
        seats: &[Arc<Threads>],
        abort: impl FnOnce() + Send + 'static,
    ) -> (Watch, mpsc::Receiver<String>) {
        let (tell, told) = mpsc::channel();
        let watch = Watch::over(seats[1].clone(), abort, SHORT, move |why| {
            let _ = tell.send(why.to_string());
        });
        (watch, told)
    }

    fn seats() -> Vec<Arc<Threads>> {
        Threads::seats(2).into_iter().map(Arc::new).collect()
    }

    #[test]
    fn a_rank_that_cannot_end_is_given_up_with_what_the_other_said() {
        let seats = seats();
        // A library that never returns.
        let (watch, told) = watched(&seats, || {
            loop {
                std::thread::park();
            }
        });
        seats[0].fail("its disk is full");
        let why = told.recv_timeout(LONG).expect("it is given up");
        assert!(why.contains("rank 0") && why.contains("its disk is full"), "{why}");
        drop(watch);
    }

    #[test]
    fn a_rank_that_ends_in_time_is_not_given_up_and_one_whose_ranks_are_all_there_is_left_alone() {
        let seats = seats();
        let (tell, aborted) = mpsc::channel();
        let (watch, told) = watched(&seats, move || tell.send(()).expect("heard"));
        std::thread::sleep(SHORT);
        assert!(aborted.try_recv().is_err() && told.try_recv().is_err(), "nothing has happened");
        seats[0].fail("stopped");
        aborted.recv_timeout(LONG).expect("its sums are ended");
        drop(watch);
        assert!(told.recv_timeout(2 * SHORT).is_err(), "it ended by itself");
    }
}
