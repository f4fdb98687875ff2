//! The first packet of a flow.
//!
//! Order of writes: the **reply entry first**. Its insertion is the allocation of the source port,
//! since the table takes a key once: the same key with another value means that the port is taken,
//! and the next one is tried. Then, for a hairpin, the second pair; last the entry of the packet's
//! own direction, which is what makes the flow one. The packet leaves only after that, so a reply
//! always finds its entry.

use super::{Next, Sighting, Step, Verdict, Workspace, event, put_partner, refuse_address};
use crate::conntrack::{self, State};
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use crate::flows::{Buckets, FlowTable, Found, Placed, Placement, Timeouts};
use crate::hash;
use crate::id::{BackendId, Seconds, ServiceId};
use crate::lookup;
use crate::parse::{Packet, Transport};
use crate::rewrite::Rewrite;
use crate::room::Room;
use crate::select::{self, Choice};
use crate::table::frontend::FrontendKind;
use crate::table::region::WhenEmpty;
use crate::table::service::Audience;
use crate::tables::{Tables, flow_table};
use crate::verdict::Reason;

/// Source ports that a changed port is taken from: below every range that hosts choose their own
/// ports from, above the well-known ones.
const PORTS_FROM: u16 = 1024;
/// How many there are.
const PORTS_COUNT: u32 = 28_976;
/// How many ports are tried, the client's own included. With the flow table half full of flows to
/// one backend, all of them being taken has a chance below one in a hundred.
const ATTEMPTS: u32 = 8;

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
pub(super) fn choose<F: Family>(
    packet: &Packet<F>,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    let Transport::Ports { tuple, tcp_flags } = packet.transport else {
        return Step::done(Verdict::pass(Reason::NotService));
    };
    let Some(frontend) = lookup::frontend(tables, &tuple) else {
        return Step::done(refuse_address::<F>(tuple.destination, tables));
    };
    let audience = match frontend.kind() {
        Some(FrontendKind::ClusterIp) => Audience::Internal,
        Some(_) | None => Audience::External,
    };
    let target = match select::select(tables, frontend.service_index(), audience, &tuple) {
        Choice::Backend {
            service,
            backend,
            address,
            port,
        } => Target {
            service,
            backend,
            address,
            port,
        },
        Choice::Empty(WhenEmpty::Refuse) => {
            return Step::done(Verdict::refuse(Reason::NoEndpoints));
        }
        Choice::Empty(WhenEmpty::Drop) => {
            return Step::done(Verdict::drop(Reason::NoLocalEndpoints));
        }
        Choice::Inconsistent => return Step::done(Verdict::drop(Reason::TableInconsistent)),
    };
    if tuple.protocol == Protocol::Sctp && target.port != tuple.destination_port {
        return Step::done(Verdict::drop(Reason::SctpPortChange));
    }
    let shares_bridge =
        tuple.source != target.address && tables.share_bridge::<F>(tuple.source, target.address);
    let path = if shares_bridge {
        Path::Bridged
    } else {
        Path::Routed
    };
    put_entry(&tuple, &target, path, &mut workspace.entry);
    Step::next(
        Next::Establish,
        conntrack::first(event(tuple.protocol, tcp_flags)),
    )
}

/// Makes the entries of the flow that was prepared.
#[inline(never)]
pub(super) fn establish<F: Family>(
    state: State,
    seen: &Sighting,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let table = flow_table::<F, _>(tables);
    let Some(entry) = workspace.entry.get_mut() else {
        return Verdict::drop(Reason::TableInconsistent);
    };
    let is_hairpin = entry.key.tuple.source == entry.translated.destination;
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            if entry.key.tuple.protocol == Protocol::Sctp {
                return Verdict::drop(Reason::SctpPortChange);
            }
            entry.translated.source_port = random_port(tables);
        }
        let mut reserved = hold(
            &table,
            put_partner(entry, &mut workspace.half),
            state,
            seen.now,
        );
        if is_hairpin && let Held::Yes(reply) = reserved {
            let leg = put_second_leg(entry, &mut workspace.leg);
            reserved = reserve_leg(&table, leg, &mut workspace.half, state, seen.now);
            if let (Held::PortTaken | Held::No(_), Some(reply)) = (&reserved, reply) {
                table.remove(reply.location, reply.control);
            }
        }
        match reserved {
            Held::Yes(reply) => {
                if reply.is_some_and(|placed| placed.replaced_unconfirmed) {
                    tables.note(Reason::UnconfirmedReplaced);
                }
                let memory = (&mut workspace.rewrite, &mut workspace.found);
                return publish(&table, entry, state, tables, seen.now, memory);
            }
            Held::PortTaken => {}
            Held::No(reason) => return Verdict::drop(reason),
        }
    }
    Verdict::drop(Reason::PortsExhausted)
}

/// The entry of the packets that one with `tuple` is the first of. Out of line, like those below: each builds
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

#[inline(always)]
fn reserve_leg<F: Family, B: Buckets<F>, T: Timeouts>(
    table: &FlowTable<F, B, T>,
    leg: &FlowEntry<F>,
    half: &mut Room<FlowEntry<F>>,
    state: State,
    now: Seconds,
) -> Held {
    let reply = match hold(table, put_partner(leg, half), state, now) {
        Held::Yes(reply) => reply,
        failed => return failed,
    };
    let held = hold(table, leg, state, now);
    if let (Held::PortTaken | Held::No(_), Some(reply)) = (&held, reply) {
        table.remove(reply.location, reply.control);
    }
    held
}

/// Whether an entry is in the table now.
#[derive(Clone, Copy)]
enum Held {
    /// It is; where, if it is us who put it there.
    Yes(Option<Placed>),
    /// Another flow has its key.
    PortTaken,
    /// It cannot be.
    No(Reason),
}

#[inline(never)]
fn hold<F: Family, B: Buckets<F>, T: Timeouts>(
    table: &FlowTable<F, B, T>,
    entry: &FlowEntry<F>,
    state: State,
    now: Seconds,
) -> Held {
    match table.place(entry, state, now) {
        Placement::Inserted(placed) => Held::Yes(Some(placed)),
        // A half that outlived the other, or another processor's packet of this very flow.
        Placement::Same(..) => Held::Yes(None),
        Placement::Other => Held::PortTaken,
        Placement::Full => Held::No(Reason::FlowsFull),
        Placement::Contended => Held::No(Reason::FlowContention),
    }
}

/// Inserts the packet's own entry. If another processor was faster, its translation counts, and
/// what was reserved for ours is left to expire unconfirmed.
#[inline(always)]
fn publish<F: Family, B: Buckets<F>, T: Timeouts>(
    table: &FlowTable<F, B, T>,
    entry: &FlowEntry<F>,
    state: State,
    tables: &impl Tables,
    now: Seconds,
    (rewrite, found): (&mut Room<Rewrite<F>>, &mut Room<Found<F>>),
) -> Verdict {
    match hold(table, entry, state, now) {
        Held::Yes(Some(_)) => {
            tables.opened(entry.service, entry.backend);
            if entry.translated.source_port != entry.key.tuple.source_port {
                tables.note(Reason::PortChanged);
            }
            Workspace::translate(rewrite, Reason::NewFlow, entry)
        }
        Held::Yes(None) => Workspace::translate(rewrite, Reason::NewFlow, entry),
        Held::PortTaken => {
            if table.search(&entry.key, now, found)
                && let Some(found) = found.get()
            {
                return Workspace::translate(rewrite, Reason::NewFlow, &found.entry);
            }
            Verdict::drop(Reason::FlowContention)
        }
        Held::No(reason) => Verdict::drop(reason),
    }
}

#[inline(always)]
fn random_port(tables: &impl Tables) -> u16 {
    let [_, _, high, low] = hash::scale(tables.random(), PORTS_COUNT).to_be_bytes();
    PORTS_FROM.wrapping_add(u16::from_be_bytes([high, low]))
}
