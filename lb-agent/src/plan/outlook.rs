//! What a Service looks like from outside this node: pure, and only for Services with a `Local`
//! policy, since nobody asks about the others.

use std::collections::BTreeSet;

use super::endpoints::{Lists, is_externally_accessible, select};
use super::{NodeView, ServiceView};
use crate::model::service::TrafficPolicy;

/// What is told of a Service in one family.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Outlook {
    /// Addresses of endpoints on this node that are ready, over all ports. One that terminates does
    /// not count: load balancers are to let go of this node while it still serves.
    pub local_endpoints: usize,
    /// Ports whose internal policy is `Local`, with endpoints somewhere and none here.
    pub internal_without_local: u32,
    /// Ports whose external policy is `Local`, likewise.
    pub external_without_local: u32,
}

/// The outlook in IPv4 and IPv6; `None` for a family that the Service does not have, or where no
/// policy of it is `Local`.
pub fn outlook(view: &ServiceView<'_>, node: &NodeView<'_>) -> [Option<Outlook>; 2] {
    let service = view.service;
    let is_internal_local = service.internal_policy == TrafficPolicy::Local;
    let is_external_local = service.external_policy == TrafficPolicy::Local;
    if !is_internal_local && !is_external_local {
        return [None; 2];
    }
    [false, true].map(|is_v6| {
        service
            .cluster_ips
            .iter()
            .any(|address| address.is_ipv6() == is_v6)
            .then(|| {
                let mut outlook = Outlook::default();
                let mut local = BTreeSet::new();
                for port in &service.ports {
                    let lists = Lists::of(service, port.node_port, is_v6);
                    let selection = select(view, node, (&port.name, port.protocol), is_v6, lists);
                    local.extend(
                        selection
                            .candidates
                            .iter()
                            .filter(|candidate| candidate.is_local && candidate.endpoint.ready)
                            .map(|candidate| candidate.endpoint.address),
                    );
                    let has_local = selection
                        .candidates
                        .iter()
                        .any(|candidate| candidate.in_local);
                    if selection.has_any && !has_local {
                        outlook.internal_without_local += u32::from(is_internal_local);
                        outlook.external_without_local += u32::from(
                            is_external_local
                                && is_externally_accessible(service, port.node_port, is_v6),
                        );
                    }
                }
                outlook.local_endpoints = local.len();
                outlook
            })
    })
}

#[cfg(test)]
mod tests;
