//! IPv4 (RFC 791).

use crate::checksum::Sum;
use crate::packet::PacketRead;
use crate::parse::ParseError;

/// Bytes of a header without options.
pub const MIN_HEADER_LENGTH: u32 = 20;
/// Offset of the header checksum, from the header. The source and the destination follow it.
pub const CHECKSUM_OFFSET: u32 = 10;
/// Offset of the time to live, from the header. The protocol follows it.
pub const TTL_OFFSET: u32 = 8;

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

/// The fields that decisions need; options are skipped.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Bytes of the header with its options, 20 to 60.
    pub header_length: u32,
    /// Bytes of header and payload; 0 in a segment that the kernel has yet to cut (BIG TCP).
    pub total_length: u16,
    /// Identification, the same in every fragment of a datagram.
    pub identification: u16,
    /// Whether another fragment follows.
    pub has_more_fragments: bool,
    /// Position of this fragment, in units of 8 bytes.
    pub fragment_offset: u16,
    /// Time to live.
    pub ttl: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Header {
    /// Reads the header at `l3`, without its options.
    #[inline(always)]
    pub fn read(packet: &impl PacketRead, l3: u32) -> Result<Self, ParseError> {
        let bytes = packet.read::<20>(l3).ok_or(ParseError::TooShort)?;
        let [
            first,
            _,
            l0,
            l1,
            i0,
            i1,
            f0,
            f1,
            ttl,
            protocol,
            _,
            _,
            rest @ ..,
        ] = bytes;
        let [s0, s1, s2, s3, d0, d1, d2, d3] = rest;
        if first >> 4 != 4 {
            return Err(ParseError::WrongVersion);
        }
        // The mask is also what tells the kernel's verifier that offsets stay small.
        let header_length = u32::from(first & 0x0f) << 2;
        if header_length < MIN_HEADER_LENGTH {
            return Err(ParseError::BadHeaderLength);
        }
        let flags = u16::from_be_bytes([f0, f1]);
        Ok(Self {
            header_length,
            total_length: u16::from_be_bytes([l0, l1]),
            identification: u16::from_be_bytes([i0, i1]),
            has_more_fragments: flags & MORE_FRAGMENTS != 0,
            fragment_offset: flags & FRAGMENT_OFFSET,
            ttl,
            protocol,
            source: [s0, s1, s2, s3],
            destination: [d0, d1, d2, d3],
        })
    }
}

/// A header without options, with Don't Fragment set and a right checksum.
#[must_use]
#[inline(always)]
pub fn build(
    total_length: u16,
    protocol: u8,
    ttl: u8,
    source: [u8; 4],
    destination: [u8; 4],
) -> [u8; 20] {
    let checksum = Sum::ZERO
        .word(0x4500)
        .word(total_length)
        .word(0x4000)
        .word(u16::from_be_bytes([ttl, protocol]))
        .double(u32::from_be_bytes(source))
        .double(u32::from_be_bytes(destination))
        .checksum();
    let [l0, l1] = total_length.to_be_bytes();
    let [c0, c1] = checksum.to_be_bytes();
    let [s0, s1, s2, s3] = source;
    let [d0, d1, d2, d3] = destination;
    [
        0x45, 0, l0, l1, 0, 0, 0x40, 0, ttl, protocol, c0, c1, s0, s1, s2, s3, d0, d1, d2, d3,
    ]
}
