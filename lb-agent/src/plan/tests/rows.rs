//! kube-proxy's own test tables, row by row, against the desired tables.
//!
//! A function is named after its table of the behaviour we follow (`row_11_4_…` is table 11.4) and
//! its rows are lettered in their order there. What we do otherwise on purpose is marked `ours:` and
//! listed in `docs/conformance.md`. Whether a packet's source address is changed is the datapath's
//! business and not asserted here.

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::flow::Protocol;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::WhenEmpty;

use super::fixture::{World, endpoint, service, slice};
use crate::model::endpoint::Endpoint;
use crate::plan::clients::Clients;
use crate::plan::desired::Desired;
use crate::plan::endpoints::mapped;
use crate::plan::node_ports::NodePortAddresses;
use crate::plan::{NodeView, source_ranges};

mod clients;
mod cluster_ip;
mod external;
mod flows;
mod health;
mod node_ports;
mod sync;
mod terminating;

/// What becomes of a new flow.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Outcome {
    /// One of these serves it, as address and port.
    To(Vec<String>),
    /// The client is told at once.
    Reject,
    /// Silence.
    Drop,
    /// None of our business.
    NotHandled,
}

use Outcome::{Drop, NotHandled, Reject};

fn to(backends: &[&str]) -> Outcome {
    let mut backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
    backends.sort();
    Outcome::To(backends)
}

/// The node of the tables, its addresses and its cluster.
struct Stage {
    world: World,
    node_name: &'static str,
    node_addresses: Vec<IpAddr>,
    /// Addresses of its devices, where node ports are concerned.
    local: Vec<IpAddr>,
    /// The same, where external addresses are; kube-proxy does not ask for them.
    device_addresses: Vec<IpAddr>,
    /// Where pods are.
    pods: Vec<(IpAddr, u8)>,
    service_cidrs: Vec<(IpAddr, u8)>,
    node_ports: NodePortAddresses,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(text: &str) -> (IpAddr, u8) {
    let (address, length) = text.split_once('/').unwrap();
    (ip(address), length.parse().unwrap())
}

impl Stage {
    /// Node 192.168.0.2, pods in 10.0.0.0/8, services in 172.30.0.0/16, as the tables say.
    fn new(world: World) -> Self {
        let local = ["192.168.0.2", "192.168.1.2", "192.168.99.11", "127.0.0.1"];
        let local_v6 = ["2001:db8::1", "2001:db8:1::2", "::1"];
        Self {
            world,
            node_name: "node-a",
            node_addresses: vec![ip("192.168.0.2"), ip("2001:db8::1")],
            local: local.iter().chain(&local_v6).map(|text| ip(text)).collect(),
            pods: vec![network("10.0.0.0/8"), network("fd00:10::/64")],
            service_cidrs: vec![network("172.30.0.0/16"), network("fd00:172:30::/112")],
            node_ports: NodePortAddresses::default(),
            device_addresses: Vec::new(),
        }
    }

    fn node(&self) -> NodeView<'_> {
        NodeView {
            name: self.node_name,
            zone: None,
            addresses: &self.node_addresses,
            device_addresses: &self.device_addresses,
            service_cidrs: &self.service_cidrs,
        }
    }

    fn desired(&self) -> Desired<'_> {
        Desired::of(self.world.views(), &self.node())
    }

    /// What the tables say of a new flow; by lookups alone, as the programs make them.
    fn resolve(&self, source: &str, destination: &str, protocol: Protocol) -> Outcome {
        let (address, port) = destination.rsplit_once(':').unwrap();
        let (source, address) = (ip(source), ip(address.trim_matches(['[', ']'])));
        let desired = self.desired();
        let key = FrontendKey::new(mapped(address), port.parse().unwrap(), protocol);
        let chosen = self.node_ports.select(&self.node(), self.local.clone());
        let owner = desired.frontends.get(&key).or_else(|| {
            let key = FrontendKey::node_port(address.is_ipv6(), key.port(), protocol);
            let owner = desired.frontends.get(&key);
            owner.filter(|_| chosen.contains(&address))
        });
        let Some(owner) = owner else {
            return if desired.addresses.contains_key(&address) {
                Reject
            } else if is_in(&self.service_cidrs, address) {
                Drop
            } else {
                NotHandled
            };
        };
        let is_this_node = self.local.contains(&source);
        let clients = if owner.kind == FrontendKind::ClusterIp {
            Clients::OfClusterAddress
        } else if is_this_node || is_in(&self.pods, source) {
            Clients::Inside
        } else {
            Clients::Outside
        };
        let service_port = &desired.ports[&owner.port];
        let ranges = service_port
            .source_ranges
            .as_ref()
            .filter(|_| owner.is_ranged);
        // The Service's own address as a source means this node only.
        let is_own = service_port
            .frontends
            .iter()
            .any(|own| own.key.address() == mapped(source));
        if ranges.is_some_and(|ranges| !ranges.allows(source, is_this_node || is_own)) {
            return Drop;
        }
        let backends = desired.backends(&owner.port, clients);
        if backends.is_empty() {
            return match service_port.when_empty(clients) {
                WhenEmpty::Refuse => Reject,
                WhenEmpty::Drop => Drop,
            };
        }
        let mut backends: Vec<_> = backends
            .into_iter()
            .map(|(address, port)| std::net::SocketAddr::new(address, port).to_string())
            .collect();
        backends.sort();
        Outcome::To(backends)
    }

    /// Checks rows of source, destination and outcome over TCP, lettered from `a`.
    #[track_caller]
    fn check(&self, table: &str, rows: &[(&str, &str, Outcome)]) {
        for (letter, (source, destination, expected)) in ('a'..).zip(rows) {
            let found = self.resolve(source, destination, Protocol::Tcp);
            assert_eq!(
                found, *expected,
                "{table}.{letter}: {source} -> {destination}"
            );
        }
    }
}

fn is_in(networks: &[(IpAddr, u8)], address: IpAddr) -> bool {
    let mut networks = networks.iter();
    networks.any(|network| source_ranges::contains(*network, address))
}

/// A ready endpoint on this node.
fn here(address: &str) -> Endpoint {
    Endpoint {
        node: Some("node-a".into()),
        ..endpoint(address)
    }
}

/// A ready endpoint on another node.
fn elsewhere(address: &str) -> Endpoint {
    endpoint(address)
}

/// An endpoint with the conditions ready, serving and terminating.
fn conditions([ready, serving, terminating]: [u8; 3], at: Endpoint) -> Endpoint {
    Endpoint {
        ready: ready == 1,
        serving: serving == 1,
        terminating: terminating == 1,
        ..at
    }
}

/// One Service `svc1` at 172.30.0.41 with port 80, served at port 80 by `endpoints`.
fn one(
    endpoints: impl IntoIterator<Item = Endpoint>,
    change: impl FnOnce(&mut crate::model::service::Service),
) -> World {
    let mut world = World::default();
    let mut svc = service("svc1", &["172.30.0.41"], &[("http", 80)]);
    change(&mut svc);
    world.add_service(svc);
    let endpoints: Vec<_> = endpoints.into_iter().collect();
    world.add_slice(slice("svc1", "svc1", &[("http", 80)], endpoints));
    world
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| ip(text)).collect()
}

fn set(texts: &[&str]) -> BTreeSet<IpAddr> {
    addresses(texts).into_iter().collect()
}
