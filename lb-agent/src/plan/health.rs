//! What is told of Services with a `Local` policy, since they are not the same on every node: what
//! the health-check node ports answer, and how many ports this node has no endpoint for.
//!
//! A load balancer asks every node at the Service's `healthCheckNodePort`; one that has none is
//! left out. Endpoints that terminate do not count, so that the node is drained while what still
//! arrives is served.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::clients::Clients;
use super::expand::DesiredPort;
use crate::model::service::Service;

/// Ports of one family that have endpoints, none of which this node may use.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WithoutLocal {
    /// Those whose internal policy is `Local`.
    pub internal: u32,
    /// Those whose external policy is `Local`.
    pub external: u32,
}

/// What is told of one Service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LocalView {
    /// Its health-check node port.
    pub health: Option<HealthCheck>,
    /// Of IPv4, then of IPv6.
    pub without: [WithoutLocal; 2],
}

impl LocalView {
    /// That of `service` with these `ports`; `None` where there is nothing to tell.
    pub(super) fn of(service: &Service, ports: &[DesiredPort<'_>]) -> Option<Self> {
        let mut view = Self {
            health: HealthCheck::of(service, ports),
            ..Self::default()
        };
        for port in ports {
            let without = &mut view.without[usize::from(port.key.is_v6)];
            without.internal += u32::from(port.lacks_local(Clients::OfClusterAddress));
            without.external += u32::from(port.lacks_local(Clients::Outside));
        }
        (view != Self::default()).then_some(view)
    }
}

/// The health-check node port of a Service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthCheck {
    /// The port, not 0.
    pub port: u16,
    /// Addresses of ready endpoints on this node, over all ports of the Service: of IPv4, or `None`
    /// where the Service has no such address and nothing listens.
    pub local_v4: Option<usize>,
    /// The same of IPv6.
    pub local_v6: Option<usize>,
}

impl HealthCheck {
    /// That of `service` with these `ports`, if it has one.
    pub fn of(service: &Service, ports: &[DesiredPort<'_>]) -> Option<Self> {
        if service.health_check_node_port == 0 {
            return None;
        }
        let local = |is_v6| {
            let has_family = service.cluster_ips.iter().any(|ip| ip.is_ipv6() == is_v6);
            has_family.then(|| count(ports, is_v6))
        };
        Some(Self {
            port: service.health_check_node_port,
            local_v4: local(false),
            local_v6: local(true),
        })
    }

    /// The count of one family.
    pub const fn local(&self, is_v6: bool) -> Option<usize> {
        if is_v6 { self.local_v6 } else { self.local_v4 }
    }
}

fn count(ports: &[DesiredPort<'_>], is_v6: bool) -> usize {
    let ports = ports.iter().filter(|port| port.key.is_v6 == is_v6);
    let endpoints = ports.flat_map(|port| &port.selection.candidates);
    let local: BTreeSet<IpAddr> = endpoints
        .filter(|candidate| candidate.is_local && candidate.endpoint.ready)
        .map(|candidate| candidate.endpoint.address)
        .collect();
    local.len()
}
