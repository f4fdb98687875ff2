//! Packets whose ports are elsewhere: in the first fragment, or nowhere.

use super::side::Side;
use super::{Action, Verdict, Workspace, error, refuse_address, unknown_address};
use crate::family::Family;
use crate::flow::{FlowKey, FlowTuple, Hook, Protocol};
use crate::id::Seconds;
use crate::lookup::{self, AddressKind};
use crate::parse::{Packet, Transport};
use crate::table::device::Role;
use crate::table::fragment::{FragmentKey, FragmentPorts};
use crate::tables::Tables;
use crate::verdict::Reason;

/// Decides about a packet without ports that is no error about a flow.
#[inline(never)]
pub(super) fn decide<F: Family, S: Side>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    if packet.is_error() {
        return error::unrelated::<F, S>(packet, tables);
    }
    if !may_concern::<F, S>(packet, tables) {
        return unknown_address::<F, S>(packet, tables);
    }
    match packet.transport() {
        Transport::LaterFragment { protocol } => {
            later_fragment::<F, S>(packet, protocol, now, tables, workspace)
        }
        Transport::EchoRequest => echo::<F, S>(packet, tables),
        _ => address_only::<F, S>(packet, tables),
    }
}

/// Whether the packet's addresses may be a service's or a flow's. At an uplink nothing but the ports
/// says which fragments are a node port's or leave with another source, so all are looked up.
#[inline(always)]
fn may_concern<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) -> bool {
    let (source, destination) = (packet.source, packet.destination);
    match (S::ROLE, S::HOOK) {
        (Role::Workload, Hook::Ingress) => {
            lookup::may_be_service::<F>(tables, destination)
                || lookup::may_be_node::<F>(tables, destination)
        }
        (Role::Workload, Hook::Egress) => lookup::may_be_backend::<F>(tables, source),
        (Role::Uplink, Hook::Ingress) => {
            packet.fragment.is_later || lookup::may_be_service::<F>(tables, destination)
        }
        (Role::Uplink, Hook::Egress) => {
            packet.fragment.is_later
                || (S::IS_OF_HOST && lookup::may_be_service::<F>(tables, destination))
        }
    }
}

/// Whether the packet is one of a client's, which may dial a service.
#[inline(always)]
const fn is_request<S: Side>() -> bool {
    match (S::ROLE, S::HOOK) {
        (_, Hook::Ingress) => true,
        (Role::Uplink, Hook::Egress) => S::IS_OF_HOST,
        (Role::Workload, Hook::Egress) => false,
    }
}

/// A fragment without ports: they were remembered from the first one, or it cannot be translated.
#[inline(always)]
fn later_fragment<F: Family, S: Side>(
    packet: &Packet<F>,
    protocol: Protocol,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let hook = S::HOOK;
    let identification = packet.fragment.identification;
    let (source, destination) = (packet.source, packet.destination);
    let key = FragmentKey::new::<F>(source, destination, identification, protocol, hook);
    if let Some(ports) = tables.fragment(&key) {
        let tuple = FlowTuple {
            source,
            destination,
            source_port: ports.source(),
            destination_port: ports.destination(),
            protocol,
        };
        if tables.search(&FlowKey { tuple, hook }, now, &mut workspace.found)
            && let Some(found) = workspace.found.get()
        {
            return Workspace::translate(&mut workspace.rewrite, Reason::Fragment, &found.entry);
        }
    }
    if !is_request::<S>() {
        return Verdict::pass(Reason::NotService);
    }
    match lookup::address_kind::<F>(tables, destination) {
        AddressKind::Service { .. } | AddressKind::Unallocated => {
            Verdict::drop(Reason::FragmentWithoutFirst)
        }
        AddressKind::Foreign => Verdict::pass(Reason::NotService),
    }
}

/// Remembers the ports of a first fragment.
#[inline(never)]
pub(super) fn remember<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) {
    let Some(tuple) = packet.tuple() else {
        return;
    };
    let identification = packet.fragment.identification;
    let key = FragmentKey::new::<F>(
        tuple.source,
        tuple.destination,
        identification,
        tuple.protocol,
        S::HOOK,
    );
    tables.remember_fragment(
        &key,
        FragmentPorts::new(tuple.source_port, tuple.destination_port),
    );
}

/// An echo request: answered in the name of a service that works, else refused like any packet.
#[inline(always)]
fn echo<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) -> Verdict {
    if !is_request::<S>() {
        return Verdict::pass(Reason::NotService);
    }
    match lookup::address_kind::<F>(tables, packet.destination) {
        AddressKind::Service { has_ready: true } if !packet.fragment.is_part => {
            Verdict::new(Action::Echo, Reason::EchoReply)
        }
        AddressKind::Service { .. } => Verdict::refuse(Reason::NoEndpoints),
        AddressKind::Unallocated => Verdict::drop(Reason::UnallocatedAddress),
        AddressKind::Foreign => Verdict::pass(Reason::NotService),
    }
}

/// A packet of which only the address can match: a protocol without ports.
#[inline(always)]
fn address_only<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) -> Verdict {
    if is_request::<S>() {
        refuse_address::<F>(packet.destination, tables)
    } else {
        Verdict::pass(Reason::NotService)
    }
}
