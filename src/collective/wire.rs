//! Ranks that are processes, on one machine or several: a star of TCP connections with rank 0 in the middle.
//!
//! Rank 0 reads every other rank's numbers, adds them in the order of ranks and sends back the sum, or its parts. This is for
//! gradients of CPUs and for the few numbers that ranks with GPUs exchange per step. A process that dies closes its connections,
//! which the others see at their next sum; a machine that dies is noticed within seconds, by TCP's keepalive probes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};

use super::{Collective, Launch, part, stopped};
use crate::error::{Error, Result};

/// How long ranks wait for each other at the start.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a caller may take to say who it is, and rank 0 to answer a call.
const GREETING: Duration = Duration::from_secs(5);
/// How long rank 0 may take to validate, or others to compute; after that the user is told which rank is awaited.
const SILENCE: Duration = Duration::from_secs(300);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// What a rank sends first.
const MAGIC: &[u8; 16] = b"scale-engine 1\0\0";
/// A frame of numbers.
const NUMBERS: u8 = 0;
/// A frame of text: why its sender is ending.
const END: u8 = 1;
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

struct Link {
    rank: usize,
    stream: TcpStream,
}

impl Wire {
    /// Connects to the other ranks, unless `stop` is set meanwhile.
    ///
    /// # Errors
    /// A rank does not come within a minute, two have the same number, or one expects another number of ranks; `stop` is set.
    pub fn join(launch: &Launch, stop: &AtomicBool) -> Result<Wire> {
        let links = match launch.rank {
            0 => receive(launch, stop)?,
            _ => vec![call(launch, stop)?],
        };
        let watched = |link: &Link| {
            watch(&link.stream)
                .and_then(|()| link.stream.try_clone())
                .map_err(|e| Error::Stopped(format!("connection to rank {}: {e}", link.rank)))
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
        // The other side will write no more, whether or not all it wrote has been read.
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let mut ends: Vec<PollFd> = self.ends.iter().map(|end| PollFd::new(end, PollFlags::RDHUP)).collect();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut ends, Some(&at_once)).is_ok() && ends.iter().any(|end| end.revents().intersects(gone))
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
    fn frame(&mut self, kind: u8, bytes: &[u8]) -> std::io::Result<()> {
        let mut head = [0; 9];
        head[0] = kind;
        head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
        self.stream.write_all(&head)?;
        self.stream.write_all(bytes)
    }

    fn send(&mut self, numbers: &[f32]) -> Result<()> {
        // Even if it cannot be written to, it may be readable: the other side said why before it left.
        self.frame(NUMBERS, bytemuck::cast_slice(numbers)).map_err(|e| match self.head() {
            Err(said @ Error::Stopped(_)) => said,
            _ => self.gone(&e),
        })
    }

    fn receive(&mut self, numbers: &mut [f32]) -> Result<()> {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(numbers);
        let length = self.head()?;
        if length != bytes.len() as u64 {
            let what = format!("rank {} sent {length} bytes where {} were expected", self.rank, bytes.len());
            return Err(Error::Stopped(what));
        }
        self.stream.read_exact(bytes).map_err(|e| self.gone(&e))
    }

    /// Length of the numbers that follow; if the other rank ends instead, its reason is the error.
    fn head(&mut self) -> Result<u64> {
        let mut head = [0; 9];
        while !hears(&self.stream, SILENCE) {
            eprintln!("note: nothing heard from rank {} for {} minutes", self.rank, SILENCE.as_secs() / 60);
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
        let how = if e.kind() == ErrorKind::UnexpectedEof {
            "its connection was closed".into()
        } else {
            e.to_string()
        };
        Error::Stopped(format!("rank {} was lost ({how}); this one stops too", self.rank))
    }
}

/// True once there is something to read or the connection has ended; false after a silence of `within`.
fn hears(stream: &TcpStream, within: Duration) -> bool {
    let limit = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
    // If it cannot be polled, reading finds out why.
    poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&limit)).map_or(true, |ready| ready > 0)
}

/// Rank 0 waits for all others.
fn receive(launch: &Launch, stop: &AtomicBool) -> Result<Vec<Link>> {
    let (host, port) = &launch.address;
    let said = |e: std::io::Error| {
        Error::Stopped(format!("rank 0 cannot listen on port {port} (one above MASTER_PORT): {e}"))
    };
    // Other machines may resolve a name differently; loopback means this machine to all.
    let here = host == "localhost" || host.parse().is_ok_and(|at: IpAddr| at.is_loopback());
    let listener = match here {
        true => TcpListener::bind((host.as_str(), *port)),
        false => both(*port).or_else(|_| TcpListener::bind(("0.0.0.0", *port))),
    };
    let listener = listener.map_err(said)?;
    listener.set_nonblocking(true).map_err(said)?;
    let (mut links, mut callers, began, mut refused) = (Vec::new(), Vec::new(), Instant::now(), None);
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                callers.push((stream, Instant::now()));
                continue;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            // Most of these are of one connection, which may come again; the others last, and are reported below.
            Err(e) => refused = Some(e),
        }
        // All are heard in turn: one that says nothing does not keep the others waiting.
        for (stream, since) in std::mem::take(&mut callers) {
            match greet(&stream) {
                Ok(hello) => links.push(welcome(launch, stream, hello, &links)?),
                Err(e) if e.kind() == ErrorKind::WouldBlock && since.elapsed() < GREETING => {
                    callers.push((stream, since));
                }
                Err(_) => {}
            }
        }
        if links.len() + 1 == launch.ranks {
            break;
        }
        if began.elapsed() > PATIENCE {
            return Err(missing(launch, &links, refused));
        }
        pause(stop)?;
    }
    links.sort_by_key(|link| link.rank);
    Ok(links)
}

/// Accepts IPv4 too; fails if the machine has no IPv6.
fn both(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0u16; 8], port)).into())?;
    socket.listen(128)?;
    Ok(socket.into())
}

fn missing(launch: &Launch, links: &[Link], refused: Option<std::io::Error>) -> Error {
    let came = |rank: &usize| links.iter().any(|link| link.rank == *rank);
    let missing: Vec<String> =
        (1..launch.ranks).filter(|rank| !came(rank)).map(|rank| rank.to_string()).collect();
    let refused = refused.map_or(String::new(), |e| format!("; a connection could not be accepted: {e}"));
    Error::Stopped(format!(
        "{} of {} ranks did not connect within {} s: {} (launcher: {}; did they start, and can they reach {}:{}?){refused}",
        missing.len(),
        launch.ranks,
        PATIENCE.as_secs(),
        missing.join(", "),
        launch.by,
        launch.address.0,
        launch.address.1,
    ))
}

/// What a caller says first: its rank and number of ranks. `WouldBlock` until it has said all of that; another error if it is not
/// one of ours, or gone.
fn greet(mut stream: &TcpStream) -> std::io::Result<[u64; 2]> {
    let mut hello = [0; 32];
    stream.set_nonblocking(true)?;
    match stream.peek(&mut hello)? {
        0 => return Err(ErrorKind::UnexpectedEof.into()),
        32 => stream.read_exact(&mut hello)?,
        _ => return Err(ErrorKind::WouldBlock.into()),
    }
    if hello[..16] != *MAGIC {
        return Err(ErrorKind::InvalidData.into());
    }
    stream.set_nonblocking(false)?;
    let word = |i: usize| u64::from_le_bytes(hello[16 + 8 * i..24 + 8 * i].try_into().expect("eight bytes"));
    Ok([word(0), word(1)])
}

fn welcome(launch: &Launch, stream: TcpStream, [rank, ranks]: [u64; 2], links: &[Link]) -> Result<Link> {
    let mut link = Link { rank: rank as usize, stream };
    let known = links.iter().any(|link| link.rank as u64 == rank);
    let wrong = match () {
        () if ranks != launch.ranks as u64 => {
            format!("rank {rank} expects {ranks} ranks, but rank 0 expects {}", launch.ranks)
        }
        () if rank == 0 || rank >= ranks || known => format!("there are two processes with rank {rank}"),
        () => return Ok(link),
    };
    let _ = link.frame(END, wrong.as_bytes());
    links.iter().for_each(|link| {
        let _ = link.stream.shutdown(Shutdown::Both);
    });
    Err(Error::Stopped(wrong))
}

/// A rank other than 0 calls rank 0.
fn call(launch: &Launch, stop: &AtomicBool) -> Result<Link> {
    let began = Instant::now();
    let mut hello = MAGIC.to_vec();
    [launch.rank as u64, launch.ranks as u64].iter().for_each(|word| hello.extend(word.to_le_bytes()));
    loop {
        match reach(&launch.address).and_then(|mut stream| stream.write_all(&hello).map(|()| stream)) {
            Ok(stream) => return Ok(Link { rank: 0, stream }),
            Err(e) if began.elapsed() > PATIENCE => {
                let (host, port) = &launch.address;
                let what = format!("rank {} cannot reach rank 0 at {host}:{port}: {e}", launch.rank);
                return Err(Error::Stopped(what));
            }
            Err(_) => pause(stop)?,
        }
    }
}

/// Waits between two attempts; fails once `stop` is set.
fn pause(stop: &AtomicBool) -> Result<()> {
    std::thread::sleep(PAUSE);
    match stop.load(Ordering::Relaxed) {
        true => Err(Error::Stopped("asked to stop before all ranks had connected".into())),
        false => Ok(()),
    }
}

fn reach((host, port): &(String, u16)) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::new(ErrorKind::NotFound, "no address");
    for address in (host.as_str(), *port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, GREETING) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Sends small frames at once, and notices within about ten seconds that a machine no longer answers.
fn watch(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let probes = TcpKeepalive::new()
        .with_time(Duration::from_secs(4))
        .with_interval(Duration::from_secs(2))
        .with_retries(3);
    SockRef::from(stream).set_tcp_keepalive(&probes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_that_says_nothing_keeps_nobody_waiting() {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let launch =
            |rank| Launch { rank, ranks: 2, local: 0, address: ("127.0.0.1".into(), free), by: "a test" };
        let (began, stop) = (Instant::now(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let first = scope.spawn(|| Wire::join(&launch(0), &stop));
            let call = || loop {
                match TcpStream::connect(("127.0.0.1", free)) {
                    Ok(stream) => return stream,
                    Err(_) => std::thread::sleep(PAUSE),
                }
            };
            let (_mute, mut slow, mut other) = (call(), call(), call());
            slow.write_all(&MAGIC[..5]).expect("sent");
            other.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            Wire::join(&launch(1), &stop).expect("rank 1 is in");
            first.join().expect("no panic").expect("rank 0 is in");
        });
        assert!(began.elapsed() < GREETING, "{:?}", began.elapsed());
    }

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
