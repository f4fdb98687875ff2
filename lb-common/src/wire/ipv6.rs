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
pub const MAX_EXTENSION_BYTES: u16 = 512;

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

/// Where a chain of extension headers ends, or has come to.
///
/// All of it lies in memory with no gap, as it is handed to a function that the kernel's verifier
/// checks by itself.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[repr(C)]
pub struct Chain {
    /// The fragment header's identification; 0 if there was none.
    pub identification: u32,
    /// Bytes of the extension headers before `protocol`.
    pub length: u16,
    /// Position of the fragment in units of 8 bytes. After the header of a later fragment nothing is
    /// walked: what follows is the middle of something.
    pub offset: u16,
    /// Whether another fragment follows.
    pub has_more: bool,
    /// IANA protocol number of the first header that is no extension, or that must not be skipped:
    /// a routing header with addresses still to visit, whose packet is not for its destination yet
    /// and whose checksum is about another (RFC 8200 §8.1).
    pub protocol: u8,
    reserved: [u8; 2],
}

/// What one extension header says about the walk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Walk {
    /// It goes on behind this header, if what follows is an extension too.
    On = 0,
    /// It ends here.
    Ends = 1,
    /// It is longer than is walked.
    TooLong = 2,
}

impl Walk {
    /// From its number; anything unknown is too long.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::On,
            1 => Self::Ends,
            _ => Self::TooLong,
        }
    }
}

impl Chain {
    /// Steps over the extension header that begins with `bytes`. No extension header is shorter
    /// than 8 bytes.
    #[inline(always)]
    pub const fn step(&mut self, bytes: [u8; 8]) -> Walk {
        let [next, length, b2, b3, i0, i1, i2, i3] = bytes;
        let units = u16::from_be_bytes([0, length]);
        let skipped = match self.protocol {
            FRAGMENT => {
                let position = u16::from_be_bytes([b2, b3]);
                self.identification = u32::from_be_bytes([i0, i1, i2, i3]);
                self.has_more = position & 1 != 0;
                self.offset = position >> 3;
                8
            }
            AUTHENTICATION => units.wrapping_add(2) << 2,
            // Byte 3 counts the segments left.
            ROUTING if b3 != 0 => return Walk::Ends,
            _ => units.wrapping_add(1) << 3,
        };
        let is_later_fragment = self.protocol == FRAGMENT && self.offset != 0;
        self.protocol = next;
        self.length = self.length.wrapping_add(skipped);
        if is_later_fragment {
            Walk::Ends
        } else if self.length > MAX_EXTENSION_BYTES {
            Walk::TooLong
        } else {
            Walk::On
        }
    }
}

/// Walks the extension headers at `offset`, the first of which has the number `next_header`.
#[inline(always)]
pub fn walk(packet: &impl PacketRead, offset: u32, next_header: u8) -> Result<Chain, ParseError> {
    let mut chain = Chain {
        protocol: next_header,
        ..Chain::default()
    };
    for _ in 0..ROUNDS {
        if !is_extension(chain.protocol) {
            return Ok(chain);
        }
        let bytes = packet
            .read::<8>(offset.wrapping_add(u32::from(chain.length)))
            .ok_or(ParseError::TooShort)?;
        match packet.step_extension(&mut chain, bytes) {
            Walk::On => {}
            Walk::Ends => return Ok(chain),
            Walk::TooLong => return Err(ParseError::TooManyExtensions),
        }
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
