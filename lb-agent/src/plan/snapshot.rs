//! What the names file says of one Service: what [`ServiceNames`] describes, from the objects and
//! the planner's ids.
//!
//! A snapshot is taken where the planner is, at the cost of a few pointers and ids, and made into
//! names elsewhere: a cluster has more endpoints than the agent's loop may wait for. Planning is
//! pure, so the ports and candidates that come of expanding the same objects again are the ones the
//! ids belong to, in the same order.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::id::{BackendId, ServiceId};
use lb_common::table::frontend::{FrontendKey, FrontendKind};

use super::addresses::DesiredFrontend;
use super::clients::Clients;
use super::desired::address_of;
use super::diff::backend_key;
use super::endpoints::Candidate;
use super::expand::{DesiredPort, PortKey, expand};
use super::names::{EndpointName, FrontendName, OutReason, ReportName, ServiceName, ServiceNames};
use super::planner::Planner;
use super::report::Report;
use super::{NodeView, ServiceView};
use crate::model::endpoint::{Endpoint, EndpointSlice};
use crate::model::name::ObjectName;
use crate::model::service::{Service, TrafficPolicy};

/// A Service as it was last planned, and the ids it got.
#[derive(Clone, Debug)]
pub struct ServiceSnapshot {
    service: Arc<Service>,
    slices: Vec<Arc<EndpointSlice>>,
    ports: Vec<PortIds>,
    is_kept_back: bool,
}

/// The ids of one port of one family.
#[derive(Clone, Debug)]
struct PortIds {
    key: Arc<PortKey>,
    /// Raw id, 0 for none.
    id: u32,
    /// Raw ids of the candidates that keep flows, in their order; 0 for none.
    backends: Box<[u32]>,
    /// Frontends that another service port gets.
    shadowed: Vec<FrontendKey>,
}

impl Planner {
    /// The ids of `service` and its `slices`, which must be what was planned last.
    pub fn snapshot(
        &self,
        service: &Arc<Service>,
        slices: &[Arc<EndpointSlice>],
        node: &NodeView<'_>,
    ) -> ServiceSnapshot {
        let reports = self.reports.get(&service.name);
        let is_kept_back =
            reports.is_some_and(|reports| reports.iter().any(Report::keeps_old_state));
        let mut snapshot = ServiceSnapshot {
            service: Arc::clone(service),
            slices: slices.to_vec(),
            ports: Vec::new(),
            is_kept_back,
        };
        snapshot.ports = if is_kept_back {
            let (ports, _) = expand(&snapshot.view(), node);
            ports.iter().map(|port| self.kept_ids(port)).collect()
        } else {
            self.planned_ids(&service.name)
        };
        snapshot
    }

    /// Of a Service whose tables say what its objects say.
    fn planned_ids(&self, name: &ObjectName) -> Vec<PortIds> {
        let planned = self.planned.get(name).into_iter();
        planned
            .flat_map(|planned| &planned.ports)
            .map(|port| PortIds {
                key: Arc::clone(&port.key),
                id: port.id.raw(),
                backends: port.members.iter().map(|member| member.id.raw()).collect(),
                shadowed: self.shadowed(&port.frontends, port.id.index()),
            })
            .collect()
    }

    /// Of a Service whose tables say something older: some of its endpoints have ids.
    fn kept_ids(&self, port: &DesiredPort<'_>) -> PortIds {
        let key = Arc::new(port.key.clone());
        let id = self.services.get(&key);
        let candidates = port.selection.candidates.iter();
        let ids = candidates
            .filter(|candidate| candidate.keeps_flows())
            .map(|candidate| {
                let id = self.backends.get(&backend_key(&port.key, candidate));
                id.map_or(0, BackendId::raw)
            });
        PortIds {
            id: id.map_or(0, ServiceId::raw),
            backends: ids.collect(),
            shadowed: self.shadowed(&port.frontends, id.map_or(0, ServiceId::index)),
            key,
        }
    }

    fn shadowed(&self, frontends: &[DesiredFrontend], index: u32) -> Vec<FrontendKey> {
        let keys = frontends.iter().map(|frontend| frontend.key);
        keys.filter(|key| self.frontends.is_shadowed(key, index))
            .collect()
    }

    /// The reports as the names file has them.
    pub fn report_names(&self) -> Vec<ReportName> {
        let reports = self.reports().into_iter();
        reports
            .map(|(name, report)| ReportName {
                namespace: name.namespace.as_ref().to_owned(),
                name: name.name.as_ref().to_owned(),
                text: report.to_string(),
            })
            .collect()
    }
}

impl ServiceSnapshot {
    fn view(&self) -> ServiceView<'_> {
        ServiceView::new(&self.service, self.slices.iter().map(AsRef::as_ref))
    }

    /// The names, as seen from `node`, which must be what it was when the Service was planned.
    pub fn names(&self, node: &NodeView<'_>) -> ServiceNames {
        let view = self.view();
        let (ports, _) = expand(&view, node);
        let mut strings = Strings::new();
        let ports = ports
            .iter()
            .map(|port| self.service_name(port, &mut strings))
            .collect();
        let name = &self.service.name;
        ServiceNames {
            namespace: name.namespace.as_ref().to_owned(),
            name: name.name.as_ref().to_owned(),
            ports,
            strings: strings.texts.into_iter().map(str::to_owned).collect(),
        }
    }

    fn service_name<'a>(&self, port: &DesiredPort<'a>, strings: &mut Strings<'a>) -> ServiceName {
        let service = &*self.service;
        let ids = self.ports.iter().find(|ids| *ids.key == port.key);
        let frontends = port.frontends.iter().map(|frontend| FrontendName {
            address: address_of(&frontend.key),
            port: frontend.key.port(),
            kind: kind_number(frontend.kind),
            is_shadowed: ids.is_some_and(|ids| ids.shadowed.contains(&frontend.key)),
            is_ranged: frontend.is_ranged,
        });
        let refused = port.selection.refused.iter();
        let refused = refused.map(|&(endpoint, number, _)| EndpointName {
            backend: 0,
            bits: condition_bits(endpoint),
            out: Some(OutReason::Refused),
            ..place(endpoint, number, strings)
        });
        let mut endpoints: Vec<_> = refused.collect();
        let mut backends = ids.into_iter().flat_map(|ids| &*ids.backends);
        for candidate in &port.selection.candidates {
            let id = candidate.keeps_flows().then(|| backends.next()).flatten();
            let id = id.copied().unwrap_or(0);
            endpoints.push(self.endpoint_name(port, candidate, id, strings));
        }
        endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.port));
        let PortKey { name, is_v6 } = &port.key;
        ServiceName {
            id: ids.map_or(0, |ids| ids.id),
            namespace: service.name.namespace.as_ref().to_owned(),
            name: service.name.name.as_ref().to_owned(),
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
        &self,
        port: &DesiredPort<'a>,
        candidate: &Candidate<'a>,
        backend: u32,
        strings: &mut Strings<'a>,
    ) -> EndpointName {
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
            (
                port.serves(Clients::Inside, candidate),
                EndpointName::INSIDE,
            ),
        ] {
            if is_set {
                bits |= bit;
            }
        }
        let no_room = self.is_kept_back.then_some(OutReason::NoRoom);
        EndpointName {
            backend,
            weight: candidate.weight,
            bits,
            out: candidate.out.or(no_room),
            ..place(candidate.endpoint, candidate.port, strings)
        }
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
