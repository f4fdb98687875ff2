//! Which addresses a Service may not have, and who gets one that several claim.

use super::*;
use crate::dataplane::memory::Memory;
use crate::plan::planner::Planner;
use crate::plan::report::Report;
use crate::plan::tests::{CAPACITY, apply};

fn claiming(name: &str, cluster_ip: &str, external: &[&str], created: i64) -> World {
    let mut world = World::default();
    add(&mut world, name, cluster_ip, external, created);
    world
}

fn add(world: &mut World, name: &str, cluster_ip: &str, external: &[&str], created: i64) {
    let mut svc = service(name, &[cluster_ip], &[("http", 80)]);
    svc.external_ips = addresses(external);
    svc.created_seconds = Some(created);
    world.add_service(svc);
    let endpoint = elsewhere(&format!("10.1.{created}.1"));
    world.add_slice(slice(name, name, &[("http", 80)], [endpoint]));
}

#[test]
fn external_addresses_that_shadow_others_are_refused_one_report_each() {
    let bad = [
        ("127.0.0.1", "in the loopback range"),
        ("169.254.169.254", "in the link-local range"),
        ("224.0.0.1", "a multicast or broadcast address"),
        ("0.0.0.0", "unspecified"),
        ("192.168.0.2", "an address of this node"),
        ("172.30.0.9", "in a service network of the cluster"),
    ];
    let texts: Vec<_> = bad.iter().map(|(address, _)| *address).collect();
    let externals = [&texts[..], &["1.2.3.4"]].concat();
    let stage = Stage::new(claiming("svc", "172.30.0.41", &externals, 1));
    let desired = stage.desired();
    let reports: BTreeSet<_> = desired
        .reports
        .iter()
        .map(|(_, report)| {
            assert_eq!(report.event_reason(), "ExternalAddressRefused");
            report.to_string()
        })
        .collect();
    let expected = bad.iter().map(|(address, what)| {
        format!("external address {address} refused, since it is {what}: correct the Service")
    });
    assert_eq!(reports, expected.collect());
    for (address, _) in bad {
        let outcome = stage.resolve("203.0.113.2", &format!("{address}:80"), Protocol::Tcp);
        let expected = if address == "172.30.0.9" {
            Drop
        } else {
            NotHandled
        };
        assert_eq!(outcome, expected, "{address}");
    }
    let outcome = stage.resolve("203.0.113.2", "1.2.3.4:80", Protocol::Tcp);
    assert_eq!(outcome, to(&["10.1.1.1:80"]));
}

/// An author of Services must not take what comes to the node by an address that its Node object does not
/// list; a load balancer's controller may have put its address on a device.
#[test]
fn an_address_of_a_device_is_refused_to_external_claims_and_not_to_load_balancers() {
    let borne = "192.168.0.77";
    let mut world = World::default();
    let mut svc = service("svc", &["172.30.0.41"], &[("http", 80)]);
    svc.external_ips = addresses(&[borne, "1.2.3.4"]);
    svc.load_balancer_ips = addresses(&["192.168.0.78"]);
    world.add_service(svc);
    let endpoint = elsewhere("10.1.0.1");
    world.add_slice(slice("svc", "svc", &[("http", 80)], [endpoint]));
    let mut stage = Stage::new(world);
    let at = |stage: &Stage, address: &str| {
        stage.resolve("203.0.113.2", &format!("{address}:80"), Protocol::Tcp)
    };
    let served = || to(&["10.1.0.1:80"]);
    assert_eq!(at(&stage, borne), served());
    stage.device_addresses = addresses(&[borne, "192.168.0.78"]);
    assert_eq!(at(&stage, borne), NotHandled);
    assert_eq!(at(&stage, "192.168.0.78"), served());
    let desired = stage.desired();
    let [(_, report)] = &desired.reports[..] else {
        panic!("{:?}", desired.reports)
    };
    assert_eq!(report.event_reason(), "ExternalAddressRefused");
    let text = format!("external address {borne} refused, since it is an address of this node");
    assert!(report.to_string().starts_with(&text), "{report}");
}

#[test]
fn an_endpoint_may_be_a_node_but_not_a_service_address() {
    let world = one([here("192.168.0.2"), elsewhere("172.30.0.50")], |_| {});
    let stage = Stage::new(world);
    let outcome = stage.resolve("10.0.0.2", "172.30.0.41:80", Protocol::Tcp);
    assert_eq!(outcome, to(&["192.168.0.2:80"]));
    let desired = stage.desired();
    let [(_, report)] = &desired.reports[..] else {
        panic!("{:?}", desired.reports)
    };
    assert_eq!(report.event_reason(), "EndpointsRefused");
    assert!(
        report
            .to_string()
            .contains("172.30.0.50, which is in a service network")
    );
}

/// Plans in this order and gives what the tables have at 1.2.3.4 or 10.96.0.1, port 80 or 81.
fn planned(order: &[&str], world: &World) -> (Planner, Memory) {
    let (mut planner, mut memory) = (Planner::new(CAPACITY), Memory::new(CAPACITY));
    for name in order {
        let view = world
            .views()
            .into_iter()
            .find(|it| *it.service.name.name == **name);
        let writes = planner.plan_service(&view.unwrap(), &super::super::NODE);
        apply(&mut memory, writes);
    }
    (planner, memory)
}

fn owner(planner: &Planner, memory: &Memory, address: &str) -> Option<String> {
    let key = FrontendKey::new(mapped(ip(address)), 80, Protocol::Tcp);
    let value = memory.frontends.get(&key)?;
    let port = planner.services.key(value.service_index()).unwrap();
    Some(port.name.service.name.to_string())
}

#[test]
fn of_services_with_one_external_address_the_oldest_has_it_in_whatever_order_they_come() {
    let mut world = claiming("b-old", "10.96.0.2", &["1.2.3.4"], 1);
    add(&mut world, "a-young", "10.96.0.3", &["1.2.3.4"], 2);
    for order in [["b-old", "a-young"], ["a-young", "b-old"]] {
        let (planner, memory) = planned(&order, &world);
        assert_eq!(owner(&planner, &memory, "1.2.3.4"), Some("b-old".into()));
        let reports = planner.reports();
        let [(name, report @ Report::Shadowed { by, .. })] = &reports[..] else {
            panic!("{reports:?}")
        };
        assert_eq!((&*name.name, &*by.name), ("a-young", "b-old"));
        assert_eq!(report.event_reason(), "FrontendConflict");
    }
}

#[test]
fn a_cluster_address_belongs_to_its_service_however_old_an_external_claim_is() {
    let mut world = claiming("a-thief", "10.96.0.2", &["10.96.0.1"], 1);
    add(&mut world, "victim", "10.96.0.1", &[], 9);
    for order in [["a-thief", "victim"], ["victim", "a-thief"]] {
        let (planner, memory) = planned(&order, &world);
        assert_eq!(owner(&planner, &memory, "10.96.0.1"), Some("victim".into()));
    }
}

#[test]
fn an_unknown_port_of_a_cluster_address_is_not_to_be_had_by_an_external_claim() {
    let mut world = claiming("thief", "10.96.0.2", &["10.96.0.1"], 1);
    let mut victim = service("victim", &["10.96.0.1"], &[("tls", 443)]);
    victim.created_seconds = Some(9);
    world.add_service(victim);
    for order in [["thief", "victim"], ["victim", "thief"]] {
        let (mut planner, mut memory) = planned(&order, &world);
        assert_eq!(owner(&planner, &memory, "10.96.0.1"), None);
        let [(name, Report::OthersClusterAddress { by, .. })] = &planner.reports()[..] else {
            panic!("{:?}", planner.reports())
        };
        assert_eq!((&*name.name, &*by.name), ("thief", "victim"));
        // Once the address is nobody's any more, the claim holds.
        let victim = super::super::fixture::name("victim");
        let writes = planner.remove_service(&victim);
        apply(&mut memory, writes);
        assert_eq!(owner(&planner, &memory, "10.96.0.1"), Some("thief".into()));
    }
}
