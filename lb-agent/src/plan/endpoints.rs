//! Which endpoints of a service port may serve, and why the others may not: kube-proxy's rules
//! (`CategorizeEndpoints`), in its order.
//!
//! 1. Endpoints come from slices of the port's family, by port name *and* protocol.
//! 2. One entry for each address and port: one that does not terminate beats one that does; of
//!    several that do not terminate the last counts, of several that do the first.
//! 3. Node hints are followed if every ready endpoint has some and one names this node; else zone
//!    hints if every ready endpoint has some and one names this zone; else none.
//! 4. The *cluster* list is what is ready and allowed by the hints; if that is nothing, whatever
//!    still serves while it terminates, wherever it is.
//! 5. The *local* list is what is ready on this node; if that is nothing, what still serves here
//!    while it terminates. Hints never apply to it.
//!
//! The two fallbacks are independent: one list may use terminating endpoints, the other ready ones.
//! A list that no policy of the Service asks for is empty. Entries are in the order of address and
//! port as numbers (kube-proxy sorts their text; nothing here depends on the order but equality of
//! sets).

use std::net::IpAddr;

use lb_common::family::{Family as _, MappedAddress, V4};
use lb_common::flow::Protocol;

use super::addresses::endpoint_refusal;
use super::names::OutReason;
use super::report::{Refusal, Report};
use super::{NodeView, ServiceView};
use crate::model::endpoint::{Endpoint, EndpointSlice};
use crate::model::service::{Service, TrafficPolicy};

#[cfg(test)]
mod tests;

/// One endpoint of a service port and what became of it.
#[derive(Clone, Debug)]
pub struct Candidate<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// The port it serves at, host order.
    pub port: u16,
    /// Its slice's weight.
    pub weight: u16,
    /// Whether it is on this node.
    pub is_local: bool,
    /// Whether it is in the cluster list.
    pub in_cluster: bool,
    /// Whether it is in the local list.
    pub in_local: bool,
    /// Why no new flow is sent to it, by either list.
    pub out: Option<OutReason>,
}

impl Candidate<'_> {
    /// Where it serves.
    const fn place(&self) -> (IpAddr, u16) {
        (self.endpoint.address, self.port)
    }

    /// Usable as a last resort: not ready, but serving until it ends.
    const fn is_fallback(&self) -> bool {
        !self.endpoint.ready && self.endpoint.serving && self.endpoint.terminating
    }

    /// Whether flows it has may go on: then it keeps its backend, used by new flows or not.
    pub const fn keeps_flows(&self) -> bool {
        self.endpoint.ready || self.endpoint.serving
    }
}

/// The endpoints of one service port in one family.
#[derive(Clone, Debug, Default)]
pub struct Selection<'a> {
    /// All of them, by address and port; refused ones are not among them.
    pub candidates: Vec<Candidate<'a>>,
    /// Those whose address no endpoint may have, with the port and what is wrong.
    pub refused: Vec<(&'a Endpoint, u16, Refusal)>,
    /// Whether some endpoint of the whole cluster could serve: decides between refusing clients
    /// and dropping their packets where the policy leaves none.
    pub has_any: bool,
}

/// Which lists the policies of a Service ask for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Lists {
    /// Whether the cluster list is used.
    pub cluster: bool,
    /// Whether the local list is used.
    pub local: bool,
}

impl Lists {
    /// The lists that a port of `service` with this node port needs in one family.
    pub fn of(service: &Service, node_port: u16, is_v6: bool) -> Self {
        let is_external = is_externally_accessible(service, node_port, is_v6);
        let is_internal_local = service.internal_policy == TrafficPolicy::Local;
        let is_external_local = service.external_policy == TrafficPolicy::Local;
        Self {
            cluster: !is_internal_local || is_external,
            local: is_internal_local || (is_external_local && is_external),
        }
    }
}

/// Whether the port has an address of the family other than its cluster address.
pub fn is_externally_accessible(service: &Service, node_port: u16, is_v6: bool) -> bool {
    let is_of_family = |address: &IpAddr| address.is_ipv6() == is_v6;
    node_port != 0
        || service.load_balancer_ips.iter().any(is_of_family)
        || service.external_ips.iter().any(is_of_family)
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Topology {
    Anywhere,
    SameNode,
    SameZone,
}

/// Joins, deduplicates and categorises the endpoints of a port; what is refused is reported.
pub fn select<'a>(
    view: &ServiceView<'a>,
    node: &NodeView<'_>,
    port: (&str, Protocol),
    is_v6: bool,
    lists: Lists,
) -> Selection<'a> {
    let mut selection = join(&view.slices, node, port, is_v6);
    categorise(&mut selection, node, lists);
    selection
}

fn join<'a>(
    slices: &[&'a EndpointSlice],
    node: &NodeView<'_>,
    (name, protocol): (&str, Protocol),
    is_v6: bool,
) -> Selection<'a> {
    let mut candidates: Vec<Candidate<'a>> = Vec::new();
    let mut refused = Vec::new();
    for slice in slices.iter().filter(|slice| slice.is_v6 == is_v6) {
        let ports = slice
            .ports
            .iter()
            .filter(|port| *port.name == *name && port.protocol == protocol && port.port != 0);
        for port in ports {
            for endpoint in &slice.endpoints {
                if let Some(refusal) = endpoint_refusal(endpoint.address, is_v6, node) {
                    refused.push((endpoint, port.port, refusal));
                    continue;
                }
                candidates.push(Candidate {
                    endpoint,
                    port: port.port,
                    weight: slice.weight,
                    is_local: endpoint.node.as_deref() == Some(node.name),
                    in_cluster: false,
                    in_local: false,
                    out: None,
                });
            }
        }
    }
    // Stable, so that doubled endpoints stay in the order of their slices.
    candidates.sort_by_key(Candidate::place);
    candidates.dedup_by(|later, held| {
        let is_double = later.place() == held.place();
        if is_double && !later.endpoint.terminating {
            std::mem::swap(later, held);
        }
        is_double
    });
    Selection {
        candidates,
        refused,
        has_any: false,
    }
}

/// Why an address cannot be any host's or service's, if so.
pub const fn refusal(address: IpAddr, is_v6: bool) -> Option<Refusal> {
    if address.is_ipv6() != is_v6 {
        return Some(Refusal::OtherFamily);
    }
    if address.is_unspecified() {
        return Some(Refusal::Unspecified);
    }
    if address.is_loopback() {
        return Some(Refusal::Loopback);
    }
    if address.is_multicast() {
        return Some(Refusal::Multicast);
    }
    match address {
        IpAddr::V4(address) if address.is_link_local() => Some(Refusal::LinkLocal),
        IpAddr::V4(address) if address.is_broadcast() => Some(Refusal::Multicast),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(Refusal::LinkLocal),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => Some(Refusal::OtherFamily),
        _ => None,
    }
}

fn categorise(selection: &mut Selection<'_>, node: &NodeView<'_>, lists: Lists) {
    let candidates = &mut selection.candidates;
    let topology = if lists.cluster {
        topology(candidates, node)
    } else {
        Topology::Anywhere
    };
    if lists.cluster {
        let is_chosen = |candidate: &Candidate<'_>| {
            candidate.endpoint.ready && allows(topology, candidate, node)
        };
        let has_ready = candidates.iter().any(is_chosen);
        for candidate in candidates.iter_mut() {
            candidate.in_cluster = if has_ready {
                is_chosen(candidate)
            } else {
                candidate.is_fallback()
            };
            selection.has_any |= candidate.in_cluster;
        }
    }
    if lists.local {
        let has_ready = candidates
            .iter()
            .any(|candidate| candidate.endpoint.ready && candidate.is_local);
        for candidate in candidates.iter_mut() {
            candidate.in_local = candidate.is_local
                && if has_ready {
                    candidate.endpoint.ready
                } else {
                    candidate.is_fallback()
                };
            selection.has_any |= candidate.endpoint.ready || candidate.is_fallback();
        }
    }
    for candidate in candidates.iter_mut() {
        candidate.out = out_reason(candidate, topology, lists);
    }
}

fn out_reason(candidate: &Candidate<'_>, topology: Topology, lists: Lists) -> Option<OutReason> {
    if candidate.in_cluster || candidate.in_local {
        return (candidate.weight == 0).then_some(OutReason::WeightZero);
    }
    Some(if candidate.is_fallback() {
        OutReason::Terminating
    } else if !candidate.endpoint.ready {
        OutReason::NotReady
    } else if !lists.cluster {
        OutReason::NotLocal
    } else if topology == Topology::SameNode {
        OutReason::OtherNode
    } else {
        OutReason::OtherZone
    })
}

fn topology(candidates: &[Candidate<'_>], node: &NodeView<'_>) -> Topology {
    let ready = || {
        candidates
            .iter()
            .filter(|candidate| candidate.endpoint.ready)
    };
    if ready().all(|candidate| !candidate.endpoint.node_hints.is_empty())
        && ready().any(|candidate| allows(Topology::SameNode, candidate, node))
    {
        return Topology::SameNode;
    }
    if ready().all(|candidate| !candidate.endpoint.zone_hints.is_empty())
        && ready().any(|candidate| allows(Topology::SameZone, candidate, node))
    {
        return Topology::SameZone;
    }
    Topology::Anywhere
}

fn allows(topology: Topology, candidate: &Candidate<'_>, node: &NodeView<'_>) -> bool {
    match topology {
        Topology::Anywhere => true,
        Topology::SameNode => {
            let mut hints = candidate.endpoint.node_hints.iter();
            hints.any(|hint| **hint == *node.name)
        }
        Topology::SameZone => node
            .zone
            .filter(|zone| !zone.is_empty())
            .is_some_and(|zone| {
                let mut hints = candidate.endpoint.zone_hints.iter();
                hints.any(|hint| **hint == *zone)
            }),
    }
}

/// The table form of an address.
pub fn mapped(address: IpAddr) -> MappedAddress {
    match address {
        IpAddr::V4(address) => V4::mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// One report for all endpoints of a port that were refused.
pub fn report_refused(selection: &Selection<'_>, port: &str) -> Option<Report> {
    let (endpoint, _, refusal) = selection.refused.first()?;
    Some(Report::EndpointsRefused {
        port: port.to_owned(),
        count: selection.refused.len(),
        address: endpoint.address,
        refusal: *refusal,
    })
}
