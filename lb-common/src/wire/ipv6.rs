//! IPv6 and its extension headers (RFC 8200, RFC 4302, RFC 6275, RFC 7401, RFC 5533).

use crate::packet::PacketRead;
use crate::parse::ParseError;

/// Bytes of the fixed header.
pub const HEADER_LENGTH: u32 = 40;
/// Offset of the source address, from the header. The destination follows it.
pub const SOURCE_OFFSET: u32 = 8;
/// Offset of the hop limit, from the header.
pub const HOP_LIMIT_OFFSET: u32 = 7;

/// Extension headers of a chain that is walked; RFC 8504 §5.3 lets a node set such limits.
pub const MAX_EXTENSIONS: u32 = 6;
/// Bytes of extension headers of a chain that is walked, for the same reason.
pub const MAX_EXTENSION_BYTES: u32 = 512;

/// Once more than there are extensions: the last round sees what follows the last one.
const ROUNDS: u32 = MAX_EXTENSIONS + 1;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// The fields of the fixed header that decisions need.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// Bytes after the fixed header; 0 in a jumbogram, which is how the kernel hands over a
    /// segment that it has yet to cut (BIG TCP).
    pub payload_length: u16,
    /// IANA protocol number of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address as the two big-endian words of [`crate::family::Family::from_halves`].
    pub source: [u64; 2],
    /// Destination address, likewise.
    pub destination: [u64; 2],
}

impl Header {
    /// Reads the fixed header at `l3`.
    #[inline(always)]
    pub fn read(packet: &impl PacketRead, l3: u32) -> Result<Self, ParseError> {
        let bytes = packet.read::<40>(l3).ok_or(ParseError::TooShort)?;
        let words: [[u8; 8]; 5] = zerocopy::transmute!(bytes);
        let [
            [first, _, _, _, l0, l1, next_header, hop_limit],
            s0,
            s1,
            d0,
            d1,
        ] = words;
        if first >> 4 != 6 {
            return Err(ParseError::WrongVersion);
        }
        Ok(Self {
            payload_length: u16::from_be_bytes([l0, l1]),
            next_header,
            hop_limit,
            source: [u64::from_be_bytes(s0), u64::from_be_bytes(s1)],
            destination: [u64::from_be_bytes(d0), u64::from_be_bytes(d1)],
        })
    }
}

/// What a fragment header says (RFC 8200 §4.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FragmentHeader {
    /// The same in every fragment of a datagram.
    pub identification: u32,
    /// Whether another fragment follows.
    pub has_more: bool,
    /// Position of this fragment, in units of 8 bytes.
    pub offset: u16,
}

/// Where a chain of extension headers ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Chain {
    /// IANA protocol number of the first header that is no extension, or that must not be skipped:
    /// a routing header with addresses still to visit, whose packet is not for its destination yet
    /// and whose checksum is about another (RFC 8200 §8.1).
    pub protocol: u8,
    /// Bytes of the extension headers before it.
    pub length: u32,
    /// The fragment header; all zeros if there was none. After that of a later fragment nothing is walked:
    /// what follows is the middle of something.
    pub fragment: FragmentHeader,
}

/// Walks the extension headers at `offset`, the first of which has the number `next_header`.
#[inline(always)]
pub fn walk(packet: &impl PacketRead, offset: u32, next_header: u8) -> Result<Chain, ParseError> {
    let mut chain = Chain {
        protocol: next_header,
        length: 0,
        fragment: FragmentHeader {
            identification: 0,
            has_more: false,
            offset: 0,
        },
    };
    for _ in 0..ROUNDS {
        if !is_extension(chain.protocol) {
            return Ok(chain);
        }
        // No extension header is shorter than 8 bytes.
        let [next, length, b2, b3, i0, i1, i2, i3] = packet
            .read::<8>(offset.wrapping_add(chain.length))
            .ok_or(ParseError::TooShort)?;
        let units = u32::from(length);
        let bytes = match chain.protocol {
            FRAGMENT => {
                let position = u16::from_be_bytes([b2, b3]);
                let fragment = FragmentHeader {
                    identification: u32::from_be_bytes([i0, i1, i2, i3]),
                    has_more: position & 1 != 0,
                    offset: position >> 3,
                };
                chain.fragment = fragment;
                if fragment.offset != 0 {
                    chain.protocol = next;
                    chain.length = chain.length.wrapping_add(8);
                    return Ok(chain);
                }
                8
            }
            AUTHENTICATION => units.wrapping_add(2) << 2,
            // Byte 3 counts the segments left.
            ROUTING if b3 != 0 => return Ok(chain),
            _ => units.wrapping_add(1) << 3,
        };
        chain.length = chain.length.wrapping_add(bytes);
        if chain.length > MAX_EXTENSION_BYTES {
            return Err(ParseError::TooManyExtensions);
        }
        chain.protocol = next;
    }
    Err(ParseError::TooManyExtensions)
}

#[inline(always)]
const fn is_extension(number: u8) -> bool {
    matches!(
        number,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION_OPTIONS
            | MOBILITY
            | HOST_IDENTITY
            | SHIM6
    )
}

/// A header without extensions, traffic class or flow label.
#[must_use]
#[inline(always)]
pub fn build(
    payload_length: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u64; 2],
    destination: [u64; 2],
) -> [u8; 40] {
    let [l0, l1] = payload_length.to_be_bytes();
    let [s0, s1] = source;
    let [d0, d1] = destination;
    let words: [[u8; 8]; 5] = [
        [0x60, 0, 0, 0, l0, l1, next_header, hop_limit],
        s0.to_be_bytes(),
        s1.to_be_bytes(),
        d0.to_be_bytes(),
        d1.to_be_bytes(),
    ];
    zerocopy::transmute!(words)
}
