//! The planner's state: what the tables hold, or will once the writes it returned are applied.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::family::MappedAddress;
use lb_common::flow::Protocol;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};

use super::addresses::DesiredFrontend;
use super::departed::Departed;
use super::desired::address_of;
use super::expand::{PortKey, Rank, expand};
use super::filters::Bits;
use super::frontends::Frontends;
use super::health::LocalView;
use super::ids::Ids;
use super::ranges::PublishedRanges;
use super::region::{Builder, Regions, SetKey};
use super::report::{Report, Table};
use super::{NodeView, ServiceView};
use crate::dataplane::{Capacity, InUse, UdpPair, Write};
use crate::model::name::ObjectName;

/// What a backend id stands for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendKey {
    /// Mapped address, network order.
    pub address: MappedAddress,
    /// Port, host order.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What service ports say of a backend they share, and what its record says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BackendState {
    /// Service ports that have it among their endpoints.
    pub(super) references: u32,
    /// Of these, how many say it is on this node.
    pub(super) local: u32,
    /// Of these, how many say it is terminating.
    pub(super) terminating: u32,
    /// The flags of its record.
    pub(super) written: BackendFlags,
}

impl BackendState {
    /// The flags its record should have: it serves as long as any port has it, and terminates once
    /// all say so.
    pub(super) const fn flags(&self) -> BackendFlags {
        let mut bits = 0;
        if self.references > 0 {
            bits |= BackendFlags::SERVING;
        }
        if self.local > 0 {
            bits |= BackendFlags::LOCAL;
        }
        if self.terminating == self.references {
            bits |= BackendFlags::TERMINATING;
        }
        BackendFlags(bits)
    }
}

/// What one service port says of one backend.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct PlannedMember {
    pub(super) id: BackendId,
    pub(super) is_local: bool,
    pub(super) is_terminating: bool,
}

/// One service port of one family, as the tables have it.
#[derive(Clone, Debug)]
pub(super) struct PlannedPort {
    pub(super) key: Arc<PortKey>,
    pub(super) id: ServiceId,
    /// By [`Audience`].
    pub(super) sets: [SetKey; SERVICE_WORDS],
    /// By [`Audience`].
    pub(super) words: [ServiceWord; SERVICE_WORDS],
    pub(super) members: Box<[PlannedMember]>,
    pub(super) frontends: Vec<DesiredFrontend>,
    pub(super) address: MappedAddress,
    pub(super) has_ready: bool,
}

impl PlannedPort {
    /// Whether it remembers its clients.
    pub(super) fn has_affinity(&self) -> bool {
        self.sets.iter().any(|set| set.affinity_seconds() != 0)
    }

    /// Whether it claims the same frontends, and says the same of its address.
    pub(super) fn claims_as(&self, other: &Self) -> bool {
        self.id == other.id
            && self.frontends == other.frontends
            && self.address == other.address
            && self.has_ready == other.has_ready
    }

    /// What UDP flows through it may name.
    pub(super) fn udp_pairs(&self) -> impl Iterator<Item = UdpPair> {
        let is_udp = self.key.name.protocol == Protocol::Udp;
        let members = self.members.iter().filter(move |_| is_udp);
        members.map(|member| UdpPair {
            service: self.id,
            backend: member.id,
        })
    }
}

/// One Service, as the tables have it.
#[derive(Clone, Debug)]
pub(super) struct Planned {
    pub(super) rank: Arc<Rank>,
    pub(super) ports: Vec<PlannedPort>,
}

/// The audiences, in the order of the words of `SERVICES`.
pub(crate) const AUDIENCES: [Audience; SERVICE_WORDS] = Audience::ALL;

/// Turns Services into writes, and remembers what the tables hold.
#[derive(Debug)]
pub struct Planner {
    pub(super) capacity: Capacity,
    pub(super) backends: Ids<BackendKey, BackendId>,
    /// By index of the backend.
    pub(super) states: Vec<BackendState>,
    pub(super) services: Ids<Arc<PortKey>, ServiceId>,
    pub(super) regions: Regions,
    pub(super) builder: Builder,
    pub(super) frontends: Frontends,
    pub(super) service_bits: Bits,
    pub(super) backend_bits: Bits,
    pub(super) node_port_bits: Bits,
    pub(super) ranges: PublishedRanges,
    pub(super) planned: BTreeMap<ObjectName, Planned>,
    pub(super) reports: BTreeMap<ObjectName, Vec<Report>>,
    /// What is told of the planned Services that have a `Local` policy.
    locals: BTreeMap<ObjectName, LocalView>,
    /// Changes of it so far.
    locals_version: u64,
    /// Words of an earlier agent's services that no port has adopted yet.
    pub(super) restored: BTreeMap<u32, [ServiceWord; SERVICE_WORDS]>,
    /// Whether tables may still name what no Service has claimed.
    pub(super) is_restoring: bool,
    /// Services that were planned, or whose frontends others contest, since anybody asked.
    pub(super) touched: BTreeSet<ObjectName>,
    pub(super) departed: Departed,
    /// Whether `AFFINITY` may name what a service with affinity has lost since it was looked
    /// through.
    pub(super) has_lost_affinity: bool,
}

impl Planner {
    /// A planner for empty tables.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            backends: Ids::new(capacity.backends),
            states: Vec::new(),
            services: Ids::new(capacity.services),
            regions: Regions::new(capacity.arena_words),
            builder: Builder::default(),
            frontends: Frontends::default(),
            service_bits: Bits::of_services(),
            backend_bits: Bits::of_backends(),
            node_port_bits: Bits::of_node_ports(),
            ranges: PublishedRanges::default(),
            planned: BTreeMap::new(),
            reports: BTreeMap::new(),
            locals: BTreeMap::new(),
            locals_version: 0,
            restored: BTreeMap::new(),
            is_restoring: false,
            touched: BTreeSet::new(),
            departed: Departed::default(),
            // Of an earlier agent's time.
            has_lost_affinity: true,
        }
    }

    /// The writes that bring a Service to what `view` says, in the order they must be applied. If
    /// that is impossible there are none, the Service keeps what it had, and a report says why.
    #[must_use]
    pub fn plan_service(&mut self, view: &ServiceView<'_>, node: &NodeView<'_>) -> Vec<Write> {
        let name = &view.service.name;
        self.touched.insert(name.clone());
        let (ports, mut reports) = expand(view, node);
        let rank = Arc::new(Rank::of(view.service));
        let writes = match self.replace(name, &rank, &ports) {
            Ok(writes) => {
                self.set_local(name, LocalView::of(view.service, &ports));
                writes
            }
            Err(report) => {
                reports.push(report);
                Vec::new()
            }
        };
        if reports.is_empty() {
            self.reports.remove(name);
        } else {
            self.reports.insert(name.clone(), reports);
        }
        writes
    }

    /// The writes that remove a Service.
    #[must_use]
    pub fn remove_service(&mut self, name: &ObjectName) -> Vec<Write> {
        self.touched.insert(name.clone());
        self.reports.remove(name);
        self.set_local(name, None);
        let Some(planned) = self.planned.get(name) else {
            return Vec::new();
        };
        let rank = Arc::clone(&planned.rank);
        self.replace(name, &rank, &[]).unwrap_or_default()
    }

    /// Every Service that the tables have something of.
    pub fn planned_names(&self) -> impl Iterator<Item = &ObjectName> {
        self.planned.keys()
    }

    /// Every Service whose newest state is not in the tables for lack of room.
    pub fn kept_back(&self) -> impl Iterator<Item = &ObjectName> {
        let kept = |report: &Report| report.keeps_old_state();
        let reports = self.reports.iter();
        reports
            .filter(move |(_, reports)| reports.iter().any(kept))
            .map(|(name, _)| name)
    }

    /// Services whose ids, endpoints or claims to frontends may be others than when this was last
    /// called.
    pub fn take_touched(&mut self) -> BTreeSet<ObjectName> {
        let mut touched = std::mem::take(&mut self.touched);
        touched.extend(self.frontends.take_disturbed());
        touched
    }

    /// Everything that could not be done as it was told, by Service.
    pub fn reports(&self) -> Vec<(ObjectName, Report)> {
        let mut all: Vec<_> = self
            .reports
            .iter()
            .flat_map(|(name, reports)| reports.iter().map(|r| (name.clone(), r.clone())))
            .collect();
        all.extend(self.frontends.shadowed().map(|shadowed| {
            let (address, port) = (address_of(shadowed.key), shadowed.key.port());
            let by = shadowed.by.clone();
            let report = if shadowed.is_cluster_address {
                Report::OthersClusterAddress { address, port, by }
            } else {
                Report::Shadowed { address, port, by }
            };
            (shadowed.service.clone(), report)
        }));
        all.extend(self.frontends.waiting().map(|name| {
            let report = Report::TableFull {
                table: Table::Frontends,
                capacity: self.capacity.frontends,
            };
            (name.clone(), report)
        }));
        all.extend(self.health_conflicts());
        all.sort();
        all
    }

    /// What is told of the planned Services that have a `Local` policy, the others left out.
    pub fn locals(&self) -> impl Iterator<Item = (&ObjectName, &LocalView)> {
        self.locals.iter()
    }

    /// Another number whenever [`Self::locals`] says something else.
    pub const fn locals_version(&self) -> u64 {
        self.locals_version
    }

    fn set_local(&mut self, name: &ObjectName, local: Option<LocalView>) {
        let old = match local {
            Some(local) => self.locals.insert(name.clone(), local),
            None => self.locals.remove(name),
        };
        self.locals_version += u64::from(old != local);
    }

    /// Which Service has each health-check node port: of several the oldest.
    pub fn health_ports(&self) -> BTreeMap<u16, &ObjectName> {
        let mut ports: BTreeMap<u16, &Rank> = BTreeMap::new();
        for (name, port) in self.checked() {
            if let Some(planned) = self.planned.get(name) {
                let held = ports.entry(port).or_insert(&planned.rank);
                *held = (*held).min(&planned.rank);
            }
        }
        let ports = ports.into_iter();
        ports.map(|(port, rank)| (port, &rank.service)).collect()
    }

    /// Services with a health-check node port.
    fn checked(&self) -> impl Iterator<Item = (&ObjectName, u16)> {
        let checks = self.locals.iter();
        checks.filter_map(|(name, local)| Some((name, local.health?.port)))
    }

    /// Services whose health-check node port an older one has.
    fn health_conflicts(&self) -> impl Iterator<Item = (ObjectName, Report)> {
        let ports = self.health_ports();
        self.checked().filter_map(move |(name, port)| {
            let by = ports.get(&port).filter(|by| **by != name)?;
            let by = ObjectName::clone(by);
            Some((name.clone(), Report::HealthPortTaken { port, by }))
        })
    }

    /// Whether a grace period would make room: regions that were given up, ids to be settled.
    pub fn awaits_readers(&self) -> bool {
        !self.is_restoring
            && (self.regions.arena.has_retired()
                || self.services.quarantined() + self.backends.quarantined() > 0)
    }

    /// Every program that ran when the last of the returned writes was applied has ended.
    pub fn readers_done(&mut self) {
        if !self.is_restoring {
            self.regions.arena.reclaim();
            self.services.settle();
            self.backends.settle();
        }
    }

    /// The flow tables, read after [`Self::readers_done`], name only `in_use`: ids that nothing
    /// names become free. The writes empty what they stood for.
    #[must_use]
    pub fn sweep(&mut self, in_use: &InUse) -> Vec<Write> {
        if self.is_restoring {
            return Vec::new();
        }
        let services = self.services.sweep(&in_use.services).into_iter();
        let mut writes: Vec<_> = services
            .flat_map(|index| {
                AUDIENCES.map(|audience| Write::SetService {
                    index,
                    audience,
                    word: ServiceWord::default(),
                })
            })
            .collect();
        for index in self.backends.sweep(&in_use.backends) {
            *self.state(index) = BackendState::default();
            writes.push(Write::ClearBackend { index });
        }
        writes
    }

    /// The UDP flows that have to go.
    pub const fn departed(&self) -> &Departed {
        &self.departed
    }

    /// The same, for the progress of a pass over the flow tables.
    pub const fn departed_mut(&mut self) -> &mut Departed {
        &mut self.departed
    }

    /// Whether clients may have to be forgotten, of services that lost their affinity or a backend.
    pub const fn has_lost_affinity(&self) -> bool {
        self.has_lost_affinity
    }

    /// `AFFINITY` names only what [`Self::affinity_sets`] has.
    pub const fn affinity_settled(&mut self) {
        self.has_lost_affinity = false;
    }

    /// The sets of the services with session affinity, by [`Audience`].
    pub fn affinity_sets(&self) -> BTreeMap<ServiceId, [SetKey; SERVICE_WORDS]> {
        let ports = self.planned.values().flat_map(|planned| &planned.ports);
        ports
            .filter(|port| port.has_affinity())
            .map(|port| (port.id, port.sets.clone()))
            .collect()
    }

    /// UDP flows name these pairs: those that no Service has, of the time of an earlier agent or
    /// of programs that were running when a Service changed, have to go.
    pub fn compare_flows(&mut self, named: &BTreeSet<UdpPair>) {
        if self.is_restoring || named.is_empty() {
            return;
        }
        let ports = self.planned.values().flat_map(|planned| &planned.ports);
        let had: BTreeSet<UdpPair> = ports
            .flat_map(PlannedPort::udp_pairs)
            .filter(|pair| named.contains(pair))
            .collect();
        for &pair in named.difference(&had) {
            self.departed.left(pair);
        }
    }

    /// Sizes of the tables.
    pub const fn capacity(&self) -> Capacity {
        self.capacity
    }

    pub(super) fn state(&mut self, index: u32) -> &mut BackendState {
        let at = index as usize;
        if self.states.len() <= at {
            self.states.resize(at + 1, BackendState::default());
        }
        &mut self.states[at]
    }

    /// The write that gives a backend's record the flags it should have.
    pub(super) fn write_backend(&mut self, id: BackendId) -> Option<Write> {
        let key = *self.backends.key(id.index())?;
        let state = self.state(id.index());
        state.written = state.flags();
        let record = BackendRecord::new(id, key.address, key.port, key.protocol, state.written);
        Some(Write::SetBackend { id, record })
    }
}
