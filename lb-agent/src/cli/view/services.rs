//! Service ports with what clients dial and who serves.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::flow::Protocol;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::frontend::FrontendKind;
use lb_common::table::service::Audience;
use serde::Serialize;

use crate::cli::inputs::{Connections, Region, address_of, backend_of, region_of};
use crate::dataplane::Actual;
use crate::plan::names::{EndpointName, Names, ServiceName};

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Namespace; empty where names are not known.
    pub namespace: String,
    /// Name; `#index` where names are not known.
    pub name: String,
    /// Name of the port, empty for the only one.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// What clients dial.
    pub frontends: Vec<FrontendView>,
    /// Internal traffic policy is `Local`.
    pub internal_local: bool,
    /// External traffic policy is `Local`.
    pub external_local: bool,
    /// Session affinity timeout in seconds, 0 for none.
    pub affinity_seconds: u32,
    /// Endpoints that get new flows of internal clients.
    pub usable: usize,
    /// All endpoints.
    pub total: usize,
    /// Connections opened since the tables were made.
    pub connections: u64,
    /// Position in `SERVICES`; 0 where the tables had no room.
    pub index: u32,
    /// Slots of the Maglev table, 0 where one backend needs none.
    pub table_size: u32,
    /// Every endpoint, used or not.
    pub backends: Vec<ServiceBackendView>,
    /// What the agent could not do as it was told.
    pub problems: Vec<String>,
}

/// An address that clients dial.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FrontendView {
    /// Address and port.
    pub address: SocketAddr,
    /// `ClusterIP`, `NodePort`, `ExternalIP` or `LoadBalancer`.
    pub kind: &'static str,
    /// Whether the kernel has it.
    pub programmed: bool,
    /// Whether an older Service holds the same address and port.
    pub shadowed: bool,
}

/// An endpoint of a service port.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceBackendView {
    /// Address and port that serve.
    pub address: SocketAddr,
    /// State of the endpoint.
    pub state: BackendState,
    /// Its Pod.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it is on this node.
    pub local: bool,
    /// Its weight; `None` where names are not known.
    pub weight: Option<u16>,
    /// Share of new flows, from 0 to 1: its slots of the Maglev table.
    pub share: f64,
    /// Why it gets no new flows.
    pub excluded: Option<String>,
    /// Connections opened since the tables were made, of all services.
    pub connections: u64,
}

/// State of an endpoint, in a word.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum BackendState {
    /// Serves and stays.
    Ready,
    /// Serves and is about to end: keeps its flows.
    Draining,
    /// Is about to end and does not serve.
    Terminating,
    /// Does not serve.
    NotReady,
}

impl BackendState {
    /// The state that the conditions mean.
    #[must_use]
    pub const fn from_conditions(is_serving: bool, is_terminating: bool) -> Self {
        match (is_serving, is_terminating) {
            (true, false) => Self::Ready,
            (true, true) => Self::Draining,
            (false, true) => Self::Terminating,
            (false, false) => Self::NotReady,
        }
    }

    /// The word that tables show.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Terminating => "terminating",
            Self::NotReady => "not ready",
        }
    }
}

impl ServiceView {
    /// `namespace/name:port`, as people name it.
    #[must_use]
    pub fn title(&self) -> String {
        title(&self.namespace, &self.name, &self.port_name)
    }
}

/// `namespace/name:port` without what is empty.
#[must_use]
pub fn title(namespace: &str, name: &str, port: &str) -> String {
    let mut title = String::new();
    if !namespace.is_empty() {
        title.push_str(namespace);
        title.push('/');
    }
    title.push_str(name);
    if !port.is_empty() {
        title.push(':');
        title.push_str(port);
    }
    title
}

/// The word for a protocol's number.
#[must_use]
pub const fn protocol_text(protocol: u8) -> &'static str {
    match Protocol::from_number(protocol) {
        Some(Protocol::Tcp) => "TCP",
        Some(Protocol::Udp) => "UDP",
        Some(Protocol::Sctp) => "SCTP",
        None => "?",
    }
}

/// The word for a frontend's kind.
#[must_use]
pub const fn kind_text(kind: u8) -> &'static str {
    match kind {
        1 => "ClusterIP",
        2 => "NodePort",
        3 => "ExternalIP",
        4 => "LoadBalancer",
        _ => "?",
    }
}

/// Every service port: those the agent named, then those that only the tables know.
#[must_use]
pub fn services(tables: &Actual, names: &Names, connections: &Connections) -> Vec<ServiceView> {
    let by_index = frontends_by_index(tables);
    let mut views: Vec<ServiceView> = names
        .services
        .iter()
        .map(|service| named(service, tables, names, connections))
        .collect();
    let known: std::collections::BTreeSet<u32> = names
        .services
        .iter()
        .map(|service| ServiceId::from_raw(service.id).index())
        .collect();
    for &index in tables.services.keys() {
        if !known.contains(&index) {
            let frontends = by_index.get(&index).cloned().unwrap_or_default();
            views.push(unnamed(index, frontends, tables, connections));
        }
    }
    views
}

type Dialled = (FrontendView, u8);

fn frontends_by_index(tables: &Actual) -> BTreeMap<u32, Vec<Dialled>> {
    let mut frontends: BTreeMap<u32, Vec<Dialled>> = BTreeMap::new();
    for (key, value) in &tables.frontends {
        let (Some(protocol), Some(kind)) = (key.protocol(), value.kind()) else {
            continue;
        };
        let kind = match kind {
            FrontendKind::ServiceAddress => continue,
            FrontendKind::ClusterIp => 1,
            FrontendKind::NodePort => 2,
            FrontendKind::ExternalIp => 3,
            FrontendKind::LoadBalancer => 4,
        };
        frontends.entry(value.service_index()).or_default().push((
            FrontendView {
                address: SocketAddr::new(address_of(key.address()), key.port()),
                kind: kind_text(kind),
                programmed: true,
                shadowed: false,
            },
            protocol.number(),
        ));
    }
    frontends
}

fn named(
    service: &ServiceName,
    tables: &Actual,
    names: &Names,
    connections: &Connections,
) -> ServiceView {
    let index = ServiceId::from_raw(service.id).index();
    let region = region_of(tables, index, Audience::Internal);
    let shares = shares(region.as_ref());
    let backends: Vec<ServiceBackendView> = service
        .endpoints
        .iter()
        .map(|endpoint| {
            let id = BackendId::from_raw(endpoint.backend);
            ServiceBackendView {
                address: SocketAddr::new(endpoint.address, endpoint.port),
                state: BackendState::from_conditions(
                    endpoint.has(EndpointName::SERVING),
                    endpoint.has(EndpointName::TERMINATING),
                ),
                pod: names
                    .string(endpoint.pod)
                    .map(|pod| title(&service.namespace, pod, "")),
                node: names.string(endpoint.node).map(str::to_owned),
                zone: names.string(endpoint.zone).map(str::to_owned),
                local: endpoint.has(EndpointName::LOCAL),
                weight: Some(endpoint.weight),
                share: shares.get(&id).copied().unwrap_or(0.0),
                excluded: endpoint.out.map(|reason| reason.text().to_owned()),
                connections: connection_count(&connections.backends, id.index()),
            }
        })
        .collect();
    let protocol = Protocol::from_number(service.protocol);
    ServiceView {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        port_name: service.port_name.clone(),
        protocol: protocol_text(service.protocol),
        frontends: service
            .frontends
            .iter()
            .map(|frontend| FrontendView {
                address: SocketAddr::new(frontend.address, frontend.port),
                kind: kind_text(frontend.kind),
                programmed: protocol.is_some_and(|protocol| {
                    let key = super::frontend_key(frontend.address, frontend.port, protocol);
                    tables
                        .frontends
                        .get(&key)
                        .is_some_and(|value| value.service_index() == index)
                }),
                shadowed: frontend.is_shadowed,
            })
            .collect(),
        internal_local: service.is_internal_local,
        external_local: service.is_external_local,
        affinity_seconds: service.affinity_seconds,
        usable: region.as_ref().map_or(0, |region| region.backends.len()),
        total: backends.len(),
        connections: connection_count(&connections.services, index),
        index,
        table_size: region.as_ref().map_or(0, |region| region.header.table_size),
        backends,
        problems: names
            .reports
            .iter()
            .filter(|report| report.namespace == service.namespace && report.name == service.name)
            .map(|report| report.text.clone())
            .collect(),
    }
}

fn unnamed(
    index: u32,
    frontends: Vec<Dialled>,
    tables: &Actual,
    connections: &Connections,
) -> ServiceView {
    let region = region_of(tables, index, Audience::Internal);
    let shares = shares(region.as_ref());
    let backends: Vec<ServiceBackendView> = region
        .iter()
        .flat_map(|region| &region.backends)
        .filter_map(|&id| {
            let record = backend_of(tables, id)?;
            let flags = record.flags();
            Some(ServiceBackendView {
                address: SocketAddr::new(address_of(record.address()), record.port()),
                state: super::backends::state_of(flags),
                pod: None,
                node: None,
                zone: None,
                local: super::backends::is_local(flags),
                weight: None,
                share: shares.get(&id).copied().unwrap_or(0.0),
                excluded: None,
                connections: connection_count(&connections.backends, id.index()),
            })
        })
        .collect();
    ServiceView {
        namespace: String::new(),
        name: format!("#{index}"),
        port_name: String::new(),
        protocol: frontends
            .first()
            .map_or("?", |(_, protocol)| protocol_text(*protocol)),
        frontends: frontends.into_iter().map(|(view, _)| view).collect(),
        internal_local: false,
        external_local: false,
        affinity_seconds: region
            .as_ref()
            .map_or(0, |region| region.header.affinity_seconds),
        usable: backends.len(),
        total: backends.len(),
        connections: connection_count(&connections.services, index),
        index,
        table_size: region.as_ref().map_or(0, |region| region.header.table_size),
        backends,
        problems: Vec::new(),
    }
}

fn connection_count(counts: &BTreeMap<u32, u64>, index: u32) -> u64 {
    counts.get(&index).copied().unwrap_or(0)
}

/// Share of new flows of each backend of `region`.
fn shares(region: Option<&Region>) -> BTreeMap<BackendId, f64> {
    let Some(region) = region else {
        return BTreeMap::new();
    };
    let counts = region.slots_by_backend();
    let all: u32 = counts.iter().sum();
    region
        .backends
        .iter()
        .zip(&counts)
        .map(|(&id, &count)| (id, share(count, all)))
        .collect()
}

/// `count` of `all` as a fraction with four digits, so that documents do not end in noise.
#[must_use]
pub fn share(count: u32, all: u32) -> f64 {
    if all == 0 {
        return 0.0;
    }
    (f64::from(count) / f64::from(all) * 10_000.0).round() / 10_000.0
}
