//! From bytes to what a decision needs: one pass, no state, no byte beyond the IP packet's end.
//!
//! A parser that guesses would let two readers of one packet disagree, so what contradicts itself
//! is an error, and what cannot be translated safely is [`Transport::Other`].

use core::error::Error;
use core::fmt;

use crate::family::Family;
use crate::flow::{FlowTuple, Protocol};
use crate::icmp::{self, ErrorKind};
use crate::packet::PacketRead;
use crate::wire::ip::{IpHeader, icmp_protocol};
use crate::wire::{ethernet, sctp, tcp, udp};

pub use crate::wire::tcp::TcpFlags;

/// The longest packet whose length fits its IP header's field.
const MAX_CLAIMED_LENGTH: u32 = 0xffff;

/// Why a packet has no meaning here. All but `NotIp` are counted as malformed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ParseError {
    /// Neither IPv4 nor IPv6, or behind more than two VLAN tags.
    NotIp,
    /// Ends within a header, or before the length its IP header claims.
    TooShort,
    /// The version in the IP header is not the EtherType's.
    WrongVersion,
    /// An IPv4 header that claims to be shorter than 20 bytes.
    BadHeaderLength,
    /// More extension headers than are walked.
    TooManyExtensions,
    /// A quoted packet that has no ports.
    NoPorts,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotIp => "neither IPv4 nor IPv6 behind at most two VLAN tags",
            Self::TooShort => "the packet ends within its headers",
            Self::WrongVersion => "the IP version is not the one the EtherType names",
            Self::BadHeaderLength => "the IPv4 header is shorter than 20 bytes",
            Self::TooManyExtensions => "too many or too long IPv6 extension headers",
            Self::NoPorts => "the quoted packet has no ports",
        })
    }
}

impl Error for ParseError {}

/// Where the IP header is and which one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Link {
    /// Offset of the IP header: 14, 18 or 22.
    pub l3: u32,
    /// Whether the EtherType is IPv6's.
    pub is_v6: bool,
}

/// Which part of a datagram an IP packet carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FragmentPart {
    /// All of it.
    Whole,
    /// Its beginning, with the transport header.
    First {
        /// What its fragments have in common; IPv4's is 16 bits wide.
        identification: u32,
    },
    /// Another part, without transport header.
    Later {
        /// What its fragments have in common; IPv4's is 16 bits wide.
        identification: u32,
    },
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport<F: Family> {
    /// TCP, UDP or SCTP with a complete header.
    Ports {
        /// Addresses and ports.
        tuple: FlowTuple<F>,
        /// Control bits, of TCP only.
        tcp_flags: Option<TcpFlags>,
    },
    /// A later fragment of TCP, UDP or SCTP; its ports were in the first one. IPv6 destination
    /// options between the fragment header and the transport header hide the protocol: then this
    /// is `Other`.
    LaterFragment {
        /// Transport protocol.
        protocol: Protocol,
    },
    /// An ICMP or ICMPv6 echo request, not fragmented.
    EchoRequest,
    /// An ICMP or ICMPv6 error, not fragmented.
    IcmpError {
        /// What it says.
        kind: ErrorKind,
        /// Offset of the IP header of the quoted packet: see [`icmp::parse_quoted`].
        quoted: u32,
    },
    /// Anything else over IP.
    Other {
        /// IANA protocol number.
        protocol: u8,
    },
}

/// A parsed IP packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet<F: Family> {
    /// Offset of the IP header.
    pub l3: u32,
    /// Offset of what follows the IP header and its options or extension headers.
    pub l4: u32,
    /// Source address.
    pub source: F::Address,
    /// Destination address.
    pub destination: F::Address,
    /// IANA number of what is at `l4`.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Bytes from the IP header to the end of its payload. Ethernet padding may follow; the packet
    /// has at least this many.
    pub total_length: u32,
    /// Which part of a datagram this is.
    pub fragment: FragmentPart,
    /// What is at `l4`.
    pub transport: Transport<F>,
}

impl<F: Family> Packet<F> {
    /// Offset of the first byte after the IP payload.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.l3.wrapping_add(self.total_length)
    }

    /// Whether its ports are in the packet.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.transport, Transport::Ports { .. })
    }

    /// Addresses and ports, where the packet has ports.
    #[inline(always)]
    pub const fn tuple(&self) -> Option<FlowTuple<F>> {
        match self.transport {
            Transport::Ports { tuple, .. } => Some(tuple),
            _ => None,
        }
    }
}

/// Finds the IP header behind Ethernet and up to two VLAN tags. In tc the outermost tag is not in
/// the packet but beside it.
#[inline(always)]
pub fn parse_link(packet: &impl PacketRead) -> Result<Link, ParseError> {
    let type_at = |offset| {
        packet
            .read::<2>(offset)
            .map(u16::from_be_bytes)
            .ok_or(ParseError::TooShort)
    };
    let mut l3 = ethernet::HEADER_LENGTH;
    let mut ether_type = type_at(12)?;
    if ethernet::is_tag(ether_type) {
        ether_type = type_at(16)?;
        l3 = 18;
        if ethernet::is_tag(ether_type) {
            ether_type = type_at(20)?;
            l3 = 22;
        }
    }
    match ether_type {
        ethernet::IPV4 => Ok(Link { l3, is_v6: false }),
        ethernet::IPV6 => Ok(Link { l3, is_v6: true }),
        _ => Err(ParseError::NotIp),
    }
}

/// Parses the IP packet at `l3`.
#[inline(always)]
pub fn parse<F: Family>(packet: &impl PacketRead, l3: u32) -> Result<Packet<F>, ParseError> {
    let header = IpHeader::<F>::read(packet, l3)?;
    let present = packet.length().saturating_sub(l3);
    let total_length = if header.has_open_length && present > MAX_CLAIMED_LENGTH {
        present
    } else {
        header.total_length
    };
    if total_length > present || header.header_length > total_length {
        return Err(ParseError::TooShort);
    }
    let mut parsed = Packet {
        l3,
        l4: l3.wrapping_add(header.header_length),
        source: header.source,
        destination: header.destination,
        protocol: header.protocol,
        ttl: header.ttl,
        total_length,
        fragment: header.fragment,
        transport: Transport::Other {
            protocol: header.protocol,
        },
    };
    let is_later = matches!(header.fragment, FragmentPart::Later { .. });
    match Protocol::from_number(header.protocol) {
        Some(protocol) if is_later => parsed.transport = Transport::LaterFragment { protocol },
        Some(protocol) => parsed.transport = ports(packet, &parsed, protocol)?,
        None if header.protocol == icmp_protocol::<F>()
            && matches!(header.fragment, FragmentPart::Whole) =>
        {
            parsed.transport = icmp::classify(packet, &parsed)?;
        }
        None => {}
    }
    Ok(parsed)
}

#[inline(always)]
fn ports<F: Family>(
    packet: &impl PacketRead,
    parsed: &Packet<F>,
    protocol: Protocol,
) -> Result<Transport<F>, ParseError> {
    // A first fragment that ends within the transport header is an attack (RFC 1858 §3).
    let needed = match protocol {
        Protocol::Tcp => tcp::MIN_HEADER_LENGTH,
        Protocol::Udp => udp::HEADER_LENGTH,
        Protocol::Sctp => sctp::HEADER_LENGTH,
    };
    if parsed.l4.wrapping_add(needed) > parsed.end() {
        return Err(ParseError::TooShort);
    }
    let (ports, tcp_flags) = if matches!(protocol, Protocol::Tcp) {
        let [s0, s1, d0, d1, .., flags] =
            packet.read::<14>(parsed.l4).ok_or(ParseError::TooShort)?;
        ([s0, s1, d0, d1], Some(TcpFlags(flags)))
    } else {
        (
            packet.read::<4>(parsed.l4).ok_or(ParseError::TooShort)?,
            None,
        )
    };
    let [s0, s1, d0, d1] = ports;
    Ok(Transport::Ports {
        tuple: FlowTuple {
            source: parsed.source,
            destination: parsed.destination,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            protocol,
        },
        tcp_flags,
    })
}
