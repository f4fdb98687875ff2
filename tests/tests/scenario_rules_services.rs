//! Tables 11.10 and 11.15 of kube-proxy's own tests, as far as they begin with objects: from
//! manifests, as the agent reads them, to frontends. Functions are named after their table; rows are
//! lettered in their order there; `ours:` marks what differs on purpose.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use lb_agent::plan::NodeView;
use lb_tests::objects::{Cluster, service, slice};
use serde_json::{Value, json};

/// What the frontends of one Service are.
fn frontends(spec: Value, status: Value) -> Vec<String> {
    let mut cluster = Cluster::new();
    cluster.write("service", &service(spec, status));
    cluster.frontends()
}

fn balancer(ip_mode: &Value) -> (Value, Value) {
    let ports = json!([
        {"name": "p3", "port": 8675, "protocol": "UDP"},
        {"name": "p4", "port": 8676, "protocol": "UDP"},
    ]);
    let spec = json!({"type": "LoadBalancer", "clusterIP": "172.16.55.11",
        "loadBalancerIP": "5.6.7.8", "ports": ports});
    let mut ingress = json!({"ip": "10.1.2.4"});
    if !ip_mode.is_null() {
        ingress["ipMode"] = ip_mode.clone();
    }
    (spec, json!({"loadBalancer": {"ingress": [ingress]}}))
}

#[test]
fn row_11_10_which_services_count() {
    assert_eq!(Cluster::new().frontends(), [""; 0], "a, nothing");
    let none = json!({});
    for (row, spec) in [
        (
            "a, UDP",
            json!({"clusterIP": "None", "ports": [{"port": 1234, "protocol": "UDP"}]}),
        ),
        (
            "a, SCTP",
            json!({"clusterIP": "None", "ports": [{"port": 1234, "protocol": "SCTP"}]}),
        ),
        ("a, no ports", json!({"clusterIP": "None"})),
        (
            "g",
            json!({"type": "ExternalName", "clusterIP": "172.16.55.4", "externalName": "foo.com",
                "ports": [{"name": "portblah", "port": 1234, "protocol": "UDP"}]}),
        ),
    ] {
        assert_eq!(frontends(spec, none.clone()), [""; 0], "11.10.{row}");
    }
    let two = |first: (&str, u16), second: (&str, u16)| {
        json!([
            {"name": "p1", "port": first.1, "protocol": first.0},
            {"name": "p2", "port": second.1, "protocol": second.0},
        ])
    };
    let cluster = json!({"clusterIP": "172.16.55.4", "ports": two(("UDP", 1234), ("UDP", 1235))});
    assert_eq!(
        frontends(cluster, none.clone()),
        [
            "p1 UDP 172.16.55.4 1234 cluster",
            "p2 UDP 172.16.55.4 1235 cluster"
        ],
        "11.10.b"
    );
    let node_port = json!({"type": "NodePort", "clusterIP": "172.16.55.10",
        "ports": two(("UDP", 345), ("TCP", 344))});
    assert_eq!(
        frontends(node_port, none),
        [
            "p1 UDP 172.16.55.10 345 cluster",
            "p2 TCP 172.16.55.10 344 cluster"
        ],
        "11.10.c"
    );
}

#[test]
fn row_11_10_load_balancer_addresses_are_those_of_the_status() {
    let cluster = [
        "p3 UDP 172.16.55.11 8675 cluster",
        "p4 UDP 172.16.55.11 8676 cluster",
    ];
    for ip_mode in [Value::Null, json!("VIP")] {
        let (spec, status) = balancer(&ip_mode);
        let found = frontends(spec, status);
        let expected = [
            "p3 UDP 10.1.2.4 8675 balancer",
            cluster[0],
            "p4 UDP 10.1.2.4 8676 balancer",
            cluster[1],
        ];
        assert_eq!(found, expected, "11.10.d and m: {ip_mode}");
    }
    let (spec, status) = balancer(&json!("Proxy"));
    assert_eq!(frontends(spec, status), cluster, "11.10.e and m");
}

#[test]
fn row_11_10_the_health_check_is_of_the_service() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "172.16.55.12",
        "externalTrafficPolicy": "Local", "healthCheckNodePort": 345,
        "ports": [{"name": "portx", "port": 8677, "protocol": "UDP"},
            {"name": "porty", "port": 8678, "protocol": "UDP"}]});
    let mut cluster = Cluster::new();
    cluster.write("service", &service(spec, json!({})));
    let desired = cluster.desired();
    assert_eq!(desired.ports.len(), 2);
    let checks: Vec<_> = desired.health.values().map(|check| check.port).collect();
    assert_eq!(checks, [345], "11.10.f");
}

#[test]
fn row_11_10_each_family_has_what_is_its_own_whatever_the_type() {
    let spec = |ip: &str| {
        json!({"clusterIP": ip,
            "externalIPs": ["1.1.1.1", "2001:db8::1"],
            "loadBalancerSourceRanges": [" 10.1.2.0/28", "2001:db8:1::/48"],
            "ports": [{"name": "p", "port": 12345, "protocol": "TCP"}]})
    };
    let status =
        json!({"loadBalancer": {"ingress": [{"ip": "10.1.2.4"}, {"ip": "2001:db8:2::4"}]}});
    assert_eq!(
        frontends(spec("1.2.3.4"), status.clone()),
        [
            "p TCP 1.1.1.1 12345 external",
            "p TCP 1.2.3.4 12345 cluster",
            "p TCP 10.1.2.4 12345 balancer"
        ],
        "11.10.h and i, IPv4"
    );
    assert_eq!(
        frontends(spec("fd00::1"), status.clone()),
        [
            "p TCP 2001:db8:2::4 12345 balancer",
            "p TCP 2001:db8::1 12345 external",
            "p TCP fd00::1 12345 cluster"
        ],
        "11.10.h and i, IPv6"
    );
    for (ip, expected) in [("1.2.3.4", "10.1.2.0/28"), ("fd00::1", "2001:db8:1::/48")] {
        let mut cluster = Cluster::new();
        cluster.write("service", &service(spec(ip), status.clone()));
        let desired = cluster.desired();
        let port = desired.ports.values().next().unwrap();
        let ranges = &port.source_ranges.as_ref().unwrap().networks;
        let texts: Vec<_> = ranges
            .iter()
            .map(|(it, length)| format!("{it}/{length}"))
            .collect();
        assert_eq!(texts, [expected], "11.10.j");
    }
}

#[test]
fn row_11_10_services_come_change_and_go() {
    let mut cluster = Cluster::new();
    let ports = json!([{"name": "p1", "port": 1234, "protocol": "UDP"}]);
    let plain = service(
        json!({"clusterIP": "172.16.55.4", "ports": ports}),
        json!({}),
    );
    let balanced = json!({"type": "LoadBalancer", "clusterIP": "172.16.55.4", "ports": ports,
        "externalTrafficPolicy": "Local", "healthCheckNodePort": 345});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "10.1.2.3"}]}});
    let balanced = service(balanced, status);
    let size = |cluster: &Cluster| {
        let desired = cluster.desired();
        (desired.frontends.len(), desired.health.len())
    };
    for (row, object, changed, expected) in [
        ("added", &plain, 1, (1, 0)),
        ("to a load balancer", &balanced, 1, (2, 1)),
        ("the same again", &balanced, 0, (2, 1)),
        ("and back", &plain, 1, (1, 0)),
        ("removed", &Value::Null, 1, (0, 0)),
    ] {
        let named = cluster.write("service", object);
        assert_eq!(
            (named.len(), size(&cluster)),
            (changed, expected),
            "11.10.k, {row}"
        );
    }
}

#[test]
fn row_11_10_odd_addresses_are_read_as_they_always_were() {
    let spec = json!({"type": "LoadBalancer", "clusterIP": "172.30.0.041",
        "externalIPs": ["192.168.099.022"], "loadBalancerSourceRanges": ["203.0.113.000/025"],
        "ports": [{"name": "p80", "port": 80}]});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.004"}]}});
    let mut cluster = Cluster::new();
    cluster.write("service", &service(spec, status));
    cluster.write(
        "slice",
        &slice("s", &[("p80", 80)], &[("10.180.00.001", "host2", "")]),
    );
    assert_eq!(
        cluster.frontends(),
        [
            "p80 TCP 1.2.3.4 80 balancer",
            "p80 TCP 172.30.0.41 80 cluster",
            "p80 TCP 192.168.99.22 80 external"
        ],
        "11.10.l"
    );
    assert_eq!(cluster.endpoints("p80"), ["10.180.0.1:80"], "11.10.l");
}

#[test]
fn row_11_10_service_networks_keep_their_order_in_each_family() {
    let cidrs = [
        "172.30.0.0/16",
        "172.50.0.0/16",
        "fd00:10:96::/112",
        "fd00:172:30::/112",
    ];
    let mut cluster = Cluster::new();
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": cidrs}});
    cluster.write("cidr", &object);
    let found = cluster.model.service_cidrs().iter();
    let found: Vec<_> = found.map(|(it, length)| format!("{it}/{length}")).collect();
    assert_eq!(found, cidrs, "11.10.n");
}

#[test]
fn row_11_15_the_node_s_addresses_are_the_first_of_each_family_internal_ones_first() {
    for (row, listed, v4, v6) in [
        (
            "e, only IPv4",
            json!([{"type": "InternalIP", "address": "192.168.1.1"}]),
            "192.168.1.1",
            "",
        ),
        (
            "f, only IPv6",
            json!([{"type": "InternalIP", "address": "fd00:1234::1"}]),
            "",
            "fd00:1234::1",
        ),
        (
            "g, both",
            json!([{"type": "InternalIP", "address": "90.90.90.90"},
                {"type": "InternalIP", "address": "2001:db8::2"},
                {"type": "InternalIP", "address": "90.90.90.91"}]),
            "90.90.90.90",
            "2001:db8::2",
        ),
        (
            "external where there is no internal one",
            json!([{"type": "ExternalIP", "address": "198.51.100.1"},
                {"type": "InternalIP", "address": "2001:db8::2"}]),
            "198.51.100.1",
            "2001:db8::2",
        ),
    ] {
        let mut cluster = Cluster::new();
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "host1"},
            "status": {"addresses": listed}});
        cluster.write("node", &object);
        let node = NodeView {
            addresses: &cluster.model.node().unwrap().addresses,
            ..NodeView::default()
        };
        let text = |is_v6| {
            node.primary(is_v6)
                .map(|it| it.to_string())
                .unwrap_or_default()
        };
        assert_eq!(
            (text(false), text(true)),
            (v4.into(), v6.into()),
            "11.15.{row}"
        );
    }
    // ours: an unknown node has no address, not the loopback one.
    assert_eq!(NodeView::default().primary(false), None, "11.15.d");
}
