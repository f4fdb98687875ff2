//! The kernel tables in ordinary memory, for decisions on the host: filled from a description of
//! services, and copied word by word into the kernel's maps where a test compares the two.
//!
//! Nothing here knows the agent: the fuzz targets include this file, and what the planner makes of
//! the same services is tested elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;

use lb_common::conntrack::State;
use lb_common::family::{Family, MappedAddress, V4, V6};
use lb_common::flow::{FlowTuple, Protocol};
use lb_common::flows::layout::bucket_words;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::id::{BackendId, ServiceId};
use lb_common::onward::{self, Hop, Offer, Reach, Routes as _};
use lb_common::packet::Frame;
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::config::{self, CONFIG_WORDS, Cidr};
use lb_common::table::device::DeviceRecord;
use lb_common::table::filter::{
    BACKEND_FILTER_WORDS, FilterBit, NODE_PORT_WORDS, SERVICE_FILTER_WORDS,
};
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::node_address::NodeAddress;
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;

/// Elements of `SERVICES`.
pub const SERVICES: u32 = 256;
/// Words of `ARENA`.
pub const ARENA_WORDS: u32 = 65_536;
/// Elements of `BACKENDS`.
pub const BACKENDS: u32 = 1024;
/// Elements of `FLOWS_V4` and `FLOWS_V6`: a world may use fewer of them.
pub const FLOW_BUCKETS: u32 = 64;

/// Interface index of the device that packets are seen at: test-run takes the loopback's.
pub const DEVICE: u32 = 1;

const SEED: u64 = 0x5eed_0f1e_57ee_7a9e;

#[path = "tables/fib.rs"]
mod fib;
#[path = "tables/world.rs"]
mod world;

pub use self::fib::{Fib, Way};
pub use self::world::{ServicePort, World};

/// The table form of an address.
pub const fn mapped(address: IpAddr) -> MappedAddress {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Every table, in memory.
#[derive(Debug)]
pub struct MemoryTables {
    /// `FRONTENDS`.
    pub frontends: BTreeMap<FrontendKey, u64>,
    /// `SERVICES`.
    pub services: Vec<[u64; SERVICE_WORDS]>,
    /// `ARENA`.
    pub arena: Vec<u64>,
    /// `BACKENDS`.
    pub backends: Vec<BackendRecord>,
    /// `SERVICE_FILTER`.
    pub service_filter: Vec<u64>,
    /// `BACKEND_FILTER`.
    pub backend_filter: Vec<u64>,
    /// `NODE_PORTS`.
    pub node_ports: Vec<u64>,
    /// `NODE_ADDRESSES`.
    pub node_addresses: BTreeMap<MappedAddress, u64>,
    /// `SOURCE_RANGES`.
    pub source_ranges: BTreeSet<SourceRangeKey>,
    /// The record in `DEVICES` of the device that packets are seen at.
    pub device: DeviceRecord,
    /// Its interface index.
    pub own: u32,
    /// The records of other devices.
    pub others: BTreeMap<u32, DeviceRecord>,
    /// The host's routing tables.
    pub fib: Fib,
    /// The packet that is decided about.
    pub frame: RefCell<Vec<u8>>,
    /// Ports at which [`Tables::has_socket`] finds one.
    pub sockets: BTreeSet<u16>,
    /// `CONFIG`.
    pub config: Vec<u64>,
    /// `FLOWS_V4`.
    pub flows_v4: Vec<AtomicU64>,
    /// `FLOWS_V6`.
    pub flows_v6: Vec<AtomicU64>,
    /// `FRAGMENTS`.
    pub fragments: RefCell<HashMap<FragmentKey, FragmentPorts>>,
    /// `AFFINITY`.
    pub affinity: RefCell<BTreeMap<AffinityKey, AffinityValue>>,
    /// What was noted, in order.
    pub notes: RefCell<Vec<Reason>>,
    /// Which connections were opened, in order.
    pub opened: RefCell<Vec<(ServiceId, BackendId)>>,
    /// What [`Tables::share_bridge`] answers.
    pub share_bridge: Cell<bool>,
    /// What [`Tables::is_of_host`] answers.
    pub is_of_host: Cell<bool>,
    /// What [`Tables::random`] answers next; then that and [`Self::random_step`] more.
    pub random: Cell<u32>,
    /// By how much the answers differ, modulo 2^32.
    pub random_step: u32,
    ids: BTreeMap<(SocketAddr, u8), BackendId>,
}

impl MemoryTables {
    /// The tables of `world`, without flows.
    ///
    /// # Panics
    ///
    /// If the world is too large for the tables, or mixes families.
    pub fn new(world: &World) -> Self {
        let zeros = |words: u32| vec![0; index(words)];
        let atomics = |words| (0..words).map(|_| AtomicU64::new(0)).collect();
        let mut tables = Self {
            frontends: BTreeMap::new(),
            services: vec![[0; SERVICE_WORDS]; index(SERVICES)],
            arena: zeros(ARENA_WORDS),
            backends: vec![BackendRecord::default(); index(BACKENDS)],
            service_filter: zeros(SERVICE_FILTER_WORDS),
            backend_filter: zeros(BACKEND_FILTER_WORDS),
            node_ports: zeros(NODE_PORT_WORDS),
            node_addresses: BTreeMap::new(),
            source_ranges: BTreeSet::new(),
            device: world::device(&world.sources),
            own: DEVICE,
            others: BTreeMap::new(),
            fib: Fib::default(),
            frame: RefCell::default(),
            sockets: BTreeSet::new(),
            config: zeros(CONFIG_WORDS),
            flows_v4: atomics(index(FLOW_BUCKETS) * bucket_words::<V4>()),
            flows_v6: atomics(index(FLOW_BUCKETS) * bucket_words::<V6>()),
            fragments: RefCell::default(),
            affinity: RefCell::default(),
            notes: RefCell::default(),
            opened: RefCell::default(),
            share_bridge: Cell::new(false),
            is_of_host: Cell::new(false),
            random: Cell::new(0),
            random_step: 1,
            ids: BTreeMap::new(),
        };
        tables.configure(world);
        // Word 0 is no region.
        let mut offset = 8;
        for (number, port) in (1_u32..).zip(&world.ports) {
            offset = tables.publish(number, port, offset);
        }
        tables
    }

    fn configure(&mut self, world: &World) {
        let set = |config: &mut Vec<u64>, word: u32, value| config[index(word)] = value;
        set(&mut self.config, config::SEED, SEED);
        let buckets = u64::from(world.buckets);
        set(
            &mut self.config,
            config::FLOW_BUCKETS,
            buckets << 32 | buckets,
        );
        set(&mut self.config, config::STATISTICS_SHARDS, 1);
        for state in State::ALL {
            let seconds = u64::from(state.default_timeout().0);
            set(&mut self.config, config::TIMEOUTS + state.number(), seconds);
        }
        for &(address, takes_node_ports) in &world.node_addresses {
            if takes_node_ports {
                let bit = match address {
                    IpAddr::V4(address) => FilterBit::node::<V4>(address.octets()),
                    IpAddr::V6(address) => FilterBit::node::<V6>(address.octets()),
                };
                self.service_filter[index(bit.word)] |= bit.mask;
            }
            let address = mapped(address);
            let value = NodeAddress::new(address, takes_node_ports);
            self.node_addresses.insert(address, value.0);
        }
        let service = [Cidr::<V4>::FIRST_WORD, Cidr::<V6>::FIRST_WORD];
        self.add_cidrs(&world.cidrs, config::SERVICE_CIDR_COUNTS, service);
        let cluster = [
            Cidr::<V4>::FIRST_CLUSTER_WORD,
            Cidr::<V6>::FIRST_CLUSTER_WORD,
        ];
        self.add_cidrs(&world.cluster_cidrs, config::CLUSTER_CIDR_COUNTS, cluster);
    }

    fn add_cidrs(&mut self, cidrs: &[(IpAddr, u8)], counts: u32, [first_v4, first_v6]: [u32; 2]) {
        let (mut v4, mut v6) = (0, 0);
        for &(address, prefix) in cidrs {
            match address {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                    let cidr = Cidr::<V4> {
                        address: address.octets(),
                        mask: mask.to_be_bytes(),
                    };
                    self.add_cidr(&cidr, first_v4, &mut v4);
                }
                IpAddr::V6(address) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                    let cidr = Cidr::<V6> {
                        address: address.octets(),
                        mask: mask.to_be_bytes(),
                    };
                    self.add_cidr(&cidr, first_v6, &mut v6);
                }
            }
        }
        self.config[index(counts)] = u64::from(v6) << 32 | u64::from(v4);
    }

    fn add_cidr<F: Family>(&mut self, cidr: &Cidr<F>, start: u32, position: &mut u32) {
        let first = index(start + *position * Cidr::<F>::WORDS);
        let words = &cidr.encode()[..index(Cidr::<F>::WORDS)];
        self.config[first..first + words.len()].copy_from_slice(words);
        *position += 1;
    }

    /// Writes a port's backends, regions, service words, filter bits and frontends; gives the first
    /// word behind its regions.
    fn publish(&mut self, number: u32, port: &ServicePort, offset: u32) -> u32 {
        let (has_ready, outside_offset) = self.publish_set(port, offset);
        let mut end = outside_offset;
        let mut words = [ServiceWord::new(offset, number).0; SERVICE_WORDS];
        if let Some(outside) = port.outside() {
            end = self.publish_set(&outside, outside_offset).1;
            words[Audience::External.position()] = ServiceWord::new(outside_offset, number).0;
        }
        self.services[index(number)] = words;
        let address = mapped(port.address.ip());
        let key = FrontendKey::new(address, port.address.port(), port.protocol);
        self.publish_frontend(number, port, (key, FrontendKind::ClusterIp));
        for &other in &port.others {
            self.publish_frontend(number, port, other);
        }
        for &(network, length) in port.ranges.iter().flatten() {
            let is_v6 = network.is_ipv6();
            let key = SourceRangeKey::network(number, mapped(network), length, is_v6);
            self.source_ranges.insert(key);
        }
        let key = FrontendKey::service_address(address);
        let was_ready = self.frontends.get(&key).copied().map(FrontendValue);
        let has_ready = has_ready || was_ready.is_some_and(FrontendValue::has_ready);
        let value = FrontendValue::new(&key, FrontendKind::ServiceAddress, 0, has_ready);
        self.frontends.insert(key, value.0);
        end
    }

    /// Writes a port's backends and their region; says whether there are any, and where it ends.
    fn publish_set(&mut self, port: &ServicePort, offset: u32) -> (bool, u32) {
        let mut members: Vec<_> = port
            .backends
            .iter()
            .map(|&(address, weight)| {
                let id = self.add_backend(address, port.protocol);
                (id, address, weight)
            })
            .collect();
        members.sort_unstable();
        let words = world::region(port, &members);
        let start = index(offset);
        self.arena[start..start + words.len()].copy_from_slice(&words);
        let length = u32::try_from(words.len()).expect("the arena is small");
        (!members.is_empty(), offset + length)
    }

    fn publish_frontend(
        &mut self,
        number: u32,
        port: &ServicePort,
        (key, kind): (FrontendKey, FrontendKind),
    ) {
        let mut value = FrontendValue::new(&key, kind, number, false);
        if port.ranges.is_some() && kind == FrontendKind::LoadBalancer {
            value = value.with_source_ranges();
        }
        self.frontends.insert(key, value.0);
        if key.is_node_port() {
            let bit = FilterBit::node_port(port.protocol, key.port());
            self.node_ports[index(bit.word)] |= bit.mask;
            return;
        }
        let bit = match IpAddr::from(key.address()).to_canonical() {
            IpAddr::V4(address) => FilterBit::service::<V4>(address.octets()),
            IpAddr::V6(address) => FilterBit::service::<V6>(address.octets()),
        };
        self.service_filter[index(bit.word)] |= bit.mask;
    }

    fn add_backend(&mut self, address: SocketAddr, protocol: Protocol) -> BackendId {
        let next = u32::try_from(self.ids.len()).expect("few backends") + 1;
        let id = *self
            .ids
            .entry((address, protocol.number()))
            .or_insert_with(|| BackendId::new(next, 1));
        let flags = BackendFlags(BackendFlags::SERVING);
        self.backends[index(id.index())] =
            BackendRecord::new(id, mapped(address.ip()), address.port(), protocol, flags);
        let bit = match address.ip() {
            IpAddr::V4(address) => FilterBit::backend::<V4>(address.octets()),
            IpAddr::V6(address) => FilterBit::backend::<V6>(address.octets()),
        };
        self.backend_filter[index(bit.word)] |= bit.mask;
        id
    }

    /// Whether the world has this backend.
    pub fn has_backend(&self, address: SocketAddr, protocol: Protocol) -> bool {
        self.ids.contains_key(&(address, protocol.number()))
    }

    /// Sets what is known of a backend.
    ///
    /// # Panics
    ///
    /// If the world has no such backend.
    pub fn set_flags(&mut self, address: SocketAddr, protocol: Protocol, flags: u8) {
        let id = self.ids[&(address, protocol.number())];
        self.backends[index(id.index())] = BackendRecord::new(
            id,
            mapped(address.ip()),
            address.port(),
            protocol,
            BackendFlags(flags),
        );
    }

    /// The words of a family's flow table.
    pub const fn flow_words<F: Family>(&self) -> &Vec<AtomicU64> {
        if F::IS_V6 {
            &self.flows_v6
        } else {
            &self.flows_v4
        }
    }

    /// Forgets what was noted and opened.
    pub fn forget_notes(&self) {
        self.notes.borrow_mut().clear();
        self.opened.borrow_mut().clear();
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("a usize has 32 bits")
}

impl<'a> Tables for &'a MemoryTables {
    type Flows<F: Family> = AtomicBuckets<'a>;

    fn config(&self, word: u32) -> u64 {
        self.config.get(index(word)).copied().unwrap_or(0)
    }

    fn frontend(&self, key: &FrontendKey) -> Option<u64> {
        self.frontends.get(key).copied()
    }

    fn service(&self, number: u32, audience: Audience) -> Option<ServiceWord> {
        let words = self.services.get(index(number))?;
        Some(ServiceWord(words[audience.position()]))
    }

    fn arena(&self, word: u32) -> Option<u64> {
        self.arena.get(index(word)).copied()
    }

    fn backend(&self, number: u32) -> Option<BackendRecord> {
        self.backends.get(index(number)).copied()
    }

    fn service_filter(&self, word: u32) -> u64 {
        self.service_filter
            .get(index(word))
            .copied()
            .unwrap_or(u64::MAX)
    }

    fn backend_filter(&self, word: u32) -> u64 {
        self.backend_filter
            .get(index(word))
            .copied()
            .unwrap_or(u64::MAX)
    }

    fn node_ports(&self, word: u32) -> u64 {
        self.node_ports
            .get(index(word))
            .copied()
            .unwrap_or(u64::MAX)
    }

    fn node_address(&self, address: &MappedAddress) -> Option<u64> {
        self.node_addresses.get(address).copied()
    }

    fn has_source_range(&self, client: &SourceRangeKey) -> bool {
        self.source_ranges
            .iter()
            .any(|network| network.holds(client))
    }

    fn flows<F: Family>(&self) -> AtomicBuckets<'a> {
        let [v6, v4] = [32, 0].map(|shift| self.config(config::FLOW_BUCKETS) >> shift);
        let count = if F::IS_V6 { v6 } else { v4 & 0xffff_ffff };
        let count = u32::try_from(count).expect("half a word");
        AtomicBuckets::new::<F>(self.flow_words::<F>(), count).expect("a power of two that fits")
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        self.fragments.borrow().get(key).copied()
    }

    fn remember_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        self.fragments.borrow_mut().insert(*key, ports);
    }

    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        self.affinity.borrow().get(key).copied()
    }

    fn remember_affinity(&self, key: &AffinityKey, value: AffinityValue) {
        self.affinity.borrow_mut().insert(*key, value);
    }

    fn share_bridge<F: Family>(&self, _client: F::Address, _backend: F::Address) -> bool {
        self.share_bridge.get()
    }

    fn leads_on<F: Family>(&self, tuple: &FlowTuple<F>, reach: Reach) -> bool {
        let mut frame = self.frame.borrow().clone();
        let wire = self.fib.wire(self.own, &frame);
        let offer = Offer::<F>::of(&mut Frame(&mut frame), wire);
        offer.is_some_and(|offer| {
            let question = offer.question.of_tuple(tuple);
            onward::may_begin(&question, reach, &mut &**self)
        })
    }

    fn source_address<F: Family>(&self) -> F::Address {
        self.device.source::<F>()
    }

    fn is_of_host(&self) -> bool {
        self.is_of_host.get()
    }

    fn device(&self) -> u32 {
        self.own
    }

    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop {
        let protocol = tuple.protocol.number();
        let question = onward::of_host::<F>(tuple.source, tuple.destination, protocol, 0);
        (&mut &**self).hop(&question)
    }

    fn source_of<F: Family>(&self, device: u32) -> F::Address {
        self.record(device).unwrap_or_default().source::<F>()
    }

    fn has_socket<F: Family>(&self, tuple: &FlowTuple<F>) -> bool {
        tuple.protocol != Protocol::Sctp && self.sockets.contains(&tuple.destination_port)
    }

    fn note(&self, reason: Reason) {
        self.notes.borrow_mut().push(reason);
    }

    fn opened(&self, service: ServiceId, backend: BackendId) {
        self.opened.borrow_mut().push((service, backend));
    }

    fn random(&self) -> u32 {
        let random = self.random.get();
        self.random.set(random.wrapping_add(self.random_step));
        random
    }
}
