//! A source address of this node for flows that came from outside and leave again.
//!
//! ```text
//!            ingress (from the wire)                egress (to the wire)
//! pair 1     C:c → V:v   ⇒  C:t → B:b    partner    B:b → C:t   ⇒  V:v → C:c
//! pair 2     B:b → S:s   ⇒  B:b → C:t    partner    C:t → B:b   ⇒  S:s → B:b
//! ```
//!
//! The backend is on another node and would answer the client C by a way that does not lead through
//! this one, so it is given an address S that does: that of the device which routing chose. The host
//! between the two hooks sees C and B only, so its policies, connection tracking and reverse-path
//! checks hold. Pair 1 is made at ingress; what leaves by an uplink and is of a pair 1 that came by
//! one gets pair 2 here. A packet of a pod leaves as it is: its pair 1 did not come from outside.

use super::side::Side;
use super::{Next, Step, Verdict, Workspace, event};
use crate::conntrack;
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook};
use crate::flows::Found;
use crate::id::Seconds;
use crate::lookup;
use crate::parse::{Packet, Transport};
use crate::room::Room;
use crate::tables::{Tables, flow_table};
use crate::verdict::Reason;

/// Prepares pair 2 of the flow that a packet is of which leaves by an uplink, if its pair 1 came by
/// one.
#[inline(never)]
pub(super) fn choose<F: Family, S: Side>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    workspace.sticks = 0;
    if !lookup::may_be_backend::<F>(tables, packet.destination) {
        return Step::done(Verdict::pass(Reason::NotService));
    }
    let Some(key) = put_key_of_replies(packet, S::HOOK, &mut workspace.key) else {
        return Step::done(Verdict::pass(Reason::NotService));
    };
    if !tables.search(key, now, &mut workspace.found) {
        return Step::done(Verdict::pass(Reason::NotService));
    }
    let Transport::Ports { tuple, tcp_flags } = packet.transport() else {
        return Step::done(Verdict::pass(Reason::NotService));
    };
    let Some(found) = workspace.found.get() else {
        return Step::done(Verdict::pass(Reason::NotService));
    };
    if found.entry.direction != Direction::Reply || !found.entry.is_from_outside {
        return Step::done(Verdict::pass(Reason::NotService));
    }
    let entry = put_entry(&tuple, &found.entry, &mut workspace.entry);
    if !give_source(tables, entry) {
        return Step::done(Verdict::drop(Reason::NoSourceAddress));
    }
    Step::next(
        Next::Establish,
        conntrack::first(event(tuple.protocol, tcp_flags)),
    )
}

/// The key by which the replies of pair 1 are restored. Out of line: see [`put_entry`].
#[inline(never)]
fn put_key_of_replies<'r, F: Family>(
    packet: &Packet<F>,
    hook: Hook,
    room: &'r mut Room<FlowKey<F>>,
) -> Option<&'r FlowKey<F>> {
    let tuple = packet.tuple()?.reverse();
    Some(room.put(FlowKey { tuple, hook }))
}

/// Takes a flow out of the table that has the key of `half`, a pair 2's replies, if it
/// [needs its port no more](conntrack::State::yields_port). Its own packets go first: one that comes
/// late gets another port, and is none of the new flow's.
#[inline(never)]
pub(super) fn take_over<F: Family>(
    now: Seconds,
    tables: &impl Tables,
    (half, found): (&mut Room<FlowEntry<F>>, &mut Room<Found<F>>),
) -> bool {
    let Some(wanted) = half.get() else {
        return false;
    };
    if !tables.search(&wanted.key, now, found) {
        return false;
    }
    let Some(held) = found.get() else {
        return false;
    };
    if !held.state.yields_port(held.control.age(now)) {
        return false;
    }
    tables.remove_partner(&held.entry, half, now);
    flow_table::<F, _>(tables).remove(held.location, held.control)
}

/// Has the packets of `entry` get the address of the device that they leave by; says whether it has one.
#[inline(never)]
fn give_source<F: Family>(tables: &impl Tables, entry: &mut FlowEntry<F>) -> bool {
    let source = tables.source_address::<F>();
    entry.translated.source = source;
    let [high, low] = F::halves(source);
    high | low != 0
}

/// The entry of packets with `tuple`, which have no other address yet; `reply` is that of pair 1, whose
/// path it takes: both pairs' packets are sent on, or none.
#[inline(never)]
fn put_entry<'r, F: Family>(
    tuple: &FlowTuple<F>,
    reply: &FlowEntry<F>,
    room: &'r mut Room<FlowEntry<F>>,
) -> &'r mut FlowEntry<F> {
    room.put(FlowEntry {
        key: FlowKey {
            tuple: *tuple,
            hook: Hook::Egress,
        },
        translated: *tuple,
        direction: Direction::Original,
        path: reply.path,
        is_from_outside: true,
        service: reply.service,
        backend: reply.backend,
    })
}
