//! Packets of flows through the loaded programs and through the host's decision, which must agree
//! in everything; and what each packet did, all of it.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::needless_pass_by_value,
    clippy::significant_drop_tightening,
    reason = "expectations are written where they are handed over, and a bench lives for its test"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lb_common::conntrack::State;
use lb_common::flow::{Hook, Protocol};
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::given::{self, Flow, PLACES, answer, came, changed, each, first, plain, states};
use lb_tests::host::{self, Code};
use lb_tests::packets::diff::assert_same;
use lb_tests::packets::{self, PacketBuilder};
use lb_tests::prog::{Bench, Outcome};

/// What is done to a packet before it is built.
type Variant = fn(PacketBuilder) -> PacketBuilder;

#[track_caller]
fn translated(outcome: &Outcome, reason: Reason, frame: &[u8], flows: BTreeSet<String>) {
    outcome.expect_translated(reason, frame, &flows);
}

#[test]
fn a_flow_is_translated_there_and_back() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, protocol);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        let [begun, answered, confirmed] = states(protocol);

        let outcome = bench.send(Hook::Ingress, &first(protocol, client, service).build());
        let expected = first(protocol, client, backend).build();
        translated(&outcome, Reason::NewFlow, &expected, came(flow.pair(begun)));

        let outcome = bench.send(Hook::Egress, &answer(protocol, backend, client).build());
        let expected = answer(protocol, service, client).build();
        let change = changed(flow.pair(begun), flow.pair(answered));
        translated(&outcome, Reason::Established, &expected, change);

        let outcome = bench.send(
            Hook::Ingress,
            &given::packet(protocol, client, service).build(),
        );
        let expected = given::packet(protocol, client, backend).build();
        let change = changed(flow.pair(answered), flow.pair(confirmed));
        translated(&outcome, Reason::Established, &expected, change);
    });
}

#[test]
fn a_pod_reaches_itself_and_is_answered() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let backend = place.own_backend(protocol);
        let flow = Flow::new(protocol, place.client(), place.dialled(30), backend);
        let (client, service, peer) = (flow.client, flow.service, flow.peer());
        let [begun, answered, _] = states(protocol);

        let outcome = bench.send(Hook::Ingress, &first(protocol, client, service).build());
        let on_the_way = first(protocol, client, backend).build();
        let entries = flow.pair(begun).into_iter().chain(flow.second_pair(begun));
        translated(&outcome, Reason::NewFlow, &on_the_way, came(entries));

        let outcome = bench.send(Hook::Egress, &on_the_way);
        let expected = first(protocol, peer, backend).build();
        translated(&outcome, Reason::Established, &expected, BTreeSet::new());

        let outcome = bench.send(Hook::Ingress, &answer(protocol, backend, peer).build());
        let on_the_way = answer(protocol, backend, client).build();
        let change = changed(flow.second_pair(begun), flow.second_pair(answered));
        translated(&outcome, Reason::Established, &on_the_way, change);

        let outcome = bench.send(Hook::Egress, &on_the_way);
        let expected = answer(protocol, service, client).build();
        let change = changed(flow.pair(begun), flow.pair(answered));
        translated(&outcome, Reason::Established, &expected, change);
    });
}

/// What becomes of a first packet that no backend gets. The bytes of the answers are held by
/// `lb-common`'s tests against built ones; here the kernel's are the same.
#[test]
fn what_no_backend_serves_ends_as_it_should() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let unknown_port = SocketAddr::new(place.service(10), 81);
        let rows = [
            (
                "no endpoints",
                place.dialled(20),
                Code::Redirect,
                Reason::NoEndpoints,
            ),
            (
                "none here",
                place.dialled(21),
                Code::Drop,
                Reason::NoLocalEndpoints,
            ),
            (
                "unknown port",
                unknown_port,
                Code::Redirect,
                Reason::UnknownPort,
            ),
            (
                "unallocated",
                place.dialled(99),
                Code::Drop,
                Reason::UnallocatedAddress,
            ),
            (
                "no service",
                place.backend(protocol),
                Code::Next,
                Reason::NotService,
            ),
        ];
        for (what, destination, code, reason) in rows {
            let frame = first(protocol, place.client(), destination).build();
            let outcome = bench.send(Hook::Ingress, &frame);
            assert_eq!(
                (
                    outcome.ended.code,
                    outcome.ended.reason,
                    outcome.notes.len()
                ),
                (code, reason, 0),
                "{what}"
            );
            assert_eq!(outcome.flows, BTreeSet::new(), "{what}");
            if code == Code::Next {
                assert_same(&frame, &outcome.ended.frame);
            }
        }
    });
}

#[test]
fn an_echo_request_is_answered_where_something_serves() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world());
        for (number, code, reason) in [
            (10, Code::Redirect, Reason::EchoReply),
            (20, Code::Redirect, Reason::NoEndpoints),
            (99, Code::Drop, Reason::UnallocatedAddress),
        ] {
            let request = packets::echo_request(place.pod(2), place.service(number)).build();
            let outcome = bench.send(Hook::Ingress, &request);
            assert_eq!((outcome.ended.code, outcome.ended.reason), (code, reason));
            assert_eq!(outcome.flows, BTreeSet::new());
        }
    }
}

#[test]
fn a_second_flow_to_one_backend_gets_another_source_port() {
    for place in PLACES {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut bench = Bench::new(&given::world());
            let one = plain(place, protocol);
            let (client, backend) = (one.client, one.backend);
            let two = Flow {
                service: place.dialled(11),
                ..one
            };
            let [begun, answered, _] = states(protocol);
            let _first = bench.send(Hook::Ingress, &first(protocol, client, one.service).build());
            let outcome = bench.send(Hook::Ingress, &first(protocol, client, two.service).build());
            assert_eq!(outcome.notes, [Reason::PortChanged]);
            let port_bytes = if place.is_v6() { 54..56 } else { 34..36 };
            let bytes = &outcome.ended.frame[port_bytes];
            let two = two.at_port(u16::from_be_bytes(bytes.try_into().unwrap()));
            assert_ne!(two.port, one.port);
            assert_same(
                &first(protocol, two.seen(), backend).build(),
                &outcome.ended.frame,
            );
            assert_eq!(outcome.flows, came(two.pair(begun)));
            for flow in [one, two] {
                let reply = answer(protocol, backend, flow.seen()).build();
                let outcome = bench.send(Hook::Egress, &reply);
                let expected = answer(protocol, flow.service, client).build();
                let change = changed(flow.pair(begun), flow.pair(answered));
                translated(&outcome, Reason::Established, &expected, change);
            }
        }
    }
}

#[test]
fn errors_about_a_flow_are_translated_with_what_they_quote() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, protocol);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        let request = first(protocol, client, service).build();
        let sent = bench.send(Hook::Ingress, &request).ended.frame;
        let error = packets::unreachable(backend.ip(), client.ip(), &sent).build();
        let expected = packets::unreachable(service.ip(), client.ip(), &request).build();
        let outcome = bench.send(Hook::Egress, &error);
        translated(&outcome, Reason::IcmpError, &expected, BTreeSet::new());

        let router = place.pod(77);
        let error = packets::too_big(router, client.ip(), 1400, &sent).build();
        let expected = packets::too_big(router, client.ip(), 1400, &request).build();
        let outcome = bench.send(Hook::Egress, &error);
        translated(&outcome, Reason::IcmpError, &expected, BTreeSet::new());

        let reply = answer(protocol, backend, client).build();
        let seen = bench.send(Hook::Egress, &reply).ended.frame;
        let error = packets::unreachable(client.ip(), service.ip(), &seen).build();
        let expected = packets::unreachable(client.ip(), backend.ip(), &reply).build();
        let outcome = bench.send(Hook::Ingress, &error);
        translated(&outcome, Reason::IcmpError, &expected, BTreeSet::new());
    });
}

#[test]
fn a_packet_cut_anywhere_is_decided_alike() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let frame = first(protocol, place.client(), place.dialled(10)).build();
        let mut taken = 0;
        for length in 0..frame.len() {
            let (outcome, is_taken) =
                bench.send_if_taken((Role::Workload, Hook::Ingress), &frame[..length]);
            taken += usize::from(is_taken);
            assert_eq!(outcome.flows, BTreeSet::new(), "{length} bytes");
            assert_same(&frame[..length], &outcome.ended.frame);
        }
        let least = if place.is_v6() { 54 } else { 34 };
        assert!(taken >= frame.len() - least, "{taken} lengths were taken");
    });
}

/// Frames that differ only below the transport header are translated alike.
#[test]
fn tags_options_and_extension_headers_are_kept() {
    each(|place, protocol| {
        let flow = plain(place, protocol);
        let variants: Vec<Variant> = if place.is_v6() {
            vec![
                |packet| packet.extension(0, &[0, 1, 4, 0, 0, 0, 0]),
                |packet| packet.extension(60, &[0, 1, 4, 0, 0, 0, 0]).tag(0x8100),
            ]
        } else {
            vec![|packet| packet.options(1), |packet| {
                packet.options(10).tag(0x8100)
            }]
        };
        let tags: [Variant; 3] = [
            |packet| packet,
            |packet| packet.tag(0x8100),
            |packet| packet.tag(0x88a8).tag(0x8100),
        ];
        for variant in variants.into_iter().chain(tags) {
            let mut bench = Bench::new(&given::world());
            let outcome = bench.send(
                Hook::Ingress,
                &variant(first(protocol, flow.client, flow.service)).build(),
            );
            let expected = variant(first(protocol, flow.client, flow.backend)).build();
            let entries = came(flow.pair(states(protocol)[0]));
            translated(&outcome, Reason::NewFlow, &expected, entries);
        }
    });
}

#[test]
fn fragments_follow_the_first_one() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, protocol);
        let long = |destination| {
            let packet = first(protocol, flow.client, destination).payload(&[7; 100]);
            packet.fragments(48)
        };
        let (sent, wanted) = (long(flow.service), long(flow.backend));
        assert!(sent.len() > 2);

        let outcome = bench.send(Hook::Ingress, &sent[1]);
        assert_eq!(outcome.ended.code, Code::Drop);
        assert_eq!(outcome.ended.reason, Reason::FragmentWithoutFirst);
        assert_eq!(outcome.flows, BTreeSet::new());

        let outcome = bench.send(Hook::Ingress, &sent[0]);
        let entries = came(flow.pair(states(protocol)[0]));
        // UDP's and TCP's checksum covers what the first fragment has not, and fits all the same.
        translated(&outcome, Reason::NewFlow, &wanted[0], entries);
        for (later, expected) in sent.iter().zip(&wanted).skip(1).rev() {
            let outcome = bench.send(Hook::Ingress, later);
            translated(&outcome, Reason::Fragment, expected, BTreeSet::new());
        }
    });
}

#[test]
fn a_udp_flow_leaves_a_backend_that_no_longer_serves() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, Protocol::Udp);
        let request = first(Protocol::Udp, flow.client, flow.service).build();
        let _first = bench.send(Hook::Ingress, &request);
        bench.change(|tables| tables.set_flags(flow.backend, Protocol::Udp, 0));
        let outcome = bench.send(Hook::Ingress, &request);
        assert_eq!(outcome.ended.reason, Reason::NewFlow);
        assert_eq!(outcome.notes, [Reason::BackendReplaced]);
        // The only backend is chosen again: the entries are the same, in new places.
        assert_eq!(outcome.flows, BTreeSet::new());
    }
}

#[test]
fn a_lost_half_is_rebuilt_by_the_next_change() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, Protocol::Tcp);
        let (client, service, backend) = (flow.client, flow.service, flow.backend);
        let [begun, answered, _] = states(Protocol::Tcp);
        let _first = bench.send(
            Hook::Ingress,
            &first(Protocol::Tcp, client, service).build(),
        );
        let [original, reply] = flow.pair(begun);
        bench.change(|tables| host::forget(tables, &original));
        let outcome = bench.send(
            Hook::Egress,
            &answer(Protocol::Tcp, backend, client).build(),
        );
        assert_eq!(outcome.ended.reason, Reason::Established);
        assert_eq!(outcome.notes, [Reason::HalfRebuilt]);
        let mut change = came(flow.pair(answered));
        change.append(&mut given::gone([reply]));
        assert_eq!(outcome.flows, change);
    }
}

#[test]
fn a_syn_on_a_closed_flow_begins_anew() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, Protocol::Tcp);
        let (client, service) = (flow.client, flow.service);
        let syn = first(Protocol::Tcp, client, service).build();
        let _first = bench.send(Hook::Ingress, &syn);
        let reset = packets::tcp(client, service).flags(packets::RST).build();
        let outcome = bench.send(Hook::Ingress, &reset);
        let closed = changed(flow.pair(State::SynSent), flow.pair(State::Closed));
        assert_eq!(outcome.flows, closed);
        let outcome = bench.send(Hook::Ingress, &syn);
        let begun = changed(flow.pair(State::Closed), flow.pair(State::SynSent));
        assert_eq!(
            (outcome.ended.reason, outcome.flows),
            (Reason::NewFlow, begun)
        );
    }
}

#[test]
fn a_full_table_takes_a_flow_only_for_an_unconfirmed_one() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world().buckets(1));
        let flow = plain(place, Protocol::Udp);
        let (service, backend) = (flow.service, flow.backend);
        let client = |port| SocketAddr::new(flow.client.ip(), port);
        // Eight slots are four flows.
        for port in 1..=4 {
            let _new = bench.send(
                Hook::Ingress,
                &first(Protocol::Udp, client(port), service).build(),
            );
        }
        let outcome = bench.send(
            Hook::Ingress,
            &first(Protocol::Udp, client(5), service).build(),
        );
        assert_eq!(outcome.ended.reason, Reason::NewFlow);
        assert!(outcome.notes.contains(&Reason::UnconfirmedReplaced));

        drop(bench);
        let mut bench = Bench::new(&given::world().buckets(1));
        for port in 1..=4 {
            let request = first(Protocol::Udp, client(port), service).build();
            let _new = bench.send(Hook::Ingress, &request);
            let reply = answer(Protocol::Udp, backend, client(port)).build();
            let _confirmed = bench.send(Hook::Egress, &reply);
        }
        let outcome = bench.send(
            Hook::Ingress,
            &first(Protocol::Udp, client(5), service).build(),
        );
        assert_eq!(outcome.ended.code, Code::Drop);
        assert_eq!(outcome.ended.reason, Reason::FlowsFull);
        assert_eq!(outcome.flows, BTreeSet::new());
    }
}
