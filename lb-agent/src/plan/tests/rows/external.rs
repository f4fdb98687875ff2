//! Tables 11.4, 11.5 and 11.8: node ports, the external policy, and who goes where.

use super::*;
use crate::model::service::TrafficPolicy;

fn node_port_service() -> World {
    let mut world = one([elsewhere("10.180.0.1"), here("10.180.2.1")], |svc| {
        svc.cluster_ips = addresses(&["172.30.0.41", "fd00:172:30::41"]);
        svc.ports[0].node_port = 3001;
    });
    let v6 = [elsewhere("fd00:10::1"), here("fd00:10::2:1")];
    world.add_slice(slice("svc1-v6", "svc1", &[("http", 80)], v6));
    world
}

#[test]
fn row_11_4_node_ports() {
    let v4 = || to(&["10.180.0.1:80", "10.180.2.1:80"]);
    let v6 = || to(&["[fd00:10::1]:80", "[fd00:10::2:1]:80"]);
    let listed = ["192.168.0.0/24", "192.168.1.0/24", "2001:db8::/64"].map(network);
    let extended = [&listed[..], &[network("2001:db8:1::2/128")]].concat();
    for (row, policy, alternate_v4, alternate_v6) in [
        (
            "a and c, primary",
            NodePortAddresses::default(),
            NotHandled,
            NotHandled,
        ),
        (
            "b, networks",
            NodePortAddresses::in_networks(listed.to_vec()),
            v4(),
            NotHandled,
        ),
        (
            "d, networks",
            NodePortAddresses::in_networks(extended),
            v4(),
            v6(),
        ),
    ] {
        let mut stage = Stage::new(node_port_service());
        stage.node_ports = policy;
        stage.check(
            &format!("11.4.{row}"),
            &[
                ("10.0.0.2", "172.30.0.41:80", v4()),
                ("203.0.113.2", "192.168.0.2:3001", v4()),
                ("192.168.0.2", "192.168.0.2:3001", v4()),
                ("203.0.113.2", "192.168.1.2:3001", alternate_v4),
                ("fd00:10::9", "[fd00:172:30::41]:80", v6()),
                ("2001:db8:7::1", "[2001:db8::1]:3001", v6()),
                ("2001:db8::1", "[2001:db8::1]:3001", v6()),
                ("2001:db8:7::1", "[2001:db8:1::2]:3001", alternate_v6),
                ("127.0.0.1", "127.0.0.1:3001", NotHandled),
                ("::1", "[::1]:3001", NotHandled),
            ],
        );
    }
}

fn policy_service(policy: TrafficPolicy) -> World {
    one([elsewhere("10.180.0.1"), here("10.180.2.1")], |svc| {
        svc.ports[0].node_port = 3001;
        svc.external_ips = addresses(&["192.168.99.11"]);
        svc.load_balancer_ips = addresses(&["1.2.3.4"]);
        svc.external_policy = policy;
    })
}

#[test]
fn row_11_5_external_policy() {
    let both = || to(&["10.180.0.1:80", "10.180.2.1:80"]);
    let (pod, outside) = ("10.0.0.2", "203.0.113.2");
    for (policy, from_outside) in [
        (TrafficPolicy::Local, to(&["10.180.2.1:80"])),
        (TrafficPolicy::Cluster, both()),
    ] {
        Stage::new(policy_service(policy)).check(
            &format!("11.5, {policy:?}"),
            &[
                (pod, "172.30.0.41:80", both()),
                (pod, "192.168.99.11:80", both()),
                (pod, "1.2.3.4:80", both()),
                (pod, "192.168.0.2:3001", both()),
                (outside, "192.168.99.11:80", from_outside.clone()),
                (outside, "1.2.3.4:80", from_outside.clone()),
                (outside, "192.168.0.2:3001", from_outside),
            ],
        );
    }
}

/// svc1 with both policies Cluster, svc2 with the external one Local, svc3 with the internal one.
fn three_services() -> World {
    let mut world = World::default();
    for (number, load_balancer) in [(1, "1.2.3.4"), (2, "5.6.7.8"), (3, "9.10.11.12")] {
        let name = format!("svc{number}");
        let address = format!("172.30.0.4{number}");
        let mut svc = service(&name, &[&address], &[("http", 80)]);
        svc.ports[0].node_port = 3000 + number;
        svc.load_balancer_ips = addresses(&[load_balancer]);
        match number {
            2 => svc.external_policy = TrafficPolicy::Local,
            3 => svc.internal_policy = TrafficPolicy::Local,
            _ => {}
        }
        world.add_service(svc);
        let endpoints = [
            here(&format!("10.180.0.{number}")),
            elsewhere(&format!("10.180.1.{number}")),
        ];
        world.add_slice(slice(&name, &name, &[("http", 80)], endpoints));
    }
    world
}

#[test]
fn row_11_8_who_goes_where() {
    let stage = Stage::new(three_services());
    let both = |n: u8| to(&[&format!("10.180.0.{n}:80"), &format!("10.180.1.{n}:80")]);
    let here_only = |n: u8| to(&[&format!("10.180.0.{n}:80")]);
    let cluster_ips = ["172.30.0.41:80", "172.30.0.42:80", "172.30.0.43:80"];
    let node_ports = ["192.168.0.2:3001", "192.168.0.2:3002", "192.168.0.2:3003"];
    let balancers = ["1.2.3.4:80", "5.6.7.8:80", "9.10.11.12:80"];
    let (pod, node, outside) = ("10.0.0.2", "192.168.0.2", "203.0.113.2");
    let all = || [both(1), both(2), both(3)];
    for (row, source, destinations, expected) in [
        ("a", pod, cluster_ips, [both(1), both(2), here_only(3)]),
        ("b", pod, node_ports, all()),
        ("c", pod, balancers, all()),
        ("d", node, cluster_ips, [both(1), both(2), here_only(3)]),
        ("e", node, node_ports, all()),
        ("f", node, balancers, all()),
        ("g", outside, cluster_ips, [both(1), both(2), here_only(3)]),
        ("h", outside, node_ports, [both(1), here_only(2), both(3)]),
        ("i", outside, balancers, [both(1), here_only(2), both(3)]),
    ] {
        for (destination, expected) in destinations.into_iter().zip(expected) {
            let found = stage.resolve(source, destination, Protocol::Tcp);
            assert_eq!(found, expected, "11.8.{row}: {source} -> {destination}");
        }
    }
}

#[test]
fn row_11_8_without_a_detector_pods_count_as_outside() {
    let mut stage = Stage::new(three_services());
    stage.pods.clear();
    stage.check(
        "11.8, [a]",
        &[
            ("10.0.0.2", "192.168.0.2:3002", to(&["10.180.0.2:80"])),
            ("10.0.0.2", "5.6.7.8:80", to(&["10.180.0.2:80"])),
            (
                "10.0.0.2",
                "1.2.3.4:80",
                to(&["10.180.0.1:80", "10.180.1.1:80"]),
            ),
        ],
    );
}

#[test]
fn unknown_ports_of_other_than_cluster_addresses_are_left_alone() {
    Stage::new(policy_service(TrafficPolicy::Cluster)).check(
        "2.3",
        &[
            ("203.0.113.2", "192.168.99.11:81", NotHandled),
            ("203.0.113.2", "1.2.3.4:81", NotHandled),
            ("203.0.113.2", "192.168.0.2:3002", NotHandled),
            ("203.0.113.2", "192.168.1.2:3001", NotHandled),
        ],
    );
}

#[test]
fn only_load_balancer_addresses_ask_for_source_ranges_and_only_where_they_exclude_anybody() {
    let ranged = |ranges: &[&str]| {
        let stage = Stage::new(one([here("10.180.0.1")], |svc| {
            svc.ports[0].node_port = 3001;
            svc.external_ips = addresses(&["192.168.99.11"]);
            svc.load_balancer_ips = addresses(&["1.2.3.4"]);
            svc.source_ranges = ranges.iter().map(|text| network(text)).collect();
        }));
        let desired = stage.desired();
        let owners = desired.frontends.values();
        let mut kinds: Vec<_> = owners
            .filter(|owner| owner.is_ranged)
            .map(|owner| owner.kind)
            .collect();
        kinds.sort();
        kinds
    };
    assert_eq!(ranged(&["10.0.0.0/8"]), [FrontendKind::LoadBalancer]);
    assert_eq!(ranged(&["2001:db8::/32"]), [FrontendKind::LoadBalancer]);
    assert_eq!(ranged(&["10.0.0.0/8", "0.0.0.0/0"]), []);
    assert_eq!(ranged(&["::/0"]), []);
    assert_eq!(ranged(&[]), []);
}
