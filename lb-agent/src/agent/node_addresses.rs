//! Keeps `NODE_ADDRESSES` equal to the addresses of the devices, and marks those that take node ports.
//! Knows which ones are gone.

mod lost;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use lb_common::family::MappedAddress;
use lb_common::table::node_address::NodeAddress;

use crate::dataplane::{Dataplane, DataplaneError, Write};
use crate::interfaces::Devices;
use crate::plan::node_ports::table;
use lost::LostAddresses;

/// What `NODE_ADDRESSES` holds, and why it does not hold what it should.
#[derive(Debug)]
pub(super) struct NodeAddressKeeper {
    written: BTreeMap<MappedAddress, NodeAddress>,
    lost: LostAddresses,
    problem: Option<String>,
}

impl NodeAddressKeeper {
    /// Begins with what an earlier agent wrote.
    pub(super) fn new(written: BTreeMap<MappedAddress, NodeAddress>) -> Self {
        Self {
            written,
            lost: LostAddresses::default(),
            problem: None,
        }
    }

    /// What was written to `NODE_ADDRESSES`.
    pub(super) const fn written(&self) -> &BTreeMap<MappedAddress, NodeAddress> {
        &self.written
    }

    /// Why the table is not as it should be.
    pub(super) const fn problem(&self) -> Option<&String> {
        self.problem.as_ref()
    }

    /// Writes what differs. What is gone comes first, so that a full table has room for what is new;
    /// an address that moves to another device is not gone. `chosen` take node ports. False if something failed and should be
    /// tried again.
    pub(super) fn keep(
        &mut self,
        dataplane: &mut impl Dataplane,
        devices: &Devices,
        chosen: &BTreeSet<IpAddr>,
        now: Instant,
    ) -> bool {
        let wanted = table(local(devices), chosen).collect();
        let problem = self.write(dataplane, &wanted, now).err();
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
        now: Instant,
    ) -> Result<(), DataplaneError> {
        let gone = self.written.keys().filter(|it| !wanted.contains_key(*it));
        for address in gone.copied().collect::<Vec<_>>() {
            dataplane.apply(&Write::RemoveNodeAddress { address })?;
            self.written.remove(&address);
            self.lost.lose(address, now);
        }
        for (&address, &value) in wanted {
            self.lost.find(&address);
            if self.written.get(&address) != Some(&value) {
                dataplane.apply(&Write::SetNodeAddress { address, value })?;
                self.written.insert(address, value);
            }
        }
        Ok(())
    }

    /// The addresses that are gone for good: flows that leave with one of them are to end.
    pub(super) fn gone(&self, now: Instant) -> impl Iterator<Item = MappedAddress> {
        self.lost.gone(now)
    }

    /// A walk through the flow tables has ended so many flows of each of them.
    pub(super) fn walked(&mut self, ended: &BTreeMap<MappedAddress, u64>) {
        for (&address, flows) in ended.iter().filter(|(_, flows)| **flows > 0) {
            let address = Ipv6Addr::from(address).to_canonical();
            tracing::warn!(
                flows,
                %address,
                "flows left with an address that this node no longer has: they were ended, and their next packets get another one"
            );
        }
        self.lost.walked(ended);
    }
}

/// Where kube-proxy's IPVS mode kept the addresses of Services, and leaves them behind: they are not this
/// node's.
const IPVS_DEVICE: &str = "kube-ipvs0";

/// The addresses of this node's devices, without loopback addresses.
pub(crate) fn local(devices: &Devices) -> Vec<IpAddr> {
    let devices = devices.values().filter(|it| it.name != IPVS_DEVICE);
    let addresses = devices.flat_map(|device| &device.addresses);
    let addresses = addresses.copied();
    addresses.filter(|address| !address.is_loopback()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::dataplane::Capacity;
    use crate::dataplane::memory::Memory;
    use crate::interfaces::{Device, GRACE};
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
                let address = Ipv6Addr::from(*key).to_canonical();
                (address.to_string(), value.takes_node_ports())
            })
            .collect()
    }

    fn keep(keeper: &mut NodeAddressKeeper, memory: &mut Memory, addresses: &[&str]) -> bool {
        let chosen = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        keeper.keep(memory, &devices(addresses), &chosen, clock::instant())
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
    fn an_address_is_gone_when_the_table_has_lost_it_and_until_it_is_back() {
        let mut memory = Memory::new(ROOM);
        let mut keeper = NodeAddressKeeper::new(BTreeMap::new());
        assert!(keep(&mut keeper, &mut memory, &["192.0.2.1", "192.0.2.7"]));
        assert!(keep(&mut keeper, &mut memory, &["192.0.2.7"]));
        let later = clock::instant() + GRACE;
        let gone = |keeper: &NodeAddressKeeper| keeper.gone(later).collect::<Vec<_>>();
        assert_eq!(gone(&keeper), [mapped("192.0.2.1".parse().unwrap())]);
        assert!(keep(&mut keeper, &mut memory, &["192.0.2.1", "192.0.2.7"]));
        assert_eq!(gone(&keeper), [] as [MappedAddress; 0]);
    }

    #[test]
    fn what_ipvs_left_behind_and_loopback_addresses_are_not_the_nodes() {
        let mut all = devices(&["192.0.2.1", "::1"]);
        let mut left = devices(&["10.96.0.1"]).remove(&1).unwrap();
        left.name = IPVS_DEVICE.into();
        all.insert(2, left);
        assert_eq!(local(&all), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
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
