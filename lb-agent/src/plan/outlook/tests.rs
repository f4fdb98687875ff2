//! Counts of kube-proxy's tables for health-check node ports and for Services without endpoints
//! here.

use super::*;
use crate::model::endpoint::{Endpoint, EndpointSlice};
use crate::model::service::Service;
use crate::plan::tests::fixture::{NODE, endpoint, service, slice};

const HTTP: [(&str, u16); 1] = [("http", 80)];

fn local(address: &str) -> Endpoint {
    Endpoint {
        node: Some(NODE.name.into()),
        ..endpoint(address)
    }
}

fn terminating(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        terminating: true,
        ..endpoint
    }
}

/// Two ports and a node port each, in both families.
fn web(internal: TrafficPolicy, external: TrafficPolicy) -> Service {
    let mut service = service(
        "web",
        &["10.96.0.1", "fd00:96::1"],
        &[("http", 80), ("https", 443)],
    );
    (service.internal_policy, service.external_policy) = (internal, external);
    for port in &mut service.ports {
        port.node_port = 30_000 + port.port;
    }
    service
}

fn seen(service: &Service, slices: &[EndpointSlice]) -> [Option<Outlook>; 2] {
    outlook(&ServiceView::new(service, slices), &NODE)
}

fn count(slices: &[EndpointSlice]) -> usize {
    let service = web(TrafficPolicy::Cluster, TrafficPolicy::Local);
    seen(&service, slices)[0].unwrap().local_endpoints
}

#[test]
fn ready_endpoints_on_this_node_count_once_over_all_ports() {
    let ports = [("http", 8080), ("https", 8443)];
    assert_eq!(count(&[]), 0);
    assert_eq!(
        count(&[slice("a", "web", &ports, [endpoint("10.0.0.1")])]),
        0
    );
    let nameless = Endpoint {
        node: None,
        ..endpoint("10.0.0.9")
    };
    assert_eq!(count(&[slice("a", "web", &ports, [nameless])]), 0);
    let all = [
        local("10.0.0.1"),
        local("10.0.0.2"),
        endpoint("10.0.0.3"),
        terminating(local("10.0.0.4")),
    ];
    assert_eq!(count(&[slice("a", "web", &ports, all)]), 2);
    // All of them terminate: the load balancer lets go, while they still serve.
    let all = [
        terminating(local("10.0.0.1")),
        terminating(local("10.0.0.2")),
    ];
    assert_eq!(count(&[slice("a", "web", &ports, all)]), 0);
    // Different addresses at different ports.
    assert_eq!(
        count(&[
            slice("a", "web", &[("http", 8080)], [local("10.0.0.1")]),
            slice("b", "web", &[("https", 8443)], [local("10.0.0.2")]),
        ]),
        2
    );
}

#[test]
fn families_are_counted_apart() {
    let service = web(TrafficPolicy::Cluster, TrafficPolicy::Local);
    let slices = [
        slice("a", "web", &HTTP, [local("10.0.0.1")]),
        slice("b", "web", &HTTP, [local("fd00::1"), local("fd00::2")]),
    ];
    let counts = seen(&service, &slices).map(|family| family.unwrap().local_endpoints);
    assert_eq!(counts, [1, 2]);
    let mut only_v4 = service;
    only_v4.cluster_ips.truncate(1);
    assert_eq!(seen(&only_v4, &slices)[1], None);
}

#[test]
fn ports_with_endpoints_elsewhere_only_are_counted_by_policy() {
    use TrafficPolicy::{Cluster, Local};
    let here = [slice(
        "a",
        "web",
        &HTTP,
        [
            local("10.0.0.1"),
            endpoint("10.0.0.2"),
            endpoint("10.0.0.3"),
        ],
    )];
    let elsewhere = [slice(
        "a",
        "web",
        &HTTP,
        [endpoint("10.0.0.1"), endpoint("10.0.0.2")],
    )];
    for (internal, external, slices, expected) in [
        (Local, Cluster, &here[..], (0, 0)),
        (Cluster, Local, &here, (0, 0)),
        (Local, Local, &here, (0, 0)),
        (Local, Cluster, &elsewhere, (1, 0)),
        (Cluster, Local, &elsewhere, (0, 1)),
        (Local, Local, &elsewhere, (1, 1)),
        // No endpoint at all is another trouble.
        (Local, Local, &[], (0, 0)),
    ] {
        let outlook = seen(&web(internal, external), slices)[0].unwrap();
        let found = (
            outlook.internal_without_local,
            outlook.external_without_local,
        );
        assert_eq!(
            found,
            expected,
            "{internal:?} {external:?} {}",
            slices.len()
        );
    }
    // Nobody outside can reach it: its external policy means nothing.
    let mut unreachable = web(Cluster, Local);
    for port in &mut unreachable.ports {
        port.node_port = 0;
    }
    let outlook = seen(&unreachable, &elsewhere)[0].unwrap();
    assert_eq!(outlook.external_without_local, 0);
}

#[test]
fn nobody_asks_about_services_that_are_the_same_everywhere() {
    let service = web(TrafficPolicy::Cluster, TrafficPolicy::Cluster);
    assert_eq!(seen(&service, &[]), [None; 2]);
}
