//! Packets for tests: built field by field, with every checksum computed in full by etherparse, so
//! that they are an oracle independent of the code under test.
//!
//! ```
//! # use lb_tests::packets;
//! let client = "10.0.1.2:40000".parse().unwrap();
//! let service = "10.96.0.1:80".parse().unwrap();
//! let syn = packets::tcp(client, service).flags(packets::SYN).build();
//! let gone = packets::unreachable(service.ip(), client.ip(), &syn).build();
//! assert_eq!(gone.len(), 14 + 20 + 8 + 40);
//! ```
//!
//! Nothing here knows `lb-common`, whose own tests include this file.

use std::net::{IpAddr, SocketAddr};

use etherparse::checksum::Sum16BitWords;

#[path = "packets/diff.rs"]
pub mod diff;

/// MAC of the sender of every packet.
pub const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC of the receiver of every packet.
pub const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// TCP: no more data.
pub const FIN: u8 = 1;
/// TCP: opens a connection.
pub const SYN: u8 = 2;
/// TCP: ends a connection.
pub const RST: u8 = 4;
/// TCP: acknowledges.
pub const ACK: u8 = 16;

/// A packet to be built.
#[derive(Clone, Debug)]
pub struct PacketBuilder {
    source: IpAddr,
    destination: IpAddr,
    tags: Vec<u16>,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    ttl: u8,
    identification: u32,
    protocol: u8,
    /// Transport header with a checksum of 0.
    header: Vec<u8>,
    /// Where its checksum is, if it has one that covers header and payload.
    checksum_offset: Option<usize>,
    has_pseudo_header: bool,
    payload: Vec<u8>,
}

/// A TCP segment with ACK set and sequence numbers 1000 and 2000.
pub fn tcp(source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    let mut header = ports(source, destination);
    header.extend(1000_u32.to_be_bytes());
    header.extend(2000_u32.to_be_bytes());
    header.extend([0x50, ACK, 0xff, 0xff, 0, 0, 0, 0]);
    PacketBuilder::new(source.ip(), destination.ip(), 6, header, Some(16))
}

/// A UDP datagram.
pub fn udp(source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    let mut header = ports(source, destination);
    header.extend([0; 4]);
    PacketBuilder::new(source.ip(), destination.ip(), 17, header, Some(6))
}

/// An SCTP packet with one INIT chunk, whose CRC-32C is computed bit by bit.
pub fn sctp(source: SocketAddr, destination: SocketAddr) -> PacketBuilder {
    let mut header = ports(source, destination);
    header.extend([0; 8]);
    header.extend([
        1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 7,
    ]);
    PacketBuilder::new(source.ip(), destination.ip(), 132, header, None)
}

/// An echo request of the addresses' family.
pub fn echo_request(source: IpAddr, destination: IpAddr) -> PacketBuilder {
    let number = if source.is_ipv4() { 8 } else { 128 };
    icmp(source, destination, [number, 0], [0, 7, 0, 1]).payload(b"steerage")
}

/// The reply to [`echo_request`].
pub fn echo_reply(source: IpAddr, destination: IpAddr) -> PacketBuilder {
    let number = if source.is_ipv4() { 0 } else { 129 };
    icmp(source, destination, [number, 0], [0, 7, 0, 1]).payload(b"steerage")
}

/// "Port unreachable" about the packet in `frame`, of which it quotes at most 128 bytes.
pub fn unreachable(source: IpAddr, destination: IpAddr, frame: &[u8]) -> PacketBuilder {
    let code = if source.is_ipv4() { [3, 3] } else { [1, 4] };
    icmp(source, destination, code, [0; 4]).payload(quote(frame, 128))
}

/// "Fragmentation needed" or "packet too big" about the packet in `frame`.
pub fn too_big(source: IpAddr, destination: IpAddr, mtu: u16, frame: &[u8]) -> PacketBuilder {
    let [high, low] = mtu.to_be_bytes();
    let code = if source.is_ipv4() { [3, 4] } else { [2, 0] };
    icmp(source, destination, code, [0, 0, high, low]).payload(quote(frame, 128))
}

/// "Time exceeded" about the packet in `frame`, of which it quotes `length` bytes.
pub fn time_exceeded(
    source: IpAddr,
    destination: IpAddr,
    frame: &[u8],
    length: usize,
) -> PacketBuilder {
    let number = if source.is_ipv4() { 11 } else { 3 };
    icmp(source, destination, [number, 0], [0; 4]).payload(quote(frame, length))
}

/// Any ICMP or ICMPv6 message: type and code, then the four bytes after the checksum.
pub fn icmp(
    source: IpAddr,
    destination: IpAddr,
    [number, code]: [u8; 2],
    [a, b, c, d]: [u8; 4],
) -> PacketBuilder {
    let protocol = if source.is_ipv4() { 1 } else { 58 };
    let header = vec![number, code, 0, 0, a, b, c, d];
    let mut packet = PacketBuilder::new(source, destination, protocol, header, Some(2));
    packet.has_pseudo_header = source.is_ipv6();
    packet
}

/// Any other protocol over IP.
pub fn raw(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> PacketBuilder {
    PacketBuilder::new(source, destination, protocol, Vec::new(), None).payload(payload)
}

impl PacketBuilder {
    fn new(
        source: IpAddr,
        destination: IpAddr,
        protocol: u8,
        header: Vec<u8>,
        checksum_offset: Option<usize>,
    ) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one family");
        Self {
            source,
            destination,
            tags: Vec::new(),
            options: Vec::new(),
            extensions: Vec::new(),
            ttl: 64,
            identification: 0x1234,
            protocol,
            header,
            checksum_offset,
            has_pseudo_header: true,
            payload: Vec::new(),
        }
    }

    /// Sets the TCP control bits.
    ///
    /// # Panics
    ///
    /// If this is no TCP segment.
    #[must_use]
    pub fn flags(mut self, flags: u8) -> Self {
        assert_eq!(self.protocol, 6);
        self.header[13] = flags;
        self
    }

    /// Sets the TCP sequence and acknowledgement numbers.
    ///
    /// # Panics
    ///
    /// If this is no TCP segment.
    #[must_use]
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        assert_eq!(self.protocol, 6);
        self.header[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.header[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        self
    }

    /// Sets the TCP window.
    ///
    /// # Panics
    ///
    /// If this is no TCP segment.
    #[must_use]
    pub fn window(mut self, window: u16) -> Self {
        assert_eq!(self.protocol, 6);
        self.header[14..16].copy_from_slice(&window.to_be_bytes());
        self
    }

    /// Leaves the checksum 0, as UDP senders may.
    #[must_use]
    pub const fn without_checksum(mut self) -> Self {
        self.checksum_offset = None;
        self
    }

    /// Sets what follows the transport header.
    #[must_use]
    pub fn payload(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Sets the time to live or hop limit.
    #[must_use]
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Sets what the fragments of this packet have in common.
    #[must_use]
    pub const fn identification(mut self, identification: u32) -> Self {
        self.identification = identification;
        self
    }

    /// Adds a VLAN tag with this EtherType (0x8100 or 0x88a8), inside those before it.
    #[must_use]
    pub fn tag(mut self, ether_type: u16) -> Self {
        self.tags.push(ether_type);
        self
    }

    /// Adds `words` IPv4 option words, all "no operation".
    ///
    /// # Panics
    ///
    /// If this is IPv6 or there are more than ten.
    #[must_use]
    pub fn options(mut self, words: usize) -> Self {
        assert!(self.source.is_ipv4() && words <= 10);
        self.options = vec![1; words * 4];
        self
    }

    /// Adds an IPv6 extension header: its number, and its bytes from the second one on (the first,
    /// the next header's number, is filled in).
    ///
    /// # Panics
    ///
    /// If this is IPv4.
    #[must_use]
    pub fn extension(mut self, number: u8, rest: &[u8]) -> Self {
        assert!(self.source.is_ipv6());
        self.extensions.push((number, rest.to_vec()));
        self
    }

    /// The frame.
    pub fn build(&self) -> Vec<u8> {
        self.frame(&self.ip(&self.transport(), None))
    }

    /// The frames of this packet in fragments that carry at most `size` bytes each, which is a
    /// multiple of 8.
    ///
    /// # Panics
    ///
    /// If `size` is not a multiple of 8.
    pub fn fragments(&self, size: usize) -> Vec<Vec<u8>> {
        assert_eq!(size % 8, 0);
        let transport = self.transport();
        let count = transport.len().div_ceil(size);
        let part = |(index, bytes): (usize, &[u8])| {
            let position = u16::try_from(index * size / 8).expect("a datagram has 64 KiB");
            self.frame(&self.ip(bytes, Some((position, index + 1 < count))))
        };
        transport.chunks(size).enumerate().map(part).collect()
    }

    fn transport(&self) -> Vec<u8> {
        let mut bytes = [&self.header[..], &self.payload].concat();
        if self.protocol == 17 && !self.header.is_empty() {
            let length = u16::try_from(bytes.len()).expect("a datagram has 64 KiB");
            bytes[4..6].copy_from_slice(&length.to_be_bytes());
        }
        if self.protocol == 132 && !self.header.is_empty() {
            let crc = crc32c(&bytes);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
        }
        if let Some(offset) = self.checksum_offset {
            let mut checksum = checksum(&self.pseudo_header(bytes.len()).add_slice(&bytes));
            if self.protocol == 17 && checksum == 0 {
                checksum = 0xffff;
            }
            bytes[offset..offset + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        bytes
    }

    fn pseudo_header(&self, length: usize) -> Sum16BitWords {
        let mut sum = Sum16BitWords::new();
        if !self.has_pseudo_header {
            return sum;
        }
        let sum = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => sum
                .add_4bytes(source.octets())
                .add_4bytes(destination.octets()),
            (IpAddr::V6(source), IpAddr::V6(destination)) => sum
                .add_16bytes(source.octets())
                .add_16bytes(destination.octets()),
            _ => unreachable!("one family"),
        };
        let length = u32::try_from(length).expect("a datagram has 64 KiB");
        sum.add_2bytes([0, self.protocol])
            .add_4bytes(length.to_be_bytes())
    }

    /// The IP packet; `fragment` is a position in units of 8 bytes and whether more follow.
    fn ip(&self, transport: &[u8], fragment: Option<(u16, bool)>) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let length = 20 + self.options.len() + transport.len();
                let length = u16::try_from(length).expect("a datagram has 64 KiB");
                let words = u8::try_from(self.options.len() / 4).expect("at most ten");
                let mut header = vec![0x45 + words, 0];
                header.extend(length.to_be_bytes());
                header.extend(&self.identification.to_be_bytes()[2..]);
                let flags = fragment.map_or(0x4000, |(position, has_more)| {
                    position | if has_more { 0x2000 } else { 0 }
                });
                header.extend(flags.to_be_bytes());
                header.extend([self.ttl, self.protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let checksum = checksum(&Sum16BitWords::new().add_slice(&header));
                header[10..12].copy_from_slice(&checksum.to_be_bytes());
                [&header[..], transport].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut chain = self.extensions.clone();
                if let Some((position, has_more)) = fragment {
                    let field = (position << 3) | u16::from(has_more);
                    let mut rest = vec![0];
                    rest.extend(field.to_be_bytes());
                    rest.extend(self.identification.to_be_bytes());
                    chain.push((44, rest));
                }
                let mut payload = transport.to_vec();
                let mut next = self.protocol;
                for (number, rest) in chain.iter().rev() {
                    payload = [&[next][..], rest, &payload].concat();
                    next = *number;
                }
                let length = u16::try_from(payload.len()).expect("a datagram has 64 KiB");
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(length.to_be_bytes());
                header.extend([next, self.ttl]);
                header.extend(source.octets());
                header.extend(destination.octets());
                [&header[..], &payload].concat()
            }
            _ => unreachable!("one family"),
        }
    }

    fn frame(&self, ip: &[u8]) -> Vec<u8> {
        let mut frame = [DESTINATION_MAC, SOURCE_MAC].concat();
        for (id, ether_type) in (1_u16..).zip(&self.tags) {
            frame.extend(ether_type.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
        let ether_type: u16 = if self.source.is_ipv4() {
            0x0800
        } else {
            0x86dd
        };
        frame.extend(ether_type.to_be_bytes());
        frame.extend(ip);
        frame
    }
}

fn ports(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    [
        source.port().to_be_bytes(),
        destination.port().to_be_bytes(),
    ]
    .concat()
}

/// The CRC-32C of `bytes` (RFC 9260 appendix A), bit by bit; SCTP has it in little-endian order, with
/// 0 in its own place.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let bit = |state: u32, _| state >> 1 ^ if state & 1 == 1 { 0x82f6_3b78 } else { 0 };
    !bytes.iter().fold(u32::MAX, |state, byte| {
        (0..8).fold(state ^ u32::from(*byte), bit)
    })
}

fn checksum(sum: &Sum16BitWords) -> u16 {
    u16::from_be_bytes(sum.ones_complement().to_ne_bytes())
}

/// The first `length` bytes of the IP packet in an untagged frame, or all it has.
fn quote(frame: &[u8], length: usize) -> &[u8] {
    let packet = &frame[14..];
    &packet[..length.min(packet.len())]
}
