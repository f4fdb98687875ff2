//! SYNs of clients that do not exist, as many as wanted, each with an address and port of its own.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    ops::Range,
};

use anyhow::{Context as _, Result};
use rustix::net::{AddressFamily, SocketType, ipproto, socket};

use crate::{lab::address, ns::Namespace, packets};

/// Forged addresses; each sends from a run of ports that begins at [`FIRST_PORT`].
const SOURCES: u32 = 64;
/// The lowest port that SYNs come from.
const FIRST_PORT: u32 = 1024;
/// SYNs that can be told apart.
pub const DISTINCT: u32 = SOURCES * (65_536 - FIRST_PORT);

/// Offsets of what differs between two SYNs, from the IP header on.
struct Layout {
    /// The last two bytes of the source address.
    source: usize,
    /// The TCP header.
    tcp: usize,
}

impl Layout {
    const fn of(server: SocketAddr) -> Self {
        match server {
            SocketAddr::V4(_) => Self {
                source: 14,
                tcp: 20,
            },
            SocketAddr::V6(_) => Self {
                source: 22,
                tcp: 40,
            },
        }
    }
}

/// Sends the SYNs with these numbers, each below [`DISTINCT`], from inside `ns` to `server`. How many
/// arrive is not known here: a device that is too slow drops what it cannot take.
pub fn flood(ns: &Namespace, server: SocketAddr, numbers: Range<u32>) -> Result<()> {
    ns.run(|| {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        // Such a socket takes whole IP packets; of IPv4's header the kernel only sums it.
        let raw = socket(family, SocketType::RAW, Some(ipproto::RAW));
        // Its send is that of any datagram socket.
        let socket = UdpSocket::from(raw.context("open a raw socket")?);
        let to = SocketAddr::new(server.ip(), 0);
        let mut syn = Syn::new(server);
        for number in numbers {
            let sent = socket.send_to(syn.numbered(number), to);
            sent.with_context(|| format!("send SYN {number}"))?;
        }
        Ok(())
    })
}

/// A SYN whose source is filled in.
struct Syn {
    packet: Vec<u8>,
    layout: Layout,
    /// The sum of what the TCP checksum covers and never differs.
    sum: u32,
}

impl Syn {
    fn new(server: SocketAddr) -> Self {
        let nobody = SocketAddr::new(forged(server, 0), 0);
        let mut packet = packets::tcp(nobody, server).flags(packets::SYN).build();
        packet.drain(..14);
        let layout = Layout::of(server);
        let word = |at: usize| u32::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        // A checksum is the complement of its sum, and taking a word out is adding its complement.
        let sum = (0xffff ^ word(layout.tcp + 16)) + (0xffff ^ word(layout.source));
        Self {
            packet,
            layout,
            sum,
        }
    }

    fn numbered(&mut self, number: u32) -> &[u8] {
        let source = self.layout.source;
        let low = u8::try_from(number % SOURCES).unwrap_or_default();
        let address = match self.layout.tcp {
            20 => address::forged_v4(low).octets()[2..].try_into(),
            _ => address::forged_v6(low).octets()[14..].try_into(),
        };
        let address: [u8; 2] = address.unwrap_or_default();
        let port = u16::try_from(FIRST_PORT + number / SOURCES).unwrap_or(u16::MAX);
        self.packet[source..source + 2].copy_from_slice(&address);
        let tcp = self.layout.tcp;
        self.packet[tcp..tcp + 2].copy_from_slice(&port.to_be_bytes());
        let sum = self.sum + u32::from(u16::from_be_bytes(address)) + u32::from(port);
        let folded = (sum & 0xffff) + (sum >> 16);
        let folded = (folded & 0xffff) + (folded >> 16);
        let checksum = !u16::try_from(folded).unwrap_or(u16::MAX);
        self.packet[tcp + 16..tcp + 18].copy_from_slice(&checksum.to_be_bytes());
        &self.packet
    }
}

/// Forged address `low` of the server's family.
fn forged(server: SocketAddr, low: u8) -> IpAddr {
    match server {
        SocketAddr::V4(_) => address::forged_v4(low).into(),
        SocketAddr::V6(_) => address::forged_v6(low).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_syn_is_one_that_would_have_been_built() {
        for server in ["10.200.0.1:30001", "[fd00:200::1]:30001"] {
            let server: SocketAddr = server.parse().expect("an address");
            let mut syn = Syn::new(server);
            for number in [0, 1, 63, 64, 4095, 999_999, DISTINCT - 1] {
                let low = u8::try_from(number % 64).expect("below 64");
                let port = u16::try_from(1024 + number / 64).expect("a port");
                let client = SocketAddr::new(forged(server, low), port);
                let built = packets::tcp(client, server).flags(packets::SYN).build();
                let tcp = syn.layout.tcp;
                let sent = syn.numbered(number);
                assert_eq!(sent[tcp..], built[14 + tcp..], "{number}");
                assert_eq!(sent[12..20], built[26..34], "{number}");
            }
        }
    }

    #[test]
    fn a_million_syns_are_distinct() {
        let mut syn = Syn::new("10.200.0.1:30001".parse().expect("an address"));
        let mut seen = BTreeSet::new();
        for number in (0..1_000_000).step_by(97) {
            let packet = syn.numbered(number);
            assert!(seen.insert((packet[12..16].to_vec(), packet[20..22].to_vec())));
        }
        const { assert!(DISTINCT > 3_000_000) };
    }
}
