//! Flows: connections that are translated, each once, although the table holds two halves, or four
//! where the backend sees an address of this node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::id::ServiceId;
use serde::Serialize;

use super::services::{protocol_text, title};
use crate::cli::inputs::FlowInput;
use crate::plan::names::{Names, ServiceName};

/// One flow, by the entry that the client's packets find.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// Who dialled.
    pub client: SocketAddr,
    /// What was dialled.
    pub frontend: SocketAddr,
    /// Who serves.
    pub backend: SocketAddr,
    /// As whom the backend sees the client, where that is an address of this node.
    pub source: Option<SocketAddr>,
    /// Halves that are not in the table; the next packet of the other direction makes them again.
    pub missing: Vec<&'static str>,
    /// The source port that the host sees, where it is another than the client's.
    pub changed_port: Option<u16>,
    /// Service port as `namespace/name:port`; `#index` where names are not known.
    pub service: String,
    /// Namespace of the Service.
    #[serde(skip)]
    pub namespace: String,
    /// State of the connection.
    pub state: &'static str,
    /// Whether a reply was seen: then nothing may take the flow's place.
    pub confirmed: bool,
    /// Seconds since the last packet.
    pub idle_seconds: u64,
    /// Seconds until it is forgotten unless a packet comes.
    pub expires_in_seconds: u64,
}

/// Counts of flows.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowStatsView {
    /// Flows.
    pub flows: u64,
    /// Of those, flows with a reply.
    pub confirmed: u64,
    /// Entries that are past their time and free to newcomers; they are in no other count.
    pub expired_entries: u64,
    /// Flows by protocol.
    pub by_protocol: BTreeMap<&'static str, u64>,
    /// Flows by state.
    pub by_state: BTreeMap<&'static str, u64>,
    /// Flows by family.
    pub by_family: BTreeMap<&'static str, u64>,
    /// Flow tables and how full they are.
    pub tables: Vec<FlowTableView>,
}

/// How full a flow table is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowTableView {
    /// The map's name.
    pub name: String,
    /// Entries in use; a flow takes two, one that dials itself or leaves by this node's address four.
    pub used: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// Every live flow, by service, then client.
#[must_use]
pub fn flows(entries: &[FlowInput], names: &Names) -> Vec<FlowView> {
    let services = by_id(names);
    let halves = Halves::of(entries);
    let mut views: Vec<FlowView> = entries
        .iter()
        .filter(|entry| is_flow(entry) && !entry.expires_in.is_zero())
        .map(|entry| FlowView {
            source: halves.source(entry),
            missing: halves.missing(entry),
            ..view(entry, services.get(&entry.service).copied())
        })
        .collect();
    views.sort_by(|a, b| {
        (&a.service, a.client, a.frontend, a.protocol)
            .cmp(&(&b.service, b.client, b.frontend, b.protocol))
    });
    views
}

/// The live entries, by what finds them.
struct Halves<'a> {
    entries: BTreeMap<HalfKey, &'a FlowInput>,
}

/// Protocol, source, destination, and whether at ingress.
type HalfKey = (u8, SocketAddr, SocketAddr, bool);

impl<'a> Halves<'a> {
    fn of(entries: &'a [FlowInput]) -> Self {
        let live = entries.iter().filter(|entry| !entry.expires_in.is_zero());
        Self {
            entries: live.map(|entry| (key(entry), entry)).collect(),
        }
    }

    /// The entry by which the packets of a flow leave, where it came from outside and leaves again.
    fn leaving(&self, flow: &FlowInput) -> Option<&FlowInput> {
        let (source, destination) = (flow.translated_source, flow.translated_destination);
        let key = (flow.protocol.number(), source, destination, false);
        let leaving = self.entries.get(&key).copied();
        leaving.filter(|entry| entry.is_original && flow.is_from_outside)
    }

    fn source(&self, flow: &FlowInput) -> Option<SocketAddr> {
        Some(self.leaving(flow)?.translated_source)
    }

    fn missing(&self, flow: &FlowInput) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !self.has_partner(flow) {
            missing.push("reply");
        }
        if self.leaving(flow).is_some_and(|it| !self.has_partner(it)) {
            missing.push("reply to this node's address");
        }
        missing
    }

    fn has_partner(&self, entry: &FlowInput) -> bool {
        let (source, destination) = (entry.translated_destination, entry.translated_source);
        let key = (
            entry.protocol.number(),
            source,
            destination,
            !entry.is_ingress,
        );
        self.entries.contains_key(&key)
    }
}

const fn key(entry: &FlowInput) -> HalfKey {
    let (source, destination) = (entry.source, entry.destination);
    (
        entry.protocol.number(),
        source,
        destination,
        entry.is_ingress,
    )
}

/// One flow by itself, without what other entries say of it.
#[must_use]
pub fn view_of(entry: &FlowInput, names: &Names) -> FlowView {
    let is_its = |service: &&ServiceName| ServiceId::from_raw(service.id) == entry.service;
    view(entry, names.services.iter().find(is_its))
}

fn by_id(names: &Names) -> BTreeMap<ServiceId, &ServiceName> {
    names
        .services
        .iter()
        .map(|service| (ServiceId::from_raw(service.id), service))
        .collect()
}

fn view(entry: &FlowInput, service: Option<&ServiceName>) -> FlowView {
    FlowView {
        protocol: protocol_text(entry.protocol.number()),
        client: entry.source,
        frontend: entry.destination,
        backend: entry.translated_destination,
        source: None,
        missing: Vec::new(),
        changed_port: (entry.source.port() != entry.translated_source.port())
            .then(|| entry.translated_source.port()),
        service: service.map_or_else(
            || format!("#{}", entry.service.index()),
            |service| title(&service.namespace, &service.name, &service.port_name),
        ),
        namespace: service.map_or_else(String::new, |service| service.namespace.clone()),
        state: entry.state,
        confirmed: entry.is_confirmed,
        idle_seconds: entry.idle.as_secs(),
        expires_in_seconds: entry.expires_in.as_secs(),
    }
}

/// Counts of `entries`.
#[must_use]
pub fn flow_stats(entries: &[FlowInput], tables: Vec<FlowTableView>) -> FlowStatsView {
    let mut stats = FlowStatsView {
        tables,
        ..FlowStatsView::default()
    };
    for entry in entries {
        if entry.expires_in.is_zero() {
            stats.expired_entries += 1;
            continue;
        }
        if !is_flow(entry) {
            continue;
        }
        stats.flows += 1;
        stats.confirmed += u64::from(entry.is_confirmed);
        let protocol = protocol_text(entry.protocol.number());
        *stats.by_protocol.entry(protocol).or_default() += 1;
        *stats.by_state.entry(entry.state).or_default() += 1;
        let family = if entry.source.is_ipv4() {
            "IPv4"
        } else {
            "IPv6"
        };
        *stats.by_family.entry(family).or_default() += 1;
    }
    stats
}

/// Whether `entry` stands for a flow: the half that the client's packets find where they enter, or, where
/// this node is the client, leave. A
/// pod that dials itself has another such half at the egress, which is part of the same flow.
#[must_use]
pub const fn is_flow(entry: &FlowInput) -> bool {
    entry.is_original && (entry.is_ingress || entry.is_of_host)
}
