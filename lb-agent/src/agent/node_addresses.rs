//! Keeps `NODE_ADDRESSES` equal to the addresses of the devices, and marks those that take node ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::family::MappedAddress;
use lb_common::table::node_address::NodeAddress;

use crate::dataplane::{Dataplane, DataplaneError, Write};
use crate::interfaces::Devices;
use crate::plan::NodeView;
use crate::plan::node_ports::{NodePortAddresses, table};

/// What `NODE_ADDRESSES` holds, and why it does not hold what it should.
#[derive(Debug)]
pub(super) struct NodeAddressKeeper {
    written: BTreeMap<MappedAddress, NodeAddress>,
    problem: Option<String>,
}

impl NodeAddressKeeper {
    /// Begins with what an earlier agent wrote.
    pub(super) const fn new(written: BTreeMap<MappedAddress, NodeAddress>) -> Self {
        Self {
            written,
            problem: None,
        }
    }

    /// Why the table is not as it should be.
    pub(super) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Writes what differs. What is gone comes first, so that a full table has room for what is new;
    /// an address that moves to another device is not gone. False if something failed and should be
    /// tried again.
    pub(super) fn keep(
        &mut self,
        dataplane: &mut impl Dataplane,
        devices: &Devices,
        node: &NodeView<'_>,
        chosen: &NodePortAddresses,
    ) -> bool {
        let wanted = wanted(devices, node, chosen);
        let problem = self.write(dataplane, &wanted).err();
        let problem = problem.map(|error| error.to_string());
        if let Some(problem) = &problem
            && self.problem.as_ref() != Some(problem)
        {
            tracing::warn!("{problem}");
        }
        self.problem = problem;
        self.problem.is_none()
    }

    fn write(
        &mut self,
        dataplane: &mut impl Dataplane,
        wanted: &BTreeMap<MappedAddress, NodeAddress>,
    ) -> Result<(), DataplaneError> {
        let gone = self.written.keys().filter(|it| !wanted.contains_key(*it));
        for address in gone.copied().collect::<Vec<_>>() {
            dataplane.apply(&Write::RemoveNodeAddress { address })?;
            self.written.remove(&address);
        }
        for (&address, &value) in wanted {
            if self.written.get(&address) != Some(&value) {
                dataplane.apply(&Write::SetNodeAddress { address, value })?;
                self.written.insert(address, value);
            }
        }
        Ok(())
    }
}

/// The table for these devices.
fn wanted(
    devices: &Devices,
    node: &NodeView<'_>,
    chosen: &NodePortAddresses,
) -> BTreeMap<MappedAddress, NodeAddress> {
    let addresses = devices.values().flat_map(|device| &device.addresses);
    let local: Vec<IpAddr> = addresses
        .copied()
        .filter(|address| !address.is_loopback())
        .collect();
    let chosen = chosen.select(node, local.iter().copied());
    table(local, &chosen).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Capacity;
    use crate::dataplane::memory::Memory;
    use crate::interfaces::Device;
    use crate::plan::endpoints::mapped;

    const ROOM: Capacity = Capacity {
        frontends: 1,
        services: 2,
        arena_words: 64,
        backends: 2,
        node_addresses: 3,
        source_ranges: 1,
    };

    fn devices(addresses: &[&str]) -> Devices {
        let device = Device {
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            ..Device::default()
        };
        Devices::from([(1, device)])
    }

    /// What the table has, with whether it takes node ports.
    fn held(memory: &Memory) -> Vec<(String, bool)> {
        let entries = memory.node_addresses.iter();
        entries
            .map(|(key, value)| {
                assert!(value.belongs_to(*key));
                let address = std::net::Ipv6Addr::from(*key).to_canonical();
                (address.to_string(), value.takes_node_ports())
            })
            .collect()
    }

    fn keep(keeper: &mut NodeAddressKeeper, memory: &mut Memory, addresses: &[&str]) -> bool {
        let of_node = ["192.0.2.1".parse().unwrap()];
        let node = NodeView {
            addresses: &of_node,
            ..NodeView::default()
        };
        keeper.keep(
            memory,
            &devices(addresses),
            &node,
            &NodePortAddresses::default(),
        )
    }

    #[test]
    fn the_table_follows_the_addresses_and_forgets_those_that_go() {
        let mut memory = Memory::new(ROOM);
        let mut keeper = NodeAddressKeeper::new(BTreeMap::new());
        assert!(keep(&mut keeper, &mut memory, &["192.0.2.1", "127.0.0.1"]));
        assert_eq!(held(&memory), [("192.0.2.1".into(), true)]);
        assert!(keep(&mut keeper, &mut memory, &["192.0.2.7"]));
        assert_eq!(held(&memory), [("192.0.2.7".into(), false)]);
    }

    #[test]
    fn what_an_earlier_agent_wrote_is_taken_over_and_removed_where_it_is_gone() {
        let mut memory = Memory::new(ROOM);
        let old = mapped("192.0.2.9".parse().unwrap());
        let value = NodeAddress::new(old, false);
        memory.node_addresses.insert(old, value);
        let mut keeper = NodeAddressKeeper::new(memory.node_addresses.clone());
        assert!(keep(&mut keeper, &mut memory, &["192.0.2.1"]));
        assert_eq!(held(&memory), [("192.0.2.1".into(), true)]);
    }

    #[test]
    fn a_table_without_room_is_named_and_completed_once_there_is_some() {
        let mut memory = Memory::new(ROOM);
        let mut keeper = NodeAddressKeeper::new(BTreeMap::new());
        let many = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"];
        assert!(!keep(&mut keeper, &mut memory, &many));
        let problem = keeper.problem().unwrap();
        assert!(problem.contains("NODE_ADDRESSES"), "{problem}");
        // What is new finds the room of what is gone.
        assert!(keep(&mut keeper, &mut memory, &many[1..]));
        assert_eq!(keeper.problem(), None);
        assert_eq!(memory.node_addresses.len(), 3);
    }
}
