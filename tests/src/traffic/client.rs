//! The clients: single connections, many connections, and the ways to be refused.
//!
//! Every function that takes a [`Namespace`] acts from inside it; the others act in the namespace
//! of the calling thread.

use std::{
    collections::BTreeMap,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
};

use crate::{
    clock,
    ns::Namespace,
    traffic::{Greeting, Transport},
};

/// How long one connection may take. Not short: the machine may be busy, and a lost SYN is sent
/// again after one second. Whether a connection was *stalled* is for its caller to judge.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Threads of [`spread`]; more than that only fight for the CPU with the servers.
const SPREAD_THREADS: usize = 4;

/// Which server took how many connections.
pub type Spread = BTreeMap<String, u64>;

/// Connects from inside `ns`, returns the server's greeting, and closes.
pub fn connect_once(ns: &Namespace, server: SocketAddr) -> Result<Greeting> {
    ns.run(|| Ok(tcp_greeting(server, None, PATIENCE)?))
}

/// Like [`connect_once`], from a chosen source port: the same flow again, as often as wanted.
pub fn connect_once_from(ns: &Namespace, server: SocketAddr, port: u16) -> Result<Greeting> {
    ns.run(|| Ok(tcp_greeting(server, Some(port), PATIENCE)?))
}

/// Sends one datagram from inside `ns` and returns the server's greeting, after checking that the
/// payload came back whole.
pub fn ask_udp(ns: &Namespace, server: SocketAddr, payload: &[u8]) -> Result<Greeting> {
    ns.run(|| {
        let socket = udp_socket(server, PATIENCE)?;
        Ok(udp_exchange(&socket, payload)?)
    })
}

/// A UDP socket that asks when it is told to, each time as the same flow.
#[derive(Debug)]
pub struct UdpClient(UdpSocket);

impl UdpClient {
    /// Opens a socket inside `ns`, which it stays in.
    pub fn open(ns: &Namespace, server: SocketAddr) -> Result<Self> {
        ns.run(|| Ok(Self(udp_socket(server, PATIENCE)?)))
    }

    /// One question; the greeting of who answered within `patience`. A question may be lost while
    /// its flow is being moved.
    pub fn ask(&self, patience: Duration) -> io::Result<Greeting> {
        self.0.set_read_timeout(Some(patience))?;
        udp_exchange(&self.0, b"hello")
    }
}

/// Makes `connections` short connections from inside `ns`, each from a port of its own, and counts
/// who answered. The first failure ends it.
pub fn spread(
    ns: &Namespace,
    server: SocketAddr,
    transport: Transport,
    connections: usize,
) -> Result<Spread> {
    let worker = |share: usize| {
        ns.run(move || {
            let mut counts = Spread::new();
            for _ in 0..share {
                let greeting = one_short(server, transport, PATIENCE)
                    .with_context(|| format!("{transport} to {server}"))?;
                *counts.entry(greeting.server).or_default() += 1;
            }
            Ok(counts)
        })
    };
    thread::scope(|scope| {
        let shares = (0..SPREAD_THREADS).map(|index| (connections + index) / SPREAD_THREADS);
        let workers: Vec<_> = shares
            .map(|share| scope.spawn(move || worker(share)))
            .collect();
        let mut total = Spread::new();
        for handle in workers {
            let counts = handle
                .join()
                .map_err(|_panic| anyhow!("a client thread panicked"))??;
            for (server, count) in counts {
                *total.entry(server).or_default() += count;
            }
        }
        Ok(total)
    })
}

/// The error that an attempt from inside `ns` meets within `patience`, and how long it took.
///
/// UDP errors arrive on a connected socket, at its next call. An answer is an error of this
/// function: somebody was expected to refuse.
pub fn refusal(
    ns: &Namespace,
    server: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> Result<(io::ErrorKind, Duration)> {
    ns.run(|| {
        let started = clock::now();
        match one_short(server, transport, patience) {
            Ok(greeting) => Err(anyhow!(
                "{transport} {server}: nobody should answer, {greeting} did"
            )),
            Err(error) => Ok((kind(&error), started.elapsed())),
        }
    })
}

/// Sends `size` bytes through a TCP connection from inside `ns`, and returns how long it took until
/// all of them came back unchanged.
pub fn bulk_echo(ns: &Namespace, server: SocketAddr, size: usize) -> Result<Duration> {
    let data: Vec<u8> = (0..size)
        .map(|index| (index % 251).to_le_bytes()[0])
        .collect();
    let (stream, mut reader) = ns.run(|| {
        let stream = tcp_connect(server, None, PATIENCE)?;
        let reader = greeted(&stream)?.1;
        Ok((stream, reader))
    })?;
    let started = clock::now();
    thread::scope(|scope| {
        let writer = scope.spawn(|| (&stream).write_all(&data));
        let mut echoed = vec![0; size];
        let read = reader.read_exact(&mut echoed);
        if read.is_err() {
            // Or the writer would wait for a peer that has stopped reading.
            stream.shutdown(Shutdown::Both).ok();
        }
        let written = writer
            .join()
            .map_err(|_panic| anyhow!("the writer panicked"))?;
        read.with_context(|| format!("read {size} echoed bytes from {server}"))?;
        written.with_context(|| format!("write {size} bytes to {server}"))?;
        ensure!(echoed == data, "{server}: {size} bytes came back changed");
        Ok(started.elapsed())
    })
}

/// One short exchange by either protocol.
pub(super) fn one_short(
    server: SocketAddr,
    transport: Transport,
    patience: Duration,
) -> io::Result<Greeting> {
    match transport {
        Transport::Tcp => tcp_greeting(server, None, patience),
        Transport::Udp => udp_exchange(&udp_socket(server, patience)?, b"ping"),
    }
}

/// Connects, reads the greeting, and resets the connection: its port is free again at once, however
/// many follow.
fn tcp_greeting(server: SocketAddr, port: Option<u16>, patience: Duration) -> io::Result<Greeting> {
    let stream = tcp_connect(server, port, patience)?;
    let greeting = greeted(&stream)?.0;
    let reset = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &reset)?;
    Ok(greeting)
}

/// Connects within `patience`, which is also the time each later read and write may take.
pub(super) fn tcp_connect(
    server: SocketAddr,
    port: Option<u16>,
    patience: Duration,
) -> io::Result<TcpStream> {
    let family = if server.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd: OwnedFd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if let Some(port) = port {
        setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        bind(
            fd.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(any(server), port)),
        )?;
    }
    // The send timeout also bounds connect(2), see socket(7).
    let milliseconds = i64::try_from(patience.as_millis()).map_err(io::Error::other)?;
    let timeout = TimeVal::milliseconds(milliseconds);
    setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &timeout)?;
    connect(fd.as_raw_fd(), &SockaddrStorage::from(server)).map_err(|error| match error {
        // What connect(2) reports when the send timeout ends it.
        Errno::EINPROGRESS => io::Error::new(io::ErrorKind::TimedOut, "no answer to connect"),
        other => other.into(),
    })?;
    let stream = TcpStream::from(fd);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads the greeting; the reader may hold bytes that followed it.
pub(super) fn greeted(stream: &TcpStream) -> io::Result<(Greeting, BufReader<TcpStream>)> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "closed before the greeting",
        ));
    }
    Ok((line.parse().map_err(io::Error::other)?, reader))
}

/// A UDP socket connected to `server`, so that it hears of refusals.
pub(super) fn udp_socket(server: SocketAddr, patience: Duration) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(SocketAddr::new(any(server), 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(patience))?;
    Ok(socket)
}

/// Sends a datagram and reads its answer, which must quote it.
pub(super) fn udp_exchange(socket: &UdpSocket, payload: &[u8]) -> io::Result<Greeting> {
    socket.send(payload)?;
    let mut buffer = vec![0; payload.len() + 256];
    let length = socket.recv(&mut buffer)?;
    let answer = &buffer[..length];
    let end = answer.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    if answer.get(end + 1..) != Some(payload) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the answer quotes other bytes",
        ));
    }
    let greeting = str::from_utf8(&answer[..end]).map_err(io::Error::other)?;
    greeting.parse().map_err(io::Error::other)
}

/// The unspecified address of the family of `server`.
const fn any(server: SocketAddr) -> IpAddr {
    match server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// A read that timed out says that it "would block".
fn kind(error: &io::Error) -> io::ErrorKind {
    if error.kind() == io::ErrorKind::WouldBlock {
        io::ErrorKind::TimedOut
    } else {
        error.kind()
    }
}
