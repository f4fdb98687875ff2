//! Services that this host dials itself: its packets are seen where they leave by an uplink.
//!
//! ```text
//!          egress of the uplink                 where the answer comes in
//! pair     C:c → V:v   ⇒  S:s → B:b    partner  B:b → S:s   ⇒  V:v → C:c
//! ```
//!
//! The host has routed the packet by the service address, so the program that translates it also sends it
//! to where its backend is ([`Path::OfHost`](crate::flow::Path::OfHost)). One pair does it all: S is the
//! client's own address C, or, towards another node by another device, that device's, or the other node
//! would take it for forged. The port s is one of [this node's](crate::lookup::OWN_PORTS), by which the
//! programs know the answers, and which no connection of the host to the backend itself can have.

use super::side::Side;
use super::{Next, Step, Verdict, Workspace, create};
use crate::family::Family;
use crate::id::Seconds;
use crate::lookup;
use crate::onward::Answer;
use crate::parse::Packet;
use crate::select;
use crate::table::backend::BackendFlags;
use crate::table::device::Role;
use crate::tables::Tables;
use crate::verdict::Reason;

/// Chooses where a packet of this host is to go that no flow has, and prepares its entry. What is not for a
/// service goes its way: none of it came from outside, and needs a source.
#[inline(always)]
pub(super) fn choose<F: Family, S: Side>(
    packet: &Packet<F>,
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Step {
    if !lookup::may_be_service::<F>(tables, packet.destination) {
        return Step::done(Verdict::pass(Reason::NotService));
    }
    let chosen = create::choose::<F, S>(packet, now, tables, workspace);
    if chosen.next != Next::Establish {
        return chosen;
    }
    match find_way(tables, workspace) {
        Way::Found => chosen,
        Way::None => Step::done(Verdict::refuse(Reason::NoWayToBackend)),
        Way::NoSource => Step::done(Verdict::drop(Reason::NoSourceAddress)),
    }
}

/// Whether packets can be sent to a backend, and answered.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Way {
    Found = 0,
    None = 1,
    NoSource = 2,
}

/// Gives the flow that is prepared the source address that brings its answers back.
#[inline(never)]
fn find_way<F: Family>(tables: &impl Tables, workspace: &mut Workspace<F>) -> Way {
    let Some(entry) = workspace.entry.get_mut() else {
        return Way::None;
    };
    let hop = tables.hop_of_host::<F>(&entry.translated);
    if matches!(hop.answer, Answer::Other) {
        return Way::None;
    }
    let is_here = select::record(tables, entry.backend)
        .is_some_and(|record| record.flags().has(BackendFlags::LOCAL));
    let leads_to_pod = hop.has_programs && matches!(hop.role, Role::Workload);
    if is_here || leads_to_pod || hop.device == tables.device() {
        return Way::Found;
    }
    if !hop.has_programs {
        return Way::None;
    }
    let source = tables.source_of::<F>(hop.device);
    if F::halves(source) == [0; 2] {
        return Way::NoSource;
    }
    entry.translated.source = source;
    Way::Found
}
