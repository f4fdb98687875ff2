//! The IP header of either family, and the few places that have to know which one it is.

use crate::checksum::{Sum, update};
use crate::family::Family;
use crate::hash::lower;
use crate::packet::{PacketRead, PacketWrite};
use crate::parse::{Fragment, ParseError};
use crate::wire::{icmp, ipv4, ipv6};

/// Time to live of the packets that we make (RFC 1700).
pub const TTL: u8 = 64;

/// An IP header with its options or extension headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IpHeader<F: Family> {
    /// Source address.
    pub source: F::Address,
    /// Destination address.
    pub destination: F::Address,
    /// IANA number of what follows the last header.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Bytes from the start of this header to what follows the last one. At most 60 for IPv4,
    /// 560 for IPv6.
    pub header_length: u32,
    /// Bytes of headers and payload that the header claims.
    pub total_length: u32,
    /// Whether the length field is 0, which the kernel leaves it in packets above 64 KiB that it
    /// has yet to cut (BIG TCP).
    pub has_open_length: bool,
    /// Which part of a datagram this is.
    pub fragment: Fragment,
}

impl<F: Family> IpHeader<F> {
    /// Reads the header at `l3`.
    #[inline(always)]
    pub fn read(packet: &impl PacketRead, l3: u32) -> Result<Self, ParseError> {
        if F::IS_V6 {
            Self::read_v6(packet, l3)
        } else {
            Self::read_v4(packet, l3)
        }
    }

    #[inline(always)]
    fn read_v4(packet: &impl PacketRead, l3: u32) -> Result<Self, ParseError> {
        let header = ipv4::Header::read(packet, l3)?;
        let identification = u32::from(header.identification);
        Ok(Self {
            source: from_v4::<F>(header.source),
            destination: from_v4::<F>(header.destination),
            protocol: header.protocol,
            ttl: header.ttl,
            header_length: header.header_length,
            total_length: u32::from(header.total_length),
            has_open_length: header.total_length == 0,
            fragment: Fragment {
                is_part: header.fragment_offset != 0 || header.has_more_fragments,
                is_later: header.fragment_offset != 0,
                identification,
            },
        })
    }

    #[inline(always)]
    fn read_v6(packet: &impl PacketRead, l3: u32) -> Result<Self, ParseError> {
        let header = ipv6::Header::read(packet, l3)?;
        let chain = ipv6::walk(
            packet,
            l3.wrapping_add(ipv6::HEADER_LENGTH),
            header.next_header,
        )?;
        Ok(Self {
            source: F::from_halves(header.source),
            destination: F::from_halves(header.destination),
            protocol: chain.protocol,
            ttl: header.hop_limit,
            header_length: u32::from(chain.length).wrapping_add(ipv6::HEADER_LENGTH),
            total_length: u32::from(header.payload_length).wrapping_add(ipv6::HEADER_LENGTH),
            has_open_length: header.payload_length == 0,
            // A fragment header alone makes no fragment (RFC 6946): then both are false.
            fragment: Fragment {
                is_part: chain.offset != 0 || chain.has_more,
                is_later: chain.offset != 0,
                identification: chain.identification,
            },
        })
    }
}

/// Replaces both addresses of the header at `l3`; `change` is theirs, for IPv4's header checksum.
#[inline(always)]
pub fn write_addresses<F: Family>(
    packet: &mut impl PacketWrite,
    l3: u32,
    source: F::Address,
    destination: F::Address,
    change: Sum,
) -> Option<()> {
    let [s0, s1] = F::halves(source);
    let [d0, d1] = F::halves(destination);
    if F::IS_V6 {
        let words: [[u8; 8]; 4] = [
            s0.to_be_bytes(),
            s1.to_be_bytes(),
            d0.to_be_bytes(),
            d1.to_be_bytes(),
        ];
        let bytes: [u8; 32] = zerocopy::transmute!(words);
        packet.write(l3.wrapping_add(ipv6::SOURCE_OFFSET), bytes)
    } else {
        // One write: the checksum is next to the addresses.
        let offset = l3.wrapping_add(ipv4::CHECKSUM_OFFSET);
        let old = u16::from_be_bytes(packet.read(offset)?);
        let [c0, c1] = update(old, change).to_be_bytes();
        let [s0, s1, s2, s3] = lower(s0).to_be_bytes();
        let [d0, d1, d2, d3] = lower(d0).to_be_bytes();
        packet.write(offset, [c0, c1, s0, s1, s2, s3, d0, d1, d2, d3])
    }
}

/// Writes a fresh header without options at `l3`: `payload_length` bytes of `protocol` follow it.
#[inline(always)]
pub fn write_header<F: Family>(
    packet: &mut impl PacketWrite,
    l3: u32,
    payload_length: u16,
    protocol: u8,
    source: F::Address,
    destination: F::Address,
) -> Option<()> {
    let source = F::halves(source);
    let destination = F::halves(destination);
    if F::IS_V6 {
        let header = ipv6::build(payload_length, protocol, TTL, source, destination);
        packet.write(l3, header)
    } else {
        let [source, _] = source;
        let [destination, _] = destination;
        let header = ipv4::build(
            payload_length.wrapping_add(20),
            protocol,
            TTL,
            lower(source).to_be_bytes(),
            lower(destination).to_be_bytes(),
        );
        packet.write(l3, header)
    }
}

/// Bytes of a header without options.
#[inline(always)]
pub const fn min_header_length<F: Family>() -> u32 {
    if F::IS_V6 {
        ipv6::HEADER_LENGTH
    } else {
        ipv4::MIN_HEADER_LENGTH
    }
}

/// IANA number of the family's ICMP.
#[inline(always)]
pub const fn icmp_protocol<F: Family>() -> u8 {
    if F::IS_V6 {
        icmp::PROTOCOL_V6
    } else {
        icmp::PROTOCOL_V4
    }
}

/// The sum of the pseudo-header over which TCP, UDP and ICMPv6 compute their checksums
/// (RFC 9293 §3.1, RFC 8200 §8.1). `length` is that of the header and payload after IP's.
#[must_use]
#[inline(always)]
pub fn pseudo_header<F: Family>(
    source: F::Address,
    destination: F::Address,
    protocol: u8,
    length: u32,
) -> Sum {
    Sum::ZERO
        .address::<F>(source)
        .address::<F>(destination)
        .word(u16::from(protocol))
        .double(length)
}

#[inline(always)]
fn from_v4<F: Family>(address: [u8; 4]) -> F::Address {
    F::from_halves([u64::from(u32::from_be_bytes(address)), 0])
}
