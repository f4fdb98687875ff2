//! Clients from outside, at the node's uplink: there by a node port, a load balancer's or a cluster
//! address, out again to a backend elsewhere with an address of the node, and all the way back; each
//! packet through the kernel's programs and the host's decision alike.

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

use lb_common::conntrack::State;
use lb_common::flow::{Hook, Protocol};
use lb_common::table::device::{DeviceRecord, Role};
use lb_common::verdict::Reason;
use lb_tests::given::{
    self, Flow, PLACES, Place, answer, came, changed, each, first, gone, states,
};
use lb_tests::host::{self, Code};
use lb_tests::outside::{self, second_pair, source_of};
use lb_tests::packets;
use lb_tests::packets::diff::assert_same;
use lb_tests::prog::Bench;
use lb_tests::tables::DEVICE;

const IN: (Role, Hook) = (Role::Uplink, Hook::Ingress);
const OUT: (Role, Hook) = (Role::Uplink, Hook::Egress);

/// A flow from outside to a backend elsewhere, and the node's address and port on the way there.
struct Passing {
    bench: Bench,
    flow: Flow,
    source: SocketAddr,
}

impl Passing {
    /// With the first packet there.
    fn begin(place: Place, protocol: Protocol, service: SocketAddr) -> Self {
        let bench = Bench::new(&outside::world());
        Self::begin_in(bench, place, protocol, (outside::client(place), service))
    }

    #[track_caller]
    fn begin_in(
        mut bench: Bench,
        place: Place,
        protocol: Protocol,
        (client, service): (SocketAddr, SocketAddr),
    ) -> Self {
        let flow = Flow::new(protocol, client, service, place.backend(protocol));
        let [begun, ..] = states(protocol);
        let outcome = bench.send_at(IN, &first(protocol, client, service).build());
        let forwarded = first(protocol, client, flow.backend).build();
        outcome.expect_translated(Reason::NewFlow, &forwarded, &came(flow.pair(begun)));

        let outcome = bench.send_at(OUT, &forwarded);
        let source = source_of(&outcome.ended.frame, place);
        assert_eq!(source.ip(), outside::node(place));
        assert!((1024..30_000).contains(&source.port()), "{source}");
        let left = first(protocol, source, flow.backend).build();
        let entries = came(second_pair(&flow, source, begun));
        outcome.expect_translated(Reason::NewSource, &left, &entries);
        Self {
            bench,
            flow,
            source,
        }
    }

    /// One packet over both hooks, each of which changes its pair from one state to the other.
    #[track_caller]
    fn pass(
        &mut self,
        [before, between, after]: [&[u8]; 3],
        is_reply: bool,
        [from, to]: [State; 2],
    ) {
        let first_pair = changed(self.flow.pair(from), self.flow.pair(to));
        let second = |state| second_pair(&self.flow, self.source, state);
        let second_pair = changed(second(from), second(to));
        let changes = if is_reply {
            [second_pair, first_pair]
        } else {
            [first_pair, second_pair]
        };
        let outcome = self.bench.send_at(IN, before);
        outcome.expect_translated(Reason::Established, between, &changes[0]);
        let outcome = self.bench.send_at(OUT, between);
        outcome.expect_translated(Reason::Established, after, &changes[1]);
    }

    /// The backend's first answer, and the client's next packet.
    #[track_caller]
    fn confirm(&mut self) {
        let Flow {
            protocol,
            client,
            service,
            backend,
            ..
        } = self.flow;
        let [begun, answered, established] = states(protocol);
        let reply = |from, to| answer(protocol, from, to).build();
        let frames = [
            reply(backend, self.source),
            reply(backend, client),
            reply(service, client),
        ];
        self.pass(
            frames.each_ref().map(Vec::as_slice),
            true,
            [begun, answered],
        );
        let next = |from, to| given::packet(protocol, from, to).build();
        let frames = [
            next(client, service),
            next(client, backend),
            next(self.source, backend),
        ];
        let states = [answered, established];
        self.pass(frames.each_ref().map(Vec::as_slice), false, states);
    }
}

#[test]
fn a_client_from_outside_reaches_a_backend_elsewhere_and_hears_from_what_it_dialled() {
    each(|place, protocol| {
        for service in outside::dialled(place) {
            let mut passing = Passing::begin(place, protocol, service);
            passing.confirm();
            drop(passing);
        }
    });
}

#[test]
fn the_clients_port_is_kept_where_it_is_one_of_ours_and_free() {
    each(|place, protocol| {
        let bench = Bench::new(&outside::world());
        let service = outside::dialled(place)[0];
        let client = |number| SocketAddr::new(place.address(203, number), 20_000);
        let one = Passing::begin_in(bench, place, protocol, (client(1), service));
        assert_eq!(one.source.port(), 20_000);
        let other = Passing::begin_in(one.bench, place, protocol, (client(2), service));
        assert_ne!(other.source.port(), 20_000);
    });
}

/// In the kernel a real socket, of the namespace that test-run's device is in.
#[test]
fn a_port_that_the_host_listens_at_is_not_given_away() {
    for place in PLACES {
        let any: IpAddr = if place.is_v6() {
            [0_u16; 8].into()
        } else {
            [0_u8; 4].into()
        };
        let listener = std::net::TcpListener::bind((any, 0)).unwrap();
        // Of ours, or the client's port would not be kept in any case.
        let port = (1024..30_000)
            .find_map(|port| std::net::TcpListener::bind((any, port)).ok())
            .unwrap();
        drop(listener);
        let datagrams = std::net::UdpSocket::bind(port.local_addr().unwrap()).unwrap();
        let number = port.local_addr().unwrap().port();
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let mut bench = Bench::new(&outside::world());
            bench.change(|tables| {
                tables.sockets.insert(number);
            });
            let client = SocketAddr::new(outside::client(place).ip(), number);
            let service = outside::dialled(place)[0];
            let passing = Passing::begin_in(bench, place, protocol, (client, service));
            assert_ne!(passing.source.port(), number, "{protocol:?}");
        }
        drop(datagrams);
    }
}

/// The same client address and port to two addresses of one backend: told apart by the port that
/// the backend sees, and so on both pairs.
#[test]
fn one_client_port_to_two_services_of_one_backend_becomes_two_flows() {
    each(|place, protocol| {
        let mut passing = Passing::begin(place, protocol, outside::dialled(place)[0]);
        let flow = passing.flow;
        let other = Flow {
            service: outside::balancer(place, 11),
            ..flow
        };
        let request = first(protocol, other.client, other.service).build();
        let outcome = passing.bench.send_at(IN, &request);
        let seen = source_of(&outcome.ended.frame, place);
        assert_eq!(seen.ip(), other.client.ip());
        assert_ne!(seen.port(), other.client.port());
        assert_eq!(outcome.notes, [Reason::PortChanged]);
        let other = other.at_port(seen.port());
        let [begun, answered, _] = states(protocol);
        assert_eq!(outcome.flows, came(other.pair(begun)));

        let forwarded = first(protocol, seen, other.backend).build();
        assert_same(&forwarded, &outcome.ended.frame);
        let outcome = passing.bench.send_at(OUT, &forwarded);
        let source = source_of(&outcome.ended.frame, place);
        assert_ne!(source, passing.source);
        assert_eq!(outcome.flows, came(second_pair(&other, source, begun)));

        let reply = |from, to| answer(protocol, from, to).build();
        let outcome = passing.bench.send_at(IN, &reply(other.backend, source));
        let change = changed(
            second_pair(&other, source, begun),
            second_pair(&other, source, answered),
        );
        let between = reply(other.backend, seen);
        outcome.expect_translated(Reason::Established, &between, &change);
        let outcome = passing.bench.send_at(OUT, &between);
        let change = changed(other.pair(begun), other.pair(answered));
        let after = reply(other.service, other.client);
        outcome.expect_translated(Reason::Established, &after, &change);
        passing.confirm();
    });
}

/// Its reply comes back by itself: only who came from outside needs the node's address.
#[test]
fn a_pod_of_this_node_leaves_with_its_own_address() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let pod = SocketAddr::new(place.pod(4), 40_000);
        let flow = Flow::new(protocol, pod, place.dialled(10), place.backend(protocol));
        let outcome = bench.send(Hook::Ingress, &first(protocol, pod, flow.service).build());
        assert_eq!(outcome.flows, came(flow.pair(states(protocol)[0])));
        let forwarded = first(protocol, pod, flow.backend).build();
        let outcome = bench.send_at(OUT, &forwarded);
        outcome.expect_translated(Reason::NotService, &forwarded, &BTreeSet::new());
    });
}

#[test]
fn without_an_address_of_its_family_nothing_from_outside_leaves_again() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        bench.change(|tables| tables.device = DeviceRecord::uplink(DEVICE, [0; 4], [0; 16]));
        let client = outside::client(place);
        let request = first(protocol, client, outside::dialled(place)[0]).build();
        let _begun = bench.send_at(IN, &request);
        let forwarded = first(protocol, client, place.backend(protocol)).build();
        bench
            .send_at(OUT, &forwarded)
            .expect_end(Code::Drop, Reason::NoSourceAddress);
    });
}

/// A client that is its own backend, on another machine: even where its port is the backend's.
#[test]
fn a_client_elsewhere_may_be_its_own_backend() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let backend = place.own_backend(protocol);
        for port in [40_000, backend.port()] {
            let client = SocketAddr::new(backend.ip(), port);
            let service = SocketAddr::new(outside::node(place), outside::HAIRPIN_NODE_PORT);
            let outcome = bench.send_at(IN, &first(protocol, client, service).build());
            let seen = source_of(&outcome.ended.frame, place);
            assert_ne!(seen, backend);
            let forwarded = first(protocol, seen, backend).build();
            assert_same(&forwarded, &outcome.ended.frame);
            let outcome = bench.send_at(OUT, &forwarded);
            assert_eq!(outcome.ended.reason, Reason::NewSource);
            let source = source_of(&outcome.ended.frame, place);
            assert_eq!(source.ip(), outside::node(place));
            let reply = |from, to| answer(protocol, from, to).build();
            let outcome = bench.send_at(IN, &reply(backend, source));
            assert_same(&reply(backend, seen), &outcome.ended.frame);
            let outcome = bench.send_at(OUT, &reply(backend, seen));
            assert_same(&reply(service, client), &outcome.ended.frame);
        }
    });
}

/// On its own node: the pod must see the node port as its peer, there and back.
#[test]
fn a_pod_reaches_itself_by_a_node_port() {
    each(|place, protocol| {
        let mut bench = Bench::new(&outside::world());
        let service = SocketAddr::new(outside::node(place), outside::HAIRPIN_NODE_PORT);
        let backend = place.own_backend(protocol);
        let flow = Flow::new(protocol, place.client(), service, backend);
        let [begun, answered, _] = states(protocol);
        let outcome = bench.send(
            Hook::Ingress,
            &first(protocol, flow.client, service).build(),
        );
        let to_itself = first(protocol, flow.client, backend).build();
        let entries = flow.pair(begun).into_iter().chain(flow.second_pair(begun));
        outcome.expect_translated(Reason::NewFlow, &to_itself, &came(entries));
        let outcome = bench.send(Hook::Egress, &to_itself);
        let seen = first(protocol, flow.peer(), backend).build();
        outcome.expect_translated(Reason::Established, &seen, &BTreeSet::new());
        let outcome = bench.send(
            Hook::Ingress,
            &answer(protocol, backend, flow.peer()).build(),
        );
        let back = answer(protocol, backend, flow.client).build();
        let change = changed(flow.second_pair(begun), flow.second_pair(answered));
        outcome.expect_translated(Reason::Established, &back, &change);
        let outcome = bench.send(Hook::Egress, &back);
        let heard = answer(protocol, service, flow.client).build();
        let change = changed(flow.pair(begun), flow.pair(answered));
        outcome.expect_translated(Reason::Established, &heard, &change);
    });
}

/// Its source port may have become another flow's meanwhile.
#[test]
fn a_connection_that_begins_anew_gets_a_new_source_port() {
    for place in PLACES {
        let protocol = Protocol::Tcp;
        let mut passing = Passing::begin(place, protocol, outside::dialled(place)[0]);
        let (flow, source) = (passing.flow, passing.source);
        let reset = |from, to| packets::tcp(from, to).flags(packets::RST).build();
        let frames = [
            reset(flow.backend, source),
            reset(flow.backend, flow.client),
            reset(flow.service, flow.client),
        ];
        let states = [State::SynSent, State::Closed];
        passing.pass(frames.each_ref().map(Vec::as_slice), true, states);
        let syn = |to| first(protocol, flow.client, to).build();
        let outcome = passing.bench.send_at(IN, &syn(flow.service));
        let change = changed(flow.pair(State::Closed), flow.pair(State::SynSent));
        outcome.expect_translated(Reason::NewFlow, &syn(flow.backend), &change);
        let outcome = passing.bench.send_at(OUT, &syn(flow.backend));
        let renewed = source_of(&outcome.ended.frame, place);
        let mut change = gone(second_pair(&flow, source, State::Closed));
        change.append(&mut came(second_pair(&flow, renewed, State::SynSent)));
        let left = first(protocol, renewed, flow.backend).build();
        outcome.expect_translated(Reason::NewSource, &left, &change);
    }
}

/// Of each pair one half, lost between the first answer and the packet that changes its state next.
#[test]
fn a_lost_half_of_either_pair_is_rebuilt_by_the_next_packet_of_the_other() {
    for place in PLACES {
        for is_second in [false, true] {
            let mut passing = Passing::begin(place, Protocol::Tcp, outside::dialled(place)[0]);
            let (flow, source) = (passing.flow, passing.source);
            let syn_ack = |to| answer(Protocol::Tcp, flow.backend, to).build();
            let _un_snat = passing.bench.send_at(IN, &syn_ack(source));
            let _reply = passing.bench.send_at(OUT, &syn_ack(flow.client));
            let pair = |state| {
                if is_second {
                    second_pair(&flow, source, state)
                } else {
                    flow.pair(state)
                }
            };
            let [original, reply] = pair(State::SynReceived);
            passing.bench.change(|tables| host::forget(tables, &reply));
            let ack = |to| packets::tcp(flow.client, to).build();
            let outcomes = [
                passing.bench.send_at(IN, &ack(flow.service)),
                passing.bench.send_at(OUT, &ack(flow.backend)),
            ];
            let outcome = &outcomes[usize::from(is_second)];
            assert_eq!(outcome.ended.reason, Reason::Established);
            assert_eq!(outcome.notes, [Reason::HalfRebuilt]);
            let mut change = came(pair(State::Established));
            change.append(&mut gone([original]));
            assert_eq!(outcome.flows, change);
        }
    }
}
