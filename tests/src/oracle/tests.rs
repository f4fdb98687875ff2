//! The oracle itself against rows of kube-proxy's tables, named by them.

use serde_json::json;

use super::*;

/// Endpoints as `last-octet[zone hints;node hints]conditions L`, conditions being ready, serving,
/// terminating as digits.
fn endpoint(text: &str) -> Value {
    let (head, here) = text
        .strip_suffix('L')
        .map_or((text, "node-1"), |head| (head, "here"));
    let (number, rest) = head.split_once('[').unwrap();
    let (hints, conditions) = rest.split_once(']').unwrap();
    let (zones, nodes) = hints.split_once(';').unwrap_or((hints, ""));
    let names = |list: &str| -> Vec<Value> {
        let names = list.split(',').filter(|name| !name.is_empty());
        names.map(|name| json!({ "name": name })).collect()
    };
    let bit = |index: usize| conditions.as_bytes().get(index).map(|byte| *byte == b'1');
    json!({
        "addresses": [format!("10.0.0.{number}")],
        "nodeName": here,
        "conditions": { "ready": bit(0), "serving": bit(1), "terminating": bit(2) },
        "hints": { "forZones": names(zones), "forNodes": names(nodes) },
    })
}

/// Checks who serves clients of the cluster address and clients from outside.
#[track_caller]
fn check(row: &str, zone: &str, policies: (&str, &str), endpoints: &str, expected: (&str, &str)) {
    let (internal, external) = policies;
    let service = json!({
        "metadata": { "name": "s", "namespace": "n" },
        "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"],
            "internalTrafficPolicy": internal, "externalTrafficPolicy": external,
            "ports": [{ "port": 80, "nodePort": 30080 }],
        },
    });
    let slice = json!({
        "metadata": {
            "name": "e", "namespace": "n", "labels": { "kubernetes.io/service-name": "s" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 80, "protocol": "TCP" }],
        "endpoints": endpoints.split_whitespace().map(endpoint).collect::<Vec<_>>(),
    });
    let expectations = Expected::of(&Cluster {
        services: vec![service],
        slices: vec![slice],
        service_cidrs: Vec::new(),
        node: json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": zone } } }),
        node_name: "here".to_owned(),
    });
    let says = |outcome: &Outcome| match outcome {
        Outcome::Refuse => "refuse".to_owned(),
        Outcome::Drop => "drop".to_owned(),
        Outcome::To(places) => {
            let octets = places.iter().map(|(address, _)| address.to_string());
            let octets: Vec<_> = octets
                .map(|text| text.trim_start_matches("10.0.0.").to_owned())
                .collect();
            octets.join(" ")
        }
    };
    let frontends = &expectations.frontends;
    let cluster_ip = "10.96.0.1".parse().unwrap();
    let inside = &frontends[&Frontend::Address(cluster_ip, 80, "TCP".to_owned())];
    let outside = &frontends[&Frontend::NodePort(false, 30080, "TCP".to_owned())];
    let found = (says(&inside.inside), says(&outside.outside));
    assert_eq!((found.0.as_str(), found.1.as_str()), expected, "{row}");
}

#[test]
fn rows_of_categorize_endpoints_come_out_as_in_kube_proxy() {
    let (cluster, local) = ("Cluster", "Local");
    let both = (cluster, cluster);
    let zones = "3[a] 4[b] 5[c] 6[a]";
    check("1", "a", both, zones, ("3 6", "3 6"));
    let here = "3[a]L 4[b]L 5[c] 6[a]";
    check("2", "a", (cluster, local), here, ("3 6", "3 4"));
    check("3", "a", (local, cluster), here, ("3 4", "3 6"));
    check("5", "", both, "3[a]", ("3", "3"));
    check("6", "b", both, "3[a]", ("3", "3"));
    check("8", "a", both, "3[a]0 4[b] 5[c] 6[a]0", ("4 5", "4 5"));
    check("9", "a", both, "3[a] 4[b] 5[] 6[a]", ("3 4 5 6", "3 4 5 6"));
    check(
        "10",
        "c",
        both,
        "3[a,b,c] 4[b,c] 5[b,d] 6[c]",
        ("3 4 6", "3 4 6"),
    );
    let nodes = "3[a;here] 4[b;n2] 5[c;n3] 6[a;n4]";
    check("12", "a", both, nodes, ("3", "3"));
    check(
        "13",
        "a",
        both,
        "3[a;here] 4[] 5[c;n3] 6[a;n4]",
        ("3 4 5 6", "3 4 5 6"),
    );
    let elsewhere = "3[a;n1] 4[b;n2] 5[c;n3] 6[a;n4]";
    check("14", "a", both, elsewhere, ("3 6", "3 6"));
    check("16", "", (local, local), "", ("refuse", "refuse"));
    check("17", "", (local, local), "1[] 2[]", ("drop", "drop"));
    check("21", "", both, "1[]0 2[]1", ("2", "2"));
    check("22", "", both, "1[]011L 2[]011", ("1 2", "1 2"));
    check("27", "", (local, local), "1[]011 2[]011", ("drop", "drop"));
    check(
        "28",
        "",
        (cluster, local),
        "1[]110 2[]000L 3[]011L 4[]011",
        ("1", "3"),
    );
    check("32", "", both, "1[]001", ("refuse", "refuse"));
}
