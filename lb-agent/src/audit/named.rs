//! The picture of what the agent says it has made, from its names file.

use std::collections::BTreeMap;

use lb_common::flow::Protocol;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::service::Audience;

use super::picture::{Frontend, Picture, Port, Set, join_flags};
use crate::model::name::{ObjectName, ServicePortName};
use crate::plan::endpoints::mapped;
use crate::plan::expand::PortKey;
use crate::plan::names::{EndpointName, Names, OutReason, ServiceName};
use crate::plan::planner::BackendKey;

/// The service port that a line of names is about; `None` for a protocol this version does not know.
pub(super) fn port_key(service: &ServiceName) -> Option<PortKey> {
    Some(PortKey {
        name: ServicePortName {
            service: ObjectName {
                namespace: service.namespace.as_str().into(),
                name: service.name.as_str().into(),
            },
            port: service.port_name.clone(),
            protocol: Protocol::from_number(service.protocol)?,
        },
        is_v6: service.is_v6,
    })
}

impl Picture {
    /// What the agent says its tables are. It does not say what clients meet where nobody serves,
    /// nor the words of `CONFIG`.
    pub fn of_names(names: &Names) -> Self {
        let mut picture = Self::default();
        for service in names.services.iter().filter(|service| service.id != 0) {
            if let Some(key) = port_key(service) {
                picture.add_names(service, &key);
            }
        }
        picture
    }

    fn add_names(&mut self, service: &ServiceName, key: &PortKey) {
        let protocol = key.name.protocol;
        let endpoints = || {
            let all = service.endpoints.iter();
            all.filter(|endpoint| endpoint.out != Some(OutReason::Refused))
        };
        let has_ready = endpoints().any(|endpoint| endpoint.has(EndpointName::READY));
        for frontend in &service.frontends {
            let kind = kind_of(frontend.kind);
            let address = mapped(frontend.address);
            if kind == Some(FrontendKind::ClusterIp) {
                self.add_address(FrontendKey::service_address(address), has_ready);
            }
            if frontend.is_shadowed {
                continue;
            }
            let value = Frontend {
                kind,
                is_ranged: frontend.is_ranged,
                has_ready: false,
                port: Some(Port::Named(key.clone())),
                is_foreign: false,
            };
            let at = FrontendKey::new(address, frontend.port, protocol);
            self.frontends.insert(at, value);
        }
        let backend = |endpoint: &EndpointName| BackendKey {
            address: mapped(endpoint.address),
            port: endpoint.port,
            protocol,
        };
        for endpoint in endpoints().filter(|endpoint| endpoint.backend != 0) {
            let key = backend(endpoint);
            let held = self.backends.get(&key).copied();
            let flags = join_flags(
                held,
                endpoint.has(EndpointName::LOCAL),
                endpoint.has(EndpointName::TERMINATING),
            );
            self.backends.insert(key, flags);
        }
        let sets = Audience::ALL.map(|audience| {
            let bit = match audience {
                Audience::Internal => EndpointName::INTERNAL,
                Audience::External => EndpointName::EXTERNAL,
                Audience::Inside => EndpointName::INSIDE,
            };
            let weights: BTreeMap<BackendKey, u16> = endpoints()
                .filter(|it| it.backend != 0 && it.weight > 0 && it.has(bit))
                .map(|it| (backend(it), it.weight))
                .collect();
            Set::of_weights(&weights, service.affinity_seconds, None)
        });
        self.ports.insert(Port::Named(key.clone()), sets);
    }
}

const fn kind_of(number: u8) -> Option<FrontendKind> {
    match number {
        0 => Some(FrontendKind::ServiceAddress),
        1 => Some(FrontendKind::ClusterIp),
        2 => Some(FrontendKind::NodePort),
        3 => Some(FrontendKind::ExternalIp),
        4 => Some(FrontendKind::LoadBalancer),
        _ => None,
    }
}
