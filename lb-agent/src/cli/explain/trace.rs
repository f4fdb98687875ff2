//! The way of one packet through the tables, step by step, by the functions of `lb_common` that the
//! kernel programs run. The verdict is that of `decide` itself; the steps say how it comes about.

use lb_common::conntrack::{Event, State, begins_anew};
use lb_common::decide::Sighting;
use lb_common::family::Family;
use lb_common::flow::{Direction, FlowEntry, FlowKey, FlowTuple, Hook, Path, Protocol};
use lb_common::flows::{FlowTable, Found};
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::lookup::{self, AddressKind};
use lb_common::select::{self, Choice};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::BackendFlags;
use lb_common::table::config::{SEED, TIMEOUTS};
use lb_common::table::device::Role;
use lb_common::table::frontend::FrontendKind;
use lb_common::table::region::{RegionHeader, WhenEmpty};
use lb_common::table::service::Audience;
use lb_common::table::source_range::SourceRangeKey;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;

use super::decided::decided;

/// One thing that was looked at, and what it said.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// What was looked at.
    pub name: &'static str,
    /// What it said.
    pub finding: String,
}

/// Who sends a packet, which says where it meets the first program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Origin {
    /// A pod of this node: where its device hands packets to this host.
    Pod,
    /// Somebody elsewhere: where an uplink does.
    Elsewhere,
    /// This node itself: where packets leave by an uplink.
    Node,
}

impl Origin {
    /// The device and its side.
    const fn seen(self) -> (Role, Hook) {
        match self {
            Self::Pod => (Role::Workload, Hook::Ingress),
            Self::Elsewhere => (Role::Uplink, Hook::Ingress),
            Self::Node => (Role::Uplink, Hook::Egress),
        }
    }

    /// The path of flows whose packets nobody sends on past the host.
    const fn path(self) -> Path {
        match self {
            Self::Pod | Self::Elsewhere => Path::Routed,
            Self::Node => Path::OfHost,
        }
    }
}

/// What was found out about one packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trace<F: Family> {
    /// The packet.
    pub tuple: FlowTuple<F>,
    /// Who sends it.
    pub origin: Origin,
    /// Whether any program sees it.
    pub is_seen: bool,
    /// What was looked at, in order.
    pub steps: Vec<Step>,
    /// Why the packet ends as it does.
    pub reason: Reason,
    /// Index of the service whose frontend was dialled.
    pub service_index: Option<u32>,
    /// The flow's entry: found, or as it would be made.
    pub entry: Option<FlowEntry<F>>,
    /// Who a new flow would go to, also where an old one was found.
    pub new_flow_to: Option<BackendId>,
    /// The packet as it leaves, where it gets a source address of this node on its way out.
    pub leaves: Option<FlowTuple<F>>,
}

/// Follows a packet with `tuple` and `tcp_flags`.
pub fn trace<F: Family>(
    origin: Origin,
    tuple: &FlowTuple<F>,
    tcp_flags: u8,
    tables: &impl Tables,
    now: Seconds,
) -> Trace<F> {
    let mut trace = steps(origin, tuple, tcp_flags, tables, now);
    let (role, hook) = origin.seen();
    let decided = decided(tables, &Sighting { role, hook, now }, tuple, tcp_flags);
    // Why there is no way, the way itself says.
    let is_of_way = matches!(
        decided.reason,
        Reason::NoWayToBackend | Reason::NoSourceAddress
    );
    if decided.reason != trace.reason && !is_of_way {
        trace.step("decision", decided.reason.explanation().trim().to_owned());
    }
    trace.reason = decided.reason;
    trace.entry = trace.entry.and_then(|entry| {
        let translated = decided.translated?;
        Some(FlowEntry {
            translated,
            ..entry
        })
    });
    trace
}

/// Looks at one thing after the other.
fn steps<F: Family>(
    origin: Origin,
    tuple: &FlowTuple<F>,
    tcp_flags: u8,
    tables: &impl Tables,
    now: Seconds,
) -> Trace<F> {
    let mut trace = Trace::new(origin, tuple);
    let may_concern = match origin {
        Origin::Node => lookup::may_be_service::<F>(tables, tuple.destination),
        _ => lookup::may_concern::<F>(tables, origin.seen(), tuple),
    };
    if !may_concern {
        trace.step("address filter", "no service has this address".to_owned());
        if lookup::in_service_cidr::<F>(tables, tuple.destination) {
            let finding = match origin {
                Origin::Node => "the address is in it; what this node sends there leaves as it is",
                _ => "the address is in it",
            };
            trace.step("service CIDR", finding.to_owned());
            if origin != Origin::Node {
                trace.reason = Reason::UnallocatedAddress;
            }
        }
        return trace;
    }
    let may_be = match origin {
        Origin::Pod | Origin::Node => "a service may have this address",
        Origin::Elsewhere => "a service may have this address or node port",
    };
    trace.step("address filter", may_be.to_owned());
    let event = match tuple.protocol {
        Protocol::Tcp => Event::tcp(tcp_flags),
        Protocol::Udp => Event::Udp,
        Protocol::Sctp => Event::SctpOther,
    };
    let known = flow(&mut trace, event, tables, now);
    new_flow(&mut trace, tables, now, known.is_none());
    if let Some(entry) = known {
        trace.reason = Reason::Established;
        trace.entry = Some(entry);
    }
    trace
}

impl<F: Family> Trace<F> {
    const fn new(origin: Origin, tuple: &FlowTuple<F>) -> Self {
        Self {
            tuple: *tuple,
            origin,
            is_seen: true,
            steps: Vec::new(),
            reason: Reason::NotService,
            service_index: None,
            entry: None,
            new_flow_to: None,
            leaves: None,
        }
    }

    /// A packet that no program sees, by the way that it takes.
    pub fn unseen(origin: Origin, tuple: &FlowTuple<F>, way: String) -> Self {
        let mut trace = Self::new(origin, tuple);
        trace.is_seen = false;
        trace.step("route", way);
        trace
    }

    /// Follows the translated packet out of an uplink called `device`, whose addresses `tables` have.
    pub fn leave(&mut self, device: &str, tcp_flags: u8, tables: &impl Tables, now: Seconds) {
        let Some(translated) = self.entry.map(|entry| entry.translated) else {
            return;
        };
        let seen = Sighting {
            role: Role::Uplink,
            hook: Hook::Egress,
            now,
        };
        let left = decided(tables, &seen, &translated, tcp_flags);
        let what = match (left.reason, left.translated) {
            (Reason::NewSource, Some(_)) => {
                "the packet gets an address of this node and a port that no flow has".to_owned()
            }
            (_, Some(_)) => "the packet keeps the address of this node that it has".to_owned(),
            (reason, None) => reason.explanation().trim().to_owned(),
        };
        self.step("source", format!("leaves by {device}, an uplink: {what}"));
        self.leaves = left.translated;
        if left.translated.is_none() {
            self.reason = left.reason;
        }
    }

    /// Packets of the flow leave the hook so.
    pub fn path(&mut self, how: &str) {
        self.step("path", how.to_owned());
    }

    /// The backend is on this node, or behind a device without programs.
    pub fn stay(&mut self) {
        if self.entry.is_some() && self.origin == Origin::Elsewhere {
            let what = "the packet leaves by no uplink: the backend sees the client's address";
            self.step("source", what.to_owned());
        }
    }

    /// What was looked at before all else.
    pub(super) fn begin(&mut self, name: &'static str, finding: String) {
        self.steps.insert(0, Step { name, finding });
    }

    pub(super) fn step(&mut self, name: &'static str, finding: String) {
        self.steps.push(Step { name, finding });
    }
}

/// The entry that the packet's flow has and keeps.
fn flow<F: Family>(
    trace: &mut Trace<F>,
    event: Event,
    tables: &impl Tables,
    now: Seconds,
) -> Option<FlowEntry<F>> {
    let timeout = |state: State| {
        Seconds(lb_common::hash::lower(
            tables.config(TIMEOUTS + state.number()),
        ))
    };
    let table = FlowTable::<F, _, _>::new(tables.flows::<F>(), tables.config(SEED), timeout);
    let key = FlowKey {
        tuple: trace.tuple,
        hook: trace.origin.seen().1,
    };
    let Some(found): Option<Found<F>> = table.lookup(&key, now) else {
        trace.step("conntrack", "no flow has this tuple".to_owned());
        return None;
    };
    let state = found.state.name();
    if begins_anew(found.state, event) {
        trace.step(
            "conntrack",
            format!("a flow in state {state} ends, this packet begins a new one"),
        );
        return None;
    }
    let is_orphan = found.entry.key.tuple.protocol == Protocol::Udp
        && !select::record(tables, found.entry.backend)
            .is_some_and(|record| record.flags().has(BackendFlags::SERVING));
    if is_orphan {
        trace.step(
            "conntrack",
            format!("a flow in state {state} lost its backend, another is chosen"),
        );
        return None;
    }
    let left = timeout(found.state)
        .0
        .saturating_sub(found.control.age(now).0);
    trace.step(
        "conntrack",
        format!(
            "a flow in state {state} has this tuple, expires in {}",
            crate::cli::render::units::seconds(left.into())
        ),
    );
    Some(found.entry)
}

/// What would become of the packet as the first of its flow.
fn new_flow<F: Family>(trace: &mut Trace<F>, tables: &impl Tables, now: Seconds, is_first: bool) {
    let tuple = trace.tuple;
    let Some(frontend) = lookup::frontend(tables, &tuple) else {
        let (reason, finding) = match lookup::address_kind::<F>(tables, tuple.destination) {
            AddressKind::Service { .. } => (
                Reason::UnknownPort,
                "a service has the address, but not this port and protocol",
            ),
            AddressKind::Unallocated => (
                Reason::UnallocatedAddress,
                "none has it, and it is in the service CIDR",
            ),
            AddressKind::Foreign => (Reason::NotService, "none has it"),
        };
        trace.step("frontend", finding.to_owned());
        trace.reason = reason;
        return;
    };
    let index = frontend.service_index();
    trace.service_index = Some(index);
    let kind = frontend.kind();
    // This node is a client of the cluster, as its pods are.
    let role = match trace.origin {
        Origin::Pod | Origin::Node => Role::Workload,
        Origin::Elsewhere => Role::Uplink,
    };
    let audience = lookup::audience::<F>(tables, role, kind, tuple.source);
    let policy = match audience {
        Audience::Internal => "the internal policy's set of backends",
        Audience::External => "the external policy's set of backends",
        Audience::Inside => "the set of all backends: a client of the cluster",
    };
    let has = match kind {
        Some(FrontendKind::NodePort) => {
            "a service port has this node port, and the address takes node ports"
        }
        _ => "a service port has this address, port and protocol",
    };
    trace.step("frontend", has.to_owned());
    if frontend.has_source_ranges() {
        let client = SourceRangeKey::client(index, F::mapped(tuple.source));
        if !tables.has_source_range(&client) {
            trace.step("source ranges", "none holds the client".to_owned());
            trace.reason = Reason::SourceRange;
            return;
        }
        trace.step("source ranges", "one holds the client".to_owned());
    }
    trace.step("traffic policy", policy.to_owned());
    choose(trace, (tables, index, audience), now);
    select_backend(trace, (tables, index, audience), now, is_first);
}

/// Says by what a backend is chosen.
fn choose<F: Family>(
    trace: &mut Trace<F>,
    (tables, index, audience): (&impl Tables, u32, Audience),
    now: Seconds,
) {
    let Some((service, offset, header)) = select::region(tables, index, audience) else {
        return;
    };
    if header.count == 0 {
        return;
    }
    if header.affinity_seconds != 0 && affinity(trace, tables, (service, offset, &header), now) {
        return;
    }
    let finding = if header.table_size == 0 {
        "one backend, no choice".to_owned()
    } else {
        let hashed = if header.affinity_seconds == 0 {
            "addresses, ports and protocol"
        } else {
            "the client's address and the timeouts since boot"
        };
        format!(
            "slot {} of {}, by a hash of {hashed}; {} backends",
            select::slot(&trace.tuple, &header, now),
            header.table_size,
            header.count
        )
    };
    trace.step("Maglev", finding);
}

/// Says what session affinity knows of the client; whether it chooses the backend.
fn affinity<F: Family>(
    trace: &mut Trace<F>,
    tables: &impl Tables,
    region: (ServiceId, u32, &RegionHeader),
    now: Seconds,
) -> bool {
    let (service, _, header) = region;
    let key = AffinityKey::new::<F>(service, trace.tuple.source);
    let timeout = Seconds(header.affinity_seconds);
    let entry = tables.affinity(&key);
    let age = |value: AffinityValue| {
        let age = now.0.saturating_sub(value.last(&key).0);
        crate::cli::render::units::seconds(age.into())
    };
    let kept = select::kept(tables, region, &trace.tuple, now);
    let finding = match entry {
        None => "the client has had no backend, a hash chooses".to_owned(),
        Some(value) if !value.is_live(&key, now, timeout) => format!(
            "the client's last connection was {} ago, more than the timeout: a hash chooses",
            age(value)
        ),
        Some(_) if kept.is_none() => {
            "the client's backend may no longer be used, a hash chooses".to_owned()
        }
        Some(value) => format!(
            "the client keeps the backend of its last connection, {} ago",
            age(value)
        ),
    };
    trace.step("affinity", finding);
    !kept.is_none()
}

fn select_backend<F: Family>(
    trace: &mut Trace<F>,
    (tables, index, audience): (&impl Tables, u32, Audience),
    now: Seconds,
    is_first: bool,
) {
    let tuple = trace.tuple;
    match select::select(tables, index, audience, &tuple, now) {
        Choice::Backend {
            service,
            backend,
            address,
            port,
            ..
        } => {
            trace.new_flow_to = Some(backend);
            if !is_first {
                return;
            }
            trace.reason = Reason::NewFlow;
            trace.entry = Some(FlowEntry {
                key: FlowKey {
                    tuple,
                    hook: trace.origin.seen().1,
                },
                translated: FlowTuple {
                    destination: address,
                    destination_port: port,
                    ..tuple
                },
                direction: Direction::Original,
                path: trace.origin.path(),
                is_from_outside: trace.origin == Origin::Elsewhere,
                service,
                backend,
            });
        }
        Choice::Empty(WhenEmpty::Refuse) => {
            trace.step("backends", "none may be used".to_owned());
            trace.reason = Reason::NoEndpoints;
        }
        Choice::Empty(WhenEmpty::Drop) => {
            trace.step("backends", "none of this node's may be used".to_owned());
            trace.reason = Reason::NoLocalEndpoints;
        }
        Choice::Inconsistent => {
            trace.step("backends", "the tables contradict themselves".to_owned());
            trace.reason = Reason::TableInconsistent;
        }
    }
}
