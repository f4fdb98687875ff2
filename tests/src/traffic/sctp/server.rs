//! Who answers: one raw socket of each family, served by one thread.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Chunk, Kind, Packet, acknowledgement, data, initiation, number, raw_socket, receive};
use crate::{ns::Namespace, traffic::Greeting};

/// How long a thread waits for a packet before it looks whether it shall stop.
const LOOK: Duration = Duration::from_millis(50);

/// A server for SCTP that answers each message with its greeting, a line end, and the message.
///
/// Dropping it stops it.
#[derive(Debug)]
pub struct SctpServer {
    stop: Arc<AtomicBool>,
    complaints: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<Result<()>>>,
}

impl SctpServer {
    /// Serves `port` of every address of the namespace, both families.
    pub fn start(ns: &Namespace, name: &str, port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let complaints = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for is_v4 in [true, false] {
            let socket = ns.run(|| raw_socket(is_v4).context("open a raw socket for SCTP"))?;
            socket.set_read_timeout(Some(LOOK))?;
            let mut desk = Desk {
                name: name.to_owned(),
                port,
                socket,
                peers: BTreeMap::new(),
            };
            let (stopped, complaints) = (Arc::clone(&stop), Arc::clone(&complaints));
            threads.push(ns.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    if let Err(error) = desk.serve_one() {
                        let text = format!("{error:#}");
                        let complaints = complaints.lock();
                        complaints
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(text);
                    }
                }
                Ok(())
            })?);
        }
        Ok(Self {
            stop,
            complaints,
            threads,
        })
    }

    /// What was wrong with packets so far, checksums first of all; none was answered.
    pub fn complaints(&self) -> Vec<String> {
        let complaints = self.complaints.lock();
        complaints.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for SctpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of the thread was printed.
            thread.join().ok();
        }
    }
}

/// One family's socket, and the tags of those who have begun.
struct Desk {
    name: String,
    port: u16,
    socket: UdpSocket,
    /// The client's tag by its address and port; ours is its complement.
    peers: BTreeMap<SocketAddr, u32>,
}

impl Desk {
    fn serve_one(&mut self) -> Result<()> {
        let (bytes, from) = match receive(&self.socket) {
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let packet = Packet::read(&bytes).with_context(|| format!("from {}", from.ip()))?;
        if packet.destination_port != self.port {
            return Ok(());
        }
        let client = SocketAddr::new(from.ip(), packet.source_port);
        let chunks = self.answer(client, &packet)?;
        let Some(&tag) = self.peers.get(&client).filter(|_| !chunks.is_empty()) else {
            return Ok(());
        };
        let answer = Packet {
            source_port: self.port,
            destination_port: client.port(),
            tag,
            chunks,
        };
        let to = SocketAddr::new(client.ip(), 0);
        self.socket
            .send_to(&answer.bytes(), to)
            .with_context(|| format!("answer {client}"))?;
        Ok(())
    }

    fn answer(&mut self, client: SocketAddr, packet: &Packet) -> Result<Vec<Chunk>> {
        if let Some(value) = packet.value(Kind::Init) {
            ensure!(packet.tag == 0, "an INIT with the tag {}", packet.tag);
            let tag = number(value)?;
            self.peers.insert(client, tag);
            let cookie = tag.to_be_bytes();
            return Ok(vec![(Kind::InitAck, initiation(!tag, Some(&cookie)))]);
        }
        let known = self.peers.get(&client).copied();
        let tag = known.with_context(|| format!("{client} never began"))?;
        ensure!(packet.tag == !tag, "{client} calls us {}", packet.tag);
        if let Some(cookie) = packet.value(Kind::CookieEcho) {
            ensure!(number(cookie)? == tag, "another cookie of {client}");
            return Ok(vec![(Kind::CookieAck, Vec::new())]);
        }
        if let Some(value) = packet.value(Kind::Data) {
            let greeting = Greeting {
                server: self.name.clone(),
                client,
            };
            let mut message = format!("{greeting}\n").into_bytes();
            message.extend(value.get(12..).unwrap_or_default());
            let number = number(value)?;
            return Ok(vec![
                (Kind::Sack, acknowledgement(number)),
                (Kind::Data, data(number, &message)),
            ]);
        }
        if packet.value(Kind::Shutdown).is_some() {
            return Ok(vec![(Kind::ShutdownAck, Vec::new())]);
        }
        if packet.value(Kind::ShutdownComplete).is_some() {
            self.peers.remove(&client);
        }
        Ok(Vec::new())
    }
}
