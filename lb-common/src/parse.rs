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

/// A [`FragmentPart`] as packets hold it: every field always set, since the kernel's verifier
/// refuses to move what one variant of an enum leaves undefined.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fragment {
    /// Whether this is not all of its datagram.
    pub is_part: bool,
    /// Whether it is not the beginning.
    pub is_later: bool,
    /// What the datagram's fragments have in common, 0 for a whole one.
    pub identification: u32,
}

impl Fragment {
    /// The same as an enum.
    #[inline(always)]
    pub const fn part(self) -> FragmentPart {
        let identification = self.identification;
        match (self.is_part, self.is_later) {
            (false, _) => FragmentPart::Whole,
            (true, false) => FragmentPart::First { identification },
            (true, true) => FragmentPart::Later { identification },
        }
    }
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
    pub fragment: Fragment,
    /// What is at `l4`, and what it says: all of it always set, as in [`Fragment`].
    contents: Contents,
}

/// Which [`Transport`] it is.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(u8)]
enum Kind {
    #[default]
    Other = 0,
    Ports = 1,
    LaterFragment = 2,
    EchoRequest = 3,
    IcmpError = 4,
}

/// A [`Transport`], laid flat.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Contents {
    kind: Kind,
    protocol: Protocol,
    tcp_flags: TcpFlags,
    error: ErrorKind,
    source_port: u16,
    destination_port: u16,
    quoted: u32,
}

impl Contents {
    const OTHER: Self = Self {
        kind: Kind::Other,
        protocol: Protocol::Tcp,
        tcp_flags: TcpFlags(0),
        error: ErrorKind::Unreachable,
        source_port: 0,
        destination_port: 0,
        quoted: 0,
    };
}

impl<F: Family> Packet<F> {
    /// The whole packet with `tuple` whose headers, the IP header's at `l3`, have nothing between them;
    /// the flags are TCP's.
    #[inline(always)]
    pub(crate) const fn plain(
        tuple: &FlowTuple<F>,
        tcp_flags: TcpFlags,
        ttl: u8,
        (l3, l4, end): (u32, u32, u32),
    ) -> Self {
        Self {
            l3,
            l4,
            source: tuple.source,
            destination: tuple.destination,
            protocol: tuple.protocol.number(),
            ttl,
            total_length: end.wrapping_sub(l3),
            fragment: Fragment {
                is_part: false,
                is_later: false,
                identification: 0,
            },
            contents: Contents {
                kind: Kind::Ports,
                protocol: tuple.protocol,
                tcp_flags,
                source_port: tuple.source_port,
                destination_port: tuple.destination_port,
                ..Contents::OTHER
            },
        }
    }

    /// Gives it the addresses and ports of `tuple`.
    #[inline(always)]
    pub(crate) const fn move_to(&mut self, tuple: &FlowTuple<F>) {
        self.source = tuple.source;
        self.destination = tuple.destination;
        self.contents.source_port = tuple.source_port;
        self.contents.destination_port = tuple.destination_port;
    }

    /// What is at `l4`.
    #[inline(always)]
    pub const fn transport(&self) -> Transport<F> {
        let contents = self.contents;
        match contents.kind {
            Kind::Ports => Transport::Ports {
                tuple: FlowTuple {
                    source: self.source,
                    destination: self.destination,
                    source_port: contents.source_port,
                    destination_port: contents.destination_port,
                    protocol: contents.protocol,
                },
                tcp_flags: match contents.protocol {
                    Protocol::Tcp => Some(contents.tcp_flags),
                    Protocol::Udp | Protocol::Sctp => None,
                },
            },
            Kind::LaterFragment => Transport::LaterFragment {
                protocol: contents.protocol,
            },
            Kind::EchoRequest => Transport::EchoRequest,
            Kind::IcmpError => Transport::IcmpError {
                kind: contents.error,
                quoted: contents.quoted,
            },
            Kind::Other => Transport::Other {
                protocol: self.protocol,
            },
        }
    }

    /// Makes it an echo request.
    #[inline(always)]
    pub(crate) const fn set_echo_request(&mut self) {
        self.contents.kind = Kind::EchoRequest;
    }

    /// Makes it an ICMP error of this kind, which quotes a packet at offset `quoted`.
    #[inline(always)]
    pub(crate) const fn set_error(&mut self, kind: ErrorKind, quoted: u32) {
        self.contents.kind = Kind::IcmpError;
        self.contents.error = kind;
        self.contents.quoted = quoted;
    }

    /// Offset of the first byte after the IP payload.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.l3.wrapping_add(self.total_length)
    }

    /// Whether its ports are in the packet.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        matches!(self.contents.kind, Kind::Ports)
    }

    /// Whether it is an ICMP error.
    #[inline(always)]
    pub const fn is_error(&self) -> bool {
        matches!(self.contents.kind, Kind::IcmpError)
    }

    /// Whether it is an ICMP redirect.
    #[inline(always)]
    pub const fn is_redirect(&self) -> bool {
        self.is_error() && matches!(self.contents.error, ErrorKind::Redirect)
    }

    /// Addresses and ports, where the packet has ports.
    #[inline(always)]
    pub const fn tuple(&self) -> Option<FlowTuple<F>> {
        match self.transport() {
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
        contents: Contents::OTHER,
    };
    let is_later = header.fragment.is_later;
    match Protocol::from_number(header.protocol) {
        Some(protocol) if is_later => {
            parsed.contents.kind = Kind::LaterFragment;
            parsed.contents.protocol = protocol;
        }
        Some(protocol) => ports(packet, &mut parsed, protocol)?,
        None if header.protocol == icmp_protocol::<F>() && !header.fragment.is_part => {
            icmp::classify(packet, &mut parsed)?;
        }
        None => {}
    }
    Ok(parsed)
}

#[inline(always)]
fn ports<F: Family>(
    packet: &impl PacketRead,
    parsed: &mut Packet<F>,
    protocol: Protocol,
) -> Result<(), ParseError> {
    // A first fragment that ends within the transport header is an attack (RFC 1858 §3).
    let needed = match protocol {
        Protocol::Tcp => tcp::MIN_HEADER_LENGTH,
        Protocol::Udp => udp::HEADER_LENGTH,
        Protocol::Sctp => sctp::HEADER_LENGTH,
    };
    if parsed.l4.wrapping_add(needed) > parsed.end() {
        return Err(ParseError::TooShort);
    }
    let contents = &mut parsed.contents;
    let [s0, s1, d0, d1] = if matches!(protocol, Protocol::Tcp) {
        let [s0, s1, d0, d1, .., flags] =
            packet.read::<14>(parsed.l4).ok_or(ParseError::TooShort)?;
        contents.tcp_flags = TcpFlags(flags);
        [s0, s1, d0, d1]
    } else if matches!(protocol, Protocol::Sctp) {
        // All of the header, whose checksum may be changed.
        let [s0, s1, d0, d1, ..] = packet.read::<12>(parsed.l4).ok_or(ParseError::TooShort)?;
        [s0, s1, d0, d1]
    } else {
        packet.read::<4>(parsed.l4).ok_or(ParseError::TooShort)?
    };
    contents.kind = Kind::Ports;
    contents.protocol = protocol;
    contents.source_port = u16::from_be_bytes([s0, s1]);
    contents.destination_port = u16::from_be_bytes([d0, d1]);
    Ok(())
}
