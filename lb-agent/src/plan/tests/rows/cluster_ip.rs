//! Tables 11.1 to 11.3 and 11.6: cluster addresses, refusals, source ranges, internal policy.

use super::*;
use crate::model::service::TrafficPolicy;

#[test]
fn row_11_1_without_endpoints_every_frontend_refuses() {
    let stage = Stage::new(one([], |svc| {
        svc.ports[0].node_port = 3001;
        svc.external_ips = addresses(&["192.168.99.11"]);
        svc.load_balancer_ips = addresses(&["1.2.3.4"]);
    }));
    stage.check(
        "11.1",
        &[
            ("10.0.0.2", "172.30.0.41:80", Reject),
            ("203.0.113.2", "192.168.99.11:80", Reject),
            ("10.0.0.2", "192.168.0.2:3001", Reject),
            ("203.0.113.2", "192.168.0.2:3001", Reject),
            ("10.0.0.2", "1.2.3.4:80", Reject),
            ("203.0.113.2", "1.2.3.4:80", Reject),
        ],
    );
}

fn two_services() -> World {
    let mut world = one([here("10.180.0.1")], |_| {});
    let mut svc2 = service(
        "svc2",
        &["172.30.0.42"],
        &[
            ("http", 80),
            ("https", 443),
            ("dns-udp", 53),
            ("dns-tcp", 53),
            ("dns-sctp", 53),
        ],
    );
    svc2.ports[2].protocol = Protocol::Udp;
    svc2.ports[4].protocol = Protocol::Sctp;
    world.add_service(svc2);
    let mut slice = slice(
        "svc2",
        "svc2",
        &[
            ("http", 80),
            ("https", 8443),
            ("dns-udp", 53),
            ("dns-tcp", 5353),
            ("dns-sctp", 53),
        ],
        [here("10.180.0.1"), elsewhere("10.180.2.1")],
    );
    slice.ports[2].protocol = Protocol::Udp;
    slice.ports[4].protocol = Protocol::Sctp;
    world.add_slice(slice);
    world
}

#[test]
fn row_11_2_cluster_ip() {
    let stage = Stage::new(two_services());
    let both = |port: u16| to(&[&format!("10.180.0.1:{port}"), &format!("10.180.2.1:{port}")]);
    let pod = "10.180.0.2";
    for (row, source, destination, protocol, expected) in [
        (
            "a",
            pod,
            "172.30.0.41:80",
            Protocol::Tcp,
            to(&["10.180.0.1:80"]),
        ),
        (
            "b, hairpin",
            "10.180.0.1",
            "172.30.0.41:80",
            Protocol::Tcp,
            to(&["10.180.0.1:80"]),
        ),
        ("c", pod, "172.30.0.42:80", Protocol::Tcp, both(80)),
        ("d", pod, "172.30.0.42:443", Protocol::Tcp, both(8443)),
        ("e, tcp", pod, "172.30.0.42:53", Protocol::Tcp, both(5353)),
        ("e, udp", pod, "172.30.0.42:53", Protocol::Udp, both(53)),
        ("e, sctp", pod, "172.30.0.42:53", Protocol::Sctp, both(53)),
        ("f", pod, "172.30.0.42:80", Protocol::Udp, Reject),
        ("g", pod, "172.30.0.41:443", Protocol::Tcp, Reject),
        ("h", pod, "172.30.0.50:80", Protocol::Tcp, Drop),
    ] {
        let found = stage.resolve(source, destination, protocol);
        assert_eq!(found, expected, "11.2.{row}: {source} -> {destination}");
    }
}

#[test]
fn row_11_3_load_balancer_and_source_ranges() {
    let stage = Stage::new(one([here("10.180.0.1")], |svc| {
        svc.ports[0].node_port = 3001;
        svc.load_balancer_ips = addresses(&["1.2.3.4", "5.6.7.8"]);
        svc.source_ranges = vec![network("192.168.0.0/24"), network("203.0.113.0/25")];
    }));
    let served = || to(&["10.180.0.1:80"]);
    stage.check(
        "11.3",
        &[
            ("10.0.0.2", "172.30.0.41:80", served()),
            ("203.0.113.2", "192.168.0.2:3001", served()),
            ("203.0.113.130", "192.168.0.2:3001", served()),
            ("203.0.113.2", "1.2.3.4:80", served()),
            ("203.0.113.130", "1.2.3.4:80", Drop),
            ("10.0.0.2", "1.2.3.4:80", Drop),
            ("192.168.0.2", "1.2.3.4:80", served()),
            ("1.2.3.4", "1.2.3.4:80", served()),
        ],
    );
    stage.check(
        "11.3, the other address",
        &[
            ("203.0.113.2", "5.6.7.8:80", served()),
            ("203.0.113.130", "5.6.7.8:80", Drop),
            ("10.0.0.2", "5.6.7.8:80", Drop),
            ("192.168.0.2", "5.6.7.8:80", served()),
            ("5.6.7.8", "5.6.7.8:80", served()),
        ],
    );
}

#[test]
fn row_11_3_the_service_s_own_address_is_a_source_for_this_node_alone_and_only_if_it_is_in_range() {
    let world = |range| {
        one([here("10.180.0.1")], |svc| {
            svc.load_balancer_ips = addresses(&["1.2.3.4"]);
            svc.source_ranges = vec![network(range)];
        })
    };
    for (range, is_allowed) in [("192.168.0.0/24", true), ("192.168.7.0/24", false)] {
        let stage = Stage::new(world(range));
        let desired = stage.desired();
        let port = desired.ports.values().next().unwrap();
        let ranges = port.source_ranges.as_ref().unwrap();
        assert_eq!(ranges.allows(ip("1.2.3.4"), true), is_allowed, "{range}");
        // ours: from the wire it is a forged source.
        assert!(!ranges.allows(ip("1.2.3.4"), false), "{range}");
    }
}

#[test]
fn source_ranges_hold_without_endpoints_and_for_both_families() {
    let mut world = one([], |svc| {
        svc.cluster_ips = addresses(&["172.30.0.41", "fd00:172:30::41"]);
        svc.load_balancer_ips = addresses(&["1.2.3.4", "2001:db8:9::4"]);
        svc.source_ranges = vec![network("203.0.113.0/25")];
    });
    let check = |world: &World, rows: &[(&str, &str, Outcome)]| {
        Stage::new(world.clone()).check("2.5", rows);
    };
    check(
        &world,
        &[
            ("203.0.113.130", "1.2.3.4:80", Drop),
            ("203.0.113.2", "1.2.3.4:80", Reject),
            // ours: ranges of IPv4 alone leave nobody of IPv6; kube-proxy leaves everybody.
            ("2001:db8:7::1", "[2001:db8:9::4]:80", Drop),
        ],
    );
    let name = super::super::fixture::name("svc1");
    let svc = world.services.get_mut(&name).unwrap();
    svc.source_ranges.push(network("0.0.0.0/0"));
    check(
        &world,
        &[
            ("203.0.113.130", "1.2.3.4:80", Reject),
            // Who says "everybody", and of the other family nothing, means everybody.
            ("2001:db8:7::1", "[2001:db8:9::4]:80", Reject),
        ],
    );
    let svc = world.services.get_mut(&name).unwrap();
    svc.source_ranges.push(network("2001:db8:8::/48"));
    check(
        &world,
        &[
            ("203.0.113.130", "1.2.3.4:80", Reject),
            ("2001:db8:7::1", "[2001:db8:9::4]:80", Drop),
        ],
    );
}

#[test]
fn source_ranges_hold_at_an_external_address_that_is_a_load_balancer_s_too() {
    let stage = Stage::new(one([here("10.180.0.1")], |svc| {
        svc.load_balancer_ips = addresses(&["1.2.3.4"]);
        svc.external_ips = addresses(&["1.2.3.4", "1.2.3.5"]);
        svc.source_ranges = vec![network("203.0.113.0/25")];
    }));
    stage.check(
        "2.5",
        &[
            ("203.0.113.130", "1.2.3.4:80", Drop),
            ("203.0.113.130", "1.2.3.5:80", to(&["10.180.0.1:80"])),
        ],
    );
}

#[test]
fn row_11_6_internal_policy() {
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    let (one_here, two_here, none_here) = (
        [
            here("10.0.1.1"),
            elsewhere("10.0.1.2"),
            elsewhere("10.0.1.3"),
        ],
        [here("10.0.1.1"), here("10.0.1.2"), elsewhere("10.0.1.3")],
        ["10.0.1.1", "10.0.1.2", "10.0.1.3"].map(elsewhere),
    );
    let all = to(&["10.0.1.1:80", "10.0.1.2:80", "10.0.1.3:80"]);
    for (row, policy, endpoints, expected) in [
        ("a", cluster, one_here.to_vec(), all),
        ("b", local, one_here.to_vec(), to(&["10.0.1.1:80"])),
        (
            "c",
            local,
            two_here.to_vec(),
            to(&["10.0.1.1:80", "10.0.1.2:80"]),
        ),
        ("d", local, none_here.to_vec(), Drop),
        ("e, Cluster", cluster, vec![], Reject),
        ("e, Local", local, vec![], Reject),
    ] {
        let stage = Stage::new(one(endpoints, |svc| {
            svc.cluster_ips = addresses(&["172.30.1.1"]);
            svc.internal_policy = policy;
        }));
        let found = stage.resolve("10.0.0.2", "172.30.1.1:80", Protocol::Tcp);
        assert_eq!(found, expected, "11.6.{row}");
    }
}
