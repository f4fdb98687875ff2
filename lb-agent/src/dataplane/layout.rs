//! What each table must look like, and the check of a pinned one before it is adopted.
//!
//! aya adopts a pin without looking at it; a map of another shape would be read as garbage.

use std::fmt;

use aya::maps::{MapInfo, MapType};
use lb_common::family::MappedAddress;
use lb_common::flows::SLOTS;
use lb_common::table::affinity::AffinityKey;
use lb_common::table::backend::BackendRecord;
use lb_common::table::config::CONFIG_WORDS;
use lb_common::table::counter::Counter;
use lb_common::table::device::DeviceRecord;
use lb_common::table::filter::{BACKEND_FILTER_WORDS, NODE_PORT_WORDS, SERVICE_FILTER_WORDS};
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::SERVICE_WORDS;
use lb_common::table::source_range::SourceRangeKey;
use lb_common::verdict::COUNTER_SLOTS;

/// The kernel tables, by the names of their maps and pins.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Table {
    /// Address, port and protocol → service index.
    Frontends,
    /// Service index → region of each audience.
    Services,
    /// Backend sets.
    Arena,
    /// Backend index → address and port.
    Backends,
    /// IPv4 connections.
    FlowsV4,
    /// IPv6 connections.
    FlowsV6,
    /// Bits of service addresses.
    ServiceFilter,
    /// Bits of backend addresses.
    BackendFilter,
    /// Ports of fragmented packets.
    Fragments,
    /// Service port and client → backend.
    Affinity,
    /// Packets and bytes by reason.
    Counters,
    /// Settings of the datapath.
    Config,
    /// Interface index → device.
    Devices,
    /// Connections opened by service.
    ServiceStats,
    /// Connections opened by backend.
    BackendStats,
    /// Bits of node ports.
    NodePorts,
    /// This node's addresses → whether they take node ports.
    NodeAddresses,
    /// Service and network → its clients may dial.
    SourceRanges,
}

/// Words of an entry of each flow table: key, translation and ids; see `lb_common::flows`.
const FLOW_ENTRY_WORDS_V4: usize = 8;
const FLOW_ENTRY_WORDS_V6: usize = 12;

impl Table {
    /// Every table.
    pub const ALL: [Self; 18] = [
        Self::Frontends,
        Self::Services,
        Self::Arena,
        Self::Backends,
        Self::FlowsV4,
        Self::FlowsV6,
        Self::ServiceFilter,
        Self::BackendFilter,
        Self::Fragments,
        Self::Affinity,
        Self::Counters,
        Self::Config,
        Self::Devices,
        Self::ServiceStats,
        Self::BackendStats,
        Self::NodePorts,
        Self::NodeAddresses,
        Self::SourceRanges,
    ];

    /// Name of the map and of its pin.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Frontends => "FRONTENDS",
            Self::Services => "SERVICES",
            Self::Arena => "ARENA",
            Self::Backends => "BACKENDS",
            Self::FlowsV4 => "FLOWS_V4",
            Self::FlowsV6 => "FLOWS_V6",
            Self::ServiceFilter => "SERVICE_FILTER",
            Self::BackendFilter => "BACKEND_FILTER",
            Self::Fragments => "FRAGMENTS",
            Self::Affinity => "AFFINITY",
            Self::Counters => "COUNTERS",
            Self::Config => "CONFIG",
            Self::Devices => "DEVICES",
            Self::ServiceStats => "SERVICE_STATS",
            Self::BackendStats => "BACKEND_STATS",
            Self::NodePorts => "NODE_PORTS",
            Self::NodeAddresses => "NODE_ADDRESSES",
            Self::SourceRanges => "SOURCE_RANGES",
        }
    }

    /// Bytes of a key.
    pub const fn key_size(self) -> usize {
        match self {
            Self::Frontends => size_of::<FrontendKey>(),
            Self::Fragments => size_of::<FragmentKey>(),
            Self::Affinity => size_of::<AffinityKey>(),
            Self::NodeAddresses => size_of::<MappedAddress>(),
            Self::SourceRanges => size_of::<SourceRangeKey>(),
            _ => size_of::<u32>(),
        }
    }

    /// Bytes of a value.
    pub const fn value_size(self) -> usize {
        const WORD: usize = size_of::<u64>();
        match self {
            Self::Frontends
            | Self::Affinity
            | Self::Arena
            | Self::ServiceFilter
            | Self::BackendFilter
            | Self::Config
            | Self::ServiceStats
            | Self::BackendStats
            | Self::NodePorts
            | Self::NodeAddresses => WORD,
            Self::SourceRanges => 1,
            Self::Services => SERVICE_WORDS * WORD,
            Self::Backends => size_of::<BackendRecord>(),
            Self::FlowsV4 => SLOTS * (1 + FLOW_ENTRY_WORDS_V4) * WORD,
            Self::FlowsV6 => SLOTS * (1 + FLOW_ENTRY_WORDS_V6) * WORD,
            Self::Fragments => size_of::<FragmentPorts>(),
            Self::Counters => size_of::<Counter>(),
            Self::Devices => size_of::<DeviceRecord>(),
        }
    }

    /// What kind of map it is.
    pub const fn kind(self) -> MapType {
        match self {
            Self::Frontends | Self::Devices | Self::NodeAddresses => MapType::Hash,
            Self::SourceRanges => MapType::LpmTrie,
            Self::Fragments | Self::Affinity => MapType::LruHash,
            Self::Counters => MapType::PerCpuArray,
            _ => MapType::Array,
        }
    }

    /// Entries of the tables whose size is no setting.
    pub const fn fixed_entries(self) -> Option<u32> {
        match self {
            Self::ServiceFilter => Some(SERVICE_FILTER_WORDS),
            Self::BackendFilter => Some(BACKEND_FILTER_WORDS),
            Self::NodePorts => Some(NODE_PORT_WORDS),
            Self::Counters => Some(COUNTER_SLOTS),
            Self::Config => Some(CONFIG_WORDS),
            _ => None,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// What two maps must agree in to be exchanged for one another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Shape {
    /// `bpf_map_type`.
    pub map_type: u32,
    /// Bytes.
    pub key_size: u32,
    /// Bytes.
    pub value_size: u32,
    /// Most entries it can hold.
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
}

impl Shape {
    /// The shape of a map in the kernel.
    pub fn of(info: &MapInfo) -> Result<Self, aya::maps::MapError> {
        Ok(Self {
            map_type: info.map_type()? as u32,
            key_size: info.key_size(),
            value_size: info.value_size(),
            max_entries: info.max_entries(),
            flags: info.map_flags(),
        })
    }

    /// The first property in which the pinned map differs from the one that is needed.
    pub fn difference(&self, needed: &Self) -> Option<Difference> {
        let properties = [
            (Property::Type, self.map_type, needed.map_type),
            (Property::KeySize, self.key_size, needed.key_size),
            (Property::ValueSize, self.value_size, needed.value_size),
            (Property::MaxEntries, self.max_entries, needed.max_entries),
            (Property::Flags, self.flags, needed.flags),
        ];
        properties
            .into_iter()
            .find(|(_, pinned, needed)| pinned != needed)
            .map(|(property, pinned, needed)| Difference {
                property,
                pinned,
                needed,
            })
    }
}

/// A property of a map.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Property {
    /// Type.
    Type,
    /// Bytes of a key.
    KeySize,
    /// Bytes of a value.
    ValueSize,
    /// Most entries.
    MaxEntries,
    /// Flags.
    Flags,
}

impl fmt::Display for Property {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Type => "type",
            Self::KeySize => "key size",
            Self::ValueSize => "value size",
            Self::MaxEntries => "size",
            Self::Flags => "flags",
        })
    }
}

/// How a pinned map differs from the one that is needed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Difference {
    /// In what.
    pub property: Property,
    /// The pinned map's value.
    pub pinned: u32,
    /// The value this version or these settings need.
    pub needed: u32,
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} {}, needed {}",
            self.property, self.pinned, self.needed
        )?;
        if self.property == Property::MaxEntries {
            formatter.write_str(": set the size back")
        } else {
            formatter.write_str(": it was made by another version")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        map_type: 2,
        key_size: 4,
        value_size: 576,
        max_entries: 1024,
        flags: 1024,
    };

    #[test]
    fn equal_shapes_have_no_difference() {
        assert_eq!(SHAPE.difference(&SHAPE), None);
    }

    #[test]
    fn a_difference_names_the_property_and_both_values() {
        let check = |pinned: Shape, expected: &str| {
            let difference = pinned.difference(&SHAPE).unwrap().to_string();
            assert_eq!(difference, expected);
        };
        check(
            Shape {
                max_entries: 512,
                ..SHAPE
            },
            "size 512, needed 1024: set the size back",
        );
        check(
            Shape {
                value_size: 8,
                ..SHAPE
            },
            "value size 8, needed 576: it was made by another version",
        );
        check(
            Shape {
                map_type: 1,
                flags: 0,
                ..SHAPE
            },
            "type 1, needed 2: it was made by another version",
        );
    }

    #[test]
    fn flow_buckets_have_the_sizes_of_the_drawing() {
        assert_eq!(Table::FlowsV4.value_size(), 576);
        assert_eq!(Table::FlowsV6.value_size(), 832);
    }

    #[test]
    fn names_fit_into_the_kernel() {
        for table in Table::ALL {
            assert!(table.name().len() <= 15, "{table}");
        }
    }
}
