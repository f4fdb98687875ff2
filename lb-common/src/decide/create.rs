//! The first packet of a flow.
//!
//! Order of writes: the **reply entry first**. Its insertion is the allocation of the source port,
//! since the table takes a key once: the same key with another value means that the port is taken,
//! and the next one is tried. Then, for a hairpin, the second pair; last the entry of the packet's
//! own direction, which is what makes the flow one. The packet leaves only after that, so a reply
//! always finds its entry. Where the service has session affinity, the client's backend is written
//! last, for a flow that is one.

use super::side::Side;
use super::{Next, Step, Verdict, Workspace, event, refuse_address, source};
use crate::conntrack::{self, Event, State};
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use crate::flows::{Found, Placed, Placement};
use crate::hash;
use crate::id::{BackendId, Seconds, ServiceId};
use crate::lookup::{self, OWN_PORTS, OWN_PORTS_FROM, is_own_port};
use crate::parse::{Packet, Transport};
use crate::rewrite::Rewrite;
use crate::room::Room;
use crate::select::{self, Choice};
use crate::table::device::Role;
use crate::table::frontend::FrontendKind;
use crate::table::region::WhenEmpty;
use crate::table::source_range::SourceRangeKey;
use crate::tables::Tables;
use crate::verdict::Reason;

/// How many ports are tried for a flow from a pod or from outside, the client's own included. With the
/// flow table half full of flows to one backend, all of them being taken has a chance below one in a
/// hundred.
const ATTEMPTS: u32 = 8;
/// How many are tried for a source address of this node, which all its clients share. With 28 000 of
/// the 28 976 ports taken, two packets of three find one of those that are left.
const SOURCE_ATTEMPTS: u32 = 32;
/// How many of them look for a port that no flow has; the others also take one from a flow that has
/// ended or that nobody has confirmed.
const FREE_ATTEMPTS: u32 = 4;

/// Where a new flow goes.
#[derive(Clone, Copy)]
struct Target<F: Family> {
    service: ServiceId,
    backend: BackendId,
    address: F::Address,
    port: u16,
}

/// Chooses where a packet that no flow has is to go and prepares its entry: gives the state that
/// the flow begins in, or the verdict if there is nowhere to go.
#[inline(never)]
pub(super) fn choose<F: Family, S: Side>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    workspace.sticks = 0;
    let Transport::Ports { tuple, tcp_flags } = packet.transport() else {
        return Step::done(Verdict::pass(Reason::NotService));
    };
    let Some(frontend) = lookup::frontend(tables, &tuple) else {
        return Step::done(refuse_address::<F>(tuple.destination, tables));
    };
    // A node port is also a port of this node: what is not the first segment of a connection may be
    // the answer to one that the node itself, or its masquerade, began from there.
    if frontend.kind() == Some(FrontendKind::NodePort)
        && tuple.protocol == Protocol::Tcp
        && event(tuple.protocol, tcp_flags) != Event::Syn
    {
        return Step::done(Verdict::pass(Reason::NotService));
    }
    let (index, client) = (frontend.service_index(), tuple.source);
    if frontend.has_source_ranges() {
        let client = SourceRangeKey::client(index, F::mapped(client));
        if !tables.has_source_range(&client) {
            return Step::done(Verdict::drop(Reason::SourceRange));
        }
    }
    // This host is a client of the cluster, as its pods are.
    let role = if S::IS_OF_HOST {
        Role::Workload
    } else {
        S::ROLE
    };
    let audience = lookup::audience::<F>(tables, role, frontend.kind(), client);
    let target = match select::select(tables, index, audience, &tuple, now) {
        Choice::Backend {
            service,
            backend,
            address,
            port,
            is_sticky,
        } => {
            workspace.sticks = u32::from(is_sticky);
            Target {
                service,
                backend,
                address,
                port,
            }
        }
        Choice::Empty(WhenEmpty::Refuse) => {
            return Step::done(Verdict::refuse(Reason::NoEndpoints));
        }
        Choice::Empty(WhenEmpty::Drop) => {
            return Step::done(Verdict::drop(Reason::NoLocalEndpoints));
        }
        Choice::Inconsistent => return Step::done(Verdict::drop(Reason::TableInconsistent)),
    };
    let shares_bridge = S::ROLE == Role::Workload
        && tuple.source != target.address
        && tables.share_bridge::<F>(tuple.source, target.address);
    let path = if S::IS_OF_HOST {
        Path::OfHost
    } else if shares_bridge {
        Path::Bridged
    } else {
        Path::Routed
    };
    let entry = put_entry(&tuple, &target, path, &mut workspace.entry);
    entry.key.hook = S::HOOK;
    entry.is_from_outside = S::ROLE == Role::Uplink && S::HOOK == Hook::Ingress;
    Step::next(
        Next::Establish,
        conntrack::first(event(tuple.protocol, tcp_flags)),
    )
}

/// Makes the entries of the flow that was prepared.
#[inline(never)]
pub(super) fn establish<F: Family, S: Side>(
    state: State,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let Workspace {
        rewrite,
        found,
        entry,
        leg,
        half,
        placed,
        sticks,
        ..
    } = workspace;
    // Set again by the entry that makes the flow one.
    let is_sticky = core::mem::take(sticks);
    let Some(entry) = entry.get_mut() else {
        return Verdict::drop(Reason::TableInconsistent);
    };
    let is_hairpin =
        S::ROLE == Role::Workload && entry.key.tuple.source == entry.translated.destination;
    let attempts = if S::KEEPS_PORT {
        1
    } else if is_source::<S>() {
        SOURCE_ATTEMPTS
    } else {
        ATTEMPTS
    };
    for attempt in 0..attempts {
        if attempt > 0 || (is_source::<S>() && !is_own_port(entry.translated.source_port)) {
            entry.translated.source_port = random_port(tables);
        }
        if !is_usable::<F, S>(&entry.translated, tables) {
            continue;
        }
        let mut reserved = tables.place_partner(entry, half, state, now, placed);
        if is_source::<S>()
            && reserved == Placement::Other
            && attempt >= FREE_ATTEMPTS
            && source::take_over(now, tables, (half, found))
        {
            reserved = tables.place_partner(entry, half, state, now, placed);
        }
        if reserved == Placement::Inserted && placed.replaced_unconfirmed {
            tables.note(Reason::UnconfirmedReplaced);
        }
        if is_hairpin && is_held(reserved) {
            reserved = reserve_second_leg(entry, (leg, half, placed), state, now, tables);
        }
        match reserved {
            Placement::Inserted | Placement::Same => {
                let (verdict, is_ours) =
                    publish::<F, S>(entry, state, now, tables, (rewrite, found, placed));
                if is_ours {
                    *sticks = is_sticky;
                }
                return verdict;
            }
            Placement::Other => {}
            Placement::Full => return Verdict::drop(Reason::FlowsFull),
            Placement::Contended => return Verdict::drop(Reason::FlowContention),
        }
    }
    Verdict::drop(Reason::PortsExhausted)
}

/// Whether packets get a source of this node: an address that brings the answers back, or for this host's
/// own a port by which its answers are known.
#[inline(always)]
const fn is_source<S: Side>() -> bool {
    matches!(S::HOOK, Hook::Egress)
}

/// Whether packets of a flow may leave as `tuple`, whatever other flows have.
#[inline(always)]
fn is_usable<F: Family, S: Side>(tuple: &FlowTuple<F>, tables: &impl Tables) -> bool {
    match (S::ROLE, S::HOOK) {
        // What comes back must be a reply, not a connection to a node port or to the host.
        (_, Hook::Egress) => {
            !lookup::may_be_node_port(tables, tuple.protocol, tuple.source_port)
                && !tables.has_socket(&tuple.reverse())
        }
        // A client that is its own backend, elsewhere: there and back must be told apart on the way out.
        (Role::Uplink, Hook::Ingress) => {
            tuple.source != tuple.destination || tuple.source_port != tuple.destination_port
        }
        (Role::Workload, Hook::Ingress) => true,
    }
}

/// Remembers the client's backend, if the flow that was made is of a service with session affinity.
#[inline(always)]
pub(super) fn stick<F: Family>(now: Seconds, tables: &impl Tables, workspace: &Workspace<F>) {
    if workspace.sticks == 0 {
        return;
    }
    if let Some(entry) = workspace.entry.get() {
        let client = entry.key.tuple.source;
        select::stick::<F>(tables, client, entry.service, entry.backend, now);
    }
}

/// Whether an entry is in the table now: put there by us, or there before, as a half that outlived
/// the other or by another processor's packet of this very flow.
#[inline(always)]
const fn is_held(placement: Placement) -> bool {
    matches!(placement, Placement::Inserted | Placement::Same)
}

/// The entry of the packets that one with `tuple` is the first of, at ingress. Out of line, like those below: each builds
/// a value as large as a fifth of the kernel's stack.
#[inline(never)]
fn put_entry<'r, F: Family>(
    tuple: &FlowTuple<F>,
    target: &Target<F>,
    path: Path,
    room: &'r mut Room<FlowEntry<F>>,
) -> &'r mut FlowEntry<F> {
    room.put(FlowEntry {
        key: FlowKey {
            tuple: *tuple,
            hook: Hook::Ingress,
        },
        translated: FlowTuple {
            source: tuple.source,
            destination: target.address,
            source_port: tuple.source_port,
            destination_port: target.port,
            protocol: tuple.protocol,
        },
        direction: Direction::Original,
        path,
        is_from_outside: false,
        service: target.service,
        backend: target.backend,
    })
}

/// The egress entry of a hairpin's second pair: the pod must see the service address as its peer,
/// or it would answer itself.
#[inline(never)]
fn put_second_leg<'r, F: Family>(
    entry: &FlowEntry<F>,
    room: &'r mut Room<FlowEntry<F>>,
) -> &'r FlowEntry<F> {
    room.put(FlowEntry {
        key: FlowKey {
            tuple: entry.translated,
            hook: Hook::Egress,
        },
        translated: FlowTuple {
            source: entry.key.tuple.destination,
            ..entry.translated
        },
        ..*entry
    })
}

/// Inserts the second pair of a hairpin; takes the first pair's reply entry back if it cannot.
#[inline(always)]
fn reserve_second_leg<F: Family>(
    entry: &FlowEntry<F>,
    (leg, half, placed): (
        &mut Room<FlowEntry<F>>,
        &mut Room<FlowEntry<F>>,
        &mut Placed,
    ),
    state: State,
    now: Seconds,
    tables: &impl Tables,
) -> Placement {
    let leg = put_second_leg(entry, leg);
    let mut reserved = tables.place_partner(leg, half, state, now, placed);
    if is_held(reserved) {
        reserved = tables.place(leg, state, now, placed);
        if !is_held(reserved) {
            tables.remove_partner(leg, half, now);
        }
    }
    if !is_held(reserved) {
        tables.remove_partner(entry, half, now);
    }
    reserved
}

/// Inserts the packet's own entry. If another processor was faster, its translation counts, and
/// what was reserved for ours is left to expire unconfirmed. Says whether the flow is as `entry` has
/// it.
#[inline(always)]
fn publish<F: Family, S: Side>(
    entry: &FlowEntry<F>,
    state: State,
    now: Seconds,
    tables: &impl Tables,
    (rewrite, found, placed): (&mut Room<Rewrite<F>>, &mut Room<Found<F>>, &mut Placed),
) -> (Verdict, bool) {
    let is_second_pair = is_source::<S>() && !S::IS_OF_HOST;
    let reason = if is_second_pair {
        Reason::NewSource
    } else {
        Reason::NewFlow
    };
    match tables.place(entry, state, now, placed) {
        Placement::Inserted => {
            if !is_second_pair {
                tables.opened(entry.service, entry.backend);
                if !is_source::<S>() && entry.translated.source_port != entry.key.tuple.source_port
                {
                    tables.note(Reason::PortChanged);
                }
            }
            let verdict = Workspace::translate(rewrite, reason, entry);
            (verdict, true)
        }
        Placement::Same => {
            let verdict = Workspace::translate(rewrite, reason, entry);
            (verdict, true)
        }
        Placement::Other => {
            if tables.search(&entry.key, now, found)
                && let Some(found) = found.get()
            {
                let verdict = Workspace::translate(rewrite, reason, &found.entry);
                return (verdict, false);
            }
            (Verdict::drop(Reason::FlowContention), false)
        }
        Placement::Full => (Verdict::drop(Reason::FlowsFull), false),
        Placement::Contended => (Verdict::drop(Reason::FlowContention), false),
    }
}

#[inline(always)]
fn random_port(tables: &impl Tables) -> u16 {
    let [_, _, high, low] = hash::scale(tables.random(), OWN_PORTS.into()).to_be_bytes();
    OWN_PORTS_FROM.wrapping_add(u16::from_be_bytes([high, low]))
}
