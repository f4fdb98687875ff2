//! From the agent's loop to what it shows to the outside.

use std::net::IpAddr;
use std::time::Duration;

use lb_common::flows::SLOTS;

use super::Agent;
use super::objects::ModelObjects;
use crate::clock::{self, Moment};
use crate::dataplane::bpffs::PinPaths;
use crate::dataplane::layout::Table;
use crate::dataplane::sweep::Walk;
use crate::interfaces::Devices;
use crate::model::event::Event;
use crate::model::index::Model;
use crate::model::name::ObjectName;
use crate::outside::addresses::listen_addresses;
use crate::outside::metrics::SyncKind;
use crate::outside::proxy_health::IpFamily;
use crate::outside::report::Reports;
use crate::outside::service_health::{HealthKey, HealthPort, HealthPorts};
use crate::outside::{Outside, OutsideError};
use crate::plan::health::HealthCheck;
use crate::plan::latency::TriggerTimes;
use crate::plan::planner::Planner;
use crate::settings::{Settings, Sizes, SourceSettings};
use crate::source::kubernetes::metrics::ApiMetrics;

/// What has happened since the tables were last complete, and what is told of the Services.
#[derive(Debug)]
pub(super) struct OutsideKeeper {
    outside: Outside,
    has_health_ports: bool,
    is_full: bool,
    queued_at: Option<Moment>,
    /// Time spent on the tables since the last sync.
    worked: Duration,
    triggers: TriggerTimes,
    /// Which state of the planner's Services with a `Local` policy is told.
    locals_version: Option<u64>,
    ports: HealthPorts,
    /// Whether ports were told of that may have to be taken back.
    has_told_ports: bool,
}

impl OutsideKeeper {
    pub(super) fn start(settings: &Settings, paths: PinPaths) -> Result<Self, OutsideError> {
        let now = clock::moment();
        Ok(Self {
            // A directory of manifests may well have no Node.
            outside: Outside::start(
                &settings.outside,
                paths,
                matches!(settings.source, SourceSettings::Kubernetes(_)),
            )?,
            has_health_ports: settings.outside.health_check_node_ports,
            is_full: true,
            queued_at: None,
            worked: Duration::ZERO,
            triggers: TriggerTimes::new(micros(now)),
            locals_version: None,
            ports: HealthPorts::new(),
            has_told_ports: false,
        })
    }

    pub(super) const fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Where the conversation with API servers is counted.
    pub(super) fn api_metrics(&self) -> ApiMetrics {
        self.outside.metrics.api.clone()
    }

    pub(super) fn reports(&self) -> Reports {
        self.outside.reports()
    }

    pub(super) async fn reports_changed(&mut self) {
        self.outside.reports_changed().await;
    }

    /// Objects have arrived, before the model takes them in.
    pub(super) fn arrived(&mut self, batch: &[Event]) {
        let (mut services, mut slices) = (0, 0);
        for event in batch {
            match event {
                Event::ServiceApplied(_) | Event::ServiceRemoved(_) => services += 1,
                Event::SliceApplied(slice) => {
                    slices += 1;
                    self.triggers.applied(&slice.name, slice.triggered_micros);
                }
                Event::SliceRemoved(slice) => {
                    slices += 1;
                    self.triggers.removed(slice);
                }
                Event::NodeApplied(_)
                | Event::NodeRemoved(_)
                | Event::ServiceCidrs(_)
                | Event::Restarted(_)
                | Event::Listed(_) => {}
            }
        }
        let now = clock::moment();
        self.queued_at.get_or_insert(now);
        self.outside.metrics.queued(services, slices, now);
        let families = &self.outside.families;
        self.outside.update_health(|health| {
            for family in families {
                health.queued(*family, now);
            }
        });
    }

    /// The Node is another than before: every Service looks different.
    pub(super) fn node_changed(&mut self, model: &Model) {
        self.is_full = true;
        if let Some(node) = model.node() {
            self.outside.update_health(|health| health.node_seen(node));
        }
    }

    /// So long was worked on the tables.
    pub(super) const fn worked(&mut self, time: Duration) {
        self.worked = self.worked.saturating_add(time);
    }

    /// The tables are what the objects say.
    pub(super) fn synced(
        &mut self,
        model: &Model,
        planner: &Planner,
        settings: &Settings,
        devices: &Devices,
    ) {
        let now = clock::moment();
        if let Some(queued_at) = self.queued_at.take() {
            let kind = if std::mem::take(&mut self.is_full) {
                SyncKind::Full
            } else {
                SyncKind::Delta
            };
            let worked = std::mem::take(&mut self.worked);
            let metrics = &self.outside.metrics;
            metrics.synced(kind, worked, now.since(queued_at), now);
            for seconds in self.triggers.settle(micros(now)) {
                metrics.network_programmed(seconds);
            }
        }
        let families = &self.outside.families;
        self.outside.update_health(|health| {
            for family in families {
                health.updated(*family, now);
            }
        });
        self.take_locals(planner);
        self.show_node_ports(model, settings, devices);
    }

    /// What is told of Services with a `Local` policy, if it is something else than before.
    fn take_locals(&mut self, planner: &Planner) {
        let version = Some(planner.locals_version());
        if std::mem::replace(&mut self.locals_version, version) == version {
            return;
        }
        for family in &self.outside.families {
            let index = usize::from(family.is_v6());
            let without = || planner.locals().map(|(_, local)| local.without[index]);
            self.outside.metrics.set_no_local_endpoints(
                *family,
                without().map(|ports| ports.internal).sum(),
                without().map(|ports| ports.external).sum(),
            );
        }
        let owners = planner.health_ports();
        let checks = planner.locals().filter_map(|(name, local)| {
            let check = local.health?;
            (owners.get(&check.port) == Some(&name)).then_some((name, check))
        });
        self.ports = checks
            .flat_map(|(name, check)| health_ports(name, check))
            .collect();
    }

    /// A walk through the flow tables is done: an entry takes a slot of eight in a bucket.
    pub(super) fn swept(&self, walk: Walk, sizes: &Sizes) {
        let metrics = &self.outside.metrics;
        metrics.tidied(walk.removed, walk.homeless);
        let slots = u64::try_from(SLOTS).unwrap_or(1);
        let buckets = u64::from(sizes.flow_buckets_v4) + u64::from(sizes.flow_buckets_v6);
        metrics.set_map("FLOWS", walk.entries, buckets * slots);
    }

    /// The status is written.
    pub(super) fn published(
        &self,
        planner: &Planner,
        sizes: &Sizes,
        services: usize,
        devices: usize,
        pending: u64,
        problems: usize,
    ) {
        let metrics = &self.outside.metrics;
        metrics.set_status(services, devices, pending, problems);
        let usage = planner.usage();
        for (table, entries) in [
            (Table::Frontends, usage.frontends),
            (Table::Services, usage.services),
            (Table::Backends, usage.backends),
            (Table::Arena, usage.arena_words),
        ] {
            metrics.set_map(table.name(), entries, sizes.entries(table).into());
        }
    }

    /// Says where health-check node ports are to be.
    pub(super) fn show_node_ports(
        &mut self,
        model: &Model,
        settings: &Settings,
        devices: &Devices,
    ) {
        let had_ports = std::mem::replace(&mut self.has_told_ports, !self.ports.is_empty());
        if !self.has_health_ports || !had_ports && self.ports.is_empty() {
            return;
        }
        let node = ModelObjects(model).node_view().addresses;
        let own = settings.services.node_addresses(node);
        let local: Vec<IpAddr> = devices
            .values()
            .flat_map(|device| device.addresses.iter().copied())
            .collect();
        let wanted = &settings.services.node_port_addresses;
        let addresses = IpFamily::ALL
            .into_iter()
            .map(|family| (family, listen_addresses(wanted, family, &own, &local)))
            .collect();
        self.outside.set_node_ports(self.ports.clone(), addresses);
    }
}

/// The port of a Service, by family.
fn health_ports(
    name: &ObjectName,
    check: HealthCheck,
) -> impl Iterator<Item = (HealthKey, HealthPort)> + use<'_> {
    IpFamily::ALL.into_iter().filter_map(move |family| {
        let value = HealthPort {
            port: check.port,
            local_endpoints: check.local(family.is_v6())?,
        };
        let service = name.clone();
        Some((HealthKey { service, family }, value))
    })
}

fn micros(moment: Moment) -> i64 {
    i64::try_from(moment.unix.as_micros()).unwrap_or(i64::MAX)
}

impl Agent {
    /// Walks on through the flow tables.
    pub(super) fn sweep(&mut self) {
        let flows = self.reconciler.dataplane().flows();
        self.sweeper.set_gone(self.addresses.gone(clock::instant()));
        if let Some(walk) = self.sweeper.step(flows, clock::flow_seconds()) {
            self.outside.swept(walk, &self.settings.sizes);
            self.end_redirect(walk);
            self.addresses.walked(&self.sweeper.take_homeless());
            tracing::debug!(?walk, "looked through the flow tables");
        }
    }
}
