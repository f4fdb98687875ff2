//! Pictures of the same tables from three sides agree; and where one differs, it is said which and
//! in what.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::service::{SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use proptest::prelude::*;

use super::compare::{Sides, compare};
use super::difference::{Behind, Difference};
use super::picture::{Filters, Picture};
use crate::dataplane::layout::Table;
use crate::dataplane::memory::Memory;
use crate::dataplane::{Capacity, Dataplane as _};
use crate::plan::desired::Desired;
use crate::plan::names::Names;
use crate::plan::tests::fixture::{NODE, World, endpoint, name, service, slice};
use crate::plan::tests::random::{self, Event};
use crate::reconcile::Reconciler;

const CAPACITY: Capacity = Capacity {
    frontends: 128,
    services: 32,
    arena_words: 65_536,
    backends: 128,
    node_addresses: 64,
    source_ranges: 64,
};

/// A web Service of both families whose clients inside and outside have different backends.
fn world() -> World {
    let mut world = World::default();
    let mut web = service("web", &["10.96.0.1", "fd00:96::1"], &[("http", 80)]);
    web.affinity_seconds = Some(10_800);
    world.add_service(web);
    world.add_service(service("none", &["10.96.0.2"], &[("http", 80)]));
    let endpoints = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(endpoint);
    world.add_slice(slice("web-4", "web", &[("http", 8080)], endpoints));
    let mut open = service("open", &["10.96.0.5"], &[("http", 80)]);
    open.ports[0].node_port = 30_080;
    open.load_balancer_ips = vec!["203.0.113.5".parse().unwrap()];
    open.source_ranges = vec![("198.51.100.0".parse().unwrap(), 24)];
    world.add_service(open);
    world.add_slice(slice(
        "web-6",
        "web",
        &[("http", 8080)],
        [endpoint("fd00:1::1")],
    ));
    world
}

fn synced(world: &World, memory: Memory) -> Reconciler<Memory> {
    let mut reconciler = Reconciler::start(memory).unwrap();
    reconciler.listed(world);
    reconciler.run(world).unwrap();
    reconciler
}

/// What the agent's names file says.
fn names(world: &World, reconciler: &Reconciler<Memory>) -> Names {
    let mut lines = vec![r#"{"version":3,"node":"node-a","reports":[]}"#.to_owned()];
    for view in world.views() {
        let slices: Vec<_> = view.slices.iter().map(|&it| Arc::new(it.clone())).collect();
        let service = Arc::new(view.service.clone());
        let snapshot = reconciler.planner().snapshot(&service, &slices, &NODE);
        lines.push(serde_json::to_string(&snapshot.names(&NODE)).unwrap());
    }
    Names::read(lines.join("\n").as_bytes()).unwrap()
}

fn differences(world: &World, names: &Names, memory: &Memory, is_alive: bool) -> Vec<Difference> {
    let desired = Desired::of(world.views(), &NODE);
    let source = Picture::of_desired(&desired, BTreeMap::from([(5, 0)]));
    let filters = Filters {
        services: memory.service_filter.clone(),
        backends: memory.backend_filter.clone(),
        node_ports: memory.node_ports.clone(),
    };
    let kernel = Picture::of_tables(&memory.read_all().unwrap(), filters, &source, names);
    let agent = is_alive.then(|| Picture::of_names(names));
    compare(Sides {
        source: &source,
        agent: agent.as_ref(),
        kernel: &kernel,
    })
}

fn key(address: [u8; 4], port: u16) -> FrontendKey {
    let address = std::net::Ipv4Addr::from(address).to_ipv6_mapped().octets();
    FrontendKey::new(address, port, lb_common::flow::Protocol::Tcp)
}

/// The index of `web`'s IPv4 side and its region.
fn web(memory: &Memory) -> (u32, usize) {
    let index = memory.frontends[&key([10, 96, 0, 1], 80)].service_index();
    (index, memory.services[&index][0].offset() as usize)
}

type Damage = fn(&mut Memory);

/// Damage, and what is said of it: table, about, service, source, kernel.
type Said<'a> = (
    Table,
    &'a str,
    Option<&'a str>,
    Option<&'a str>,
    Option<&'a str>,
);

const WEB: Option<&str> = Some("default/web:http (IPv4)");

#[expect(clippy::too_many_lines, reason = "one row for each kind of difference")]
fn damages() -> Vec<(Damage, Vec<Said<'static>>)> {
    let cluster_address = Some("cluster address of default/web:http (IPv4)");
    let open = Some("default/open:http (IPv4)");
    vec![
        (
            |memory| memory.node_ports.fill(0),
            vec![(
                Table::NodePorts,
                "node port 30080/TCP (IPv4)",
                None,
                Some("marked"),
                None,
            )],
        ),
        (
            |memory| {
                let index = memory.source_ranges.pop_first().unwrap().service();
                let network = key([192, 0, 2, 0], 0).address();
                let range = SourceRangeKey::network(index, network, 25, false);
                memory.source_ranges.insert(range);
            },
            vec![
                (
                    Table::SourceRanges,
                    "192.0.2.0/25",
                    open,
                    None,
                    Some("may dial"),
                ),
                (
                    Table::SourceRanges,
                    "198.51.100.0/24",
                    open,
                    Some("may dial"),
                    None,
                ),
            ],
        ),
        (
            |memory| {
                memory.frontends.remove(&key([10, 96, 0, 1], 80));
            },
            vec![(
                Table::Frontends,
                "10.96.0.1:80/TCP",
                WEB,
                cluster_address,
                None,
            )],
        ),
        (
            |memory| {
                let key = key([10, 96, 0, 9], 80);
                let value =
                    FrontendValue::new(&key, FrontendKind::ExternalIp, web(memory).0, false);
                memory.frontends.insert(key, value);
            },
            vec![(
                Table::Frontends,
                "10.96.0.9:80/TCP",
                WEB,
                None,
                Some("external address of default/web:http (IPv4)"),
            )],
        ),
        (
            |memory| {
                let address = key([10, 96, 0, 2], 80).address();
                let key = FrontendKey::service_address(address);
                let value = FrontendValue::new(&key, FrontendKind::ServiceAddress, 0, true);
                memory.frontends.insert(key, value);
            },
            vec![(
                Table::Frontends,
                "10.96.0.2",
                None,
                Some("service address with no ready endpoints"),
                Some("service address with ready endpoints"),
            )],
        ),
        (
            |memory| {
                let key = key([10, 96, 0, 2], 80);
                let value = FrontendValue::new(&key, FrontendKind::ClusterIp, web(memory).0, false);
                memory.frontends.insert(key, value);
            },
            vec![(
                Table::Frontends,
                "10.96.0.2:80/TCP",
                Some("default/none:http (IPv4)"),
                Some("cluster address of default/none:http (IPv4)"),
                cluster_address,
            )],
        ),
        (
            |memory| {
                let (index, _) = web(memory);
                memory.services.remove(&index);
            },
            vec![(
                Table::Services,
                "service entry",
                WEB,
                Some("3 endpoints"),
                None,
            )],
        ),
        (
            |memory| {
                let (_, offset) = web(memory);
                let word = ServiceWord::new(u32::try_from(offset).unwrap(), 0);
                memory.services.insert(31, [word; SERVICE_WORDS]);
            },
            vec![(
                Table::Services,
                "service entry",
                Some("service entry 31"),
                None,
                Some("3 endpoints"),
            )],
        ),
        (
            |memory| {
                let (index, _) = web(memory);
                memory.services.get_mut(&index).unwrap()[1] = ServiceWord::default();
            },
            vec![(
                Table::Arena,
                "clients from outside: backend set",
                WEB,
                Some("3 endpoints"),
                Some("no region"),
            )],
        ),
        (
            |memory| {
                let none = memory.frontends[&key([10, 96, 0, 2], 80)].service_index();
                let (index, _) = web(memory);
                let words = memory.services[&none];
                memory.services.insert(index, words);
            },
            vec![
                (
                    Table::Arena,
                    "endpoint 10.0.0.1:8080/TCP",
                    WEB,
                    Some("serves"),
                    None,
                ),
                (
                    Table::Arena,
                    "endpoint 10.0.0.2:8080/TCP",
                    WEB,
                    Some("serves"),
                    None,
                ),
                (
                    Table::Arena,
                    "endpoint 10.0.0.3:8080/TCP",
                    WEB,
                    Some("serves"),
                    None,
                ),
                (
                    Table::Arena,
                    "session affinity",
                    WEB,
                    Some("10800s"),
                    Some("none"),
                ),
            ],
        ),
        (
            |memory| {
                let (_, offset) = web(memory);
                memory.arena[offset + 4] = 0;
            },
            vec![(
                Table::Arena,
                "backend set",
                WEB,
                Some("3 endpoints"),
                Some("a region with an id that no backend has"),
            )],
        ),
        (
            |memory| {
                let (_, offset) = web(memory);
                // A slot changes hands with one of another backend: shares stay, slots do not.
                let slots = memory.arena[offset + 6];
                memory.arena[offset + 6] = slots.rotate_left(16);
            },
            vec![(
                Table::Arena,
                "slots of the Maglev table",
                WEB,
                Some(""),
                Some(""),
            )],
        ),
        (
            |memory| {
                let (&index, record) = memory.backends.iter().next().unwrap();
                let id = lb_common::id::BackendId::new(index, record.generation());
                let flags = BackendFlags(BackendFlags::SERVING | BackendFlags::LOCAL);
                let protocol = record.protocol().unwrap();
                let other =
                    BackendRecord::new(id, record.address(), record.port(), protocol, flags);
                memory.backends.insert(index, other);
            },
            vec![(
                Table::Backends,
                "10.0.0.1:8080/TCP",
                None,
                Some("serving"),
                Some("serving, local"),
            )],
        ),
        (
            |memory| {
                let bit = crate::plan::service_bit(key([10, 96, 0, 1], 80).address());
                memory.service_filter[bit.word as usize] &= !bit.mask;
            },
            vec![(
                Table::ServiceFilter,
                "10.96.0.1",
                None,
                Some("marked"),
                None,
            )],
        ),
        (
            |memory| {
                let address = key([10, 0, 0, 1], 1).address();
                let bit = crate::plan::backend_bit(address);
                memory.backend_filter[bit.word as usize] &= !bit.mask;
            },
            vec![(Table::BackendFilter, "10.0.0.1", None, Some("marked"), None)],
        ),
        (
            |memory| memory.config[5] = 7,
            vec![(
                Table::Config,
                "whether packets may be sent on at once",
                None,
                Some("0x0"),
                Some("0x7"),
            )],
        ),
    ]
}

#[test]
fn damage_to_any_table_is_said_in_the_words_of_the_operator() {
    let world = world();
    for (number, (damage, said)) in damages().into_iter().enumerate() {
        let reconciler = synced(&world, Memory::new(CAPACITY));
        let names = names(&world, &reconciler);
        let mut memory = reconciler.dataplane().clone();
        assert_eq!(differences(&world, &names, &memory, true), []);
        damage(&mut memory);
        for is_alive in [true, false] {
            let found = differences(&world, &names, &memory, is_alive);
            assert_eq!(found.len(), said.len(), "damage {number}: {found:#?}");
            for (found, (table, about, service, source, kernel)) in found.iter().zip(&said) {
                let place = (found.table, found.about.as_str(), found.service.as_deref());
                assert_eq!(place, (*table, *about, *service), "damage {number}");
                let is_slots = *source == Some("");
                if !is_slots {
                    let sides = (found.source.as_deref(), found.kernel.as_deref());
                    assert_eq!(sides, (*source, *kernel), "damage {number}");
                }
                let expected = match (is_alive, table) {
                    (true, table) if *table != Table::Config => Behind::Kernel,
                    _ => Behind::Tables,
                };
                assert_eq!(found.behind, expected, "damage {number}: {found:?}");
            }
        }
    }
}

#[test]
fn an_agent_that_missed_a_change_is_what_is_behind() {
    let old = world();
    let reconciler = synced(&old, Memory::new(CAPACITY));
    let names = names(&old, &reconciler);
    let mut new = old;
    let ended = new.slice_mut("web-4").endpoints.pop().unwrap();
    let found = differences(&new, &names, reconciler.dataplane(), true);
    let address = ended.address.to_string();
    assert!(!found.is_empty());
    for difference in &found {
        assert_eq!(difference.behind, Behind::Agent, "{difference:?}");
        assert!(difference.about.contains(&address), "{difference:?}");
        assert_eq!(difference.source, None);
        assert_eq!(difference.agent, difference.kernel);
    }
    new.services.remove(&name("none"));
    let found = differences(&new, &names, reconciler.dataplane(), true);
    assert!(found.iter().any(|it| it.about == "10.96.0.2:80/TCP"));
}

#[test]
fn without_names_an_index_is_whose_frontends_lead_to_it() {
    let world = world();
    let reconciler = synced(&world, Memory::new(CAPACITY));
    let memory = reconciler.dataplane();
    assert_eq!(differences(&world, &Names::default(), memory, false), []);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn all_sides_agree_whatever_happened_before(
        events in proptest::collection::vec(random::event(), 1..16)
    ) {
        let mut world = World::default();
        let mut reconciler = synced(&world, Memory::new(CAPACITY));
        for event in &events {
            random::happen(&mut world, event);
            match event {
                Event::Sweep => reconciler.sweep().unwrap(),
                Event::Restart => reconciler = synced(&world, reconciler.dataplane().clone()),
                _ => reconciler.all_changed(&world),
            }
            reconciler.run(&world).unwrap();
            let names = names(&world, &reconciler);
            for is_alive in [true, false] {
                let found = differences(&world, &names, reconciler.dataplane(), is_alive);
                prop_assert_eq!(found, []);
            }
        }
    }
}
