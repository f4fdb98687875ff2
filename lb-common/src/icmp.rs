//! ICMP errors and the packet that each of them quotes.
//!
//! An error about a translated packet quotes the translated form, and its receiver knows only the
//! other one: so both the quoted packet and the error's own addresses are translated
//! (RFC 5508 §4.2). The quote is cut short: only the IP header and the ports are sure to be there
//! (RFC 792: "the first 64 bits of the original datagram's data").

use crate::family::Family;
use crate::flow::{FlowTuple, Protocol};
use crate::packet::PacketRead;
use crate::parse::{Packet, ParseError};
use crate::wire::icmp;
use crate::wire::ip::IpHeader;

/// What an error says, over both families.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum ErrorKind {
    /// Destination unreachable. IPv4's "fragmentation needed" is one of its codes.
    Unreachable,
    /// Packet too big, ICMPv6 only.
    TooBig,
    /// Time exceeded.
    TimeExceeded,
    /// Parameter problem.
    ParameterProblem,
    /// A better route: no error by name, but it quotes a packet as errors do.
    Redirect,
}

/// The packet that an error quotes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct QuotedPacket<F: Family> {
    /// Offset of its IP header.
    pub l3: u32,
    /// Offset of its ports.
    pub l4: u32,
    /// Offset of the first byte after the quote.
    pub end: u32,
    /// Bytes that the whole packet had from its ports on; 0 for a first fragment, which does not say.
    pub length: u32,
    /// Its addresses and ports, as it had them where the error was made.
    pub tuple: FlowTuple<F>,
}

/// What an unfragmented ICMP packet is.
#[inline(always)]
pub(crate) fn classify<F: Family>(
    packet: &impl PacketRead,
    parsed: &mut Packet<F>,
) -> Result<(), ParseError> {
    let message = parsed.l4.wrapping_add(icmp::HEADER_LENGTH);
    if message > parsed.end() {
        return Err(ParseError::TooShort);
    }
    let [number] = packet.read::<1>(parsed.l4).ok_or(ParseError::TooShort)?;
    let kind = match (F::IS_V6, number) {
        (false, icmp::ECHO_REQUEST_V4) | (true, icmp::ECHO_REQUEST_V6) => {
            parsed.set_echo_request();
            return Ok(());
        }
        (false, icmp::UNREACHABLE_V4) | (true, icmp::UNREACHABLE_V6) => ErrorKind::Unreachable,
        (true, icmp::TOO_BIG_V6) => ErrorKind::TooBig,
        (false, icmp::TIME_EXCEEDED_V4) | (true, icmp::TIME_EXCEEDED_V6) => ErrorKind::TimeExceeded,
        (false, icmp::PARAMETER_PROBLEM_V4) | (true, icmp::PARAMETER_PROBLEM_V6) => {
            ErrorKind::ParameterProblem
        }
        (false, icmp::REDIRECT_V4) => ErrorKind::Redirect,
        (true, icmp::REDIRECT_V6) => {
            if let Some(quoted) = redirected(packet, parsed) {
                parsed.set_error(ErrorKind::Redirect, quoted);
            }
            return Ok(());
        }
        _ => return Ok(()),
    };
    parsed.set_error(kind, message);
    Ok(())
}

/// The quoted packet of an ICMPv6 redirect (RFC 4861 §4.5): in an option, of which the target's
/// link-layer address may be the one before.
#[inline(always)]
fn redirected<F: Family>(packet: &impl PacketRead, parsed: &Packet<F>) -> Option<u32> {
    /// Header, target address, destination address.
    const OPTIONS: u32 = 40;
    const TARGET_LINK_LAYER_ADDRESS: u8 = 2;
    const REDIRECTED_HEADER: u8 = 4;
    let first = parsed.l4.wrapping_add(OPTIONS);
    let [kind, units] = packet.read::<2>(first)?;
    let option = if kind == TARGET_LINK_LAYER_ADDRESS {
        first.wrapping_add(u32::from(units) << 3)
    } else {
        first
    };
    let [kind, _] = packet.read::<2>(option)?;
    (kind == REDIRECTED_HEADER).then_some(option.wrapping_add(8))
}

/// Parses the packet that the error `parsed` quotes at `quoted`.
#[inline(always)]
pub fn parse_quoted<F: Family>(
    packet: &impl PacketRead,
    parsed: &Packet<F>,
    quoted: u32,
) -> Result<QuotedPacket<F>, ParseError> {
    let header = IpHeader::<F>::read(packet, quoted)?;
    let l4 = quoted.wrapping_add(header.header_length);
    let end = parsed.end();
    if l4.wrapping_add(4) > end {
        return Err(ParseError::TooShort);
    }
    let protocol = Protocol::from_number(header.protocol).ok_or(ParseError::NoPorts)?;
    if header.fragment.is_later {
        return Err(ParseError::NoPorts);
    }
    let [s0, s1, d0, d1] = packet.read::<4>(l4).ok_or(ParseError::TooShort)?;
    Ok(QuotedPacket {
        l3: quoted,
        l4,
        end,
        length: if header.fragment.is_part {
            0
        } else {
            header.total_length.wrapping_sub(header.header_length)
        },
        tuple: FlowTuple {
            source: header.source,
            destination: header.destination,
            source_port: u16::from_be_bytes([s0, s1]),
            destination_port: u16::from_be_bytes([d0, d1]),
            protocol,
        },
    })
}
