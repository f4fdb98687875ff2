//! From what the objects say to what the kernel tables hold: pure, without clock or I/O, and never
//! failing. What cannot be done is reported, and costs only the Service it concerns.
//!
//! ```text
//!  ServiceView ─ endpoints (who may serve) ─ expand (ports × families) ─ diff ─► Vec<Write>
//!                                                       ids · arena · regions ─┘
//! ```
//!
//! One Service is planned at a time, at a cost in proportion to it. The writes of a plan are
//! ordered so that the tables are sound after each of them, and so wherever the agent dies:
//!
//! 1. frontends that nobody wants any more are removed;
//! 2. bits of the filter and records of new backends;
//! 3. regions, where no service names them yet;
//! 4. the words of `SERVICES`, which is when the change takes effect;
//! 5. bits of the service filter and of node ports, source ranges, then frontends;
//! 6. what nothing names any more: words of services, flags of backends, source ranges.
//!
//! Regions and ids that a plan gives up are reused only after
//! [`Planner::readers_done`](planner::Planner::readers_done), ids also only after
//! [`Planner::sweep`](planner::Planner::sweep). Bits of the filters are never cleared while the
//! maps live: a bit too many costs a packet one lookup, and a flow may need it for a day. A frontend
//! with source ranges is never there before its networks; while they change, the old and the new ones
//! may dial.

use std::net::IpAddr;

use crate::model::endpoint::EndpointSlice;
use crate::model::service::Service;

pub mod addresses;
pub mod arena;
pub mod audit;
pub mod clients;
pub mod departed;
pub mod desired;
mod diff;
pub mod endpoints;
pub mod expand;
mod filters;
mod frontends;
pub mod health;
pub mod hosts;
pub mod ids;
pub mod latency;
pub mod names;
pub mod node_ports;
pub mod planner;
mod ranges;
pub mod region;
pub mod report;
mod restore;
pub mod snapshot;
pub mod source_ranges;
#[cfg(test)]
pub(crate) mod tests;
pub mod usage;

pub(crate) use diff::backend_key;
pub(crate) use filters::{backend_bit, node_bit, node_port_bit, service_bit};

/// A Service and the slices that belong to it.
#[derive(Clone, Debug)]
pub struct ServiceView<'a> {
    /// The Service.
    pub service: &'a Service,
    /// Its slices, of both families, in the order of their names.
    pub slices: Vec<&'a EndpointSlice>,
}

impl<'a> ServiceView<'a> {
    /// A view of `service`; `slices` may be in any order.
    pub fn new(service: &'a Service, slices: impl IntoIterator<Item = &'a EndpointSlice>) -> Self {
        let mut slices: Vec<_> = slices.into_iter().collect();
        slices.sort_by(|a, b| a.name.cmp(&b.name));
        Self { service, slices }
    }
}

/// What matters of the Node the agent runs on.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeView<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its zone.
    pub zone: Option<&'a str>,
    /// The addresses of the Node object, the primary one of each family first.
    pub addresses: &'a [IpAddr],
    /// The addresses of this machine's devices, which the Node object may not all have.
    pub device_addresses: &'a [IpAddr],
    /// The cluster's service networks: network address and prefix length.
    pub service_cidrs: &'a [(IpAddr, u8)],
}

impl NodeView<'_> {
    /// The first address of a family; none where the Node is not known yet.
    pub fn primary(&self, is_v6: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses.find(|address| address.is_ipv6() == is_v6)
    }
}
