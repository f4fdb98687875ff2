//! Keeps programs on the devices of workloads and on uplinks, and on no other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use lb_common::table::device::{self, DeviceRecord};

use super::Agent;
use super::objects::ModelObjects;
use super::timers::now;
use crate::dataplane::DataplaneError;
use crate::dataplane::attach::{AttachError, Attachments};
use crate::dataplane::load::Loaded;
use crate::dataplane::maps::BpfDataplane;
use crate::interfaces::{Classified, Devices, Role, Watcher, classify, source_addresses};
use crate::settings::InterfaceOverrides;
use crate::status::DeviceRole;

/// How soon devices are looked at again after a failure.
const DEVICE_RETRY: Duration = Duration::from_secs(1);

/// The programs' places.
#[derive(Debug)]
pub(super) struct DeviceKeeper {
    attachments: Attachments,
    overrides: InterfaceOverrides,
    /// What `DEVICES` holds, as far as this agent wrote it.
    records: BTreeMap<u32, DeviceRecord>,
    /// Devices of which an earlier agent wrote a record, until they are looked at.
    earlier: BTreeSet<u32>,
    /// Devices whose programs are not as they should be, and why.
    problems: BTreeMap<u32, String>,
    /// Devices that have a role, and why they have it.
    roles: Vec<DeviceRole>,
}

/// A device that should have programs.
struct Wanted<'a> {
    name: &'a str,
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
    /// `roles` are those of the records that an earlier agent wrote.
    pub(super) fn new(
        attachments: Attachments,
        overrides: InterfaceOverrides,
        roles: &BTreeMap<u32, device::Role>,
    ) -> Self {
        Self {
            attachments,
            overrides,
            records: BTreeMap::new(),
            earlier: roles.keys().copied().collect(),
            problems: BTreeMap::new(),
            roles: Vec::new(),
        }
    }

    /// Takes over other rules; they apply at the next [`Self::keep`].
    pub(super) fn set_overrides(&mut self, overrides: InterfaceOverrides) {
        self.overrides = overrides;
    }

    /// How many devices have programs.
    pub(super) fn devices(&self) -> usize {
        self.attachments.devices().count()
    }

    /// One line for each device whose programs are not as they should be.
    pub(super) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }

    /// Devices that have a role, and why.
    pub(super) fn roles(&self) -> &[DeviceRole] {
        &self.roles
    }

    /// Attaches to new workloads and uplinks, follows moves from bridge to bridge and changes of
    /// addresses, forgets what is gone. False if something failed and should be tried again.
    pub(super) fn keep(
        &mut self,
        loaded: &mut Loaded,
        dataplane: &mut BpfDataplane,
        devices: &Devices,
        node_addresses: &[IpAddr],
    ) -> bool {
        let mut problems = BTreeMap::new();
        let wanted = self.wanted(devices, node_addresses);
        for (&index, one) in &wanted {
            match self.ensure(loaded, dataplane, index, one.record) {
                Ok(true) => tracing::info!(
                    device = one.name,
                    index,
                    "attached to {}, which {}",
                    one.kind(),
                    one.why
                ),
                // The next look at the devices finds it gone.
                Ok(false) | Err(DeviceError::Attach(AttachError::Gone { .. })) => {}
                Err(error) => {
                    problems.insert(index, format!("device {}: {error}", one.name));
                }
            }
        }
        self.roles = wanted
            .iter()
            .map(|(&index, one)| DeviceRole {
                index,
                why: one.why.to_owned(),
            })
            .collect();
        let superfluous: BTreeSet<u32> = self
            .attachments
            .devices()
            .map(|(index, _)| index)
            .chain(self.records.keys().copied())
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

    fn wanted<'a>(
        &self,
        devices: &'a Devices,
        node_addresses: &[IpAddr],
    ) -> BTreeMap<u32, Wanted<'a>> {
        let mut wanted = BTreeMap::new();
        for (&index, device) in devices {
            let Classified { role, why } =
                classify(index, devices, node_addresses, &self.overrides);
            let record = match role {
                Role::Workload { bridge } => DeviceRecord::workload(index, bridge),
                Role::Uplink => {
                    let (v4, v6) = source_addresses(device, node_addresses);
                    DeviceRecord::uplink(index, v4.octets(), v6.octets())
                }
                Role::None => continue,
            };
            let name = device.name.as_str();
            wanted.insert(index, Wanted { name, record, why });
        }
        wanted
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
        self.attachments.detach(index)?;
        dataplane.remove_device(index)?;
        self.records.remove(&index);
        Ok(())
    }
}

impl Agent {
    /// Reads what devices there are.
    pub(super) async fn read_devices(&mut self, watcher: &Watcher) {
        self.devices_at = None;
        match watcher.read().await {
            Ok(devices) => {
                self.devices = devices;
                self.keep_devices();
                self.outside
                    .show_node_ports(&self.model, &self.settings, &self.devices);
            }
            Err(error) => {
                tracing::warn!("{error}");
                self.devices_at = Some(now() + DEVICE_RETRY);
            }
        }
    }

    /// Attaches and detaches, once the tables are complete.
    pub(super) fn keep_devices(&mut self) {
        if !self.has_synced {
            return;
        }
        let mut node = ModelObjects(&self.model).node_view();
        let rules = &self.settings.services;
        let mut own: Vec<IpAddr> = rules.node_address.into_iter().collect();
        own.extend_from_slice(node.addresses);
        node.addresses = &own;
        let dataplane = self.reconciler.dataplane_mut();
        let chosen = rules.node_ports();
        let has_addresses = self
            .addresses
            .keep(dataplane, &self.devices, &node, &chosen);
        let is_done = self
            .keeper
            .keep(&mut self.loaded, dataplane, &self.devices, &own);
        if !is_done || !has_addresses {
            self.devices_at = Some(now() + DEVICE_RETRY);
        }
        self.published.status_changed();
    }
}
