//! The tables about the node itself, `NODE_ADDRESSES` and `DEVICES`: what the machine has, what the
//! agent says it has made of that, and what the kernel has.
//!
//! The machine says which addresses and devices there are. Which of them take node ports and which
//! role a device has is the agent's to judge, from what was and from its settings: there its word
//! counts as what is asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::family::MappedAddress;
use lb_common::table::device::DeviceRecord;
use lb_common::table::filter::FilterBit;
use lb_common::table::node_address::NodeAddress;
use serde::{Deserialize, Serialize};

use super::compare::Three;
use super::difference::Difference;
use super::picture::address_of;
use super::words::{device_text, node_address_text};
use crate::agent::node_addresses::local;
use crate::dataplane::layout::Table;
use crate::interfaces::Devices;
use crate::plan::endpoints::mapped;
use crate::plan::node_bit;

#[cfg(test)]
mod tests;

/// Name of the file in the state directory.
pub const FILE_NAME: &str = "node.json";
/// Version of the shape: raised by any change that an older command would misread.
pub const VERSION: u32 = 1;

/// What the agent has made of the node: written for `steerage verify` whenever it changes.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeTables {
    /// [`VERSION`].
    pub version: u32,
    /// The entries of `NODE_ADDRESSES`, and whether each takes node ports.
    addresses: BTreeMap<IpAddr, bool>,
    /// The records of `DEVICES` in words, by interface index.
    devices: BTreeMap<u32, String>,
}

impl NodeTables {
    /// What these tables say.
    pub fn new(
        addresses: &BTreeMap<MappedAddress, NodeAddress>,
        devices: &BTreeMap<u32, DeviceRecord>,
    ) -> Self {
        let addresses = addresses.iter();
        let devices = devices.iter();
        Self {
            version: VERSION,
            addresses: addresses
                .map(|(address, value)| (address_of(*address), value.takes_node_ports()))
                .collect(),
            devices: devices
                .map(|(&index, record)| (index, device_text(index, record)))
                .collect(),
        }
    }

    fn address(&self, address: IpAddr) -> Option<String> {
        let takes_node_ports = *self.addresses.get(&address)?;
        let key = mapped(address);
        let value = NodeAddress::new(key, takes_node_ports);
        Some(node_address_text(key, value))
    }
}

/// The node as each side has it.
#[derive(Clone, Copy, Debug)]
pub struct NodeSides<'a> {
    /// The devices of the machine.
    pub machine: &'a Devices,
    /// What the agent says; `None` without a living agent.
    pub agent: Option<&'a NodeTables>,
    /// `NODE_ADDRESSES`.
    pub addresses: &'a BTreeMap<MappedAddress, NodeAddress>,
    /// `DEVICES`.
    pub devices: &'a BTreeMap<u32, DeviceRecord>,
    /// The words of `SERVICE_FILTER`.
    pub service_filter: &'a [u64],
}

impl NodeSides<'_> {
    /// Everything that differs, by table and place.
    pub fn compare(self) -> Vec<Difference> {
        let mut all = self.address_differences();
        all.extend(self.unmarked());
        all.extend(self.device_differences());
        all.sort();
        all
    }

    fn address_differences(self) -> Vec<Difference> {
        let local: BTreeSet<IpAddr> = local(self.machine).into_iter().collect();
        let mut all = local.clone();
        all.extend(self.agent.iter().flat_map(|agent| agent.addresses.keys()));
        all.extend(self.addresses.keys().map(|it| address_of(*it)));
        let all = all.into_iter().filter_map(|address| {
            let key = mapped(address);
            let kernel = self.addresses.get(&key);
            let kernel = kernel.map(|value| node_address_text(key, *value));
            let said = self.agent.map(|agent| agent.address(address));
            let known = said.clone().flatten().or_else(|| kernel.clone());
            let plain = || node_address_text(key, NodeAddress::new(key, false));
            let sides = Three {
                source: local
                    .contains(&address)
                    .then(|| known.unwrap_or_else(plain)),
                agent: said,
                kernel,
            };
            sides.difference(Table::NodeAddresses, address.to_string(), None)
        });
        all.collect()
    }

    /// Addresses that take node ports by the table, and that the filter knows nothing of.
    fn unmarked(self) -> Vec<Difference> {
        let taking = self
            .addresses
            .iter()
            .filter(|(_, it)| it.takes_node_ports());
        let missing = taking.filter(|(address, _)| {
            let FilterBit { word, mask } = node_bit(**address);
            let word = self.service_filter.get(word as usize).copied();
            word.unwrap_or(0) & mask == 0
        });
        let marked = || Some("marked".to_owned());
        missing
            .filter_map(|(address, _)| {
                Three {
                    source: marked(),
                    agent: self.agent.map(|_| marked()),
                    kernel: None,
                }
                .difference(
                    Table::ServiceFilter,
                    format!("{} as a node's", address_of(*address)),
                    None,
                )
            })
            .collect()
    }

    /// Without an agent nobody can say what a device should be.
    fn device_differences(self) -> Vec<Difference> {
        let Some(agent) = self.agent else {
            return Vec::new();
        };
        let indices = agent.devices.keys().chain(self.devices.keys());
        let indices: BTreeSet<u32> = indices.copied().collect();
        let all = indices.into_iter().filter_map(|index| {
            let said = agent.devices.get(&index).cloned();
            let device = self.machine.get(&index);
            let about = device.map_or_else(|| format!("#{index}"), |device| device.name.clone());
            let kernel = self.devices.get(&index);
            Three {
                source: said.clone().filter(|_| device.is_some()),
                agent: Some(said),
                kernel: kernel.map(|record| device_text(index, record)),
            }
            .difference(Table::Devices, about, None)
        });
        all.collect()
    }
}
