//! Giving a packet other addresses and ports, with every checksum kept right.
//!
//! Checksums are updated, never recomputed: a packet that arrived damaged stays recognisably
//! damaged. One function serves host and kernel; only the transport checksum goes through
//! [`PacketRewrite::fix_l4`], because in the kernel its field may hold half a checksum that the
//! device is to finish (`CHECKSUM_PARTIAL`), which only the kernel knows.

use core::error::Error;
use core::fmt;

use crate::checksum::{Sum, update};
use crate::crc32c;
use crate::family::Family;
use crate::flow::{FlowTuple, Protocol};
use crate::icmp::QuotedPacket;
use crate::packet::{Frame, PacketRead as _, PacketWrite};
use crate::parse::Packet;
use crate::verdict::Reason;
use crate::wire::ip::write_addresses;
use crate::wire::{icmp, sctp, tcp, udp};

/// What a packet has and what it shall have. The protocol stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rewrite<F: Family> {
    /// The packet's tuple now; of a later fragment, that of its datagram.
    pub from: FlowTuple<F>,
    /// The packet's tuple afterwards.
    pub to: FlowTuple<F>,
}

impl<F: Family> Rewrite<F> {
    /// The rewrite that undoes this one.
    #[must_use]
    #[inline(always)]
    pub const fn inverse(&self) -> Self {
        Self {
            from: self.to,
            to: self.from,
        }
    }

    /// The change of the sum over both addresses.
    #[inline(always)]
    fn address_change(&self) -> Sum {
        Sum::ZERO
            .replace_address::<F>(self.from.source, self.to.source)
            .replace_address::<F>(self.from.destination, self.to.destination)
    }

    /// The change of the sum over both ports.
    #[inline(always)]
    fn port_change(&self) -> Sum {
        Sum::ZERO
            .replace_word(self.from.source_port, self.to.source_port)
            .replace_word(self.from.destination_port, self.to.destination_port)
    }

    #[inline(always)]
    fn changes_addresses(&self) -> bool {
        self.from.source != self.to.source || self.from.destination != self.to.destination
    }

    #[inline(always)]
    const fn changes_ports(&self) -> bool {
        self.from.source_port != self.to.source_port
            || self.from.destination_port != self.to.destination_port
    }
}

/// Why a packet was not rewritten.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum RewriteError {
    /// A field to be changed is not in the packet, or the kernel refused the change. The packet
    /// may be half rewritten: drop it.
    OutOfPacket,
    /// The CRC-32C of SCTP is over the whole packet, of which this is the first fragment. Nothing was
    /// changed.
    SctpFragment,
}

impl RewriteError {
    /// Why the packet is dropped.
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        match self {
            Self::OutOfPacket => Reason::RewriteFailed,
            Self::SctpFragment => Reason::SctpFragment,
        }
    }
}

impl fmt::Display for RewriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfPacket => "a field to be changed is not in the packet",
            Self::SctpFragment => "the ports of a fragmented SCTP packet cannot be changed",
        })
    }
}

impl Error for RewriteError {}

/// A pending change of a transport checksum.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ChecksumFix {
    /// Offset of the checksum field; even.
    pub offset: u32,
    /// Change of the sum over the addresses, which are in the pseudo-header: what
    /// `bpf_l4_csum_replace(skb, offset, 0, address_delta, BPF_F_PSEUDO_HDR | ..)` takes. A sum of
    /// `!old + new` over 16-bit words as they are in memory, folded to 16 bits. 0 means that
    /// nothing changes (a change never sums up to 0: the sum of something is 0xffff, not 0).
    pub address_delta: u32,
    /// Change of the sum over the ports, which are in the segment itself: likewise, without
    /// `BPF_F_PSEUDO_HDR`.
    pub port_delta: u32,
    /// Whether UDP's rule applies (`BPF_F_MARK_MANGLED_0`): 0 means "no checksum" and stays, a
    /// computed 0 becomes 0xffff (RFC 768, RFC 6935 §5).
    pub is_udp: bool,
    /// Whether the packet is IPv6 (`BPF_F_IPV6`, where the kernel has it): there no header
    /// checksum makes up for the change of the addresses in a sum over the whole packet.
    pub is_v6: bool,
}

impl ChecksumFix {
    /// The checksum field after the fix: what the kernel does to a field that holds a whole
    /// checksum.
    #[must_use]
    #[inline(always)]
    pub fn apply(&self, checksum: u16) -> u16 {
        let change =
            Sum::from_memory_order(self.address_delta).sum(Sum::from_memory_order(self.port_delta));
        changed(checksum, change, self.is_udp)
    }
}

/// A whole transport checksum after a change of what it is over, by UDP's rule where `is_udp`.
#[inline(always)]
pub(crate) fn changed(checksum: u16, change: Sum, is_udp: bool) -> u16 {
    if is_udp && checksum == 0 {
        return 0;
    }
    match update(checksum, change) {
        0 if is_udp => 0xffff,
        updated => updated,
    }
}

/// A packet whose transport checksum can be fixed.
pub trait PacketRewrite: PacketWrite {
    /// Applies `fix` to the checksum field; `None` where the field is not in the packet.
    fn fix_l4(&mut self, fix: ChecksumFix) -> Option<()>;
}

impl PacketRewrite for Frame<'_> {
    fn fix_l4(&mut self, fix: ChecksumFix) -> Option<()> {
        let old = u16::from_be_bytes(self.read(fix.offset)?);
        self.write(fix.offset, fix.apply(old).to_be_bytes())
    }
}

/// Rewrites a packet with ports, or a later fragment of one (its addresses only).
#[inline(always)]
pub fn apply<F: Family>(
    packet: &mut impl PacketRewrite,
    parsed: &Packet<F>,
    rewrite: &Rewrite<F>,
) -> Result<(), RewriteError> {
    let is_later = parsed.fragment.is_later;
    let changes_ports = rewrite.changes_ports() && !is_later;
    let protocol = rewrite.from.protocol;
    if changes_ports && matches!(protocol, Protocol::Sctp) {
        if parsed.fragment.is_part {
            return Err(RewriteError::SctpFragment);
        }
        let length = parsed.end().wrapping_sub(parsed.l4);
        fix_crc(packet, (parsed.l4, length), rewrite).ok_or(RewriteError::OutOfPacket)?;
    }
    let address_change = rewrite.address_change();
    let changes_addresses = rewrite.changes_addresses();
    if let (false, Some(offset)) = (is_later, checksum_offset(protocol)) {
        let fix = ChecksumFix {
            offset: parsed.l4.wrapping_add(offset),
            address_delta: if changes_addresses {
                address_change.in_memory_order()
            } else {
                0
            },
            port_delta: if changes_ports {
                rewrite.port_change().in_memory_order()
            } else {
                0
            },
            is_udp: matches!(protocol, Protocol::Udp),
            is_v6: F::IS_V6,
        };
        packet.fix_l4(fix).ok_or(RewriteError::OutOfPacket)?;
    }
    if changes_addresses {
        let (source, destination) = (rewrite.to.source, rewrite.to.destination);
        write_addresses::<F>(packet, parsed.l3, source, destination, address_change)
            .ok_or(RewriteError::OutOfPacket)?;
    }
    if changes_ports {
        write_ports(packet, parsed.l4, &rewrite.to).ok_or(RewriteError::OutOfPacket)?;
    }
    Ok(())
}

/// How an ICMP error about a translated packet is translated.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ErrorRewrite<F: Family> {
    /// Change of the quoted packet.
    pub quoted: Rewrite<F>,
    /// Source of the error afterwards.
    pub source: F::Address,
    /// Destination of the error afterwards.
    pub destination: F::Address,
}

/// Rewrites an ICMP error: the quoted packet with the checksums that its quote still holds, the
/// error's own addresses, and the ICMP checksum over all of it.
///
/// Plain writes serve in the kernel, too: who makes an ICMP error also finishes its checksum, and
/// the sum over the whole packet stays as it was.
#[inline(always)]
pub fn apply_error<F: Family>(
    packet: &mut impl PacketWrite,
    parsed: &Packet<F>,
    quoted: &QuotedPacket<F>,
    rewrite: &ErrorRewrite<F>,
) -> Result<(), RewriteError> {
    try_apply_error(packet, parsed, quoted, rewrite).ok_or(RewriteError::OutOfPacket)
}

#[inline(always)]
fn try_apply_error<F: Family>(
    packet: &mut impl PacketWrite,
    parsed: &Packet<F>,
    quoted: &QuotedPacket<F>,
    rewrite: &ErrorRewrite<F>,
) -> Option<()> {
    let inner = &rewrite.quoted;
    let address_change = inner.address_change();
    let port_change = inner.port_change();
    // IPv4's quoted header checksum takes up the change of the quoted addresses, so that the sum
    // over the message stays; IPv6 has none.
    let mut change = port_change;
    if F::IS_V6 {
        change = change.sum(address_change);
    }
    if let Some(offset) = checksum_offset(quoted.tuple.protocol) {
        let offset = quoted.l4.wrapping_add(offset);
        if offset.wrapping_add(2) <= quoted.end {
            let old = u16::from_be_bytes(packet.read(offset)?);
            let fix = ChecksumFix {
                offset,
                address_delta: address_change.in_memory_order(),
                port_delta: port_change.in_memory_order(),
                is_udp: matches!(quoted.tuple.protocol, Protocol::Udp),
                is_v6: F::IS_V6,
            };
            let new = fix.apply(old);
            packet.write(offset, new.to_be_bytes())?;
            change = change.replace_word(old, new);
        }
    }
    let crc = quoted.l4.wrapping_add(sctp::CHECKSUM_OFFSET);
    let has_crc = matches!(quoted.tuple.protocol, Protocol::Sctp) && quoted.length != 0;
    if has_crc && inner.changes_ports() && crc.wrapping_add(4) <= quoted.end {
        let [a, b, c, d] = packet.read::<4>(crc)?;
        fix_crc(packet, (quoted.l4, quoted.length), inner)?;
        let [e, f, g, h] = packet.read::<4>(crc)?;
        change = change
            .replace_word(u16::from_be_bytes([a, b]), u16::from_be_bytes([e, f]))
            .replace_word(u16::from_be_bytes([c, d]), u16::from_be_bytes([g, h]));
    }
    let (source, destination) = (inner.to.source, inner.to.destination);
    write_addresses::<F>(packet, quoted.l3, source, destination, address_change)?;
    write_ports(packet, quoted.l4, &inner.to)?;

    let outer_change = Sum::ZERO
        .replace_address::<F>(parsed.source, rewrite.source)
        .replace_address::<F>(parsed.destination, rewrite.destination);
    let (source, destination) = (rewrite.source, rewrite.destination);
    write_addresses::<F>(packet, parsed.l3, source, destination, outer_change)?;
    // Of the two, only ICMPv6 has a pseudo-header.
    if F::IS_V6 {
        change = change.sum(outer_change);
    }
    let offset = parsed.l4.wrapping_add(icmp::CHECKSUM_OFFSET);
    let old = u16::from_be_bytes(packet.read(offset)?);
    packet.write(offset, update(old, change).to_be_bytes())
}

/// Changes the CRC-32C of the SCTP packet at `l4`, of `length` bytes, as its ports change: see
/// [`crc32c`].
#[inline(always)]
fn fix_crc<F: Family>(
    packet: &mut impl PacketWrite,
    (l4, length): (u32, u32),
    rewrite: &Rewrite<F>,
) -> Option<()> {
    let offset = l4.wrapping_add(sctp::CHECKSUM_OFFSET);
    let (old, new) = (ports_of(&rewrite.from), ports_of(&rewrite.to));
    let change = crc32c::change_of_first_word(old, new, length);
    let crc = u32::from_le_bytes(packet.read(offset)?) ^ change;
    packet.write(offset, crc.to_le_bytes())
}

/// Both ports as a packet has them.
#[inline(always)]
const fn ports_of<F: Family>(tuple: &FlowTuple<F>) -> [u8; 4] {
    let [s0, s1] = tuple.source_port.to_be_bytes();
    let [d0, d1] = tuple.destination_port.to_be_bytes();
    [s0, s1, d0, d1]
}

#[inline(always)]
fn write_ports<F: Family>(
    packet: &mut impl PacketWrite,
    l4: u32,
    tuple: &FlowTuple<F>,
) -> Option<()> {
    packet.write(l4, ports_of(tuple))
}

/// Offset of the transport checksum that depends on addresses and ports, from its header.
#[inline(always)]
const fn checksum_offset(protocol: Protocol) -> Option<u32> {
    match protocol {
        Protocol::Tcp => Some(tcp::CHECKSUM_OFFSET),
        Protocol::Udp => Some(udp::CHECKSUM_OFFSET),
        Protocol::Sctp => None,
    }
}
