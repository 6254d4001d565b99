//! How ranks that are processes find each other: rank 0 listens, the others call it and say who they are.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::Launch;
use super::link::{END, Link, has_ended};
use crate::error::{Error, Result};
use crate::progress::Progress;

/// How long ranks wait for each other at the start.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// How long a caller may take to say who it is, and rank 0 to answer a call.
const GREETING: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);
/// Most missing ranks that a message names.
const NAMED: usize = 8;
/// What a rank sends first, and rank 0 answers.
const MAGIC: &[u8; 16] = b"scale-engine 2\0\0";
/// Bytes of a greeting: the same, then the rank, the number of ranks and the job.
const HELLO: usize = 40;

/// Rank 0 waits for all others; if that fails, those that have come are told why.
pub(super) fn receive(launch: &Launch, progress: &Progress) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    let received = receive_all(launch, progress, &mut links);
    if let Err(error) = &received {
        links.iter_mut().for_each(|link| drop(link.frame(END, error.to_string().as_bytes())));
    }
    links.sort_by_key(|link| link.rank);
    received.map(|()| links)
}

fn receive_all(launch: &Launch, progress: &Progress, links: &mut Vec<Link>) -> Result<()> {
    let (host, port) = &launch.address;
    let said = |e: std::io::Error| {
        let way = "set MASTER_PORT so that the port above it is free";
        Error::Rank(format!("rank 0 cannot listen on port {port}: {e}; {way}"))
    };
    // Other machines may resolve a name differently; loopback means this machine to all.
    let here = host == "localhost" || host.parse().is_ok_and(|at: IpAddr| at.is_loopback());
    let listener = match here {
        true => TcpListener::bind((host.as_str(), *port)),
        false => both(*port).or_else(|_| TcpListener::bind(("0.0.0.0", *port))),
    };
    let listener = listener.map_err(said)?;
    listener.set_nonblocking(true).map_err(said)?;
    let (mut callers, began, mut refused) = (Vec::new(), Instant::now(), None);
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
                Ok(hello) => {
                    let link = Link { rank: hello[0] as usize, stream, progress: progress.clone() };
                    welcome(launch, link, hello, links)?;
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && since.elapsed() < GREETING => {
                    callers.push((stream, since));
                }
                Err(_) => {}
            }
        }
        if links.len() + 1 == launch.ranks {
            return Ok(());
        }
        if began.elapsed() > JOIN_WITHIN {
            return Err(missing(launch, links, refused));
        }
        pause(progress)?;
    }
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
    let first: Vec<String> =
        (1..launch.ranks).filter(|rank| !came(rank)).take(NAMED).map(|rank| rank.to_string()).collect();
    let missing = launch.ranks - 1 - links.len();
    let more = if missing > NAMED { " .." } else { "" };
    let refused = refused.map_or(String::new(), |e| format!("; a connection could not be accepted: {e}"));
    Error::Rank(format!(
        "{missing} of {} ranks did not connect within {} s: {}{more} (launcher: {}; did they start, and can they reach {}:{}?){refused}",
        launch.ranks,
        JOIN_WITHIN.as_secs(),
        first.join(", "),
        launch.by,
        launch.address.0,
        launch.address.1,
    ))
}

/// What a caller says first: its rank, number of ranks and job. `WouldBlock` until it has said all of that; another error if it is
/// not one of ours, or gone.
fn greet(mut stream: &TcpStream) -> std::io::Result<[u64; 3]> {
    let mut hello = [0; HELLO];
    stream.set_nonblocking(true)?;
    match stream.peek(&mut hello)? {
        0 => return Err(ErrorKind::UnexpectedEof.into()),
        HELLO => stream.read_exact(&mut hello)?,
        _ => return Err(ErrorKind::WouldBlock.into()),
    }
    if hello[..16] != *MAGIC {
        return Err(ErrorKind::InvalidData.into());
    }
    stream.set_nonblocking(false)?;
    stream.write_all(MAGIC)?;
    let word = |i: usize| u64::from_le_bytes(hello[16 + 8 * i..24 + 8 * i].try_into().expect("eight bytes"));
    Ok([word(0), word(1), word(2)])
}

fn welcome(launch: &Launch, mut link: Link, hello: [u64; 3], links: &mut Vec<Link>) -> Result<()> {
    let [rank, ranks, job] = hello;
    if job != launch.job {
        let what =
            "it belongs to another job, which uses the same port; set MASTER_PORT, for each job another";
        let _ = link.frame(END, what.as_bytes());
        return Ok(());
    }
    // A rank that was not answered in time calls again.
    links.retain(|link| link.rank as u64 != rank || !has_ended(&link.stream));
    let known = links.iter().any(|link| link.rank as u64 == rank);
    let wrong = match () {
        () if ranks != launch.ranks as u64 => {
            format!("rank {rank} expects {ranks} ranks, but rank 0 expects {}", launch.ranks)
        }
        () if rank == 0 || rank >= ranks || known => format!("there are two processes with rank {rank}"),
        () => {
            links.push(link);
            return Ok(());
        }
    };
    let _ = link.frame(END, wrong.as_bytes());
    Err(Error::Rank(wrong))
}

/// A rank other than 0 calls rank 0.
pub(super) fn call(launch: &Launch, progress: &Progress) -> Result<Link> {
    let began = Instant::now();
    let mut hello = MAGIC.to_vec();
    let words = [launch.rank as u64, launch.ranks as u64, launch.job];
    words.iter().for_each(|word| hello.extend(word.to_le_bytes()));
    loop {
        match reach(&launch.address).and_then(|stream| introduce(stream, &hello)) {
            Ok(stream) => return Ok(Link { rank: 0, stream, progress: progress.clone() }),
            Err(e) if began.elapsed() > JOIN_WITHIN => {
                let (host, port) = &launch.address;
                let what = format!("rank {} cannot reach rank 0 at {host}:{port}: {e}", launch.rank);
                return Err(Error::Rank(what));
            }
            Err(_) => pause(progress)?,
        }
    }
}

/// Says who calls; fails unless rank 0 answers, as another program that listens there would not.
fn introduce(mut stream: TcpStream, hello: &[u8]) -> std::io::Result<TcpStream> {
    stream.write_all(hello)?;
    stream.set_read_timeout(Some(GREETING))?;
    let mut answer = [0; MAGIC.len()];
    stream.read_exact(&mut answer).map_err(|e| std::io::Error::new(e.kind(), format!("no answer ({e})")))?;
    stream.set_read_timeout(None)?;
    match answer == *MAGIC {
        true => Ok(stream),
        false => Err(std::io::Error::new(ErrorKind::InvalidData, "another program listens there")),
    }
}

/// Waits between two attempts; fails once the rank is asked to stop.
fn pause(progress: &Progress) -> Result<()> {
    std::thread::sleep(PAUSE);
    progress.go_on("asked to stop before all ranks had connected")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Collective, Wire};

    fn launch(rank: usize, port: u16, job: u64) -> Launch {
        Launch { rank, ranks: 2, local: 0, address: ("127.0.0.1".into(), port), job, by: "a test" }
    }

    #[test]
    fn what_listens_there_must_be_rank_0_of_the_same_job() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let progress = Progress::silent();
        std::thread::scope(|scope| {
            let called = scope.spawn(|| Wire::join(&launch(1, port, 0), &progress));
            let (mut stream, _) = listener.accept().expect("a call");
            stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n").expect("sent");
            progress.stop();
            drop(stream);
            assert!(called.join().expect("no panic").is_err(), "another program is not rank 0");
        });
        drop(listener);
        let progress = Progress::silent();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| Wire::join(&launch(0, port, 1), &progress));
            let other = Wire::join(&launch(1, port, 2), &progress).expect("greeted");
            let why = other.sum(&mut [0.0]).expect_err("of another job").to_string();
            assert!(why.contains("another job") && why.contains("MASTER_PORT"), "{why}");
            progress.stop();
            assert!(first.join().expect("no panic").is_err());
        });
    }

    #[test]
    fn a_caller_that_says_nothing_keeps_nobody_waiting() {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound").port();
        let (began, progress) = (Instant::now(), Progress::silent());
        std::thread::scope(|scope| {
            let first = scope.spawn(|| Wire::join(&launch(0, free, 7), &progress));
            let call = || loop {
                match TcpStream::connect(("127.0.0.1", free)) {
                    Ok(stream) => return stream,
                    Err(_) => std::thread::sleep(PAUSE),
                }
            };
            let (_mute, mut slow, mut other) = (call(), call(), call());
            slow.write_all(&MAGIC[..5]).expect("sent");
            other.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
            Wire::join(&launch(1, free, 7), &progress).expect("rank 1 is in");
            first.join().expect("no panic").expect("rank 0 is in");
        });
        assert!(began.elapsed() < GREETING, "{:?}", began.elapsed());
    }
}
