//! Damage to the tables about the node, in the words of the operator.

use super::*;
use crate::audit::difference::Behind;
use crate::interfaces::Device;

struct Tested {
    machine: Devices,
    agent: NodeTables,
    addresses: BTreeMap<MappedAddress, NodeAddress>,
    devices: BTreeMap<u32, DeviceRecord>,
    service_filter: Vec<u64>,
}

fn key(address: &str) -> MappedAddress {
    mapped(address.parse().unwrap())
}

/// A node of two addresses, one of which takes node ports, with an uplink and a workload's device.
fn node() -> Tested {
    let device = |index, name: &str, addresses: &[&str]| {
        let device = Device {
            index,
            name: name.to_owned(),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            ..Device::default()
        };
        (index, device)
    };
    let machine = Devices::from([
        device(1, "lo", &["127.0.0.1", "::1"]),
        device(2, "eth0", &["192.0.2.1", "fd00::1"]),
        device(3, "veth1", &[]),
    ]);
    let value = |address, takes| (key(address), NodeAddress::new(key(address), takes));
    let addresses = BTreeMap::from([value("192.0.2.1", true), value("fd00::1", false)]);
    let devices = BTreeMap::from([
        (2, DeviceRecord::uplink(2, [192, 0, 2, 1], [0; 16])),
        (3, DeviceRecord::workload(3, 0)),
    ]);
    let mut service_filter = vec![0; lb_common::table::filter::SERVICE_FILTER_WORDS as usize];
    let bit = node_bit(key("192.0.2.1"));
    service_filter[bit.word as usize] |= bit.mask;
    Tested {
        agent: NodeTables::new(&addresses, &devices),
        machine,
        addresses,
        devices,
        service_filter,
    }
}

impl Tested {
    fn differences(&self, is_alive: bool) -> Vec<(Table, String, Behind)> {
        let sides = NodeSides {
            machine: &self.machine,
            agent: is_alive.then_some(&self.agent),
            addresses: &self.addresses,
            devices: &self.devices,
            service_filter: &self.service_filter,
        };
        let found = sides.compare().into_iter();
        found.map(|it| (it.table, it.about, it.behind)).collect()
    }
}

#[test]
fn a_node_whose_tables_are_right_differs_in_nothing() {
    assert_eq!(node().differences(true), []);
    assert_eq!(node().differences(false), []);
}

#[test]
fn what_was_done_to_the_tables_is_the_kernels_to_answer_for() {
    type Damage = fn(&mut Tested);
    let damages: [(Table, &str, Damage); 7] = [
        (Table::NodeAddresses, "192.0.2.1", |node| {
            node.addresses.remove(&key("192.0.2.1"));
        }),
        (Table::NodeAddresses, "fd00::1", |node| {
            let value = NodeAddress::new(key("fd00::2"), false);
            node.addresses.insert(key("fd00::1"), value);
        }),
        (Table::NodeAddresses, "192.0.2.9", |node| {
            let value = NodeAddress::new(key("192.0.2.9"), false);
            node.addresses.insert(key("192.0.2.9"), value);
        }),
        (Table::ServiceFilter, "192.0.2.1 as a node's", |node| {
            node.service_filter.fill(0);
        }),
        (Table::Devices, "veth1", |node| {
            node.devices.remove(&3);
        }),
        (Table::Devices, "eth0", |node| {
            let record = DeviceRecord::uplink(3, [192, 0, 2, 1], [0; 16]);
            node.devices.insert(2, record);
        }),
        (Table::Devices, "#9", |node| {
            node.devices.insert(9, DeviceRecord::workload(9, 0));
        }),
    ];
    for (table, about, damage) in damages {
        let mut node = node();
        damage(&mut node);
        let expected = [(table, about.to_owned(), Behind::Kernel)];
        assert_eq!(node.differences(true), expected);
    }
}

#[test]
fn an_address_that_came_or_went_is_the_agents_and_without_one_the_tables() {
    let mut moved = node();
    let eth0 = moved.machine.get_mut(&2).unwrap();
    eth0.addresses = vec!["192.0.2.1".parse().unwrap(), "192.0.2.7".parse().unwrap()];
    let expected = |behind| {
        ["192.0.2.7", "fd00::1"].map(|about| (Table::NodeAddresses, about.to_owned(), behind))
    };
    assert_eq!(moved.differences(true), expected(Behind::Agent));
    assert_eq!(moved.differences(false), expected(Behind::Tables));
}

#[test]
fn what_is_written_of_the_node_is_read_again() {
    let NodeTables { version, .. } = node().agent;
    assert_eq!(version, VERSION);
    let text = serde_json::to_string(&node().agent).unwrap();
    let read: NodeTables = serde_json::from_str(&text).unwrap();
    assert_eq!(read, node().agent);
}
