//! The kernel tables in ordinary memory, for decisions on the host: filled from a description of
//! services, and copied word by word into the kernel's maps where a test compares the two.
//!
//! Nothing here knows the agent: the fuzz targets include this file, and what the planner makes of
//! the same services is tested elsewhere.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU64;

use lb_common::conntrack::State;
use lb_common::family::{Family, MappedAddress, V4, V6};
use lb_common::flow::Protocol;
use lb_common::flows::layout::bucket_words;
use lb_common::flows::memory::AtomicBuckets;
use lb_common::id::{BackendId, ServiceId};
use lb_common::maglev::{self, Cursor, Member};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::{BackendFlags, BackendRecord};
use lb_common::table::config::{self, CONFIG_WORDS, Cidr};
use lb_common::table::filter::{FILTER_WORDS, FilterBit};
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::{FrontendKey, FrontendKind, FrontendValue};
use lb_common::table::region::{HEADER_WORDS, RegionHeader, WhenEmpty};
use lb_common::table::service::{Audience, ServiceWord};
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

const SEED: u64 = 0x5eed_0f1e_57ee_7a9e;

/// One port of a service.
#[derive(Clone, Debug)]
pub struct ServicePort {
    address: SocketAddr,
    protocol: Protocol,
    when_empty: WhenEmpty,
    affinity_seconds: u32,
    backends: Vec<(SocketAddr, u16)>,
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
}

/// What the tables are made from.
#[derive(Clone, Debug)]
pub struct World {
    ports: Vec<ServicePort>,
    cidrs: Vec<(IpAddr, u8)>,
    buckets: u32,
}

impl Default for World {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            cidrs: Vec::new(),
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

    /// Sets the number of flow buckets in use, a power of two up to [`FLOW_BUCKETS`].
    #[must_use]
    pub const fn buckets(mut self, buckets: u32) -> Self {
        self.buckets = buckets;
        self
    }
}

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
    pub services: Vec<[u64; 2]>,
    /// `ARENA`.
    pub arena: Vec<u64>,
    /// `BACKENDS`.
    pub backends: Vec<BackendRecord>,
    /// `SERVICE_FILTER`.
    pub service_filter: Vec<u64>,
    /// `BACKEND_FILTER`.
    pub backend_filter: Vec<u64>,
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
    /// What [`Tables::random`] answers next; then one more.
    pub random: Cell<u32>,
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
            services: vec![[0; 2]; index(SERVICES)],
            arena: zeros(ARENA_WORDS),
            backends: vec![BackendRecord::default(); index(BACKENDS)],
            service_filter: zeros(FILTER_WORDS),
            backend_filter: zeros(FILTER_WORDS),
            config: zeros(CONFIG_WORDS),
            flows_v4: atomics(index(FLOW_BUCKETS) * bucket_words::<V4>()),
            flows_v6: atomics(index(FLOW_BUCKETS) * bucket_words::<V6>()),
            fragments: RefCell::default(),
            affinity: RefCell::default(),
            notes: RefCell::default(),
            opened: RefCell::default(),
            share_bridge: Cell::new(false),
            random: Cell::new(0),
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
        let (mut v4, mut v6) = (0, 0);
        for &(address, prefix) in &world.cidrs {
            match address {
                IpAddr::V4(address) => {
                    let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
                    let cidr = Cidr::<V4> {
                        address: address.octets(),
                        mask: mask.to_be_bytes(),
                    };
                    self.add_cidr(&cidr, &mut v4);
                }
                IpAddr::V6(address) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
                    let cidr = Cidr::<V6> {
                        address: address.octets(),
                        mask: mask.to_be_bytes(),
                    };
                    self.add_cidr(&cidr, &mut v6);
                }
            }
        }
        let counts = u64::from(v6) << 32 | u64::from(v4);
        set(&mut self.config, config::SERVICE_CIDR_COUNTS, counts);
    }

    fn add_cidr<F: Family>(&mut self, cidr: &Cidr<F>, position: &mut u32) {
        let first = index(Cidr::<F>::FIRST_WORD + *position * Cidr::<F>::WORDS);
        let words = &cidr.encode()[..index(Cidr::<F>::WORDS)];
        self.config[first..first + words.len()].copy_from_slice(words);
        *position += 1;
    }

    /// Writes a port's backends, region, service word, filter bits and frontends; gives the first
    /// word behind its region.
    fn publish(&mut self, number: u32, port: &ServicePort, offset: u32) -> u32 {
        let mut members: Vec<_> = port
            .backends
            .iter()
            .map(|&(address, weight)| {
                let id = self.add_backend(address, port.protocol);
                (id, address, weight)
            })
            .collect();
        members.sort_unstable();
        let words = region(port, &members);
        let start = index(offset);
        self.arena[start..start + words.len()].copy_from_slice(&words);
        let word = ServiceWord::new(offset, number);
        self.services[index(number)] = [word.0; 2];
        let address = mapped(port.address.ip());
        let bit = match port.address.ip() {
            IpAddr::V4(address) => FilterBit::service::<V4>(address.octets()),
            IpAddr::V6(address) => FilterBit::service::<V6>(address.octets()),
        };
        self.service_filter[index(bit.word)] |= bit.mask;
        let key = FrontendKey::new(address, port.address.port(), port.protocol);
        let value = FrontendValue::new(&key, FrontendKind::ClusterIp, number, false);
        self.frontends.insert(key, value.0);
        let key = FrontendKey::service_address(address);
        let was_ready = self.frontends.get(&key).copied().map(FrontendValue);
        let has_ready = !members.is_empty() || was_ready.is_some_and(FrontendValue::has_ready);
        let value = FrontendValue::new(&key, FrontendKind::ServiceAddress, 0, has_ready);
        self.frontends.insert(key, value.0);
        offset + u32::try_from(words.len()).expect("the arena is small")
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

fn region(port: &ServicePort, members: &[(BackendId, SocketAddr, u16)]) -> Vec<u64> {
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
        let [internal, external] = *self.services.get(index(number))?;
        Some(ServiceWord(match audience {
            Audience::Internal => internal,
            Audience::External => external,
        }))
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

    fn note(&self, reason: Reason) {
        self.notes.borrow_mut().push(reason);
    }

    fn opened(&self, service: ServiceId, backend: BackendId) {
        self.opened.borrow_mut().push((service, backend));
    }

    fn random(&self) -> u32 {
        let random = self.random.get();
        self.random.set(random.wrapping_add(1));
        random
    }
}
