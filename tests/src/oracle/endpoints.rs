//! Which endpoints serve: kube-proxy's `CategorizeEndpoints`, in its order.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::Cluster;
use super::read::{Node, Port, Service, address, label, list, number, protocol, text};

/// One endpoint of a port of a Service.
#[expect(
    clippy::struct_excessive_bools,
    reason = "three conditions as the API has them, and a place"
)]
#[derive(Clone, Debug)]
pub(super) struct Endpoint {
    pub(super) place: (IpAddr, u16),
    pub(super) ready: bool,
    pub(super) serving: bool,
    pub(super) terminating: bool,
    pub(super) is_here: bool,
    zone_hints: Vec<String>,
    node_hints: Vec<String>,
    /// ours: of weight 0 it gets no new flows, though it counts as there.
    weight: u64,
}

/// Who serves whom.
pub(super) struct Lists {
    /// Anywhere in the cluster.
    pub(super) cluster: BTreeSet<(IpAddr, u16)>,
    /// On this node.
    pub(super) local: BTreeSet<(IpAddr, u16)>,
    /// Whether anybody is, anywhere.
    pub(super) has_any: bool,
}

/// The endpoints of a port in the family of `cluster_ip`, each address and port once.
pub(super) fn of(
    cluster: &Cluster,
    node: &Node,
    service: &Service,
    port: &Port,
    cluster_ip: IpAddr,
) -> Vec<Endpoint> {
    let family = if cluster_ip.is_ipv6() { "IPv6" } else { "IPv4" };
    let mut slices: Vec<&Value> = cluster
        .slices
        .iter()
        .filter(|slice| label(slice, "service.kubernetes.io/headless").is_none())
        .filter(|slice| {
            label(slice, "kubernetes.io/service-name") == Some(service.name.as_str())
                && text(slice, "/metadata/namespace") == service.namespace
                && text(slice, "/addressType") == family
        })
        .collect();
    // ours: upstream the order is undefined.
    slices.sort_by_key(|slice| text(slice, "/metadata/name"));
    let mut found: Vec<Endpoint> = Vec::new();
    for slice in slices {
        for entry in list(slice, "/ports") {
            let name = entry.get("name").and_then(Value::as_str);
            if name != Some(&port.name) || protocol(entry) != port.protocol {
                continue;
            }
            let number = number(entry, "port");
            if number == 0 {
                continue;
            }
            for object in list(slice, "/endpoints") {
                let Some(endpoint) = read(object, slice, number, node) else {
                    continue;
                };
                if endpoint.place.0.is_ipv6() != cluster_ip.is_ipv6()
                    || node.refuses_endpoint(endpoint.place.0)
                {
                    continue;
                }
                match found.iter_mut().find(|held| held.place == endpoint.place) {
                    None => found.push(endpoint),
                    Some(held) if !endpoint.terminating => *held = endpoint,
                    Some(_) => {}
                }
            }
        }
    }
    found
}

fn read(object: &Value, slice: &Value, port: u16, node: &Node) -> Option<Endpoint> {
    let condition = |name: &str, default: bool| {
        let value = object.pointer("/conditions").and_then(|it| it.get(name));
        value.and_then(Value::as_bool).unwrap_or(default)
    };
    let names = |pointer: &str| -> Vec<String> {
        let hints = list(object, pointer).iter();
        hints.map(|hint| text(hint, "/name").to_owned()).collect()
    };
    let weight = slice.pointer("/metadata/annotations/steerage.dev~1weight");
    let weight = weight.and_then(Value::as_str);
    Some(Endpoint {
        place: (
            address(list(object, "/addresses").first()?.as_str()?)?,
            port,
        ),
        ready: condition("ready", true),
        serving: condition("serving", true),
        terminating: condition("terminating", false),
        is_here: object.get("nodeName").and_then(Value::as_str) == Some(node.name.as_str()),
        zone_hints: names("/hints/forZones"),
        node_hints: names("/hints/forNodes"),
        weight: weight.and_then(|it| it.parse().ok()).unwrap_or(100),
    })
}

impl Lists {
    /// The lists that the policies of a port ask for.
    pub(super) fn of(
        endpoints: &[Endpoint],
        node: &Node,
        uses_cluster: bool,
        uses_local: bool,
    ) -> Self {
        let ready: Vec<&Endpoint> = endpoints.iter().filter(|it| it.ready).collect();
        let last_resort = |endpoint: &&Endpoint| endpoint.serving && endpoint.terminating;
        let mut has_any = false;
        let mut cluster: Vec<&Endpoint> = Vec::new();
        if uses_cluster {
            cluster = by_hints(&ready, node);
            if cluster.is_empty() {
                cluster = endpoints.iter().filter(last_resort).collect();
            }
            has_any |= !cluster.is_empty();
        }
        let mut local: Vec<&Endpoint> = Vec::new();
        if uses_local {
            has_any |= !ready.is_empty() || endpoints.iter().any(|it| last_resort(&it));
            local = ready.iter().copied().filter(|it| it.is_here).collect();
            if local.is_empty() {
                let fallback = endpoints.iter().filter(last_resort);
                local = fallback.filter(|it| it.is_here).collect();
            }
        }
        let places = |list: Vec<&Endpoint>| -> BTreeSet<(IpAddr, u16)> {
            let list = list.into_iter().filter(|it| it.weight > 0);
            list.map(|it| it.place).collect()
        };
        Self {
            cluster: places(cluster),
            local: places(local),
            has_any,
        }
    }
}

/// The ready endpoints that hints lead this node to; all where hints do not apply.
fn by_hints<'a>(ready: &[&'a Endpoint], node: &Node) -> Vec<&'a Endpoint> {
    type Hints = fn(&Endpoint) -> &[String];
    let kinds: [(Hints, &str); 2] = [
        (|endpoint| &endpoint.node_hints, &node.name),
        (|endpoint| &endpoint.zone_hints, &node.zone),
    ];
    for (hints, own) in kinds {
        let everybody_has_some = ready.iter().all(|it| !hints(it).is_empty());
        let chosen: Vec<&Endpoint> = ready
            .iter()
            .copied()
            .filter(|it| hints(it).iter().any(|hint| hint == own))
            .collect();
        if everybody_has_some && !own.is_empty() && !chosen.is_empty() {
            return chosen;
        }
    }
    ready.to_vec()
}
