//! The planner as a whole, against tables in memory: soundness after every write, full tables,
//! restart, conflicts, cost.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::flow::Protocol;
use lb_common::id::ServiceId;
use lb_common::table::backend::BackendFlags;
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::ServiceWord;

use super::endpoints::mapped;
use super::planner::Planner;
use super::report::{Report, Table};
use super::*;
use crate::dataplane::memory::Memory;
use crate::dataplane::{Capacity, Dataplane as _, InUse, Write};
use crate::model::name::ObjectName;
use fixture::{NODE, World, endpoint, service, slice};

pub(crate) mod fixture;
pub(crate) mod random;
mod ranges;
mod restart;
mod rows;
mod scale;

const CAPACITY: Capacity = Capacity {
    frontends: 128,
    services: 32,
    arena_words: 65_536,
    backends: 128,
    node_addresses: 64,
    source_ranges: 64,
};

/// Plans every Service of `world`, applies and checks each write; returns the writes.
fn settle(planner: &mut Planner, memory: &mut Memory, world: &World) -> Vec<Write> {
    let mut all = Vec::new();
    let gone: Vec<_> = planner
        .planned_names()
        .filter(|name| !world.services.contains_key(*name))
        .cloned()
        .collect();
    for name in gone {
        all.extend(apply(memory, planner.remove_service(&name)));
    }
    for view in world.views() {
        all.extend(apply(memory, planner.plan_service(&view, &NODE)));
    }
    all
}

#[track_caller]
fn apply(memory: &mut Memory, writes: Vec<Write>) -> Vec<Write> {
    for write in &writes {
        memory.apply(write).unwrap();
        if let Err(unsound) = memory.check() {
            panic!("{unsound} after {write:?}");
        }
    }
    writes
}

/// A grace period and a sweep that finds what `memory.in_use` says.
fn sweep(planner: &mut Planner, memory: &mut Memory) {
    memory.wait_for_readers().unwrap();
    planner.readers_done();
    let writes = planner.sweep(&memory.in_use.clone());
    apply(memory, writes);
}

fn restart(memory: &mut Memory) -> Planner {
    memory.wait_for_readers().unwrap();
    let mut planner = Planner::new(memory.capacity());
    let actual = memory.read_all().unwrap();
    for (&offset, words) in &actual.regions {
        planner.find_region(offset, words);
    }
    planner.restore(actual, &memory.in_use);
    planner
}

fn web() -> World {
    let mut world = World::default();
    world.add_service(service(
        "web",
        &["10.96.0.1", "fd00::1"],
        &[("http", 80), ("tls", 443)],
    ));
    let v4 = [
        endpoint("10.0.0.1"),
        endpoint("10.0.0.2"),
        endpoint("10.0.0.3"),
    ];
    world.add_slice(slice("web-4", "web", &[("http", 8080), ("tls", 8443)], v4));
    world.add_slice(slice(
        "web-6",
        "web",
        &[("http", 8080)],
        [endpoint("fd00:1::1")],
    ));
    world
}

fn key(address: &str, port: u16) -> FrontendKey {
    let address = mapped(address.parse::<IpAddr>().unwrap());
    FrontendKey::new(address, port, Protocol::Tcp)
}

#[test]
fn a_service_is_written_backends_first_and_frontends_last() {
    let mut memory = Memory::new(CAPACITY);
    let mut planner = Planner::new(CAPACITY);
    let writes = settle(&mut planner, &mut memory, &web());
    let rank = |write: &Write| match write {
        Write::SetBackend { .. } | Write::MarkBackend(_) => 0,
        Write::WriteRegion { .. } => 1,
        Write::SetService { .. } => 2,
        Write::MarkService(_) | Write::MarkNodePort(_) | Write::AddSourceRange { .. } => 3,
        Write::SetFrontend { .. } => 4,
        other => panic!("{other:?}"),
    };
    assert!(writes.is_sorted_by_key(rank));
    let count = |wanted| writes.iter().filter(|write| rank(write) == wanted).count();
    // Three IPv4 endpoints at two ports and one of IPv6; the IPv6 side of "tls" has none.
    assert_eq!(memory.backends.len(), 7);
    assert_eq!(count(2), 4 * 3, "four service ports, three words each");
    assert_eq!(count(4), 4 + 2, "four ports and two addresses");
    assert_eq!(memory.frontends.len(), 6);
    assert!(planner.reports().is_empty());
}

#[test]
fn equal_sets_share_a_region() {
    let mut world = web();
    let mut other = service("other", &["10.96.0.2"], &[("http", 80)]);
    other.name.namespace = "default".into();
    world.add_service(other);
    let v4 = [
        endpoint("10.0.0.3"),
        endpoint("10.0.0.2"),
        endpoint("10.0.0.1"),
    ];
    world.add_slice(slice("other-4", "other", &[("http", 8080)], v4));
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    settle(&mut planner, &mut memory, &world);
    let offset = |address| {
        let index = memory.frontends[&key(address, 80)].service_index();
        memory.services[&index].map(ServiceWord::offset)
    };
    assert_eq!(offset("10.96.0.1"), offset("10.96.0.2"));
    assert_eq!(offset("10.96.0.1")[0], offset("10.96.0.1")[1]);
}

#[test]
fn what_did_not_change_is_not_written() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let world = web();
    settle(&mut planner, &mut memory, &world);
    assert_eq!(settle(&mut planner, &mut memory, &world), []);
}

#[test]
fn a_weight_alone_costs_a_region_and_its_words() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    world.add_slice(slice(
        "web-5",
        "web",
        &[("http", 8080)],
        [endpoint("10.0.0.9")],
    ));
    settle(&mut planner, &mut memory, &world);
    world.slice_mut("web-5").weight = 300;
    let writes = settle(&mut planner, &mut memory, &world);
    assert!(matches!(
        writes.as_slice(),
        [
            Write::WriteRegion { .. },
            Write::SetService { .. },
            Write::SetService { .. },
            Write::SetService { .. }
        ]
    ));
}

#[test]
fn a_weight_of_zero_keeps_the_backend_and_takes_its_slots() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    settle(&mut planner, &mut memory, &world);
    world.slice_mut("web-6").weight = 0;
    settle(&mut planner, &mut memory, &world);
    assert_eq!(memory.backends.len(), 7);
    assert!(
        memory
            .backends
            .values()
            .all(|record| record.flags().has(BackendFlags::SERVING))
    );
    let index = memory.frontends[&key("fd00::1", 80)].service_index();
    let region = memory.region(memory.services[&index][0].offset()).unwrap();
    assert_eq!(region[0] & 0xffff, 0, "nobody is left for new flows");
}

#[test]
fn a_terminating_endpoint_changes_flags_and_leaves_the_set() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    settle(&mut planner, &mut memory, &world);
    let ending = &mut world.slice_mut("web-4").endpoints[0];
    (ending.ready, ending.terminating) = (false, true);
    let writes = settle(&mut planner, &mut memory, &world);
    let flags: Vec<_> = writes
        .iter()
        .filter_map(|write| match write {
            Write::SetBackend { record, .. } => Some(record.flags().0),
            _ => None,
        })
        .collect();
    assert_eq!(
        flags,
        [BackendFlags::SERVING | BackendFlags::TERMINATING; 2]
    );
    assert_eq!(memory.backends.len(), 7, "flows may still use it");
}

#[test]
fn a_backend_that_is_gone_serves_no_more_and_its_index_waits_for_its_flows() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    settle(&mut planner, &mut memory, &world);
    let (&index, record) = memory.backends.first_key_value().unwrap();
    let id = lb_common::id::BackendId::new(index, record.generation());
    memory.in_use.backends.insert(id);
    world.slice_mut("web-4").endpoints.clear();
    settle(&mut planner, &mut memory, &world);
    sweep(&mut planner, &mut memory);
    assert_eq!(
        memory.backends.len(),
        2,
        "one of IPv6, one that a flow names"
    );
    assert!(!memory.backends[&index].flags().has(BackendFlags::SERVING));
    memory.in_use = InUse::default();
    sweep(&mut planner, &mut memory);
    assert_eq!(memory.backends.len(), 1);
}

#[test]
fn deleting_everything_leaves_everything_empty() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    settle(&mut planner, &mut memory, &web());
    let writes = settle(&mut planner, &mut memory, &World::default());
    let first_word = writes
        .iter()
        .position(|w| matches!(w, Write::SetService { .. }))
        .unwrap();
    let last_frontend = writes
        .iter()
        .rposition(|w| matches!(w, Write::RemoveFrontend { .. }));
    assert!(last_frontend.unwrap() < first_word, "frontends go first");
    sweep(&mut planner, &mut memory);
    assert!(memory.is_empty());
    assert_eq!(planner.regions.count(), 0);
    let free = u64::from(CAPACITY.arena_words - arena::UNIT);
    assert_eq!(planner.regions.arena.free_words(), free);
}

#[test]
fn the_oldest_service_gets_a_contested_frontend_and_its_heir_takes_over_without_a_gap() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = World::default();
    for (name, created) in [("young", Some(20)), ("old", Some(10)), ("ageless", None)] {
        let mut service = service(name, &["10.96.0.1"], &[("http", 80)]);
        service.created_seconds = created;
        world.add_service(service);
    }
    settle(&mut planner, &mut memory, &world);
    let owner = |planner: &Planner, memory: &Memory| {
        let index = memory.frontends[&key("10.96.0.1", 80)].service_index();
        Arc::clone(&planner.services.key(index).unwrap().name.service.name)
    };
    assert_eq!(&*owner(&planner, &memory), "old");
    let shadowed: Vec<_> = planner
        .reports()
        .into_iter()
        .map(|(name, _)| name.name)
        .collect();
    assert_eq!(shadowed, ["ageless".into(), "young".into()]);
    world.services.remove(&fixture::name("old"));
    let writes = settle(&mut planner, &mut memory, &world);
    assert!(
        !writes
            .iter()
            .any(|write| matches!(write, Write::RemoveFrontend { .. }))
    );
    assert_eq!(&*owner(&planner, &memory), "young");
}

#[test]
fn a_renamed_port_keeps_its_frontend_throughout() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = World::default();
    world.add_service(service("web", &["10.96.0.1"], &[("http", 80)]));
    settle(&mut planner, &mut memory, &world);
    world.add_service(service("web", &["10.96.0.1"], &[("www", 80)]));
    let writes = settle(&mut planner, &mut memory, &world);
    assert!(
        !writes
            .iter()
            .any(|write| matches!(write, Write::RemoveFrontend { .. }))
    );
}

#[test]
fn a_full_table_stops_one_service_and_touches_no_other() {
    for (table, capacity) in [
        (
            Table::Frontends,
            Capacity {
                frontends: 7,
                ..CAPACITY
            },
        ),
        (
            Table::Services,
            Capacity {
                services: 6,
                ..CAPACITY
            },
        ),
        (
            Table::Backends,
            Capacity {
                backends: 9,
                ..CAPACITY
            },
        ),
        (
            Table::Arena,
            Capacity {
                arena_words: 640,
                ..CAPACITY
            },
        ),
    ] {
        let (mut planner, mut memory) = (Planner::new(capacity), Memory::new(capacity));
        let mut world = web();
        settle(&mut planner, &mut memory, &world);
        assert_eq!(planner.reports(), [], "{table:?}");
        let before = memory.read_all().unwrap();
        let ids = (planner.services.available(), planner.backends.available());
        let words = planner.regions.arena.free_words();
        world.add_service(service("late", &["10.96.0.9"], &[("a", 1), ("b", 2)]));
        let late = [endpoint("10.0.9.1"), endpoint("10.0.9.2")];
        world.add_slice(slice("late", "late", &[("a", 1), ("b", 2)], late));
        assert_eq!(settle(&mut planner, &mut memory, &world), [], "{table:?}");
        let reports = planner.reports();
        assert!(
            matches!(reports.as_slice(), [(name, Report::TableFull { table: full, .. })]
                if *name.name == *"late" && *full == table),
            "{reports:?}"
        );
        assert_eq!(memory.read_all().unwrap(), before);
        assert_eq!(
            ids,
            (planner.services.available(), planner.backends.available())
        );
        assert_eq!(planner.regions.arena.free_words(), words);
        world.services.remove(&fixture::name("web"));
        settle(&mut planner, &mut memory, &world);
        sweep(&mut planner, &mut memory);
        settle(&mut planner, &mut memory, &world);
        assert_eq!(planner.reports(), [], "{table:?}: room came back");
        assert!(memory.frontends.contains_key(&key("10.96.0.9", 1)));
    }
}

#[test]
fn more_endpoints_than_slots_can_name_leave_the_service_as_it_was() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    settle(&mut planner, &mut memory, &world);
    let before = memory.read_all().unwrap();
    let many =
        (0..70_000_u32).map(|n| endpoint(&std::net::Ipv4Addr::from(0x0a01_0000 + n).to_string()));
    world.add_slice(slice("many", "web", &[("http", 8080)], many));
    assert_eq!(settle(&mut planner, &mut memory, &world), []);
    assert_eq!(memory.read_all().unwrap(), before);
    assert!(
        planner.reports()[0]
            .1
            .to_string()
            .contains("70003 endpoints, at most 65535")
    );
}

#[test]
fn refused_addresses_are_reported_by_name_and_the_others_serve() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    let bad = [
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
    ];
    world.add_slice(slice("bad-4", "web", &[("http", 8080)], bad.map(endpoint)));
    let bad = ["::1", "fe80::1", "ff02::1", "::", "::ffff:10.0.0.1"];
    world.add_slice(slice("bad-6", "web", &[("http", 8080)], bad.map(endpoint)));
    world.slice_mut("bad-4").endpoints.push(endpoint("fd00::9"));
    settle(&mut planner, &mut memory, &world);
    assert_eq!(memory.backends.len(), 7);
    let texts: BTreeMap<_, _> = planner
        .reports()
        .into_iter()
        .map(|(name, report)| (report.to_string(), name))
        .collect();
    let name = ObjectName {
        namespace: "default".into(),
        name: "web".into(),
    };
    assert!(texts.values().all(|reported| *reported == name));
    let texts: Vec<_> = texts.into_keys().collect();
    assert_eq!(texts.len(), 2);
    assert!(texts[0].contains("5 endpoint(s) refused, first ::1, which is in the loopback range"));
    assert!(
        texts[1].contains("6 endpoint(s) refused, first 127.0.0.1"),
        "{texts:?}"
    );
}

#[test]
fn the_snapshot_names_every_id_and_says_why_an_endpoint_is_out() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    let mut unready = endpoint("10.0.0.4");
    (unready.ready, unready.serving) = (false, false);
    unready.pod = Some("web-4".into());
    world.slice_mut("web-4").endpoints.push(unready);
    world.slice_mut("web-6").endpoints.push(endpoint("::1"));
    settle(&mut planner, &mut memory, &world);
    let node = NODE;
    let service = Arc::new(world.services[&fixture::name("web")].clone());
    let slices: Vec<_> = world.slices.values().cloned().map(Arc::new).collect();
    let line = planner.snapshot(&service, &slices, &node).names(&node);
    let head = names::Head {
        version: names::VERSION,
        node: node.name.into(),
        reports: planner.report_names(),
    };
    let text = [
        serde_json::to_string(&head).unwrap(),
        serde_json::to_string(&line).unwrap(),
    ];
    let names = names::Names::read(text.join("\n").as_bytes()).unwrap();
    assert_eq!(names.node, node.name);
    assert_eq!(names.services.len(), 4);
    for service in &names.services {
        assert!(
            memory
                .services
                .contains_key(&ServiceId::from_raw(service.id).index())
        );
    }
    let http = &names.services[0];
    assert_eq!((http.port_name.as_str(), http.is_v6), ("http", false));
    let ids = http
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.backend != 0)
        .count();
    assert_eq!(ids, 3);
    let out = http
        .endpoints
        .iter()
        .find(|endpoint| endpoint.out.is_some())
        .unwrap();
    assert_eq!(out.out, Some(names::OutReason::NotReady));
    assert_eq!(names.string(out.pod), Some("web-4"));
    let refused = names.services[1]
        .endpoints
        .iter()
        .find(|e| e.backend == 0)
        .unwrap();
    assert_eq!(refused.out, Some(names::OutReason::Refused));
    assert_eq!(names.reports.len(), 1);
}
