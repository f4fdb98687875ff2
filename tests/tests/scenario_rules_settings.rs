//! Table 11.15 of kube-proxy's own tests: from its file, as the agent reads it, to settings. Functions are
//! named after their table; rows are named as there; `ours:` marks what differs on purpose.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::net::IpAddr;
use std::path::Path;

use lb_agent::config::apply;
use lb_agent::config::document::Document;
use lb_agent::config::error::ConfigError;
use lb_agent::config::layers::{Layers, Origin};
use lb_agent::config::reload::Change;
use lb_agent::plan::NodeView;
use lb_agent::settings::Settings;
use lb_agent::settings::services::LocalMode;
use lb_tests::objects::Cluster;
use serde_json::json;

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

fn layers(text: &str) -> Result<Layers, ConfigError> {
    let mut layers = Layers::new();
    layers.add_text(Path::new("config.conf"), &format!("{HEAD}{text}"))?;
    Ok(layers)
}

/// What kube-proxy's file with this text amounts to.
#[track_caller]
fn settings(text: &str) -> Settings {
    let document = layers(text).and_then(|layers| layers.document()).unwrap();
    let mut settings = Settings::new("node-a".to_owned(), "/manifests".into());
    apply(&document, &mut settings);
    settings.validate().unwrap();
    settings
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn texts(ranges: &[(IpAddr, u8)]) -> Vec<String> {
    let ranges = ranges.iter();
    ranges
        .map(|(address, length)| format!("{address}/{length}"))
        .collect()
}

#[test]
fn row_11_15_a_bind_address_replaces_the_nodes_address_of_its_family() {
    const V4: &str = "192.168.1.1";
    const V6: &str = "fd00:1234::1";
    // ours: where nothing is known there is no address, not the loopback one.
    for (bind, node, primary) in [
        ("10.0.0.1", &[][..], ["10.0.0.1", ""]),
        ("fd00:4321::2", &[], ["", "fd00:4321::2"]),
        ("", &[], ["", ""]),
        ("0.0.0.0", &[], ["", ""]),
        ("0.0.0.0", &[V4], [V4, ""]),
        ("\"::\"", &[V4], [V4, ""]),
        ("0.0.0.0", &[V6], ["", V6]),
        ("\"::\"", &[V6], ["", V6]),
        ("\"\"", &[V4, V6], [V4, V6]),
        ("10.0.0.1", &[V4, V6], ["10.0.0.1", V6]),
        ("fd00:4321::2", &[V4, V6], [V4, "fd00:4321::2"]),
        ("127.0.0.1", &[V6], ["127.0.0.1", V6]),
        ("\"::1\"", &[V4], [V4, "::1"]),
    ] {
        let settings = settings(&format!("bindAddress: {bind}\n"));
        let addresses = settings.services.node_addresses(&addresses(node));
        let view = NodeView {
            addresses: &addresses,
            ..NodeView::default()
        };
        let found = [false, true].map(|is_v6| view.primary(is_v6));
        let found = found.map(|it| it.map(|it| it.to_string()).unwrap_or_default());
        assert_eq!(found, primary, "bindAddress {bind} of a Node with {node:?}");
    }
}

/// A Node whose `podCIDRs` are these, and what becomes of the settings' view of pods.
fn pods(settings: &Settings, of_node: &[&str]) -> Vec<String> {
    let mut cluster = Cluster::new();
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "host1"},
        "spec": {"podCIDRs": of_node}});
    cluster.write("node", &node);
    texts(settings.services.pods(cluster.model.pod_cidrs()))
}

#[test]
fn row_11_15_local_detectors() {
    let of_node = ["10.244.1.0/24", "fd00:10:244:1::/64"];
    for (row, text, expected) in [
        (
            "ClusterCIDR, IPv4",
            "clusterCIDR: 10.0.0.0/14",
            &["10.0.0.0/14"][..],
        ),
        (
            "ClusterCIDR, both",
            "clusterCIDR: \"10.0.0.0/14,2002:0:0:1234::/64\"",
            &["10.0.0.0/14", "2002:0:0:1234::/64"],
        ),
        (
            "ClusterCIDR, the other order",
            "detectLocalMode: ClusterCIDR\nclusterCIDR: \"2002:0:0:1234::/64,10.0.0.0/14\"",
            &["2002:0:0:1234::/64", "10.0.0.0/14"],
        ),
        ("ClusterCIDR, none", "detectLocalMode: ClusterCIDR", &[]),
        (
            "NodeCIDR",
            "detectLocalMode: NodeCIDR\nclusterCIDR: 10.0.0.0/14",
            &of_node,
        ),
        (
            "BridgeInterface",
            "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: eth}",
            &[],
        ),
        (
            "InterfaceNamePrefix",
            "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: eth}",
            &[],
        ),
    ] {
        let settings = settings(&format!("{text}\n"));
        assert_eq!(pods(&settings, &of_node), expected, "11.15, {row}");
    }
    let node_cidr = settings("detectLocalMode: NodeCIDR\n");
    assert_eq!(pods(&node_cidr, &of_node[1..]), of_node[1..], "IPv6 alone");
    // ours: kube-proxy does not start without; pods are told by their devices all the same.
    assert_eq!(pods(&node_cidr, &[]), [""; 0], "a Node without podCIDRs");
    // ours: kube-proxy goes on without a detector.
    let unknown = layers("detectLocalMode: Abacus\n").unwrap_err().to_string();
    assert!(unknown.contains("detectLocalMode"), "{unknown}");
}

#[test]
fn row_11_15_interface_modes_make_devices_workloads() {
    let bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n";
    assert_eq!(settings(bridge).interfaces.workload_bridges, ["cni0"]);
    let prefix = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: cali}\n";
    assert_eq!(settings(prefix).interfaces.workloads, ["cali*"]);
    // Of another mode neither counts.
    let neither = settings("detectLocal: {bridgeInterface: cni0, interfaceNamePrefix: cali}\n");
    assert_eq!(
        neither.interfaces,
        Settings::new("n".into(), "/m".into()).interfaces
    );
    for mode in ["BridgeInterface", "InterfaceNamePrefix"] {
        let refused = layers(&format!("detectLocalMode: {mode}\n")).unwrap_err();
        assert!(refused.to_string().contains("detectLocal."), "{refused}");
    }
    // And the same in a file of our own kind.
    let mut own = Settings::new("n".into(), "/m".into());
    let mut document = Document::default();
    document.local_traffic.mode = Some(LocalMode::BridgeInterface);
    apply(&document, &mut own);
    let refused = own.validate().unwrap_err().to_string();
    assert!(
        refused.contains("localTraffic.bridgeInterface"),
        "{refused}"
    );
}

#[test]
fn row_11_15_lists_of_one_family_are_no_mistake() {
    // ours: kube-proxy warns where a family gets all addresses, or has no detector. Here a family that
    // is not named has no node ports, and pods are told by their devices.
    for text in [
        "",
        "nodePortAddresses: [\"192.168.0.0/24\"]",
        "nodePortAddresses: [\"fd00::/64\"]",
        "nodePortAddresses: [primary]",
        "clusterCIDR: 10.0.0.0/14",
        "clusterCIDR: fd00::/64",
        "metricsBindAddress: \"[::1]:10249\"",
    ] {
        let layers = layers(&format!("{text}\n")).unwrap();
        assert_eq!(layers.all_warnings(), [""; 0], "{text}");
    }
    let excluded = layers("ipvs: {excludeCIDRs: [fd00::/64]}\n").unwrap();
    assert_eq!(excluded.all_warnings().len(), 1, "it has no meaning at all");
}

#[test]
fn row_11_15_the_nodes_name_is_trimmed_and_lowered_and_a_flag_beats_the_file() {
    let name = |text: &str| settings(&format!("hostnameOverride: {text}\n")).node_name;
    assert_eq!(name("Foo"), "foo");
    assert_eq!(name("\" foo \""), "foo");
    assert_eq!(name("foo"), "foo");
    let blank = layers("hostnameOverride: \"  \"\n")
        .unwrap_err()
        .to_string();
    assert!(blank.contains("hostnameOverride"), "{blank}");
    let mut both = layers("hostnameOverride: file\n").unwrap();
    let flags = Document {
        node_name: Some("flag".to_owned()),
        ..Document::default()
    };
    both.add(&flags, |_| Origin::Flag("--node-name".to_owned()));
    assert_eq!(both.document().unwrap().node_name.as_deref(), Some("flag"));
}

#[test]
fn row_11_15_a_changed_file_is_applied_or_refused_where_kube_proxy_ends() {
    // ours: what needs a restart is named, and nothing of the file is taken over.
    let old = layers("conntrack: {tcpEstablishedTimeout: 1h}\n").unwrap();
    let change = |text: &str| Change::between(&old, &layers(text).unwrap());
    assert_eq!(
        change("conntrack: {tcpEstablishedTimeout: 60m}\n"),
        Change::Nothing
    );
    let live = change("conntrack: {tcpEstablishedTimeout: 2h}\n");
    assert!(matches!(live, Change::Live(_)), "{live:?}");
    let restart = change("detectLocalMode: NodeCIDR\n");
    let Change::Restart(names) = restart else {
        panic!("{restart:?}");
    };
    assert_eq!(names, ["localTraffic.mode"]);
}

#[test]
fn row_11_15_a_node_that_changes_ends_nothing() {
    let settings = settings("detectLocalMode: NodeCIDR\n");
    let mut cluster = Cluster::new();
    let node = |cidr: &str, address: &str| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "host1"},
            "spec": {"podCIDR": cidr},
            "status": {"addresses": [{"type": "InternalIP", "address": address}]}})
    };
    // ours: other addresses and other podCIDRs are taken over, where kube-proxy only logs the first and
    // ends for the second.
    for (cidr, address) in [
        ("10.244.1.0/24", "192.168.0.2"),
        ("10.244.9.0/24", "192.168.0.2"),
        ("10.244.9.0/24", "192.168.0.3"),
    ] {
        cluster.write("node", &node(cidr, address));
        let known = cluster.model.node().unwrap();
        assert_eq!(known.addresses, addresses(&[address]));
        assert_eq!(
            texts(settings.services.pods(cluster.model.pod_cidrs())),
            [cidr]
        );
    }
    let missing = Cluster::new();
    assert_eq!(settings.services.pods(missing.model.pod_cidrs()), []);
}

#[test]
fn row_11_15_defaults() {
    let settings = settings("");
    assert_eq!(settings.services.local_mode, LocalMode::ClusterCIDR);
    // ours: there is one mode, whose words are those of nftables; kube-proxy's default is iptables.
    for mode in ["\"\"", "iptables", "ipvs", "nftables"] {
        let layers = layers(&format!("mode: {mode}\n")).unwrap();
        let warns = !layers.all_warnings().is_empty();
        assert_eq!(warns, ["iptables", "ipvs"].contains(&mode), "{mode}");
    }
}
