//! `NODE_ADDRESSES` and `DEVICES`, which do not follow from the objects: compared with what the agent
//! wrote there last, as a whole, since they are small.

use std::collections::BTreeMap;

use lb_common::family::MappedAddress;
use lb_common::table::device::DeviceRecord;
use lb_common::table::node_address::NodeAddress;

use crate::agent::Agent;
use crate::audit::node::{FILE_NAME, NodeTables};
use crate::audit::picture::address_of;
use crate::dataplane::inspect::Inspect;
use crate::dataplane::layout::Table;
use crate::dataplane::maps::BpfDataplane;
use crate::dataplane::{Dataplane, DataplaneError, Write};
use crate::plan::node_bit;
use crate::reconcile::audit::Found;
use crate::state_file::write_json;

/// The keys of what should be in a table and is not as it should be, and of what should not be there.
fn unequal<K: Copy + Ord, V: PartialEq>(
    written: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
) -> (Vec<K>, Vec<K>) {
    let wrong = written
        .iter()
        .filter(|(key, value)| found.get(key) != Some(value));
    let strangers = found.keys().filter(|key| !written.contains_key(key));
    (
        wrong.map(|(key, _)| *key).collect(),
        strangers.copied().collect(),
    )
}

/// Compares `NODE_ADDRESSES` and its bits of `SERVICE_FILTER` with what was written.
fn audit_addresses<D: Dataplane + Inspect>(
    dataplane: &mut D,
    written: &BTreeMap<MappedAddress, NodeAddress>,
    repairs: bool,
    found: &mut Found,
) -> Result<(), DataplaneError> {
    let (wrong, strangers) = unequal(written, &dataplane.node_addresses()?);
    let mut writes = Vec::new();
    for address in strangers {
        let text = format!("address {} is not this node's", address_of(address));
        found.add(Table::NodeAddresses, text);
        writes.push(Write::RemoveNodeAddress { address });
    }
    for (&address, &value) in written {
        let bit = node_bit(address);
        let is_marked = dataplane.service_filter(bit.word) & bit.mask != 0;
        let name = address_of(address);
        if wrong.contains(&address) {
            let text = format!("address {name} of this node is not there as it should be");
            found.add(Table::NodeAddresses, text);
        } else if value.takes_node_ports() && !is_marked {
            let text = format!("the bit of address {name} of this node is missing");
            found.add(Table::ServiceFilter, text);
        } else {
            continue;
        }
        // It sets the bit too.
        writes.push(Write::SetNodeAddress { address, value });
    }
    for write in writes.iter().filter(|_| repairs) {
        dataplane.apply(write)?;
        found.repaired += 1;
    }
    Ok(())
}

/// Compares `DEVICES` with what was written.
fn audit_devices(
    dataplane: &mut BpfDataplane,
    written: &BTreeMap<u32, DeviceRecord>,
    repairs: bool,
    found: &mut Found,
) -> Result<(), DataplaneError> {
    let (wrong, strangers) = unequal(written, &dataplane.device_records()?);
    for index in strangers {
        found.add(Table::Devices, format!("device {index} has no role"));
        if repairs {
            dataplane.remove_device(index)?;
            found.repaired += 1;
        }
    }
    for index in wrong {
        let text = format!("device {index} is not there as it should be");
        found.add(Table::Devices, text);
        if let Some(record) = written.get(&index).filter(|_| repairs) {
            dataplane.set_device(index, *record)?;
            found.repaired += 1;
        }
    }
    Ok(())
}

impl Agent {
    /// Compares the tables about the node, once devices have been looked at.
    pub(super) fn audit_node(&mut self, found: &mut Found, repairs: bool) {
        if !self.has_synced {
            return;
        }
        let dataplane = self.reconciler.dataplane_mut();
        let result = audit_addresses(dataplane, self.addresses.written(), repairs, found)
            .and_then(|()| audit_devices(dataplane, self.keeper.records(), repairs, found));
        if let Err(error) = result {
            // What was found is counted, and found again by the next pass.
            tracing::warn!("comparing the tables about this node: {error}");
        }
    }

    /// Tells commands what was made of the node, where that is news.
    pub(in crate::agent) fn write_node_tables(&mut self) {
        let tables = NodeTables::new(self.addresses.written(), self.keeper.records());
        if self.audits.node_tables.as_ref() == Some(&tables) {
            return;
        }
        let path = self.audits.state_dir.join(FILE_NAME);
        match write_json(&path, &tables) {
            Ok(()) => self.audits.node_tables = Some(tables),
            // It is tried again when devices are looked at again, every minute or so.
            Err(error) => tracing::warn!("writing {}: {error}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::Capacity;
    use crate::dataplane::memory::Memory;
    use crate::plan::endpoints::mapped;

    fn key(address: &str) -> MappedAddress {
        mapped(address.parse().unwrap())
    }

    fn written() -> BTreeMap<MappedAddress, NodeAddress> {
        let all = [("192.0.2.1", true), ("fd00::1", false)];
        let all = all.map(|(address, takes)| (key(address), takes));
        all.map(|(key, takes)| (key, NodeAddress::new(key, takes)))
            .into()
    }

    fn tables() -> Memory {
        let mut memory = Memory::new(Capacity {
            frontends: 1,
            services: 2,
            arena_words: 64,
            backends: 2,
            node_addresses: 4,
            source_ranges: 1,
        });
        for (address, value) in written() {
            let write = Write::SetNodeAddress { address, value };
            memory.apply(&write).unwrap();
        }
        memory
    }

    #[test]
    fn damage_to_the_addresses_of_the_node_is_found_and_repaired_where_that_is_asked_for() {
        type Damage = fn(&mut Memory);
        let damages: [(Table, &str, Damage); 4] = [
            (Table::NodeAddresses, "192.0.2.1 of this node", |memory| {
                memory.node_addresses.remove(&key("192.0.2.1"));
            }),
            (Table::NodeAddresses, "fd00::1 of this node", |memory| {
                let value = NodeAddress::new(key("fd00::1"), true);
                memory.node_addresses.insert(key("fd00::1"), value);
            }),
            (Table::NodeAddresses, "192.0.2.9 is not this", |memory| {
                let value = NodeAddress::new(key("192.0.2.9"), true);
                memory.node_addresses.insert(key("192.0.2.9"), value);
            }),
            (Table::ServiceFilter, "bit of address 192.0.2.1", |memory| {
                memory.service_filter.fill(0);
            }),
        ];
        for (table, text, damage) in damages {
            let mut memory = tables();
            damage(&mut memory);
            for (repairs, repaired) in [(false, 0), (true, 1)] {
                let mut found = Found::default();
                audit_addresses(&mut memory, &written(), repairs, &mut found).unwrap();
                assert_eq!(found.entries, BTreeMap::from([(table, 1)]), "{text}");
                assert!(found.examples[0].contains(text), "{:?}", found.examples);
                assert_eq!(found.repaired, repaired);
            }
            let mut found = Found::default();
            audit_addresses(&mut memory, &written(), true, &mut found).unwrap();
            assert_eq!(found, Found::default());
            assert_eq!(memory.node_addresses, tables().node_addresses);
            assert_eq!(memory.service_filter, tables().service_filter);
        }
    }
}
