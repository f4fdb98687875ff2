//! The host's routing tables in ordinary memory, as far as packets that are sent on at once ask them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use lb_common::family::Family;
use lb_common::onward::{Answer, Hop, Question, Routes, Wire};
use lb_common::table::device::DeviceRecord;

use super::MemoryTables;

/// Where a network is.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// The network's address.
    pub network: IpAddr,
    /// The length of its prefix.
    pub length: u8,
    /// Interface index of the device that leads there.
    pub device: u32,
    /// What is known of the next hop.
    pub answer: Answer,
    /// Bytes of the largest packet.
    pub mtu: u16,
}

/// All ways: the first that has an address counts.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    /// In the order in which they are asked.
    pub ways: Vec<Way>,
    /// The MAC of the device that packets are seen at; packets to others are not the host's.
    pub mac: [u8; 6],
    /// What frames have in front that leave by a device: the next hop's MAC and its own.
    pub macs: BTreeMap<u32, [u8; 12]>,
}

impl Fib {
    /// The way to an address.
    pub fn way(&self, address: IpAddr) -> Option<&Way> {
        self.ways.iter().find(|way| has(way, address))
    }

    /// What a kernel would know of the packet in `frame` that comes by `device`.
    pub fn wire(&self, device: u32, frame: &[u8]) -> Wire {
        Wire {
            device,
            segment: 0,
            is_for_host: frame.get(..6) == Some(&self.mac[..]),
            has_mark: false,
            has_tag: false,
        }
    }
}

fn has(way: &Way, address: IpAddr) -> bool {
    match (way.network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(way.length);
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(way.length);
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

impl MemoryTables {
    /// Packets are seen at this one of the other devices from now on.
    ///
    /// # Panics
    ///
    /// If there is none.
    pub fn stand_at(&mut self, index: u32) {
        self.own = index;
        self.device = self.others[&index];
    }

    /// The record of the device with interface index `index`.
    pub fn record(&self, index: u32) -> Option<DeviceRecord> {
        if index == self.own {
            return Some(self.device);
        }
        self.others.get(&index).copied()
    }
}

impl Routes for &MemoryTables {
    fn hop<F: Family>(&mut self, question: &Question<F>) -> Hop {
        let mapped = F::mapped(question.destination);
        let address = Ipv6Addr::from(mapped).to_canonical();
        let Some(way) = self.fib.way(address) else {
            return Hop::NONE;
        };
        if matches!(way.answer, Answer::Other) || question.length > way.mtu {
            return Hop::NONE;
        }
        let Some(record) = self.record(way.device) else {
            return Hop {
                answer: way.answer,
                device: way.device,
                ..Hop::NONE
            };
        };
        Hop {
            answer: way.answer,
            device: way.device,
            has_programs: true,
            is_clear: record.is_clear(),
            is_open: record.is_open(),
            role: record.role(),
        }
    }
}
