//! ICMP errors about translated packets, in both directions.
//!
//! An error quotes the packet as it was where the error was made. At egress that is the translated
//! one, which the client has never seen; at ingress the one that the client got, which nobody else
//! knows. In both cases the quoted packet travelled against the error, so its tuple reversed is the
//! key of a flow at this very hook, and the translation of that flow, reversed again, is what the
//! quote must say.

use super::side::Side;
use super::{Action, Verdict, Workspace, concerns};
use crate::family::Family;
use crate::flow::{Direction, FlowEntry, FlowKey, Hook};
use crate::icmp::{self, QuotedPacket};
use crate::id::Seconds;
use crate::lookup::{self, AddressKind};
use crate::packet::PacketRead;
use crate::parse::{Packet, Transport};
use crate::rewrite::{ErrorRewrite, Rewrite};
use crate::room::Room;
use crate::table::device::Role;
use crate::tables::Tables;
use crate::verdict::Reason;

/// Reads the packet that an error quotes; says whether there is one with ports. Out of line, since
/// walking another chain of extension headers takes half of the kernel's stack.
#[inline(never)]
pub(super) fn quote<F: Family>(
    read: &impl PacketRead,
    packet: &Packet<F>,
    room: &mut Room<QuotedPacket<F>>,
) -> bool {
    // What another packet's quote said is not this one's.
    room.clear();
    let Transport::IcmpError { quoted, .. } = packet.transport() else {
        return false;
    };
    match icmp::parse_quoted(read, packet, quoted) {
        Ok(quote) => {
            room.put(quote);
            true
        }
        Err(_) => false,
    }
}

/// Finds the flow that the quoted packet is of.
#[inline(never)]
pub(super) fn find<F: Family, S: Side>(
    now: Seconds,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> bool {
    let Some(quote) = workspace.quote.get() else {
        return false;
    };
    let key = FlowKey {
        tuple: quote.tuple.reverse(),
        hook: S::HOOK,
    };
    concerns::<F, S>(&key.tuple, tables) && tables.search(&key, now, &mut workspace.found)
}

/// Decides about the ICMP error `packet`, which quotes a packet of the flow that [`find`] found.
#[inline(never)]
pub(super) fn decide<F: Family, S: Side>(
    packet: &Packet<F>,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let (Some(quote), Some(found)) = (workspace.quote.get(), workspace.found.get()) else {
        return Verdict::pass(Reason::NotService);
    };
    if packet.is_redirect() {
        return Verdict::drop(Reason::RedirectSuppressed);
    }
    let FlowEntry {
        key, translated, ..
    } = &found.entry;
    let tuple = &key.tuple;
    // Towards a backend that knows the client by an address of this node, all comes from there, as
    // with the kernel's masquerade: at the end of a tunnel a reverse-path filter would take a router's
    // address for a forged one.
    let is_masqueraded = S::ROLE == Role::Uplink
        && S::HOOK == Hook::Egress
        && found.entry.direction == Direction::Original;
    // Else the error of the backend itself must come from where the client sent its packets; the
    // address of a router on the way is the router's.
    let source = if is_masqueraded || packet.source == tuple.source {
        translated.source
    } else {
        packet.source
    };
    let destination = if packet.destination == tuple.destination {
        translated.destination
    } else {
        packet.destination
    };
    workspace.error.put(ErrorRewrite {
        quoted: Rewrite {
            from: quote.tuple,
            to: translated.reverse(),
        },
        source,
        destination,
    });
    Verdict {
        path: found.entry.path,
        ..Verdict::new(Action::TranslateError, Reason::IcmpError)
    }
}

/// An error about no flow: passed on, unless it was sent to an address that only we answer for.
#[inline(always)]
pub(super) fn unrelated<F: Family, S: Side>(packet: &Packet<F>, tables: &impl Tables) -> Verdict {
    if S::HOOK == Hook::Egress {
        return Verdict::pass(Reason::NotService);
    }
    match lookup::address_kind::<F>(tables, packet.destination) {
        AddressKind::Service { .. } => Verdict::drop(Reason::RefusalSuppressed),
        AddressKind::Unallocated => Verdict::drop(Reason::UnallocatedAddress),
        AddressKind::Foreign => Verdict::pass(Reason::NotService),
    }
}
