//! The change from what the tables have of one Service to what they should have, all or nothing.
//!
//! First everything that may be short is acquired: ids, regions, room for frontends. If anything is
//! short, all of it is given back and the Service stays as it was. Then nothing can fail, and the
//! writes are made in the order that `plan` describes.

use std::collections::BTreeSet;
use std::sync::Arc;

use lb_common::id::{BackendId, ServiceId};
use lb_common::maglev;
use lb_common::table::frontend::FrontendKey;
use lb_common::table::region::MAX_BACKENDS;
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};

use super::endpoints::{Candidate, mapped};
use super::expand::{DesiredPort, PortKey, Rank};
use super::filters::{backend_bit, node_port_bit, service_bit};
use super::frontends::FrontendWrites;
use super::ids::{self, Ids};
use super::planner::{AUDIENCES, BackendKey, Planned, PlannedMember, PlannedPort, Planner};
use super::ranges::{self, Networks};
use super::region::{self, Placed, SetKey, SetMember};
use super::report::{Report, Table};
use crate::dataplane::Write;
use crate::model::name::ObjectName;

/// What a plan has acquired and may have to give back.
#[derive(Default)]
struct Acquired {
    backends: Vec<(BackendId, ids::Origin)>,
    services: Vec<(ServiceId, ids::Origin)>,
    regions: Vec<Placed>,
    ports: Vec<PlannedPort>,
    /// Of the ports, in their order.
    ranges: Vec<Networks>,
}

/// The writes of a plan, by the step they belong to.
#[derive(Default)]
struct Steps {
    backends: Vec<Write>,
    regions: Vec<Write>,
    services: Vec<Write>,
    marks: Vec<Write>,
    frontends: FrontendWrites,
    late: Vec<Write>,
}

impl Steps {
    fn in_order(self) -> Vec<Write> {
        let mut writes = self.frontends.removals;
        writes.extend(self.backends);
        writes.extend(self.regions);
        writes.extend(self.services);
        writes.extend(self.marks);
        writes.extend(self.frontends.sets);
        writes.extend(self.late);
        writes
    }
}

impl Planner {
    /// Replaces what the tables have of the Service by `ports`.
    pub(super) fn replace(
        &mut self,
        name: &ObjectName,
        rank: &Arc<Rank>,
        ports: &[DesiredPort<'_>],
    ) -> Result<Vec<Write>, Report> {
        check_counts(ports)?;
        let old = self.planned.remove(name);
        let mut acquired = Acquired {
            // They are kept: a list that grows by itself has room for four.
            ports: Vec::with_capacity(ports.len()),
            ..Acquired::default()
        };
        match self.acquire(old.as_ref(), rank, ports, &mut acquired) {
            Ok(touched) => {
                let old = old.map(|planned| planned.ports).unwrap_or_default();
                let (writes, ports) = self.commit(acquired, &old, &touched);
                if !ports.is_empty() {
                    let planned = Planned {
                        rank: Arc::clone(rank),
                        ports,
                    };
                    self.planned.insert(name.clone(), planned);
                }
                Ok(writes)
            }
            Err(table) => {
                if let Some(old) = old {
                    self.planned.insert(name.clone(), old);
                }
                self.give_back(&acquired);
                let capacity = match table {
                    Table::Frontends => self.capacity.frontends,
                    Table::Services => self.capacity.services,
                    Table::Backends => self.capacity.backends,
                    Table::Arena => self.capacity.arena_words,
                    Table::SourceRanges => self.capacity.source_ranges,
                };
                Err(Report::TableFull { table, capacity })
            }
        }
    }

    /// Acquires everything that may be short; gives the frontends that the change concerns.
    fn acquire(
        &mut self,
        old: Option<&Planned>,
        rank: &Arc<Rank>,
        ports: &[DesiredPort<'_>],
        acquired: &mut Acquired,
    ) -> Result<BTreeSet<FrontendKey>, Table> {
        let (old_rank, old) = old.map_or((rank, &[][..]), |old| (&old.rank, &old.ports));
        for port in ports {
            self.acquire_port(old, port, acquired)?;
        }
        self.acquire_ranges(ports, acquired)?;
        let new = &acquired.ports;
        let claims_same =
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.claims_as(new));
        if claims_same && old_rank == rank {
            // Only endpoints changed, as nearly always.
            return Ok(BTreeSet::new());
        }
        let touched = self.frontends.exchange(old, rank, new);
        // Taking a Service away never fails.
        if ports.is_empty() || self.frontends.fit(&touched, self.capacity.frontends) {
            return Ok(touched);
        }
        self.frontends.exchange(&acquired.ports, old_rank, old);
        Err(Table::Frontends)
    }

    fn acquire_port(
        &mut self,
        old: &[PlannedPort],
        port: &DesiredPort<'_>,
        acquired: &mut Acquired,
    ) -> Result<(), Table> {
        let old = old.iter().find(|old| *old.key == port.key);
        let (key, mut words) = match old {
            Some(old) => (Arc::clone(&old.key), old.words),
            None => (
                Arc::new(port.key.clone()),
                [ServiceWord::default(); SERVICE_WORDS],
            ),
        };
        if old.is_none() {
            words = self.adopt(&key, port).unwrap_or(words);
        }
        let (id, origin) = self.services.acquire(&key).ok_or(Table::Services)?;
        acquired.services.push((id, origin));
        let mut members = Vec::with_capacity(port.selection.candidates.len());
        let mut weights = Vec::with_capacity(port.selection.candidates.len());
        let mut held = old.map_or(&[][..], |old| &old.members).iter().peekable();
        for candidate in &port.selection.candidates {
            if !candidate.keeps_flows() {
                continue;
            }
            let backend = backend_key(&port.key, candidate);
            // Both are in the order of address and port, and most are what they were.
            let key_of = |member: &PlannedMember| self.backends.key(member.id.index());
            while held.next_if(|it| key_of(it) < Some(&backend)).is_some() {}
            let (id, origin) = match held.next_if(|it| key_of(it) == Some(&backend)) {
                Some(member) => (member.id, ids::Origin::Live),
                None => self.backends.acquire(&backend).ok_or(Table::Backends)?,
            };
            if origin != ids::Origin::Live {
                acquired.backends.push((id, origin));
            }
            members.push(PlannedMember {
                id,
                is_local: candidate.is_local,
                is_terminating: candidate.endpoint.terminating,
            });
            weights.push((id, candidate));
        }
        let mut sets = Vec::with_capacity(AUDIENCES.len());
        for (audience, word) in AUDIENCES.into_iter().zip(&mut words) {
            let set = set_of(port, audience, &weights);
            let placed = self.place(set, word.offset()).ok_or(Table::Arena)?;
            *word = ServiceWord::new(placed.offset, id.generation());
            sets.push(placed.key.clone());
            acquired.regions.push(placed);
        }
        let sets = <[_; SERVICE_WORDS]>::try_from(sets).expect("one set for each audience");
        acquired.ports.push(PlannedPort {
            key,
            id,
            sets,
            words,
            members: members.into(),
            frontends: port.frontends.clone(),
            address: port.address,
            has_ready: port.has_ready,
        });
        Ok(())
    }

    /// Whether there is room for the networks, while those that they replace are still there.
    fn acquire_ranges(
        &self,
        ports: &[DesiredPort<'_>],
        acquired: &mut Acquired,
    ) -> Result<(), Table> {
        let mut missing = 0;
        for (port, planned) in ports.iter().zip(&acquired.ports) {
            let index = planned.id.index();
            let wanted = ranges::wanted(port, index);
            missing += self.ranges.missing(index, &wanted);
            acquired.ranges.push(wanted);
        }
        let is_room = self.ranges.count() + missing <= self.capacity.source_ranges as usize;
        (is_room || missing == 0)
            .then_some(())
            .ok_or(Table::SourceRanges)
    }

    fn place(&mut self, set: SetKey, hint: u32) -> Option<Placed> {
        let (backends, builder) = (&self.backends, &mut self.builder);
        self.regions.acquire(set, hint, |set| {
            builder.words(set, |id| identity(backends, id))
        })
    }

    /// The words of the region of `set`.
    pub(super) fn region_words(&mut self, set: &SetKey) -> Vec<u64> {
        let (backends, builder) = (&self.backends, &mut self.builder);
        builder.words(set, |id| identity(backends, id))
    }

    /// Takes over the id of an earlier agent's service that has one of the port's frontends. The
    /// words stay in `restored` until the plan is made.
    fn adopt(
        &mut self,
        key: &Arc<PortKey>,
        port: &DesiredPort<'_>,
    ) -> Option<[ServiceWord; SERVICE_WORDS]> {
        if let Some(id) = self.services.get(key) {
            return self.restored.get(&id.index()).copied();
        }
        for frontend in &port.frontends {
            let Some(value) = self.frontends.published().get(&frontend.key) else {
                continue;
            };
            let index = value.service_index();
            let Some(words) = self.restored.get(&index).copied() else {
                continue;
            };
            let id = ServiceId::new(index, words[0].generation());
            if self.services.adopt(id, key) {
                return Some(words);
            }
        }
        None
    }

    fn give_back(&mut self, acquired: &Acquired) {
        for placed in acquired.regions.iter().rev() {
            self.regions.cancel(placed);
        }
        for &(id, origin) in acquired.backends.iter().rev() {
            self.backends.cancel(id, origin);
        }
        for &(id, origin) in acquired.services.iter().rev() {
            self.services.cancel(id, origin);
        }
    }

    fn commit(
        &mut self,
        acquired: Acquired,
        old: &[PlannedPort],
        touched: &BTreeSet<FrontendKey>,
    ) -> (Vec<Write>, Vec<PlannedPort>) {
        let mut steps = Steps::default();
        self.write_backends(&acquired, old, &mut steps);
        for placed in acquired.regions {
            if let region::Origin::New(words) = placed.origin {
                let offset = placed.offset;
                steps.regions.push(Write::WriteRegion { offset, words });
            }
        }
        self.write_services(&acquired.ports, old, &mut steps);
        self.mark_services(&acquired.ports, &mut steps);
        self.write_ranges(&acquired.ports, &acquired.ranges, old, &mut steps);
        steps.frontends = self.frontends.settle(touched, self.capacity.frontends);
        for pair in old.iter().flat_map(PlannedPort::udp_pairs) {
            self.departed.left(pair);
        }
        for pair in acquired.ports.iter().flat_map(PlannedPort::udp_pairs) {
            self.departed.returned(&pair);
        }
        self.has_lost_affinity |= old.iter().any(|port| {
            let new = acquired.ports.iter().find(|new| new.id == port.id);
            port.has_affinity() && new.is_none_or(|new| new.sets != port.sets)
        });
        for set in old.iter().flat_map(|port| &port.sets) {
            self.regions.release(set);
        }
        (steps.in_order(), acquired.ports)
    }

    fn write_backends(&mut self, acquired: &Acquired, old: &[PlannedPort], steps: &mut Steps) {
        let mut touched = Vec::new();
        for member in acquired.ports.iter().flat_map(|port| &port.members) {
            let state = self.state(member.id.index());
            state.references += 1;
            state.local += u32::from(member.is_local);
            state.terminating += u32::from(member.is_terminating);
            touched.push(member.id);
        }
        for member in old.iter().flat_map(|port| &port.members) {
            let state = self.state(member.id.index());
            state.references -= 1;
            state.local -= u32::from(member.is_local);
            state.terminating -= u32::from(member.is_terminating);
            touched.push(member.id);
        }
        for &(id, _) in &acquired.backends {
            // The bit before the record: a restart takes a record as proof of its bit.
            if let Some(key) = self.backends.key(id.index()) {
                let bit = backend_bit(key.address);
                if self.backend_bits.set(bit) {
                    steps.backends.push(Write::MarkBackend(bit));
                }
            }
            steps.backends.extend(self.write_backend(id));
        }
        touched.sort_unstable();
        touched.dedup();
        for id in touched {
            let state = *self.state(id.index());
            if state.flags() != state.written {
                steps.late.extend(self.write_backend(id));
            }
            if state.references == 0 {
                self.backends.release(id);
            }
        }
    }

    fn write_services(&mut self, new: &[PlannedPort], old: &[PlannedPort], steps: &mut Steps) {
        for port in new {
            let earlier = old.iter().find(|earlier| earlier.id == port.id);
            let restored = self.restored.remove(&port.id.index());
            let words = earlier.map(|port| port.words).or(restored);
            let words = words.unwrap_or_default();
            push_words(&mut steps.services, port.id, port.words, words);
        }
        for port in old {
            if new.iter().any(|kept| kept.id == port.id) {
                continue;
            }
            let none = ServiceWord::new(0, port.id.generation());
            push_words(&mut steps.late, port.id, [none; SERVICE_WORDS], port.words);
            self.services.release(port.id);
        }
    }

    fn mark_services(&mut self, new: &[PlannedPort], steps: &mut Steps) {
        for frontend in new.iter().flat_map(|port| &port.frontends) {
            if let Some(bit) = node_port_bit(&frontend.key) {
                if self.node_port_bits.set(bit) {
                    steps.marks.push(Write::MarkNodePort(bit));
                }
                continue;
            }
            let bit = service_bit(frontend.key.address());
            if self.service_bits.set(bit) {
                steps.marks.push(Write::MarkService(bit));
            }
        }
    }

    fn write_ranges(
        &mut self,
        new: &[PlannedPort],
        wanted: &[Networks],
        old: &[PlannedPort],
        steps: &mut Steps,
    ) {
        for (port, wanted) in new.iter().zip(wanted) {
            let index = port.id.index();
            steps.marks.extend(self.ranges.add(index, wanted));
            steps.late.extend(self.ranges.keep(index, wanted));
        }
        for port in old {
            if new.iter().all(|kept| kept.id != port.id) {
                let none = Networks::new();
                steps.late.extend(self.ranges.keep(port.id.index(), &none));
            }
        }
    }
}

fn push_words(
    writes: &mut Vec<Write>,
    id: ServiceId,
    new: [ServiceWord; SERVICE_WORDS],
    old: [ServiceWord; SERVICE_WORDS],
) {
    for ((audience, word), old) in AUDIENCES.into_iter().zip(new).zip(old) {
        if word != old {
            writes.push(Write::SetService {
                index: id.index(),
                audience,
                word,
            });
        }
    }
}

fn check_counts(ports: &[DesiredPort<'_>]) -> Result<(), Report> {
    for port in ports {
        let count = port.selection.candidates.len();
        if count > MAX_BACKENDS as usize {
            return Err(Report::TooManyEndpoints {
                port: port.key.name.port.clone(),
                count,
                most: MAX_BACKENDS,
            });
        }
    }
    Ok(())
}

fn set_of(
    port: &DesiredPort<'_>,
    audience: Audience,
    weights: &[(BackendId, &Candidate<'_>)],
) -> SetKey {
    let members = weights
        .iter()
        .filter(|(_, candidate)| candidate.weight > 0 && port.serves(audience.into(), candidate))
        .map(|(id, candidate)| SetMember {
            id: *id,
            weight: candidate.weight,
        });
    SetKey::new(
        members,
        port.affinity_seconds,
        port.when_empty(audience.into()),
    )
}

fn identity(backends: &Ids<BackendKey, BackendId>, id: BackendId) -> u64 {
    let key = backends.key(id.index());
    key.map_or(0, |key| {
        maglev::identity(key.address, key.port, key.protocol)
    })
}

/// What stands for `candidate` of the port in `BACKENDS`.
pub(crate) fn backend_key(port: &PortKey, candidate: &Candidate<'_>) -> BackendKey {
    BackendKey {
        address: mapped(candidate.endpoint.address),
        port: candidate.port,
        protocol: port.name.protocol,
    }
}
