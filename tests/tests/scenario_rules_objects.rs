//! Tables 11.10, 11.11 and 11.15 of kube-proxy's own tests, as far as they begin with objects: from
//! manifests, as the agent reads them, to service ports and endpoints. Functions are named after
//! their table; rows are lettered in their order there; `ours:` marks what differs on purpose.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::BTreeSet;
use std::fs;

use lb_agent::model::index::Model;
use lb_agent::plan::clients::Clients;
use lb_agent::plan::desired::{Desired, address_of};
use lb_agent::plan::{NodeView, ServiceView};
use lb_agent::source::directory::Reading;
use lb_common::table::frontend::FrontendKind;
use serde_json::{Value, json};

/// A cluster that a test writes manifests into.
struct Cluster {
    directory: tempfile::TempDir,
    reading: Reading,
    model: Model,
}

impl Cluster {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            reading: Reading::new(directory.path().to_owned()),
            directory,
            model: Model::new("host1"),
        }
    }

    /// Writes an object into a file of its own, or removes the file where there is none; gives the
    /// Services that changed.
    fn write(&mut self, file: &str, object: &Value) -> BTreeSet<String> {
        let name = format!("{file}.json");
        let path = self.directory.path().join(&name);
        if object.is_null() {
            fs::remove_file(path).unwrap();
        } else {
            fs::write(path, object.to_string()).unwrap();
        }
        let (events, _) = self.reading.read(&BTreeSet::from([name])).unwrap();
        let changed = self.model.apply_all(events).services;
        changed
            .into_iter()
            .map(|name| String::from(&*name.name))
            .collect()
    }

    fn desired(&self) -> Desired<'_> {
        let views = self
            .model
            .services()
            .map(|service| ServiceView::new(service, self.model.slices(&service.name)));
        let node = NodeView {
            name: "host1",
            ..NodeView::default()
        };
        Desired::of(views, &node)
    }

    /// Every frontend as `port protocol address:port kind`, sorted.
    fn frontends(&self) -> Vec<String> {
        let desired = self.desired();
        let mut lines: Vec<String> = desired
            .frontends
            .iter()
            .map(|(key, owner)| {
                let address = if key.is_node_port() {
                    "node".to_owned()
                } else {
                    address_of(key).to_string()
                };
                let protocol = key.protocol().unwrap();
                let kind = match owner.kind {
                    FrontendKind::ServiceAddress | FrontendKind::ClusterIp => "cluster",
                    FrontendKind::NodePort => "node port",
                    FrontendKind::ExternalIp => "external",
                    FrontendKind::LoadBalancer => "balancer",
                };
                let port = &owner.port.name.port;
                format!("{port} {protocol:?} {address} {} {kind}", key.port())
            })
            .collect();
        lines.sort();
        lines
    }

    /// The endpoints of a port as `address:port`, with `*` behind those of this node.
    fn endpoints(&self, port: &str) -> Vec<String> {
        let desired = self.desired();
        let ports = desired.ports.values();
        let port = ports.filter(|it| it.key.name.port == port && !it.key.is_v6);
        port.flat_map(|port| &port.selection.candidates)
            .map(|candidate| {
                let here = if candidate.is_local { "*" } else { "" };
                format!("{}:{}{here}", candidate.endpoint.address, candidate.port)
            })
            .collect()
    }

    /// Those of them that get new flows.
    fn serving(&self, port: &str) -> Vec<String> {
        let desired = self.desired();
        let keys = desired.ports.keys();
        keys.filter(|key| key.name.port == port && !key.is_v6)
            .flat_map(|key| desired.backends(key, Clients::OfClusterAddress))
            .map(|(address, port)| format!("{address}:{port}"))
            .collect()
    }
}

fn service(spec: Value, status: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "ns1", "name": "svc1"},
    });
    object["spec"] = spec;
    object["status"] = status;
    object
}

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
            "p1 Udp 172.16.55.4 1234 cluster",
            "p2 Udp 172.16.55.4 1235 cluster"
        ],
        "11.10.b"
    );
    let node_port = json!({"type": "NodePort", "clusterIP": "172.16.55.10",
        "ports": two(("UDP", 345), ("TCP", 344))});
    assert_eq!(
        frontends(node_port, none),
        [
            "p1 Udp 172.16.55.10 345 cluster",
            "p2 Tcp 172.16.55.10 344 cluster"
        ],
        "11.10.c"
    );
}

#[test]
fn row_11_10_load_balancer_addresses_are_those_of_the_status() {
    let cluster = [
        "p3 Udp 172.16.55.11 8675 cluster",
        "p4 Udp 172.16.55.11 8676 cluster",
    ];
    for ip_mode in [Value::Null, json!("VIP")] {
        let (spec, status) = balancer(&ip_mode);
        let found = frontends(spec, status);
        let expected = [
            "p3 Udp 10.1.2.4 8675 balancer",
            cluster[0],
            "p4 Udp 10.1.2.4 8676 balancer",
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
            "p Tcp 1.1.1.1 12345 external",
            "p Tcp 1.2.3.4 12345 cluster",
            "p Tcp 10.1.2.4 12345 balancer"
        ],
        "11.10.h and i, IPv4"
    );
    assert_eq!(
        frontends(spec("fd00::1"), status.clone()),
        [
            "p Tcp 2001:db8:2::4 12345 balancer",
            "p Tcp 2001:db8::1 12345 external",
            "p Tcp fd00::1 12345 cluster"
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
            "p80 Tcp 1.2.3.4 80 balancer",
            "p80 Tcp 172.30.0.41 80 cluster",
            "p80 Tcp 192.168.99.22 80 external"
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

/// A slice of `svc1`: ports, and endpoints with node and the conditions r, s, t that are set
/// (nothing stands for none given).
fn slice(name: &str, ports: &[(&str, u16)], endpoints: &[(&str, &str, &str)]) -> Value {
    let endpoints: Vec<_> = endpoints
        .iter()
        .map(|&(address, node, conditions)| {
            let mut endpoint = json!({"addresses": [address], "nodeName": node});
            if !conditions.is_empty() {
                endpoint["conditions"] = json!({
                    "ready": conditions.contains('r'),
                    "serving": conditions.contains('s'),
                    "terminating": conditions.contains('t'),
                });
            }
            endpoint
        })
        .collect();
    let ports: Vec<_> = ports
        .iter()
        .map(|(name, port)| json!({"name": name, "port": port, "protocol": "TCP"}))
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "ns1", "name": name,
            "labels": {"kubernetes.io/service-name": "svc1"}},
        "endpoints": endpoints, "ports": ports,
    })
}

/// A cluster with `svc1`, which has the ports `port-0` and `port-1`.
fn with_service() -> Cluster {
    let mut cluster = Cluster::new();
    let ports = json!([{"name": "port-0", "port": 80}, {"name": "port-1", "port": 443}]);
    let spec = json!({"clusterIP": "172.30.0.41", "ports": ports});
    cluster.write("service", &service(spec, json!({})));
    cluster
}

/// Endpoints `10.0.1.1` to `10.0.1.N`, on host1 and host2 by turns.
fn numbered(
    count: usize,
    conditions: &'static str,
) -> Vec<(&'static str, &'static str, &'static str)> {
    const ADDRESSES: [&str; 5] = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5"];
    let hosts = ["host1", "host2"].into_iter().cycle();
    let pairs = ADDRESSES.into_iter().zip(hosts).take(count);
    pairs
        .map(|(address, host)| (address, host, conditions))
        .collect()
}

#[test]
fn row_11_11_slices_are_joined_by_address_and_port() {
    let mut cluster = with_service();
    let both = [("port-0", 80), ("port-1", 443)];
    cluster.write("a", &slice("a", &both, &numbered(3, "")));
    let expected = |port: u16| {
        [
            format!("10.0.1.1:{port}*"),
            format!("10.0.1.2:{port}"),
            format!("10.0.1.3:{port}*"),
        ]
    };
    assert_eq!(cluster.endpoints("port-0"), expected(80), "a");
    assert_eq!(cluster.endpoints("port-1"), expected(443), "a");

    let mut cluster = with_service();
    let http = [("port-0", 80)];
    cluster.write("a", &slice("a", &http, &numbered(3, "")));
    let more = [("10.0.1.10", "host2", ""), ("10.0.1.2", "host2", "")];
    cluster.write("b", &slice("b", &http, &more));
    // ours: in the order of numbers, not of texts; nothing depends on it.
    let joined = [
        "10.0.1.1:80*",
        "10.0.1.2:80",
        "10.0.1.3:80*",
        "10.0.1.10:80",
    ];
    assert_eq!(cluster.endpoints("port-0"), joined, "b");

    let mut cluster = with_service();
    cluster.write("a", &slice("a", &http, &numbered(2, "")));
    cluster.write("b", &slice("b", &[("port-0", 8080)], &numbered(2, "")));
    let distinct = [
        "10.0.1.1:80*",
        "10.0.1.1:8080*",
        "10.0.1.2:80",
        "10.0.1.2:8080",
    ];
    assert_eq!(cluster.endpoints("port-0"), distinct, "g");
}

#[test]
fn row_11_11_duplicates() {
    let http = [("port-0", 80)];
    let one = |conditions| [("10.0.1.1", "host1", conditions)];
    for (row, slices, expected) in [
        (
            "c, ready in the later",
            ["-", "rs", "rs"],
            &["10.0.1.1:80"][..],
        ),
        ("c, unready in the later", ["rs", "rs", "-"], &[]),
        (
            "d, terminating in all",
            ["st", "st", "st"],
            &["10.0.1.1:80"],
        ),
        ("d, not serving in all", ["t", "t", "t"], &[]),
        ("h", ["t", "rs", "t"], &["10.0.1.1:80"]),
    ] {
        let mut cluster = with_service();
        for (name, conditions) in ["a", "b", "c"].into_iter().zip(slices) {
            cluster.write(name, &slice(name, &http, &one(conditions)));
        }
        assert_eq!(cluster.serving("port-0"), expected, "11.11.{row}");
    }
    let mut cluster = with_service();
    for (name, conditions) in [("a", "-"), ("b", "rs"), ("c", "t")] {
        cluster.write(name, &slice(name, &http, &one(conditions)));
    }
    assert_eq!(cluster.serving("port-0"), ["10.0.1.1:80"], "11.11.h");
}

#[test]
fn row_11_11_what_is_not_the_service_s_is_not_mixed_in() {
    let mut cluster = with_service();
    let http = [("port-0", 80)];
    let mut other_service = slice("a", &http, &numbered(1, ""));
    other_service["metadata"]["labels"]["kubernetes.io/service-name"] = json!("svc2");
    let mut other_namespace = slice("b", &http, &numbered(1, ""));
    other_namespace["metadata"]["namespace"] = json!("ns2");
    let mut no_port = slice("c", &http, &numbered(1, ""));
    no_port["ports"] = json!([{"name": "port-0", "protocol": "TCP"}]);
    let mut names = slice("d", &http, &[("example.com", "host1", "")]);
    names["addressType"] = json!("FQDN");
    for (row, file, object) in [
        ("e", "a", other_service),
        ("e", "b", other_namespace),
        ("f", "c", no_port),
        ("i", "d", names),
    ] {
        cluster.write(file, &object);
        assert_eq!(cluster.endpoints("port-0"), [""; 0], "11.11.{row}");
    }
}

#[test]
fn row_11_11_only_changes_are_changes() {
    let mut cluster = with_service();
    let both = [("port-0", 80), ("port-1", 443)];
    let object = slice("a", &both, &numbered(3, ""));
    let mut names = object.clone();
    names["addressType"] = json!("FQDN");
    let none = BTreeSet::new();
    let svc1 = BTreeSet::from(["svc1".to_owned()]);
    assert_eq!(cluster.write("fqdn", &names), none, "i, names");
    assert_eq!(cluster.write("a", &object), svc1);
    assert_eq!(cluster.write("a", &object), none, "i and k, the same again");
    let mut reordered = object.clone();
    reordered["endpoints"].as_array_mut().unwrap().reverse();
    // A change to look at, though nothing is written for it.
    assert_eq!(
        cluster.write("a", &reordered),
        svc1,
        "k, endpoints reordered"
    );
    let before = cluster.endpoints("port-0");
    assert_eq!(before, ["10.0.1.1:80*", "10.0.1.2:80", "10.0.1.3:80*"]);
    reordered["ports"].as_array_mut().unwrap().reverse();
    assert_eq!(cluster.write("a", &reordered), svc1, "k, ports reordered");
    assert_eq!(
        cluster.write("fqdn", &Value::Null),
        none,
        "i, an unknown slice removed"
    );
}

#[test]
fn row_11_11_a_changed_slice_is_the_whole_state() {
    let mut cluster = with_service();
    let both = [("port-0", 80), ("port-1", 443)];
    let http = &both[..1];
    let texts = |count: usize| -> Vec<String> {
        let all = numbered(count, "").into_iter();
        all.map(|(address, ..)| format!("{address}:80")).collect()
    };
    for (row, object, expected, of_the_other) in [
        ("first", slice("a", &both, &numbered(3, "rs")), texts(3), 3),
        ("larger", slice("a", &both, &numbered(5, "rs")), texts(5), 5),
        (
            "fewer ports",
            slice("a", http, &numbered(5, "rs")),
            texts(5),
            0,
        ),
        (
            "all unready",
            slice("a", &both, &numbered(5, "-")),
            vec![],
            0,
        ),
        (
            "all ready",
            slice("a", &both, &numbered(5, "rs")),
            texts(5),
            5,
        ),
        (
            "all terminating",
            slice("a", &both, &numbered(5, "st")),
            texts(5),
            5,
        ),
        ("removed", Value::Null, vec![], 0),
    ] {
        cluster.write("a", &object);
        assert_eq!(cluster.serving("port-0"), expected, "11.11.j, {row}");
        assert_eq!(
            cluster.serving("port-1").len(),
            of_the_other,
            "11.11.j, {row}"
        );
    }
    let mut some = numbered(3, "rs");
    some[1].2 = "st";
    cluster.write("a", &slice("a", &both, &some));
    assert_eq!(
        cluster.serving("port-0"),
        ["10.0.1.1:80", "10.0.1.3:80"],
        "11.11.j"
    );
}

#[test]
fn row_11_11_slices_removed_one_by_one_leave_nothing() {
    let mut cluster = with_service();
    for (name, port) in [("a", 80), ("b", 8080)] {
        cluster.write(name, &slice(name, &[("port-0", port)], &numbered(1, "")));
    }
    cluster.write("a", &Value::Null);
    assert_eq!(cluster.endpoints("port-0"), ["10.0.1.1:8080*"], "l");
    cluster.write("b", &Value::Null);
    assert_eq!(cluster.endpoints("port-0"), [""; 0], "l");
    let name = cluster.model.services().next().unwrap().name.clone();
    assert_eq!(cluster.model.slices(&name).len(), 0, "l");
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
