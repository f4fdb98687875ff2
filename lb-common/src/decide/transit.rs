//! A packet's way through both of its hooks at once, as the uplink's driver hands over its frame.
//!
//! What is sent on at once ([`crate::onward`]) is translated at ingress, gets another TTL and the MACs of
//! the next hop, and is translated at the egress of the device that leads there. Where a [glance](super::glance())
//! tells all of that at both hooks, nothing but the packet's bytes changes, and they can be changed before
//! the host has made a packet of the frame.
//!
//! ```text
//! frame ─► glance as at the uplink's ingress ─► sent on? ─► the way ─► glance as at its egress ─► rewrite
//!             └─ anything else: the frame stays as it is, and goes to tc as if nobody had looked ──┘
//! ```
//!
//! Nothing is written before everything is known, and tables are never written. A packet that may begin a
//! flow or move its state is worth a [second look](super::enter()).

use super::glance::{PORTS_END_V4, PORTS_END_V6, bare, l4, plain, tell};
use super::side::{FromUplinkFrame, Side};
use super::{Action, ToUplink, ToWorkload};
use crate::checksum::{Sum, update};
use crate::crc32c;
use crate::family::Family;
use crate::flow::{Path, Protocol};
use crate::flows::TupleWords;
use crate::id::Seconds;
use crate::onward::{Offer, Question, Wire};
use crate::packet::{Head as _, PacketTrim};
use crate::rewrite::{PacketRewrite, changed};
use crate::room::Room;
use crate::table::device::{DeviceRecord, Role, Takes};
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::ethernet::Macs;
use crate::wire::{sctp, tcp, udp};

/// What there is to know around a frame.
pub trait Ways {
    /// Interface index of the device that the frame came by.
    fn device(&self) -> u32;

    /// The record of that device in `DEVICES`; an empty one where there is none.
    fn record(&self) -> DeviceRecord;

    /// Whether the frame lies in more than one buffer.
    fn is_scattered(&self) -> bool;

    /// The way of a packet that is sent on as the host would route it, if route and neighbour are known,
    /// it is not too large for it, and `DEVICES` has the device.
    fn way<F: Family>(&mut self, question: &Question<F>) -> Option<Way>;

    /// Interface index of the device that leads to where the question asks, if route and neighbour are known.
    fn next_device<F: Family>(&mut self, question: &Question<F>) -> Option<u32>;

    /// Whether a flow may begin without tc. Not every one may: only what the host sends has it ask a stale
    /// neighbour whether it is still there.
    fn may_begin(&mut self) -> bool;
}

/// The way of a packet to its next hop.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Way {
    /// MACs of the next hop and of the device.
    pub macs: Macs,
    /// Interface index of the device that leads there.
    pub device: u32,
    /// What it leads to.
    pub role: Role,
    /// Whether packets that it brings or takes may be sent on.
    pub is_open: bool,
    /// Which frames it takes.
    pub takes: Takes,
}

/// What became of a frame.
#[must_use]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum Fate {
    /// It goes on to the host's receive path, untouched.
    Left = 0,
    /// It is ready to be sent by the device of its [`Transit`].
    Taken = 1,
    /// A change failed half way: it must not go on.
    Broken = 2,
    /// Untouched as well, but worth a [second look](super::enter()).
    Unclear = 3,
    /// It ends here, for the reason that egress gives.
    Ended = 4,
}

/// A frame's way. Without a gap: the kernel's verifier refuses to move what is undefined.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Transit {
    /// Source and destination address now, as entries have them.
    addresses: [u64; 4],
    /// What the checksums change by: for the addresses, and for the ports.
    address_change: Sum,
    port_change: Sum,
    /// MACs for the frame, as [`Macs`].
    macs_start: u64,
    macs_end: u32,
    /// Both ports now.
    ports: u32,
    protocol: Protocol,
    /// Where the IP packet ends.
    end: u32,
    /// Interface index of the device that it leaves by.
    pub device: u32,
    ttl: u8,
    /// What that device leads to.
    role: Role,
    /// Why ingress would have let it go on.
    pub arrived: Reason,
    /// Why egress would have.
    pub left: Reason,
}

const _: () = assert!(size_of::<Transit>() == 80);

/// Sends the frame that `packet` holds through both of its hooks, if it can be; `transit` is filled in
/// then.
#[inline(always)]
pub fn transit<F: Family, P: PacketRewrite + PacketTrim>(
    packet: &mut P,
    now: impl Fn() -> Seconds,
    tables: &impl Tables,
    ways: &mut impl Ways,
    transit: &mut Room<Transit>,
) -> Fate {
    let arrived = arrive::<F, P>(packet, &now, tables, transit);
    if arrived != Fate::Taken {
        return arrived;
    }
    let Some(transit) = transit.get_mut() else {
        return Fate::Left;
    };
    if !route::<F, P>(packet, ways, transit) {
        return Fate::Left;
    }
    let left = match transit.role {
        Role::Workload => leave::<F, ToWorkload, P>(packet, &now, tables, transit),
        Role::Uplink => leave::<F, ToUplink, P>(packet, &now, tables, transit),
    };
    if left != Fate::Taken {
        return left;
    }
    if !cut::<P>(packet, transit) {
        return Fate::Left;
    }
    match rewrite::<F, P>(packet, transit) {
        Some(()) => Fate::Taken,
        None => Fate::Broken,
    }
}

/// Cuts off what is behind the IP packet; the first change of all.
#[inline(always)]
pub(super) fn cut<P: PacketRewrite + PacketTrim>(packet: &mut P, transit: &Transit) -> bool {
    transit.end >= packet.length() || packet.trim(transit.end).is_some()
}

/// What the uplink's ingress says of the packet: [`Fate::Taken`] where that is all told at a glance, and
/// the packet is sent on.
#[inline(never)]
fn arrive<F: Family, P: PacketRewrite>(
    packet: &mut P,
    now: &impl Fn() -> Seconds,
    tables: &impl Tables,
    transit: &mut Room<Transit>,
) -> Fate {
    let Some((protocol, from)) = plain::<F>(packet) else {
        let number = bare::<F>(packet).map(|(number, ..)| number);
        return if number == Some(Protocol::Sctp.number()) {
            Fate::Unclear
        } else {
            Fate::Left
        };
    };
    let told = tell::<F, FromUplinkFrame>(packet, protocol, &from, now, tables);
    let verdict = told.glance.verdict;
    if !told.glance.is_clear && told.may_tell_more {
        return Fate::Unclear;
    }
    let goes_on = matches!(verdict.action, Action::Translate | Action::Pass);
    let is_sent_on = told.glance.is_clear && goes_on && matches!(verdict.path, Path::SentOn);
    if !is_sent_on || is_partial::<F, P>(packet, protocol, &from) {
        return Fate::Left;
    }
    let known = transit.put(Transit::new(protocol, &from, verdict.reason));
    if matches!(verdict.action, Action::Translate) {
        known.translate::<F>(&told.to);
    }
    Fate::Taken
}

/// Whether the packet's checksum is half made: the sum over its pseudo-header, to which the device that
/// sends it adds the rest. That a frame is such a packet of this machine, nobody says who hands it over; a
/// whole checksum looks so in one of 65 536 packets.
#[inline(always)]
pub(super) fn is_partial<F: Family, P: PacketRewrite>(
    packet: &mut P,
    protocol: Protocol,
    from: &TupleWords,
) -> bool {
    let length = if F::IS_V6 {
        packet.head::<PORTS_END_V6>().map(|head| head.half::<18>())
    } else {
        let head = packet.head::<PORTS_END_V4>();
        head.map(|head| head.half::<16>().wrapping_sub(20))
    };
    let field = packet.read::<2>(l4::<F>().wrapping_add(checksum_offset(protocol)));
    let (Some(length), Some(field)) = (length, field) else {
        return true;
    };
    let [a, b, c, d] = from.addresses;
    let mut sum = Sum::ZERO
        .quad(a)
        .word(u16::from(protocol.number()))
        .word(length);
    if F::IS_V6 {
        sum = sum.quad(b).quad(c).quad(d);
    }
    sum.fold() == u16::from_be_bytes(field)
}

#[inline(always)]
const fn checksum_offset(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Udp => udp::CHECKSUM_OFFSET,
        Protocol::Tcp | Protocol::Sctp => tcp::CHECKSUM_OFFSET,
    }
}

/// What is known beside its bytes of a frame that came by the device with interface index `device`.
#[inline(always)]
fn wire(packet: &mut impl PacketRewrite, own: &DeviceRecord, device: u32) -> Option<Wire> {
    let head = packet.head::<14>()?;
    let mac = u64::from(head.word::<0>()) << 16 | u64::from(head.half::<4>());
    Some(Wire {
        device,
        segment: 0,
        is_for_host: mac == own.mac(),
        has_mark: false,
        has_tag: false,
    })
}

/// Finds the packet's way; false where it has none that a frame can take.
#[inline(never)]
pub(super) fn route<F: Family, P: PacketRewrite>(
    packet: &mut P,
    ways: &mut impl Ways,
    transit: &mut Transit,
) -> bool {
    find_way::<F, P>(packet, ways, transit).is_some()
}

/// The same for the first packet of a flow, whose answers must come back by the device that it came by: what
/// [`crate::onward::may_begin`] asks, of which the way is one half.
#[inline(never)]
pub(super) fn route_both<F: Family, P: PacketRewrite>(
    packet: &mut P,
    ways: &mut impl Ways,
    transit: &mut Transit,
) -> bool {
    let Some((question, is_open)) = find_way::<F, P>(packet, ways, transit) else {
        return false;
    };
    // That the device it came by is open, too, has been asked for the way.
    is_open && ways.next_device(&question.back(transit.device)) == Some(question.device)
}

/// Finds the packet's way; gives what was asked for it, and whether the device there is open.
#[inline(always)]
fn find_way<F: Family, P: PacketRewrite>(
    packet: &mut P,
    ways: &mut impl Ways,
    transit: &mut Transit,
) -> Option<(Question<F>, bool)> {
    let own = ways.record();
    let wire = wire(packet, &own, ways.device())?;
    if !own.is_open() {
        return None;
    }
    let offer = Offer::<F>::of(packet, wire)?;
    let is_scattered = ways.is_scattered();
    // Nothing is cut off of what has its end in another buffer.
    if is_scattered && offer.end() != packet.length() {
        return None;
    }
    let question = transit.question::<F>(&offer.question);
    let way = ways.way(&question)?;
    let least = match (own.is_generic(), is_scattered) {
        (true, _) => Takes::Packets,
        (false, false) => Takes::Frames,
        (false, true) => Takes::AllFrames,
    };
    transit.end = offer.end();
    transit.ttl = offer.ttl().wrapping_sub(1);
    transit.device = way.device;
    transit.role = way.role;
    transit.macs_start = way.macs.start;
    transit.macs_end = way.macs.end;
    (way.takes >= least).then_some((question, way.is_open))
}

/// What the egress of the device says of the packet that ingress has let go on: [`Fate::Taken`] where that
/// is all told at a glance.
#[inline(always)]
fn leave<F: Family, S: Side, P: PacketRewrite>(
    packet: &mut P,
    now: &impl Fn() -> Seconds,
    tables: &impl Tables,
    transit: &mut Transit,
) -> Fate {
    let between = transit.tuple();
    let told = tell::<F, S>(packet, transit.protocol, &between, now, tables);
    let verdict = told.glance.verdict;
    if !told.glance.is_clear {
        return if told.may_tell_more {
            Fate::Unclear
        } else {
            Fate::Left
        };
    }
    transit.left = verdict.reason;
    match verdict.action {
        Action::Pass => Fate::Taken,
        Action::Translate => {
            transit.translate::<F>(&told.to);
            Fate::Taken
        }
        _ => Fate::Left,
    }
}

impl Transit {
    /// The way of a packet with these ends, of which nothing is known yet but why ingress lets it go on.
    #[inline(always)]
    pub(super) const fn new(protocol: Protocol, from: &TupleWords, arrived: Reason) -> Self {
        Self {
            addresses: from.addresses,
            address_change: Sum::ZERO,
            port_change: Sum::ZERO,
            macs_start: 0,
            macs_end: 0,
            ports: from.ports,
            protocol,
            end: 0,
            device: 0,
            ttl: 0,
            role: Role::Workload,
            arrived,
            left: arrived,
        }
    }

    /// Bytes from the Ethernet header to where the IP packet ends.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.end
    }

    #[inline(always)]
    pub(super) const fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// What the device that it leaves by leads to.
    #[inline(always)]
    pub(super) const fn role(&self) -> Role {
        self.role
    }

    #[inline(always)]
    pub(super) const fn tuple(&self) -> TupleWords {
        TupleWords {
            addresses: self.addresses,
            ports: self.ports,
        }
    }

    /// Gives the packet the addresses and ports of `to`, one more time. What does not change adds nothing
    /// to a checksum's change: not even a zero of one's complement, which would make another zero of one.
    #[inline(always)]
    pub(super) fn translate<F: Family>(&mut self, to: &TupleWords) {
        let from = self.tuple();
        if from.differs::<F>(to) {
            self.address_change = self.address_change.sum(from.address_change::<F>(to));
        }
        if from.ports != to.ports {
            self.port_change = self.port_change.sum(from.port_change(to));
        }
        self.addresses = to.addresses;
        self.ports = to.ports;
    }

    /// `question` about the packet as it is now.
    #[inline(always)]
    fn question<F: Family>(&self, question: &Question<F>) -> Question<F> {
        let [source, destination] = self.tuple().ends::<F>();
        let [a, b, c, d] = self.ports.to_be_bytes();
        Question {
            source,
            destination,
            source_port: u16::from_be_bytes([a, b]),
            destination_port: u16::from_be_bytes([c, d]),
            ..*question
        }
    }
}

/// Writes what has become of a TCP or UDP packet: MACs, TTL, addresses, ports, checksums.
#[inline(always)]
pub(super) fn rewrite<F: Family, P: PacketRewrite>(
    packet: &mut P,
    transit: &Transit,
) -> Option<()> {
    let offset = l4::<F>().wrapping_add(checksum_offset(transit.protocol));
    let change = transit.address_change.sum(transit.port_change);
    let old = u16::from_be_bytes(packet.read(offset)?);
    let new = changed(old, change, matches!(transit.protocol, Protocol::Udp));
    packet.write(offset, new.to_be_bytes())?;
    rewrite_heads::<F, P>(packet, transit)
}

/// The same of an SCTP packet, whose checksum has the ports alone.
#[inline(never)]
pub(super) fn rewrite_sctp<F: Family, P: PacketRewrite>(
    packet: &mut P,
    transit: &Transit,
) -> Option<()> {
    let old = packet.read::<4>(l4::<F>())?;
    let new = transit.ports.to_be_bytes();
    if old != new {
        let offset = l4::<F>().wrapping_add(sctp::CHECKSUM_OFFSET);
        let length = transit.end.wrapping_sub(l4::<F>());
        let change = crc32c::change_of_first_word(old, new, length);
        let crc = u32::from_le_bytes(packet.read(offset)?) ^ change;
        packet.write(offset, crc.to_le_bytes())?;
    }
    rewrite_heads::<F, P>(packet, transit)
}

/// MACs, TTL, addresses, ports, and the header's checksum.
#[inline(always)]
fn rewrite_heads<F: Family, P: PacketRewrite>(packet: &mut P, transit: &Transit) -> Option<()> {
    let number = transit.protocol.number();
    let [a, b, c, d] = transit.addresses;
    if F::IS_V6 {
        let mut head = packet.head::<PORTS_END_V6>()?;
        head.set_double::<0>(transit.macs_start);
        head.set_word::<8>(transit.macs_end);
        head.set_half::<20>(u16::from_be_bytes([number, transit.ttl]));
        head.set_double::<22>(a);
        head.set_double::<30>(b);
        head.set_double::<38>(c);
        head.set_double::<46>(d);
        head.set_word::<54>(transit.ports);
    } else {
        let mut head = packet.head::<PORTS_END_V4>()?;
        head.set_double::<0>(transit.macs_start);
        head.set_word::<8>(transit.macs_end);
        let ttl = u16::from_be_bytes([transit.ttl, number]);
        let change = transit.address_change.replace_word(head.half::<22>(), ttl);
        head.set_half::<22>(ttl);
        head.set_half::<24>(update(head.half::<24>(), change));
        head.set_double::<26>(a);
        head.set_word::<34>(transit.ports);
    }
    Some(())
}
