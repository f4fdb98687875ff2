//! The picture of what the objects ask for.

use std::collections::BTreeMap;

use lb_common::table::frontend::{FrontendKey, FrontendKind};

use super::picture::{Frontend, Picture, Port, Set, join_flags};
use super::words::network_name;
use crate::plan::desired::Desired;
use crate::plan::endpoints::mapped;
use crate::plan::expand::DesiredPort;
use crate::plan::planner::{AUDIENCES, BackendKey};
use crate::plan::{backend_key, clients::Clients};

impl Picture {
    /// What the tables should be; `config` are the words that go with it.
    pub fn of_desired(desired: &Desired<'_>, config: BTreeMap<u32, u64>) -> Self {
        let mut picture = Self {
            config,
            ..Self::default()
        };
        for (key, owner) in &desired.frontends {
            let frontend = Frontend {
                kind: Some(owner.kind),
                is_ranged: owner.is_ranged,
                has_ready: false,
                port: Some(Port::Named(owner.port.clone())),
                is_foreign: false,
            };
            picture.frontends.insert(*key, frontend);
        }
        for (&address, &has_ready) in &desired.addresses {
            picture.add_address(FrontendKey::service_address(mapped(address)), has_ready);
        }
        for port in desired.ports.values() {
            picture.add_port(port);
        }
        picture
    }

    pub(super) fn add_address(&mut self, key: FrontendKey, has_ready: bool) {
        let frontend = self.frontends.entry(key).or_insert(Frontend {
            kind: Some(FrontendKind::ServiceAddress),
            is_ranged: false,
            has_ready: false,
            port: None,
            is_foreign: false,
        });
        frontend.has_ready |= has_ready;
    }

    fn add_port(&mut self, port: &DesiredPort<'_>) {
        let candidates = &port.selection.candidates;
        for candidate in candidates.iter().filter(|it| it.keeps_flows()) {
            let key = backend_key(&port.key, candidate);
            let held = self.backends.get(&key).copied();
            let flags = join_flags(held, candidate.is_local, candidate.endpoint.terminating);
            self.backends.insert(key, flags);
        }
        let sets = AUDIENCES.map(|audience| {
            let clients = Clients::from(audience);
            let weights: BTreeMap<BackendKey, u16> = candidates
                .iter()
                .filter(|it| it.keeps_flows() && it.weight > 0 && port.serves(clients, it))
                .map(|it| (backend_key(&port.key, it), it.weight))
                .collect();
            let when_empty = Some(port.when_empty(clients));
            Set::of_weights(&weights, port.affinity_seconds, when_empty)
        });
        self.ports.insert(Port::Named(port.key.clone()), sets);
        let asks = port.frontends.iter().any(|frontend| frontend.is_ranged);
        if let Some(ranges) = port.source_ranges.as_ref().filter(|_| asks) {
            let names = ranges.keys(0).map(|key| network_name(&key));
            let key = Port::Named(port.key.clone());
            self.ranges.insert(key, names.collect());
        }
    }
}
