//! One packet's way on the host: what the kernel program does, over bytes in memory.
//!
//! Like `tables`, this file is also part of the fuzz targets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::answer::{Refusal, answer_echo};
use lb_common::conntrack::State;
use lb_common::decide::{
    Action, FromHost, FromUplink, FromWorkload, Glance, Side, Sighting, ToUplink, ToWorkload,
    Verdict, Workspace, decide, glance,
};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{Direction, FlowEntry, FlowTuple, Hook, Path, Protocol};
use lb_common::flows::{Buckets, Location, SLOTS, Slot};
use lb_common::id::Seconds;
use lb_common::onward::Offer;
use lb_common::packet::Frame;
use lb_common::parse::{Packet, ParseError, parse, parse_link};
use lb_common::rewrite::{self, RewriteError};
use lb_common::table::device::Role;
use lb_common::tables::{Tables as _, flow_table};
use lb_common::verdict::Reason;

use crate::tables::MemoryTables;

/// What a program tells the kernel to do with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Code {
    /// The next program, and then the kernel, have it.
    Next,
    /// It ends here.
    Drop,
    /// It goes back out of the device, or is sent on by another one.
    Redirect,
}

/// How a packet ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ended {
    /// What the program returns.
    pub code: Code,
    /// Why.
    pub reason: Reason,
    /// The frame afterwards.
    pub frame: Vec<u8>,
    /// Interface index of the device by which it is sent on, if it is.
    pub sent_by: Option<u32>,
}

/// Runs one packet of a workload's through the decision and does what it says.
pub fn run(tables: &MemoryTables, hook: Hook, frame: &[u8], now: Seconds) -> Ended {
    run_at(tables, (Role::Workload, hook), frame, now)
}

/// Runs one packet that is seen at this side of such a device. Where a glance tells what becomes of it,
/// the whole decision must tell the same.
///
/// # Panics
///
/// If the two disagree.
pub fn run_at(
    tables: &MemoryTables,
    (role, hook): (Role, Hook),
    frame: &[u8],
    now: Seconds,
) -> Ended {
    let mut glanced = frame.to_vec();
    *tables.frame.borrow_mut() = frame.to_vec();
    let told = match (role, hook) {
        (Role::Workload, Hook::Ingress) => at_a_glance::<FromWorkload>(tables, &mut glanced, now),
        (Role::Workload, Hook::Egress) => at_a_glance::<ToWorkload>(tables, &mut glanced, now),
        (Role::Uplink, Hook::Ingress) => at_a_glance::<FromUplink>(tables, &mut glanced, now),
        (Role::Uplink, Hook::Egress) if tables.is_of_host.get() => {
            at_a_glance::<FromHost>(tables, &mut glanced, now)
        }
        (Role::Uplink, Hook::Egress) => at_a_glance::<ToUplink>(tables, &mut glanced, now),
    };
    let (mut ended, path) = run_whole(tables, (role, hook), frame, now);
    if let Some((code, reason, told_path)) = told {
        let told = Ended {
            code,
            reason,
            frame: glanced,
            sent_by: None,
        };
        assert_eq!(
            (told, told_path),
            (ended.clone(), path),
            "a glance says the same as the whole decision"
        );
    } else {
        assert_eq!(glanced, frame, "an unclear glance changes nothing");
    }
    if hook == Hook::Ingress && ended.code == Code::Next && path == Path::SentOn {
        ended.sent_by = send_on(tables, &mut ended.frame);
        if ended.sent_by.is_some() {
            ended.code = Code::Redirect;
            (&tables).note(Reason::SentOn);
        } else {
            (&tables).note(Reason::NotSentOn);
        }
    }
    ended
}

/// Sends the packet on, if it can be: by which device.
fn send_on(tables: &MemoryTables, bytes: &mut Vec<u8>) -> Option<u32> {
    let wire = tables.fib.wire(tables.own, bytes);
    let mut frame = Frame(bytes);
    let device = match parse_link(&frame) {
        Ok(link) if link.is_v6 => {
            Offer::<V6>::of(&mut frame, wire)?.send(&mut frame, &mut &*tables)?
        }
        _ => Offer::<V4>::of(&mut frame, wire)?.send(&mut frame, &mut &*tables)?,
    };
    let length = frame.0.len();
    bytes.truncate(length);
    Some(device)
}

/// What a glance tells, and what it makes of the frame.
fn at_a_glance<S: Side>(
    tables: &MemoryTables,
    frame: &mut [u8],
    now: Seconds,
) -> Option<(Code, Reason, Path)> {
    let Glance { is_clear, verdict } = glance::<S>(&mut Frame(frame), || now, &tables);
    let code = match verdict.action {
        Action::Drop => Code::Drop,
        _ => Code::Next,
    };
    is_clear.then_some((code, verdict.reason, verdict.path))
}

/// The packet's way without a glance.
fn run_whole(
    tables: &MemoryTables,
    (role, hook): (Role, Hook),
    frame: &[u8],
    now: Seconds,
) -> (Ended, Path) {
    let mut frame = frame.to_vec();
    let seen = Sighting { role, hook, now };
    let (code, reason, path) = match parse_link(&Frame(&mut frame)) {
        Ok(link) if link.is_v6 => family::<V6>(tables, &seen, &mut frame, link.l3),
        Ok(link) => family::<V4>(tables, &seen, &mut frame, link.l3),
        Err(ParseError::NotIp) => (Code::Next, Reason::NotIp, Path::Routed),
        Err(_) => (Code::Next, Reason::Malformed, Path::Routed),
    };
    let ended = Ended {
        code,
        reason,
        frame,
        sent_by: None,
    };
    (ended, path)
}

fn family<F: Family>(
    tables: &MemoryTables,
    seen: &Sighting,
    frame: &mut Vec<u8>,
    l3: u32,
) -> (Code, Reason, Path) {
    let Ok(packet) = parse::<F>(&Frame(frame), l3) else {
        return (Code::Next, Reason::Malformed, Path::Routed);
    };
    let mut workspace = Workspace::<F>::default();
    let verdict = decide(&Frame(frame), &packet, seen, &tables, &mut workspace);
    let (code, reason) = act(verdict, frame, &packet, &workspace);
    (code, reason, verdict.path)
}

fn act<F: Family>(
    verdict: Verdict,
    frame: &mut Vec<u8>,
    packet: &Packet<F>,
    workspace: &Workspace<F>,
) -> (Code, Reason) {
    let changed = match verdict.action {
        Action::Pass => return (Code::Next, verdict.reason),
        Action::Drop => return (Code::Drop, verdict.reason),
        Action::Refuse => return refuse(frame, packet, verdict),
        Action::Echo => {
            return match answer_echo(&mut Frame(frame), packet) {
                Some(()) => (Code::Redirect, Reason::EchoReply),
                None => (Code::Drop, Reason::RewriteFailed),
            };
        }
        Action::Translate => workspace
            .rewrite()
            .ok_or(RewriteError::OutOfPacket)
            .and_then(|rewrite| rewrite::apply(&mut Frame(frame), packet, rewrite)),
        Action::TranslateError => translate_error(frame, packet, workspace),
    };
    match changed {
        Ok(()) => (Code::Next, verdict.reason),
        Err(error) => (Code::Drop, error.reason()),
    }
}

fn refuse<F: Family>(frame: &mut Vec<u8>, packet: &Packet<F>, verdict: Verdict) -> (Code, Reason) {
    let Some(refusal) = Refusal::<F>::new(&Frame(frame), packet) else {
        return (Code::Drop, Reason::RefusalSuppressed);
    };
    let length = usize::try_from(refusal.length()).expect("a usize has 32 bits");
    frame.resize(length, 0);
    match refusal.write(&mut Frame(frame)) {
        Some(()) => (Code::Redirect, verdict.reason),
        None => (Code::Drop, Reason::RewriteFailed),
    }
}

fn translate_error<F: Family>(
    frame: &mut [u8],
    packet: &Packet<F>,
    workspace: &Workspace<F>,
) -> Result<(), RewriteError> {
    let (quote, error) = workspace.error().ok_or(RewriteError::OutOfPacket)?;
    rewrite::apply_error(&mut Frame(frame), packet, quote, error)
}

/// Every published entry of both flow tables, one line each.
pub fn flows(tables: &MemoryTables) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    list::<V4>(tables, &mut lines);
    list::<V6>(tables, &mut lines);
    lines
}

fn list<F: Family>(tables: &MemoryTables, lines: &mut BTreeSet<String>) {
    let table = flow_table::<F, _>(&tables);
    for bucket in 0..Buckets::<F>::count(&(&tables).flows::<F>()) {
        for slot in 0..SLOTS {
            if let Some(Slot::Published(found)) = table.slot(Location { bucket, slot }) {
                let is_new = lines.insert(line(&found.entry, found.state));
                assert!(is_new, "two entries: {}", line(&found.entry, found.state));
            }
        }
    }
}

/// An entry as [`flows`] lists it.
pub fn line<F: Family>(entry: &FlowEntry<F>, state: State) -> String {
    half(
        entry.key.hook,
        entry.key.tuple.protocol,
        ends(&entry.key.tuple),
        ends(&entry.translated),
        entry.direction,
        state,
    )
}

/// The same, from what a test says of it: from where to where, before and after.
pub fn half(
    hook: Hook,
    protocol: Protocol,
    before: (SocketAddr, SocketAddr),
    after: (SocketAddr, SocketAddr),
    direction: Direction,
    state: State,
) -> String {
    format!(
        "{hook:?} {protocol:?} {} > {} => {} > {} {direction:?} {}",
        before.0,
        before.1,
        after.0,
        after.1,
        state.name()
    )
}

fn ends<F: Family>(tuple: &FlowTuple<F>) -> (SocketAddr, SocketAddr) {
    let ip = |address| -> IpAddr { Ipv6Addr::from(F::mapped(address)).to_canonical() };
    (
        SocketAddr::new(ip(tuple.source), tuple.source_port),
        SocketAddr::new(ip(tuple.destination), tuple.destination_port),
    )
}

/// Frees the slot of the entry that [`flows`] lists as `line`.
///
/// # Panics
///
/// If there is none.
pub fn forget(tables: &MemoryTables, line: &str) {
    let is_gone = forget_in::<V4>(tables, line) || forget_in::<V6>(tables, line);
    assert!(is_gone, "no entry {line}");
}

fn forget_in<F: Family>(tables: &MemoryTables, wanted: &str) -> bool {
    let table = flow_table::<F, _>(&tables);
    let buckets = 0..Buckets::<F>::count(&(&tables).flows::<F>());
    let mut locations =
        buckets.flat_map(|bucket| (0..SLOTS).map(move |slot| Location { bucket, slot }));
    locations.any(|location| match table.slot(location) {
        Some(Slot::Published(found)) if line(&found.entry, found.state) == wanted => {
            table.remove(location, found.control)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::given::{PLACES, Place, answer, first, packet, world};
    use crate::outside;
    use crate::packets::diff;
    use crate::tables::Way;
    use lb_common::onward::Answer;
    use lb_common::table::device::DeviceRecord;

    const NOW: Seconds = Seconds(1000);

    /// What a glance tells of a pod's packet: why, if anything.
    fn glanced(tables: &MemoryTables, hook: Hook, mut frame: Vec<u8>) -> Option<Reason> {
        let told = match hook {
            Hook::Ingress => at_a_glance::<FromWorkload>(tables, &mut frame, NOW),
            Hook::Egress => at_a_glance::<ToWorkload>(tables, &mut frame, NOW),
        };
        told.map(|(_, reason, _)| reason)
    }

    /// If no glance ever told anything, it would agree with everything.
    #[test]
    fn plain_packets_of_a_known_flow_and_of_no_service_need_no_more_than_a_glance() {
        for place in PLACES {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let tables = MemoryTables::new(&world());
                let (client, service) = (place.client(), place.dialled(10));
                let backend = place.backend(protocol);
                let send = |hook, frame: &[u8]| {
                    assert_eq!(glanced(&tables, hook, frame.to_vec()), None);
                    run(&tables, hook, frame, NOW)
                };
                let begun = send(Hook::Ingress, &first(protocol, client, service).build());
                assert_eq!(begun.reason, Reason::NewFlow);
                let _answered = send(Hook::Egress, &answer(protocol, backend, client).build());
                let (request, reply) = (
                    packet(protocol, client, service).build(),
                    packet(protocol, backend, client).build(),
                );
                if protocol == Protocol::Tcp {
                    let _third = send(Hook::Ingress, &request);
                }
                let known = Some(Reason::Established);
                assert_eq!(glanced(&tables, Hook::Ingress, request), known);
                assert_eq!(glanced(&tables, Hook::Egress, reply), known);

                let stranger = SocketAddr::new(place.address(7, 7), 80);
                let none = packet(protocol, client, stranger).build();
                let unallocated = SocketAddr::new(place.service(99), 80);
                let to_nobody = packet(protocol, client, unallocated).build();
                let not_service = Some(Reason::NotService);
                assert_eq!(glanced(&tables, Hook::Ingress, none), not_service);
                let from_none = packet(protocol, stranger, client).build();
                assert_eq!(glanced(&tables, Hook::Egress, from_none), not_service);
                let told = glanced(&tables, Hook::Ingress, to_nobody);
                assert_eq!(told, Some(Reason::UnallocatedAddress));
            }
        }
    }

    /// A node that dials a service, with a way to the backend by this device.
    fn dialling(place: Place, protocol: Protocol, device: u32) -> MemoryTables {
        let mut tables = MemoryTables::new(&world());
        let other = |number| match place.address(200, number) {
            IpAddr::V4(address) => ([0; 16], address.octets()),
            IpAddr::V6(address) => (address.octets(), [0; 4]),
        };
        let (v6, v4) = other(9);
        tables
            .others
            .insert(TUNNEL, DeviceRecord::uplink(TUNNEL, v4, v6));
        tables.fib.ways.push(Way {
            network: place.backend(protocol).ip(),
            length: if place.is_v6() { 128 } else { 32 },
            device,
            answer: Answer::Known,
            mtu: 1500,
        });
        tables.is_of_host.set(true);
        tables
    }

    /// Another uplink, and a device without programs.
    const TUNNEL: u32 = 7;
    const STRANGE: u32 = 8;
    const LEAVING: (Role, Hook) = (Role::Uplink, Hook::Egress);

    #[test]
    fn what_this_host_sends_gets_a_port_by_which_its_answers_are_known_wherever_they_come_in() {
        for (place, protocol) in PLACES
            .into_iter()
            .flat_map(|place| [Protocol::Tcp, Protocol::Udp].map(|it| (place, it)))
        {
            let client = SocketAddr::new(place.address(200, 1), 40_000);
            let (service, backend) = (place.dialled(10), place.backend(protocol));
            for (device, address) in [
                (crate::tables::DEVICE, client.ip()),
                (TUNNEL, place.address(200, 9)),
            ] {
                let tables = dialling(place, protocol, device);
                let begun = run_at(
                    &tables,
                    LEAVING,
                    &first(protocol, client, service).build(),
                    NOW,
                );
                assert_eq!((begun.code, begun.reason), (Code::Next, Reason::NewFlow));
                let source = outside::source_of(&begun.frame, place);
                assert_eq!(source.ip(), address);
                assert!((1024..30_000).contains(&source.port()), "{source}");
                let seen = first(protocol, source, backend).build();
                diff::assert_same(&seen, &begun.frame);
                // No other program takes it for its own.
                let again = run_at(&tables, LEAVING, &begun.frame, NOW);
                assert_eq!(again.reason, Reason::NotService);
                tables.is_of_host.set(false);
                for role in [Role::Workload, Role::Uplink] {
                    let reply = answer(protocol, backend, source).build();
                    let back = run_at(&tables, (role, Hook::Ingress), &reply, NOW);
                    assert_eq!((back.code, back.reason), (Code::Next, Reason::Established));
                    let restored = answer(protocol, service, client).build();
                    diff::assert_same(&restored, &back.frame);
                }
            }
        }
    }

    #[test]
    fn this_host_is_refused_where_no_way_brings_answers_back_and_nobody_else_is_touched() {
        for place in PLACES {
            let client = SocketAddr::new(place.address(200, 1), 40_000);
            let frame = first(Protocol::Tcp, client, place.dialled(10)).build();
            let tables = dialling(place, Protocol::Tcp, STRANGE);
            let refused = run_at(&tables, LEAVING, &frame, NOW);
            assert_eq!(
                (refused.code, refused.reason),
                (Code::Redirect, Reason::NoWayToBackend)
            );
            assert!(flows(&tables).is_empty());
            // What came by a device is not of this host.
            tables.is_of_host.set(false);
            let forwarded = run_at(&tables, LEAVING, &frame, NOW);
            assert_eq!(
                (forwarded.code, forwarded.reason),
                (Code::Next, Reason::NotService)
            );
        }
    }
}
