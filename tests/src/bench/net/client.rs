//! What a client does, and how long it takes. Who answered is checked every time.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    net::sockopt::set_socket_linger,
    time::{ClockId, clock_gettime},
};

use super::{
    server::QUESTION,
    site::Site,
    way::{Target, Way},
};
use crate::{clock, scenario::to_f64};

/// How long a client waits for the first answer of a site that was just made, each time it asks.
const FIRST_PATIENCE: Duration = Duration::from_millis(200);
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a datagram.
const DATAGRAM: usize = 64;
/// Datagrams between two looks at the clock.
const BATCH: u64 = 64;

/// Ports that are dialled, for each of the server's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// Of the server that says who it is.
    pub(super) greet: u16,
    /// Of the one that echoes.
    pub(super) echo: u16,
    /// Of the one that swallows.
    pub(super) sink: u16,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    /// Connections one after the other.
    pub(super) connections: u32,
    /// How long the others run.
    pub(super) time: Duration,
}

/// What one round came to; on a way of datagrams the others are no numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    /// Microseconds until a connection is there, the middle one.
    pub(super) connect_p50: f64,
    /// Microseconds that 99 of 100 do not exceed.
    pub(super) connect_p99: f64,
    /// Connections a second, one client.
    pub(super) alone: f64,
    /// Connections a second, sixteen clients.
    pub(super) sixteen: f64,
    /// Requests answered in a second on one connection.
    pub(super) exchanges: f64,
    /// Datagrams that arrived in a second, in thousands.
    pub(super) datagrams: f64,
    /// Microseconds of processor for a datagram that arrived, sender and receiver.
    pub(super) processor: f64,
    /// Gigabits a second of one connection.
    pub(super) bulk: f64,
}

impl Figures {
    const NONE: Self = Self {
        connect_p50: f64::NAN,
        connect_p99: f64::NAN,
        alone: f64::NAN,
        sixteen: f64::NAN,
        exchanges: f64::NAN,
        datagrams: f64::NAN,
        processor: f64::NAN,
        bulk: f64::NAN,
    };
}

/// One round on one way.
pub(super) fn round(site: &Site, way: Way, effort: Effort) -> Result<Figures> {
    let mut figures = Figures::NONE;
    let target = way.target(site.contender);
    let client = Client {
        site,
        way,
        target,
        time: effort.time,
    };
    (figures.datagrams, figures.processor) = client.datagrams()?;
    if way.is_of_datagrams() {
        return Ok(figures);
    }
    let mut times = Vec::new();
    let took = client.run(|| {
        let began = clock::now();
        for _ in 0..effort.connections {
            times.push(client.connection()?);
        }
        Ok(began.elapsed())
    })?;
    times.sort_by(f64::total_cmp);
    let position = |percent| times.get(times.len() * percent / 100).copied();
    figures.connect_p50 = position(50).context("no connection")?;
    figures.connect_p99 = position(99).context("no connection")?;
    figures.alone = f64::from(effort.connections) / took.as_secs_f64();
    figures.sixteen = client.sixteen(effort.connections)?;
    figures.exchanges = client.exchanges()?;
    figures.bulk = client.bulk()?;
    Ok(figures)
}

/// Waits until somebody answers on this way: devices and addresses are noticed a little after rules
/// are complete.
pub(super) fn await_answer(site: &Site, way: Way) -> Result<()> {
    let target = way.target(site.contender);
    let what = format!("an answer to {} by {way:?}", site.contender.name());
    site.client(way).run(|| {
        clock::eventually(&what, PATIENCE, || {
            let socket = connected(target)?;
            socket.set_read_timeout(Some(FIRST_PATIENCE))?;
            // Refused or lost: it is asked again.
            let ask = || socket.send(&[QUESTION]).is_ok() && socket.recv(&mut [0]).is_ok();
            let before = site.by_xdp()?;
            let is_answered = ask();
            // XDP comes to devices, and sends by them, when the agent has looked at them.
            let is_taken = before.is_none() || is_answered && ask() && site.by_xdp()? > before;
            Ok((is_answered && is_taken).then_some(()))
        })
    })
}

/// A socket for datagrams to the target.
fn connected(target: Target) -> Result<UdpSocket> {
    let any = match target.greet().ip() {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(target.greet())?;
    Ok(socket)
}

/// A client on a way.
#[derive(Clone, Copy)]
struct Client<'a> {
    site: &'a Site,
    way: Way,
    target: Target,
    time: Duration,
}

impl Client<'_> {
    /// Does something where the client is.
    fn run<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.site.client(self.way).run(action)
    }

    fn check(&self, number: [u8; 1]) -> Result<()> {
        let [number] = number;
        ensure!(
            self.target.numbers.contains(&number),
            "{number} answered, which is none of {:?}",
            self.target.numbers
        );
        Ok(())
    }

    /// One connection, to its greeting: microseconds until it was there.
    fn connection(&self) -> Result<f64> {
        let began = clock::now();
        let mut stream = TcpStream::connect(self.target.greet())?;
        let took = began.elapsed();
        let mut number = [0];
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read_exact(&mut number).context("no greeting")?;
        self.check(number)?;
        // A reset: no port waits a minute for its next use.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        Ok(took.as_secs_f64() * 1e6)
    }

    fn sixteen(&self, connections: u32) -> Result<f64> {
        const CLIENTS: u32 = 16;
        let each = (connections / CLIENTS * 2).max(1);
        let began = clock::now();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        self.run(|| (0..each).try_for_each(|_| self.connection().map(drop)))
                    })
                })
                .collect();
            clients.into_iter().try_for_each(|client| {
                client
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        Ok(f64::from(each * CLIENTS) / began.elapsed().as_secs_f64())
    }

    fn exchanges(&self) -> Result<f64> {
        self.run(|| {
            let mut stream = TcpStream::connect(self.target.echo())?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut count = 0_u8;
            let mut exchanges = 0_u64;
            let began = clock::now();
            while began.elapsed() < self.time {
                count = count.wrapping_add(1);
                stream.write_all(&[count])?;
                let mut byte = [0];
                stream.read_exact(&mut byte).context("no answer")?;
                ensure!(byte == [count], "another answer");
                exchanges += 1;
            }
            Ok(to_f64(exchanges) / began.elapsed().as_secs_f64())
        })
    }

    /// Thousands of datagrams a second that arrived, and the processor's microseconds for each.
    fn datagrams(&self) -> Result<(f64, f64)> {
        let arrived = || {
            self.site
                .servers
                .iter()
                .map(super::server::Servers::datagrams)
                .sum::<u64>()
        };
        self.run(|| {
            let socket = connected(self.target)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send(&[QUESTION])?;
            let mut number = [0];
            socket.recv(&mut number).context("no answer by UDP")?;
            self.check(number)?;
            let payload = [0; DATAGRAM];
            let (before, by_xdp) = (arrived(), self.site.by_xdp()?);
            let (processor, began) = (process_time(), clock::now());
            while began.elapsed() < self.time {
                for _ in 0..BATCH {
                    socket.send(&payload)?;
                }
            }
            let took = began.elapsed().as_secs_f64();
            let arrived = to_f64(arrived() - before);
            ensure!(arrived > 0.0, "no datagram arrived");
            if let (Some(before), Some(after)) = (by_xdp, self.site.by_xdp()?) {
                let taken = to_f64(after - before);
                ensure!(
                    taken * 2.0 > arrived,
                    "XDP took {taken} of {arrived} packets"
                );
            }
            let processor = (process_time() - processor) * 1e6;
            Ok((arrived / took / 1000.0, processor / arrived))
        })
    }

    fn bulk(&self) -> Result<f64> {
        let arrived = || {
            self.site
                .servers
                .iter()
                .map(super::server::Servers::bytes)
                .sum::<u64>()
        };
        self.run(|| {
            let mut stream = TcpStream::connect(self.target.sink())?;
            stream.set_write_timeout(Some(PATIENCE))?;
            let chunk = vec![0; 128 << 10];
            let before = arrived();
            let began = clock::now();
            while began.elapsed() < self.time {
                stream.write_all(&chunk)?;
            }
            let took = began.elapsed().as_secs_f64();
            // In kibibytes, of which a 32-bit count holds more than any second brings.
            let kibibytes = to_f64((arrived() - before) >> 10);
            ensure!(kibibytes > 0.0, "nothing arrived");
            Ok(kibibytes * 1024.0 * 8.0 / took / 1e9)
        })
    }
}

/// Seconds that all threads of this process have run.
fn process_time() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    to_f64(seconds) + to_f64(nanoseconds) / 1e9
}
