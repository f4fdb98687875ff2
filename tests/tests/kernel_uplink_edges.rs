//! ICMP errors and fragments of flows from outside, in every direction and at both of an uplink's
//! hooks; each packet through the kernel's programs and the host's decision alike.

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

use lb_common::flow::{Hook, Protocol};
use lb_common::table::device::Role;
use lb_common::verdict::Reason;
use lb_tests::given::{Place, answer, each, first};
use lb_tests::host::Code;
use lb_tests::outside::{self, FRAGMENTED, source_of};
use lb_tests::packets;
use lb_tests::prog::Bench;

const IN: (Role, Hook) = (Role::Uplink, Hook::Ingress);
const OUT: (Role, Hook) = (Role::Uplink, Hook::Egress);

/// A flow by the node port to a backend elsewhere, its first packet sent.
struct Begun {
    bench: Bench,
    client: SocketAddr,
    service: SocketAddr,
    backend: SocketAddr,
    source: SocketAddr,
}

fn begin(place: Place, protocol: Protocol) -> Begun {
    let mut bench = Bench::new(&outside::world());
    let (client, service) = (outside::client(place), outside::dialled(place)[0]);
    let backend = place.backend(protocol);
    let _begun = bench.send_at(IN, &first(protocol, client, service).build());
    let outcome = bench.send_at(OUT, &first(protocol, client, backend).build());
    let source = source_of(&outcome.ended.frame, place);
    Begun {
        bench,
        client,
        service,
        backend,
        source,
    }
}

impl Begun {
    /// An error at each of the hooks and as it leaves the second.
    #[track_caller]
    fn error_passes(&mut self, [before, between, after]: [Vec<u8>; 3]) {
        let outcome = self.bench.send_at(IN, &before);
        outcome.expect_translated(Reason::IcmpError, &between, &BTreeSet::new());
        self.error_leaves(&between, &after);
    }

    #[track_caller]
    fn error_leaves(&mut self, before: &[u8], after: &[u8]) {
        let outcome = self.bench.send_at(OUT, before);
        outcome.expect_translated(Reason::IcmpError, after, &BTreeSet::new());
    }
}

/// Of the backend itself, and of a router before it: path MTU discovery needs them.
#[test]
fn errors_about_requests_reach_the_client_as_it_knows_the_flow() {
    each(|place, protocol| {
        let mut begun = begin(place, protocol);
        let Begun {
            client,
            service,
            backend,
            source,
            ..
        } = begun;
        let request = |from, to| first(protocol, from, to).build();
        let router = place.address(7, 7);
        for (at_backend, heard_from) in [(backend.ip(), service.ip()), (router, router)] {
            let error = |from: IpAddr, to: SocketAddr, quoted: Vec<u8>| {
                packets::too_big(from, to.ip(), 1400, &quoted).build()
            };
            begun.error_passes([
                error(at_backend, source, request(source, backend)),
                error(at_backend, client, request(client, backend)),
                error(heard_from, client, request(client, service)),
            ]);
        }
        // This node's own, about what it cannot forward.
        let own = outside::other_node_address(place);
        let error = |quoted: Vec<u8>| packets::too_big(own, client.ip(), 1400, &quoted).build();
        let before = error(request(client, backend));
        begun.error_leaves(&before, &error(request(client, service)));
    });
}

#[test]
fn errors_about_replies_reach_the_backend_as_it_knows_the_flow() {
    each(|place, protocol| {
        let mut begun = begin(place, protocol);
        let Begun {
            client,
            service,
            backend,
            source,
            ..
        } = begun;
        let reply = |from, to| answer(protocol, from, to).build();
        let router = place.address(7, 7);
        // This node's address stands for everybody whom the backend knows by it, as with a masquerade.
        let heard_from = source.ip();
        for at_client in [client.ip(), router] {
            let error = |from: IpAddr, to: SocketAddr, quoted: Vec<u8>| {
                packets::unreachable(from, to.ip(), &quoted).build()
            };
            begun.error_passes([
                error(at_client, service, reply(service, client)),
                error(at_client, backend, reply(backend, client)),
                error(heard_from, backend, reply(backend, source)),
            ]);
        }
    });
}

#[test]
fn fragments_follow_the_first_one_over_both_hooks_in_both_directions() {
    each(|place, protocol| {
        if !FRAGMENTED.contains(&protocol) {
            return;
        }
        let mut begun = begin(place, protocol);
        let Begun {
            client,
            service,
            backend,
            source,
            ..
        } = begun;
        let pieces = |from, to| {
            let packet = first(protocol, from, to).payload(&[7; 100]);
            packet.fragments(48)
        };
        for [before, between, after] in [
            [
                pieces(client, service),
                pieces(client, backend),
                pieces(source, backend),
            ],
            [
                pieces(backend, source),
                pieces(backend, client),
                pieces(service, client),
            ],
        ] {
            for (at, sent, wanted) in [(IN, &before, &between), (OUT, &between, &after)] {
                let outcome = begun.bench.send_at(at, &sent[0]);
                assert_eq!(outcome.ended.reason, Reason::Established);
                packets::diff::assert_same(&wanted[0], &outcome.ended.frame);
                for (later, expected) in sent.iter().zip(wanted).skip(1).rev() {
                    let outcome = begun.bench.send_at(at, later);
                    outcome.expect_translated(Reason::Fragment, expected, &BTreeSet::new());
                }
            }
        }
    });
}

/// To a service address it can be nobody else's; what the node's own address gets may be the host's.
#[test]
fn a_later_fragment_before_its_first_is_dropped_or_the_hosts() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let client = outside::client(place);
        let later = |to| {
            let packet = first(protocol, client, to).payload(&[7; 100]);
            packet.fragments(48).remove(1)
        };
        let outcome = bench.send_at(IN, &later(place.dialled(10)));
        let ended = (outcome.ended.code, outcome.ended.reason);
        assert_eq!(ended, (Code::Drop, Reason::FragmentWithoutFirst));
        for (at, to) in [
            (IN, outside::dialled(place)[0]),
            (OUT, place.backend(protocol)),
        ] {
            let outcome = bench.send_at(at, &later(to));
            outcome.expect_translated(Reason::NotService, &later(to), &BTreeSet::new());
        }
    });
}

/// Its checksum is over all of the packet, and the first fragment does not say how long that is.
#[test]
fn a_fragmented_sctp_packet_whose_port_changes_is_dropped_by_name() {
    for place in lb_tests::given::PLACES {
        let mut bench = Bench::new(&outside::world());
        let packet = first(
            Protocol::Sctp,
            outside::client(place),
            outside::dialled(place)[0],
        );
        let frame = packet.payload(&[7; 100]).fragments(48).remove(0);
        let outcome = bench.send_at(IN, &frame);
        let ended = (outcome.ended.code, outcome.ended.reason);
        assert_eq!(ended, (Code::Drop, Reason::SctpFragment));
    }
}
