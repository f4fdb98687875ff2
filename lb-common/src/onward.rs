//! Sending a packet on at once: what the host would have done with it between two hooks, where all of
//! that is known.
//!
//! The host receives a translated packet, filters, routes and sends it. What is left of that where no
//! filter objects is another TTL, and the MACs of the next hop. Which packets that is true of is decided
//! here, by [`Offer::of`] for the packet itself and by [`Hop`] for its way; all others go the plain way,
//! where the host does what it always did. [`may_begin`] says of a new flow whether both of its
//! directions can be sent on, since the host's connection tracking must not see one of them alone.

use crate::checksum::{Sum, update};
use crate::family::Family;
use crate::flow::{FlowTuple, Protocol};
use crate::hash::lower;
use crate::packet::{Head as _, PacketRead, PacketTrim, PacketWrite};
use crate::table::device::Role;
use crate::wire::ip::icmp_protocol;
use crate::wire::{ethernet, ipv4, tcp, udp};

/// Offset of the IP header: a packet with a VLAN tag among its bytes is not sent on.
const L3: u32 = 14;
const L4_V4: u32 = L3 + 20;
const L4_V6: u32 = L3 + 40;
/// Where the ports end behind a header without options, or extension headers.
const PORTS_END_V4: usize = 38;
const PORTS_END_V6: usize = 58;

/// What the kernel knows of a packet beside its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wire {
    /// Interface index of the device that it came by.
    pub device: u32,
    /// Bytes of payload in each of the packets that it will be cut into; 0 where it goes as it is.
    pub segment: u32,
    /// Whether its destination MAC is the device's.
    pub is_for_host: bool,
    /// Whether it has a mark, by which rules may route it.
    pub has_mark: bool,
    /// Whether it has a VLAN tag beside its bytes: then another device receives it.
    pub has_tag: bool,
}

/// What the routing tables are asked about a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Question<F: Family> {
    /// Where it comes from.
    pub source: F::Address,
    /// Where it goes.
    pub destination: F::Address,
    /// Port it comes from; 0 where its protocol has none.
    pub source_port: u16,
    /// Port it goes to, likewise.
    pub destination_port: u16,
    /// IANA number of its transport protocol.
    pub protocol: u8,
    /// Interface index of the device that it comes by.
    pub device: u32,
    /// The bytes of the header that rules may route by: IPv4's TOS, then zeros; IPv6's traffic class
    /// and flow label, without the version.
    pub class: [u8; 4],
    /// Bytes of the largest packet that it will be on the wire, from the IP header on.
    pub length: u16,
}

impl<F: Family> Question<F> {
    /// The same question about a packet with `tuple`.
    #[must_use]
    #[inline(always)]
    pub const fn of_tuple(&self, tuple: &FlowTuple<F>) -> Self {
        Self {
            source: tuple.source,
            destination: tuple.destination,
            source_port: tuple.source_port,
            destination_port: tuple.destination_port,
            protocol: tuple.protocol.number(),
            ..*self
        }
    }

    /// The question about an answer to the packet, that comes by the device with interface index
    /// `device`.
    #[must_use]
    #[inline(always)]
    pub const fn back(&self, device: u32) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            device,
            ..*self
        }
    }
}

/// What the routing tables say of the next hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Answer {
    /// Nothing, or something that is the host's to do: to answer, to refuse, to keep the packet.
    Other = 0,
    /// There is one.
    Unresolved = 1,
    /// There is one, and its MAC is known.
    Known = 2,
}

/// The next hop of a packet. All fields are always set: it travels in registers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hop {
    /// What is known of it; the rest has no meaning for [`Answer::Other`].
    pub answer: Answer,
    /// Interface index of the device that leads there.
    pub device: u32,
    /// Whether `DEVICES` has that device.
    pub has_programs: bool,
    /// Whether nobody else looks at what it brings.
    pub is_clear: bool,
    /// Whether packets that it brings or takes may be sent on besides.
    pub is_open: bool,
    /// What it leads to.
    pub role: Role,
}

impl Hop {
    /// No hop.
    pub const NONE: Self = Self {
        answer: Answer::Other,
        device: 0,
        has_programs: false,
        is_clear: false,
        is_open: false,
        role: Role::Workload,
    };
}

/// The kernel's routing tables.
pub trait Routes {
    /// The next hop of a packet that is sent on as the host would route it. [`Answer::Other`] also where
    /// it is too large for that way.
    fn hop<F: Family>(&mut self, question: &Question<F>) -> Hop;
}

/// How far packets of a new flow may be sent on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Reach {
    /// To a pod of this node.
    Here = 0,
    /// Anywhere.
    Anywhere = 1,
    /// To a host, not to anything on this node, though the operator does not ask for it: the node's filters may
    /// keep packets from it. Where they do, nobody asks for a neighbour, so one that is not known will do.
    ToHost = 2,
    /// The same, and to a pod of this node as well.
    AnywhereToHost = 3,
}

impl Reach {
    /// Whether a flow may begin whose packets would take this hop.
    #[inline(always)]
    const fn takes(self, hop: &Hop) -> bool {
        let is_to_host = matches!(self, Self::ToHost | Self::AnywhereToHost)
            && matches!(hop.role, Role::Uplink)
            && hop.is_clear;
        match hop.answer {
            Answer::Known => is_to_host || hop.is_open,
            Answer::Unresolved => is_to_host,
            Answer::Other => false,
        }
    }

    /// Whether packets may go to such a device.
    #[inline(always)]
    const fn leads_to(self, role: Role) -> bool {
        match role {
            Role::Workload => !matches!(self, Self::ToHost),
            Role::Uplink => !matches!(self, Self::Here),
        }
    }
}

/// Whether packets of a flow are sent on, of which the first is the one that is asked about, as it looks
/// when it is translated.
#[inline(always)]
pub fn may_begin<F: Family>(
    question: &Question<F>,
    reach: Reach,
    routes: &mut impl Routes,
) -> bool {
    let there = routes.hop(question);
    if !reach.takes(&there) || !reach.leads_to(there.role) {
        return false;
    }
    let back = routes.hop(&question.back(there.device));
    reach.takes(&back) && back.device == question.device
}

/// Interface index of the loopback device, by which the routing tables know what this host sends itself.
pub const LOOPBACK: u32 = 1;

/// What to ask about a packet of this host with `protocol` that goes from `source` to `destination`. Without
/// ports: a flow's packets must all take the way for which its source address was chosen.
#[must_use]
#[inline(always)]
pub const fn of_host<F: Family>(
    source: F::Address,
    destination: F::Address,
    protocol: u8,
    length: u16,
) -> Question<F> {
    Question {
        source,
        destination,
        source_port: 0,
        destination_port: 0,
        protocol,
        device: LOOPBACK,
        class: [0; 4],
        length,
    }
}

/// The question about the translated packet of this host that `packet` holds, of which each segment has
/// `segment` bytes, 0 where it goes as it is.
#[inline(always)]
pub fn own<F: Family>(packet: &impl PacketRead, segment: u32) -> Option<Question<F>> {
    let (source, destination, protocol) = ends::<F>(packet)?;
    let length = if segment == 0 {
        u16::try_from(packet.length().wrapping_sub(L3)).ok()?
    } else {
        0
    };
    Some(of_host(source, destination, protocol, length))
}

/// The question whose answer is the device that a strict reverse-path filter wants the packet to have come
/// by which `packet` holds, an answer to this host.
#[inline(always)]
pub fn reverse<F: Family>(packet: &impl PacketRead) -> Option<Question<F>> {
    let (source, destination, protocol) = ends::<F>(packet)?;
    Some(of_host(destination, source, protocol, 0))
}

/// Addresses and protocol number of an untagged packet.
#[inline(always)]
fn ends<F: Family>(packet: &impl PacketRead) -> Option<(F::Address, F::Address, u8)> {
    if F::IS_V6 {
        if packet.read::<2>(12)? != ethernet::IPV6.to_be_bytes() {
            return None;
        }
        let [protocol] = packet.read::<1>(L3 + 6)?;
        let source = u128::from_be_bytes(packet.read::<16>(L3 + 8)?);
        let destination = u128::from_be_bytes(packet.read::<16>(L3 + 24)?);
        let address = |address: u128| F::from_halves(halves(address));
        return Some((address(source), address(destination), protocol));
    }
    if packet.read::<2>(12)? != ethernet::IPV4.to_be_bytes() {
        return None;
    }
    let [protocol] = packet.read::<1>(L3 + 9)?;
    let source = u32::from_be_bytes(packet.read::<4>(L3 + 12)?);
    let destination = u32::from_be_bytes(packet.read::<4>(L3 + 16)?);
    let address = |address: u32| F::from_halves([address.into(), 0]);
    Some((address(source), address(destination), protocol))
}

/// A packet that can be sent on, if its way allows that.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Offer<F: Family> {
    /// What to ask about its way.
    pub question: Question<F>,
    /// Bytes from its Ethernet header to the end of the IP packet; padding may follow.
    end: u32,
    /// Its TTL or hop limit.
    ttl: u8,
    /// The protocol number beside it.
    protocol: u8,
    /// IPv4's header checksum.
    checksum: u16,
}

impl<F: Family> Offer<F> {
    /// The packet that `packet` holds, if nothing about it asks for more than to be sent on: a whole TCP,
    /// UDP, SCTP or ICMP packet without options, extension headers or tags, addressed to the host, by a source
    /// that is one host's, with a sound header and a TTL that lasts.
    #[inline(always)]
    pub fn of(packet: &mut impl PacketWrite, wire: Wire) -> Option<Self> {
        if !wire.is_for_host || wire.has_mark || wire.has_tag {
            return None;
        }
        let offer = if F::IS_V6 {
            Self::of_v6(packet, wire)
        } else {
            Self::of_v4(packet, wire)
        }?;
        let end = match offer.end {
            // What is to be cut may be longer than the field can say.
            L3 if wire.segment != 0 => packet.length(),
            L3 => return None,
            end if end > packet.length() => return None,
            end => end,
        };
        let whole = end.wrapping_sub(L3);
        let length = if wire.segment == 0 {
            whole
        } else {
            segment_length::<F>(packet, offer.question.protocol, wire.segment)?
        };
        let question = Question {
            length: u16::try_from(length).ok()?,
            ..offer.question
        };
        Some(Self {
            question,
            end,
            ..offer
        })
    }

    #[inline(always)]
    fn of_v4(packet: &mut impl PacketWrite, wire: Wire) -> Option<Self> {
        let head = packet.head::<PORTS_END_V4>()?;
        if head.half::<12>() != ethernet::IPV4 {
            return None;
        }
        let (first, second) = (head.double::<14>(), head.double::<22>());
        let (source, destination) = (lower(second), head.word::<30>());
        let [version, tos, l0, l1, _, _, f0, f1] = first.to_be_bytes();
        let [ttl, protocol, c0, c1, s0, ..] = second.to_be_bytes();
        let fragment = u16::from_be_bytes([f0, f1]) & 0x3fff;
        if version != 0x45 || fragment != 0 || ttl <= 1 {
            return None;
        }
        let sum = Sum::ZERO.quad(first).quad(second).double(destination);
        let is_host = s0 != 0 && s0 < 224;
        if sum.fold() != 0xffff || !is_host {
            return None;
        }
        let ends = (
            F::from_halves([source.into(), 0]),
            F::from_halves([destination.into(), 0]),
        );
        let ports = head.word::<34>().to_be_bytes();
        let length = u32::from(u16::from_be_bytes([l0, l1]));
        Some(Self {
            question: question(wire, ends, ports, protocol, [tos, 0, 0, 0])?,
            end: L3.wrapping_add(length),
            ttl,
            protocol,
            checksum: u16::from_be_bytes([c0, c1]),
        })
    }

    #[inline(always)]
    fn of_v6(packet: &mut impl PacketWrite, wire: Wire) -> Option<Self> {
        let head = packet.head::<PORTS_END_V6>()?;
        if head.half::<12>() != ethernet::IPV6 {
            return None;
        }
        let [v0, v1, v2, v3, l0, l1, protocol, ttl] = head.double::<14>().to_be_bytes();
        if v0 >> 4 != 6 || ttl <= 1 {
            return None;
        }
        let source = [head.double::<22>(), head.double::<30>()];
        let destination = [head.double::<38>(), head.double::<46>()];
        let ports = head.word::<54>().to_be_bytes();
        let [s0, s1, ..] = head.double::<22>().to_be_bytes();
        // Unspecified, loopback and mapped ones begin with zeros.
        let is_host = s0 != 0 && s0 != 0xff && !(s0 == 0xfe && s1 & 0xc0 == 0x80);
        if !is_host {
            return None;
        }
        let length = u32::from(u16::from_be_bytes([l0, l1]));
        let end = if length == 0 {
            L3
        } else {
            L4_V6.wrapping_add(length)
        };
        let class = [v0 & 0x0f, v1, v2, v3];
        let ends = (F::from_halves(source), F::from_halves(destination));
        Some(Self {
            question: question(wire, ends, ports, protocol, class)?,
            end,
            ttl,
            protocol,
            checksum: 0,
        })
    }

    /// Bytes from its Ethernet header to the end of the IP packet.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.end
    }

    /// Its TTL or hop limit, which is 2 at least.
    #[inline(always)]
    pub const fn ttl(&self) -> u8 {
        self.ttl
    }

    /// Sends the packet on: asks for its way, cuts off what is behind it, counts its TTL down. Gives the
    /// device that it is to leave by; `None`, with the packet unchanged, where it must go the plain way.
    #[inline(always)]
    pub fn send(&self, packet: &mut impl PacketTrim, routes: &mut impl Routes) -> Option<u32> {
        let hop = routes.hop(&self.question);
        if matches!(hop.answer, Answer::Other) || !hop.has_programs {
            return None;
        }
        if self.end < packet.length() {
            packet.trim(self.end)?;
        }
        let ttl = self.ttl.wrapping_sub(1);
        if F::IS_V6 {
            packet.write(L3 + 6, [self.protocol, ttl])?;
        } else {
            let word = |ttl| u16::from_be_bytes([ttl, self.protocol]);
            let change = Sum::ZERO.replace_word(word(self.ttl), word(ttl));
            let [c0, c1] = update(self.checksum, change).to_be_bytes();
            packet.write(L3 + ipv4::TTL_OFFSET, [ttl, self.protocol, c0, c1])?;
        }
        Some(hop.device)
    }
}

#[inline(always)]
const fn question<F: Family>(
    wire: Wire,
    (source, destination): (F::Address, F::Address),
    ports: [u8; 4],
    protocol: u8,
    class: [u8; 4],
) -> Option<Question<F>> {
    let [a, b, c, d] = match Protocol::from_number(protocol) {
        Some(_) => ports,
        // Errors about packets of a flow take the way of its packets.
        None if protocol == icmp_protocol::<F>() => [0; 4],
        None => return None,
    };
    Some(Question {
        source,
        destination,
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
        protocol,
        device: wire.device,
        class,
        length: 0,
    })
}

#[inline(always)]
const fn halves(address: u128) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.to_be_bytes();
    [
        u64::from_be_bytes([a, b, c, d, e, f, g, h]),
        u64::from_be_bytes([i, j, k, l, m, n, o, p]),
    ]
}

/// Bytes, from the IP header on, of each of the packets that one will be cut into.
#[inline(always)]
fn segment_length<F: Family>(packet: &impl PacketRead, protocol: u8, segment: u32) -> Option<u32> {
    let l4 = if F::IS_V6 { L4_V6 } else { L4_V4 };
    let header = match Protocol::from_number(protocol)? {
        Protocol::Tcp => {
            let [offset] = packet.read::<1>(l4.wrapping_add(tcp::LENGTH_OFFSET))?;
            u32::from(offset >> 4) << 2
        }
        Protocol::Udp => udp::HEADER_LENGTH,
        Protocol::Sctp => return None,
    };
    Some(
        l4.wrapping_sub(L3)
            .wrapping_add(header)
            .wrapping_add(segment & 0xffff),
    )
}
