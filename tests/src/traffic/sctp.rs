//! SCTP by raw IP sockets, for kernels without SCTP sockets: as much of RFC 9260 as an association
//! needs that carries a few messages and ends.
//!
//! ```text
//!   client ── INIT ───────────────► server
//!   client ◄─────────── INIT ACK ── server
//!   client ── COOKIE ECHO ────────► server
//!   client ◄───────── COOKIE ACK ── server
//!   client ── DATA ───────────────► server
//!   client ◄───────── SACK, DATA ── server     the greeting, a line end, what came
//!   client ── SHUTDOWN ───────────► server
//!   client ◄─────── SHUTDOWN ACK ── server
//!   client ── SHUTDOWN COMPLETE ──► server
//! ```
//!
//! Whoever receives a packet computes its CRC-32C over every byte, and takes no packet where it is
//! wrong. Hosts without SCTP answer nobody: a raw socket that takes the packet is answer enough.

use std::{io, net::SocketAddr, net::UdpSocket};

use anyhow::{Result, bail, ensure};
use rustix::net::{AddressFamily, SocketType, ipproto};

use crate::packets::crc32c;

mod client;
mod server;

pub use self::{client::Association, server::SctpServer};

/// Ports, verification tag and checksum.
const COMMON_HEADER: usize = 12;
/// Type, flags and length.
const CHUNK_HEADER: usize = 4;
/// Longest packet that is received.
const ROOM: usize = 1 << 16;

/// The chunks that are spoken here (RFC 9260 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Data = 0,
    Init = 1,
    InitAck = 2,
    Sack = 3,
    Shutdown = 7,
    ShutdownAck = 8,
    CookieEcho = 10,
    CookieAck = 11,
    ShutdownComplete = 14,
}

impl Kind {
    const ALL: [Self; 9] = [
        Self::Data,
        Self::Init,
        Self::InitAck,
        Self::Sack,
        Self::Shutdown,
        Self::ShutdownAck,
        Self::CookieEcho,
        Self::CookieAck,
        Self::ShutdownComplete,
    ];

    fn from_number(number: u8) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|kind| *kind as u8 == number);
        known.ok_or_else(|| anyhow::anyhow!("a chunk of type {number}"))
    }
}

/// A chunk's type and value, without padding.
type Chunk = (Kind, Vec<u8>);

/// An SCTP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Packet {
    source_port: u16,
    destination_port: u16,
    /// The verification tag: the receiver's, 0 in an INIT.
    tag: u32,
    chunks: Vec<Chunk>,
}

impl Packet {
    /// With its checksum.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.source_port.to_be_bytes());
        bytes.extend(self.destination_port.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        for (kind, value) in &self.chunks {
            let length = u16::try_from(CHUNK_HEADER + value.len()).unwrap_or(u16::MAX);
            // DATA is a message's only fragment: it begins and ends it.
            let flags = if *kind == Kind::Data { 3 } else { 0 };
            bytes.extend([*kind as u8, flags]);
            bytes.extend(length.to_be_bytes());
            bytes.extend(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        let crc = crc32c(&bytes).to_le_bytes();
        bytes[8..12].copy_from_slice(&crc);
        bytes
    }

    /// Reads a packet whose checksum is that of its bytes, all of them.
    fn read(bytes: &[u8]) -> Result<Self> {
        ensure!(bytes.len() >= COMMON_HEADER, "{} bytes", bytes.len());
        let mut zeroed = bytes.to_vec();
        zeroed[8..12].fill(0);
        let found = u32::from_le_bytes(bytes[8..12].try_into()?);
        let computed = crc32c(&zeroed);
        ensure!(
            found == computed,
            "a checksum of {found:#010x}, not {computed:#010x}"
        );
        let mut chunks = Vec::new();
        let mut rest = &bytes[COMMON_HEADER..];
        while let Some((&[kind, _flags, high, low], _)) = rest.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            let Some(value) = rest.get(CHUNK_HEADER..length) else {
                bail!("a chunk of {length} bytes in {}", rest.len());
            };
            chunks.push((Kind::from_number(kind)?, value.to_vec()));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(Self {
            source_port: u16::from_be_bytes(bytes[..2].try_into()?),
            destination_port: u16::from_be_bytes(bytes[2..4].try_into()?),
            tag: u32::from_be_bytes(bytes[4..8].try_into()?),
            chunks,
        })
    }

    /// The value of its first chunk of this kind.
    fn value(&self, kind: Kind) -> Option<&[u8]> {
        let mut chunks = self.chunks.iter();
        let found = chunks.find(|(other, _)| *other == kind);
        found.map(|(_, value)| value.as_slice())
    }
}

/// INIT or INIT ACK: who sends it, by the tag that it wants to be called with.
fn initiation(tag: u32, cookie: Option<&[u8]>) -> Vec<u8> {
    let mut value = tag.to_be_bytes().to_vec();
    value.extend(65_536_u32.to_be_bytes());
    // Streams out and in, and the number of the first DATA.
    value.extend([0, 1, 0, 1, 0, 0, 0, 1]);
    if let Some(cookie) = cookie {
        let length = u16::try_from(CHUNK_HEADER + cookie.len()).unwrap_or(u16::MAX);
        value.extend([0, 7]);
        value.extend(length.to_be_bytes());
        value.extend(cookie);
    }
    value
}

/// DATA number `number` of the only stream.
fn data(number: u32, message: &[u8]) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.extend([0; 8]);
    value.extend(message);
    value
}

/// "All up to this number has come."
fn acknowledgement(number: u32) -> Vec<u8> {
    let mut value = number.to_be_bytes().to_vec();
    value.extend(65_536_u32.to_be_bytes());
    value.extend([0; 4]);
    value
}

/// The first four bytes of a chunk's value.
fn number(value: &[u8]) -> Result<u32> {
    let first = value.first_chunk();
    first
        .map(|bytes| u32::from_be_bytes(*bytes))
        .ok_or_else(|| anyhow::anyhow!("a chunk of {} bytes", value.len()))
}

/// A raw socket for SCTP over IPv4 or IPv6, in the namespace of this thread.
fn raw_socket(is_v4: bool) -> io::Result<UdpSocket> {
    let family = if is_v4 {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::SCTP))?;
    // Only what is the same for any datagram socket is used of it.
    Ok(UdpSocket::from(socket))
}

/// The next SCTP packet's bytes and where they come from; the port is not the socket's to know.
fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = vec![0; ROOM];
    let (length, from) = socket.recv_from(&mut buffer)?;
    buffer.truncate(length);
    if from.is_ipv4() {
        // Over IPv4 the IP header comes with it.
        let header = usize::from(buffer.first().map_or(0, |byte| byte & 0x0f)) * 4;
        buffer.drain(..header.min(length));
    }
    Ok((buffer, from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_back_and_a_changed_bit_is_noticed() {
        let packet = Packet {
            source_port: 40_000,
            destination_port: 80,
            tag: 7,
            chunks: vec![
                (Kind::Sack, acknowledgement(3)),
                (Kind::Data, data(4, b"odd")),
            ],
        };
        let mut bytes = packet.bytes();
        assert_eq!(Packet::read(&bytes).expect("its own bytes"), packet);
        bytes[1] ^= 1;
        Packet::read(&bytes).expect_err("another source port");
    }
}
