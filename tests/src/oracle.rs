//! What one node must do for every address of a cluster, computed the slow and plain way: from whole
//! lists, Service by Service, in the words of kube-proxy's rules. It shares no code with the planner,
//! so where the two agree neither has misread the rules in the same way by accident.
//!
//! What Steerage does otherwise than kube-proxy on purpose is marked `ours:`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use serde_json::Value;

mod endpoints;
pub mod random;
mod read;
pub mod tables;

use endpoints::{Endpoint, Lists};
use read::{Node, Port, Service};

/// What a cluster's API says, as lists have it.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// `Service` objects.
    pub services: Vec<Value>,
    /// `EndpointSlice` objects.
    pub slices: Vec<Value>,
    /// `ServiceCIDR` objects.
    pub service_cidrs: Vec<Value>,
    /// The node in question; null if it is not known.
    pub node: Value,
    /// Its name.
    pub node_name: String,
}

/// TCP, UDP or SCTP.
pub type Protocol = String;

/// A network: its first address and prefix length.
pub type Network = (IpAddr, u8);

/// What clients dial.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Frontend {
    /// An address of a Service.
    Address(IpAddr, u16, Protocol),
    /// A port of this node's own addresses; whether of IPv6.
    NodePort(bool, u16, Protocol),
}

/// Where a frontend comes from.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort`.
    NodePort,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `status.loadBalancer.ingress`.
    LoadBalancer,
}

/// What becomes of a new flow.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// One of these serves it, at this port.
    To(BTreeSet<(IpAddr, u16)>),
    /// The client is told at once that nobody does.
    Refuse,
    /// The client is told nothing.
    Drop,
}

/// What a frontend must do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    /// Where it comes from.
    pub kind: Kind,
    /// For pods and this node. Of a cluster address: for everybody.
    pub inside: Outcome,
    /// For everybody else. Of a cluster address: the same.
    pub outside: Outcome,
    /// Seconds for which a client keeps its endpoint; 0 for no affinity.
    pub affinity_seconds: u32,
    /// Networks of clients that may dial it; `None` for everybody.
    pub sources: Option<BTreeSet<Network>>,
}

/// What a node must do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Expected {
    /// For every frontend.
    pub frontends: BTreeMap<Frontend, Expectation>,
    /// For every cluster address: whether anybody behind it is ready.
    pub addresses: BTreeMap<IpAddr, bool>,
}

/// Who comes first where several Services want a frontend.
/// ours: cluster addresses, then the oldest Service, then the first by name; upstream whichever comes
/// last.
type Claim = (bool, i64, String, String);

impl Expected {
    /// What the node must do for this cluster.
    pub fn of(cluster: &Cluster) -> Self {
        let node = Node::read(cluster);
        let services: Vec<Service> = cluster.services.iter().filter_map(Service::read).collect();
        let mut claimed: BTreeMap<Frontend, (Claim, Expectation)> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, bool> = BTreeMap::new();
        for service in &services {
            for &cluster_ip in &service.cluster_ips {
                // ours: an address that can be nobody's is not served.
                if read::is_nobodys(cluster_ip) {
                    continue;
                }
                for port in &service.ports {
                    let endpoints = endpoints::of(cluster, &node, service, port, cluster_ip);
                    let is_ready = endpoints.iter().any(|endpoint| endpoint.ready);
                    *addresses.entry(cluster_ip).or_default() |= is_ready;
                    for (frontend, expectation) in
                        frontends(service, port, cluster_ip, &endpoints, &node)
                    {
                        let claim = (
                            expectation.kind != Kind::ClusterIp,
                            service.created_seconds,
                            service.namespace.clone(),
                            service.name.clone(),
                        );
                        let is_first = claimed.get(&frontend).is_none_or(|(held, _)| claim < *held);
                        if is_first {
                            claimed.insert(frontend, (claim, expectation));
                        }
                    }
                }
            }
        }
        // ours: no external address takes a port of a cluster address.
        claimed.retain(|frontend, (_, expectation)| match frontend {
            Frontend::Address(address, ..) => {
                expectation.kind == Kind::ClusterIp || !addresses.contains_key(address)
            }
            Frontend::NodePort(..) => true,
        });
        Self {
            frontends: claimed
                .into_iter()
                .map(|(frontend, (_, expectation))| (frontend, expectation))
                .collect(),
            addresses,
        }
    }
}

/// Every frontend of one port in the family of `cluster_ip`; of equal ones the first counts.
fn frontends(
    service: &Service,
    port: &Port,
    cluster_ip: IpAddr,
    endpoints: &[Endpoint],
    node: &Node,
) -> Vec<(Frontend, Expectation)> {
    let is_v6 = cluster_ip.is_ipv6();
    let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
        let addresses = addresses.iter().copied();
        addresses
            .filter(|address| address.is_ipv6() == is_v6)
            .collect()
    };
    let balanced = of_family(&service.balanced_ips);
    let external = of_family(&service.external_ips);
    let is_external = port.node_port != 0 || !balanced.is_empty() || !external.is_empty();
    let is_external_local = service.is_external_local && is_external;
    let lists = Lists::of(
        endpoints,
        node,
        !service.is_internal_local || is_external,
        service.is_internal_local || is_external_local,
    );
    // The policy of the audience leaves nobody, but somebody is elsewhere: silence.
    let local = || {
        if !lists.local.is_empty() {
            Outcome::To(lists.local.clone())
        } else if lists.has_any {
            Outcome::Drop
        } else {
            Outcome::Refuse
        }
    };
    let anywhere = || {
        if lists.cluster.is_empty() {
            Outcome::Refuse
        } else {
            Outcome::To(lists.cluster.clone())
        }
    };
    let of_cluster_ip = if service.is_internal_local {
        local()
    } else {
        anywhere()
    };
    let from_outside = if is_external_local {
        local()
    } else {
        anywhere()
    };
    let protocol = || port.protocol.clone();
    let mut found = vec![(
        Frontend::Address(cluster_ip, port.port, protocol()),
        Expectation {
            kind: Kind::ClusterIp,
            inside: of_cluster_ip.clone(),
            outside: of_cluster_ip,
            affinity_seconds: service.affinity_seconds,
            sources: None,
        },
    )];
    let mut add = |frontend: Frontend, kind, sources: Option<BTreeSet<Network>>| {
        if found.iter().all(|(known, _)| *known != frontend) {
            let expectation = Expectation {
                kind,
                inside: anywhere(),
                outside: from_outside.clone(),
                affinity_seconds: service.affinity_seconds,
                sources,
            };
            found.push((frontend, expectation));
        }
    };
    // ours: of an address that is both, the ranges of the load balancer hold.
    for address in balanced {
        if !node.refuses_external(address) {
            let frontend = Frontend::Address(address, port.port, protocol());
            add(frontend, Kind::LoadBalancer, service.sources(is_v6));
        }
    }
    for address in external {
        if !node.refuses_external(address) {
            let frontend = Frontend::Address(address, port.port, protocol());
            add(frontend, Kind::ExternalIp, None);
        }
    }
    if port.node_port != 0 {
        let frontend = Frontend::NodePort(is_v6, port.node_port, protocol());
        add(frontend, Kind::NodePort, None);
    }
    found
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, port, protocol) => {
                let socket = std::net::SocketAddr::new(*address, *port);
                write!(formatter, "{protocol} {socket}")
            }
            Self::NodePort(is_v6, port, protocol) => {
                let family = if *is_v6 { "IPv6" } else { "IPv4" };
                write!(formatter, "{protocol} node port {port} ({family})")
            }
        }
    }
}

#[cfg(test)]
mod tests;
