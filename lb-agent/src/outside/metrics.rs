//! What `/metrics` tells: kube-proxy's names, where they have a meaning here, and our own.
//!
//! kube-proxy's names keep its dashboards alive. They are *not* there where nothing corresponds:
//! rules of iptables and nftables, and entries of the kernel's connection tracking that it deletes
//! (here a flow's backend is checked by each of its packets instead).

mod drift;

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use self::drift::DriftMetrics;
use super::proxy_health::{IpFamily, Question};
use crate::clock::Moment;
use crate::reconcile::audit::Found;
use crate::source::kubernetes::metrics::ApiMetrics;

type Seconds = Gauge<f64, AtomicU64>;

/// `ip_family`, as kube-proxy has it.
#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
pub(super) struct FamilyLabel {
    ip_family: &'static str,
}

impl From<IpFamily> for FamilyLabel {
    fn from(family: IpFamily) -> Self {
        Self {
            ip_family: family.name(),
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct PolicyLabels {
    traffic_policy: &'static str,
    ip_family: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct KindLabel {
    kind: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OutcomeLabel {
    outcome: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct MapLabel {
    map: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct VersionLabel {
    version: &'static str,
}

/// What was synced: everything, or what had changed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SyncKind {
    /// Every Service was looked at.
    Full,
    /// Those that had changed.
    Delta,
}

impl SyncKind {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Delta => "delta",
        }
    }
}

fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

/// Our own syncs are shorter than kube-proxy's smallest bucket.
fn fine_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 18))
}

fn network_buckets() -> Histogram {
    let ones = (1..60).map(f64::from);
    let fives = (60..120).step_by(5).map(f64::from);
    let thirties = (120..=300).step_by(30).map(f64::from);
    Histogram::new(
        [0.25, 0.5]
            .into_iter()
            .chain(ones)
            .chain(fives)
            .chain(thirties),
    )
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// Everything that is counted while the agent works. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// The conversation with API servers.
    pub api: ApiMetrics,
    families: Vec<IpFamily>,
    sync: Histograms<FamilyLabel>,
    sync_full: Histograms<FamilyLabel>,
    sync_partial: Histograms<FamilyLabel>,
    synced_at: Family<FamilyLabel, Seconds>,
    queued_at: Family<FamilyLabel, Seconds>,
    network_programming: Histograms<FamilyLabel>,
    endpoint_changes_pending: Gauge,
    endpoint_changes: Counter,
    service_changes_pending: Gauge,
    service_changes: Counter,
    no_local_endpoints: Family<PolicyLabels, Gauge>,
    healthz: Family<CodeLabel, Counter>,
    livez: Family<CodeLabel, Counter>,
    build: Family<VersionLabel, Gauge>,
    own_sync: Histograms<KindLabel>,
    latency: Histogram,
    entries: Family<MapLabel, Gauge>,
    capacity: Family<MapLabel, Gauge>,
    pressure: Family<MapLabel, Seconds>,
    pending_writes: Gauge,
    problems: Gauge,
    services: Gauge,
    devices: Gauge,
    flows_removed: Counter,
    flows_homeless: Counter,
    reloads: Family<OutcomeLabel, Counter>,
    drift: DriftMetrics,
}

impl Metrics {
    /// Nothing counted yet. `families` are those of this host.
    pub fn new(families: &[IpFamily]) -> Self {
        let metrics = Self {
            api: ApiMetrics::default(),
            families: families.to_vec(),
            sync: Family::new_with_constructor(sync_buckets),
            sync_full: Family::new_with_constructor(sync_buckets),
            sync_partial: Family::new_with_constructor(sync_buckets),
            synced_at: Family::default(),
            queued_at: Family::default(),
            network_programming: Family::new_with_constructor(network_buckets),
            endpoint_changes_pending: Gauge::default(),
            endpoint_changes: Counter::default(),
            service_changes_pending: Gauge::default(),
            service_changes: Counter::default(),
            no_local_endpoints: Family::default(),
            healthz: Family::default(),
            livez: Family::default(),
            build: Family::default(),
            own_sync: Family::new_with_constructor(fine_buckets),
            latency: fine_buckets(),
            entries: Family::default(),
            capacity: Family::default(),
            pressure: Family::default(),
            pending_writes: Gauge::default(),
            problems: Gauge::default(),
            services: Gauge::default(),
            devices: Gauge::default(),
            flows_removed: Counter::default(),
            flows_homeless: Counter::default(),
            reloads: Family::default(),
            drift: DriftMetrics::new(),
        };
        let version = env!("CARGO_PKG_VERSION");
        metrics
            .build
            .get_or_create(&VersionLabel { version })
            .set(1);
        // A series that is there from the start has a rate from the start.
        for code in ["200", "503"] {
            drop(metrics.healthz.get_or_create(&CodeLabel { code }));
            drop(metrics.livez.get_or_create(&CodeLabel { code }));
        }
        for outcome in ["applied", "refused"] {
            drop(metrics.reloads.get_or_create(&OutcomeLabel { outcome }));
        }
        for &family in families {
            drop(metrics.sync.get_or_create(&family.into()));
            drop(metrics.network_programming.get_or_create(&family.into()));
            metrics.set_no_local_endpoints(family, 0, 0);
        }
        metrics
    }

    /// Registers all of it.
    pub fn register(&self, registry: &mut Registry) {
        self.register_kube_proxys(registry.sub_registry_with_prefix("kubeproxy"));
        self.register_own(registry.sub_registry_with_prefix("steerage"));
        self.api.register(registry);
    }

    fn register_kube_proxys(&self, registry: &mut Registry) {
        registry.register(
            "sync_proxy_rules_duration_seconds",
            "Time to bring the tables to what the objects say",
            self.sync.clone(),
        );
        registry.register(
            "sync_full_proxy_rules_duration_seconds",
            "Time of syncs that looked at every Service",
            self.sync_full.clone(),
        );
        registry.register(
            "sync_partial_proxy_rules_duration_seconds",
            "Time of syncs that looked at changed Services only",
            self.sync_partial.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_timestamp_seconds",
            "When the tables last were complete",
            self.synced_at.clone(),
        );
        registry.register(
            "sync_proxy_rules_last_queued_timestamp_seconds",
            "When a change last arrived",
            self.queued_at.clone(),
        );
        registry.register(
            "network_programming_duration_seconds",
            "Time from a change in the cluster until the tables said it",
            self.network_programming.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes_pending",
            "Changes of EndpointSlices that the tables do not say yet",
            self.endpoint_changes_pending.clone(),
        );
        registry.register(
            "sync_proxy_rules_endpoint_changes",
            "Changes of EndpointSlices",
            self.endpoint_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes_pending",
            "Changes of Services that the tables do not say yet",
            self.service_changes_pending.clone(),
        );
        registry.register(
            "sync_proxy_rules_service_changes",
            "Changes of Services",
            self.service_changes.clone(),
        );
        registry.register(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports of a Local policy with endpoints, none of them on this node",
            self.no_local_endpoints.clone(),
        );
        registry.register("proxy_healthz", "Answers of /healthz", self.healthz.clone());
        registry.register("proxy_livez", "Answers of /livez", self.livez.clone());
    }

    fn register_own(&self, registry: &mut Registry) {
        registry.register("build_info", "The version that runs", self.build.clone());
        registry.register(
            "sync_duration_seconds",
            "Time to bring the tables to what the objects say",
            self.own_sync.clone(),
        );
        registry.register(
            "programming_latency_seconds",
            "Time from the arrival of a change until the tables said it",
            self.latency.clone(),
        );
        registry.register("map_entries", "Entries in use", self.entries.clone());
        registry.register(
            "map_max_entries",
            "Entries there is room for",
            self.capacity.clone(),
        );
        registry.register(
            "map_pressure_ratio",
            "Entries in use of those there is room for, 0 to 1",
            self.pressure.clone(),
        );
        registry.register(
            "pending_writes",
            "Writes to the tables that failed and are tried again",
            self.pending_writes.clone(),
        );
        registry.register(
            "problems",
            "Lines of problems in steerage status",
            self.problems.clone(),
        );
        registry.register("services", "Services of this proxy", self.services.clone());
        registry.register(
            "attach_points",
            "Devices with programs",
            self.devices.clone(),
        );
        registry.register(
            "conntrack_removed_entries",
            "Entries of the flow tables that were tidied away after their time",
            self.flows_removed.clone(),
        );
        registry.register(
            "conntrack_lost_address_flows",
            "Flows that were ended because this node no longer has the address that they left with",
            self.flows_homeless.clone(),
        );
        registry.register(
            "config_reloads",
            "Changed files of settings, by what became of them",
            self.reloads.clone(),
        );
        self.drift.register(registry);
    }

    /// Changes have arrived: so many of Services, and of `EndpointSlices`.
    pub fn queued(&self, services: u64, slices: u64, now: Moment) {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.service_changes.inc_by(services);
        self.service_changes_pending.inc_by(count(services));
        self.endpoint_changes.inc_by(slices);
        self.endpoint_changes_pending.inc_by(count(slices));
        for &family in &self.families {
            let gauge = self.queued_at.get_or_create(&family.into());
            gauge.set(now.unix.as_secs_f64());
        }
    }

    /// The tables are complete. They were worked on for `worked`, and the oldest change had waited
    /// for `waited`.
    pub fn synced(&self, kind: SyncKind, worked: Duration, waited: Duration, now: Moment) {
        self.service_changes_pending.set(0);
        self.endpoint_changes_pending.set(0);
        for &family in &self.families {
            let label = family.into();
            let seconds = worked.as_secs_f64();
            self.sync.get_or_create(&label).observe(seconds);
            match kind {
                SyncKind::Full => self.sync_full.get_or_create(&label).observe(seconds),
                SyncKind::Delta => self.sync_partial.get_or_create(&label).observe(seconds),
            }
            let gauge = self.synced_at.get_or_create(&label);
            gauge.set(now.unix.as_secs_f64());
        }
        let kind = KindLabel { kind: kind.name() };
        self.own_sync
            .get_or_create(&kind)
            .observe(worked.as_secs_f64());
        self.latency.observe(waited.as_secs_f64());
    }

    /// A change in the cluster took so many seconds until the tables said it.
    pub fn network_programmed(&self, seconds: f64) {
        for &family in &self.families {
            self.network_programming
                .get_or_create(&family.into())
                .observe(seconds);
        }
    }

    /// How many ports have a `Local` policy, endpoints somewhere and none here.
    pub fn set_no_local_endpoints(&self, family: IpFamily, internal: u32, external: u32) {
        for (traffic_policy, count) in [("internal", internal), ("external", external)] {
            let labels = PolicyLabels {
                traffic_policy,
                ip_family: family.name(),
            };
            self.no_local_endpoints
                .get_or_create(&labels)
                .set(count.into());
        }
    }

    /// `/healthz` or `/livez` was answered.
    pub fn answered(&self, question: Question, status: u16) {
        let label = CodeLabel {
            code: if status == 200 { "200" } else { "503" },
        };
        let answers = match question {
            Question::Healthz => &self.healthz,
            Question::Livez => &self.livez,
        };
        answers.get_or_create(&label).inc();
    }

    /// How full a map is.
    pub fn set_map(&self, map: &'static str, entries: u64, capacity: u64) {
        let label = MapLabel { map };
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.entries.get_or_create(&label).set(gauge(entries));
        self.capacity.get_or_create(&label).set(gauge(capacity));
        let small = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let ratio = f64::from(small(entries)) / f64::from(small(capacity).max(1));
        self.pressure.get_or_create(&label).set(ratio);
    }

    /// What the status says.
    pub fn set_status(&self, services: usize, devices: usize, pending: u64, problems: usize) {
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.services.set(gauge(services));
        self.devices.set(gauge(devices));
        self.problems.set(gauge(problems));
        self.pending_writes
            .set(i64::try_from(pending).unwrap_or(i64::MAX));
    }

    /// A walk through the flow tables removed so many entries, and ended so many flows that left with
    /// an address which is gone.
    pub fn tidied(&self, removed: u64, homeless: u64) {
        self.flows_removed.inc_by(removed);
        self.flows_homeless.inc_by(homeless);
    }

    /// An audit of the tables was carried through.
    pub fn audited(&self, found: &Found) {
        self.drift.audited(found);
    }

    /// Changed settings were taken over, or not.
    pub fn reloaded(&self, is_applied: bool) {
        let outcome = if is_applied { "applied" } else { "refused" };
        self.reloads.get_or_create(&OutcomeLabel { outcome }).inc();
    }
}
