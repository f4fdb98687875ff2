//! Table 11.11 of kube-proxy's own tests: from slices, as the agent reads them, to endpoints. Functions
//! are named after their table; rows are lettered in their order there; `ours:` marks what differs on
//! purpose.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::BTreeSet;

use lb_agent::model::name::ObjectName;
use lb_agent::plan::latency::TriggerTimes;
use lb_tests::objects::{Cluster, service, slice};
use serde_json::{Value, json};

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

/// What happens to a slice whose annotation says this second, and the seconds that are settled with the
/// tables complete at second 100.
#[test]
fn row_11_11_trigger_times() {
    const ADDED: Option<u32> = Some(10);
    let http = [("port-0", 80)];
    for (row, steps, expected) in [
        ("a, added", &[ADDED][..], &[90.0][..]),
        ("b, then updated", &[ADDED, Some(20)], &[90.0, 80.0]),
        ("the same time again", &[ADDED, ADDED], &[90.0]),
        ("c, no annotation", &[Some(0)], &[]),
        ("d, before the start", &[Some(3)], &[]),
        ("e, deleted", &[ADDED, None], &[]),
        (
            "f, added, deleted, added",
            &[ADDED, None, Some(30)],
            &[70.0],
        ),
    ] {
        let mut cluster = with_service();
        let mut times = TriggerTimes::new(5_000_000);
        let name = ObjectName {
            namespace: "ns1".into(),
            name: "a".into(),
        };
        for step in steps {
            let Some(second) = step else {
                cluster.write("a", &Value::Null);
                times.removed(&name);
                continue;
            };
            let mut object = slice("a", &http, &numbered(1, ""));
            if *second > 0 {
                let at = format!("1970-01-01T00:00:{second:02}Z");
                object["metadata"]["annotations"] =
                    json!({"endpoints.kubernetes.io/last-change-trigger-time": at});
            }
            cluster.write("a", &object);
            let service = ObjectName {
                namespace: "ns1".into(),
                name: "svc1".into(),
            };
            let slices: Vec<_> = cluster.model.slices(&service).collect();
            assert_eq!(slices.len(), 1);
            times.applied(&name, slices[0].triggered_micros);
        }
        let settled: Vec<f64> = times.settle(100_000_000).collect();
        assert_eq!(settled, expected, "11.11, {row}");
        assert_eq!(times.settle(100_000_000).count(), 0, "each is told once");
    }
}
