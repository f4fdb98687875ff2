//! A second look at a frame: the whole decision of both hooks, where a [glance](super::transit()) tells
//! that a packet may begin a flow or move the state of one.
//!
//! ```text
//! enter   ingress foreseen ─► the way ─► egress foreseen ─► ingress decides, writes its tables
//!            └─ anything amiss: to tc, nothing is written ──┘
//! leave   egress decides, writes its tables ─► rewrite
//! ```
//!
//! Two parts, since to the kernel each is a program as large as one of tc's; what the first has found the
//! second finds in the [`Passage`]. The decisions are those of tc, by the same functions; before the
//! first of them writes anything, all that could keep XDP from taking the packet is asked. What may change
//! after that, by another processor's hand or a route's, is left to tc even then: it decides once more,
//! and finds what was written. No packet that is told to its flow twice moves it twice (held by a test).
//!
//! Left to tc as well: the first packet of a second of every flow, and [some](Ways::may_begin) of those
//! that begin one, since only what the host sends keeps its neighbours alive; a client's port that another
//! flow has, and a source of this node for a flow that leaves by another uplink, whose sockets
//! cannot be asked about here; refusals and drops of ingress.

mod foresee;

use self::foresee::{Arrival, Departure, approach, begin, foresee, foresee_egress};
use super::glance::{PORTS_END_V4, PORTS_END_V6, bare, l4, tuple};
use super::side::{FromUplinkFrame, Side};
use super::transit::{cut, is_partial, rewrite, rewrite_sctp, route, route_both};
use super::{
    Action, Fate, FromUplink, Next, Step, ToUplink, ToWorkload, Transit, Verdict, Ways, Workspace,
    create, established, event, may_concern, settle, source,
};
use crate::conntrack;
use crate::family::Family;
use crate::flow::Protocol;
use crate::flows::TupleWords;
use crate::id::Seconds;
use crate::packet::{Head as _, PacketTrim};
use crate::parse::{Packet, TcpFlags, Transport};
use crate::rewrite::PacketRewrite;
use crate::room::Room;
use crate::table::device::Role;
use crate::tables::Tables;
use crate::verdict::Reason;
use crate::wire::{ethernet, sctp, tcp, udp};

/// Memory of a second look; in the kernel, what the first part hands to the second.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Passage<F: Family> {
    /// The packet as it came; for the second part, as ingress would have translated it.
    packet: Room<Packet<F>>,
    transit: Room<Transit>,
    workspace: Workspace<F>,
}

impl<F: Family> Passage<F> {
    /// What was found; of the packet that was looked at last.
    #[inline(always)]
    pub const fn transit(&self) -> Option<&Transit> {
        self.transit.get()
    }
}

/// The first part: decides about the packet as the uplink's ingress does, if it can then be sent. False
/// where it goes on to tc; the frame is never touched.
#[inline(always)]
pub fn enter<F: Family, P: PacketRewrite>(
    frame: &mut P,
    now: Seconds,
    tables: &impl Tables,
    ways: &mut impl Ways,
    passage: &mut Passage<F>,
) -> bool {
    if !read::<F, P>(frame, passage) {
        return false;
    }
    let mut arrival = approach(tables, passage);
    if arrival == Arrival::Known {
        arrival = foresee(now, tables, passage);
    }
    let is_sent_on = match arrival {
        Arrival::Left => false,
        Arrival::Known | Arrival::Answer => true,
        Arrival::New => ways.may_begin() && begin(now, tables, passage),
    };
    if !is_sent_on || !find_way::<F, P>(frame, ways, arrival, passage) {
        return false;
    }
    let foreseen = foresee_egress(now, tables, ways.device(), passage);
    if foreseen == Departure::Left || (arrival == Arrival::Answer && foreseen != Departure::Answer)
    {
        return false;
    }
    let Passage {
        packet,
        transit,
        workspace,
    } = passage;
    let (Some(packet), Some(transit)) = (packet.get_mut(), transit.get_mut()) else {
        return false;
    };
    let verdict = match arrival {
        Arrival::New => establish(packet, now, tables, workspace),
        Arrival::Known => advance(packet, now, tables, workspace),
        Arrival::Answer | Arrival::Left => Verdict::pass(Reason::NotService),
    };
    transit.arrived = verdict.reason;
    let is_as_foreseen = match verdict.action {
        Action::Translate => is_foreseen(workspace, transit),
        _ => arrival == Arrival::Answer,
    };
    packet.move_to(&tuple::<F>(&transit.tuple(), transit.protocol()));
    is_as_foreseen
}

/// The second part: decides as the egress of the device does that the packet leaves by, and rewrites the
/// frame.
#[inline(always)]
pub fn leave<F: Family, P: PacketRewrite + PacketTrim>(
    frame: &mut P,
    now: Seconds,
    tables: &impl Tables,
    passage: &mut Passage<F>,
) -> Fate {
    let Passage {
        packet,
        transit,
        workspace,
    } = passage;
    let (Some(packet), Some(transit)) = (packet.get(), transit.get_mut()) else {
        return Fate::Left;
    };
    let decided = match transit.role() {
        Role::Workload => at_egress::<F, ToWorkload>(packet, now, tables, workspace),
        Role::Uplink => at_egress::<F, ToUplink>(packet, now, tables, workspace),
    };
    let verdict = decided.verdict;
    transit.left = verdict.reason;
    match (decided.next, verdict.action) {
        (Next::Done, Action::Pass) => {}
        (Next::Done, Action::Translate) => {
            if !translate(workspace, transit) {
                return Fate::Left;
            }
        }
        (Next::Done, Action::Drop) => return Fate::Ended,
        _ => return Fate::Left,
    }
    if !cut::<P>(frame, transit) {
        return Fate::Left;
    }
    let rewritten = match transit.protocol() {
        Protocol::Sctp => rewrite_sctp::<F, P>(frame, transit),
        Protocol::Tcp | Protocol::Udp => rewrite::<F, P>(frame, transit),
    };
    match rewritten {
        Some(()) => Fate::Taken,
        None => Fate::Broken,
    }
}

/// Reads a whole packet with ports, no options or extension headers, and a whole checksum.
#[inline(never)]
fn read<F: Family, P: PacketRewrite>(frame: &mut P, passage: &mut Passage<F>) -> bool {
    let present = frame.length();
    let Some((number, length, from)) = bare::<F>(frame) else {
        return false;
    };
    let Some(protocol) = Protocol::from_number(number) else {
        return false;
    };
    let least = match protocol {
        Protocol::Tcp => tcp::MIN_HEADER_LENGTH,
        Protocol::Udp => udp::HEADER_LENGTH,
        Protocol::Sctp => sctp::HEADER_LENGTH,
    };
    let end = length.wrapping_add(l4::<F>());
    if length < least || end > present || !is_sound::<F, P>(frame, protocol, &from) {
        return false;
    }
    let ttl = if F::IS_V6 {
        frame.head::<PORTS_END_V6>().map(|head| head.byte::<21>())
    } else {
        frame.head::<PORTS_END_V4>().map(|head| head.byte::<22>())
    };
    let flags = match protocol {
        Protocol::Tcp => frame.read::<1>(l4::<F>().wrapping_add(tcp::FLAGS_OFFSET)),
        Protocol::Udp | Protocol::Sctp => Some([0]),
    };
    let (Some(ttl), Some([flags])) = (ttl, flags) else {
        return false;
    };
    passage.packet.put(Packet::plain(
        &tuple::<F>(&from, protocol),
        TcpFlags(flags),
        ttl,
        (ethernet::HEADER_LENGTH, l4::<F>(), end),
    ));
    let transit = Transit::new(protocol, &from, Reason::NotService);
    passage.transit.put(transit);
    true
}

/// Whether the checksum is whole. Of SCTP, a device that is to make it finds 0.
#[inline(always)]
fn is_sound<F: Family, P: PacketRewrite>(
    frame: &mut P,
    protocol: Protocol,
    from: &TupleWords,
) -> bool {
    if matches!(protocol, Protocol::Sctp) {
        let field = frame.read::<4>(l4::<F>().wrapping_add(sctp::CHECKSUM_OFFSET));
        return field.is_some_and(|crc| crc != [0; 4]);
    }
    !is_partial::<F, P>(frame, protocol, from)
}

/// Finds the packet's way; of a flow that begins, the way back as well.
#[inline(always)]
fn find_way<F: Family, P: PacketRewrite>(
    frame: &mut P,
    ways: &mut impl Ways,
    arrival: Arrival,
    passage: &mut Passage<F>,
) -> bool {
    let Some(transit) = passage.transit.get_mut() else {
        return false;
    };
    match arrival {
        Arrival::New => route_both::<F, P>(frame, ways, transit),
        _ => route::<F, P>(frame, ways, transit),
    }
}

/// Makes the flow that was prepared.
#[inline(always)]
fn establish<F: Family>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let Transport::Ports { tuple, tcp_flags } = packet.transport() else {
        return Verdict::pass(Reason::NotService);
    };
    let state = conntrack::first(event(tuple.protocol, tcp_flags));
    let verdict = create::establish::<F, FromUplinkFrame>(state, now, tables, workspace);
    create::stick(now, tables, workspace);
    verdict
}

/// Tells the packet's flow of it, as ingress does.
#[inline(always)]
fn advance<F: Family>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let settled = settle::<F, FromUplink>(packet, now, tables, workspace);
    match settled.next {
        Next::Done => settled.verdict,
        Next::Follow => {
            established::follow(settled.state, now, tables, workspace);
            settled.verdict
        }
        // The flow was another one's a moment ago.
        Next::Replace | Next::Choose | Next::Establish => Verdict::pass(Reason::NotService),
    }
}

/// Notes what egress translates the packet to. Out of line, as the stack is short where a source is chosen.
#[inline(never)]
fn translate<F: Family>(workspace: &Workspace<F>, transit: &mut Transit) -> bool {
    let Some(rewrite) = workspace.rewrite() else {
        return false;
    };
    transit.translate::<F>(&TupleWords::of(&rewrite.to));
    true
}

/// Whether the packet's translation is what the way was looked for.
#[inline(never)]
fn is_foreseen<F: Family>(workspace: &Workspace<F>, transit: &Transit) -> bool {
    let foreseen = transit.tuple();
    workspace.rewrite().is_some_and(|rewrite| {
        let to = TupleWords::of(&rewrite.to);
        !foreseen.differs::<F>(&to) && foreseen.ports == to.ports
    })
}

/// What egress says of a packet with ports, as [`super::decide`] does.
#[inline(always)]
fn at_egress<F: Family, S: Side>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    let untouched = Step::done(Verdict::pass(Reason::NotService));
    if !may_concern::<F, S>(packet, tables) {
        return untouched;
    }
    let settled = settle::<F, S>(packet, now, tables, workspace);
    match settled.next {
        Next::Done | Next::Replace => return settled,
        Next::Follow => {
            established::follow(settled.state, now, tables, workspace);
            return Step::done(settled.verdict);
        }
        Next::Choose | Next::Establish => {}
    }
    if matches!(S::ROLE, Role::Workload) {
        return untouched;
    }
    let chosen = source::choose::<F, S>(packet, now, tables, workspace);
    if chosen.next != Next::Establish {
        return chosen;
    }
    Step::done(create::establish::<F, S>(
        chosen.state,
        now,
        tables,
        workspace,
    ))
}
