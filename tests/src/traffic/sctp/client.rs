//! Who dials: an association, one packet at a time.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{Chunk, Kind, Packet, acknowledgement, data, initiation, number, raw_socket, receive};
use crate::{clock, ns::Namespace, traffic::Greeting};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Lengths of messages: empty but for padding, odd, and as long as a packet takes.
const LENGTHS: [usize; 6] = [1, 2, 3, 64, 777, 1280];

/// An association with what a test dialled.
#[derive(Debug)]
pub struct Association {
    socket: UdpSocket,
    server: SocketAddr,
    port: u16,
    own_tag: u32,
    server_tag: u32,
    sent: u32,
}

impl Association {
    /// Begins one from inside `ns`, from `port`, with the four packets that it takes.
    pub fn open(ns: &Namespace, server: SocketAddr, port: u16) -> Result<Self> {
        let socket = ns.run(|| raw_socket(server.is_ipv4()).context("open a raw socket"))?;
        let mut association = Self {
            socket,
            server,
            port,
            own_tag: 0x5eed_0000 | u32::from(port),
            server_tag: 0,
            sent: 0,
        };
        association
            .shake_hands()
            .with_context(|| format!("begin an association with {server} from port {port}"))?;
        Ok(association)
    }

    fn shake_hands(&mut self) -> Result<()> {
        self.send(vec![(Kind::Init, initiation(self.own_tag, None))])?;
        let value = self.await_chunk(Kind::InitAck)?;
        self.server_tag = number(&value)?;
        // The cookie is the first parameter after the fixed part of 16 bytes.
        let cookie = value.get(20..).context("an INIT ACK without a cookie")?;
        self.send(vec![(Kind::CookieEcho, cookie.to_vec())])?;
        self.await_chunk(Kind::CookieAck).map(drop)
    }

    /// Sends a message and reads the answer, which must quote it.
    pub fn ask(&mut self, message: &[u8]) -> Result<Greeting> {
        self.sent += 1;
        self.send(vec![(Kind::Data, data(self.sent, message))])?;
        let value = self.await_chunk(Kind::Data)?;
        ensure!(number(&value)? == self.sent, "an answer to another message");
        self.send(vec![(Kind::Sack, acknowledgement(self.sent))])?;
        let answer = value.get(12..).unwrap_or_default();
        let end = answer.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        ensure!(
            answer.get(end + 1..) == Some(message),
            "the answer quotes other bytes"
        );
        str::from_utf8(&answer[..end])?.parse()
    }

    /// Asks with messages of several lengths, all of which the same server must answer; gives its
    /// greeting.
    pub fn converse(&mut self) -> Result<Greeting> {
        let mut answers = LENGTHS.into_iter().map(|length| {
            let message: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            self.ask(&message)
        });
        let first = answers.next().context("no message")??;
        for answer in answers {
            let answer = answer?;
            ensure!(answer == first, "{answer} answers, where {first} did");
        }
        Ok(first)
    }

    /// Ends it with the three packets that it takes.
    pub fn finish(self) -> Result<()> {
        self.send(vec![(Kind::Shutdown, self.sent.to_be_bytes().to_vec())])?;
        self.await_chunk(Kind::ShutdownAck)?;
        self.send(vec![(Kind::ShutdownComplete, Vec::new())])
    }

    fn send(&self, chunks: Vec<Chunk>) -> Result<()> {
        let packet = Packet {
            source_port: self.port,
            destination_port: self.server.port(),
            tag: self.server_tag,
            chunks,
        };
        let to = SocketAddr::new(self.server.ip(), 0);
        let sent = self.socket.send_to(&packet.bytes(), to);
        sent.with_context(|| format!("send {packet:?}"))?;
        Ok(())
    }

    /// The value of the chunk that has to come next; the socket hears other associations, too.
    fn await_chunk(&self, kind: Kind) -> Result<Vec<u8>> {
        let started = clock::now();
        loop {
            let left = PATIENCE.saturating_sub(started.elapsed());
            ensure!(!left.is_zero(), "no {kind:?} after {PATIENCE:?}");
            self.socket.set_read_timeout(Some(left))?;
            let (bytes, from) =
                receive(&self.socket).with_context(|| format!("wait for {kind:?}"))?;
            let packet = Packet::read(&bytes)?;
            if packet.destination_port != self.port {
                continue;
            }
            let sender = SocketAddr::new(from.ip(), packet.source_port);
            ensure!(
                sender == self.server,
                "{sender} answers, not {}",
                self.server
            );
            ensure!(packet.tag == self.own_tag, "called {:#x}", packet.tag);
            let value = packet.value(kind);
            let value = value.with_context(|| format!("{packet:?}, not {kind:?}"))?;
            return Ok(value.to_vec());
        }
    }
}
