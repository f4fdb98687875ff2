//! Keeps programs on the devices of workloads and on uplinks, and on no other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use lb_common::flow::Hook;
use lb_common::table::config::HOST_CIDR_COUNTS;
use lb_common::table::device::{self, DeviceRecord};

use super::Agent;
use super::frames::FrameKeeper;
use super::node_addresses::local;
use super::objects::ModelObjects;
use super::timers;
use crate::clock;
use crate::dataplane::DataplaneError;
use crate::dataplane::attach::{AttachError, Attachments};
use crate::dataplane::bpffs::PinPaths;
use crate::dataplane::load::Loaded;
use crate::dataplane::maps::BpfDataplane;
use crate::dataplane::xdp::{XdpError, XdpLinks};
use crate::interfaces::{
    Classified, Closed, Criteria, Device, Devices, Grace, Role, Watcher, classify, clearness,
    netdev, openness, source_addresses, why_uplink,
};
use crate::plan::source_ranges::contains;
use crate::settings::{InterfaceOverrides, Redirect, Settings};
use crate::status::DeviceRole;

/// How soon devices are looked at again after a failure.
const DEVICE_RETRY: Duration = Duration::from_secs(1);

/// The programs' places.
#[derive(Debug)]
pub(super) struct DeviceKeeper {
    attachments: Attachments,
    overrides: InterfaceOverrides,
    redirect: Redirect,
    /// XDP programs of uplinks, and whether they are wanted.
    frames: FrameKeeper,
    /// What `DEVICES` holds, as far as this agent wrote it.
    records: BTreeMap<u32, DeviceRecord>,
    /// Devices of which an earlier agent wrote a record, until they are looked at.
    earlier: BTreeSet<u32>,
    /// Keeps roles that are lost for a moment.
    grace: Grace,
    /// When a role that is kept for a moment ends.
    grace_ends: Option<Instant>,
    /// Devices whose programs are not as they should be, and why.
    problems: BTreeMap<u32, String>,
    /// Devices that should have a role and cannot have it, and why.
    obstacles: BTreeMap<u32, String>,
    /// Devices that have a role or should have one, and why.
    roles: Vec<DeviceRole>,
}

/// What the devices are judged by.
pub(super) struct Site<'a> {
    /// All of them.
    pub(super) devices: &'a Devices,
    /// The Node's addresses.
    pub(super) node_addresses: &'a [IpAddr],
    /// The addresses that take node ports.
    pub(super) node_ports: &'a BTreeSet<IpAddr>,
    /// Whether addresses of other nodes' hosts are known.
    pub(super) has_hosts: bool,
    /// The time.
    pub(super) now: Instant,
}

/// A device that should have programs.
struct Wanted<'a> {
    device: &'a Device,
    record: DeviceRecord,
    why: &'static str,
}

impl Wanted<'_> {
    const fn kind(&self) -> &'static str {
        match self.record.role() {
            device::Role::Workload => "a workload's device",
            device::Role::Uplink => "an uplink",
        }
    }
}

/// Why a device is not as it should be.
#[derive(Debug, thiserror::Error)]
enum DeviceError {
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Record(#[from] DataplaneError),
}

impl DeviceKeeper {
    /// `roles` are those of the records that an earlier agent wrote, whose XDP links are below `paths`.
    pub(super) fn new(
        attachments: Attachments,
        paths: &PinPaths,
        settings: &Settings,
        roles: &BTreeMap<u32, device::Role>,
    ) -> Result<Self, XdpError> {
        Ok(Self {
            attachments,
            overrides: settings.interfaces.clone(),
            redirect: settings.redirect,
            frames: FrameKeeper::new(XdpLinks::find(paths)?, settings),
            records: BTreeMap::new(),
            earlier: roles.keys().copied().collect(),
            grace: Grace::new(roles.iter().map(|(&index, &role)| (index, found(role)))),
            grace_ends: None,
            problems: BTreeMap::new(),
            obstacles: BTreeMap::new(),
            roles: Vec::new(),
        })
    }

    /// Takes over other rules; they apply at the next [`Self::keep`].
    pub(super) fn set_rules(&mut self, settings: &Settings) {
        self.overrides = settings.interfaces.clone();
        self.redirect = settings.redirect;
        self.frames.set_rules(settings);
    }

    /// How many devices have programs.
    pub(super) fn devices(&self) -> usize {
        self.attachments.devices().count()
    }

    /// One line for each device whose programs are not as they should be, or that cannot have any.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        let of_devices = self.problems.values().chain(self.obstacles.values());
        of_devices.chain(self.frames.problem())
    }

    /// When a role that is kept for a moment ends.
    pub(super) const fn grace_ends(&self) -> Option<Instant> {
        self.grace_ends
    }

    /// What was written to `DEVICES`.
    pub(super) const fn records(&self) -> &BTreeMap<u32, DeviceRecord> {
        &self.records
    }

    /// Whether the device was an uplink when it was last looked at.
    fn is_uplink(&self, index: u32) -> bool {
        let record = self.records.get(&index);
        record.is_some_and(|record| record.role() == device::Role::Uplink)
    }

    /// Devices that have a role or should have one, and why.
    pub(super) fn roles(&self) -> &[DeviceRole] {
        &self.roles
    }

    /// Attaches to new workloads and uplinks, follows moves from bridge to bridge and changes of
    /// addresses, forgets what is gone. False if something failed and should be tried again.
    pub(super) fn keep(
        &mut self,
        loaded: &mut Loaded,
        dataplane: &mut BpfDataplane,
        site: &Site<'_>,
    ) -> bool {
        let mut problems = BTreeMap::new();
        let found = self.found(site);
        let wanted = wanted(&found, site);
        let mut closed = BTreeMap::new();
        for (&index, one) in &wanted {
            let has_strangers = self.attachments.has_strangers(index, Hook::Ingress);
            let clearness = clearness(one.device, has_strangers);
            let openness = openness(self.redirect, clearness);
            if let Err(why) = openness {
                let is_for_hosts = site.has_hosts && one.record.role() == device::Role::Uplink;
                closed.insert(index, plain_text(why, is_for_hosts.then_some(clearness)));
            }
            let record = one
                .record
                .cleared(index, clearness.is_ok())
                .opened(index, openness.is_ok());
            let has_strangers =
                self.frames.is_on() && self.attachments.has_strangers(index, Hook::Egress);
            let frames = self
                .frames
                .prepare(one.device, record, site.devices, has_strangers);
            let record = frames.told_by(index, record);
            let attached = self.ensure(loaded, dataplane, index, record);
            if attached.is_ok() {
                self.frames.keep(loaded, one.device, &frames);
            }
            match attached {
                Ok(true) => tracing::info!(
                    device = one.device.name,
                    index,
                    "attached to {}, which {}",
                    one.kind(),
                    one.why
                ),
                // The next look at the devices finds it gone.
                Ok(false) | Err(DeviceError::Attach(AttachError::Gone { .. })) => {}
                Err(error) => {
                    problems.insert(index, format!("device {}: {error}", one.device.name));
                }
            }
        }
        self.report(&found, site.devices, &closed);
        let superfluous: BTreeSet<u32> = self
            .attachments
            .devices()
            .map(|(index, _)| index)
            .chain(self.records.keys().copied())
            .chain(self.frames.devices())
            .chain(std::mem::take(&mut self.earlier))
            .filter(|index| !wanted.contains_key(index))
            .collect();
        for index in superfluous {
            match self.release(dataplane, index) {
                Ok(()) => tracing::info!(index, "detached from a device"),
                Err(error) => {
                    problems.insert(index, format!("device {index}: {error}"));
                    self.earlier.insert(index);
                }
            }
        }
        for (index, problem) in &problems {
            if self.problems.get(index) != Some(problem) {
                tracing::warn!(index, "{problem}");
            }
        }
        self.problems = problems;
        self.problems.is_empty()
    }

    /// What each device is, those included whose role is kept for a moment.
    fn found(&mut self, site: &Site<'_>) -> BTreeMap<u32, Classified> {
        let criteria = Criteria {
            node_addresses: site.node_addresses,
            node_ports: site.node_ports,
            overrides: &self.overrides,
        };
        let indices = site.devices.keys();
        let mut found = indices
            .map(|&index| (index, classify(index, site.devices, &criteria)))
            .collect();
        self.grace_ends = self.grace.settle(&mut found, site.now);
        found
    }

    /// Notes which devices have a role, and tells once of each that cannot have the one it should.
    fn report(
        &mut self,
        found: &BTreeMap<u32, Classified>,
        devices: &Devices,
        closed: &BTreeMap<u32, String>,
    ) {
        let mut obstacles = BTreeMap::new();
        self.roles.clear();
        for (&index, one) in found {
            let name = devices.get(&index).map_or("", |device| &device.name);
            let obstacle = one.obstacle.map(|it| it.to_string());
            if one.role == Role::None && obstacle.is_none() {
                continue;
            }
            if let Some(obstacle) = &obstacle {
                let text = format!("device {name} {}, but {obstacle}", one.why);
                if self.obstacles.get(&index) != Some(&text) {
                    tracing::warn!(index, "{text}");
                }
                obstacles.insert(index, text);
            }
            self.roles.push(DeviceRole {
                index,
                why: one.why.to_owned(),
                obstacle,
                plain: closed.get(&index).cloned(),
                no_xdp: self.frames.reason(index).cloned(),
            });
        }
        self.obstacles = obstacles;
    }

    /// Whether it attached.
    fn ensure(
        &mut self,
        loaded: &mut Loaded,
        dataplane: &mut BpfDataplane,
        index: u32,
        record: DeviceRecord,
    ) -> Result<bool, DeviceError> {
        // The programs ask for the record, so it comes first.
        if self.records.get(&index) != Some(&record) {
            dataplane.set_device(index, record)?;
            self.records.insert(index, record);
        }
        if self.attachments.contains(index, record.role()) {
            return Ok(false);
        }
        self.attachments.attach(loaded, index, record.role())?;
        Ok(true)
    }

    fn release(&mut self, dataplane: &mut BpfDataplane, index: u32) -> Result<(), DeviceError> {
        self.frames.release(index);
        self.attachments.detach(index)?;
        dataplane.remove_device(index)?;
        self.records.remove(&index);
        Ok(())
    }
}

/// Why packets go the plain way by a device, in the operator's words; `to_hosts` says the same of those to
/// hosts of other nodes, where that is asked.
fn plain_text(why: Closed, to_hosts: Option<Result<(), Closed>>) -> String {
    match (why, to_hosts) {
        (Closed::Setting, Some(Ok(()))) => {
            format!("{why}; what goes to hosts of other nodes is sent on all the same")
        }
        (Closed::Setting, Some(Err(closed))) => {
            format!("{why}; what goes to hosts of other nodes is not sent on either: {closed}")
        }
        _ => why.to_string(),
    }
}

/// The role that a record says.
const fn found(role: device::Role) -> Role {
    match role {
        device::Role::Uplink => Role::Uplink,
        device::Role::Workload => Role::Workload { bridge: 0 },
    }
}

/// What the devices with a role should have.
fn wanted<'a>(found: &BTreeMap<u32, Classified>, site: &Site<'a>) -> BTreeMap<u32, Wanted<'a>> {
    let mut wanted = BTreeMap::new();
    for (&index, device) in site.devices {
        let Some(&Classified { role, why, .. }) = found.get(&index) else {
            continue;
        };
        let record = match role {
            Role::Workload { bridge } => DeviceRecord::workload(index, bridge),
            Role::Uplink => {
                let (v4, v6) = source_addresses(device, site.node_addresses);
                DeviceRecord::uplink(index, v4.octets(), v6.octets())
            }
            Role::None => continue,
        };
        let one = Wanted {
            device,
            record,
            why,
        };
        wanted.insert(index, one);
    }
    wanted
}

impl Agent {
    /// Reads what devices there are.
    pub(super) async fn read_devices(&mut self, watcher: &Watcher) {
        self.devices_at = None;
        match watcher.read().await {
            Ok(mut devices) => {
                let node = ModelObjects(&self.model).node_view();
                let (redirect, keeper) = (self.settings.redirect, &self.keeper);
                let wanted = |device: &Device| {
                    redirect == Redirect::On
                        || keeper.is_uplink(device.index)
                        || why_uplink(device, node.addresses).is_some()
                };
                watcher.read_filters(&mut devices, wanted).await;
                if self.keeper.frames.is_on() {
                    watcher.read_egress_filters(&mut devices).await;
                    netdev::read_features(&mut devices);
                }
                self.devices = devices;
                self.take_addresses();
                if self.is_listed {
                    self.write_cidrs();
                }
                self.keep_devices();
                self.outside
                    .show_node_ports(&self.model, &self.settings, &self.devices);
            }
            Err(error) => {
                tracing::warn!("{error}");
                self.devices_at = Some(timers::now() + DEVICE_RETRY);
            }
        }
    }

    /// Plans anew what concerns addresses of devices that came or went.
    fn take_addresses(&mut self) {
        let changed = self.model.set_device_addresses(local(&self.devices));
        if changed.is_empty() {
            return;
        }
        for name in changed.services {
            self.reconciler.changed(name);
        }
        self.names.changed();
        self.has_work = true;
    }

    /// Attaches and detaches, once the tables are complete.
    pub(super) fn keep_devices(&mut self) {
        if !self.has_synced {
            return;
        }
        let mut node = ModelObjects(&self.model).node_view();
        let rules = &self.settings.services;
        let own = rules.node_addresses(node.addresses);
        node.addresses = &own;
        let dataplane = self.reconciler.dataplane_mut();
        let has_hosts = dataplane.config(HOST_CIDR_COUNTS) != 0;
        let mut node_ports = rules.node_ports().select(&node, local(&self.devices));
        let now = clock::instant();
        let addresses = &mut self.addresses;
        let has_addresses = addresses.keep(dataplane, &self.devices, &node_ports, now);
        // The pods' own gateways do not lead to other nodes.
        let is_pods = |address: IpAddr| {
            rules
                .pods(self.model.pod_cidrs())
                .iter()
                .any(|it| contains(*it, address))
        };
        node_ports.retain(|address| !is_pods(*address));
        let site = Site {
            devices: &self.devices,
            node_addresses: &own,
            node_ports: &node_ports,
            has_hosts,
            now,
        };
        let is_done = self.keeper.keep(&mut self.loaded, dataplane, &site);
        let has_news = self.keeper.frames.take_news();
        let retry_at =
            (!is_done || !has_addresses || has_news).then(|| timers::now() + DEVICE_RETRY);
        let grace_ends = self.keeper.grace_ends().map(tokio::time::Instant::from_std);
        let times = [self.devices_at, retry_at, grace_ends];
        self.devices_at = times.into_iter().flatten().min();
        self.write_node_tables();
        self.published.status_changed();
    }
}
