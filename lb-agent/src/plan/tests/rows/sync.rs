//! Table 11.16: what a change writes. The rows about nftables transactions have no meaning here:
//! each write is one store, and their order is what `plan` describes.

use super::*;
use crate::dataplane::Write;
use crate::dataplane::memory::Memory;
use crate::model::service::TrafficPolicy;
use crate::plan::planner::Planner;
use crate::plan::tests::{CAPACITY, settle, web};

#[test]
fn row_11_16_overall_rules() {
    let mut world = World::default();
    let mut add = |name: &str,
                   address: &str,
                   endpoints: Vec<Endpoint>,
                   change: &dyn Fn(&mut crate::model::service::Service)| {
        let mut svc = service(name, &[address], &[("p80", 80)]);
        change(&mut svc);
        world.add_service(svc);
        world.add_slice(slice(name, name, &[("p80", 80)], endpoints));
    };
    add(
        "svc1",
        "172.30.0.41",
        vec![elsewhere("10.180.0.1")],
        &|_| {},
    );
    add(
        "svc2",
        "172.30.0.42",
        vec![elsewhere("10.180.0.2")],
        &|svc| {
            svc.external_policy = TrafficPolicy::Local;
            svc.external_ips = addresses(&["192.168.99.22"]);
            svc.load_balancer_ips = addresses(&["1.2.3.4"]);
            svc.ports[0].node_port = 3001;
        },
    );
    add(
        "svc3",
        "172.30.0.43",
        vec![elsewhere("10.180.0.3")],
        &|svc| {
            svc.ports[0].node_port = 3003;
        },
    );
    let two = vec![elsewhere("10.180.0.4"), elsewhere("10.180.0.5")];
    add("svc4", "172.30.0.44", two, &|svc| {
        svc.external_ips = addresses(&["192.168.99.33"]);
    });
    add(
        "svc5",
        "172.30.0.45",
        vec![elsewhere("10.180.0.6")],
        &|svc| {
            svc.load_balancer_ips = addresses(&["5.6.7.8"]);
            svc.ports[0].node_port = 3002;
            svc.affinity_seconds = Some(10_800);
            svc.source_ranges = vec![network("203.0.113.0/25")];
        },
    );
    add("svc6", "172.30.0.46", vec![], &|_| {});
    let stage = Stage::new(world);
    let (pod, outside, blocked) = ("10.0.0.2", "203.0.113.2", "203.0.113.130");
    stage.check(
        "11.16",
        &[
            (pod, "172.30.0.41:80", to(&["10.180.0.1:80"])),
            (outside, "1.2.3.4:80", Drop),
            (outside, "192.168.99.22:80", Drop),
            (outside, "192.168.0.2:3001", Drop),
            (pod, "1.2.3.4:80", to(&["10.180.0.2:80"])),
            ("192.168.0.2", "192.168.0.2:3001", to(&["10.180.0.2:80"])),
            (outside, "192.168.0.2:3003", to(&["10.180.0.3:80"])),
            (
                outside,
                "192.168.99.33:80",
                to(&["10.180.0.4:80", "10.180.0.5:80"]),
            ),
            (outside, "5.6.7.8:80", to(&["10.180.0.6:80"])),
            (blocked, "5.6.7.8:80", Drop),
            (blocked, "192.168.0.2:3002", to(&["10.180.0.6:80"])),
            (pod, "172.30.0.46:80", Reject),
        ],
    );
    let desired = stage.desired();
    let affinity = desired.ports.values().map(|port| port.affinity_seconds);
    assert_eq!(affinity.collect::<Vec<_>>(), [0, 0, 0, 0, 10_800, 0]);
}

#[test]
fn row_11_16_repeated_syncs_write_what_changed() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = web();
    settle(&mut planner, &mut memory, &world);
    let named = |writes: &[Write]| -> BTreeSet<String> {
        let keys = writes.iter().filter_map(|write| match write {
            Write::SetFrontend { key, .. } | Write::RemoveFrontend { key } => Some(key),
            _ => None,
        });
        keys.map(|key| crate::plan::desired::address_of(key).to_string())
            .collect()
    };
    // A Service before its endpoints: published, and it refuses.
    world.add_service(service("new", &["10.96.0.9"], &[("http", 80)]));
    let writes = settle(&mut planner, &mut memory, &world);
    assert_eq!(named(&writes), BTreeSet::from(["10.96.0.9".into()]), "a, c");
    // Its endpoints: the same frontends, another region; only the address now answers echo.
    world.add_slice(slice(
        "new",
        "new",
        &[("http", 80)],
        [elsewhere("10.0.9.1")],
    ));
    let writes = settle(&mut planner, &mut memory, &world);
    let count =
        |writes: &[Write], kind: fn(&Write) -> bool| writes.iter().filter(|w| kind(w)).count();
    let is_word: fn(&Write) -> bool = |write| matches!(write, Write::SetService { .. });
    let is_region: fn(&Write) -> bool = |write| matches!(write, Write::WriteRegion { .. });
    assert_eq!(
        (count(&writes, is_region), count(&writes, is_word)),
        (1, 3),
        "d"
    );
    // Another address of the endpoint, then a second endpoint: one Service's words each.
    world.slice_mut("new").endpoints = vec![elsewhere("10.0.9.2")];
    let writes = settle(&mut planner, &mut memory, &world);
    assert_eq!((count(&writes, is_word), named(&writes).len()), (3, 0), "e");
    world.slice_mut("new").endpoints.push(elsewhere("10.0.9.3"));
    let writes = settle(&mut planner, &mut memory, &world);
    assert_eq!((count(&writes, is_word), named(&writes).len()), (3, 0), "f");
    // Emptied and restored.
    let endpoints = std::mem::take(&mut world.slice_mut("new").endpoints);
    settle(&mut planner, &mut memory, &world);
    world.slice_mut("new").endpoints = endpoints;
    settle(&mut planner, &mut memory, &world);
    assert_eq!(settle(&mut planner, &mut memory, &world), [], "h");
    world.services.remove(&super::super::fixture::name("new"));
    let writes = settle(&mut planner, &mut memory, &world);
    assert_eq!(named(&writes), BTreeSet::from(["10.96.0.9".into()]), "b");
}

#[test]
fn row_11_16_ports_without_local_endpoints_are_counted() {
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    let with_local = || {
        vec![
            here("10.0.1.1"),
            elsewhere("10.0.1.2"),
            elsewhere("10.0.1.3"),
        ]
    };
    let remote = || ["10.0.1.1", "10.0.1.2", "10.0.1.3"].map(elsewhere).to_vec();
    for (row, internal, external, endpoints, expected) in [
        ("a, internal", local, cluster, with_local(), [0, 0]),
        ("a, external", cluster, local, with_local(), [0, 0]),
        ("a, both", local, local, with_local(), [0, 0]),
        ("b", local, cluster, remote(), [1, 0]),
        ("c", cluster, local, remote(), [0, 1]),
        ("d", local, local, remote(), [1, 1]),
        ("e, internal", local, cluster, vec![], [0, 0]),
        ("e, external", cluster, local, vec![], [0, 0]),
        ("e, both", local, local, vec![], [0, 0]),
    ] {
        let stage = Stage::new(one(endpoints, |svc| {
            svc.ports[0].node_port = 3001;
            (svc.internal_policy, svc.external_policy) = (internal, external);
        }));
        let desired = stage.desired();
        let count = |clients| {
            desired
                .ports
                .values()
                .filter(|port| port.lacks_local(clients))
                .count()
        };
        let found = [Clients::OfClusterAddress, Clients::Outside].map(count);
        assert_eq!(found, expected, "11.16, no local endpoints, {row}");
    }
}

#[test]
fn session_affinity_belongs_to_the_service_port_and_all_its_frontends() {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = one([elsewhere("10.0.0.1"), elsewhere("10.0.0.2")], |svc| {
        svc.external_ips = addresses(&["1.2.3.4"]);
        svc.load_balancer_ips = addresses(&["5.6.7.8"]);
        svc.affinity_seconds = Some(120);
    });
    let headers = |memory: &Memory| -> BTreeSet<(u32, u32)> {
        let ports = memory
            .frontends
            .iter()
            .filter(|(key, _)| key.protocol().is_some());
        ports
            .flat_map(|(_, value)| {
                let index = value.service_index();
                memory.services[&index].map(|word| {
                    let region = memory.region(word.offset()).unwrap();
                    let header =
                        lb_common::table::region::RegionHeader::decode([region[0], region[1]]);
                    (index, header.affinity_seconds)
                })
            })
            .collect()
    };
    settle(&mut planner, &mut memory, &world);
    assert_eq!(memory.frontends.len(), 3 + 1);
    let before = headers(&memory);
    assert_eq!(before.len(), 1, "one index, one timeout: {before:?}");
    assert_eq!(before.first().unwrap().1, 120);
    // Toggling acts at once and keeps the index, by which affinity is remembered.
    let name = super::super::fixture::name("svc1");
    world.services.get_mut(&name).unwrap().affinity_seconds = None;
    settle(&mut planner, &mut memory, &world);
    assert_eq!(
        headers(&memory),
        BTreeSet::from([(before.first().unwrap().0, 0)])
    );
}
