//! What a backend runs: it says who it is, echoes, swallows and counts.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::ns::Namespace;

/// TCP: writes its number and closes. UDP: counts; answers a datagram that begins with `?` with its
/// number.
pub(super) const GREET: u16 = 8080;
/// TCP: echoes bytes one by one.
pub(super) const ECHO: u16 = 8081;
/// TCP: swallows bytes and counts them.
pub(super) const SINK: u16 = 8082;
/// The first byte of a datagram that wants an answer.
pub(super) const QUESTION: u8 = b'?';

/// How often a waiting thread looks whether it should end.
const PAUSE: Duration = Duration::from_millis(200);

/// What the threads of one backend share.
#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    datagrams: AtomicU64,
    bytes: AtomicU64,
}

/// The servers of one backend; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Servers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl Servers {
    /// Starts them inside `namespace`; all are listening afterwards. Over IPv6, at this address, only
    /// datagrams are counted.
    pub(super) fn start(namespace: &Namespace, number: u8, v6: Ipv6Addr) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let sockets = namespace.run(|| {
            let any = Ipv4Addr::UNSPECIFIED;
            let listen = |port| -> Result<TcpListener> {
                let listener = TcpListener::bind((any, port))?;
                set_socket_timeout(&listener, Timeout::Recv, Some(PAUSE))?;
                Ok(listener)
            };
            let udp = |address: IpAddr| -> Result<UdpSocket> {
                let socket = UdpSocket::bind((address, GREET))?;
                set_socket_timeout(&socket, Timeout::Recv, Some(PAUSE))?;
                Ok(socket)
            };
            let udp = [udp(any.into())?, udp(v6.into())?];
            Ok((listen(GREET)?, listen(ECHO)?, listen(SINK)?, udp))
        });
        let (greet, echo, sink, [udp, udp_v6]) = sockets.context("open a backend's sockets")?;
        let share = || Arc::clone(&shared);
        let (greeter, echoer, sinker) = (share(), share(), share());
        let (counter, counter_v6) = (share(), share());
        let threads = vec![
            namespace.spawn(move || {
                accept(&greeter, &greet, |mut stream| stream.write_all(&[number]));
                Ok(())
            })?,
            namespace.spawn(move || {
                accept(&echoer, &echo, answer);
                Ok(())
            })?,
            namespace.spawn(move || {
                accept(&sinker, &sink, |mut stream| swallow(&sinker, &mut stream));
                Ok(())
            })?,
            namespace.spawn(move || {
                count(&counter, &udp, number);
                Ok(())
            })?,
            namespace.spawn(move || {
                count(&counter_v6, &udp_v6, number);
                Ok(())
            })?,
        ];
        Ok(Self { shared, threads })
    }

    /// Datagrams that arrived.
    pub(super) fn datagrams(&self) -> u64 {
        self.shared.datagrams.load(Ordering::Relaxed)
    }

    /// Bytes that were swallowed.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // What a server had to say was seen by its clients.
            thread.join().ok();
        }
    }
}

/// Handles one connection after the other. What goes wrong with one ends that one: clients here
/// leave by a reset.
fn accept(shared: &Shared, listener: &TcpListener, handle: impl Fn(TcpStream) -> io::Result<()>) {
    while !shared.is_over.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            handle(stream).ok();
        }
    }
}

fn answer(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        stream.write_all(&byte)?;
    }
    Ok(())
}

fn swallow(shared: &Shared, stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        let length = u64::try_from(length).unwrap_or(0);
        shared.bytes.fetch_add(length, Ordering::Relaxed);
    }
}

fn count(shared: &Shared, socket: &UdpSocket, number: u8) {
    let mut buffer = [0; 2048];
    while !shared.is_over.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        if length > 0 && buffer[0] == QUESTION {
            socket.send_to(&[number], client).ok();
        } else {
            shared.datagrams.fetch_add(1, Ordering::Relaxed);
        }
    }
}
