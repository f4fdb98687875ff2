//! The recorded cluster, planned for `node-a`, beside what kube-proxy programmed there for the very
//! same objects: frontends, endpoint sets, affinity, addresses, health.

#![expect(
    clippy::tests_outside_test_module,
    reason = "a file of tests is a module of tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use lb_agent::model::index::Model;
use lb_agent::plan::clients::Clients;
use lb_agent::plan::desired::{Desired, Owner, address_of};
use lb_agent::plan::expand::PortKey;
use lb_agent::plan::node_ports::NodePortAddresses;
use lb_agent::plan::{NodeView, ServiceView};
use lb_agent::source::directory::Reading;
use lb_common::flow::Protocol;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::WhenEmpty;
use lb_tests::nft::{Fate, Ruleset, Source};

const NODE: &str = "node-a";
const SOURCES: [Source; 3] = [Source::Pod, Source::Node, Source::Outside];

/// What of kube-proxy's rules has no counterpart among ours on purpose: the beginning of a name, and
/// why.
const DELIBERATE: &[(&str, &str)] = &[
    (
        "hairpin-connections",
        "a flow to oneself is recognised when it begins, and its address changed for that reason",
    ),
    (
        "masquerading",
        "the client's address is kept wherever the reply comes back without changing it",
    ),
    ("filter-", "where the rules are hooked in"),
    ("nat-", "where the rules are hooked in"),
    (
        "nodeport-endpoints-check",
        "the lookup of a map that is compared",
    ),
    (
        "service-endpoints-check",
        "the lookup of a map that is compared",
    ),
    ("firewall-check", "the lookup of a map that is compared"),
    ("services", "the lookup of maps that are compared"),
    ("reject-chain", "the verdict itself"),
];

/// What the tests here compare, or follow from what they compare.
const COMPARED: &[&str] = &[
    "cluster-ips",
    "nodeport-ips",
    "no-endpoint-services",
    "no-endpoint-nodeports",
    "firewall-ips",
    "service-ips",
    "service-nodeports",
    "cluster-ips-check",
    "affinity-",
    "service-",
    "external-",
    "local-",
    "endpoint-",
];

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/recordings")
}

fn rules(is_v6: bool) -> Ruleset {
    let name = if is_v6 {
        "nftables-ip6.nft"
    } else {
        "nftables-ip.nft"
    };
    let text = fs::read_to_string(recordings().join("kube-proxy").join(name)).unwrap();
    Ruleset::parse(&text).unwrap()
}

/// The recorded objects, read as the agent reads manifests.
fn model() -> Model {
    let directory = tempfile::tempdir().unwrap();
    for kind in ["services", "endpointslices", "nodes"] {
        let name = format!("mid-{kind}.json");
        fs::copy(recordings().join(&name), directory.path().join(&name)).unwrap();
    }
    let mut reading = Reading::new(directory.path().to_owned());
    let (events, report) = reading.read(&BTreeSet::new()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    let mut model = Model::new(NODE);
    let changed = model.apply_all(events);
    assert!(changed.node && model.is_ready());
    model
}

fn node(model: &Model) -> NodeView<'_> {
    let node = model.node().unwrap();
    NodeView {
        name: NODE,
        zone: node.zone.as_deref(),
        addresses: &node.addresses,
        device_addresses: &[],
        service_cidrs: model.service_cidrs(),
    }
}

fn desired(model: &Model) -> Desired<'_> {
    let views = model
        .services()
        .map(|service| ServiceView::new(service, model.slices(&service.name)));
    Desired::of(views, &node(model))
}

/// What becomes of new flows to a frontend: of which service port, and where from each source.
type Row = (String, BTreeMap<Source, Fate>);

/// `rec/dual/tcp/http`, as kube-proxy names its chains.
fn chain_name(key: &PortKey) -> String {
    let name = &key.name;
    let protocol = protocol(name.protocol);
    format!(
        "{}/{}/{protocol}/{}",
        name.service.namespace, name.service.name, name.port
    )
}

const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// A frontend as the elements of kube-proxy's maps name it; without an address, a node port.
fn element(key: &FrontendKey) -> String {
    let protocol = protocol(key.protocol().unwrap());
    if key.is_node_port() {
        format!("{protocol} . {}", key.port())
    } else {
        format!("{} . {protocol} . {}", address_of(key), key.port())
    }
}

fn our_fate(desired: &Desired<'_>, owner: &Owner, source: Source) -> Fate {
    let clients = match (owner.kind, source) {
        (FrontendKind::ClusterIp, _) => Clients::OfClusterAddress,
        (_, Source::Outside) => Clients::Outside,
        (_, Source::Pod | Source::Node) => Clients::Inside,
    };
    let backends = desired.backends(&owner.port, clients);
    if backends.is_empty() {
        return match desired.ports[&owner.port].when_empty(clients) {
            WhenEmpty::Refuse => Fate::Reject,
            WhenEmpty::Drop => Fate::Drop,
        };
    }
    let text = |(address, port)| SocketAddr::new(address, port).to_string();
    Fate::To(backends.into_iter().map(text).collect())
}

fn ours(desired: &Desired<'_>, is_v6: bool) -> BTreeMap<String, Row> {
    let of_family = desired
        .frontends
        .iter()
        .filter(|(_, owner)| owner.port.is_v6 == is_v6);
    of_family
        .map(|(key, owner)| {
            let fates = SOURCES.map(|source| (source, our_fate(desired, owner, source)));
            (element(key), (chain_name(&owner.port), fates.into()))
        })
        .collect()
}

/// The service port of a verdict (`goto service-HASH-rec/dual/tcp/http`), where it names one.
fn service_of(verdict: &str) -> Option<&str> {
    let chain = verdict.strip_prefix("goto ")?;
    let (_, rest) = chain.split_once('-')?;
    rest.split_once('-').map(|(_, name)| name)
}

fn theirs(rules: &Ruleset, desired: &Desired<'_>) -> BTreeMap<String, Row> {
    let maps = [
        "service-ips",
        "service-nodeports",
        "no-endpoint-services",
        "no-endpoint-nodeports",
    ];
    let entries = maps.into_iter().flat_map(|map| &rules.maps[map]);
    entries
        .map(|(element, verdict)| {
            let fates = SOURCES.map(|source| (source, rules.follow(verdict, source).unwrap()));
            // A refusal names no service; ours of the same element is the one it must be.
            let name = match service_of(verdict).filter(|_| verdict != "goto reject-chain") {
                Some(name) => name.to_owned(),
                None => desired
                    .frontends
                    .iter()
                    .find(|(key, _)| self::element(key) == *element)
                    .map(|(_, owner)| chain_name(&owner.port))
                    .unwrap_or_default(),
            };
            (element.clone(), (name, fates.into()))
        })
        .collect()
}

#[test]
fn frontends_and_endpoint_sets_are_those_that_kube_proxy_programmed() {
    let model = model();
    let desired = desired(&model);
    for is_v6 in [false, true] {
        let theirs = theirs(&rules(is_v6), &desired);
        let ours = ours(&desired, is_v6);
        for (element, row) in &theirs {
            assert_eq!(ours.get(element), Some(row), "kube-proxy has {element}");
        }
        for (element, row) in &ours {
            assert!(
                theirs.contains_key(element),
                "only we have {element}: {row:?}"
            );
        }
    }
    assert_eq!(
        desired.frontends.len(),
        59,
        "an empty comparison proves nothing"
    );
}

#[test]
fn cluster_addresses_and_the_addresses_of_node_ports_are_the_same() {
    let model = model();
    let desired = desired(&model);
    let node = node(&model);
    let local = node.addresses.to_vec();
    let chosen = NodePortAddresses::default().select(&node, local);
    for is_v6 in [false, true] {
        let rules = rules(is_v6);
        let texts = |addresses: &mut dyn Iterator<Item = &IpAddr>| -> BTreeSet<String> {
            let of_family = addresses.filter(|address| address.is_ipv6() == is_v6);
            of_family.map(ToString::to_string).collect()
        };
        let addresses = texts(&mut desired.addresses.keys());
        assert_eq!(addresses, rules.sets["cluster-ips"]);
        assert_eq!(texts(&mut chosen.iter()), rules.sets["nodeport-ips"]);
    }
}

#[test]
fn session_affinity_is_the_same_and_no_load_balancer_is_restricted() {
    let model = model();
    let desired = desired(&model);
    let seconds = |text: &str| -> u32 {
        let (number, unit) = text.split_at(text.len() - 1);
        let unit = match unit {
            "m" => 60,
            "h" => 3600,
            other => panic!("{other} is not understood"),
        };
        number.parse::<u32>().unwrap() * unit
    };
    for is_v6 in [false, true] {
        let rules = rules(is_v6);
        let theirs: BTreeSet<_> = rules
            .timeouts
            .iter()
            .map(|(set, timeout)| {
                let (name, _) = set.split_once("__").unwrap();
                let name = name.trim_start_matches("affinity-");
                let (_, name) = name.split_once('-').unwrap();
                (name.to_owned(), seconds(timeout))
            })
            .collect();
        let ports = desired
            .ports
            .values()
            .filter(|port| port.key.is_v6 == is_v6);
        let ours: BTreeSet<_> = ports
            .filter(|port| port.affinity_seconds > 0)
            .map(|port| (chain_name(&port.key), port.affinity_seconds))
            .collect();
        assert_eq!(ours, theirs);
        assert!(rules.maps["firewall-ips"].is_empty());
    }
    // The recorded range is 0.0.0.0/0, of a Service that is not of IPv6.
    assert!(
        desired
            .ports
            .values()
            .all(|port| port.source_ranges.is_none())
    );
}

#[test]
fn the_health_check_node_port_counts_the_same_endpoints() {
    let text = fs::read_to_string(recordings().join("kube-proxy/healthcheck-node-port.json"));
    let answer: serde_json::Value = serde_json::from_str(&text.unwrap()).unwrap();
    let model = model();
    let desired = desired(&model);
    let found: Vec<_> = desired.health.iter().collect();
    let [(name, check)] = found[..] else {
        panic!("{found:?}")
    };
    assert_eq!(answer["service"]["namespace"], &*name.namespace);
    assert_eq!(answer["service"]["name"], &*name.name);
    assert_eq!(answer["localEndpoints"], check.local(false).unwrap());
    assert_eq!((check.port, check.local(true)), (32_000, None));
}

#[test]
fn every_rule_of_kube_proxy_is_compared_or_differs_on_purpose() {
    for is_v6 in [false, true] {
        let rules = rules(is_v6);
        let names = rules.sets.keys().chain(rules.maps.keys());
        for name in names.chain(rules.chains.keys()) {
            let is_compared = COMPARED.iter().any(|beginning| name.starts_with(beginning));
            let reason = DELIBERATE
                .iter()
                .find(|(beginning, _)| name.starts_with(beginning));
            assert!(is_compared || reason.is_some(), "{name} is neither");
        }
        // Unknown ports of cluster addresses are refused, other addresses of the service networks
        // dropped: by `lb_common::decide`, from the addresses that are compared.
        let network = if is_v6 {
            "ip6 daddr fd00:10:96::/112"
        } else {
            "ip daddr 10.96.0.0/16"
        };
        let check = &rules.chains["cluster-ips-check"];
        assert!(check[0].contains("@cluster-ips reject"), "{check:?}");
        assert!(
            check[1].starts_with(&format!("{network} drop")),
            "{check:?}"
        );
    }
}
