//! The servers: one thread each, which serves any number of connections by poll(2).

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::{fd::AsFd as _, unix::net::UnixStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{ns::Namespace, traffic::Greeting};

/// Bytes a connection may be behind with reading before the server stops reading from it.
const ECHO_LIMIT: usize = 1 << 18;

/// A server's thread; stopped and joined on drop.
#[derive(Debug)]
struct Worker {
    // Closing this end is the order to stop.
    wake: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(body: impl FnOnce(&UnixStream) + Send + 'static) -> Result<Self> {
        let (wake, woken) = UnixStream::pair().context("make a socket pair")?;
        let thread = thread::spawn(move || body(&woken));
        Ok(Self {
            wake: Some(wake),
            thread: Some(thread),
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.wake.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed; the client's failure names the server.
            thread.join().ok();
        }
    }
}

/// A TCP server that greets every connection and then echoes what it reads.
///
/// Dropping it closes the listener and every connection.
#[derive(Debug)]
pub struct TcpServer {
    accepted: Arc<AtomicU64>,
    _worker: Worker,
}

impl TcpServer {
    /// Listens on `port` of every address of the namespace, both families.
    pub fn start(ns: &Namespace, name: &str, port: u16) -> Result<Self> {
        let listener = ns.run(|| {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
                .with_context(|| format!("listen on TCP port {port}"))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        })?;
        let accepted = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&accepted);
        let name = name.to_owned();
        let worker = Worker::start(move |woken| serve_tcp(&name, &listener, woken, &counter))?;
        Ok(Self {
            accepted,
            _worker: worker,
        })
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// A connection, and what it has yet to be sent.
struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Connection {
    fn interest(&self) -> PollFlags {
        let mut interest = PollFlags::empty();
        interest.set(PollFlags::POLLIN, self.pending.len() < ECHO_LIMIT);
        interest.set(PollFlags::POLLOUT, !self.pending.is_empty());
        interest
    }

    /// Reads and writes what is possible now. `false` when the connection is over.
    fn advance(&mut self) -> bool {
        let mut buffer = [0; 1 << 14];
        if self.pending.len() < ECHO_LIMIT {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(length) => self.pending.extend_from_slice(&buffer[..length]),
                Err(error) if is_momentary(&error) => {}
                Err(_) => return false,
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(length) => drop(self.pending.drain(..length)),
                Err(error) if is_momentary(&error) => return true,
                Err(_) => return false,
            }
        }
        true
    }
}

fn serve_tcp(name: &str, listener: &TcpListener, woken: &UnixStream, accepted: &AtomicU64) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let mut fds = vec![
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(listener.as_fd(), PollFlags::POLLIN),
        ];
        fds.extend(
            connections
                .iter()
                .map(|one| PollFd::new(one.stream.as_fd(), one.interest())),
        );
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        drop(fds);
        if ready[0] {
            return;
        }
        let mut states = ready[2..].iter();
        connections.retain_mut(|one| match states.next() {
            Some(true) => one.advance(),
            _ => true,
        });
        if ready[1] {
            connections.extend(accept_all(name, listener, accepted));
        }
    }
}

/// Accepts what waits, greeting each.
fn accept_all(
    name: &str,
    listener: &TcpListener,
    accepted: &AtomicU64,
) -> impl Iterator<Item = Connection> {
    std::iter::from_fn(|| listener.accept().ok()).filter_map(|(stream, client)| {
        accepted.fetch_add(1, Ordering::Relaxed);
        stream.set_nonblocking(true).ok()?;
        stream.set_nodelay(true).ok()?;
        let pending = format!("{}\n", greeting(name, client)).into_bytes();
        let mut connection = Connection { stream, pending };
        connection.flush().then_some(connection)
    })
}

/// A UDP server that answers each datagram with its greeting, a line end, and the datagram.
#[derive(Debug)]
pub struct UdpServer {
    _worker: Worker,
}

impl UdpServer {
    /// Binds `port` of every address of the namespace, both families.
    pub fn start(ns: &Namespace, name: &str, port: u16) -> Result<Self> {
        Self::start_at(ns, name, (Ipv6Addr::UNSPECIFIED, port).into())
    }

    /// Binds one address, and answers from that: where a namespace has several, the kernel else
    /// chooses one by the way to the client.
    pub fn start_at(ns: &Namespace, name: &str, address: SocketAddr) -> Result<Self> {
        let socket = ns.run(|| {
            let socket = UdpSocket::bind(address).with_context(|| format!("bind UDP {address}"))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let name = name.to_owned();
        let worker = Worker::start(move |woken| serve_udp(&name, &socket, woken))?;
        Ok(Self { _worker: worker })
    }
}

fn serve_udp(name: &str, socket: &UdpSocket, woken: &UnixStream) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let mut fds = [
            PollFd::new(woken.as_fd(), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds[0].any().unwrap_or(true) {
            return;
        }
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let mut answer = format!("{}\n", greeting(name, client)).into_bytes();
            answer.extend_from_slice(&buffer[..length]);
            // A datagram that cannot be sent is a lost one, which clients must notice anyway.
            socket.send_to(&answer, client).ok();
        }
    }
}

/// The greeting for a client; IPv4 clients of a socket of both families are shown as IPv4.
fn greeting(name: &str, client: SocketAddr) -> Greeting {
    let client = SocketAddr::new(client.ip().to_canonical(), client.port());
    Greeting {
        server: name.to_owned(),
        client,
    }
}

fn is_momentary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
