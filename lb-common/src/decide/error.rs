//! ICMP errors about translated packets, in both directions.
//!
//! An error quotes the packet as it was where the error was made. At egress that is the translated
//! one, which the client has never seen; at ingress the one that the client got, which nobody else
//! knows. In both cases the quoted packet travelled against the error, so its tuple reversed is the
//! key of a flow at this very hook, and the translation of that flow, reversed again, is what the
//! quote must say.

use super::{Action, Sighting, Verdict, Workspace};
use crate::family::Family;
use crate::flow::{FlowKey, Hook};
use crate::icmp::{self, ErrorKind};
use crate::lookup::{self, AddressKind};
use crate::packet::PacketRead;
use crate::parse::Packet;
use crate::rewrite::{ErrorRewrite, Rewrite};
use crate::tables::{Tables, flow_table};
use crate::verdict::Reason;

/// Decides about the ICMP error `packet`, which quotes another packet at offset `quoted`.
#[inline(always)]
pub(super) fn decide<F: Family>(
    read: &impl PacketRead,
    packet: &Packet<F>,
    (kind, quoted): (ErrorKind, u32),
    seen: &Sighting,
    tables: &impl Tables,
    workspace: &mut Workspace<F>,
) -> Verdict {
    let &Sighting { hook, now } = seen;
    let Ok(quote) = icmp::parse_quoted(read, packet, quoted) else {
        return unrelated(packet, hook, tables);
    };
    let tuple = quote.tuple.reverse();
    if !lookup::may_concern::<F>(tables, hook, tuple.source, tuple.destination) {
        return unrelated(packet, hook, tables);
    }
    let table = flow_table::<F, _>(tables);
    if !table.search(&FlowKey { tuple, hook }, now, &mut workspace.found) {
        return unrelated(packet, hook, tables);
    }
    let Some(found) = workspace.found.get() else {
        return unrelated(packet, hook, tables);
    };
    if kind == ErrorKind::Redirect {
        return Verdict::drop(Reason::RedirectSuppressed);
    }
    let translated = found.entry.translated;
    // The error of the backend itself must come from where the client sent its packets; the address
    // of a router on the way is the router's.
    let source = if packet.source == tuple.source {
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
    Verdict::new(Action::TranslateError, Reason::IcmpError)
}

/// An error about no flow: passed on, unless it was sent to an address that only we answer for.
#[inline(always)]
fn unrelated<F: Family>(packet: &Packet<F>, hook: Hook, tables: &impl Tables) -> Verdict {
    if hook == Hook::Egress {
        return Verdict::pass(Reason::NotService);
    }
    match lookup::address_kind::<F>(tables, packet.destination) {
        AddressKind::Service { .. } => Verdict::drop(Reason::RefusalSuppressed),
        AddressKind::Unallocated => Verdict::drop(Reason::UnallocatedAddress),
        AddressKind::Foreign => Verdict::pass(Reason::NotService),
    }
}
