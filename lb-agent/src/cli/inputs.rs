//! What commands are made of: the pinned maps and the agent's two files, read once.
//!
//! Nothing here asks a living agent, so that every command works when it is dead. The views
//! (`view/*`) are computed from these values and nothing else, which is what their tests do.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use lb_common::flow::Protocol;
use lb_common::id::{BackendId, ServiceId};
use lb_common::table::backend::BackendRecord;
use lb_common::table::counter::Counter;
use lb_common::table::device::Role;
use lb_common::table::region::RegionHeader;
use lb_common::table::service::{Audience, ServiceWord};
use lb_common::verdict::Reason;

use super::error::CliError;
use crate::dataplane::Actual;
use crate::plan::names::Names;

/// Where a command's data comes from.
pub trait Reader {
    /// The tables without the flows.
    fn tables(&self) -> Result<Actual, CliError>;
    /// The agent's names; empty ones where it left none.
    fn names(&self) -> Result<Names, CliError>;
    /// Packets and bytes by reason, all processors together.
    fn counters(&self) -> Result<Vec<(Reason, Counter)>, CliError>;
    /// Connections opened since the tables were made.
    fn connections(&self) -> Result<Connections, CliError>;
    /// Every entry of the flow tables.
    fn flows(&self) -> Result<Vec<FlowInput>, CliError>;
    /// Frees the entries of every flow that `choose` chooses by its entry, and their partners;
    /// returns how many flows that were.
    fn flush(&self, choose: &dyn Fn(&FlowInput) -> bool) -> Result<u64, CliError>;
    /// The devices that programs are attached to.
    fn devices(&self) -> Result<Vec<DeviceInput>, CliError>;
    /// Every pinned map.
    fn maps(&self) -> Result<Vec<MapInput>, CliError>;
}

/// Connections opened, by index.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Connections {
    /// By index of the service.
    pub services: BTreeMap<u32, u64>,
    /// By index of the backend.
    pub backends: BTreeMap<u32, u64>,
}

/// One entry of a flow table.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FlowInput {
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether packets from the client find it; else it is the partner that replies find.
    pub is_original: bool,
    /// Whether it is found where the device hands packets to this host.
    pub is_ingress: bool,
    /// Source of the packets as they arrive.
    pub source: SocketAddr,
    /// Destination of the packets as they arrive.
    pub destination: SocketAddr,
    /// Source of the packets as they leave.
    pub translated_source: SocketAddr,
    /// Destination of the packets as they leave.
    pub translated_destination: SocketAddr,
    /// State, in snake case.
    pub state: &'static str,
    /// Whether a reply was seen.
    pub is_confirmed: bool,
    /// Time since the last packet, to the second.
    pub idle: Duration,
    /// Time until the entry is free to others unless a packet comes; zero where it already is.
    pub expires_in: Duration,
    /// The service port.
    pub service: ServiceId,
    /// The backend.
    pub backend: BackendId,
}

/// A device with programs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DeviceInput {
    /// Interface index.
    pub index: u32,
    /// The device's name; `None` once it is gone.
    pub name: Option<String>,
    /// What it leads to; `None` where `DEVICES` does not know it.
    pub role: Option<Role>,
    /// Why it has that role, as far as the agent has said.
    pub why: Option<String>,
    /// The addresses by which flows leave it that must come back to this node.
    pub sources: Vec<IpAddr>,
    /// The bridge it is a port of, by name, or by index where that is gone.
    pub bridge: Option<String>,
    /// Whether a link for packets to this host is pinned.
    pub has_ingress: bool,
    /// Whether a link for packets to the device is pinned.
    pub has_egress: bool,
}

/// A pinned map.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MapInput {
    /// Its name.
    pub name: String,
    /// The kernel's word for its type.
    pub kind: String,
    /// Entries in use; `None` where counting them has no meaning.
    pub used: Option<u64>,
    /// Entries it can hold.
    pub capacity: u64,
    /// Memory it takes, in bytes, by the kernel's own accounting.
    pub memory_bytes: u64,
    /// Where it is pinned.
    pub pin: PathBuf,
}

/// A region of `ARENA` taken apart.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Region {
    /// Its header.
    pub header: RegionHeader,
    /// Its backends, in the order of slots' numbers.
    pub backends: Vec<BackendId>,
    /// Its Maglev slots: positions in `backends`.
    pub slots: Vec<u16>,
}

impl Region {
    /// Takes `words` apart; `None` if they end before the header says.
    #[must_use]
    pub fn decode(words: &[u64]) -> Option<Self> {
        let header = RegionHeader::decode([*words.first()?, *words.get(1)?]);
        let word = |index: u32| words.get(usize::try_from(index).ok()?).copied();
        let mut backends = Vec::with_capacity(header.count.into());
        for position in 0..header.count {
            let (index, is_upper) = RegionHeader::id_word(position);
            let both = word(index)?;
            backends.push(BackendId::from_raw(if is_upper {
                lb_common::hash::upper(both)
            } else {
                lb_common::hash::lower(both)
            }));
        }
        let mut slots = Vec::new();
        for slot in 0..header.table_size {
            let (index, shift) = header.slot_word(slot);
            slots.push(u16::try_from(word(index)? >> shift & 0xffff).ok()?);
        }
        Some(Self {
            header,
            backends,
            slots,
        })
    }

    /// Slots by position of the backend. A set of one needs no table: all of it is its own.
    #[must_use]
    pub fn slots_by_backend(&self) -> Vec<u32> {
        let mut counts = vec![0; self.backends.len()];
        for &slot in &self.slots {
            if let Some(count) = counts.get_mut(usize::from(slot)) {
                *count += 1;
            }
        }
        if let ([only], true) = (counts.as_mut_slice(), self.slots.is_empty()) {
            *only = 1;
        }
        counts
    }
}

/// The region that the service at `index` sends `audience` to; `None` where there is no such
/// service.
#[must_use]
pub fn region_of(tables: &Actual, index: u32, audience: Audience) -> Option<Region> {
    let words = tables.services.get(&index)?;
    let word: &ServiceWord = words.get(audience.position())?;
    Region::decode(tables.regions.get(&word.offset())?)
}

/// The record of `id`, if the index is still its own.
#[must_use]
pub fn backend_of(tables: &Actual, id: BackendId) -> Option<&BackendRecord> {
    tables
        .backends
        .get(&id.index())
        .filter(|record| record.is(id))
}

/// The address that `mapped` is the table form of.
#[must_use]
pub fn address_of(mapped: lb_common::family::MappedAddress) -> IpAddr {
    std::net::Ipv6Addr::from(mapped).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::table::region::{HEADER_WORDS, WhenEmpty};

    #[test]
    fn a_region_is_read_as_the_kernel_reads_it() {
        let header = RegionHeader {
            count: 3,
            table_size: 7,
            affinity_seconds: 0,
            when_empty: WhenEmpty::Refuse,
        };
        let mut words = vec![0_u64; usize::try_from(header.words()).unwrap()];
        words[..2].copy_from_slice(&header.encode());
        words[usize::try_from(HEADER_WORDS).unwrap()] = 0x16_0000_000b;
        words[5] = 33;
        words[6] = 0x0002_0001_0000_0002;
        words[7] = 0x0000_0000_0001;
        let region = Region::decode(&words).unwrap();
        assert_eq!(
            region.backends,
            [11, 22, 33].map(BackendId::from_raw).to_vec()
        );
        assert_eq!(region.slots, [2, 0, 1, 2, 1, 0, 0]);
        assert_eq!(region.slots_by_backend(), [3, 2, 2]);
        assert_eq!(Region::decode(&words[..7]), None);
        assert_eq!(Region::decode(&[]), None);
    }

    #[test]
    fn the_only_backend_has_all_of_the_share() {
        let region = Region {
            header: RegionHeader::default(),
            backends: vec![BackendId::from_raw(4)],
            slots: Vec::new(),
        };
        assert_eq!(region.slots_by_backend(), [1]);
    }
}
