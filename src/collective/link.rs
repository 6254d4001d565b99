//! A connection to another rank: frames of numbers or of words, and whether the other side still answers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};

use super::stopped;
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How long rank 0 may take to validate, or others to compute; after that the user is told which rank is awaited.
const SILENCE: Duration = Duration::from_secs(300);
/// How often a rank that waits for another looks whether that one still answers.
const LOOK: Duration = Duration::from_secs(1);
/// Milliseconds without an acknowledgement after which a machine counts as gone.
const UNANSWERED: u32 = 10_000;
/// Most bytes that travel with their length in one packet.
const SMALL: usize = 1024;
/// A frame of numbers.
const NUMBERS: u8 = 0;
/// A frame of text: why its sender is ending.
pub(super) const END: u8 = 1;
/// Longest reason, in bytes.
pub(super) const LONGEST: u64 = 1 << 16;

/// A connection to another rank.
pub(super) struct Link {
    pub rank: usize,
    pub stream: TcpStream,
    /// Is told when nothing is heard for long.
    pub progress: Progress,
}

impl Link {
    /// Sends text or numbers with their length.
    pub fn frame(&mut self, kind: u8, bytes: &[u8]) -> std::io::Result<()> {
        let mut head = [0; 9];
        head[0] = kind;
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        if bytes.len() <= SMALL {
            return self.write(&[&head[..], bytes].concat());
        }
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

    /// Sends numbers.
    pub fn send(&mut self, numbers: &[f32]) -> Result<()> {
        // Even if it cannot be written to, it may be readable: the other side said why before it left.
        self.frame(NUMBERS, bytemuck::cast_slice(numbers)).map_err(|e| match self.head() {
            Err(said @ Error::Rank(_)) => said,
            _ => self.gone(&e),
        })
    }

    /// Receives as many numbers; if the other rank ends instead, its reason is the error.
    pub fn receive(&mut self, numbers: &mut [f32]) -> Result<()> {
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
    match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)) {
        Ok(ready) => ready > 0,
        // If it cannot be polled, reading finds out why. A signal is no reason.
        Err(e) => e != Errno::INTR,
    }
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
pub(super) fn is_unanswered(stream: &TcpStream) -> bool {
    // SAFETY: numbers, all of which may be zero.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut bytes = size_of_val(&info) as libc::socklen_t;
    let (of, to) = (stream.as_raw_fd(), (&raw mut info).cast());
    // SAFETY: the socket is open, and at most `bytes` are written.
    let failed = unsafe { libc::getsockopt(of, libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut bytes) };
    failed == 0 && info.tcpi_unacked > 0 && info.tcpi_last_ack_recv > UNANSWERED
}

/// Sends small frames at once, and notices within about ten seconds that a machine no longer answers.
pub(super) fn watch(stream: &TcpStream) -> std::io::Result<()> {
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
