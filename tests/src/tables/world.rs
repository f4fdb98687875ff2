//! What tables are made from: services, networks, and the node that they are on.

use std::net::{IpAddr, SocketAddr};

use lb_common::flow::Protocol;
use lb_common::id::BackendId;
use lb_common::maglev::{self, Cursor, Member};
use lb_common::table::device::DeviceRecord;
use lb_common::table::frontend::{FrontendKey, FrontendKind};
use lb_common::table::region::{HEADER_WORDS, RegionHeader, WhenEmpty};

use super::{DEVICE, FLOW_BUCKETS, index, mapped};

/// Backends with their weights.
pub(super) type Backends = Vec<(SocketAddr, u16)>;

/// One port of a service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    pub(super) address: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) when_empty: WhenEmpty,
    pub(super) affinity_seconds: u32,
    pub(super) backends: Backends,
    pub(super) others: Vec<(FrontendKey, FrontendKind)>,
    pub(super) ranges: Option<Vec<(IpAddr, u8)>>,
    /// Who serves clients from outside at other than the cluster address, if not `backends`; where it
    /// is nobody, they are dropped.
    pub(super) external: Option<Backends>,
}

impl ServicePort {
    /// A port without backends, whose clients are refused.
    pub const fn new(address: SocketAddr, protocol: Protocol) -> Self {
        Self {
            address,
            protocol,
            when_empty: WhenEmpty::Refuse,
            affinity_seconds: 0,
            backends: Vec::new(),
            others: Vec::new(),
            ranges: None,
            external: None,
        }
    }

    /// Adds a backend with a weight.
    #[must_use]
    pub fn backend(mut self, address: SocketAddr, weight: u16) -> Self {
        self.backends.push((address, weight));
        self
    }

    /// Keeps a client at its backend for so long after its last connection.
    #[must_use]
    pub const fn affinity(mut self, seconds: u32) -> Self {
        self.affinity_seconds = seconds;
        self
    }

    /// Drops what comes while there is no backend.
    #[must_use]
    pub const fn drop_when_empty(mut self) -> Self {
        self.when_empty = WhenEmpty::Drop;
        self
    }

    /// Serves at another address too.
    #[must_use]
    pub fn also(mut self, address: SocketAddr, kind: FrontendKind) -> Self {
        let key = FrontendKey::new(mapped(address.ip()), address.port(), self.protocol);
        self.others.push((key, kind));
        self
    }

    /// Serves at the node's addresses too.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        let key = FrontendKey::node_port(self.address.is_ipv6(), port, self.protocol);
        self.others.push((key, FrontendKind::NodePort));
        self
    }

    /// Lets only clients of these networks dial load balancer addresses.
    #[must_use]
    pub fn ranges(mut self, ranges: Vec<(IpAddr, u8)>) -> Self {
        self.ranges = Some(ranges);
        self
    }

    /// Serves clients from outside by these only.
    #[must_use]
    pub fn external_backends(mut self, backends: Backends) -> Self {
        self.external = Some(backends);
        self
    }

    /// The set for clients from outside, as a port of its own.
    pub(super) fn outside(&self) -> Option<Self> {
        self.external.clone().map(|backends| Self {
            when_empty: WhenEmpty::Drop,
            backends,
            ..self.clone()
        })
    }
}

/// What the tables are made from.
#[derive(Clone, Debug)]
pub struct World {
    pub(super) ports: Vec<ServicePort>,
    pub(super) cidrs: Vec<(IpAddr, u8)>,
    pub(super) cluster_cidrs: Vec<(IpAddr, u8)>,
    pub(super) node_addresses: Vec<(IpAddr, bool)>,
    pub(super) sources: Vec<IpAddr>,
    pub(super) buckets: u32,
}

impl Default for World {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            cidrs: Vec::new(),
            cluster_cidrs: Vec::new(),
            node_addresses: Vec::new(),
            sources: Vec::new(),
            buckets: FLOW_BUCKETS,
        }
    }
}

impl World {
    /// Adds a port of a service.
    #[must_use]
    pub fn port(mut self, port: ServicePort) -> Self {
        self.ports.push(port);
        self
    }

    /// Adds a service CIDR.
    #[must_use]
    pub fn cidr(mut self, address: IpAddr, prefix: u8) -> Self {
        self.cidrs.push((address, prefix));
        self
    }

    /// Adds a cluster CIDR.
    #[must_use]
    pub fn cluster_cidr(mut self, address: IpAddr, prefix: u8) -> Self {
        self.cluster_cidrs.push((address, prefix));
        self
    }

    /// Adds an address of the node.
    #[must_use]
    pub fn node_address(mut self, address: IpAddr, takes_node_ports: bool) -> Self {
        self.node_addresses.push((address, takes_node_ports));
        self
    }

    /// Sets the source address of the uplink that packets are seen at, for its family.
    #[must_use]
    pub fn source(mut self, address: IpAddr) -> Self {
        self.sources.push(address);
        self
    }

    /// Sets the number of flow buckets in use, a power of two up to [`FLOW_BUCKETS`].
    #[must_use]
    pub const fn buckets(mut self, buckets: u32) -> Self {
        self.buckets = buckets;
        self
    }
}

/// The record of an uplink with these source addresses, at most one of each family.
pub(super) fn device(sources: &[IpAddr]) -> DeviceRecord {
    let (mut v4, mut v6) = ([0; 4], [0; 16]);
    for source in sources {
        match source {
            IpAddr::V4(address) => v4 = address.octets(),
            IpAddr::V6(address) => v6 = address.octets(),
        }
    }
    DeviceRecord::uplink(DEVICE, v4, v6)
}

/// The words of the region of a port.
pub(super) fn region(port: &ServicePort, members: &[(BackendId, SocketAddr, u16)]) -> Vec<u64> {
    let count = u16::try_from(members.len()).expect("few backends");
    let header = RegionHeader {
        count,
        table_size: maglev::table_size(u32::from(count)),
        affinity_seconds: port.affinity_seconds,
        when_empty: port.when_empty,
    };
    let mut words = vec![0; index(header.words())];
    words[..2].copy_from_slice(&header.encode());
    for (position, (id, ..)) in (0_u16..).zip(members) {
        let (word, is_upper) = RegionHeader::id_word(position);
        words[index(word)] |= u64::from(id.raw()) << if is_upper { 32 } else { 0 };
    }
    debug_assert!(words.len() >= index(HEADER_WORDS));
    if header.table_size > 0 {
        let member = |&(_, address, weight): &(BackendId, SocketAddr, u16)| Member {
            identity: maglev::identity(mapped(address.ip()), address.port(), port.protocol),
            weight,
        };
        let members: Vec<Member> = members.iter().map(member).collect();
        let mut slots = vec![0; index(header.table_size)];
        let mut cursors = vec![Cursor::default(); members.len()];
        maglev::fill(&members, &mut slots, &mut cursors).expect("a size of the list, weights");
        for (slot, &position) in (0_u32..).zip(&slots) {
            let (word, shift) = header.slot_word(slot);
            words[index(word)] |= u64::from(position) << shift;
        }
    }
    words
}
