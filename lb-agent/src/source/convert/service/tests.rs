//! What of a Service is kept, left out silently, or reported.

use lb_common::flow::Protocol;
use serde_json::{Value, json};

use super::*;

/// Converts a Service of this `spec` and `status`; the notes as `field: detail`.
fn convert_spec(spec: Value, status: Value) -> (Option<Service>, Vec<String>) {
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": "ns", "name": "svc"},
    });
    service["spec"] = spec;
    service["status"] = status;
    let mut notes = Notes::new();
    let service = serde_json::from_value(service).unwrap();
    let service = convert(&service, &mut Interner::default(), &mut notes).unwrap();
    (
        service,
        notes
            .iter()
            .map(|note| format!("{}: {}", note.field, note.detail))
            .collect(),
    )
}

#[track_caller]
fn clean(spec: Value) -> Service {
    let (service, notes) = convert_spec(spec, json!({}));
    assert_eq!(notes, Vec::<String>::new());
    service.unwrap()
}

fn texts(addresses: &[IpAddr]) -> Vec<String> {
    addresses.iter().map(ToString::to_string).collect()
}

#[test]
fn services_that_are_none_of_ours_are_left_out_silently() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 1234, "protocol": "UDP"}]}),
        json!({"clusterIP": "None"}),
        json!({"clusterIPs": ["None"]}),
        json!({"type": "ExternalName", "externalName": "example.com"}),
        json!({"type": "ExternalName", "clusterIP": "172.16.55.4", "ports": [{"port": 80}]}),
    ] {
        assert_eq!(
            convert_spec(spec.clone(), json!({})),
            (None, vec![]),
            "{spec}"
        );
    }
}

#[test]
fn the_label_of_another_proxy_leaves_a_service_out_whatever_its_value() {
    for value in ["other", ""] {
        let service = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "svc", "labels": {PROXY_NAME: value}},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
        }))
        .unwrap();
        let mut notes = Notes::new();
        assert_eq!(
            convert(&service, &mut Interner::default(), &mut notes),
            Ok(None)
        );
    }
}

#[test]
fn a_service_nobody_gave_an_address_is_reported() {
    for spec in [json!({}), json!({"clusterIP": ""}), Value::Null] {
        let (service, notes) = convert_spec(spec, json!({}));
        assert_eq!(service, None);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("spec.clusterIP: missing"), "{notes:?}");
    }
}

#[test]
fn a_service_without_a_name_is_an_error() {
    let error = convert(
        &ApiService::default(),
        &mut Interner::default(),
        &mut Notes::new(),
    );
    assert_eq!(
        error,
        Err(FieldProblem::new("metadata.name", Detail::MissingName))
    );
}

#[test]
fn there_is_one_cluster_address_of_each_family() {
    for (spec, expected) in [
        (json!({"clusterIP": "10.0.0.1"}), vec!["10.0.0.1"]),
        (
            json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1", "10.0.0.1"],
                "ipFamilies": ["IPv6", "IPv4"]}),
            vec!["fd00::1", "10.0.0.1"],
        ),
        (
            json!({"clusterIPs": ["10.0.0.1", "fd00::1"]}),
            vec!["10.0.0.1", "fd00::1"],
        ),
        (
            json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"]}),
            vec!["10.0.0.1"],
        ),
    ] {
        assert_eq!(texts(&clean(spec).cluster_ips), expected);
    }
    for (spec, expected, field) in [
        (
            json!({"clusterIPs": ["10.0.0.1", "10.0.0.2"]}),
            vec!["10.0.0.1"],
            "spec.clusterIPs[1]",
        ),
        (
            json!({"clusterIPs": ["10.0.0.1", "fd00::1"], "ipFamilies": ["IPv4"]}),
            vec!["10.0.0.1"],
            "spec.clusterIPs[1]",
        ),
        (
            json!({"clusterIPs": ["bad", "fd00::1"]}),
            vec!["fd00::1"],
            "spec.clusterIPs[0]",
        ),
    ] {
        let (service, notes) = convert_spec(spec, json!({}));
        assert_eq!(texts(&service.unwrap().cluster_ips), expected);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with(field), "{notes:?}");
    }
}

#[test]
fn a_service_whose_only_address_is_bad_is_left_out_and_reported() {
    let (service, notes) = convert_spec(json!({"clusterIP": "10.0.0.300"}), json!({}));
    assert_eq!(service, None);
    assert_eq!(
        notes,
        ["spec.clusterIP: \"10.0.0.300\" is not an IP address; ignored"]
    );
}

#[test]
fn ports_have_a_protocol_and_their_node_port_counts_whatever_the_type() {
    let service = clean(json!({"clusterIP": "10.0.0.1", "ports": [
        {"port": 80, "targetPort": "http"},
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "sctp", "port": 99, "protocol": "SCTP", "nodePort": 0},
    ]}));
    let expected = [
        ("", Protocol::Tcp, 80, 0),
        ("dns", Protocol::Udp, 53, 30053),
        ("sctp", Protocol::Sctp, 99, 0),
    ];
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| (port.name.as_str(), port.protocol, port.port, port.node_port))
        .collect();
    assert_eq!(ports, expected);
}

#[test]
fn ports_that_cannot_be_are_reported_and_the_others_stay() {
    let (service, notes) = convert_spec(
        json!({"clusterIP": "10.0.0.1", "ports": [
            {"name": "zero", "port": 0},
            {"name": "large", "port": 65536},
            {"name": "icmp", "port": 1, "protocol": "ICMP"},
            {"name": "good", "port": 65535, "nodePort": 70000},
            {"name": "good", "port": 81},
        ]}),
        json!({}),
    );
    let ports = service.unwrap().ports;
    assert_eq!(ports.len(), 1);
    assert_eq!((ports[0].port, ports[0].node_port), (65535, 0));
    assert_eq!(
        notes,
        [
            "spec.ports[0].port: 0 is not a port (1 to 65535); ignored",
            "spec.ports[1].port: 65536 is not a port (1 to 65535); ignored",
            "spec.ports[2].protocol: \"ICMP\" is none of TCP, UDP, SCTP; the port is ignored",
            "spec.ports[3].nodePort: 70000 is not a port (1 to 65535); ignored",
            "spec.ports[4].name: another port before it has the same name and protocol; ignored",
        ]
    );
}

#[test]
fn external_addresses_are_those_of_its_own_families_whatever_the_type() {
    let (service, notes) = convert_spec(
        json!({"clusterIP": "10.0.0.1", "externalIPs": ["1.2.3.004", "", "fd01::1", "bad"],
            "loadBalancerIP": "5.6.7.8", "loadBalancerSourceRanges": [" 10.1.2.0/28", "x"]}),
        json!({"loadBalancer": {"ingress": [
            {"ip": "10.1.2.4"}, {"ip": "10.1.2.5", "ipMode": "VIP"},
            {"ip": "10.1.2.6", "ipMode": "Proxy"}, {"ip": "fd01::4"}, {"hostname": "example.com"},
        ]}}),
    );
    let service = service.unwrap();
    assert_eq!(texts(&service.external_ips), ["1.2.3.4"]);
    assert_eq!(texts(&service.load_balancer_ips), ["10.1.2.4", "10.1.2.5"]);
    assert_eq!(service.source_ranges, [("10.1.2.0".parse().unwrap(), 28)]);
    assert_eq!(
        notes,
        [
            "spec.externalIPs[3]: \"bad\" is not an IP address; ignored",
            "spec.loadBalancerSourceRanges[1]: \"x\" is not a network such as 10.0.0.0/8; ignored",
        ]
    );
}

#[test]
fn affinity_is_by_client_address_with_a_timeout() {
    let config = |seconds| {
        json!({"clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}})
    };
    assert_eq!(
        clean(json!({"clusterIP": "10.0.0.1"})).affinity_seconds,
        None
    );
    let none = json!({"clusterIP": "10.0.0.1", "sessionAffinity": "None"});
    assert_eq!(clean(none).affinity_seconds, None);
    let plain = json!({"clusterIP": "10.0.0.1", "sessionAffinity": "ClientIP"});
    assert_eq!(clean(plain).affinity_seconds, Some(10_800));
    for seconds in [1, 86_400] {
        assert_eq!(
            clean(config(seconds)).affinity_seconds,
            u32::try_from(seconds).ok()
        );
    }
    for seconds in [0, -1, 86_401] {
        let (service, notes) = convert_spec(config(seconds), json!({}));
        assert_eq!(service.unwrap().affinity_seconds, Some(10_800));
        assert_eq!(notes.len(), 1);
    }
}

#[test]
fn external_policy_local_needs_a_way_in_and_a_health_port_a_load_balancer() {
    for (kind, externals, policy, expected, health) in [
        ("ClusterIP", json!([]), "Local", TrafficPolicy::Cluster, 0),
        (
            "ClusterIP",
            json!(["1.2.3.4"]),
            "Local",
            TrafficPolicy::Local,
            0,
        ),
        ("NodePort", json!([]), "Local", TrafficPolicy::Local, 0),
        (
            "LoadBalancer",
            json!([]),
            "Local",
            TrafficPolicy::Local,
            345,
        ),
        (
            "LoadBalancer",
            json!([]),
            "Cluster",
            TrafficPolicy::Cluster,
            0,
        ),
    ] {
        let service = clean(json!({"clusterIP": "10.0.0.1", "type": kind,
            "externalIPs": externals, "externalTrafficPolicy": policy,
            "internalTrafficPolicy": "Local", "healthCheckNodePort": 345}));
        assert_eq!(service.external_policy, expected, "{kind} {policy}");
        assert_eq!(service.health_check_node_port, health, "{kind} {policy}");
        assert_eq!(service.internal_policy, TrafficPolicy::Local);
    }
}
