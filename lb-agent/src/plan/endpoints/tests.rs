//! kube-proxy's own tables for endpoint categories (11.9, rows by their number) and for joining
//! slices (11.11).

use super::*;
use crate::model::service::Service;
use crate::plan::tests::fixture::{endpoint, service, slice};

/// What each list holds, by the endpoints' numbers; `None` where no policy asks for the list.
type List<'a> = Option<&'a [u8]>;

/// Traffic policies of a row, and whether the port has a node port.
#[derive(Clone, Copy)]
struct Policies(TrafficPolicy, TrafficPolicy, u16);

const CLUSTER: Policies = Policies(TrafficPolicy::Cluster, TrafficPolicy::Cluster, 0);
const CLUSTER_NODE_PORT: Policies = Policies(TrafficPolicy::Cluster, TrafficPolicy::Cluster, 3001);
const INTERNAL_LOCAL: Policies = Policies(TrafficPolicy::Local, TrafficPolicy::Cluster, 0);
const INTERNAL_LOCAL_NODE_PORT: Policies =
    Policies(TrafficPolicy::Local, TrafficPolicy::Cluster, 3001);
const EXTERNAL_LOCAL: Policies = Policies(TrafficPolicy::Cluster, TrafficPolicy::Local, 3001);
const EXTERNAL_LOCAL_UNREACHABLE: Policies =
    Policies(TrafficPolicy::Cluster, TrafficPolicy::Local, 0);
const BOTH_LOCAL: Policies = Policies(TrafficPolicy::Local, TrafficPolicy::Local, 3001);

/// An endpoint as the table writes it: `number[zone hints;node hints]conditions`, where the
/// conditions are some of r, s, t and L (on this node), `-` stands for none of r, s, t, and nothing
/// for ready and serving.
fn parse(text: &str) -> Endpoint {
    let (number, rest) = text.split_once('[').unwrap();
    let (hints, flags) = rest.split_once(']').unwrap();
    let (zones, nodes) = hints.split_once(';').unwrap_or((hints, ""));
    let list = |hints: &str| {
        let hints = hints.split(',').filter(|hint| !hint.is_empty());
        hints.map(Into::into).collect()
    };
    let is_default = flags.trim_end_matches('L').is_empty();
    Endpoint {
        ready: is_default || flags.contains('r'),
        serving: is_default || flags.contains('s'),
        terminating: flags.contains('t'),
        node: Some(
            if flags.contains('L') {
                "node-0"
            } else {
                "elsewhere"
            }
            .into(),
        ),
        zone_hints: list(zones),
        node_hints: list(nodes),
        ..endpoint(&format!("10.1.2.{number}"))
    }
}

fn with(policies: Policies) -> Service {
    let Policies(internal, external, node_port) = policies;
    let mut service = service("web", &["10.96.0.1"], &[("http", 80)]);
    (service.internal_policy, service.external_policy) = (internal, external);
    service.ports[0].node_port = node_port;
    service
}

fn numbers(selection: &Selection<'_>, is_in: impl Fn(&Candidate<'_>) -> bool) -> Vec<u8> {
    let candidates = selection.candidates.iter().filter(|c| is_in(c));
    candidates
        .map(|candidate| match candidate.endpoint.address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(address) => address.octets()[15],
        })
        .collect()
}

#[track_caller]
fn check(
    description: &str,
    (zone, node): (Option<&str>, &str),
    policies: Policies,
    endpoints: &str,
    (cluster, local, all): (List<'_>, List<'_>, &[u8]),
    has_any: bool,
) {
    let service = with(policies);
    let endpoints: Vec<_> = endpoints.split_whitespace().map(parse).collect();
    let slice = slice("web", "web", &[("http", 8080)], endpoints);
    let view = ServiceView::new(&service, [&slice]);
    let node = NodeView {
        name: node,
        zone,
        ..NodeView::default()
    };
    let lists = Lists::of(&service, service.ports[0].node_port, false);
    let selection = select(&view, &node, ("http", Protocol::Tcp), false, lists);
    assert_eq!(
        lists.cluster,
        cluster.is_some(),
        "{description}: cluster list"
    );
    assert_eq!(lists.local, local.is_some(), "{description}: local list");
    let found = numbers(&selection, |c| c.in_cluster);
    assert_eq!(found, cluster.unwrap_or_default(), "{description}: cluster");
    let found = numbers(&selection, |c| c.in_local);
    assert_eq!(found, local.unwrap_or_default(), "{description}: local");
    let found = numbers(&selection, |c| c.in_cluster || c.in_local);
    assert_eq!(found, all, "{description}: all");
    assert_eq!(selection.has_any, has_any, "{description}: any");
    let out = numbers(&selection, |c| c.out.is_none());
    assert_eq!(
        out, all,
        "{description}: every other endpoint has a reason to be out"
    );
}

const A: (Option<&str>, &str) = (Some("a"), "node-0");
const A1: (Option<&str>, &str) = (Some("a"), "n1");
const NONE: (Option<&str>, &str) = (None, "node-0");

#[test]
fn row_11_9_hints_choose_among_ready_endpoints() {
    let four = "3[a] 4[b] 5[c] 6[a]";
    let here = "3[a]L 4[b]L 5[c] 6[a]";
    check(
        "1: zone filter",
        A,
        CLUSTER,
        four,
        (Some(&[3, 6]), None, &[3, 6]),
        true,
    );
    let merged: (List<'_>, List<'_>, &[u8]) = (Some(&[3, 6]), Some(&[3, 4]), &[3, 4, 6]);
    check(
        "2: topology does not apply to local",
        A,
        EXTERNAL_LOCAL,
        here,
        merged,
        true,
    );
    check(
        "3: nor to internal local",
        A,
        INTERNAL_LOCAL_NODE_PORT,
        here,
        merged,
        true,
    );
    for zone in [None, Some(""), Some("b")] {
        let only: (List<'_>, List<'_>, &[u8]) = (Some(&[3]), None, &[3]);
        check(
            "4 to 6: no zone, or nobody for it",
            (zone, "node-0"),
            CLUSTER,
            "3[a]",
            only,
            true,
        );
    }
    for (description, endpoints, cluster) in [
        ("7: unready in zone", "3[a] 4[b] 5[c] 6[a]-", &[3][..]),
        ("8: nobody ready in zone", "3[a]- 4[b] 5[c] 6[a]-", &[4, 5]),
        (
            "9: one hint is missing",
            "3[a] 4[b] 5[] 6[a]",
            &[3, 4, 5, 6],
        ),
        (
            "an unready one without hints",
            "3[a] 4[b] 5[]- 6[a]",
            &[3, 6],
        ),
    ] {
        check(
            description,
            A,
            CLUSTER,
            endpoints,
            (Some(cluster), None, cluster),
            true,
        );
    }
    let multiple = "3[a,b,c] 4[b,c] 5[b,d] 6[c]";
    let expected: (List<'_>, List<'_>, &[u8]) = (Some(&[3, 4, 6]), None, &[3, 4, 6]);
    check(
        "10: several zones",
        (Some("c"), "node-0"),
        CLUSTER,
        multiple,
        expected,
        true,
    );
}

#[test]
fn row_11_9_node_hints_come_before_zone_hints() {
    let hinted = "3[a;n1] 4[b;n2] 5[c;n3] 6[a;n4]";
    check(
        "12: this node",
        A1,
        CLUSTER,
        hinted,
        (Some(&[3]), None, &[3]),
        true,
    );
    // ours: row 11 is of a feature gate that is off; it is locked on since Kubernetes 1.35.
    let other = "3[a;n1] 4[] 5[c;n3] 6[a;n4]";
    let all: (List<'_>, List<'_>, &[u8]) = (Some(&[3, 4, 5, 6]), None, &[3, 4, 5, 6]);
    check(
        "13: one without hints disables both",
        A1,
        CLUSTER,
        other,
        all,
        true,
    );
    check(
        "14: nobody for this node",
        A,
        CLUSTER,
        hinted,
        (Some(&[3, 6]), None, &[3, 6]),
        true,
    );
}

#[test]
fn row_11_9_policies_decide_which_lists_there_are() {
    let mixed = "0[a]L 1[b]L 2[a] 3[b]";
    let expected: (List<'_>, List<'_>, &[u8]) = (Some(&[0, 2]), Some(&[0, 1]), &[0, 1, 2]);
    check("15: merge", A, EXTERNAL_LOCAL, mixed, expected, true);
    let check = |description, policies, endpoints, lists, any| {
        check(description, NONE, policies, endpoints, lists, any);
    };
    check(
        "16: no endpoints",
        INTERNAL_LOCAL,
        "",
        (None, Some(&[]), &[]),
        false,
    );
    check(
        "17: all remote",
        INTERNAL_LOCAL,
        "0[] 1[]",
        (None, Some(&[]), &[]),
        true,
    );
    check(
        "18: all local",
        INTERNAL_LOCAL,
        "0[]L 1[]L",
        (None, Some(&[0, 1]), &[0, 1]),
        true,
    );
    check(
        "19: one local",
        INTERNAL_LOCAL,
        "0[]L 1[]",
        (None, Some(&[0]), &[0]),
        true,
    );
    let both: (List<'_>, List<'_>, &[u8]) = (Some(&[0, 1]), Some(&[0]), &[0, 1]);
    check(
        "23: internal local",
        INTERNAL_LOCAL_NODE_PORT,
        "0[]L 1[]",
        both,
        true,
    );
    check("24: external local", EXTERNAL_LOCAL, "0[]L 1[]", both, true);
    check("25: both local", BOTH_LOCAL, "0[]L 1[]", both, true);
    let remote: (List<'_>, List<'_>, &[u8]) = (Some(&[0, 1]), Some(&[]), &[0, 1]);
    check(
        "26: both local, all remote",
        BOTH_LOCAL,
        "0[] 1[]",
        remote,
        true,
    );
    let neither: (List<'_>, List<'_>, &[u8]) = (Some(&[0, 1]), None, &[0, 1]);
    check(
        "29: external policy of nothing",
        EXTERNAL_LOCAL_UNREACHABLE,
        "0[] 1[]L",
        neither,
        true,
    );
    check("both cluster", CLUSTER_NODE_PORT, "0[] 1[]L", neither, true);
    check(
        "30: internal only",
        INTERNAL_LOCAL,
        "0[] 1[]L",
        (None, Some(&[1]), &[1]),
        true,
    );
    check(
        "31: none at all",
        CLUSTER,
        "",
        (Some(&[]), None, &[]),
        false,
    );
}

#[test]
fn row_11_9_terminating_endpoints_serve_when_nobody_is_ready() {
    check(
        "32: unready in zone, nobody else",
        A,
        CLUSTER,
        "0[]-",
        (Some(&[]), None, &[]),
        false,
    );
    let check = |description, policies, endpoints, lists, any| {
        check(description, NONE, policies, endpoints, lists, any);
    };
    check(
        "20: all unready",
        CLUSTER,
        "0[]- 1[]-",
        (Some(&[]), None, &[]),
        false,
    );
    check(
        "21: one unready",
        CLUSTER,
        "0[]- 1[]",
        (Some(&[1]), None, &[1]),
        true,
    );
    let both: (List<'_>, List<'_>, &[u8]) = (Some(&[0, 1]), None, &[0, 1]);
    check("22: fallback", CLUSTER, "0[]stL 1[]st", both, true);
    let remote: (List<'_>, List<'_>, &[u8]) = (Some(&[0, 1]), Some(&[]), &[0, 1]);
    check(
        "27: remote fallback",
        BOTH_LOCAL,
        "0[]st 1[]st",
        remote,
        true,
    );
    let independent: (List<'_>, List<'_>, &[u8]) = (Some(&[0]), Some(&[2]), &[0, 2]);
    let endpoints = "0[] 1[]-L 2[]stL 3[]st";
    check(
        "28: independent fallbacks",
        EXTERNAL_LOCAL,
        endpoints,
        independent,
        true,
    );
    check(
        "terminating, not serving",
        CLUSTER,
        "0[]t",
        (Some(&[]), None, &[]),
        false,
    );
    check(
        "serving, neither ready nor ending",
        CLUSTER,
        "0[]s",
        (Some(&[]), None, &[]),
        false,
    );
    let published: (List<'_>, List<'_>, &[u8]) = (Some(&[0]), None, &[0]);
    check(
        "ready while it ends",
        CLUSTER,
        "0[]rt 1[]st",
        published,
        true,
    );
}

#[track_caller]
fn joined(slices: &[EndpointSlice]) -> Vec<(String, bool, bool, bool)> {
    let service = with(CLUSTER);
    let view = ServiceView::new(&service, slices);
    let lists = Lists::of(&service, 0, false);
    let port = ("http", Protocol::Tcp);
    let selection = select(&view, &NodeView::default(), port, false, lists);
    let entries = selection.candidates.iter().map(|candidate| {
        let Endpoint {
            address,
            ready,
            serving,
            terminating,
            ..
        } = candidate.endpoint;
        let name = format!("{address}:{}", candidate.port);
        (name, *ready, *serving, *terminating)
    });
    entries.collect()
}

#[test]
fn row_11_11_endpoints_are_joined_by_family_port_name_and_protocol() {
    let mut other = slice("b", "web", &[("http", 8080)], [parse("4[]")]);
    other.ports[0].protocol = Protocol::Udp;
    let slices = [
        slice(
            "a",
            "web",
            &[("http", 80), ("tls", 443)],
            [parse("10[]"), parse("2[]")],
        ),
        other,
        slice("c", "web", &[("http", 8080)], [parse("2[]"), parse("10[]")]),
        slice("d", "web", &[("http", 80)], [endpoint("fd00::1")]),
        slice("e", "web", &[("http", 0)], [parse("7[]")]),
    ];
    let names: Vec<_> = joined(&slices).into_iter().map(|entry| entry.0).collect();
    assert_eq!(
        names,
        [
            "10.1.2.2:80",
            "10.1.2.2:8080",
            "10.1.2.10:80",
            "10.1.2.10:8080"
        ]
    );
}

#[test]
fn row_11_11_of_duplicates_the_last_counts_that_does_not_terminate() {
    let with = |name, flags| {
        slice(
            name,
            "web",
            &[("http", 80)],
            [parse(&format!("1[]{flags}"))],
        )
    };
    let name = "10.1.2.1:80".to_owned();
    for (flags, expected) in [
        (["st", "rs", "t"], (true, true, false)),
        (["rs", "-", "st"], (false, false, false)),
        (["-", "rs", "rs"], (true, true, false)),
        (["st", "t", "t"], (false, true, true)),
        (["t", "st", "st"], (false, false, true)),
    ] {
        let slices = [
            with("a", flags[0]),
            with("b", flags[1]),
            with("c", flags[2]),
        ];
        let (ready, serving, terminating) = expected;
        let expected = [(name.clone(), ready, serving, terminating)];
        assert_eq!(joined(&slices), expected, "{flags:?}");
        let [a, b, c] = slices;
        assert_eq!(
            joined(&[c, a, b]),
            expected,
            "slices count in the order of their names"
        );
    }
}
