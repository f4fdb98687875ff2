//! Who gets in from outside, at the node's uplink: policies, source ranges, what is refused, dropped
//! and left to the node; each packet through the kernel's programs and the host's decision alike.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "a bench lives for its test"
)]

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use lb_common::flow::Hook;
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::given::{Flow, PLACES, Place, came, each, first, states};
use lb_tests::host::Code;
use lb_tests::outside::{self, source_of};
use lb_tests::packets;
use lb_tests::prog::{Bench, Outcome};

const IN: (Role, Hook) = (Role::Uplink, Hook::Ingress);

#[test]
fn a_service_without_endpoints_refuses_and_policy_and_ranges_drop() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let node = |port| SocketAddr::new(outside::node(place), port);
        let (client, blocked) = (outside::client(place), outside::blocked(place));
        let refused = (Code::Redirect, Reason::NoEndpoints);
        let by_policy = (Code::Drop, Reason::NoLocalEndpoints);
        let by_range = (Code::Drop, Reason::SourceRange);
        for (source, dialled, (code, reason)) in [
            (client, node(outside::EMPTY_NODE_PORT), refused),
            (client, outside::balancer(place, 20), refused),
            (client, place.dialled(20), refused),
            (client, node(outside::LOCAL_NODE_PORT), by_policy),
            (client, outside::balancer(place, 12), by_policy),
            (blocked, outside::balancer(place, 14), by_range),
            // Ranges come first: nobody is told that there is nobody.
            (blocked, outside::balancer(place, 15), by_range),
            (client, outside::balancer(place, 15), refused),
            // Pods are no exception.
            (place.client(), outside::balancer(place, 14), by_range),
        ] {
            let frame = first(protocol, source, dialled).build();
            bench.send_at(IN, &frame).expect_end(code, reason);
            if reason == Reason::NoEndpoints {
                let outcome = bench.send_at(IN, &frame);
                assert_eq!(answered_to(&outcome, place), (dialled.ip(), source.ip()));
            }
        }
        // From a pod's own device the ranges hold, too.
        let frame = first(protocol, place.client(), outside::balancer(place, 14)).build();
        bench
            .send(Hook::Ingress, &frame)
            .expect_end(Code::Drop, Reason::SourceRange);
    });
}

/// Source and destination of the answer.
fn answered_to(outcome: &Outcome, place: Place) -> (IpAddr, IpAddr) {
    let frame = &outcome.ended.frame;
    if place.is_v6() {
        let address = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into();
        (address(22), address(38))
    } else {
        let address = |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into();
        (address(26), address(30))
    }
}

#[test]
fn source_ranges_do_not_concern_node_ports_and_let_their_networks_in() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let node_port = SocketAddr::new(outside::node(place), outside::RANGED_NODE_PORT);
        for (source, dialled) in [
            (outside::blocked(place), node_port),
            (outside::client(place), outside::balancer(place, 14)),
        ] {
            let flow = Flow::new(protocol, source, dialled, place.backend(protocol));
            let outcome = bench.send_at(IN, &first(protocol, source, dialled).build());
            let expected = first(protocol, source, flow.backend).build();
            let entries = came(flow.pair(states(protocol)[0]));
            outcome.expect_translated(Reason::NewFlow, &expected, &entries);
        }
    });
}

/// Whatever the policy for clients from outside.
#[test]
fn clients_of_the_cluster_go_to_any_endpoint() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let node_port = SocketAddr::new(outside::node(place), outside::LOCAL_NODE_PORT);
        for (role, number) in [(Role::Workload, 4), (Role::Uplink, 5)] {
            for dialled in [node_port, outside::balancer(place, 12)] {
                let pod = SocketAddr::new(place.pod(number), 40_000);
                let outcome = bench.send_at(
                    (role, Hook::Ingress),
                    &first(protocol, pod, dialled).build(),
                );
                assert_eq!(outcome.ended.reason, Reason::NewFlow, "{role:?} {dialled}");
                let seen = source_of(&outcome.ended.frame, place);
                assert_eq!(seen.ip(), pod.ip());
            }
        }
    });
}

#[test]
fn what_is_for_the_node_itself_passes() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let client = outside::client(place);
        for dialled in [
            SocketAddr::new(outside::other_node_address(place), outside::NODE_PORT),
            SocketAddr::new(outside::node(place), 22),
            // No node port any more, but its bit stays.
            SocketAddr::new(outside::node(place), 30_099),
        ] {
            bench.change(|tables| {
                let bit = lb_common::table::filter::FilterBit::node_port(protocol, 30_099);
                tables.node_ports[usize::try_from(bit.word).unwrap()] |= bit.mask;
            });
            for role in [Role::Uplink, Role::Workload] {
                let frame = first(protocol, client, dialled).build();
                let outcome = bench.send_at((role, Hook::Ingress), &frame);
                outcome.expect_translated(Reason::NotService, &frame, &BTreeSet::new());
            }
        }
        let ping = packets::echo_request(client.ip(), outside::node(place)).build();
        let outcome = bench.send_at(IN, &ping);
        outcome.expect_translated(Reason::NotService, &ping, &BTreeSet::new());
    });
}

/// They answer connections that the node, or its masquerade, began from that port.
#[test]
fn segments_that_begin_no_connection_pass_by_a_node_port() {
    for place in PLACES {
        let mut bench = Bench::new(&outside::world());
        let client = outside::client(place);
        let node_port = SocketAddr::new(outside::node(place), outside::NODE_PORT);
        for flags in [
            packets::SYN | packets::ACK,
            packets::ACK,
            packets::FIN | packets::ACK,
            packets::RST,
        ] {
            let frame = packets::tcp(client, node_port).flags(flags).build();
            for role in [Role::Uplink, Role::Workload] {
                let outcome = bench.send_at((role, Hook::Ingress), &frame);
                outcome.expect_translated(Reason::NotService, &frame, &BTreeSet::new());
            }
        }
    }
}

#[test]
fn unknown_ports_of_a_cluster_address_are_refused_and_unallocated_ones_dropped_from_outside_too() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let client = outside::client(place);
        let unknown = SocketAddr::new(place.service(10), 81);
        let outcome = bench.send_at(IN, &first(protocol, client, unknown).build());
        outcome.expect_end(Code::Redirect, Reason::UnknownPort);
        let nobody = SocketAddr::new(place.service(99), 80);
        let outcome = bench.send_at(IN, &first(protocol, client, nobody).build());
        outcome.expect_end(Code::Drop, Reason::UnallocatedAddress);
    });
}
