//! tc: the two sides of a device.
//!
//! Five hundred bytes of stack do not hold two address families and a whole decision. So the
//! packet and the entries in the making lie in a map, and a packet goes through functions that the
//! entry program calls one after the other, each with the stack to itself.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::maps::{PerCpuArray, ProgramArray};
use aya_ebpf::programs::TcContext;
use lb_common::decide::{
    Action, FromHost, Glance, Side, ToUplink, Verdict, Workspace, decide_at, glance, glance_of,
};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{Hook, Path};
use lb_common::packet::{PacketRead as _, PacketWrite as _};
use lb_common::parse::{Packet, ParseError, parse, parse_link};
use lb_common::rewrite::{self, Rewrite, RewriteError};
use lb_common::room::Room;
use lb_common::tables::Tables as _;
use lb_common::verdict::Reason;

use crate::count::count;
use crate::maps::{HOST_V4, HOST_V6};
use crate::packet::Skb;
use crate::tables::KernelTables;
use crate::{clock, forward, host, maps, onward, refuse};

/// `TCX_NEXT` and `TC_ACT_UNSPEC`: the next program on the hook decides.
pub(crate) const NEXT: i32 = -1;
/// `TCX_DROP` and `TC_ACT_SHOT`.
pub(crate) const DROP: i32 = 2;

/// What a packet's way through the program leaves in the map.
#[repr(C)]
struct Scratch<F: Family> {
    packet: Room<Packet<F>>,
    workspace: Workspace<F>,
}

const _: () = assert!(size_of::<Scratch<V6>>() <= size_of::<maps::ScratchWords>());

/// Runs one packet: glances at it, else parses and decides; acts, counts.
#[inline(always)]
pub(crate) fn run<S: Side>(skb: *mut __sk_buff) -> i32 {
    let packet = Skb::new(skb);
    let bytes = packet.length();
    let seen = glance_at::<S>(skb);
    let (action, reason, path) = if seen.is_clear {
        let action = match seen.verdict.action {
            Action::Drop => DROP,
            _ => NEXT,
        };
        (action, seen.verdict.reason, seen.verdict.path)
    } else {
        match parse_link(&packet) {
            Ok(link) if link.is_v6 => family::<V6, S>(skb, link.l3, &maps::SCRATCH_V6),
            Ok(link) => family::<V4, S>(skb, link.l3, &maps::SCRATCH_V4),
            Err(error) => (NEXT, unparsed(error), Path::Routed),
        }
    };
    count(reason, bytes);
    if action != NEXT {
        return action;
    }
    match S::HOOK {
        Hook::Ingress if matches!(path, Path::SentOn | Path::OfHost) => onward::send(skb, path),
        _ => NEXT,
    }
}

/// Runs one packet that leaves by an uplink. What this host sends is another program's, of the packet's
/// family; where the agent has put none into the array, it goes as if it were forwarded.
#[inline(always)]
pub(crate) fn leave(context: &TcContext, of_host: &ProgramArray) -> i32 {
    let skb = context.skb.skb;
    if KernelTables::new(skb).is_of_host()
        && let Ok(link) = parse_link(&Skb::new(skb))
    {
        let part = if link.is_v6 { HOST_V6 } else { HOST_V4 };
        // SAFETY: nothing here waits to be dropped.
        unsafe { of_host.tail_call(context, part) };
    }
    run::<ToUplink>(skb)
}

/// Runs one packet that this host sends and that is of this family.
///
/// It begins and ends as [`run`] does, and shares nothing with it on purpose: a function for both, though it is
/// inlined, makes the frame of the ingress programs larger than kernel 6.1 has stack for.
#[inline(always)]
pub(crate) fn run_of_host<F: Family>(
    skb: *mut __sk_buff,
    scratch: &PerCpuArray<maps::ScratchWords>,
) -> i32 {
    let packet = Skb::new(skb);
    let bytes = packet.length();
    let seen = glance_of_host::<F>(skb);
    let (action, reason, path) = if seen.is_clear {
        let action = match seen.verdict.action {
            Action::Drop => DROP,
            _ => NEXT,
        };
        (action, seen.verdict.reason, seen.verdict.path)
    } else {
        match parse_link(&packet) {
            Ok(link) => family::<F, FromHost>(skb, link.l3, scratch),
            Err(error) => (NEXT, unparsed(error), Path::Routed),
        }
    };
    count(reason, bytes);
    match path {
        Path::OfHost if action == NEXT => host::send(skb),
        _ => action,
    }
}

/// [`glance`], with the stack to itself.
#[inline(never)]
fn glance_at<S: Side>(skb: *mut __sk_buff) -> Glance {
    glance::<S>(&mut Skb::new(skb), clock::seconds, &KernelTables::new(skb))
}

/// [`glance_of`], with the stack to itself.
#[inline(never)]
fn glance_of_host<F: Family>(skb: *mut __sk_buff) -> Glance {
    let tables = KernelTables::new(skb);
    glance_of::<F, FromHost>(&mut Skb::new(skb), clock::seconds, &tables)
}

/// The packet of one family; the end of it is the one place where a verdict becomes an action.
#[inline(always)]
fn family<F: Family, S: Side>(
    skb: *mut __sk_buff,
    l3: u32,
    scratch: &PerCpuArray<maps::ScratchWords>,
) -> (i32, Reason, Path) {
    const MALFORMED: (i32, Reason, Path) = (NEXT, Reason::Malformed, Path::Routed);
    let Some(scratch) = scratch.get_ptr_mut(0) else {
        return MALFORMED;
    };
    // SAFETY: the value is large enough and aligned to words; it begins as zeros, which are empty
    // slots, and only this type is ever kept in it. This processor runs no other program of ours
    // until this one ends.
    let scratch: &mut Scratch<F> = unsafe { &mut *scratch.cast() };
    let mut parsed = read(skb, l3, &mut scratch.packet);
    if parsed != Parsed::WithPorts && Skb::new(skb).pull() {
        parsed = read(skb, l3, &mut scratch.packet);
    }
    if parsed == Parsed::Not {
        return MALFORMED;
    }
    let Some(packet) = scratch.packet.get() else {
        return MALFORMED;
    };
    let (reader, tables) = (Skb::new(skb), KernelTables::new(skb));
    let now = clock::seconds();
    let verdict = decide_at::<F, S>(&reader, packet, now, &tables, &mut scratch.workspace);
    let Some(packet) = scratch.packet.get() else {
        return MALFORMED;
    };
    let workspace = &scratch.workspace;
    let (action, reason) = match verdict.action {
        Action::Pass => (NEXT, verdict.reason),
        Action::Drop => (DROP, verdict.reason),
        Action::Refuse => refuse::refuse(skb, packet, S::HOOK, verdict.reason),
        Action::Echo => refuse::echo(skb, packet, S::HOOK),
        Action::Translate => done(translate(skb, packet, workspace, verdict.path), verdict),
        Action::TranslateError => done(translate_error(skb, packet, workspace), verdict),
    };
    (action, reason, verdict.path)
}

/// A packet that could not be changed may be half changed, and must not go on.
#[inline(always)]
const fn done(changed: Result<(), RewriteError>, verdict: Verdict) -> (i32, Reason) {
    match changed {
        Ok(()) => (NEXT, verdict.reason),
        Err(error) => (DROP, error.reason()),
    }
}

const fn unparsed(error: ParseError) -> Reason {
    match error {
        ParseError::NotIp => Reason::NotIp,
        _ => Reason::Malformed,
    }
}

/// What parsing came to.
#[derive(Clone, Copy, Eq, PartialEq)]
#[repr(u8)]
enum Parsed {
    /// Malformed, or not all of it is linear.
    Not = 0,
    /// A packet with ports, of which everything that is looked at is linear.
    WithPorts = 1,
    /// Another packet; what an ICMP error quotes may not be linear.
    Other = 2,
}

#[inline(never)]
fn read<F: Family>(skb: *mut __sk_buff, l3: u32, packet: &mut Room<Packet<F>>) -> Parsed {
    match parse::<F>(&Skb::new(skb), l3) {
        Ok(parsed) if packet.put(parsed).has_ports() => Parsed::WithPorts,
        Ok(_) => Parsed::Other,
        Err(_) => Parsed::Not,
    }
}

#[inline(never)]
fn translate<F: Family>(
    skb: *mut __sk_buff,
    parsed: &Packet<F>,
    workspace: &Workspace<F>,
    path: Path,
) -> Result<(), RewriteError> {
    let mut packet = Skb::new(skb);
    let Some(rewrite) = workspace.rewrite() else {
        return Err(RewriteError::OutOfPacket);
    };
    if path == Path::Bridged {
        turn_to_bridge::<F>(&mut packet, rewrite);
    }
    rewrite::apply(&mut packet, parsed, rewrite)
}

/// Addresses the frame to the backend instead of to the gateway. Without a neighbour entry the
/// kernel routes this packet, which makes one.
#[inline(always)]
fn turn_to_bridge<F: Family>(packet: &mut Skb, rewrite: &Rewrite<F>) {
    // What the bridge delivers at egress has its MAC already.
    if rewrite.from.destination == rewrite.to.destination {
        return;
    }
    let (source, destination) = (rewrite.to.source, rewrite.to.destination);
    let hop = forward::bridge_hop::<F>(packet.skb(), source, destination);
    if hop.is_known {
        packet.write(0, hop.mac);
    }
}

#[inline(never)]
fn translate_error<F: Family>(
    skb: *mut __sk_buff,
    parsed: &Packet<F>,
    workspace: &Workspace<F>,
) -> Result<(), RewriteError> {
    let Some((quote, error)) = workspace.error() else {
        return Err(RewriteError::OutOfPacket);
    };
    rewrite::apply_error(&mut Skb::new(skb), parsed, quote, error)
}
