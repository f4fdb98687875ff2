//! The loaded programs and their maps: filled from the host's tables, and read back.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{HashMap as KernelHash, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use lb_agent::dataplane::bpf::Wire;
use lb_agent::dataplane::chain;
use lb_agent::dataplane::load::{
    OBJECT_PATH_VARIABLE, PROGRAMS, UPLINK_EGRESS, UPLINK_INGRESS, UPLINK_XDP, WORKLOAD_EGRESS,
    WORKLOAD_INGRESS,
};
use lb_agent::dataplane::mmap::MappedWords;
use lb_agent::dataplane::syscall;
use lb_agent::dataplane::tables::source_range_key;
use lb_agent::dataplane::xdp::XdpMode;
use lb_common::family::MappedAddress;
use lb_common::flow::Hook;
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::counter::Counter;
use lb_common::table::device::{DeviceRecord, Role};
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::SERVICE_WORDS;
use lb_common::table::source_range::SourceRangeKey;
use lb_common::verdict::Reason;
use zerocopy::IntoBytes as _;

use crate::host::Code;
use crate::privilege::require_root;
use crate::tables::{ARENA_WORDS, BACKENDS, DEVICE, FLOW_BUCKETS, MemoryTables, SERVICES};

/// Longest frame that comes out.
const FRAME_ROOM: usize = 4096;
/// Lines of a verifier's log that are shown.
const LOG_LINES: usize = 60;

/// The maps that are arrays of words, and words of an element.
const WORD_MAPS: [(&str, usize); 11] = [
    ("SERVICES", SERVICE_WORDS),
    ("NODE_PORTS", 1),
    ("ARENA", 1),
    ("BACKENDS", 4),
    ("SERVICE_FILTER", 1),
    ("BACKEND_FILTER", 1),
    ("CONFIG", 1),
    ("FLOWS_V4", 72),
    ("FLOWS_V6", 104),
    ("SERVICE_STATS", 1),
    ("BACKEND_STATS", 1),
];

/// The loaded programs and their maps.
pub(super) struct Kernel {
    ebpf: Ebpf,
    words: BTreeMap<&'static str, MappedWords>,
    frontends: KernelHash<MapData, Wire<FrontendKey>, u64>,
    fragments: KernelHash<MapData, Wire<FragmentKey>, Wire<FragmentPorts>>,
    affinity: KernelHash<MapData, Wire<AffinityKey>, u64>,
    node_addresses: KernelHash<MapData, MappedAddress, u64>,
    devices: KernelHash<MapData, u32, Wire<DeviceRecord>>,
    source_ranges: LpmTrie<MapData, [u8; 20], u8>,
    counters: PerCpuArray<MapData, Wire<Counter>>,
}

impl Kernel {
    pub(super) fn load() -> Self {
        require_root().expect("this test runs kernel programs");
        let path = std::env::var_os(OBJECT_PATH_VARIABLE).expect("xtask names the object");
        let object = std::fs::read(path).expect("the object can be read");
        let mut loader = EbpfLoader::new();
        for (map, entries) in [
            ("FRONTENDS", 1024),
            ("SERVICES", SERVICES),
            ("ARENA", ARENA_WORDS),
            ("BACKENDS", BACKENDS),
            ("FLOWS_V4", FLOW_BUCKETS),
            ("FLOWS_V6", FLOW_BUCKETS),
        ] {
            loader.map_max_entries(map, entries);
        }
        let mut ebpf = loader.load(&object).expect("the kernel makes the maps");
        for name in PROGRAMS {
            if let Err(log) = verify(program(&mut ebpf, name)) {
                panic!("{name} is refused:\n{log}");
            }
        }
        chain::fill_host_parts(&mut ebpf).expect("the array takes programs");
        chain::load(&mut ebpf, XdpMode::Native).expect("the kernel takes the XDP programs");
        let words = WORD_MAPS.map(|(name, per_element)| {
            let map = ebpf.take_map(name).expect("the object has the map");
            let Map::Array(data) = map else {
                panic!("{name} is no array");
            };
            let entries = data.info().expect("a map's own account").max_entries();
            let length = usize::try_from(entries).expect("32 bits") * per_element;
            let mapped = MappedWords::new(data.fd().as_fd(), length).expect("it can be mapped");
            (name, mapped)
        });
        let mut hash = |name| ebpf.take_map(name).expect("the object has the map");
        Self {
            frontends: hash("FRONTENDS").try_into().expect("a hash"),
            fragments: hash("FRAGMENTS").try_into().expect("a hash"),
            affinity: hash("AFFINITY").try_into().expect("a hash"),
            node_addresses: hash("NODE_ADDRESSES").try_into().expect("a hash"),
            devices: hash("DEVICES").try_into().expect("a hash"),
            source_ranges: hash("SOURCE_RANGES").try_into().expect("a trie"),
            counters: hash("COUNTERS").try_into().expect("an array"),
            words: words.into(),
            ebpf,
        }
    }

    pub(super) fn words(&self, name: &str) -> &[AtomicU64] {
        self.words[name].words()
    }

    fn fill(&self, name: &str, values: impl Iterator<Item = u64>) {
        for (word, value) in self.words(name).iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Copies every table.
    pub(super) fn copy(&mut self, tables: &MemoryTables) {
        self.fill("SERVICES", tables.services.iter().flatten().copied());
        self.fill("ARENA", tables.arena.iter().copied());
        let records = tables.backends.iter();
        let bytes: Vec<u8> = records
            .flat_map(|record| record.as_bytes().to_vec())
            .collect();
        let word = |chunk: &[u8]| u64::from_ne_bytes(chunk.try_into().expect("eight bytes"));
        self.fill("BACKENDS", bytes.chunks_exact(8).map(word));
        self.fill("SERVICE_FILTER", tables.service_filter.iter().copied());
        self.fill("BACKEND_FILTER", tables.backend_filter.iter().copied());
        self.fill("CONFIG", tables.config.iter().copied());
        self.fill("NODE_PORTS", tables.node_ports.iter().copied());
        self.copy_hashes(tables);
    }

    fn copy_hashes(&mut self, tables: &MemoryTables) {
        let old: Vec<_> = self.devices.keys().collect::<Result<_, _>>().expect("keys");
        for key in old {
            self.devices.remove(&key).expect("the key is there");
        }
        for (index, record) in std::iter::once((&tables.own, &tables.device)).chain(&tables.others)
        {
            let set = self.devices.insert(*index, Wire(*record), 0);
            set.expect("there is room");
        }
        let old: Vec<_> = self
            .node_addresses
            .keys()
            .collect::<Result<_, _>>()
            .expect("keys");
        for key in old {
            self.node_addresses.remove(&key).expect("the key is there");
        }
        for (address, value) in &tables.node_addresses {
            let set = self.node_addresses.insert(address, value, 0);
            set.expect("there is room");
        }
        let old: Vec<_> = self
            .source_ranges
            .keys()
            .collect::<Result<_, _>>()
            .expect("keys");
        for key in old {
            let key = SourceRangeKey::from_parts(key.prefix_len(), key.data());
            let removed = self.source_ranges.remove(&source_range_key(&key));
            removed.expect("the key is there");
        }
        for key in &tables.source_ranges {
            let set = self.source_ranges.insert(&source_range_key(key), 1, 0);
            set.expect("there is room");
        }
        let old: Vec<_> = self
            .frontends
            .keys()
            .collect::<Result<_, _>>()
            .expect("keys");
        for key in old {
            self.frontends.remove(&key).expect("the key is there");
        }
        for (key, value) in &tables.frontends {
            let set = self.frontends.insert(Wire(*key), value, 0);
            set.expect("there is room");
        }
    }

    /// Makes what packets change equal to the host's, and the counts 0.
    pub(super) fn reset(&mut self, tables: &MemoryTables) {
        let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
        self.fill("FLOWS_V4", tables.flows_v4.iter().map(load));
        self.fill("FLOWS_V6", tables.flows_v6.iter().map(load));
        self.fill("SERVICE_STATS", std::iter::repeat(0));
        self.fill("BACKEND_STATS", std::iter::repeat(0));
        for key in self.fragments().into_keys() {
            self.fragments.remove(&Wire(key)).expect("the key is there");
        }
        for (key, ports) in tables.fragments.borrow().iter() {
            let set = self.fragments.insert(Wire(*key), Wire(*ports), 0);
            set.expect("there is room");
        }
        for key in self.affinity().into_keys() {
            self.affinity.remove(&Wire(key)).expect("the key is there");
        }
        for (key, value) in tables.affinity.borrow().iter() {
            let set = self.affinity.insert(Wire(*key), value.0, 0);
            set.expect("there is room");
        }
        let cpus = nr_cpus().expect("processors are counted");
        for &reason in self.counts().keys() {
            let zeros = PerCpuValues::try_from(vec![Wire(Counter::default()); cpus]);
            let zeros = zeros.expect("one for each processor");
            self.counters
                .set(reason.index(), zeros, 0)
                .expect("an element");
        }
    }

    pub(super) fn fragments(&self) -> HashMap<FragmentKey, FragmentPorts> {
        let pairs = self
            .fragments
            .iter()
            .map(|pair| pair.map(|(key, value)| (key.0, value.0)));
        pairs
            .collect::<Result<_, MapError>>()
            .expect("nobody else changes it")
    }

    pub(super) fn affinity(&self) -> BTreeMap<AffinityKey, AffinityValue> {
        let pairs = self
            .affinity
            .iter()
            .map(|pair| pair.map(|(key, value)| (key.0, AffinityValue(value))));
        pairs
            .collect::<Result<_, MapError>>()
            .expect("nobody else changes it")
    }

    /// Packets and bytes of every reason that was counted.
    pub(super) fn counts(&self) -> BTreeMap<Reason, (u64, u64)> {
        let mut counts = BTreeMap::new();
        for &reason in Reason::ALL {
            let values = self.counters.get(&reason.index(), 0).expect("an element");
            let sum = |(packets, bytes), value: &Wire<Counter>| {
                (packets + value.0.packets, bytes + value.0.bytes)
            };
            let sum = values.iter().fold((0, 0), sum);
            if sum != (0, 0) {
                counts.insert(reason, sum);
            }
        }
        counts
    }

    /// Indices that were counted once, of `SERVICE_STATS` or `BACKEND_STATS`.
    pub(super) fn opened(&self, name: &str) -> Vec<(u32, u64)> {
        let words = (0_u32..).zip(self.words(name));
        let counts = words.map(|(index, word)| (index, word.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count != 0).collect()
    }

    /// Runs one packet, as if it came by or went to `device`; `None` where test-run takes no frame of this
    /// length.
    pub(super) fn run(
        &mut self,
        place: (Role, Hook),
        device: u32,
        is_of_host: bool,
        frame: &[u8],
    ) -> Option<(Code, Vec<u8>)> {
        let name = match place {
            (Role::Workload, Hook::Ingress) => WORKLOAD_INGRESS,
            (Role::Workload, Hook::Egress) => WORKLOAD_EGRESS,
            (Role::Uplink, Hook::Ingress) => UPLINK_INGRESS,
            (Role::Uplink, Hook::Egress) => UPLINK_EGRESS,
        };
        let mut out = vec![0; FRAME_ROOM];
        let context = context(device, is_of_host);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = match program(&mut self.ebpf, name).test_run(options) {
            Ok(result) => result,
            Err(ProgramError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::InvalidInput =>
            {
                return None;
            }
            Err(error) => panic!("test run of {name}: {error}"),
        };
        out.truncate(usize::try_from(result.data_size_out).expect("32 bits"));
        let code = match result.return_value.cast_signed() {
            -1 => Code::Next,
            2 => Code::Drop,
            7 => Code::Redirect,
            other => panic!("{name} returned {other}"),
        };
        Some((code, out))
    }

    /// Attaches the XDP program to `device`, natively: frames are made in the name of a device only if it
    /// has one.
    pub(super) fn attach_frames(&mut self, device: u32) -> OwnedFd {
        let program = frame_program(&mut self.ebpf);
        let program = program.fd().expect("it is loaded").as_fd();
        syscall::attach_xdp(program, device, XdpMode::Native).expect("a veth has native XDP")
    }

    /// Runs one frame that comes by `device`: what the program returns, and the frame afterwards. `None`
    /// where test-run takes no frame of this length.
    pub(super) fn run_frame(&mut self, device: u32, frame: &[u8]) -> Option<(u32, Vec<u8>)> {
        /// `ETH_HLEN`.
        const SHORTEST: usize = 14;
        if frame.len() < SHORTEST {
            return None;
        }
        let mut out = vec![0; FRAME_ROOM];
        let length = u32::try_from(frame.len()).expect("a frame is short");
        // A `struct xdp_md`: data, its end, metadata, the device that it came by, its queue, that it goes to.
        let context = [0, length, 0, device, 0, 0].map(u32::to_ne_bytes).concat();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result = frame_program(&mut self.ebpf).test_run(options);
        let result = result.expect("test-run takes a frame of a device with the program");
        out.truncate(usize::try_from(result.data_size_out).expect("32 bits"));
        Some((result.return_value, out))
    }
}

fn frame_program(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut(UPLINK_XDP);
    let program = program.expect("the object has the program");
    program.try_into().expect("it is one for XDP")
}

/// A `struct __sk_buff` that says nothing but the device, and the one that brought the packet, if the host
/// has not made it.
fn context(device: u32, is_of_host: bool) -> [u8; 192] {
    /// Where its fields `ingress_ifindex` and `ifindex` are.
    const FIELDS: usize = 36;
    let came_by = if is_of_host { 0 } else { DEVICE };
    let mut context = [0; 192];
    for (field, value) in context[FIELDS..].chunks_exact_mut(4).zip([came_by, device]) {
        field.copy_from_slice(&value.to_ne_bytes());
    }
    context
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

/// Loads a program; the end of the verifier's log if it is refused.
fn verify(program: &mut SchedClassifier) -> Result<(), String> {
    refusal(program.load())
}

fn refusal(loaded: Result<(), ProgramError>) -> Result<(), String> {
    loaded.map_err(|error| {
        let ProgramError::LoadError { verifier_log, .. } = &error else {
            return error.to_string();
        };
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    })
}
