//! Which flows' packets are sent on at once, and which of the packets that ingress leaves as they are
//! belong to them: see [`crate::onward`] for what that takes.

use super::Workspace;
use super::event;
use super::side::Side;
use crate::conntrack::{self, Event};
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path};
use crate::id::Seconds;
use crate::lookup;
use crate::parse::{Packet, Transport};
use crate::table::config;
use crate::table::device::Role;
use crate::tables::Tables;

/// Makes the flow that is prepared, of which `packet` is the first, one whose packets are sent on, if they
/// can be.
///
/// A pod's packets leave the node so only for addresses of pods: to others, CNIs masquerade them. A pod
/// that dials itself has its packets come back by the device that they came by, which hosts are
/// particular about.
#[inline(never)]
pub(super) fn begin<F: Family, S: Side>(
    packet: &Packet<F>,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) {
    let Some(entry) = workspace.entry.get_mut() else {
        return;
    };
    let tuple = &entry.translated;
    if !has_a_way(packet, entry) {
        return;
    }
    let may_leave =
        S::ROLE == Role::Uplink || lookup::in_cluster_cidr::<F>(tables, tuple.destination);
    if tables.leads_on(tuple, may_leave) {
        entry.path = Path::SentOn;
    }
}

/// Whether packets of the flow that `entry` is of, and `packet` the first, can be sent on wherever they lead.
#[inline(always)]
pub(super) fn has_a_way<F: Family>(packet: &Packet<F>, entry: &FlowEntry<F>) -> bool {
    let tuple = &entry.translated;
    let is_routed = matches!(entry.path, Path::Routed);
    is_routed && !packet.fragment.is_part && tuple.source != tuple.destination
}

/// Whether packets with `tuple` that ingress leaves as they are may be answers of a flow whose packets
/// are sent on.
#[inline(always)]
pub(super) fn may_be_answer<F: Family>(tables: &impl Tables, tuple: &FlowTuple<F>) -> bool {
    tables.config(config::REDIRECT) != 0 && lookup::may_be_backend::<F>(tables, tuple.source)
}

/// Whether the packet is one, or an error about the client's: egress will restore it by an entry that
/// says so.
#[inline(never)]
pub(super) fn is_answer<F: Family>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> bool {
    let (tuple, event) = match packet.transport() {
        Transport::Ports { tuple, tcp_flags } => (tuple, event(tuple.protocol, tcp_flags)),
        // What it quotes went the other way. To connection tracking an error about a flow that it
        // does not know is invalid.
        Transport::IcmpError { .. } => match workspace.quote.get() {
            Some(quote) => (quote.tuple.reverse(), Event::NoFlags),
            None => return false,
        },
        _ => return false,
    };
    if packet.fragment.is_part || !may_be_answer(tables, &tuple) {
        return false;
    }
    let key = FlowKey {
        tuple,
        hook: Hook::Egress,
    };
    if !tables.search(&key, now, &mut workspace.found) {
        return false;
    }
    let Some(found) = workspace.found.get() else {
        return false;
    };
    // What egress takes for another connection's is none of the flow's here either.
    let is_of_another = conntrack::is_of_another(found.state, event);
    matches!(found.entry.direction, Direction::Reply)
        && matches!(found.entry.path, Path::SentOn)
        && !is_of_another
}
