//! Damage done to each table behind the reconciler's back: found, named, counted, and put right.

use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::filter::FilterBit;
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::service::ServiceWord;
use lb_common::table::source_range::SourceRangeKey;
use proptest::prelude::*;

use super::*;
use crate::dataplane::Capacity;
use crate::dataplane::memory::Memory;
use crate::plan::tests::fixture::{World, endpoint, name, service, slice};
use crate::plan::tests::random::{self, Event};

const CAPACITY: Capacity = Capacity {
    frontends: 128,
    services: 32,
    arena_words: 65_536,
    backends: 128,
    node_addresses: 64,
    source_ranges: 64,
};

type Tested = Reconciler<Memory>;

/// Two Services of two ports and families; nobody serves one of them.
fn world() -> World {
    let mut world = World::default();
    let addresses = ["10.96.0.1", "fd00:96::1"];
    world.add_service(service("web", &addresses, &[("http", 80), ("tls", 443)]));
    world.add_service(service("none", &["10.96.0.2"], &[("http", 80)]));
    let ports = [("http", 8080), ("tls", 8443)];
    let endpoints = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(endpoint);
    world.add_slice(slice("web-4", "web", &ports, endpoints));
    world.add_slice(slice("web-6", "web", &ports, [endpoint("fd00:1::1")]));
    let mut open = service("open", &["10.96.0.5"], &[("http", 80)]);
    open.ports[0].node_port = 30_080;
    open.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    open.source_ranges = vec![("198.51.100.0".parse().unwrap(), 24)];
    world.add_service(open);
    world
}

fn synced(world: &World, memory: Memory) -> Tested {
    let mut reconciler = Reconciler::start(memory).unwrap();
    reconciler.listed(world);
    reconciler.run(world).unwrap();
    reconciler
}

fn pass(reconciler: &mut Tested, repairs: bool) -> Found {
    let mut audit = Audit::new(repairs);
    for _ in 0..10_000 {
        match reconciler.audit(&mut audit).unwrap() {
            AuditStep::Done(found) => return found,
            AuditStep::More => {}
            AuditStep::Waits => panic!("nothing is under way"),
        }
    }
    panic!("a pass without end");
}

/// What packets meet, wherever regions are.
fn meaning(memory: &Memory) -> impl PartialEq + std::fmt::Debug + use<> {
    let sets = memory.services.iter().map(|(&index, words)| {
        let regions = words.map(|word| memory.region(word.offset()).map(<[u64]>::to_vec));
        (index, regions)
    });
    (
        memory.frontends.clone(),
        sets.collect::<BTreeMap<_, _>>(),
        memory.backends.clone(),
        memory.service_filter.clone(),
        memory.backend_filter.clone(),
        memory.node_ports.clone(),
        memory.source_ranges.clone(),
    )
}

fn key(address: [u8; 4], port: u16) -> FrontendKey {
    let address = std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets();
    FrontendKey::new(address, port, lb_common::flow::Protocol::Tcp)
}

/// The index of `web`'s IPv4 port 80 and where its backends are.
fn web(memory: &Memory) -> (u32, u32) {
    let index = memory.frontends[&key([10, 96, 0, 1], 80)].service_index();
    (index, memory.services[&index][0].offset())
}

type Damage = fn(&mut Memory);

/// Each damages one entry of one table; and the words by which the operator is told.
const DAMAGES: [(Table, &str, Damage); 17] = [
    (
        Table::Frontends,
        "10.96.0.1:80/TCP of default/web is missing",
        |memory| {
            memory.frontends.remove(&key([10, 96, 0, 1], 80));
        },
    ),
    (
        Table::Frontends,
        "10.96.0.2:80/TCP of default/none has another value",
        |memory| {
            let key = key([10, 96, 0, 2], 80);
            let value = FrontendValue::new(&key, FrontendKind::ClusterIp, web(memory).0, false);
            memory.frontends.insert(key, value);
        },
    ),
    (Table::Frontends, "10.96.0.9:80/TCP is nobody's", |memory| {
        let key = key([10, 96, 0, 9], 80);
        let value = FrontendValue::new(&key, FrontendKind::ClusterIp, 1, false);
        memory.frontends.insert(key, value);
    }),
    (
        Table::Frontends,
        "frontend 10.96.0.1 is missing",
        |memory| {
            let address = key([10, 96, 0, 1], 80).address();
            memory
                .frontends
                .remove(&FrontendKey::service_address(address));
        },
    ),
    (
        Table::Services,
        "of default/web:http (IPv4) names",
        |memory| {
            let (index, _) = web(memory);
            memory.services.get_mut(&index).unwrap()[1] = ServiceWord::default();
        },
    ),
    (Table::Services, "entry 31 of nobody names", |memory| {
        let (_, offset) = web(memory);
        let none = ServiceWord::default();
        let words = [ServiceWord::new(offset, 0), none, none];
        memory.services.insert(31, words);
    }),
    (Table::Arena, "default/web:http (IPv4)", |memory| {
        let (_, offset) = web(memory);
        // A backend's id.
        memory.arena[offset as usize + 4] ^= 1;
    }),
    (Table::Arena, "default/web:http (IPv4)", |memory| {
        let (_, offset) = web(memory);
        // The last slots.
        memory.arena[offset as usize + 60] ^= 3;
    }),
    (Table::Arena, "default/none:http (IPv4)", |memory| {
        let index = memory.frontends[&key([10, 96, 0, 2], 80)].service_index();
        let offset = memory.services[&index][0].offset();
        memory.arena[offset as usize] ^= 1 << 63;
    }),
    (
        Table::Backends,
        "10.0.0.1:8080/TCP is not there as it should be",
        |memory| {
            let found = memory
                .backends
                .iter()
                .find(|(_, record)| record.port() == 8080);
            let (&index, _) = found.unwrap();
            memory.backends.remove(&index);
        },
    ),
    (Table::Backends, "is not there as it should be", |memory| {
        let (&index, record) = memory.backends.iter().next().unwrap();
        let id = lb_common::id::BackendId::new(index, record.generation());
        let protocol = record.protocol().unwrap();
        let flags = BackendFlags(0);
        let dead = BackendRecord::new(id, record.address(), record.port(), protocol, flags);
        memory.backends.insert(index, dead);
    }),
    (Table::Backends, "is nobody's", |memory| {
        let record = *memory.backends.values().next().unwrap();
        memory.backends.insert(100, record);
    }),
    (
        Table::ServiceFilter,
        "of SERVICE_FILTER are missing",
        |memory| {
            let bit = crate::plan::service_bit(key([10, 96, 0, 1], 80).address());
            unmark(&mut memory.service_filter, bit);
        },
    ),
    (
        Table::BackendFilter,
        "of BACKEND_FILTER are missing",
        |memory| {
            let address = memory.backends.values().next().unwrap().address();
            unmark(
                &mut memory.backend_filter,
                crate::plan::backend_bit(address),
            );
        },
    ),
    (Table::NodePorts, "of NODE_PORTS are missing", |memory| {
        memory.node_ports.fill(0);
    }),
    (
        Table::SourceRanges,
        "198.51.100.0/24 of default/open:http (IPv4) is missing",
        |memory| memory.source_ranges.clear(),
    ),
    (
        Table::SourceRanges,
        "192.0.2.0/25 of default/open:http (IPv4) is nobody's",
        |memory| {
            let index = memory.source_ranges.first().unwrap().service();
            let network = key([192, 0, 2, 0], 0).address();
            let range = SourceRangeKey::network(index, network, 25, false);
            memory.source_ranges.insert(range);
        },
    ),
];

fn unmark(filter: &mut [u64], bit: FilterBit) {
    filter[bit.word as usize] &= !bit.mask;
}

#[test]
fn an_entry_changed_removed_or_added_in_any_table_is_found_named_counted_and_repaired() {
    for (number, (table, text, damage)) in DAMAGES.into_iter().enumerate() {
        let mut reconciler = synced(&world(), Memory::new(CAPACITY));
        let before = meaning(reconciler.dataplane());
        damage(reconciler.dataplane_mut());
        let damaged = meaning(reconciler.dataplane());
        assert!(damaged != before, "damage {number} does something");
        for repairs in [false, true] {
            let found = pass(&mut reconciler, repairs);
            let entries: Vec<_> = found.entries.keys().copied().collect();
            assert_eq!(entries, [table], "damage {number}: {found:?}");
            assert_eq!(found.total(), 1, "damage {number}: {found:?}");
            assert_eq!(found.repaired, u64::from(repairs), "damage {number}");
            let example = &found.examples[0];
            assert!(example.contains(text), "damage {number}: {example}");
            if !repairs {
                assert!(meaning(reconciler.dataplane()) == damaged, "{number}");
            }
        }
        let after = meaning(reconciler.dataplane());
        assert!(
            after == before,
            "damage {number}: {after:?}\nnot {before:?}"
        );
        reconciler.dataplane().check().unwrap();
        assert_eq!(pass(&mut reconciler, true), Found::default(), "{number}");
    }
}

#[test]
fn a_shared_set_that_is_damaged_goes_to_another_place_with_all_who_share_it() {
    let mut world = world();
    world.add_service(service("also", &["10.96.0.3"], &[("http", 80)]));
    let endpoints = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(endpoint);
    world.add_slice(slice("also", "also", &[("http", 8080)], endpoints));
    let mut reconciler = synced(&world, Memory::new(CAPACITY));
    let (index, offset) = web(reconciler.dataplane());
    reconciler.dataplane_mut().arena[offset as usize + 10] ^= 1;
    let found = pass(&mut reconciler, true);
    assert_eq!((found.total(), found.repaired), (1, 1));
    let memory = reconciler.dataplane();
    let also = memory.frontends[&key([10, 96, 0, 3], 80)].service_index();
    assert_ne!(memory.services[&index][0].offset(), offset);
    assert_eq!(
        memory.services[&index].map(ServiceWord::offset),
        memory.services[&also].map(ServiceWord::offset)
    );
    assert!(found.examples[0].contains("default/also:http (IPv4), default/web:http (IPv4)"));
    // The old place is given back after a grace period, and everything with the Services.
    reconciler.sweep().unwrap();
    let empty = World::default();
    reconciler.listed(&empty);
    reconciler.run(&empty).unwrap();
    reconciler.sweep().unwrap();
    assert!(reconciler.dataplane().is_empty());
    let free = u64::from(CAPACITY.arena_words) - u64::from(crate::plan::arena::UNIT);
    assert_eq!(
        reconciler.planner().usage().arena_words,
        u64::from(CAPACITY.arena_words) - free
    );
}

#[test]
fn without_room_for_another_place_a_damaged_set_is_told_and_left() {
    let small = Capacity {
        arena_words: 80,
        ..CAPACITY
    };
    let mut world = World::default();
    world.add_service(service("web", &["10.96.0.1"], &[("http", 80)]));
    let endpoints = ["10.0.0.1", "10.0.0.2"].map(endpoint);
    world.add_slice(slice("web", "web", &[("http", 8080)], endpoints));
    let mut reconciler = synced(&world, Memory::new(small));
    let (_, offset) = web(reconciler.dataplane());
    reconciler.dataplane_mut().arena[offset as usize + 10] ^= 1;
    for _ in 0..2 {
        let found = pass(&mut reconciler, true);
        assert_eq!((found.total(), found.repaired), (1, 0));
    }
}

#[test]
fn nothing_is_compared_while_writes_are_under_way() {
    let world = world();
    let mut reconciler = synced(&world, Memory::new(CAPACITY));
    reconciler.changed(name("web"));
    let mut audit = Audit::new(true);
    assert_eq!(reconciler.audit(&mut audit).unwrap(), AuditStep::Waits);
    reconciler.run(&world).unwrap();
    assert_eq!(pass(&mut reconciler, true), Found::default());
}

#[test]
fn bits_of_the_filters_that_nothing_needs_any_more_are_no_drift() {
    let mut reconciler = synced(&world(), Memory::new(CAPACITY));
    reconciler.dataplane_mut().service_filter[7] = u64::MAX;
    reconciler.dataplane_mut().backend_filter[7] = u64::MAX;
    assert_eq!(pass(&mut reconciler, true), Found::default());
}

#[test]
fn source_ranges_that_change_while_they_are_read_are_read_again_and_are_no_drift() {
    let mut world = world();
    let mut open = service("open", &["10.96.0.5"], &[("http", 80)]);
    open.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    let mut reconciler = synced(&world, Memory::new(CAPACITY));
    let mut audit = Audit::new(true);
    let mut passes = 0;
    for number in 0..200_u8 {
        open.source_ranges = vec![([198, 51, number, 0].into(), 24)];
        world.add_service(open.clone());
        reconciler.changed(name("open"));
        reconciler.run(&world).unwrap();
        for _ in 0..3 {
            if let AuditStep::Done(found) = reconciler.audit(&mut audit).unwrap() {
                assert_eq!(found, Found::default());
                passes += 1;
            }
        }
    }
    assert!(passes > 0, "changes keep no pass from its end");
    assert_eq!(reconciler.dataplane().source_ranges.len(), 1);
}

#[test]
fn many_strangers_are_all_removed() {
    let mut reconciler = synced(&world(), Memory::new(CAPACITY));
    let before = meaning(reconciler.dataplane());
    for port in 1..2000 {
        let key = key([10, 95, 0, 1], port);
        let value = FrontendValue::new(&key, FrontendKind::ClusterIp, 1, false);
        reconciler.dataplane_mut().frontends.insert(key, value);
    }
    // The fake holds more than its size, and a pass ends.
    let mut removed = 0;
    for _ in 0..8 {
        removed += pass(&mut reconciler, true).repaired;
    }
    assert_eq!(removed, 1999);
    assert!(meaning(reconciler.dataplane()) == before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn a_pass_finds_nothing_whatever_happened_before_or_happens_between_its_steps(
        events in proptest::collection::vec((random::event(), 0..12_usize), 1..16)
    ) {
        let mut world = World::default();
        let mut reconciler = synced(&world, Memory::new(CAPACITY));
        let mut audit = Audit::new(true);
        for (event, steps) in &events {
            random::happen(&mut world, event);
            match event {
                Event::Sweep => reconciler.sweep().unwrap(),
                Event::Restart => reconciler = synced(&world, reconciler.dataplane().clone()),
                _ => reconciler.all_changed(&world),
            }
            reconciler.run(&world).unwrap();
            for _ in 0..*steps {
                if let AuditStep::Done(found) = reconciler.audit(&mut audit).unwrap() {
                    prop_assert_eq!(found, Found::default());
                }
            }
        }
        let before = reconciler.applied();
        prop_assert_eq!(pass(&mut reconciler, true), Found::default());
        prop_assert_eq!(reconciler.applied(), before);
    }
}
