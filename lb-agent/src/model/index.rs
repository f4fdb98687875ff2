//! The cluster as the events add up to it: Services joined with their slices by name.
//!
//! * The order of events of different objects does not matter, and neither half of a join needs
//!   the other: a slice may come before its Service and outlive it.
//! * Nothing is deleted while a list of Services or `EndpointSlices` is incomplete. What is gone is
//!   deleted once *both* are complete again, since a Service whose slices are not yet listed looks
//!   like one without endpoints.
//! * It never fails. What concerns no Service of ours costs a lookup.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::endpoint::EndpointSlice;
use super::event::{Event, Kind};
use super::name::ObjectName;
use super::node::Node;
use super::service::Service;

/// What an event changed: what there is to plan again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[must_use = "what has changed must be planned again"]
pub struct Changed {
    /// Services that changed themselves or whose endpoints did. A name may be that of a Service
    /// that is gone, or of one that only has slices.
    pub services: BTreeSet<ObjectName>,
    /// Whether this agent's Node changed, which may concern every Service.
    pub node: bool,
    /// Whether the service networks changed.
    pub cidrs: bool,
}

impl Changed {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.services.is_empty() && !self.node && !self.cidrs
    }

    /// Adds what another event changed.
    pub fn merge(&mut self, other: Self) {
        // Not `append`, which rebuilds the whole set for one name more.
        self.services.extend(other.services);
        self.node |= other.node;
        self.cidrs |= other.cidrs;
    }
}

/// How far the list of a kind is.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Listing {
    /// Whether the current list is complete.
    is_complete: bool,
    /// Whether any list ever was.
    was_complete: bool,
    /// What we hold that the current list has not named: deleted when it is complete.
    unseen: BTreeSet<ObjectName>,
}

impl Listing {
    fn restart(&mut self, held: impl Iterator<Item = ObjectName>) {
        self.is_complete = false;
        self.unseen = held.collect();
    }

    const fn complete(&mut self) {
        self.is_complete = true;
        self.was_complete = true;
    }
}

/// Everything the sources have said, as one agent needs it.
#[derive(Clone, Debug)]
pub struct Model {
    node_name: String,
    services: BTreeMap<ObjectName, Arc<Service>>,
    slices: BTreeMap<ObjectName, Arc<EndpointSlice>>,
    /// The slices of each Service, sorted by their name.
    joined: BTreeMap<ObjectName, Vec<Arc<EndpointSlice>>>,
    /// Comes before the addresses of the Node.
    node_address: Option<IpAddr>,
    node: Option<Arc<Node>>,
    cidrs: Vec<(IpAddr, u8)>,
    /// What this machine's devices have, sorted.
    device_addresses: Vec<IpAddr>,
    service_listing: Listing,
    slice_listing: Listing,
    node_listing: Listing,
}

impl Model {
    /// An empty model for the agent of the named Node; other Nodes are ignored.
    pub fn new(node_name: &str) -> Self {
        Self {
            node_name: node_name.to_owned(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            joined: BTreeMap::new(),
            node_address: None,
            node: None,
            cidrs: Vec::new(),
            device_addresses: Vec::new(),
            service_listing: Listing::default(),
            slice_listing: Listing::default(),
            node_listing: Listing::default(),
        }
    }

    /// The same with an address that comes before those of the Node, and is the primary one of its family.
    #[must_use]
    pub const fn with_node_address(mut self, address: Option<IpAddr>) -> Self {
        self.node_address = address;
        self
    }

    /// Takes in one event.
    pub fn apply(&mut self, event: Event) -> Changed {
        let mut changed = Changed::default();
        match event {
            Event::ServiceApplied(service) => self.apply_service(service, &mut changed),
            Event::ServiceRemoved(name) => {
                if self.may_delete() {
                    self.remove_service(&name, &mut changed);
                } else if self.services.contains_key(&name) {
                    self.service_listing.unseen.insert(name);
                }
            }
            Event::SliceApplied(slice) => self.apply_slice(slice, &mut changed),
            Event::SliceRemoved(name) => {
                if self.may_delete() {
                    self.remove_slice(&name, &mut changed);
                } else if self.slices.contains_key(&name) {
                    self.slice_listing.unseen.insert(name);
                }
            }
            Event::NodeApplied(node) => self.apply_node(node, &mut changed),
            Event::NodeRemoved(name) => self.remove_node(name, &mut changed),
            Event::ServiceCidrs(cidrs) => {
                changed.cidrs = self.cidrs != cidrs;
                self.cidrs = cidrs;
            }
            Event::Restarted(kind) => self.restart(kind),
            Event::Listed(kind) => self.complete(kind, &mut changed),
        }
        changed
    }

    /// Takes in several events.
    pub fn apply_all(&mut self, events: impl IntoIterator<Item = Event>) -> Changed {
        let mut changed = Changed::default();
        for event in events {
            changed.merge(self.apply(event));
        }
        changed
    }

    /// Takes in the addresses of this machine's devices, which concern the Services that claim one of
    /// those that came or went.
    pub fn set_device_addresses(&mut self, mut addresses: Vec<IpAddr>) -> Changed {
        addresses.sort_unstable();
        addresses.dedup();
        let mut changed = Changed::default();
        if self.device_addresses == addresses {
            return changed;
        }
        let before = std::mem::replace(&mut self.device_addresses, addresses);
        let has = |addresses: &[IpAddr], ip: &IpAddr| addresses.binary_search(ip).is_ok();
        let differs = |ip: &IpAddr| has(&before, ip) != has(&self.device_addresses, ip);
        let concerned = self.services.values().filter(|service| {
            let mut external = service.external_ips.iter();
            external.any(differs)
        });
        changed.services = concerned.map(|service| service.name.clone()).collect();
        changed
    }

    /// Whether Services and `EndpointSlices` have both been listed once: before, the model is a
    /// part of the cluster, and programming it would take the rest away.
    pub const fn is_ready(&self) -> bool {
        self.service_listing.was_complete && self.slice_listing.was_complete
    }

    /// A Service.
    pub fn service(&self, name: &ObjectName) -> Option<&Service> {
        self.services.get(name).map(AsRef::as_ref)
    }

    /// The slices of a Service, sorted by their name; whether or not there is the Service.
    pub fn slices(&self, service: &ObjectName) -> impl ExactSizeIterator<Item = &EndpointSlice> {
        self.shared_slices(service).iter().map(AsRef::as_ref)
    }

    /// A Service, to be kept.
    pub fn shared_service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The slices of a Service, sorted by their name, to be kept.
    pub fn shared_slices(&self, service: &ObjectName) -> &[Arc<EndpointSlice>] {
        self.joined.get(service).map_or(&[], Vec::as_slice)
    }

    /// All Services, sorted by name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Service> {
        self.services.values().map(AsRef::as_ref)
    }

    /// This agent's Node, once the source has named it.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_deref()
    }

    /// The Node's `podCIDRs`; none as long as it is not known.
    pub fn pod_cidrs(&self) -> &[(IpAddr, u8)] {
        self.node.as_ref().map_or(&[], |node| &node.pod_cidrs)
    }

    /// This agent's Node, to be kept.
    pub const fn shared_node(&self) -> Option<&Arc<Node>> {
        self.node.as_ref()
    }

    /// The name of this agent's Node.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    /// The cluster's service networks: network address and prefix length.
    pub fn service_cidrs(&self) -> &[(IpAddr, u8)] {
        &self.cidrs
    }

    /// The addresses of this machine's devices, sorted.
    pub fn device_addresses(&self) -> &[IpAddr] {
        &self.device_addresses
    }

    const fn may_delete(&self) -> bool {
        self.service_listing.is_complete && self.slice_listing.is_complete
    }

    fn restart(&mut self, kind: Kind) {
        match kind {
            Kind::Service => self.service_listing.restart(self.services.keys().cloned()),
            Kind::EndpointSlice => self.slice_listing.restart(self.slices.keys().cloned()),
            Kind::Node => self
                .node_listing
                .restart(self.node.iter().map(|node| node_key(node))),
            // Their event is the whole set already.
            Kind::ServiceCidr => {}
        }
    }

    fn complete(&mut self, kind: Kind, changed: &mut Changed) {
        match kind {
            Kind::Service => self.service_listing.complete(),
            Kind::EndpointSlice => self.slice_listing.complete(),
            Kind::Node => {
                self.node_listing.complete();
                if !std::mem::take(&mut self.node_listing.unseen).is_empty() {
                    self.node = None;
                    changed.node = true;
                }
            }
            Kind::ServiceCidr => {}
        }
        if self.may_delete() {
            for name in std::mem::take(&mut self.service_listing.unseen) {
                self.remove_service(&name, changed);
            }
            for name in std::mem::take(&mut self.slice_listing.unseen) {
                self.remove_slice(&name, changed);
            }
        }
    }

    fn apply_service(&mut self, service: Arc<Service>, changed: &mut Changed) {
        self.service_listing.unseen.remove(&service.name);
        if self
            .services
            .get(&service.name)
            .is_none_or(|held| **held != *service)
        {
            changed.services.insert(service.name.clone());
            self.services.insert(service.name.clone(), service);
        }
    }

    fn remove_service(&mut self, name: &ObjectName, changed: &mut Changed) {
        if self.services.remove(name).is_some() {
            changed.services.insert(name.clone());
        }
    }

    fn apply_slice(&mut self, slice: Arc<EndpointSlice>, changed: &mut Changed) {
        self.slice_listing.unseen.remove(&slice.name);
        if self
            .slices
            .get(&slice.name)
            .is_some_and(|held| **held == *slice)
        {
            return;
        }
        // The label that names the Service may have changed.
        self.remove_slice(&slice.name, changed);
        changed.services.insert(slice.service.clone());
        let siblings = self.joined.entry(slice.service.clone()).or_default();
        let place = siblings.partition_point(|sibling| sibling.name < slice.name);
        siblings.insert(place, Arc::clone(&slice));
        self.slices.insert(slice.name.clone(), slice);
    }

    fn remove_slice(&mut self, name: &ObjectName, changed: &mut Changed) {
        let Some(slice) = self.slices.remove(name) else {
            return;
        };
        changed.services.insert(slice.service.clone());
        if let Some(siblings) = self.joined.get_mut(&slice.service) {
            siblings.retain(|sibling| sibling.name != *name);
            if siblings.is_empty() {
                self.joined.remove(&slice.service);
            }
        }
    }

    fn apply_node(&mut self, node: Arc<Node>, changed: &mut Changed) {
        if node.name != self.node_name {
            return;
        }
        self.node_listing.unseen.clear();
        let node = match self.node_address {
            Some(own) if node.addresses.first() != Some(&own) => {
                let mut node = Arc::unwrap_or_clone(node);
                node.addresses.retain(|address| *address != own);
                node.addresses.insert(0, own);
                Arc::new(node)
            }
            _ => node,
        };
        if self.node.as_deref() != Some(&*node) {
            self.node = Some(node);
            changed.node = true;
        }
    }

    fn remove_node(&mut self, name: String, changed: &mut Changed) {
        if name != self.node_name || self.node.is_none() {
            return;
        }
        if self.node_listing.is_complete {
            self.node = None;
            changed.node = true;
        } else {
            self.node_listing.unseen.insert(ObjectName {
                namespace: Arc::default(),
                name: name.into(),
            });
        }
    }
}

fn node_key(node: &Node) -> ObjectName {
    ObjectName {
        namespace: Arc::default(),
        name: node.name.as_str().into(),
    }
}

#[cfg(test)]
mod tests;
