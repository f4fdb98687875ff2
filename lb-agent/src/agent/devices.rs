//! Keeps programs on the devices of workloads, and on no other.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lb_common::table::device::DeviceRecord;

use super::Agent;
use super::objects::ModelObjects;
use super::timers::now;
use crate::dataplane::DataplaneError;
use crate::dataplane::attach::{AttachError, Attachments};
use crate::dataplane::load::Loaded;
use crate::dataplane::maps::BpfDataplane;
use crate::interfaces::{Devices, Role, Watcher, classify};
use crate::settings::InterfaceOverrides;

/// How soon devices are looked at again after a failure.
const DEVICE_RETRY: Duration = Duration::from_secs(1);

/// The programs' places.
#[derive(Debug)]
pub(super) struct DeviceKeeper {
    attachments: Attachments,
    overrides: InterfaceOverrides,
    /// What `DEVICES` holds, as far as this agent wrote it.
    records: BTreeMap<u32, DeviceRecord>,
    /// Devices whose programs are not as they should be, and why.
    problems: BTreeMap<u32, String>,
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
    pub(super) const fn new(attachments: Attachments, overrides: InterfaceOverrides) -> Self {
        Self {
            attachments,
            overrides,
            records: BTreeMap::new(),
            problems: BTreeMap::new(),
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

    /// Attaches to new workloads, follows moves from bridge to bridge, forgets what is gone. False
    /// if something failed and should be tried again.
    pub(super) fn keep(
        &mut self,
        loaded: &mut Loaded,
        dataplane: &mut BpfDataplane,
        devices: &Devices,
        node_addresses: &[IpAddr],
    ) -> bool {
        let mut problems = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for (&index, device) in devices {
            if let Role::Workload { bridge } =
                classify(index, devices, node_addresses, &self.overrides)
            {
                wanted.insert(
                    index,
                    (device.name.as_str(), DeviceRecord::workload(index, bridge)),
                );
            }
        }
        for (&index, &(name, record)) in &wanted {
            match self.ensure(loaded, dataplane, index, record) {
                Ok(true) => tracing::info!(device = name, index, "attached to a workload's device"),
                // The next look at the devices finds it gone.
                Ok(false) | Err(DeviceError::Attach(AttachError::Gone { .. })) => {}
                Err(error) => {
                    problems.insert(index, format!("device {name}: {error}"));
                }
            }
        }
        let superfluous: Vec<u32> = self
            .attachments
            .devices()
            .map(|(index, _)| index)
            .chain(self.records.keys().copied())
            .filter(|index| !wanted.contains_key(index))
            .collect();
        for index in superfluous {
            match self.release(dataplane, index) {
                Ok(()) => tracing::info!(index, "detached from a device"),
                Err(error) => {
                    problems.insert(index, format!("device {index}: {error}"));
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
        if self.attachments.contains(index) {
            return Ok(false);
        }
        self.attachments.attach(loaded, index)?;
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
        let node = ModelObjects(&self.model).node_view();
        let is_done = self.keeper.keep(
            &mut self.loaded,
            self.reconciler.dataplane_mut(),
            &self.devices,
            node.addresses,
        );
        if !is_done {
            self.devices_at = Some(now() + DEVICE_RETRY);
        }
        self.published.status_changed();
    }
}
