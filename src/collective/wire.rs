//! Ranks that are processes, on one machine or several: a star of TCP connections with rank 0 in the middle.
//!
//! Rank 0 reads every other rank's numbers, adds them in the order of ranks and sends back the sum, or its parts. This is for
//! gradients of CPUs and for the few numbers that ranks with GPUs exchange per step. A process that dies closes its connections,
//! which the others see at their next sum; a machine that dies, or can no longer be reached, is noticed within seconds: by TCP's
//! keepalive probes or, while something that was sent is not acknowledged, by the lack of that.

use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard};

use super::link::{END, LONGEST, Link, has_ended, is_unanswered, watch};
use super::meet::{call, receive};
use super::{Collective, Launch};
use crate::error::{Error, Result};
use crate::gpu::part_of;
use crate::lock::lock;
use crate::progress::Progress;

/// A rank's connections: rank 0 has one to each other rank, in their order; each other rank has one to rank 0.
pub struct Wire {
    rank: usize,
    ranks: usize,
    links: Mutex<Vec<Link>>,
    /// The same connections, for `lost`: a sum holds the lock while it waits.
    ends: Vec<TcpStream>,
}

brief!(Wire, |wire| rank: wire.rank, ranks: wire.ranks);

impl Wire {
    /// Connects to the other ranks, unless it is asked to stop meanwhile. `progress` is told when one is waited for long.
    ///
    /// # Errors
    /// A rank does not come within a minute, two have the same number, or one expects another number of ranks; it is asked to stop.
    pub fn join(launch: &Launch, progress: &Progress) -> Result<Wire> {
        let links = match launch.rank {
            0 => receive(launch, progress)?,
            _ => vec![call(launch, progress)?],
        };
        let watched = |link: &Link| {
            watch(&link.stream)
                .and_then(|()| link.stream.try_clone())
                .map_err(|e| Error::Rank(format!("connection to rank {}: {e}", link.rank)))
        };
        let ends = links.iter().map(watched).collect::<Result<_>>()?;
        Ok(Wire { rank: launch.rank, ranks: launch.ranks, links: Mutex::new(links), ends })
    }

    /// Nothing panics while the lock is held, so a poisoned lock still guards intact connections.
    fn lock(&self) -> MutexGuard<'_, Vec<Link>> {
        lock(&self.links)
    }
}

impl Collective for Wire {
    fn rank(&self) -> usize {
        self.rank
    }

    fn ranks(&self) -> usize {
        self.ranks
    }

    fn sum(&self, numbers: &mut [f32]) -> Result<()> {
        let mut links = self.lock();
        if self.rank > 0 {
            let link = &mut links[0];
            link.send(numbers)?;
            return link.receive(numbers);
        }
        add(&mut links, numbers)?;
        links.iter_mut().try_for_each(|link| link.send(numbers))
    }

    fn sum_part(&self, numbers: &mut [f32]) -> Result<()> {
        let mut links = self.lock();
        let len = numbers.len();
        if self.rank > 0 {
            let link = &mut links[0];
            link.send(numbers)?;
            return link.receive(&mut numbers[part_of(len, self.rank, self.ranks)]);
        }
        add(&mut links, numbers)?;
        links.iter_mut().try_for_each(|link| link.send(&numbers[part_of(len, link.rank, self.ranks)]))
    }

    fn gather(&self, numbers: &mut [f32]) -> Result<()> {
        let mut links = self.lock();
        let len = numbers.len();
        if self.rank > 0 {
            let link = &mut links[0];
            link.send(&numbers[part_of(len, self.rank, self.ranks)])?;
            return link.receive(numbers);
        }
        links
            .iter_mut()
            .try_for_each(|link| link.receive(&mut numbers[part_of(len, link.rank, self.ranks)]))?;
        links.iter_mut().try_for_each(|link| link.send(numbers))
    }

    fn fail(&self, why: &str) {
        let why: String = why.chars().take(LONGEST as usize / 4).collect();
        for link in self.lock().iter_mut() {
            // A rank that is gone needs no reason.
            let _ = link.frame(END, why.as_bytes());
            let _ = link.stream.shutdown(Shutdown::Write);
        }
    }

    fn lost(&self) -> bool {
        self.ends.iter().any(|end| has_ended(end) || is_unanswered(end))
    }
}

/// Adds the other ranks' numbers, in their order, to those of rank 0.
fn add(links: &mut [Link], numbers: &mut [f32]) -> Result<()> {
    let mut others = vec![0.0; numbers.len()];
    for link in links.iter_mut() {
        link.receive(&mut others)?;
        numbers.iter_mut().zip(&others).for_each(|(sum, x)| *sum += x);
    }
    Ok(())
}
