//! One Service expanded: an entry for each port and family, with what clients dial and whom they
//! reach.
//!
//! A family for which the Service has no cluster address does not exist for it: its node ports,
//! external and load balancer addresses of that family are ignored too.

use std::collections::BTreeSet;
use std::fmt;

use lb_common::family::MappedAddress;
use lb_common::flow::Protocol;
use lb_common::table::region::WhenEmpty;

use super::addresses::{self, DesiredFrontend};
use super::clients::Clients;
use super::endpoints::{self, Candidate, Lists, Selection};
use super::report::Report;
use super::source_ranges::SourceRanges;
use super::{NodeView, ServiceView};
use crate::model::name::{ObjectName, ServicePortName};
use crate::model::service::{Service, TrafficPolicy};

/// What a service id stands for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortKey {
    /// The port of the Service.
    pub name: ServicePortName,
    /// Whether this is its IPv6 side.
    pub is_v6: bool,
}

impl fmt::Display for PortKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        write!(formatter, "{} ({family})", self.name)
    }
}

/// One port of a Service in one family, as the tables should have it.
#[derive(Clone, Debug)]
pub struct DesiredPort<'a> {
    /// Which.
    pub key: PortKey,
    /// What clients dial, the cluster address first.
    pub frontends: Vec<DesiredFrontend>,
    /// Who may dial its load balancer addresses; `None` is everybody.
    pub source_ranges: Option<SourceRanges>,
    /// The address that answers echo requests and refuses unknown ports.
    pub address: MappedAddress,
    /// Whether any endpoint is ready, wherever it is and whatever the policies.
    pub has_ready: bool,
    /// Its endpoints.
    pub selection: Selection<'a>,
    /// Session affinity timeout in seconds, 0 for none.
    pub affinity_seconds: u32,
    lists: Lists,
    is_internal_local: bool,
    is_external_local: bool,
}

impl DesiredPort<'_> {
    /// Whether flows of `clients` may go to `candidate`, its weight aside.
    pub const fn serves(&self, clients: Clients, candidate: &Candidate<'_>) -> bool {
        if self.is_local(clients) || !self.lists.cluster {
            candidate.in_local
        } else {
            candidate.in_cluster
        }
    }

    /// What happens to a new flow of `clients` when nobody serves it: a policy that leaves nobody
    /// drops, an endpoint on another node could have served; the lack of any endpoint refuses.
    pub const fn when_empty(&self, clients: Clients) -> WhenEmpty {
        if self.is_local(clients) && self.selection.has_any {
            WhenEmpty::Drop
        } else {
            WhenEmpty::Refuse
        }
    }

    /// Whether the port is out of reach for some of its clients although endpoints exist elsewhere:
    /// the policy that keeps them is `Local` and no endpoint is here.
    pub fn lacks_local(&self, clients: Clients) -> bool {
        let mut candidates = self.selection.candidates.iter();
        self.when_empty(clients) == WhenEmpty::Drop
            && !candidates.any(|candidate| self.serves(clients, candidate))
    }

    const fn is_local(&self, clients: Clients) -> bool {
        match clients {
            Clients::OfClusterAddress => self.is_internal_local,
            Clients::Inside => false,
            Clients::Outside => self.is_external_local && self.lists.local,
        }
    }
}

/// Every port of every family of the Service, and what is wrong with it.
pub fn expand<'a>(
    view: &ServiceView<'a>,
    node: &NodeView<'_>,
) -> (Vec<DesiredPort<'a>>, Vec<Report>) {
    let service = view.service;
    let mut ports = Vec::with_capacity(service.ports.len() * service.cluster_ips.len());
    let mut reports = Vec::new();
    let mut names: BTreeSet<(&str, Protocol)> = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    let mut node_ports = BTreeSet::new();
    reports.extend(addresses::report_refused(service, node));
    for port in &service.ports {
        if port.port == 0
            || !names.insert((&port.name, port.protocol))
            || !numbers.insert((port.port, port.protocol))
            || (port.node_port != 0 && !node_ports.insert((port.node_port, port.protocol)))
        {
            reports.push(Report::PortRefused {
                port: port.name.clone(),
                number: port.port,
            });
            continue;
        }
        for &address in &service.cluster_ips {
            let is_v6 = address.is_ipv6();
            if let Some(refusal) = endpoints::refusal(address, is_v6) {
                reports.push(Report::AddressRefused { address, refusal });
                continue;
            }
            let lists = Lists::of(service, port.node_port, is_v6);
            let name = (&*port.name, port.protocol);
            let selection = endpoints::select(view, node, name, is_v6, lists);
            reports.extend(endpoints::report_refused(&selection, &port.name));
            let ranges = SourceRanges::of(service, node, is_v6);
            let frontends = addresses::frontends_of(service, port, address, ranges.as_ref(), node);
            ports.push(DesiredPort {
                key: PortKey {
                    name: ServicePortName {
                        service: service.name.clone(),
                        port: port.name.clone(),
                        protocol: port.protocol,
                    },
                    is_v6,
                },
                frontends,
                source_ranges: ranges,
                address: endpoints::mapped(address),
                has_ready: selection.candidates.iter().any(|c| c.endpoint.ready),
                selection,
                affinity_seconds: service.affinity_seconds.unwrap_or(0),
                lists,
                is_internal_local: service.internal_policy == TrafficPolicy::Local,
                is_external_local: service.external_policy == TrafficPolicy::Local
                    && endpoints::is_externally_accessible(service, port.node_port, is_v6),
            });
        }
    }
    reports.sort();
    reports.dedup();
    (ports, reports)
}

/// Who gets a frontend that several Services claim: the oldest, then the first by name. A Service
/// without a time of creation counts as the youngest.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Rank {
    created_seconds: i64,
    /// The Service.
    pub service: ObjectName,
}

impl Rank {
    /// The rank of a Service.
    pub fn of(service: &Service) -> Self {
        Self {
            created_seconds: service.created_seconds.unwrap_or(i64::MAX),
            service: service.name.clone(),
        }
    }
}
