//! Ranks that are threads of this process: with a GPU each or, in tests, without.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use super::{Collective, stopped};
use crate::error::Result;
use crate::gpu::part_of;
use crate::lock::{lock, wait};

/// One thread's seat at the table where all ranks lay down what they have.
pub struct Threads {
    rank: usize,
    ranks: usize,
    table: Arc<Table>,
}

brief!(Threads, |threads| rank: threads.rank);

struct Table {
    state: Mutex<State>,
    /// A round is over, or a rank has failed.
    news: Condvar,
}

struct State {
    laid: Vec<Option<Vec<f32>>>,
    rounds: u64,
    /// What the last round made of what was laid down.
    made: Arc<Vec<f32>>,
    failed: Option<(usize, String)>,
}

impl Threads {
    /// The seats of `ranks` ranks.
    pub fn seats(ranks: usize) -> Vec<Threads> {
        let state = State { laid: vec![None; ranks], rounds: 0, made: Arc::default(), failed: None };
        let table = Arc::new(Table { state: Mutex::new(state), news: Condvar::new() });
        (0..ranks).map(|rank| Threads { rank, ranks, table: table.clone() }).collect()
    }

    /// Which rank failed first, if one did.
    pub fn failed(&self) -> Option<usize> {
        self.lock().failed.as_ref().map(|(rank, _)| *rank)
    }

    /// Lays down what this rank has and waits for what is made of all ranks' numbers.
    fn round(&self, own: Vec<f32>, make: impl FnOnce(Vec<Vec<f32>>) -> Vec<f32>) -> Result<Arc<Vec<f32>>> {
        let mut state = self.lock();
        let round = state.rounds;
        state.laid[self.rank] = Some(own);
        if state.laid.iter().all(Option::is_some) {
            state.close(make);
            self.table.news.notify_all();
        }
        while state.rounds == round && state.failed.is_none() {
            state = wait(&self.table.news, state);
        }
        if state.rounds == round {
            let (rank, why) = state.failed.as_ref().expect("the round is not over");
            return Err(stopped(*rank, why));
        }
        // The next round cannot end before this rank lays down again, so `made` is still this round's.
        Ok(state.made.clone())
    }

    /// Nothing panics while the lock is held, so a poisoned lock still guards a consistent state.
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.table.state)
    }
}

impl Collective for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<()> {
        let sum = self.round(numbers.to_vec(), add)?;
        numbers.copy_from_slice(&sum);
        Ok(())
    }

    fn sum_part(&self, numbers: &mut [f32]) -> Result<()> {
        let sum = self.round(numbers.to_vec(), add)?;
        let own = part_of(numbers.len(), self.rank, self.ranks());
        numbers[own.clone()].copy_from_slice(&sum[own]);
        Ok(())
    }

    fn gather(&self, numbers: &mut [f32]) -> Result<()> {
        let own = numbers[part_of(numbers.len(), self.rank, self.ranks())].to_vec();
        let all = self.round(own, |laid| laid.concat())?;
        numbers.copy_from_slice(&all);
        Ok(())
    }

    fn fail(&self, why: &str) {
        self.lock().failed.get_or_insert_with(|| (self.rank, why.to_string()));
        self.table.news.notify_all();
    }

    fn lost(&self) -> bool {
        self.lock().failed.is_some()
    }
}

impl State {
    /// All have laid down: combines their numbers, in the order of ranks, and clears the table.
    fn close(&mut self, make: impl FnOnce(Vec<Vec<f32>>) -> Vec<f32>) {
        self.made = Arc::new(make(self.laid.iter_mut().filter_map(Option::take).collect()));
        self.rounds += 1;
    }
}

fn add(laid: Vec<Vec<f32>>) -> Vec<f32> {
    let mut laid = laid.into_iter();
    let mut sum = laid.next().unwrap_or_default();
    laid.for_each(|other| sum.iter_mut().zip(other).for_each(|(sum, x)| *sum += x));
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Ranks;
    use crate::progress::Progress;

    #[test]
    fn the_first_rank_that_fails_is_the_one_that_is_named() {
        let seats = Threads::seats(3);
        seats[1].fail("its disk is full");
        seats[2].fail("rank 1 stopped");
        assert_eq!(seats[0].failed(), Some(1));
        let why = seats[0].sum(&mut [0.0]).expect_err("a rank is gone").to_string();
        assert!(why.contains("rank 1 stopped, so this one stops too: its disk is full"), "{why}");
    }

    #[test]
    fn a_rank_that_is_the_mean_of_those_that_differ_stops_with_them() {
        std::thread::scope(|scope| {
            for (seat, number) in Threads::seats(3).into_iter().zip(1..) {
                scope.spawn(move || {
                    let ranks = Ranks::join(Arc::new(seat), None, &Progress::silent()).expect("joined");
                    let why = ranks.agree(&[("steps", number)]).expect_err("1, 2 and 3").to_string();
                    assert!(why.contains("differ in"), "{why}");
                });
            }
        });
    }
}
