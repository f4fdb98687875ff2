//! Frames that end too early, in every situation a packet can be in, and frames with tags and
//! fragments where an answer or a reply is concerned; each through the kernel's programs and the
//! host's decision, and those too short for test-run through the latter.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "a bench lives for its test"
)]

use std::collections::BTreeSet;

use lb_agent::clock::flow_seconds;
use lb_common::flow::{Hook, Protocol};
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::given::{self, Flow, Place, answer, came, each, first, plain, states};
use lb_tests::host::{self, Code};
use lb_tests::packets::diff::assert_same;
use lb_tests::packets::{self, PacketBuilder};
use lb_tests::prog::Bench;

/// Where a situation's packet is seen, and the packet.
type Seen = (Hook, Vec<u8>);

/// Every situation that a packet of a protocol can be in: what went before, then the packet.
fn situations(place: Place, protocol: Protocol) -> Vec<(&'static str, Vec<Seen>, Seen)> {
    let flow = plain(place, protocol);
    let (client, service, backend) = (flow.client, flow.service, flow.backend);
    let begin = (Hook::Ingress, first(protocol, client, service).build());
    let sent = first(protocol, client, backend).build();
    let reply = (Hook::Egress, answer(protocol, backend, client).build());
    let seen_reply = answer(protocol, service, client).build();
    let next = given::packet(protocol, client, service).build();

    let own = place.own_backend(protocol);
    let hairpin = Flow::new(protocol, client, place.dialled(30), own);
    let begin_own = (
        Hook::Ingress,
        first(protocol, client, hairpin.service).build(),
    );
    let to_itself = (Hook::Egress, first(protocol, client, own).build());
    let answer_own = (Hook::Ingress, answer(protocol, own, hairpin.peer()).build());
    let back = (Hook::Egress, answer(protocol, own, client).build());

    let long = |destination| first(protocol, client, destination).payload(&[7; 100]);
    let pieces = long(service).fragments(48);
    let reply_pieces = answer(protocol, backend, client)
        .payload(&[7; 100])
        .fragments(48);
    let error_in = packets::unreachable(backend.ip(), client.ip(), &sent).build();
    let error_out = packets::unreachable(client.ip(), service.ip(), &seen_reply).build();
    vec![
        ("first packet", vec![], begin.clone()),
        (
            "established",
            vec![begin.clone(), reply.clone()],
            (Hook::Ingress, next),
        ),
        ("reply", vec![begin.clone()], reply.clone()),
        ("hairpin, there", vec![], begin_own.clone()),
        ("hairpin, seen", vec![begin_own.clone()], to_itself),
        (
            "hairpin, answered",
            vec![begin_own.clone()],
            answer_own.clone(),
        ),
        ("hairpin, back", vec![begin_own, answer_own], back),
        (
            "error to the client",
            vec![begin.clone()],
            (Hook::Egress, error_in),
        ),
        (
            "error to the backend",
            vec![begin.clone(), reply],
            (Hook::Ingress, error_out),
        ),
        ("first fragment", vec![], (Hook::Ingress, pieces[0].clone())),
        (
            "later fragment",
            vec![(Hook::Ingress, pieces[0].clone())],
            (Hook::Ingress, pieces[1].clone()),
        ),
        (
            "later fragment of a reply",
            vec![begin, (Hook::Egress, reply_pieces[0].clone())],
            (Hook::Egress, reply_pieces[1].clone()),
        ),
        (
            "refused",
            vec![],
            (
                Hook::Ingress,
                first(protocol, client, place.dialled(20)).build(),
            ),
        ),
        (
            "echo",
            vec![],
            (
                Hook::Ingress,
                packets::echo_request(client.ip(), service.ip()).build(),
            ),
        ),
    ]
}

#[test]
fn a_packet_cut_anywhere_goes_on_untouched_and_changes_nothing() {
    each(|place, protocol| {
        for (what, before, (hook, frame)) in situations(place, protocol) {
            let mut bench = Bench::new(&given::world());
            for (hook, frame) in before {
                let outcome = bench.send(hook, &frame);
                assert_eq!(outcome.ended.code, Code::Next, "{what}");
            }
            let least = if place.is_v6() { 54 } else { 34 };
            let before = host::flows(&bench.host);
            for length in 0..least {
                let cut = &frame[..length];
                let ended = host::run(&bench.host, hook, cut, flow_seconds());
                assert_eq!(ended.code, Code::Next, "{what}, {length} bytes");
                assert_same(cut, &ended.frame);
            }
            assert_eq!(host::flows(&bench.host), before, "{what}");
            for length in least..frame.len() {
                let outcome = bench.send(hook, &frame[..length]);
                let ended = (outcome.ended.code, outcome.ended.reason);
                let is_left = ended == (Code::Next, Reason::Malformed)
                    || ended == (Code::Next, Reason::NotIp);
                assert!(is_left, "{what}, {length} bytes: {ended:?}");
                assert_eq!(outcome.flows, BTreeSet::new(), "{what}, {length} bytes");
                assert_eq!(outcome.notes, [], "{what}, {length} bytes");
                assert_same(&frame[..length], &outcome.ended.frame);
            }
            let whole = bench.send(hook, &frame);
            let is_ours = whole.ended.reason != Reason::NotService;
            assert!(
                is_ours && whole.ended.frame != frame,
                "{what}: {:?}",
                whole.ended
            );
        }
    });
}

/// The IP header says how long the packet is, and the transport header does not fit.
#[test]
fn a_transport_header_cut_anywhere_makes_no_flow() {
    each(|place, protocol| {
        let flow = plain(place, protocol);
        let frame = first(protocol, flow.client, flow.service).build();
        let start = if place.is_v6() { 54 } else { 34 };
        let least = match protocol {
            Protocol::Tcp => 20,
            Protocol::Udp => 8,
            Protocol::Sctp => 12,
        };
        let mut bench = Bench::new(&given::world());
        for length in 0..least {
            let transport = &frame[start..start + length];
            let (client, service) = (flow.client.ip(), flow.service.ip());
            let short = packets::raw(client, service, protocol.number(), transport).build();
            let (outcome, _) = bench.send_if_taken((Role::Workload, Hook::Ingress), &short);
            assert_eq!(outcome.flows, BTreeSet::new(), "{length} bytes");
        }
    });
}

/// The kernel takes an outer tag off before the hook. A packet that still has one in its bytes gets
/// no refusal, which would lack it; an echo reply is made in place and has it.
#[test]
fn a_tagged_packet_is_not_answered_with_a_refusal() {
    const TAGS: [fn(PacketBuilder) -> PacketBuilder; 2] = [
        |packet| packet.tag(0x8100),
        |packet| packet.tag(0x88a8).tag(0x8100),
    ];
    each(|place, protocol| {
        for tag in TAGS {
            let mut bench = Bench::new(&given::world());
            let frame = tag(first(protocol, place.client(), place.dialled(20))).build();
            let outcome = bench.send(Hook::Ingress, &frame);
            assert_eq!(
                (outcome.ended.code, outcome.ended.reason),
                (Code::Drop, Reason::RefusalSuppressed)
            );
            assert_eq!(outcome.flows, BTreeSet::new());
            let request = tag(packets::echo_request(place.pod(2), place.service(10))).build();
            let outcome = bench.send(Hook::Ingress, &request);
            assert_eq!(
                (outcome.ended.code, outcome.ended.reason),
                (Code::Redirect, Reason::EchoReply)
            );
        }
    });
}

#[test]
fn fragments_of_a_reply_follow_the_first_one() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, protocol);
        let [begun, answered, _] = states(protocol);
        let _first = bench.send(
            Hook::Ingress,
            &first(protocol, flow.client, flow.service).build(),
        );
        let long = |source| {
            let packet = answer(protocol, source, flow.client).payload(&[7; 100]);
            packet.fragments(48)
        };
        let (sent, wanted) = (long(flow.backend), long(flow.service));
        assert!(sent.len() > 2);

        // Before its first one nothing says that it is a flow's: the pod's own stack drops it.
        let outcome = bench.send(Hook::Egress, &sent[1]);
        outcome.expect_translated(Reason::NotService, &sent[1], &BTreeSet::new());

        let outcome = bench.send(Hook::Egress, &sent[0]);
        let change = given::changed(flow.pair(begun), flow.pair(answered));
        outcome.expect_translated(Reason::Established, &wanted[0], &change);
        for (later, expected) in sent.iter().zip(&wanted).skip(1).rev() {
            let outcome = bench.send(Hook::Egress, later);
            outcome.expect_translated(Reason::Fragment, expected, &BTreeSet::new());
        }
    });
}

/// A fragmented packet to oneself is fragmented on each of its four ways.
#[test]
fn fragments_of_a_hairpin_follow_the_first_one_there_and_back() {
    each(|place, protocol| {
        let mut bench = Bench::new(&given::world());
        let backend = place.own_backend(protocol);
        let flow = Flow::new(protocol, place.client(), place.dialled(30), backend);
        let (client, service, peer) = (flow.client, flow.service, flow.peer());
        let pieces = |source, destination| {
            let packet = first(protocol, source, destination).payload(&[7; 100]);
            packet.fragments(48)
        };
        let begun = states(protocol)[0];
        let entries = flow.pair(begun).into_iter().chain(flow.second_pair(begun));
        let mut change = came(entries);
        for (hook, sent, wanted) in [
            (
                Hook::Ingress,
                pieces(client, service),
                pieces(client, backend),
            ),
            (Hook::Egress, pieces(client, backend), pieces(peer, backend)),
        ] {
            let outcome = bench.send(hook, &sent[0]);
            let reason = if change.is_empty() {
                Reason::Established
            } else {
                Reason::NewFlow
            };
            outcome.expect_translated(reason, &wanted[0], &std::mem::take(&mut change));
            for (later, expected) in sent.iter().zip(&wanted).skip(1) {
                let outcome = bench.send(hook, later);
                outcome.expect_translated(Reason::Fragment, expected, &BTreeSet::new());
            }
        }
    });
}
