//! Every field of v1alpha1: what it becomes, or that it is named as having no meaning.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::config::tree::{json_leaves, put};

const HEAD: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// A field, a value that asks for something, and what comes of it.
struct Row {
    field: &'static str,
    value: Value,
    expected: Expected,
}

enum Expected {
    /// Our setting, and its value.
    Setting(&'static str, Value),
    /// The field is named in the warning.
    NoMeaning,
}

#[expect(clippy::too_many_lines, reason = "one row for each field")]
fn rows() -> Vec<Row> {
    use Expected::{NoMeaning, Setting};

    let row = |field, value, expected| Row {
        field,
        value,
        expected,
    };
    vec![
        row("featureGates", json!({"KubeProxyIPVS": true}), NoMeaning),
        row(
            "clientConnection.kubeconfig",
            json!("/var/lib/kube-proxy/kubeconfig.conf"),
            Setting(
                "client.kubeconfig",
                json!("/var/lib/kube-proxy/kubeconfig.conf"),
            ),
        ),
        row(
            "clientConnection.acceptContentTypes",
            json!("application/json"),
            NoMeaning,
        ),
        row(
            "clientConnection.contentType",
            json!("application/json"),
            NoMeaning,
        ),
        row(
            "clientConnection.qps",
            json!(7.5),
            Setting("client.qps", json!(7.5)),
        ),
        row(
            "clientConnection.burst",
            json!(20),
            Setting("client.burst", json!(20)),
        ),
        row(
            "logging.format",
            json!("json"),
            Setting("log.format", json!("Json")),
        ),
        row("logging.flushFrequency", json!("7s"), NoMeaning),
        row(
            "logging.verbosity",
            json!(5),
            Setting("log.level", json!("debug")),
        ),
        row(
            "logging.vmodule",
            json!([{"filePattern": "a*", "verbosity": 3}]),
            NoMeaning,
        ),
        row("logging.options.text.splitStream", json!(true), NoMeaning),
        row(
            "logging.options.text.infoBufferSize",
            json!("1Mi"),
            NoMeaning,
        ),
        row("logging.options.json.splitStream", json!(true), NoMeaning),
        row("logging.options.json.infoBufferSize", json!(7), NoMeaning),
        row(
            "hostnameOverride",
            json!(" Node-A "),
            Setting("nodeName", json!("node-a")),
        ),
        row(
            "bindAddress",
            json!("10.0.0.1"),
            Setting("services.nodeAddress", json!("10.0.0.1")),
        ),
        row(
            "healthzBindAddress",
            json!("127.0.0.1"),
            Setting("health.bindAddress", json!("127.0.0.1:10256")),
        ),
        row(
            "metricsBindAddress",
            json!("0.0.0.0:9100"),
            Setting("metrics.bindAddress", json!("0.0.0.0:9100")),
        ),
        row(
            "bindAddressHardFail",
            json!(true),
            Setting("bindHardFail", json!(true)),
        ),
        row("enableProfiling", json!(true), NoMeaning),
        row("showHiddenMetricsForVersion", json!("1.35"), NoMeaning),
        row("mode", json!("iptables"), NoMeaning),
        row("iptables.masqueradeBit", json!(15), NoMeaning),
        row(
            "iptables.masqueradeAll",
            json!(true),
            Setting("services.masquerade", json!("All")),
        ),
        row(
            "iptables.localhostNodePorts",
            json!(false),
            Setting("services.localhostNodePorts", json!(false)),
        ),
        row("iptables.snatNodeInternalIP", json!(true), NoMeaning),
        row(
            "iptables.syncPeriod",
            json!("40s"),
            Setting("health.timeout", json!("1m20s")),
        ),
        row("iptables.minSyncPeriod", json!("2s"), NoMeaning),
        // In force only in its own mode: see `the_period_of_the_mode_in_force_counts`.
        row(
            "ipvs.syncPeriod",
            json!("40s"),
            Setting("health.timeout", Value::Null),
        ),
        row("ipvs.minSyncPeriod", json!("2s"), NoMeaning),
        row("ipvs.scheduler", json!("rr"), NoMeaning),
        row("ipvs.excludeCIDRs", json!(["10.0.0.0/8"]), NoMeaning),
        row("ipvs.strictARP", json!(true), NoMeaning),
        row("ipvs.tcpTimeout", json!("1h"), NoMeaning),
        row("ipvs.tcpFinTimeout", json!("1m"), NoMeaning),
        row("ipvs.udpTimeout", json!("1m"), NoMeaning),
        row("nftables.masqueradeBit", json!(13), NoMeaning),
        row(
            "nftables.masqueradeAll",
            json!(true),
            Setting("services.masquerade", json!("All")),
        ),
        row(
            "nftables.syncPeriod",
            json!("40s"),
            Setting("health.timeout", Value::Null),
        ),
        row("nftables.minSyncPeriod", json!("2s"), NoMeaning),
        row("winkernel.networkName", json!("n"), NoMeaning),
        row("winkernel.sourceVip", json!("10.0.0.9"), NoMeaning),
        row("winkernel.enableDSR", json!(true), NoMeaning),
        row("winkernel.rootHnsEndpointName", json!("e"), NoMeaning),
        row("winkernel.forwardHealthCheckVip", json!(true), NoMeaning),
        row(
            "detectLocalMode",
            json!("NodeCIDR"),
            Setting("localTraffic.mode", json!("NodeCIDR")),
        ),
        row(
            "detectLocal.bridgeInterface",
            json!("cni0"),
            Setting("localTraffic.bridgeInterface", json!("cni0")),
        ),
        row(
            "detectLocal.interfaceNamePrefix",
            json!("veth"),
            Setting("localTraffic.interfaceNamePrefix", json!("veth")),
        ),
        row(
            "clusterCIDR",
            json!("10.244.0.1/16,fd00:10:244::/56"),
            Setting(
                "localTraffic.clusterCIDRs",
                json!(["10.244.0.0/16", "fd00:10:244::/56"]),
            ),
        ),
        row(
            "nodePortAddresses",
            json!(["primary", "192.0.2.1/24"]),
            Setting(
                "services.nodePortAddresses",
                json!(["primary", "192.0.2.0/24"]),
            ),
        ),
        row(
            "oomScoreAdj",
            json!(-500),
            Setting("oomScoreAdj", json!(-500)),
        ),
        row(
            "conntrack.maxPerCore",
            json!(0),
            Setting("conntrack.maxPerCore", json!(0)),
        ),
        row(
            "conntrack.min",
            json!(1000),
            Setting("conntrack.min", json!(1000)),
        ),
        row(
            "conntrack.tcpEstablishedTimeout",
            json!("2h0m0s"),
            Setting("conntrack.tcpEstablishedSeconds", json!(7200)),
        ),
        row(
            "conntrack.tcpCloseWaitTimeout",
            json!("10m"),
            Setting("conntrack.tcpCloseWaitSeconds", json!(600)),
        ),
        row(
            "conntrack.tcpBeLiberal",
            json!(true),
            Setting("conntrack.tcpBeLiberal", json!(true)),
        ),
        row(
            "conntrack.udpTimeout",
            json!("20s"),
            Setting("conntrack.udpSeconds", json!(20)),
        ),
        row(
            "conntrack.udpStreamTimeout",
            json!("90s"),
            Setting("conntrack.udpStreamSeconds", json!(90)),
        ),
        row("configSyncPeriod", json!("1m"), NoMeaning),
        row("portRange", json!("1-2"), NoMeaning),
        row("windowsRunAsService", json!(true), NoMeaning),
    ]
}

fn read_value(value: &Value) -> KubeProxyFile {
    // JSON, as a ConfigMap may have it.
    read(&serde_json::to_string_pretty(value).unwrap()).unwrap()
}

fn setting(file: &KubeProxyFile, name: &str) -> Value {
    let document = serde_json::to_value(&file.document).unwrap();
    json_leaves(&document)
        .into_iter()
        .find(|(path, _)| path == name)
        .map_or(Value::Null, |(_, value)| value)
}

#[test]
fn every_field_is_honoured_or_named_as_having_no_meaning() {
    use Expected::{NoMeaning, Setting};

    for Row {
        field,
        value,
        expected,
    } in rows()
    {
        let mut root = json!({});
        put(&mut root, field, value);
        let file = read_value(&root);
        assert_eq!(file.unknown, [], "{field}");
        let effect = effect(field).unwrap();
        match expected {
            Setting(name, value) => {
                assert_eq!(effect, Effect::Honoured(name), "{field}");
                assert_eq!(setting(&file, name), value, "{field}");
                assert_eq!(file.without_meaning, [""; 0], "{field}");
            }
            NoMeaning => {
                assert!(matches!(effect, Effect::Nothing(_)), "{field}");
                let [named] = file.without_meaning.as_slice() else {
                    panic!("{field}: {:?}", file.without_meaning);
                };
                assert!(named.starts_with(field), "{named}");
            }
        }
    }
}

#[test]
fn the_table_has_a_row_for_every_field_and_no_other() {
    let tested: BTreeSet<_> = rows().iter().map(|row| row.field).collect();
    let known: BTreeSet<_> = FIELDS.iter().map(|(field, _)| *field).collect();
    assert_eq!(tested, known);
    assert_eq!(known.len(), FIELDS.len(), "no field twice");
}

#[test]
fn the_period_of_the_mode_in_force_counts() {
    for (mode, section, expected) in [
        ("", "iptables", json!("2m")),
        ("iptables", "iptables", json!("2m")),
        ("ipvs", "ipvs", json!("2m")),
        ("nftables", "nftables", json!("2m")),
        ("nftables", "iptables", Value::Null),
        ("iptables", "nftables", Value::Null),
        ("ipvs", "iptables", Value::Null),
    ] {
        let file = read_value(&json!({"mode": mode, section: {"syncPeriod": "1m"}}));
        assert_eq!(
            setting(&file, "health.timeout"),
            expected,
            "{mode} {section}"
        );
    }
}

#[test]
fn masquerade_all_is_that_of_the_mode() {
    for (mode, section, expected) in [
        ("iptables", "iptables", json!("All")),
        ("iptables", "nftables", Value::Null),
        ("ipvs", "iptables", json!("All")),
        ("nftables", "nftables", json!("All")),
        ("nftables", "iptables", Value::Null),
    ] {
        let file = read_value(&json!({"mode": mode, section: {"masqueradeAll": true}}));
        assert_eq!(
            setting(&file, "services.masquerade"),
            expected,
            "{mode} {section}"
        );
    }
}

#[test]
fn an_ipv6_bind_address_flips_the_defaults() {
    for (bind, health, metrics, node) in [
        ("", "0.0.0.0:10256", "127.0.0.1:10249", Value::Null),
        ("0.0.0.0", "0.0.0.0:10256", "127.0.0.1:10249", Value::Null),
        ("::", "[::]:10256", "[::1]:10249", Value::Null),
        ("fd00::1", "[::]:10256", "[::1]:10249", json!("fd00::1")),
    ] {
        let file = read_value(&json!({"bindAddress": bind}));
        assert_eq!(
            setting(&file, "health.bindAddress"),
            json!(health),
            "{bind}"
        );
        assert_eq!(
            setting(&file, "metrics.bindAddress"),
            json!(metrics),
            "{bind}"
        );
        assert_eq!(setting(&file, "services.nodeAddress"), node, "{bind}");
    }
}

#[test]
fn kubeadms_file_gives_no_warning_and_kube_proxys_defaults() {
    let file = read(include_str!("kubeadm.yaml")).unwrap();
    assert_eq!(file.unknown, []);
    assert_eq!(file.without_meaning, [""; 0]);
    for (name, value) in [
        (
            "client.kubeconfig",
            json!("/var/lib/kube-proxy/kubeconfig.conf"),
        ),
        ("client.qps", Value::Null),
        ("nodeName", Value::Null),
        ("health.bindAddress", json!("0.0.0.0:10256")),
        ("metrics.bindAddress", json!("127.0.0.1:10249")),
        ("conntrack.maxPerCore", json!(32_768)),
        ("conntrack.min", json!(131_072)),
        ("conntrack.tcpEstablishedSeconds", json!(86_400)),
        ("conntrack.tcpCloseWaitSeconds", json!(3_600)),
        ("conntrack.udpSeconds", json!(0)),
        ("localTraffic.clusterCIDRs", json!(["10.244.0.0/16"])),
        ("services.nodePortAddresses", Value::Null),
        ("health.timeout", Value::Null),
        ("oomScoreAdj", Value::Null),
    ] {
        assert_eq!(setting(&file, name), value, "{name}");
    }
}

#[test]
fn unknown_fields_are_named_with_their_lines() {
    let file = read(&format!(
        "{HEAD}mode: nftables\ncolour: red\niptables:\n  masqueradeAl: true\nmode: nftables\n"
    ))
    .unwrap();
    assert_eq!(
        file.unknown,
        [
            ("colour".to_owned(), 4),
            ("iptables.masqueradeAl".to_owned(), 6)
        ]
    );
}

#[test]
fn a_wrong_type_or_value_is_refused_with_line_and_field() {
    for (text, line, part) in [
        (
            "iptables:\n  masqueradeAll: 7\n",
            4,
            "iptables.masqueradeAll",
        ),
        ("conntrack:\n  min: many\n", 4, "conntrack.min"),
        ("conntrack:\n  min: -1\n", 4, "conntrack.min"),
        ("hostnameOverride: 12\n", 3, "hostnameOverride"),
        ("hostnameOverride: \"  \"\n", 3, "hostnameOverride"),
        (
            "mode: nftables\nconfigSyncPeriod: 15\n",
            4,
            "configSyncPeriod",
        ),
        ("iptables:\n  syncPeriod: -1s\n", 4, "iptables.syncPeriod"),
        (
            "nftables:\n  syncPeriod: 1s\n  minSyncPeriod: 2s\n",
            5,
            "nftables.minSyncPeriod",
        ),
        ("mode: kernelspace\n", 3, "mode"),
        ("bindAddress: localhost\n", 3, "bindAddress"),
        ("healthzBindAddress: host:1\n", 3, "healthzBindAddress"),
        (
            "metricsBindAddress: \"1.2.3.4:x\"\n",
            3,
            "metricsBindAddress",
        ),
        ("clusterCIDR: 10.0.0.0/8,10.1.0.0/16\n", 3, "clusterCIDR"),
        ("clusterCIDR: 10.0.0.0\n", 3, "clusterCIDR"),
        ("nodePortAddresses:\n- everywhere\n", 4, "nodePortAddresses"),
        ("oomScoreAdj: 1001\n", 3, "oomScoreAdj"),
        ("detectLocalMode: Guess\n", 3, "detectLocalMode"),
        (
            "nftables:\n  masqueradeBit: 32\n",
            4,
            "nftables.masqueradeBit",
        ),
        ("logging:\n  format: xml\n", 4, "logging.format"),
        (
            "clientConnection:\n  burst: -1\n",
            4,
            "clientConnection.burst",
        ),
        (
            "clientConnection:\n  qps: .nan\n",
            4,
            "clientConnection.qps",
        ),
        ("ipvs: []\n", 3, "ipvs"),
    ] {
        let mistake = read(&format!("{HEAD}{text}")).unwrap_err();
        assert!(mistake.message.contains(part), "{mistake:?} lacks {part:?}");
        assert_eq!(mistake.line, line, "{mistake:?}");
    }
}
