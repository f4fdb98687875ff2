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
use crate::onward::Reach;
use crate::parse::{Packet, Transport};
use crate::table::config;
use crate::table::device::Role;
use crate::tables::Tables;

/// Makes the flow that is prepared, of which `packet` is the first, one whose packets are sent on, if they
/// can be and may be.
///
/// Where the operator did not ask for it they may be that come from outside for a host: a node's filters
/// accept what is forwarded to pods and from them, and nothing else.
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
    if !is_routed_whole(packet, entry) {
        return;
    }
    let sends_all = tables.config(config::REDIRECT) != 0;
    let is_from_outside = S::ROLE == Role::Uplink;
    let is_to_host = is_from_outside && lookup::is_host::<F>(tables, tuple.destination);
    if tuple.source == tuple.destination && !is_to_host {
        return;
    }
    let reach = match (sends_all, is_to_host) {
        (false, false) => return,
        (false, true) => Reach::ToHost,
        (true, true) => Reach::AnywhereToHost,
        (true, false)
            if is_from_outside || lookup::in_cluster_cidr::<F>(tables, tuple.destination) =>
        {
            Reach::Anywhere
        }
        (true, false) => Reach::Here,
    };
    if tables.leads_on(tuple, reach) {
        entry.path = Path::SentOn;
    }
}

/// Whether packets of the flow that `entry` is of, and `packet` the first, can be sent on wherever they lead.
#[inline(always)]
pub(super) fn has_a_way<F: Family>(packet: &Packet<F>, entry: &FlowEntry<F>) -> bool {
    let tuple = &entry.translated;
    is_routed_whole(packet, entry) && tuple.source != tuple.destination
}

#[inline(always)]
const fn is_routed_whole<F: Family>(packet: &Packet<F>, entry: &FlowEntry<F>) -> bool {
    matches!(entry.path, Path::Routed) && !packet.fragment.is_part
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
