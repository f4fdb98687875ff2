//! What a glance at a packet tells: nearly all packets are of no service, or of a flow in the middle
//! of its life, and need no more.
//!
//! A glance reads the fixed headers in place, asks the filters before anything else, and keeps what
//! it knows in registers; the rest of [`super::decide`] parses into memory, since the kernel's stack
//! is small. It says the same as [`super::decide`] or nothing at all, and changes no table. Whatever
//! is out of the ordinary it leaves alone: VLAN tags in the packet, options, extension headers,
//! fragments, other protocols, segments that move a flow's state, the first packet of a second (which
//! stamps the flow), bridged flows.

use super::side::Side;
use super::{Action, Verdict, concerns, established, onward};
use crate::checksum::{Sum, update};
use crate::conntrack;
use crate::family::{Family, V4, V6};
use crate::flow::{Direction, FlowTuple, Hook, Path, Protocol};
use crate::flows::{KeyWords, TupleWords};
use crate::id::{BackendId, Seconds};
use crate::lookup;
use crate::packet::Head as _;
use crate::rewrite::{ChecksumFix, PacketRewrite};
use crate::select;
use crate::table::backend::BackendFlags;
use crate::tables::{Tables, flow_table};
use crate::verdict::Reason;
use crate::wire::{ethernet, tcp, udp};

/// What a glance tells. A struct whose fields are always set: see [`Verdict`].
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Glance {
    /// Whether it tells anything.
    pub is_clear: bool,
    /// What becomes of the packet then. [`Action::Translate`] is done already.
    pub verdict: Verdict,
}

impl Glance {
    const UNCLEAR: Self = Self {
        is_clear: false,
        verdict: Verdict::pass(Reason::NotService),
    };

    #[inline(always)]
    const fn clear(verdict: Verdict) -> Self {
        Self {
            is_clear: true,
            verdict,
        }
    }
}

/// Offset of the IP header behind an Ethernet header without tags.
const L3: usize = 14;
/// Bytes to where the ports of a plain packet end.
pub(super) const PORTS_END_V4: usize = L3 + 24;
pub(super) const PORTS_END_V6: usize = L3 + 44;
/// Bytes to where the flags of a plain TCP segment end.
const FLAGS_END_V4: usize = L3 + 34;
const FLAGS_END_V6: usize = L3 + 54;
/// Offset of the transport header.
const L4_V4: u32 = 34;
const L4_V6: u32 = 54;

/// Glances at a packet that is seen at the side `S`, and translates it if that is all it needs.
#[inline(always)]
pub fn glance<S: Side>(
    packet: &mut impl PacketRewrite,
    now: impl FnOnce() -> Seconds,
    tables: &impl Tables,
) -> Glance {
    match packet.head::<PORTS_END_V4>().map(|head| head.half::<12>()) {
        Some(ethernet::IPV4) => at_family::<V4, S>(packet, now, tables),
        Some(ethernet::IPV6) => at_family::<V6, S>(packet, now, tables),
        _ => Glance::UNCLEAR,
    }
}

/// The same, where packets of another family than `F` are none to be told about.
#[inline(always)]
pub fn glance_of<F: Family, S: Side>(
    packet: &mut impl PacketRewrite,
    now: impl FnOnce() -> Seconds,
    tables: &impl Tables,
) -> Glance {
    let own = if F::IS_V6 {
        ethernet::IPV6
    } else {
        ethernet::IPV4
    };
    match packet.head::<PORTS_END_V4>().map(|head| head.half::<12>()) {
        Some(number) if number == own => at_family::<F, S>(packet, now, tables),
        _ => Glance::UNCLEAR,
    }
}

#[inline(always)]
fn at_family<F: Family, S: Side>(
    packet: &mut impl PacketRewrite,
    now: impl FnOnce() -> Seconds,
    tables: &impl Tables,
) -> Glance {
    let Some((protocol, from)) = plain::<F>(packet) else {
        return Glance::UNCLEAR;
    };
    let told = tell::<F, S>(packet, protocol, &from, now, tables);
    let Glance { is_clear, verdict } = told.glance;
    if !is_clear || !matches!(verdict.action, Action::Translate) {
        return told.glance;
    }
    let is_udp = matches!(protocol, Protocol::Udp);
    match translate::<F>(packet, is_udp, &from, &told.to) {
        Some(()) => told.glance,
        None => Glance::clear(Verdict::drop(Reason::RewriteFailed)),
    }
}

/// What a glance tells, before anything is done.
#[derive(Clone, Copy)]
pub(super) struct Told {
    /// What becomes of the packet; nothing is translated yet.
    pub(super) glance: Glance,
    /// What it is translated to, if it is.
    pub(super) to: TupleWords,
    /// Whether a second look may tell what a glance does not: the packet may begin a flow or move its
    /// state.
    pub(super) may_tell_more: bool,
}

/// What a glance tells of a packet with `protocol` that goes `from` one end to the other.
#[inline(always)]
pub(super) fn tell<F: Family, S: Side>(
    packet: &mut impl PacketRewrite,
    protocol: Protocol,
    from: &TupleWords,
    now: impl FnOnce() -> Seconds,
    tables: &impl Tables,
) -> Told {
    let told = |glance| Told {
        glance,
        to: *from,
        may_tell_more: false,
    };
    let unclear = |may_tell_more| Told {
        glance: Glance::UNCLEAR,
        to: *from,
        may_tell_more,
    };
    let tuple = tuple::<F>(from, protocol);
    let concerns = concerns::<F, S>(&tuple, tables);
    if !concerns {
        if S::HOOK == Hook::Ingress {
            if !S::ASKS_ALL_CIDRS && lookup::has_many_service_cidrs::<F>(tables) {
                return unclear(onward::may_be_answer(tables, &tuple));
            }
            if lookup::in_few_service_cidrs::<F>(tables, tuple.destination, S::ASKS_ALL_CIDRS) {
                return told(Glance::clear(Verdict::drop(Reason::UnallocatedAddress)));
            }
        }
        if S::HOOK == Hook::Egress || !onward::may_be_answer(tables, &tuple) {
            return told(Glance::clear(Verdict::pass(Reason::NotService)));
        }
    }
    let is_udp = matches!(protocol, Protocol::Udp);
    if !is_udp && !is_plain_segment::<F>(packet) {
        return unclear(true);
    }
    // What ingress leaves as it is may be an answer that egress restores.
    let hook = if concerns { S::HOOK } else { Hook::Egress };
    let key = KeyWords::of::<F>(from, protocol, hook);
    let Some(known) = flow_table::<F, _>(tables).peek(key, now()) else {
        // Most of what no service has, from a backend, is no answer either.
        return unclear(concerns);
    };
    let is_original = matches!(known.direction, Direction::Original);
    if !concerns {
        let is_answer = !is_original && matches!(known.path, Path::SentOn);
        if !is_answer || !conntrack::is_steady(known.state, known.direction) {
            return unclear(is_answer);
        }
        return told(Glance::clear(Verdict {
            path: Path::SentOn,
            ..Verdict::pass(Reason::NotService)
        }));
    }
    let is_request = is_original && established::is_request::<S>(known.path);
    let is_orphan = is_udp && is_request && !serves(known.backend, tables);
    let is_bridged = matches!(known.path, Path::Bridged);
    if is_orphan || is_bridged || !conntrack::is_steady(known.state, known.direction) {
        return unclear(true);
    }
    Told {
        glance: Glance::clear(Verdict {
            action: Action::Translate,
            reason: Reason::Established,
            path: known.path,
        }),
        to: known.translated,
        may_tell_more: false,
    }
}

/// Protocol, addresses and ports of a whole TCP or UDP packet without options or extension headers.
#[inline(always)]
pub(super) fn plain<F: Family>(packet: &mut impl PacketRewrite) -> Option<(Protocol, TupleWords)> {
    let present = packet.length();
    let (number, length, from) = bare::<F>(packet)?;
    let (protocol, least) = match number {
        6 => (Protocol::Tcp, tcp::MIN_HEADER_LENGTH),
        17 => (Protocol::Udp, udp::HEADER_LENGTH),
        _ => return None,
    };
    let is_whole = length >= least && length.wrapping_add(l4::<F>()) <= present;
    is_whole.then_some((protocol, from))
}

/// Number of the protocol, its bytes, addresses and what may be ports of a packet without options or
/// extension headers, that is no fragment.
#[inline(always)]
pub(super) fn bare<F: Family>(packet: &mut impl PacketRewrite) -> Option<(u8, u32, TupleWords)> {
    Some(if F::IS_V6 {
        let head = packet.head::<PORTS_END_V6>()?;
        if head.byte::<L3>() >> 4 != 6 {
            return None;
        }
        let from = TupleWords {
            addresses: [
                head.double::<22>(),
                head.double::<30>(),
                head.double::<38>(),
                head.double::<46>(),
            ],
            ports: head.word::<54>(),
        };
        (head.byte::<20>(), u32::from(head.half::<18>()), from)
    } else {
        let head = packet.head::<PORTS_END_V4>()?;
        // Version 4 and no options; neither an offset nor more fragments.
        if head.byte::<L3>() != 0x45 || head.half::<20>() & 0x3fff != 0 {
            return None;
        }
        let from = TupleWords {
            addresses: [head.double::<26>(), 0, 0, 0],
            ports: head.word::<34>(),
        };
        let length = u32::from(head.half::<16>()).checked_sub(20)?;
        (head.byte::<23>(), length, from)
    })
}

/// Where the transport header of a plain packet is.
pub(super) const fn l4<F: Family>() -> u32 {
    if F::IS_V6 { L4_V6 } else { L4_V4 }
}

#[inline(always)]
pub(super) fn tuple<F: Family>(words: &TupleWords, protocol: Protocol) -> FlowTuple<F> {
    let [source, destination] = words.ends::<F>();
    let [a, b, c, d] = words.ports.to_be_bytes();
    FlowTuple {
        source,
        destination,
        source_port: u16::from_be_bytes([a, b]),
        destination_port: u16::from_be_bytes([c, d]),
        protocol,
    }
}

/// Whether a TCP segment is an acknowledgement and neither opens nor closes anything.
#[inline(always)]
fn is_plain_segment<F: Family>(packet: &mut impl PacketRewrite) -> bool {
    let flags = if F::IS_V6 {
        packet
            .head::<FLAGS_END_V6>()
            .map(|head| head.byte::<{ FLAGS_END_V6 - 1 }>())
    } else {
        packet
            .head::<FLAGS_END_V4>()
            .map(|head| head.byte::<{ FLAGS_END_V4 - 1 }>())
    };
    // FIN, SYN, RST and ACK.
    flags.is_some_and(|flags| flags & 0x17 == 0x10)
}

/// As [`super::established`] asks of UDP.
#[inline(always)]
fn serves(backend: BackendId, tables: &impl Tables) -> bool {
    select::record(tables, backend).is_some_and(|record| record.flags().has(BackendFlags::SERVING))
}

/// Gives the packet other addresses and ports, as [`crate::rewrite::apply`] would.
#[inline(always)]
fn translate<F: Family>(
    packet: &mut impl PacketRewrite,
    is_udp: bool,
    from: &TupleWords,
    to: &TupleWords,
) -> Option<()> {
    let change = from.address_change::<F>(to);
    if F::IS_V6 {
        let mut head = packet.head::<PORTS_END_V6>()?;
        let [a, b, c, d] = to.addresses;
        head.set_double::<22>(a);
        head.set_double::<30>(b);
        head.set_double::<38>(c);
        head.set_double::<46>(d);
        head.set_word::<54>(to.ports);
    } else {
        let mut head = packet.head::<PORTS_END_V4>()?;
        let [both, ..] = to.addresses;
        head.set_half::<24>(update(head.half::<24>(), change));
        head.set_double::<26>(both);
        head.set_word::<34>(to.ports);
    }
    let offset = if is_udp {
        udp::CHECKSUM_OFFSET
    } else {
        tcp::CHECKSUM_OFFSET
    };
    packet.fix_l4(ChecksumFix {
        offset: l4::<F>().wrapping_add(offset),
        address_delta: delta(from.differs::<F>(to), change),
        port_delta: delta(from.ports != to.ports, from.port_change(to)),
        is_udp,
        is_v6: F::IS_V6,
    })
}

#[inline(always)]
fn delta(is_changed: bool, change: Sum) -> u32 {
    if is_changed {
        change.in_memory_order()
    } else {
        0
    }
}
