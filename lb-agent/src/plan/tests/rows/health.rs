//! Table 11.13, as far as it is about what a health server is told; and its counts in 11.11.

use super::*;
use crate::dataplane::memory::Memory;
use crate::model::service::{Service, TrafficPolicy};
use crate::plan::health::HealthCheck;
use crate::plan::planner::Planner;
use crate::plan::tests::{CAPACITY, settle};

fn balanced(name: &str, address: &str, port: u16) -> Service {
    let mut svc = service(name, &[address], &[("http", 80), ("tls", 443)]);
    svc.load_balancer_ips = addresses(&["1.2.3.4"]);
    svc.external_policy = TrafficPolicy::Local;
    svc.health_check_node_port = port;
    svc
}

fn checks(world: &World) -> Vec<(u16, String, Option<usize>)> {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    settle(&mut planner, &mut memory, world);
    listed(&planner)
}

fn listed(planner: &Planner) -> Vec<(u16, String, Option<usize>)> {
    let ports = planner.health_ports();
    let checks = planner.locals().filter_map(|(name, local)| {
        let check = local.health?;
        (ports[&check.port] == name).then(|| (check.port, name, check.local(false)))
    });
    let mut checks: Vec<_> = checks
        .map(|(port, name, count)| (port, name.name.to_string(), count))
        .collect();
    checks.sort();
    checks
}

#[test]
fn row_11_13_servers_come_and_go_with_their_services() {
    let mut world = World::default();
    assert_eq!(checks(&world), [], "a: no Services");
    world.add_slice(slice("lost", "lost", &[("http", 80)], [here("10.0.0.9")]));
    assert_eq!(checks(&world), [], "a: endpoints of no Service");
    world.add_service(balanced("a", "172.30.0.41", 9376));
    assert_eq!(checks(&world), [(9376, "a".into(), Some(0))], "b");
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    for count in [18, 0, 11] {
        let endpoints = (1..=count).map(|n| here(&format!("10.0.0.{n}")));
        world.add_slice(slice("a", "a", &[("http", 80)], endpoints));
        settle(&mut planner, &mut memory, &world);
        assert_eq!(listed(&planner), [(9376, "a".into(), Some(count))], "c");
    }
    world.slices.clear();
    settle(&mut planner, &mut memory, &world);
    assert_eq!(
        listed(&planner),
        [(9376, "a".into(), Some(0))],
        "c: absent is 0"
    );
    world.services.clear();
    settle(&mut planner, &mut memory, &world);
    assert_eq!(listed(&planner), [], "d");
}

#[test]
fn row_11_13_a_changed_port_moves_and_one_port_has_one_service() {
    let mut world = World::default();
    world.add_service(balanced("nsn2", "172.30.0.42", 10_000));
    world.add_service(balanced("nsn3", "172.30.0.43", 11_113));
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    settle(&mut planner, &mut memory, &world);
    world.add_service(balanced("nsn3", "172.30.0.43", 11_114));
    world.add_service(balanced("nsn4", "172.30.0.44", 10_000));
    settle(&mut planner, &mut memory, &world);
    let expected = [
        (10_000, "nsn2".into(), Some(0)),
        (11_114, "nsn3".into(), Some(0)),
    ];
    assert_eq!(listed(&planner), expected);
    let reports = planner.reports();
    let about_health: Vec<_> = reports
        .iter()
        .filter(|(_, report)| report.event_reason() == "FailedToStartServiceHealthcheck")
        .map(|(name, _)| &*name.name)
        .collect();
    assert_eq!(about_health, ["nsn4"]);
}

#[test]
fn row_11_13_terminating_endpoints_do_not_count() {
    let mut world = World::default();
    world.add_service(balanced("a", "172.30.0.41", 345));
    let ready = ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(here);
    let unready = conditions([0, 0, 0], here("10.0.0.4"));
    let listed = ready.into_iter().chain([unready]).collect::<Vec<_>>();
    world.add_slice(slice("a", "a", &[("http", 80)], listed.clone()));
    assert_eq!(checks(&world), [(345, "a".into(), Some(3))]);
    let ending = listed
        .into_iter()
        .zip([[0, 1, 1], [0, 0, 1], [0, 1, 1], [0, 0, 0]])
        .map(|(endpoint, state)| conditions(state, endpoint));
    world.add_slice(slice("a", "a", &[("http", 80)], ending));
    assert_eq!(checks(&world), [(345, "a".into(), Some(0))]);
}

#[test]
fn row_11_11_local_ready_addresses_count_once_over_all_ports() {
    for (row, endpoints, expected) in [
        ("remote", vec![elsewhere("10.0.0.1")], 0),
        ("local", vec![here("10.0.0.1")], 1),
        (
            "two, one of them remote",
            vec![here("10.0.0.1"), elsewhere("10.0.0.2")],
            1,
        ),
        (
            "terminating local",
            vec![here("10.0.0.1"), conditions([0, 1, 1], here("10.0.0.2"))],
            1,
        ),
        (
            "all terminating",
            vec![conditions([0, 1, 1], here("10.0.0.1"))],
            0,
        ),
    ] {
        let mut world = World::default();
        world.add_service(balanced("a", "172.30.0.41", 345));
        world.add_slice(slice("a", "a", &[("http", 80), ("tls", 443)], endpoints));
        assert_eq!(checks(&world), [(345, "a".into(), Some(expected))], "{row}");
    }
}

#[test]
fn each_family_has_a_count_of_its_own() {
    let mut svc = balanced("a", "172.30.0.41", 345);
    svc.cluster_ips.push(ip("fd00:172:30::41"));
    let mut world = World::default();
    world.add_service(svc);
    world.add_slice(slice(
        "a4",
        "a",
        &[("http", 80)],
        [here("10.0.0.1"), here("10.0.0.2")],
    ));
    world.add_slice(slice("a6", "a", &[("http", 80)], [here("fd00:10::1")]));
    let stage = Stage::new(world);
    let desired = stage.desired();
    let check: Vec<&HealthCheck> = desired.health.values().collect();
    assert_eq!(check.len(), 1);
    assert_eq!(
        (check[0].local(false), check[0].local(true)),
        (Some(2), Some(1))
    );
    let mut world = stage.world;
    let name = crate::plan::tests::fixture::name("a");
    world
        .services
        .get_mut(&name)
        .unwrap()
        .cluster_ips
        .truncate(1);
    let stage = Stage::new(world);
    let desired = stage.desired();
    assert_eq!(desired.health[&name].local(true), None, "no such family");
}

#[test]
fn what_is_told_of_local_policies_is_news_only_when_it_changes() {
    let web = |external, node_port| {
        let mut svc = service("web", &["172.30.0.41"], &[("http", 80)]);
        svc.external_policy = external;
        svc.ports[0].node_port = node_port;
        svc
    };
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    let mut world = World::default();
    let remote = |number: u8| {
        let endpoints = [elsewhere(&format!("10.0.0.{number}"))];
        slice("web", "web", &[("http", 80)], endpoints)
    };
    world.add_slice(remote(1));
    let mut told = |world: &World| {
        settle(&mut planner, &mut memory, world);
        let without: Vec<u32> = planner
            .locals()
            .map(|(_, local)| local.without[0].external)
            .collect();
        (without, planner.locals_version())
    };
    // The same everywhere; and a policy for clients that cannot come.
    for (policy, node_port) in [(TrafficPolicy::Cluster, 3001), (TrafficPolicy::Local, 0)] {
        world.add_service(web(policy, node_port));
        assert_eq!(told(&world), (vec![], 0), "{policy:?} {node_port}");
    }
    world.add_service(web(TrafficPolicy::Local, 3001));
    assert_eq!(told(&world), (vec![1], 1));
    world.add_slice(remote(2));
    assert_eq!(told(&world), (vec![1], 1), "another endpoint elsewhere");
    world.services.clear();
    assert_eq!(told(&world), (vec![], 2));
}
