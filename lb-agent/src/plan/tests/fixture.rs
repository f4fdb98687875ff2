//! Small makers of Services and slices, and a world of them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::flow::Protocol;

use crate::model::endpoint::{DEFAULT_WEIGHT, Endpoint, EndpointPort, EndpointSlice, Hints};
use crate::model::name::ObjectName;
use crate::model::service::{Service, ServicePort, TrafficPolicy};
use crate::model::uid::Uid;
use crate::plan::{NodeView, ServiceView};
use crate::reconcile::Objects;

/// The node tests run on.
pub(crate) const NODE: NodeView<'static> = NodeView {
    name: "node-a",
    zone: Some("zone-a"),
    addresses: &[],
    device_addresses: &[],
    service_cidrs: &[],
};

pub(crate) fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".into(),
        name: name.into(),
    }
}

pub(crate) fn service(service: &str, addresses: &[&str], ports: &[(&str, u16)]) -> Service {
    Service {
        name: name(service),
        uid: Uid::default(),
        created_seconds: Some(0),
        cluster_ips: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: ports
            .iter()
            .map(|&(name, port)| ServicePort {
                name: name.into(),
                protocol: Protocol::Tcp,
                port,
                node_port: 0,
            })
            .collect(),
        affinity_seconds: None,
        internal_policy: TrafficPolicy::Cluster,
        external_policy: TrafficPolicy::Cluster,
        health_check_node_port: 0,
    }
}

/// A ready endpoint on another node.
pub(crate) fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        ready: true,
        serving: true,
        terminating: false,
        node: Some("node-b".into()),
        zone: Some("zone-b".into()),
        zone_hints: Hints::default(),
        node_hints: Hints::default(),
        pod: None,
    }
}

/// A slice of the family of its first endpoint.
pub(crate) fn slice(
    slice: &str,
    service: &str,
    ports: &[(&str, u16)],
    endpoints: impl IntoIterator<Item = Endpoint>,
) -> EndpointSlice {
    let endpoints: Vec<_> = endpoints.into_iter().collect();
    EndpointSlice {
        name: name(slice),
        service: name(service),
        is_v6: endpoints
            .first()
            .is_some_and(|first| first.address.is_ipv6()),
        endpoints,
        ports: ports
            .iter()
            .map(|&(name, port)| EndpointPort {
                name: name.into(),
                protocol: Protocol::Tcp,
                port,
            })
            .collect(),
        weight: DEFAULT_WEIGHT,
        triggered_micros: None,
    }
}

/// Services and slices.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) services: BTreeMap<ObjectName, Service>,
    pub(crate) slices: BTreeMap<ObjectName, EndpointSlice>,
}

impl World {
    pub(crate) fn add_service(&mut self, service: Service) {
        self.services.insert(service.name.clone(), service);
    }

    pub(crate) fn add_slice(&mut self, slice: EndpointSlice) {
        self.slices.insert(slice.name.clone(), slice);
    }

    pub(crate) fn slice_mut(&mut self, slice: &str) -> &mut EndpointSlice {
        self.slices.get_mut(&name(slice)).unwrap()
    }

    pub(crate) fn views(&self) -> Vec<ServiceView<'_>> {
        let services = self.services.values();
        services.map(|service| self.view_of(service)).collect()
    }

    fn view_of<'a>(&'a self, service: &'a Service) -> ServiceView<'a> {
        let slices = self.slices.values();
        ServiceView::new(
            service,
            slices.filter(|slice| slice.service == service.name),
        )
    }
}

impl Objects for World {
    fn view(&self, name: &ObjectName) -> Option<ServiceView<'_>> {
        Some(self.view_of(self.services.get(name)?))
    }

    fn names(&self) -> Vec<ObjectName> {
        self.services.keys().cloned().collect()
    }

    fn node(&self) -> NodeView<'_> {
        NODE
    }
}

/// `n` as an address of one family, never of a refused range.
pub(crate) fn address(n: u32, is_v6: bool) -> IpAddr {
    if is_v6 {
        let base = 0xfd00_0000_0000_0000_0000_0000_0000_0000_u128;
        IpAddr::V6((base + u128::from(n)).into())
    } else {
        IpAddr::V4((0x0a00_0000 + n).into())
    }
}
