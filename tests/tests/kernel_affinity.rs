//! Session affinity through the loaded programs and through the host's decision, which must agree
//! in everything, also in what `AFFINITY` holds afterwards.

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

use lb_agent::clock::flow_seconds;
use lb_common::family::{Family as _, V4, V6};
use lb_common::flow::{Hook, Protocol};
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::verdict::Reason;
use lb_tests::clock;
use lb_tests::given::{Place, each, first};
use lb_tests::prog::Bench;
use lb_tests::tables::{ServicePort, World, mapped};

/// Of the service, in seconds. Entries are stamped that long ago, so a machine that has just booted has
/// to wait for it.
const TIMEOUT: u32 = 100;
/// How long that takes at most.
const MACHINE: Duration = Duration::from_secs(200);
/// An entry that was used just now is no older, however slow the machine.
const FRESH: u32 = 30;

/// The first port of [`world`]; `MemoryTables` numbers services by their order.
const STICKY: ServiceId = ServiceId::new(1, 1);

fn backends(place: Place, protocol: Protocol, count: u8) -> Vec<SocketAddr> {
    let port = place.backend(protocol).port();
    let pods = 10..10 + count;
    pods.map(|pod| SocketAddr::new(place.pod(pod), port))
        .collect()
}

/// Service 10 with affinity and eight backends, service 11 without and with four others.
fn world(place: Place, protocol: Protocol) -> World {
    let all = backends(place, protocol, 12);
    let (own, others) = all.split_at(8);
    let port = |number, backends: &[SocketAddr]| {
        let port = ServicePort::new(place.dialled(number), protocol);
        backends.iter().fold(port, |port, it| port.backend(*it, 1))
    };
    World::default()
        .port(port(10, own).affinity(TIMEOUT))
        .port(port(11, others))
}

fn key(place: Place) -> AffinityKey {
    let client = mapped(place.client().ip());
    V4::from_mapped(client).map_or_else(
        || AffinityKey::new::<V6>(STICKY, client),
        |client| AffinityKey::new::<V4>(STICKY, client),
    )
}

/// Sends the first packet of a flow from `port`; gives whom it goes to. Kernel and host agreed.
fn connect(
    bench: &mut Bench,
    place: Place,
    protocol: Protocol,
    (port, number): (u16, u8),
) -> SocketAddr {
    let client = SocketAddr::new(place.client().ip(), port);
    let request = first(protocol, client, place.dialled(number)).build();
    let outcome = bench.send(Hook::Ingress, &request);
    assert_eq!(outcome.ended.reason, Reason::NewFlow);
    backends(place, protocol, 12)
        .into_iter()
        .find(|it| first(protocol, client, *it).build() == outcome.ended.frame)
        .expect("one of the backends")
}

/// The only entry: its backend, and how old it is.
fn entry(bench: &Bench, place: Place) -> Option<(BackendId, u32)> {
    let affinity = bench.host.affinity.borrow();
    assert!(affinity.len() <= 1, "{affinity:?}");
    let value = affinity.get(&key(place))?;
    let last = value.last(&key(place));
    Some((value.backend(&key(place)), flow_seconds().0 - last.0))
}

fn remember(bench: &Bench, place: Place, backend: BackendId, age: u32) {
    let last = clock::eventually("the machine runs for long enough", MACHINE, || {
        Ok(flow_seconds().0.checked_sub(age).map(Seconds))
    });
    let last = last.expect("a machine whose clock runs");
    let value = AffinityValue::new(&key(place), backend, last);
    bench.host.affinity.borrow_mut().insert(key(place), value);
}

/// Ids of backends, which `MemoryTables` numbers in their order.
const fn id(number: u32) -> BackendId {
    BackendId::new(number, 1)
}

#[test]
fn every_connection_of_a_client_goes_to_the_backend_of_its_first() {
    each(|place, protocol| {
        let mut bench = Bench::new(&world(place, protocol));
        let chosen = connect(&mut bench, place, protocol, (1000, 10));
        let (backend, age) = entry(&bench, place).expect("the client is remembered");
        let position = backends(place, protocol, 8)
            .iter()
            .position(|it| *it == chosen)
            .expect("a backend of its own");
        assert_eq!(usize::try_from(backend.index()).ok(), Some(position + 1));
        assert!(age < FRESH);
        for port in 1001..1016 {
            let again = connect(&mut bench, place, protocol, (port, 10));
            assert_eq!(again, chosen);
        }
    });
}

#[test]
fn who_is_remembered_serves_and_the_entry_is_refreshed() {
    each(|place, protocol| {
        let mut bench = Bench::new(&world(place, protocol));
        let own = backends(place, protocol, 8);
        for (number, backend) in (1..).zip(&own) {
            remember(&bench, place, id(number), TIMEOUT - FRESH);
            let port = 1000 + u16::try_from(number).expect("eight backends");
            assert_eq!(connect(&mut bench, place, protocol, (port, 10)), *backend);
            let (kept, age) = entry(&bench, place).expect("it is still there");
            assert_eq!(kept, id(number));
            assert!(age < FRESH, "stamped {age} s ago");
        }
    });
}

#[test]
fn an_established_flow_refreshes_nothing() {
    each(|place, protocol| {
        let mut bench = Bench::new(&world(place, protocol));
        connect(&mut bench, place, protocol, (1000, 10));
        let (backend, _) = entry(&bench, place).expect("the client is remembered");
        remember(&bench, place, backend, TIMEOUT - FRESH);
        let client = SocketAddr::new(place.client().ip(), 1000);
        let request = first(protocol, client, place.dialled(10)).build();
        let outcome = bench.send(Hook::Ingress, &request);
        assert_eq!(outcome.ended.reason, Reason::Established);
        let (_, age) = entry(&bench, place).expect("it is still there");
        assert!(age >= TIMEOUT - FRESH, "stamped {age} s ago");
    });
}

/// What is not used is overwritten: by the choice of a client that nobody remembers.
#[test]
fn old_entries_and_those_of_other_sets_choose_nothing() {
    each(|place, protocol| {
        let mut bench = Bench::new(&world(place, protocol));
        let by_hash = connect(&mut bench, place, protocol, (1000, 10));
        let (chosen, _) = entry(&bench, place).expect("the client is remembered");
        let other = id(chosen.index() % 8 + 1);
        // Service 11's, one that was never, an older generation, nobody.
        let strangers = [
            (id(9), 0),
            (id(500), 0),
            (BackendId::new(chosen.index() % 8 + 1, 0), 0),
            (BackendId::NONE, 0),
            (other, TIMEOUT),
            (other, TIMEOUT + 1),
        ];
        for (port, (stranger, age)) in (1001..).zip(strangers) {
            remember(&bench, place, stranger, age);
            let got = connect(&mut bench, place, protocol, (port, 10));
            assert_eq!(got, by_hash, "{stranger:?}, {age} s old");
            let (now_kept, age) = entry(&bench, place).expect("it is written anew");
            assert_eq!(now_kept, chosen);
            assert!(age < FRESH);
        }
    });
}

#[test]
fn a_service_without_affinity_spreads_and_remembers_nobody() {
    each(|place, protocol| {
        let mut bench = Bench::new(&world(place, protocol));
        let chosen: BTreeSet<_> = (1000..1064)
            .map(|port| connect(&mut bench, place, protocol, (port, 11)))
            .collect();
        assert_eq!(chosen.len(), 4);
        assert_eq!(*bench.host.affinity.borrow(), BTreeMap::new());
    });
}

/// Whatever position a member has among 400, the kernel's search finds it as the host's does.
#[test]
fn members_of_a_large_set_are_found_wherever_they_are() {
    let place = lb_tests::given::PLACES[0];
    let service = ServicePort::new(place.dialled(10), Protocol::Tcp).affinity(TIMEOUT);
    let address = |number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        SocketAddr::from(([10, 25, high, low], 8080))
    };
    let service = (1..=400).fold(service, |port, number| port.backend(address(number), 1));
    let mut bench = Bench::new(&World::default().port(service));
    for number in [1, 2, 3, 64, 127, 128, 199, 200, 255, 256, 257, 399, 400] {
        remember(&bench, place, id(number), 1);
        let port = 2000 + u16::try_from(number).expect("small");
        let client = SocketAddr::new(place.client().ip(), port);
        let request = first(Protocol::Tcp, client, place.dialled(10)).build();
        let outcome = bench.send(Hook::Ingress, &request);
        let expected = first(Protocol::Tcp, client, address(number)).build();
        assert_eq!(outcome.ended.frame, expected, "{number}");
    }
}
