//! Answers made from the packet they answer: refusals and echo replies.
//!
//! A refusal is prepared from the original ([`Refusal::new`]), which is then resized to
//! [`Refusal::length`], and written over it ([`Refusal::write`]): every byte of the answer is
//! written, so what the resized buffer holds does not matter. An echo reply keeps the payload and
//! is made in place.

use crate::checksum::{Sum, update};
use crate::family::Family;
use crate::packet::{PacketRead, PacketWrite};
use crate::parse::{Packet, Transport};
use crate::wire::ip::{icmp_protocol, min_header_length, pseudo_header, write_header};
use crate::wire::tcp::TcpFlags;
use crate::wire::{ethernet, icmp, ip, ipv4, ipv6, tcp};

/// Words of a quoted packet: an IPv4 header with up to 32 bytes of options and 8 bytes more, or an
/// IPv6 header and 20. RFC 1812 §4.3.2.3 wants up to 576 bytes and RFC 4443 §2.4 (c) up to 1280;
/// every word costs stack in the kernel, and receivers look for nothing beyond the ports.
const QUOTE_WORDS: usize = 15;
/// The same in bytes.
const QUOTE_LENGTH: usize = 60;
const QUOTE_BYTES: u32 = 60;
type Quote = [[u8; 4]; QUOTE_WORDS];

/// A prepared refusal: a TCP reset (RFC 9293 §3.10.7.1), or "port unreachable" of the family's
/// ICMP. It comes from the address the client dialled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refusal<F: Family> {
    /// Destination and source MAC of the answer.
    macs: [u8; 12],
    source: F::Address,
    destination: F::Address,
    body: Body,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Body {
    Reset {
        source_port: u16,
        destination_port: u16,
        sequence: u32,
        acknowledgement: u32,
        flags: TcpFlags,
    },
    Unreachable {
        quote: Quote,
        /// Bytes of it that count; a multiple of 4.
        length: u32,
    },
}

impl<F: Family> Refusal<F> {
    /// Prepares the refusal of `packet`; `None` where there must be no answer ([`may_refuse`]).
    #[inline(always)]
    pub fn new(packet: &impl PacketRead, parsed: &Packet<F>) -> Option<Self> {
        if !may_refuse(packet, parsed) {
            return None;
        }
        let body = match parsed.transport() {
            Transport::Ports {
                tcp_flags: Some(flags),
                ..
            } => Body::reset(packet, parsed, flags)?,
            _ => Body::unreachable(packet, parsed)?,
        };
        Some(Self {
            macs: ethernet::swap(packet.read::<12>(0)?),
            source: parsed.destination,
            destination: parsed.source,
            body,
        })
    }

    /// Bytes of the answer from its Ethernet header on: what the packet must be resized to.
    #[inline(always)]
    pub const fn length(&self) -> u32 {
        let headers = ethernet::HEADER_LENGTH.wrapping_add(min_header_length::<F>());
        headers.wrapping_add(self.payload_length())
    }

    #[inline(always)]
    const fn payload_length(&self) -> u32 {
        match self.body {
            Body::Reset { .. } => tcp::MIN_HEADER_LENGTH,
            Body::Unreachable { length, .. } => length.wrapping_add(icmp::HEADER_LENGTH),
        }
    }

    /// Writes all of the answer into a packet of [`Self::length`] bytes.
    #[inline(always)]
    pub fn write(&self, packet: &mut impl PacketWrite) -> Option<()> {
        let ether_type = if F::IS_V6 {
            ethernet::IPV6
        } else {
            ethernet::IPV4
        };
        packet.write(0, self.macs)?;
        packet.write(12, ether_type.to_be_bytes())?;
        let protocol = match self.body {
            Body::Reset { .. } => 6,
            Body::Unreachable { .. } => icmp_protocol::<F>(),
        };
        let length = self.payload_length();
        let [_, _, high, low] = length.to_be_bytes();
        let l3 = ethernet::HEADER_LENGTH;
        let l4 = l3.wrapping_add(min_header_length::<F>());
        let (source, destination) = (self.source, self.destination);
        let payload_length = u16::from_be_bytes([high, low]);
        write_header::<F>(packet, l3, payload_length, protocol, source, destination)?;
        let pseudo = pseudo_header::<F>(source, destination, protocol, length);
        match self.body {
            Body::Reset {
                source_port,
                destination_port,
                sequence,
                acknowledgement,
                flags,
            } => {
                let control = u16::from_be_bytes([0x50, flags.0]);
                let checksum = pseudo
                    .word(source_port)
                    .word(destination_port)
                    .double(sequence)
                    .double(acknowledgement)
                    .word(control)
                    .checksum();
                let [s0, s1] = source_port.to_be_bytes();
                let [d0, d1] = destination_port.to_be_bytes();
                let [k0, k1] = control.to_be_bytes();
                let [c0, c1] = checksum.to_be_bytes();
                let words: [[u8; 4]; 5] = [
                    [s0, s1, d0, d1],
                    sequence.to_be_bytes(),
                    acknowledgement.to_be_bytes(),
                    [k0, k1, 0, 0],
                    [c0, c1, 0, 0],
                ];
                let header: [u8; 20] = zerocopy::transmute!(words);
                packet.write(l4, header)
            }
            Body::Unreachable { quote, length } => {
                let (number, code, start) = if F::IS_V6 {
                    (icmp::UNREACHABLE_V6, icmp::PORT_UNREACHABLE_V6, pseudo)
                } else {
                    (icmp::UNREACHABLE_V4, icmp::PORT_UNREACHABLE_V4, Sum::ZERO)
                };
                let sum = start.word(u16::from_be_bytes([number, code]));
                let [c0, c1] = sum.sum(quote_sum(quote)).checksum().to_be_bytes();
                packet.write(l4, [number, code, c0, c1, 0, 0, 0, 0])?;
                let bytes: [u8; QUOTE_LENGTH] = zerocopy::transmute!(quote);
                packet.write_first(l4.wrapping_add(icmp::HEADER_LENGTH), &bytes, length)
            }
        }
    }
}

impl Body {
    #[inline(always)]
    fn reset<F: Family>(
        packet: &impl PacketRead,
        parsed: &Packet<F>,
        flags: TcpFlags,
    ) -> Option<Self> {
        let header: [u8; 16] = packet.read(parsed.l4)?;
        let words: [[u8; 4]; 4] = zerocopy::transmute!(header);
        let [[s0, s1, d0, d1], sequence, acknowledgement, [offset, ..]] = words;
        let (sequence, acknowledgement, flags) = if flags.contains(TcpFlags::ACK) {
            (u32::from_be_bytes(acknowledgement), 0, TcpFlags::RST)
        } else {
            // Both SYN and FIN take a place in the sequence.
            let data_offset = u32::from(offset >> 4) << 2;
            let payload = parsed
                .end()
                .saturating_sub(parsed.l4.wrapping_add(data_offset));
            let length = payload
                .wrapping_add(u32::from(flags.contains(TcpFlags::SYN)))
                .wrapping_add(u32::from(flags.contains(TcpFlags::FIN)));
            let next = u32::from_be_bytes(sequence).wrapping_add(length);
            (0, next, TcpFlags::RST.with(TcpFlags::ACK))
        };
        Some(Self::Reset {
            source_port: u16::from_be_bytes([d0, d1]),
            destination_port: u16::from_be_bytes([s0, s1]),
            sequence,
            acknowledgement,
            flags,
        })
    }

    #[inline(always)]
    fn unreachable<F: Family>(packet: &impl PacketRead, parsed: &Packet<F>) -> Option<Self> {
        let length = if parsed.total_length < QUOTE_BYTES {
            parsed.total_length & !3
        } else {
            QUOTE_BYTES
        };
        let bytes: [u8; QUOTE_LENGTH] = packet.read_padded(parsed.l3, length)?;
        let quote: Quote = zerocopy::transmute!(bytes);
        Some(Self::Unreachable { quote, length })
    }
}

/// Whether a packet may be answered with a refusal (RFC 1122 §3.2.2, RFC 4443 §2.4 (e), RFC 9293
/// §3.10.7.1): not a reset, an ICMP error or an ICMP message of unknown meaning, a later fragment,
/// nor anything to or from a group or from nobody.
///
/// An IPv4 header with more than 32 bytes of options leaves no room for the ports in the quote: such
/// a packet is not answered.
///
/// A frame that carries VLAN tags in the packet itself (behind another in its metadata) is not
/// answered either: the answer would lack them.
#[inline(always)]
pub fn may_refuse<F: Family>(packet: &impl PacketRead, parsed: &Packet<F>) -> bool {
    let has_answer = match parsed.transport() {
        Transport::Ports { tcp_flags, .. } => {
            !tcp_flags.is_some_and(|flags| flags.contains(TcpFlags::RST))
        }
        Transport::EchoRequest => true,
        Transport::Other { protocol } => protocol != icmp_protocol::<F>(),
        Transport::LaterFragment { .. } | Transport::IcmpError { .. } => false,
    };
    let header_length = parsed.l4.wrapping_sub(parsed.l3);
    has_answer
        && (F::IS_V6 || header_length.wrapping_add(8) <= QUOTE_BYTES)
        && !parsed.fragment.is_later
        && parsed.l3 == ethernet::HEADER_LENGTH
        && !packet.read::<12>(0).is_none_or(ethernet::is_to_group)
        && is_one_host::<F>(parsed.source)
        && is_one_host::<F>(parsed.destination)
}

/// Whether an address can be one host's: not a group, the broadcast address or unspecified.
#[inline(always)]
fn is_one_host<F: Family>(address: F::Address) -> bool {
    let [high, low] = F::halves(address);
    if F::IS_V6 {
        high >> 56 != 0xff && high | low != 0
    } else {
        // Neither 0.0.0.0/8 nor 224.0.0.0/3, which ends with the broadcast address.
        high >> 24 != 0 && high >> 29 != 7
    }
}

/// Turns the echo request `parsed` into its reply, in place: addresses and MACs change places, the
/// payload stays. `None` where the packet is not all there.
#[inline(always)]
pub fn answer_echo<F: Family>(packet: &mut impl PacketWrite, parsed: &Packet<F>) -> Option<()> {
    let [number, code, c0, c1] = packet.read(parsed.l4)?;
    let reply = if F::IS_V6 {
        icmp::ECHO_REPLY_V6
    } else {
        icmp::ECHO_REPLY_V4
    };
    let change = Sum::ZERO.replace_word(
        u16::from_be_bytes([number, code]),
        u16::from_be_bytes([reply, code]),
    );
    let [c0, c1] = update(u16::from_be_bytes([c0, c1]), change).to_be_bytes();
    let macs = ethernet::swap(packet.read(0)?);
    packet.write(0, macs)?;
    packet.write(parsed.l4, [reply, code, c0, c1])?;
    // Two addresses that change places leave every sum as it was; the time to live does not.
    let ttl_change = if F::IS_V6 {
        packet.write(parsed.l3.wrapping_add(ipv6::HOP_LIMIT_OFFSET), [ip::TTL])?;
        Sum::ZERO
    } else {
        packet.write(parsed.l3.wrapping_add(ipv4::TTL_OFFSET), [ip::TTL])?;
        Sum::ZERO.replace_word(
            u16::from_be_bytes([parsed.ttl, parsed.protocol]),
            u16::from_be_bytes([ip::TTL, parsed.protocol]),
        )
    };
    let (source, destination) = (parsed.destination, parsed.source);
    ip::write_addresses::<F>(packet, parsed.l3, source, destination, ttl_change)
}

/// The sum over a quote; bytes beyond its length are 0.
#[inline(always)]
fn quote_sum(quote: Quote) -> Sum {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = quote;
    let add = |sum: Sum, word| sum.double(u32::from_be_bytes(word));
    let sum = add(add(add(add(add(Sum::ZERO, a), b), c), d), e);
    let sum = add(add(add(add(add(add(sum, f), g), h), i), j), k);
    add(add(add(add(sum, l), m), n), o)
}
