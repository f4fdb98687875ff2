//! Everything the tables should hold, made from all objects at once and without state: what a
//! planner that has seen the same objects publishes.
//!
//! Tests compare the planner with it, and other proxies' rules; nothing that grows with the cluster
//! runs through it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use lb_common::table::frontend::{FrontendKey, FrontendKind};

use super::addresses::DesiredFrontend;
use super::clients::Clients;
use super::expand::{DesiredPort, PortKey, Rank, expand};
use super::health::HealthCheck;
use super::report::Report;
use super::{NodeView, ServiceView};
use crate::model::name::ObjectName;

/// The address of a frontend; the unspecified one of its family for a node port.
pub fn address_of(key: &FrontendKey) -> IpAddr {
    Ipv6Addr::from(key.address()).to_canonical()
}

/// The tables as they should be.
#[derive(Clone, Debug, Default)]
pub struct Desired<'a> {
    /// Every service port.
    pub ports: BTreeMap<PortKey, DesiredPort<'a>>,
    /// Every frontend, with the service port that has it.
    pub frontends: BTreeMap<FrontendKey, Owner>,
    /// Every cluster address, and whether any of its ports has a ready endpoint.
    pub addresses: BTreeMap<IpAddr, bool>,
    /// Health-check node ports.
    pub health: BTreeMap<ObjectName, HealthCheck>,
    /// What cannot be done as it was told; conflicts of frontends are not among it.
    pub reports: Vec<(ObjectName, Report)>,
}

/// Who has a frontend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The service port.
    pub port: PortKey,
    /// Where the frontend comes from.
    pub kind: FrontendKind,
    /// Whether only clients in the port's source ranges may dial it.
    pub is_ranged: bool,
    rank: Rank,
}

impl Owner {
    fn new(port: &PortKey, frontend: &DesiredFrontend, rank: &Rank) -> Self {
        Self {
            port: port.clone(),
            kind: frontend.kind,
            is_ranged: frontend.is_ranged,
            rank: rank.clone(),
        }
    }

    /// Cluster addresses, then the oldest Service.
    fn comes_before(&self, other: &Self) -> bool {
        let order = |owner: &Self| owner.kind != FrontendKind::ClusterIp;
        (order(self), &self.rank) < (order(other), &other.rank)
    }
}

impl<'a> Desired<'a> {
    /// The tables for these Services on this node.
    pub fn of(views: impl IntoIterator<Item = ServiceView<'a>>, node: &NodeView<'_>) -> Self {
        let mut desired = Self::default();
        for view in views {
            desired.add(&view, node);
        }
        let Self {
            frontends,
            addresses,
            ..
        } = &mut desired;
        // An external claim to a port of another's cluster address is none.
        frontends.retain(|key, owner| {
            owner.kind == FrontendKind::ClusterIp || !addresses.contains_key(&address_of(key))
        });
        desired
    }

    fn add(&mut self, view: &ServiceView<'a>, node: &NodeView<'_>) {
        let name = &view.service.name;
        let rank = Rank::of(view.service);
        let (ports, reports) = expand(view, node);
        self.reports
            .extend(reports.into_iter().map(|report| (name.clone(), report)));
        if let Some(health) = HealthCheck::of(view.service, &ports) {
            self.health.insert(name.clone(), health);
        }
        for port in ports {
            for frontend in &port.frontends {
                let owner = Owner::new(&port.key, frontend, &rank);
                let held = self
                    .frontends
                    .entry(frontend.key)
                    .or_insert_with(|| owner.clone());
                if owner.comes_before(held) {
                    *held = owner;
                }
            }
            let address = Ipv6Addr::from(port.address).to_canonical();
            *self.addresses.entry(address).or_default() |= port.has_ready;
            self.ports.insert(port.key.clone(), port);
        }
    }

    /// Who serves `clients` of a port: address and port, in their order.
    pub fn backends(&self, port: &PortKey, clients: Clients) -> Vec<(IpAddr, u16)> {
        let Some(port) = self.ports.get(port) else {
            return Vec::new();
        };
        let candidates = port.selection.candidates.iter();
        candidates
            .filter(|candidate| candidate.weight > 0 && port.serves(clients, candidate))
            .map(|candidate| (candidate.endpoint.address, candidate.port))
            .collect()
    }
}
