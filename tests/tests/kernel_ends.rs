//! How flows end, come back, and go on when something of them is lost; each packet through the
//! kernel's programs and the host's decision alike.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]
#![expect(
    clippy::significant_drop_tightening,
    reason = "a bench lives for its test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use lb_common::conntrack::State;
use lb_common::flow::{Hook, Protocol};
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};
use lb_common::verdict::Reason;
use lb_tests::given::{self, Flow, PLACES, Place, answer, came, changed, first, gone, plain};
use lb_tests::packets::{self, ACK, FIN, SYN};
use lb_tests::prog::{Bench, Outcome};
use lb_tests::tables::{ServicePort, World};
use lb_tests::{clock, host};

/// Entries are stamped once a second: longer than that.
const STAMPED: Duration = Duration::from_secs(10);

/// A connection whose segments are sent one by one.
struct Connection {
    bench: Bench,
    flow: Flow,
    state: State,
}

impl Connection {
    /// With the three segments of a handshake behind it.
    fn open(place: Place) -> Self {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, Protocol::Tcp);
        let syn = packets::tcp(flow.client, flow.service).flags(SYN).build();
        let outcome = bench.send(Hook::Ingress, &syn);
        assert_eq!(outcome.flows, came(flow.pair(State::SynSent)));
        let mut connection = Self {
            bench,
            flow,
            state: State::SynSent,
        };
        connection.backend(SYN | ACK, State::SynReceived);
        connection.client(ACK, State::Established);
        connection
    }

    /// The client sends a segment with these flags, which brings the flow to `state`.
    #[track_caller]
    fn client(&mut self, flags: u8, state: State) {
        let Flow {
            client,
            service,
            backend,
            ..
        } = self.flow;
        let segment = |to| packets::tcp(client, to).flags(flags).build();
        self.step(Hook::Ingress, &segment(service), &segment(backend), state);
    }

    /// The backend does.
    #[track_caller]
    fn backend(&mut self, flags: u8, state: State) {
        let Flow {
            client,
            service,
            backend,
            ..
        } = self.flow;
        let segment = |from| packets::tcp(from, client).flags(flags).build();
        self.step(Hook::Egress, &segment(backend), &segment(service), state);
    }

    #[track_caller]
    fn step(&mut self, hook: Hook, frame: &[u8], expected: &[u8], state: State) {
        let change = changed(self.flow.pair(self.state), self.flow.pair(state));
        let outcome = self.bench.send(hook, frame);
        outcome.expect_translated(Reason::Established, expected, &change);
        self.state = state;
    }

    /// A SYN from the same port, on a flow that is over.
    #[track_caller]
    fn dial_again(&mut self) {
        let Flow {
            client,
            service,
            backend,
            ..
        } = self.flow;
        let syn = |to| packets::tcp(client, to).flags(SYN).build();
        let change = changed(self.flow.pair(self.state), self.flow.pair(State::SynSent));
        let outcome = self.bench.send(Hook::Ingress, &syn(service));
        outcome.expect_translated(Reason::NewFlow, &syn(backend), &change);
        self.state = State::SynSent;
    }
}

#[test]
fn a_connection_that_the_client_closes_first_waits_and_its_port_serves_again() {
    for place in PLACES {
        let mut connection = Connection::open(place);
        connection.client(FIN | ACK, State::FinWait);
        connection.client(FIN | ACK, State::FinWait);
        connection.backend(ACK, State::FinWait);
        connection.backend(FIN | ACK, State::LastAck);
        connection.client(ACK, State::TimeWait);
        // The last ACK was lost, and the FIN comes once more.
        connection.backend(FIN | ACK, State::TimeWait);
        connection.client(ACK, State::TimeWait);
        connection.dial_again();
        connection.backend(SYN | ACK, State::SynReceived);
        connection.client(ACK, State::Established);
    }
}

#[test]
fn a_connection_that_the_backend_closes_first_waits_and_its_port_serves_again() {
    for place in PLACES {
        let mut connection = Connection::open(place);
        connection.backend(FIN | ACK, State::CloseWait);
        connection.backend(FIN | ACK, State::CloseWait);
        connection.client(ACK, State::CloseWait);
        connection.client(FIN | ACK, State::LastAck);
        connection.backend(ACK, State::TimeWait);
        connection.dial_again();
    }
}

#[test]
fn a_reset_by_either_side_closes_and_a_segment_revives() {
    for place in PLACES {
        let mut connection = Connection::open(place);
        connection.backend(packets::RST | ACK, State::Closed);
        connection.client(ACK, State::SynSent);
        connection.backend(ACK, State::Established);
        connection.client(packets::RST, State::Closed);
        connection.backend(ACK, State::Established);
    }
}

#[test]
fn a_connection_met_in_mid_stream_is_taken_up() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, Protocol::Tcp);
        let outcome = bench.send(
            Hook::Ingress,
            &packets::tcp(flow.client, flow.service).build(),
        );
        let expected = packets::tcp(flow.client, flow.backend).build();
        let entries = came(flow.pair(State::SynSent));
        outcome.expect_translated(Reason::NewFlow, &expected, &entries);
        let mut connection = Connection {
            bench,
            flow,
            state: State::SynSent,
        };
        connection.backend(ACK, State::Established);
    }
}

#[test]
fn the_clients_next_change_rebuilds_a_lost_reply_half() {
    for place in PLACES {
        let mut bench = Bench::new(&given::world());
        let flow = plain(place, Protocol::Tcp);
        let Flow {
            client,
            service,
            backend,
            ..
        } = flow;
        let _syn = bench.send(
            Hook::Ingress,
            &first(Protocol::Tcp, client, service).build(),
        );
        let _answer = bench.send(
            Hook::Egress,
            &answer(Protocol::Tcp, backend, client).build(),
        );
        let [original, reply] = flow.pair(State::SynReceived);
        bench.change(|tables| host::forget(tables, &reply));
        let outcome = bench.send(Hook::Ingress, &packets::tcp(client, service).build());
        assert_eq!(outcome.ended.reason, Reason::Established);
        assert_eq!(outcome.notes, [Reason::HalfRebuilt]);
        let mut change = came(flow.pair(State::Established));
        change.append(&mut gone([original]));
        assert_eq!(outcome.flows, change);
    }
}

/// No packet of the client's changes the state of a UDP flow, but one in each second stamps it.
#[test]
fn the_clients_next_stamp_rebuilds_a_lost_reply_half() {
    for place in PLACES {
        for protocol in [Protocol::Udp, Protocol::Sctp] {
            let mut bench = Bench::new(&given::world());
            let flow = plain(place, protocol);
            let request = first(protocol, flow.client, flow.service).build();
            let _first = bench.send(Hook::Ingress, &request);
            let [_, reply] = flow.pair(given::states(protocol)[0]);
            bench.change(|tables| host::forget(tables, &reply));
            let rebuilt = clock::eventually("the half is rebuilt", STAMPED, || {
                let outcome = bench.send(Hook::Ingress, &request);
                assert_eq!(outcome.ended.reason, Reason::Established);
                Ok((!outcome.notes.is_empty()).then_some(outcome))
            });
            let rebuilt = rebuilt.expect("a stamp each second");
            assert_eq!(rebuilt.notes, [Reason::HalfRebuilt]);
            assert_eq!(rebuilt.flows, came([reply]));
        }
    }
}

/// Service 10 with the backends 3 and 4, service 11 with backend 4 alone.
fn two_backends(place: Place, protocol: Protocol, weights: [u16; 2]) -> World {
    let [one, two] = backends(place, protocol);
    let port = |number| ServicePort::new(place.dialled(number), protocol);
    World::default()
        .port(port(10).backend(one, weights[0]).backend(two, weights[1]))
        .port(port(11).backend(two, 1))
}

fn backends(place: Place, protocol: Protocol) -> [SocketAddr; 2] {
    let one = place.backend(protocol);
    [one, SocketAddr::new(place.pod(4), one.port())]
}

/// Whom a packet went to: it is the first of a new flow.
#[track_caller]
fn chosen(outcome: &Outcome, flow: Flow, backends: &[SocketAddr]) -> Flow {
    let frame = &outcome.ended.frame;
    let of = |backend: &SocketAddr| Flow {
        backend: *backend,
        ..flow
    };
    let flows = backends.iter().map(of);
    let is_it = |flow: &Flow| first(flow.protocol, flow.client, flow.backend).build() == *frame;
    flows.into_iter().find(is_it).expect("one of the backends")
}

/// The region changes and the backend ceases to serve, as the agent does it.
#[test]
fn a_udp_flow_goes_to_another_backend_when_its_own_is_gone() {
    for place in PLACES {
        let both = backends(place, Protocol::Udp);
        let mut bench = Bench::new(&two_backends(place, Protocol::Udp, [1, 1]));
        let base = plain(place, Protocol::Udp);
        let flow = (40_000..40_064)
            .map(|port| Flow {
                client: SocketAddr::new(base.client.ip(), port),
                port,
                ..base
            })
            .find_map(|flow| {
                let outcome = bench.send(
                    Hook::Ingress,
                    &first(Protocol::Udp, flow.client, flow.service).build(),
                );
                let flow = chosen(&outcome, flow, &both);
                (flow.backend == both[0]).then_some(flow)
            })
            .expect("one of 64 flows goes to the first backend");
        let reply = answer(Protocol::Udp, flow.backend, flow.client).build();
        let _confirmed = bench.send(Hook::Egress, &reply);

        bench.change(|tables| {
            let smaller = ServiceWord(tables.services[2][0]).offset();
            let word = ServiceWord::new(smaller, ServiceWord(tables.services[1][0]).generation());
            tables.services[1] = [word.0; SERVICE_WORDS];
            tables.set_flags(both[0], Protocol::Udp, 0);
        });
        let moved = Flow {
            backend: both[1],
            ..flow
        };
        let request = |to| first(Protocol::Udp, flow.client, to).build();
        let outcome = bench.send(Hook::Ingress, &request(flow.service));
        assert_eq!(outcome.ended.reason, Reason::NewFlow);
        assert_eq!(outcome.notes, [Reason::BackendReplaced]);
        assert_eq!(outcome.ended.frame, request(both[1]));
        let change = changed(flow.pair(State::UdpStream), moved.pair(State::UdpNew));
        assert_eq!(outcome.flows, change);

        // Late replies of the one that is gone concern no flow any more.
        let outcome = bench.send(Hook::Egress, &reply);
        outcome.expect_translated(Reason::NotService, &reply, &BTreeSet::new());
    }
}

/// TCP and SCTP stay: a connection cannot be moved.
#[test]
fn a_connection_stays_with_a_backend_that_no_longer_serves() {
    for place in PLACES {
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            let mut bench = Bench::new(&given::world());
            let flow = plain(place, protocol);
            let _first = bench.send(
                Hook::Ingress,
                &first(protocol, flow.client, flow.service).build(),
            );
            bench.change(|tables| tables.set_flags(flow.backend, protocol, 0));
            let outcome = bench.send(
                Hook::Ingress,
                &first(protocol, flow.client, flow.service).build(),
            );
            let expected = first(protocol, flow.client, flow.backend).build();
            outcome.expect_translated(Reason::Established, &expected, &BTreeSet::new());
        }
    }
}

#[test]
fn flows_divide_among_backends_by_weight() {
    const FLOWS: u16 = 100;
    given::each(|place, protocol| {
        let both = backends(place, protocol);
        let mut bench = Bench::new(&two_backends(place, protocol, [300, 100]));
        let base = plain(place, protocol);
        let mut counts = BTreeMap::<SocketAddr, u16>::new();
        for port in 1..=FLOWS {
            let flow = Flow {
                client: SocketAddr::new(base.client.ip(), port),
                port,
                ..base
            };
            let outcome = bench.send(
                Hook::Ingress,
                &first(protocol, flow.client, flow.service).build(),
            );
            *counts
                .entry(chosen(&outcome, flow, &both).backend)
                .or_default() += 1;
        }
        // 4 σ of 100 draws at one quarter.
        let few = counts[&both[1]];
        assert!((25 - 17..=25 + 17).contains(&few), "{counts:?}");
        assert_eq!(counts[&both[0]] + few, FLOWS);
    });
}
