//! Starting from tables that an earlier agent left: what is still wanted stays untouched, and what
//! is not is removed once every Service has been planned.
//!
//! Frontends say which index of `SERVICES` belongs to which port; records say which index of
//! `BACKENDS` belongs to which address; a region is recognised by its words. Ids that only flows
//! name are quarantined. Until [`Planner::remove_unclaimed`] nothing is freed, since words of
//! services that have not been planned may still name it.

use std::collections::BTreeSet;

use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::BackendFlags;
use lb_common::table::service::ServiceWord;

use super::filters::{backend_bit, node_port_bit, service_bit};
use super::frontends::Frontends;
use super::planner::{AUDIENCES, BackendKey, PlannedPort, Planner};
use super::ranges::PublishedRanges;
use crate::dataplane::{Actual, InUse, Write};

impl Planner {
    /// An earlier agent's tables have a region at `offset`.
    pub fn find_region(&mut self, offset: u32, words: &[u64]) {
        // One that cannot be a region is named by nobody's words for long: its service gets a new region
        // when it is planned.
        self.regions.find(offset, words);
    }

    /// Begins with tables that hold `actual`, while flows name `in_use`; their regions are
    /// [found](Self::find_region) before anything is planned.
    pub fn restore(&mut self, mut actual: Actual, in_use: &InUse) {
        self.is_restoring = true;
        self.restore_backends(&actual, in_use);
        self.restore_services(&actual, in_use);
        for key in actual.frontends.keys() {
            match node_port_bit(key) {
                Some(bit) => self.node_port_bits.set(bit),
                None => self.service_bits.set(service_bit(key.address())),
            };
        }
        self.ranges = PublishedRanges::restore(std::mem::take(&mut actual.source_ranges));
        self.frontends = Frontends::restore(actual.frontends);
    }

    fn restore_backends(&mut self, actual: &Actual, in_use: &InUse) {
        // Of two records of one address and port, the one in service is the real one.
        for is_serving in [true, false] {
            for (&index, record) in &actual.backends {
                let Some(protocol) = record.protocol() else {
                    continue;
                };
                if record.flags().has(BackendFlags::SERVING) != is_serving {
                    continue;
                }
                let key = BackendKey {
                    address: record.address(),
                    port: record.port(),
                    protocol,
                };
                let id = BackendId::new(index, record.generation());
                if self.backends.restore(id, Some(key)) {
                    self.state(index).written = record.flags();
                    self.backend_bits.set(backend_bit(key.address));
                }
            }
        }
        for &id in &in_use.backends {
            self.backends.restore_quarantined(id);
        }
        self.backends.end_restore();
    }

    fn restore_services(&mut self, actual: &Actual, in_use: &InUse) {
        for (&index, &words) in &actual.services {
            let id = ServiceId::new(index, words[0].generation());
            if words.iter().all(|word| word.offset() == 0) {
                self.services.restore_quarantined(id);
            } else if self.services.restore(id, None) {
                self.restored.insert(index, words);
            }
        }
        for &id in &in_use.services {
            self.services.restore_quarantined(id);
        }
        self.services.end_restore();
    }

    /// Every Service there is has been planned: removes what an earlier agent left and no Service
    /// claimed. Nothing the first time if the planner began with empty tables.
    #[must_use]
    pub fn remove_unclaimed(&mut self) -> Vec<Write> {
        if !self.is_restoring {
            return Vec::new();
        }
        self.is_restoring = false;
        let mut writes = self.frontends.give_up_unclaimed(self.capacity.frontends);
        for (index, words) in std::mem::take(&mut self.restored) {
            let none = ServiceWord::new(0, words[0].generation());
            for audience in AUDIENCES {
                writes.push(Write::SetService {
                    index,
                    audience,
                    word: none,
                });
            }
        }
        let ports = self.planned.values().flat_map(|planned| &planned.ports);
        let indices: BTreeSet<u32> = ports.map(|port: &PlannedPort| port.id.index()).collect();
        writes.extend(
            self.ranges
                .give_up_unclaimed(|index| indices.contains(&index)),
        );
        self.services.give_up_reserved();
        self.regions.give_up_found();
        let unclaimed: Vec<BackendId> = self
            .backends
            .live()
            .filter(|id| {
                let state = self.states.get(id.index() as usize);
                state.is_some_and(|state| state.references == 0)
            })
            .collect();
        for id in unclaimed {
            let state = self.state(id.index());
            if state.written.has(BackendFlags::SERVING) {
                writes.extend(self.write_backend(id));
            }
            self.backends.release(id);
        }
        self.backends.give_up_reserved();
        writes
    }
}
