//! Writes the names snapshot: what [`Names`](super::names::Names) describes, from the objects and
//! the planner's ids, without ever holding it in memory.
//!
//! A cluster has more endpoints than the agent may have memory for their names twice, so the
//! snapshot is a value that serialises itself: each Service is expanded again, written and
//! forgotten.

use std::cell::RefCell;
use std::collections::BTreeMap;

use lb_common::table::frontend::FrontendKind;
use serde::ser::{SerializeSeq as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

use super::clients::Clients;
use super::desired::address_of;
use super::diff::backend_key;
use super::endpoints::Candidate;
use super::expand::{DesiredPort, PortKey, expand};
use super::names::{EndpointName, FrontendName, OutReason, ReportName, ServiceName, VERSION};
use super::planner::Planner;
use super::{NodeView, ServiceView};
use crate::model::endpoint::Endpoint;
use crate::model::service::TrafficPolicy;

/// The snapshot of `services`, each as it was last planned.
pub struct Snapshot<'a, I> {
    planner: &'a Planner,
    node: NodeView<'a>,
    services: I,
}

impl<'a, I> Snapshot<'a, I>
where
    I: Iterator<Item = ServiceView<'a>> + Clone,
{
    /// A snapshot to be serialised, of every Service there is.
    pub const fn new(planner: &'a Planner, node: NodeView<'a>, services: I) -> Self {
        Self {
            planner,
            node,
            services,
        }
    }
}

impl<'a, I> Serialize for Snapshot<'a, I>
where
    I: Iterator<Item = ServiceView<'a>> + Clone,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let strings = RefCell::new(Strings::new());
        let reports = self.planner.reports();
        let reports: Vec<_> = reports
            .iter()
            .map(|(name, report)| ReportName {
                namespace: name.namespace.clone(),
                name: name.name.clone(),
                text: report.to_string(),
            })
            .collect();
        let mut names = serializer.serialize_struct("Names", 5)?;
        names.serialize_field("version", &VERSION)?;
        names.serialize_field("node", self.node.name)?;
        let services = Services {
            snapshot: self,
            strings: &strings,
        };
        names.serialize_field("services", &services)?;
        names.serialize_field("strings", &strings.borrow().texts)?;
        names.serialize_field("reports", &reports)?;
        names.end()
    }
}

struct Services<'s, 'a, I> {
    snapshot: &'s Snapshot<'a, I>,
    strings: &'s RefCell<Strings<'a>>,
}

impl<'a, I> Serialize for Services<'_, 'a, I>
where
    I: Iterator<Item = ServiceView<'a>> + Clone,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let planner = self.snapshot.planner;
        let mut sequence = serializer.serialize_seq(None)?;
        for view in self.snapshot.services.clone() {
            let kept_back = planner
                .reports
                .get(&view.service.name)
                .is_some_and(|reports| reports.iter().any(super::report::Report::keeps_old_state));
            let (ports, _) = expand(&view, &self.snapshot.node);
            for port in &ports {
                let mut strings = self.strings.borrow_mut();
                let name = service_name(planner, &view, port, kept_back, &mut strings);
                drop(strings);
                sequence.serialize_element(&name)?;
            }
        }
        sequence.end()
    }
}

fn service_name<'a>(
    planner: &Planner,
    view: &ServiceView<'a>,
    port: &DesiredPort<'a>,
    kept_back: bool,
    strings: &mut Strings<'a>,
) -> ServiceName {
    let service = view.service;
    let planned = planner.planned.get(&service.name).and_then(|planned| {
        let mut ports = planned.ports.iter();
        ports.find(|planned| *planned.key == port.key)
    });
    let index = planned.map_or(0, |planned| planned.id.index());
    let frontends = port.frontends.iter().map(|frontend| FrontendName {
        address: address_of(&frontend.key),
        port: frontend.key.port(),
        kind: kind_number(frontend.kind),
        is_shadowed: planner.frontends.is_shadowed(&frontend.key, index),
        withheld: frontend.withheld,
    });
    let refused = port
        .selection
        .refused
        .iter()
        .map(|&(endpoint, number, _)| EndpointName {
            backend: 0,
            bits: condition_bits(endpoint),
            out: Some(OutReason::Refused),
            ..place(endpoint, number, strings)
        });
    let mut endpoints: Vec<_> = refused.collect();
    for candidate in &port.selection.candidates {
        endpoints.push(endpoint_name(planner, port, candidate, strings, kept_back));
    }
    endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
    let PortKey { name, is_v6 } = &port.key;
    ServiceName {
        id: planned.map_or(0, |planned| planned.id.raw()),
        namespace: service.name.namespace.clone(),
        name: service.name.name.clone(),
        port_name: name.port.clone(),
        protocol: name.protocol.number(),
        is_v6: *is_v6,
        frontends: frontends.collect(),
        is_internal_local: service.internal_policy == TrafficPolicy::Local,
        is_external_local: service.external_policy == TrafficPolicy::Local,
        affinity_seconds: port.affinity_seconds,
        endpoints,
    }
}

fn endpoint_name<'a>(
    planner: &Planner,
    port: &DesiredPort<'a>,
    candidate: &Candidate<'a>,
    strings: &mut Strings<'a>,
    kept_back: bool,
) -> EndpointName {
    let key = backend_key(&port.key, candidate);
    let id = candidate
        .keeps_flows()
        .then(|| planner.backends.get(&key))
        .flatten();
    let mut bits = condition_bits(candidate.endpoint);
    for (is_set, bit) in [
        (candidate.is_local, EndpointName::LOCAL),
        (
            port.serves(Clients::OfClusterAddress, candidate),
            EndpointName::INTERNAL,
        ),
        (
            port.serves(Clients::Outside, candidate),
            EndpointName::EXTERNAL,
        ),
    ] {
        if is_set {
            bits |= bit;
        }
    }
    let no_room = kept_back.then_some(OutReason::NoRoom);
    EndpointName {
        backend: id.map_or(0, lb_common::id::BackendId::raw),
        weight: candidate.weight,
        bits,
        out: candidate.out.or(no_room),
        ..place(candidate.endpoint, candidate.port, strings)
    }
}

fn condition_bits(endpoint: &Endpoint) -> u8 {
    [
        (endpoint.ready, EndpointName::READY),
        (endpoint.serving, EndpointName::SERVING),
        (endpoint.terminating, EndpointName::TERMINATING),
    ]
    .into_iter()
    .fold(
        0,
        |bits, (is_set, bit)| if is_set { bits | bit } else { bits },
    )
}

/// Where an endpoint is and which Pod it is; the rest is to be filled in.
fn place<'a>(endpoint: &'a Endpoint, port: u16, strings: &mut Strings<'a>) -> EndpointName {
    EndpointName {
        backend: 0,
        address: endpoint.address,
        port,
        pod: strings.position(endpoint.pod.as_deref()),
        node: strings.position(endpoint.node.as_deref()),
        zone: strings.position(endpoint.zone.as_deref()),
        weight: 0,
        bits: 0,
        out: None,
    }
}

const fn kind_number(kind: FrontendKind) -> u8 {
    match kind {
        FrontendKind::ServiceAddress => 0,
        FrontendKind::ClusterIp => 1,
        FrontendKind::NodePort => 2,
        FrontendKind::ExternalIp => 3,
        FrontendKind::LoadBalancer => 4,
    }
}

/// The texts that endpoints point at.
struct Strings<'a> {
    texts: Vec<&'a str>,
    positions: BTreeMap<&'a str, u32>,
}

impl<'a> Strings<'a> {
    fn new() -> Self {
        Self {
            texts: vec![""],
            positions: BTreeMap::from([("", 0)]),
        }
    }

    fn position(&mut self, text: Option<&'a str>) -> u32 {
        let text = text.unwrap_or_default();
        let next = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let position = *self.positions.entry(text).or_insert(next);
        if position == next {
            self.texts.push(text);
        }
        position
    }
}
