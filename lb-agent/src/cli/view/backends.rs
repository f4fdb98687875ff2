//! Backends: one for each address, port and protocol, whatever number of services share it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::id::BackendId;
use lb_common::table::backend::BackendFlags;
use serde::Serialize;

use super::services::{BackendState, protocol_text, title};
use crate::cli::inputs::{Connections, address_of};
use crate::dataplane::Actual;
use crate::plan::names::Names;

/// One backend.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendView {
    /// Address and port that serve.
    pub address: SocketAddr,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// State of its endpoint.
    pub state: BackendState,
    /// Its Pod, with namespace.
    pub pod: Option<String>,
    /// Its node.
    pub node: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Whether it is on this node.
    pub local: bool,
    /// Service ports that name it, as `namespace/name:port`.
    pub services: Vec<String>,
    /// Namespaces of those.
    #[serde(skip)]
    pub namespaces: BTreeSet<String>,
    /// Connections opened since the tables were made.
    pub connections: u64,
    /// Position in `BACKENDS`.
    pub index: u32,
    /// How often the position was given out before, modulo 1024.
    pub generation: u32,
}

/// What the tables do not say of a backend.
#[derive(Default)]
struct Known {
    pod: Option<String>,
    node: Option<String>,
    zone: Option<String>,
    services: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

/// Every backend of the tables, by address.
#[must_use]
pub fn backends(tables: &Actual, names: &Names, connections: &Connections) -> Vec<BackendView> {
    let mut known = known(names);
    let mut views: Vec<BackendView> = tables
        .backends
        .iter()
        .map(|(&index, record)| {
            let id = BackendId::new(index, record.generation());
            let known = known.remove(&id).unwrap_or_default();
            let flags = record.flags();
            BackendView {
                address: SocketAddr::new(address_of(record.address()), record.port()),
                protocol: record
                    .protocol()
                    .map_or("?", |protocol| protocol_text(protocol.number())),
                state: state_of(flags),
                pod: known.pod,
                node: known.node,
                zone: known.zone,
                local: is_local(flags),
                services: known.services.into_iter().collect(),
                namespaces: known.namespaces,
                connections: connections.backends.get(&index).copied().unwrap_or(0),
                index,
                generation: record.generation(),
            }
        })
        .collect();
    views.sort_by_key(|view| (view.address, view.protocol));
    views
}

fn known(names: &Names) -> BTreeMap<BackendId, Known> {
    let mut all: BTreeMap<BackendId, Known> = BTreeMap::new();
    for service in &names.services {
        for endpoint in &service.endpoints {
            let known = all
                .entry(BackendId::from_raw(endpoint.backend))
                .or_default();
            known.pod = names
                .string(endpoint.pod)
                .map(|pod| title(&service.namespace, pod, ""));
            known.node = names.string(endpoint.node).map(str::to_owned);
            known.zone = names.string(endpoint.zone).map(str::to_owned);
            known
                .services
                .insert(title(&service.namespace, &service.name, &service.port_name));
            known.namespaces.insert(service.namespace.clone());
        }
    }
    all
}

/// The state that a record's flags mean.
#[must_use]
pub const fn state_of(flags: BackendFlags) -> BackendState {
    BackendState::from_conditions(
        flags.has(BackendFlags::SERVING),
        flags.has(BackendFlags::TERMINATING),
    )
}

/// Whether the flags say that the backend is on this node.
#[must_use]
pub const fn is_local(flags: BackendFlags) -> bool {
    flags.has(BackendFlags::LOCAL)
}
