//! Ranks that are processes, on one machine or several: a star of TCP connections with rank 0 in the middle.
//!
//! Rank 0 reads every other rank's numbers, adds them in the order of ranks and sends back the sum, or its parts. This is for
//! gradients of CPUs and for the few numbers that ranks with GPUs exchange per step. A process that dies closes its connections,
//! which the others see at their next sum; a machine that dies, or can no longer be reached, is noticed within seconds: by TCP's
//! keepalive probes or, while something that was sent is not acknowledged, by the lack of that.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};

use super::meet::{call, receive};
use super::{Collective, Launch, part, stopped};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How long rank 0 may take to validate, or others to compute; after that the user is told which rank is awaited.
const SILENCE: Duration = Duration::from_secs(300);
/// How often a rank that waits for another looks whether that one still answers.
const LOOK: Duration = Duration::from_secs(1);
/// Milliseconds without an acknowledgement after which a machine counts as gone.
const UNANSWERED: u32 = 10_000;
/// A frame of numbers.
const NUMBERS: u8 = 0;
/// A frame of text: why its sender is ending.
pub(super) const END: u8 = 1;
/// Longest reason, in bytes.
const LONGEST: u64 = 1 << 16;

/// A rank's connections: rank 0 has one to each other rank, in their order; each other rank has one to rank 0.
pub struct Wire {
    rank: usize,
    ranks: usize,
    links: Mutex<Vec<Link>>,
    /// The same connections, for `lost`: a sum holds the lock while it waits.
    ends: Vec<TcpStream>,
}

brief!(Wire, |wire| rank: wire.rank, ranks: wire.ranks);

/// A connection to another rank.
pub(super) struct Link {
    pub rank: usize,
    pub stream: TcpStream,
    /// Is told when nothing is heard for long.
    pub progress: Progress,
}

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
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
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
            return link.receive(&mut numbers[part(len, self.rank, self.ranks)]);
        }
        add(&mut links, numbers)?;
        links.iter_mut().try_for_each(|link| link.send(&numbers[part(len, link.rank, self.ranks)]))
    }

    fn gather(&self, numbers: &mut [f32]) -> Result<()> {
        let mut links = self.lock();
        let len = numbers.len();
        if self.rank > 0 {
            let link = &mut links[0];
            link.send(&numbers[part(len, self.rank, self.ranks)])?;
            return link.receive(numbers);
        }
        links.iter_mut().try_for_each(|link| link.receive(&mut numbers[part(len, link.rank, self.ranks)]))?;
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

impl Link {
    /// Sends text or numbers with their length.
    pub fn frame(&mut self, kind: u8, bytes: &[u8]) -> std::io::Result<()> {
        let mut head = [0; 9];
        head[0] = kind;
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.write(&head)?;
        self.write(bytes)
    }

    /// Waits as long as the other rank takes what it is sent, or at least acknowledges it.
    fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(taken) => bytes = &bytes[taken..],
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock && !is_unanswered(&self.stream) => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Err(ErrorKind::TimedOut.into()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn send(&mut self, numbers: &[f32]) -> Result<()> {
        // Even if it cannot be written to, it may be readable: the other side said why before it left.
        self.frame(NUMBERS, bytemuck::cast_slice(numbers)).map_err(|e| match self.head() {
            Err(said @ Error::Rank(_)) => said,
            _ => self.gone(&e),
        })
    }

    fn receive(&mut self, numbers: &mut [f32]) -> Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        let length = self.head()?;
        if length != bytes.len() as u64 {
            let what = format!("rank {} sent {length} bytes where {} were expected", self.rank, bytes.len());
            return Err(Error::Rank(what));
        }
        self.stream.read_exact(bytes).map_err(|e| self.gone(&e))
    }

    /// Length of the numbers that follow; if the other rank ends instead, its reason is the error.
    fn head(&mut self) -> Result<u64> {
        let (mut head, began, mut notes) = ([0; 9], Instant::now(), 0);
        while !hears(&self.stream, LOOK) {
            if is_unanswered(&self.stream) {
                return Err(self.gone(&ErrorKind::TimedOut.into()));
            }
            if began.elapsed() >= (notes + 1) * SILENCE {
                notes += 1;
                let minutes = (notes * SILENCE).as_secs() / 60;
                let what = format_args!("nothing heard from rank {} for {minutes} minutes", self.rank);
                self.progress.note(what);
            }
        }
        self.stream.read_exact(&mut head).map_err(|e| self.gone(&e))?;
        let length = u64::from_le_bytes(head[1..].try_into().expect("eight bytes"));
        if head[0] == NUMBERS {
            return Ok(length);
        }
        let mut text = Vec::new();
        let _ = (&mut self.stream).take(length.min(LONGEST)).read_to_end(&mut text);
        Err(stopped(self.rank, &String::from_utf8_lossy(&text)))
    }

    fn gone(&self, e: &std::io::Error) -> Error {
        let how = match e.kind() {
            ErrorKind::UnexpectedEof => "its connection was closed".into(),
            ErrorKind::TimedOut => "its machine no longer answers".into(),
            _ => e.to_string(),
        };
        Error::Rank(format!("rank {} was lost ({how}); this one stops too", self.rank))
    }
}

/// True once there is something to read or the connection has ended; false after a silence of `within`.
fn hears(stream: &TcpStream, within: Duration) -> bool {
    let limit = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
    // If it cannot be polled, reading finds out why.
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)).map_or(true, |ready| ready > 0)
}

/// Whether the other side will write no more, whether or not all it wrote has been read. Does not wait.
pub(super) fn has_ended(stream: &TcpStream) -> bool {
    let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
    let (mut end, at_once) = ([PollFd::new(stream, PollFlags::RDHUP)], Timespec { tv_sec: 0, tv_nsec: 0 });
    poll(&mut end, Some(&at_once)).is_ok() && end[0].revents().intersects(gone)
}

/// Whether something that was sent is not acknowledged although nothing was heard for a while: the other machine, or the way to it,
/// is gone. A rank that is merely busy acknowledges what its system has room for. The system itself waits for a quarter of an hour,
/// and sends no probes meanwhile.
fn is_unanswered(stream: &TcpStream) -> bool {
    // SAFETY: numbers, all of which may be zero.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    let (of, to) = (stream.as_raw_fd(), (&raw mut info).cast());
    // SAFETY: the socket is open, and at most `bytes` are written.
    let failed = unsafe { libc::getsockopt(of, libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut bytes) };
    failed == 0 && info.tcpi_unacked > 0 && info.tcpi_last_ack_recv > UNANSWERED
}

/// Sends small frames at once, and notices within about ten seconds that a machine no longer answers.
fn watch(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(LOOK))?;
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(4))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_silence_ends_with_words_or_with_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut here = TcpStream::connect(listener.local_addr().expect("bound")).expect("reached");
        let (there, _) = listener.accept().expect("called");
        let soon = Duration::from_millis(30);
        assert!(!hears(&there, soon));
        here.write_all(b"x").expect("sent");
        assert!(hears(&there, 100 * soon));
        (&there).read_exact(&mut [0]).expect("a byte");
        assert!(!hears(&there, soon));
        drop(here);
        assert!(hears(&there, 100 * soon));
    }
}
