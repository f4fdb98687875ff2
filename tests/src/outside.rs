//! The world that the uplinks' tests start from: a node with services that clients from outside may
//! dial, in both families.

use std::net::{IpAddr, SocketAddr};

use lb_common::conntrack::State;
use lb_common::flow::{Direction, Hook, Protocol};
use lb_common::table::frontend::FrontendKind;

use crate::given::{self, PLACES, PROTOCOLS, Place};
use crate::host;
use crate::tables::{ServicePort, World};

/// Node port of service 10, which has a backend on another node.
pub const NODE_PORT: u16 = 30_080;
/// Node port of service 12, which no endpoint of this node serves, under policy `Local`.
pub const LOCAL_NODE_PORT: u16 = 30_082;
/// Node port of service 20, which has no endpoints.
pub const EMPTY_NODE_PORT: u16 = 30_083;
/// Node port of service 14, whose load balancer address has source ranges.
pub const RANGED_NODE_PORT: u16 = 30_084;
/// Node port of service 30, whose client is its backend.
pub const HAIRPIN_NODE_PORT: u16 = 30_085;

/// A client from outside, in the source ranges of services 14 and 15.
pub fn client(place: Place) -> SocketAddr {
    SocketAddr::new(place.address(203, 9), 50_000)
}

/// Another one, in none.
pub fn blocked(place: Place) -> SocketAddr {
    SocketAddr::new(place.address(204, 9), 50_000)
}

/// The address of the node that takes node ports and that its flows leave with.
pub fn node(place: Place) -> IpAddr {
    place.address(192, 1)
}

/// An address of the node that does not take them.
pub fn other_node_address(place: Place) -> IpAddr {
    place.address(192, 2)
}

/// The load balancer address of service `number`.
pub fn balancer(place: Place, number: u8) -> SocketAddr {
    SocketAddr::new(place.address(198, number), 80)
}

/// What a client from outside may dial to get to service 10.
pub fn dialled(place: Place) -> [SocketAddr; 3] {
    [
        SocketAddr::new(node(place), NODE_PORT),
        balancer(place, 10),
        place.dialled(10),
    ]
}

/// Both families' services, on a node whose uplink has an address of each family.
pub fn world() -> World {
    let mut world = World::default();
    for place in PLACES {
        world = world
            .cidr(place.service(0), if place.is_v6() { 112 } else { 24 })
            .cluster_cidr(place.pod(0), if place.is_v6() { 112 } else { 24 })
            .node_address(node(place), true)
            .node_address(other_node_address(place), false)
            .source(node(place));
        for protocol in PROTOCOLS {
            let backend = place.backend(protocol);
            let port = |number| {
                let port = ServicePort::new(place.dialled(number), protocol);
                port.also(balancer(place, number), FrontendKind::LoadBalancer)
            };
            let ranges = vec![(place.address(203, 0), if place.is_v6() { 112 } else { 24 })];
            world = world
                .port(port(10).backend(backend, 1).node_port(NODE_PORT))
                .port(port(11).backend(backend, 1))
                .port(
                    port(12)
                        .backend(backend, 1)
                        .external_backends(Vec::new())
                        .node_port(LOCAL_NODE_PORT),
                )
                .port(
                    port(14)
                        .backend(backend, 1)
                        .ranges(ranges.clone())
                        .node_port(RANGED_NODE_PORT),
                )
                .port(port(15).ranges(ranges))
                .port(port(20).node_port(EMPTY_NODE_PORT))
                .port(
                    port(30)
                        .backend(place.own_backend(protocol), 1)
                        .node_port(HAIRPIN_NODE_PORT),
                );
        }
    }
    world
}

/// The two entries at an uplink of a flow between client and service that has a backend elsewhere;
/// `source` is the node's address and port as the backend sees them.
pub fn second_pair(flow: &given::Flow, source: SocketAddr, state: State) -> [String; 2] {
    let (seen, backend) = (flow.seen(), flow.backend);
    let half = |hook, before, after, direction| {
        host::half(hook, flow.protocol, before, after, direction, state)
    };
    [
        half(
            Hook::Egress,
            (seen, backend),
            (source, backend),
            Direction::Original,
        ),
        half(
            Hook::Ingress,
            (backend, source),
            (backend, seen),
            Direction::Reply,
        ),
    ]
}

/// The address and port that the transport header in `frame` comes from.
///
/// # Panics
///
/// If the frame ends before them.
pub fn source_of(frame: &[u8], place: Place) -> SocketAddr {
    let (address, port): (IpAddr, usize) = if place.is_v6() {
        let bytes: [u8; 16] = frame[22..38].try_into().expect("an IPv6 header");
        (bytes.into(), 54)
    } else {
        let bytes: [u8; 4] = frame[26..30].try_into().expect("an IPv4 header");
        (bytes.into(), 34)
    };
    SocketAddr::new(address, u16::from_be_bytes([frame[port], frame[port + 1]]))
}

/// Protocols whose packets are fragmented with other ports.
pub const FRAGMENTED: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicU64;

    use lb_common::family::V4;
    use lb_common::flows::layout::bucket_words;
    use lb_common::id::Seconds;
    use lb_common::table::config;
    use lb_common::table::device::Role;
    use lb_common::verdict::Reason;

    use super::*;
    use crate::host::Code;
    use crate::packets;
    use crate::packets::diff::assert_same;
    use crate::tables::MemoryTables;

    const NOW: Seconds = Seconds(1000);

    /// Whatever is asked and answered, by whatever port: what comes out at each end is what would have
    /// been built for it, and the reply undoes what the request had done to it.
    #[test]
    fn any_request_and_its_reply_come_out_as_they_would_have_been_built() {
        let mut dice = crate::dice::Dice::new(11);
        for _ in 0..300 {
            let (place, protocol) = (*dice.pick(&PLACES), *dice.pick(&PROTOCOLS));
            let mut tables = MemoryTables::new(&world());
            tables.random_step = 0x9e37_79b9;
            let port = u16::try_from(1 + dice.roll(65_535)).unwrap();
            let number = u8::try_from(1 + dice.roll(250)).unwrap();
            let client = SocketAddr::new(place.address(203, number), port);
            let service = *dice.pick(&dialled(place));
            let backend = place.backend(protocol);
            let payload: Vec<u8> = (0..dice.roll(1400))
                .map(|_| u8::try_from(dice.roll(256)).unwrap())
                .collect();
            let build = |from, to| given::first(protocol, from, to).payload(&payload).build();
            let send = |hook, frame: &[u8]| {
                let ended = host::run_at(&tables, (Role::Uplink, hook), frame, NOW);
                assert_eq!(ended.code, Code::Next);
                ended.frame
            };
            let between = send(Hook::Ingress, &build(client, service));
            let seen = source_of(&between, place);
            assert_eq!(seen.ip(), client.ip());
            assert_same(&build(seen, backend), &between);
            let there = send(Hook::Egress, &between);
            let source = source_of(&there, place);
            assert_same(&build(source, backend), &there);
            let between = send(Hook::Ingress, &build(backend, source));
            assert_same(&build(backend, seen), &between);
            let back = send(Hook::Egress, &between);
            assert_same(&build(service, client), &back);
        }
    }

    /// As many clients as there have to be, all at one backend: each gets a port of its own, within a
    /// few packets.
    #[test]
    fn twenty_eight_thousand_flows_to_one_backend_leave_by_one_address() {
        const FLOWS: u32 = 28_000;
        const BUCKETS: u32 = 32_768;
        let place = PLACES[0];
        let mut tables = MemoryTables::new(&world());
        let words = usize::try_from(BUCKETS).unwrap() * bucket_words::<V4>();
        tables.flows_v4 = (0..words).map(|_| AtomicU64::new(0)).collect();
        let at = usize::try_from(config::FLOW_BUCKETS).unwrap();
        tables.config[at] = 64 << 32 | u64::from(BUCKETS);
        // Low discrepancy: as random as ports need.
        tables.random_step = 0x9e37_79b9;
        let (mut ports, mut packets) = (BTreeSet::new(), 0_u32);
        for number in 0..FLOWS {
            let [_, a, b, c] = number.to_be_bytes();
            let client = SocketAddr::new(IpAddr::from([20, a, b, c]), 50_000);
            let service = SocketAddr::new(node(place), NODE_PORT);
            let backend = place.backend(Protocol::Udp);
            let request = given::first(Protocol::Udp, client, service).build();
            let begun = host::run_at(&tables, (Role::Uplink, Hook::Ingress), &request, NOW);
            assert_eq!(begun.reason, Reason::NewFlow, "flow {number}");
            let forwarded = given::first(Protocol::Udp, client, backend).build();
            assert_eq!(begun.frame, forwarded);
            let left = (0..200).find_map(|_| {
                packets += 1;
                let place = (Role::Uplink, Hook::Egress);
                let ended = host::run_at(&tables, place, &forwarded, NOW);
                match (ended.code, ended.reason) {
                    (Code::Next, Reason::NewSource) => Some(ended.frame),
                    (Code::Drop, Reason::PortsExhausted) => None,
                    other => panic!("flow {number}: {other:?}"),
                }
            });
            let source = source_of(&left.expect("a port within 200 packets"), place);
            assert_eq!(source.ip(), node(place));
            assert!(ports.insert(source.port()), "{source} twice");
        }
        assert!(ports.iter().all(|port| (1024..30_000).contains(port)));
        assert!(packets < FLOWS + FLOWS / 10, "{packets} packets");
    }

    /// Two clients at one backend, where only one port is ever drawn: what the second is told, when the
    /// first has sent and got these segments, and been silent for so long.
    fn second_client(segments: &[(bool, u8)], silent: u32) -> (Code, Reason) {
        let place = PLACES[0];
        let mut tables = MemoryTables::new(&world());
        tables.random_step = 0;
        let (service, backend) = (
            SocketAddr::new(node(place), NODE_PORT),
            place.backend(Protocol::Tcp),
        );
        let send = |hook, from, to, flags, now| {
            let frame = packets::tcp(from, to).flags(flags).build();
            host::run_at(&tables, (Role::Uplink, hook), &frame, now)
        };
        // From the client to the backend, by both hooks; gives the source it has then.
        let ask = |client, flags, now| {
            let between = send(Hook::Ingress, client, service, flags, now);
            assert_eq!(between.code, Code::Next);
            let seen = source_of(&between.frame, place);
            let left = send(Hook::Egress, seen, backend, flags, now);
            (source_of(&left.frame, place), left)
        };
        let client = |number| SocketAddr::new(place.address(203, number), 50_000);
        let (source, begun) = ask(client(1), packets::SYN, NOW);
        assert_eq!(begun.reason, Reason::NewSource);
        for &(is_request, flags) in segments {
            if is_request {
                assert_eq!(ask(client(1), flags, NOW).0, source);
            } else {
                let between = send(Hook::Ingress, backend, source, flags, NOW);
                let back = send(Hook::Egress, backend, source_of_reply(&between), flags, NOW);
                assert_eq!(back.reason, Reason::Established);
            }
        }
        let now = Seconds(NOW.0 + silent);
        let (taken, second) = ask(client(2), packets::SYN, now);
        if second.reason == Reason::NewSource {
            assert_eq!(taken, source);
            // Who had the port before does not reach the backend by it any more.
            let late = ask(client(1), packets::ACK, now).1;
            assert_eq!(late.reason, Reason::PortsExhausted);
            // The answer is the second client's.
            let between = send(
                Hook::Ingress,
                backend,
                source,
                packets::SYN | packets::ACK,
                now,
            );
            assert_eq!(source_of_reply(&between).ip(), client(2).ip());
        }
        (second.code, second.reason)
    }

    /// Where a reply goes between the hooks.
    fn source_of_reply(between: &host::Ended) -> SocketAddr {
        use lb_common::packet::Frame;
        let mut frame = between.frame.clone();
        let packet = lb_common::parse::parse::<V4>(&Frame(&mut frame), 14).unwrap();
        let tuple = packet.tuple().unwrap();
        SocketAddr::new(tuple.destination.into(), tuple.destination_port)
    }

    /// As many short connections a second as a busy service has would else exhaust the ports of a
    /// backend, each being held for two minutes after its end; and so would forged segments.
    #[test]
    fn a_port_whose_flow_has_ended_or_was_never_confirmed_is_anothers_after_a_second() {
        const ACK: u8 = packets::ACK;
        const FIN: u8 = packets::FIN | packets::ACK;
        const SYN_ACK: u8 = packets::SYN | packets::ACK;
        let opened = [(false, SYN_ACK), (true, ACK)];
        let closed = [&opened[..], &[(true, FIN), (false, FIN), (true, ACK)]].concat();
        let reset = [&opened[..], &[(false, packets::RST)]].concat();
        let exhausted = (Code::Drop, Reason::PortsExhausted);
        for (segments, name) in [
            (&closed[..], "closed"),
            (&reset[..], "reset"),
            (&[][..], "unanswered"),
            (&opened[..1], "half open"),
        ] {
            let told = [0, 1, 2].map(|silent| second_client(segments, silent));
            let taken = (Code::Next, Reason::NewSource);
            assert_eq!(told, [exhausted, exhausted, taken], "{name}");
        }
        for silent in [2, 3000] {
            assert_eq!(second_client(&opened, silent), exhausted);
        }
    }
}
