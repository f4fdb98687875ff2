//! What clients dial to reach one port of a Service in one family, and which addresses it may not
//! have.
//!
//! External and load balancer addresses are whatever a Service says, so they could take packets
//! that are not the Service's to take. Refused are those that are no host's (loopback, link-local,
//! multicast), those of this node and those of the service networks. An address that is another
//! Service's cluster address by chance is kept from external claims by the tie-break: see
//! `frontends`.
//!
//! `externalIPs` are whatever the author of a Service writes, so they may not be any address that a
//! device of this machine has, whether the Node object lists it or not. A load balancer's address is
//! written by a controller, and several of those put it on a device of the node that announces it:
//! only the Node's own addresses are kept from it.

use std::net::IpAddr;

use lb_common::table::frontend::{FrontendKey, FrontendKind};

use super::NodeView;
use super::endpoints::{self, mapped};
use super::report::{Refusal, Report};
use super::source_ranges::{SourceRanges, contains};
use crate::model::service::{Service, ServicePort};

/// An address and port that clients dial.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DesiredFrontend {
    /// Address, port and protocol.
    pub key: FrontendKey,
    /// Where it comes from.
    pub kind: FrontendKind,
    /// Whether only clients in the port's source ranges may dial it.
    pub is_ranged: bool,
}

/// The frontends of `port` at `cluster_ip` and at the Service's other addresses of that family.
/// The cluster address comes first.
pub(super) fn frontends_of(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    ranges: Option<&SourceRanges>,
    node: &NodeView<'_>,
) -> Vec<DesiredFrontend> {
    let is_v6 = cluster_ip.is_ipv6();
    let key = |address| FrontendKey::new(mapped(address), port.port, port.protocol);
    let mut frontends = vec![DesiredFrontend {
        key: key(cluster_ip),
        kind: FrontendKind::ClusterIp,
        is_ranged: false,
    }];
    for (address, kind) in claims(service) {
        let key = key(address);
        let is_known = frontends.iter().any(|known| known.key == key);
        if address.is_ipv6() != is_v6 || is_known || external_refusal(address, kind, node).is_some()
        {
            continue;
        }
        frontends.push(DesiredFrontend {
            key,
            kind,
            is_ranged: kind == FrontendKind::LoadBalancer && ranges.is_some(),
        });
    }
    if port.node_port != 0 {
        frontends.push(DesiredFrontend {
            key: FrontendKey::node_port(is_v6, port.node_port, port.protocol),
            kind: FrontendKind::NodePort,
            is_ranged: false,
        });
    }
    frontends
}

/// A report for each external and load balancer address that is refused, of the families that the
/// Service exists in.
pub(super) fn report_refused(service: &Service, node: &NodeView<'_>) -> Vec<Report> {
    claims(service)
        .filter(|(address, _)| has_family(service, *address))
        .filter_map(|(address, kind)| {
            Some(Report::ExternalAddressRefused {
                address,
                refusal: external_refusal(address, kind, node)?,
            })
        })
        .collect()
}

/// The addresses that a Service claims beside its cluster addresses. Load balancer addresses come first:
/// where an external address is the same, their source ranges hold.
fn claims(service: &Service) -> impl Iterator<Item = (IpAddr, FrontendKind)> {
    let balanced = service.load_balancer_ips.iter();
    let balanced = balanced.map(|ip| (*ip, FrontendKind::LoadBalancer));
    let external = service.external_ips.iter();
    let external = external.map(|ip| (*ip, FrontendKind::ExternalIp));
    balanced.chain(external)
}

fn has_family(service: &Service, address: IpAddr) -> bool {
    let mut own = service.cluster_ips.iter();
    own.any(|ip| ip.is_ipv6() == address.is_ipv6())
}

/// Why an address may not be a Service's external or load balancer address, as `kind` says, if so.
pub fn external_refusal(
    address: IpAddr,
    kind: FrontendKind,
    node: &NodeView<'_>,
) -> Option<Refusal> {
    let is_borne = kind == FrontendKind::ExternalIp && node.device_addresses.contains(&address);
    if is_borne || node.addresses.contains(&address) {
        return Some(Refusal::NodeAddress);
    }
    endpoint_refusal(address, address.is_ipv6(), node)
}

/// Why an address cannot be an endpoint's, if so. It may be a node's: that of a Pod on the host's
/// network.
pub fn endpoint_refusal(address: IpAddr, is_v6: bool, node: &NodeView<'_>) -> Option<Refusal> {
    endpoints::refusal(address, is_v6).or_else(|| {
        let mut networks = node.service_cidrs.iter();
        networks
            .any(|network| contains(*network, address))
            .then_some(Refusal::ServiceNetwork)
    })
}
