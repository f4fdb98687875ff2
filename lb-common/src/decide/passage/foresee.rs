//! What both hooks will have to do with a packet, asked before either writes anything.

use super::Passage;
use crate::conntrack::{self, Event};
use crate::decide::glance::tuple;
use crate::decide::side::FromUplinkFrame;
use crate::decide::{FromUplink, Next, Workspace, create, event, may_concern, onward};
use crate::family::Family;
use crate::flow::{Direction, FlowKey, Hook, Path, Protocol};
use crate::flows::{Found, TupleWords};
use crate::id::Seconds;
use crate::lookup;
use crate::parse::Transport;
use crate::room::Room;
use crate::select;
use crate::table::backend::BackendFlags;
use crate::table::config;
use crate::table::device::Role;
use crate::tables::Tables;

/// What ingress has to do with a packet that is sent on.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Arrival {
    /// It is left to tc.
    Left = 0,
    /// Nothing: it may be an answer, which egress restores.
    Answer = 1,
    /// To move a flow's state.
    Known = 2,
    /// To make a flow, of which this is the first packet.
    New = 3,
}

/// What the egress of the device that the packet leaves by has to do with it.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
pub(super) enum Departure {
    /// Something that is left to tc.
    Left = 0,
    /// To restore an answer of a flow whose packets are sent on.
    Answer = 1,
    /// Anything else, or nothing.
    Here = 2,
}

/// What the table has of a packet's flow at one hook.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
enum Known {
    /// Nothing.
    Not = 0,
    /// An entry that was used in this very second, and stays.
    Fresh = 1,
    /// One that was not, or gives way to another, or is of a bridged flow.
    Otherwise = 2,
}

/// What ingress may have to do: [`Arrival::Known`] where a flow or a frontend may have the packet.
#[inline(never)]
pub(super) fn approach<F: Family>(tables: &impl Tables, passage: &Passage<F>) -> Arrival {
    let Some(packet) = passage.packet.get() else {
        return Arrival::Left;
    };
    if may_concern::<F, FromUplink>(packet, tables) {
        return Arrival::Known;
    }
    let is_dropped = lookup::in_service_cidr::<F>(tables, packet.destination);
    let may_be_answer = |tuple| onward::may_be_answer(tables, &tuple);
    if !is_dropped && packet.tuple().is_some_and(may_be_answer) {
        return Arrival::Answer;
    }
    Arrival::Left
}

/// What ingress will have to do with such a packet, if it lets it be sent on; its translation is noted,
/// but for that of a new flow.
#[inline(never)]
pub(super) fn foresee<F: Family>(
    now: Seconds,
    tables: &impl Tables,
    passage: &mut Passage<F>,
) -> Arrival {
    let Passage {
        packet,
        transit,
        workspace,
    } = passage;
    let (Some(packet), Some(transit)) = (packet.get(), transit.get_mut()) else {
        return Arrival::Left;
    };
    let Transport::Ports { tuple, tcp_flags } = packet.transport() else {
        return Arrival::Left;
    };
    let event = event(tuple.protocol, tcp_flags);
    let key = FlowKey {
        tuple,
        hook: Hook::Ingress,
    };
    match look(&key, event, now, tables, &mut workspace.found) {
        Known::Not => Arrival::New,
        Known::Otherwise => Arrival::Left,
        Known::Fresh => match workspace.found.get() {
            Some(found) if is_kept(found, tuple.protocol, tables) => {
                transit.translate::<F>(&TupleWords::of(&found.entry.translated));
                Arrival::Known
            }
            _ => Arrival::Left,
        },
    }
}

/// Looks for a packet's flow.
#[inline(always)]
fn look<F: Family>(
    key: &FlowKey<F>,
    event: Event,
    now: Seconds,
    tables: &impl Tables,
    room: &mut Room<Found<F>>,
) -> Known {
    if !tables.search(key, now, room) {
        return Known::Not;
    }
    let Some(found) = room.get() else {
        return Known::Not;
    };
    let gives_way =
        conntrack::begins_anew(found.state, event) || conntrack::is_of_another(found.state, event);
    let is_bridged = matches!(found.entry.path, Path::Bridged);
    if gives_way || is_bridged || found.control.age(now) != Seconds(0) {
        return Known::Otherwise;
    }
    Known::Fresh
}

/// Whether the packets of the flow that ingress has found are sent on to the backend that it has.
#[inline(always)]
fn is_kept<F: Family>(found: &Found<F>, protocol: Protocol, tables: &impl Tables) -> bool {
    let entry = &found.entry;
    let may_be_orphan =
        matches!(protocol, Protocol::Udp) && matches!(entry.direction, Direction::Original);
    let serves = || {
        let record = select::record(tables, entry.backend);
        record.is_some_and(|record| record.flags().has(BackendFlags::SERVING))
    };
    matches!(entry.path, Path::SentOn) && (!may_be_orphan || serves())
}

/// Prepares the flow that the packet begins; says whether there is one, and its packets are sent on if there
/// is a way for them.
#[inline(always)]
pub(super) fn begin<F: Family>(
    now: Seconds,
    tables: &impl Tables,
    passage: &mut Passage<F>,
) -> bool {
    let Passage {
        packet,
        transit,
        workspace,
    } = passage;
    let (Some(packet), Some(transit)) = (packet.get(), transit.get_mut()) else {
        return false;
    };
    if tables.config(config::REDIRECT) == 0 {
        return false;
    }
    let chosen = create::choose::<F, FromUplinkFrame>(packet, now, tables, workspace);
    if chosen.next != Next::Establish {
        return false;
    }
    match workspace.entry.get_mut() {
        Some(entry) if onward::has_a_way(packet, entry) => {
            entry.path = Path::SentOn;
            transit.translate::<F>(&TupleWords::of(&entry.translated));
            true
        }
        _ => false,
    }
}

/// What the egress of the device has to do that the packet leaves by. `own` is the interface index of the
/// device that it came by.
#[inline(never)]
pub(super) fn foresee_egress<F: Family>(
    now: Seconds,
    tables: &impl Tables,
    own: u32,
    passage: &mut Passage<F>,
) -> Departure {
    let Passage {
        packet,
        transit,
        workspace,
    } = passage;
    let (Some(packet), Some(transit)) = (packet.get(), transit.get()) else {
        return Departure::Left;
    };
    let Transport::Ports { tcp_flags, .. } = packet.transport() else {
        return Departure::Left;
    };
    let key = FlowKey {
        tuple: tuple::<F>(&transit.tuple(), transit.protocol()),
        hook: Hook::Egress,
    };
    let role = transit.role();
    if !lookup::may_concern::<F>(tables, (role, Hook::Egress), &key.tuple) {
        return Departure::Here;
    }
    let event = event(key.tuple.protocol, tcp_flags);
    match look(&key, event, now, tables, &mut workspace.found) {
        Known::Fresh if is_answer(workspace) => Departure::Answer,
        Known::Fresh => Departure::Here,
        Known::Not if matches!(role, Role::Workload) || transit.device == own => Departure::Here,
        Known::Not | Known::Otherwise => Departure::Left,
    }
}

/// Whether what was found restores answers of a flow whose packets are sent on: what ingress
/// [asks](onward::is_answer) of a packet that it leaves as it is.
#[inline(always)]
fn is_answer<F: Family>(workspace: &Workspace<F>) -> bool {
    workspace.found.get().is_some_and(|found| {
        matches!(found.entry.direction, Direction::Reply)
            && matches!(found.entry.path, Path::SentOn)
    })
}
