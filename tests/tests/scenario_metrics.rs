//! What Prometheus finds at `/metrics`: a text it can read, with the names that kube-proxy's
//! dashboards use.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use lb_agent::clock;
use lb_agent::dataplane::bpffs::PinPaths;
use lb_agent::outside::Outside;
use lb_agent::outside::metrics::SyncKind;
use lb_agent::outside::proxy_health::IpFamily;
use lb_agent::settings::outside::Outside as Settings;
use lb_tests::prometheus::parse;
use lb_tests::scrape;

/// Head and body of an answer.
fn get(address: SocketAddr, path: &str) -> (String, String) {
    scrape::get(address, path).unwrap()
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Names in the dashboards and rules that clusters have for kube-proxy.
const DASHBOARDS: [&str; 15] = [
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "kubeproxy_sync_full_proxy_rules_duration_seconds",
    "kubeproxy_sync_partial_proxy_rules_duration_seconds",
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds",
    "kubeproxy_network_programming_duration_seconds",
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending",
    "kubeproxy_sync_proxy_rules_endpoint_changes",
    "kubeproxy_sync_proxy_rules_service_changes_pending",
    "kubeproxy_sync_proxy_rules_service_changes",
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
    "kubeproxy_proxy_healthz",
    "kubeproxy_proxy_livez",
    "process_resident_memory_bytes",
    "process_cpu_seconds",
];

#[test]
fn a_scrape_can_be_read_and_has_the_names_of_kube_proxys_dashboards() {
    let (health, metrics) = (free(), free());
    let settings = Settings {
        health: Some(health),
        metrics: Some(metrics),
        ..Settings::default()
    };
    let directory = tempfile::tempdir().unwrap();
    let outside = Outside::start(&settings, PinPaths::new(directory.path()), false).unwrap();
    let (head, body) = get(metrics, "/metrics");
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"),
        "{head}"
    );
    let before = parse(&body).unwrap();
    // A dashboard's rate begins with a series that is there before anything happens.
    assert_eq!(
        before["kubeproxy_proxy_healthz"].value(("code", "503")),
        Some(0.0)
    );

    let now = clock::moment();
    outside.metrics.queued(3, 5, now);
    let (worked, waited) = (Duration::from_millis(3), Duration::from_millis(20));
    outside.metrics.synced(SyncKind::Full, worked, waited, now);
    outside.metrics.queued(1, 0, now);
    outside.metrics.synced(SyncKind::Delta, worked, waited, now);
    outside.metrics.queued(0, 2, now);
    outside.metrics.network_programmed(0.75);
    outside.metrics.set_no_local_endpoints(IpFamily::V4, 2, 1);
    outside.metrics.set_map("FRONTENDS", 16, 64);
    outside.metrics.set_status(4, 2, 0, 1);
    outside.metrics.tidied(7, 3);
    outside.metrics.reloaded(true);
    let (head, _) = get(health, "/healthz");
    assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
    get(health, "/livez");

    let (_, body) = get(metrics, "/metrics");
    let metrics = parse(&body).unwrap();
    for name in DASHBOARDS {
        let metric = metrics.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert!(!metric.samples.is_empty(), "{name} has no series");
    }
    let only = |name: &str| {
        let samples = &metrics[name].samples;
        assert_eq!(samples.len(), 1, "{name}");
        samples[0].value
    };
    let close = |found: f64, expected: f64| (found - expected).abs() < 1e-9;
    for (name, expected) in [
        ("kubeproxy_sync_proxy_rules_service_changes", 4.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes", 7.0),
        ("kubeproxy_sync_proxy_rules_service_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 2.0),
        ("steerage_services", 4.0),
        ("steerage_problems", 1.0),
        ("steerage_conntrack_removed_entries", 7.0),
        ("steerage_conntrack_lost_address_flows", 3.0),
        ("steerage_map_pressure_ratio", 0.25),
    ] {
        assert!(close(only(name), expected), "{name}: {}", only(name));
    }
    let labelled = |name: &str, label| metrics[name].value(label).unwrap();
    assert!(close(
        labelled("kubeproxy_proxy_healthz", ("code", "503")),
        1.0
    ));
    assert!(close(
        labelled("kubeproxy_proxy_livez", ("code", "200")),
        1.0
    ));
    let count = |name: &str, family: &str| {
        let samples = &metrics[name].samples;
        let sample = samples
            .iter()
            .find(|sample| sample.name.ends_with("_count") && sample.labels["ip_family"] == family);
        sample.unwrap().value
    };
    assert!(close(
        count("kubeproxy_sync_proxy_rules_duration_seconds", "IPv4"),
        2.0
    ));
    assert!(close(
        count("kubeproxy_sync_full_proxy_rules_duration_seconds", "IPv4"),
        1.0
    ));
    assert!(close(
        count("kubeproxy_network_programming_duration_seconds", "IPv4"),
        1.0
    ));
    let no_local = &metrics["kubeproxy_sync_proxy_rules_no_local_endpoints_total"];
    assert_eq!(no_local.kind, "gauge");
    let internal = no_local.samples.iter().find(|sample| {
        sample.labels["traffic_policy"] == "internal" && sample.labels["ip_family"] == "IPv4"
    });
    assert!(close(internal.unwrap().value, 2.0));
}
