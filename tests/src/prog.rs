//! The kernel's own programs, packet by packet, by `BPF_PROG_TEST_RUN`; and the host's decision on
//! the same tables, which must agree in everything: verdict, bytes, flow tables, fragments, counters.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use aya::maps::{HashMap as KernelHash, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramError, SchedClassifier, TestRun as _, TestRunOptions};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use lb_agent::clock::flow_seconds;
use lb_agent::dataplane::bpf::Wire;
use lb_agent::dataplane::load::{OBJECT_PATH_VARIABLE, WORKLOAD_EGRESS, WORKLOAD_INGRESS};
use lb_agent::dataplane::mmap::MappedWords;
use lb_common::flow::Hook;
use lb_common::packet::Frame;
use lb_common::parse::{parse, parse_link};
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::counter::Counter;
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::verdict::Reason;
use zerocopy::IntoBytes as _;

use crate::host::{self, Code, Ended};
use crate::packets::diff;
use crate::privilege::require_root;
use crate::tables::{ARENA_WORDS, BACKENDS, FLOW_BUCKETS, MemoryTables, SERVICES, World};

/// Longest frame that comes out.
const FRAME_ROOM: usize = 4096;
/// Lines of a verifier's log that are shown.
const LOG_LINES: usize = 60;

/// The maps that are arrays of words, and words of an element.
const WORD_MAPS: [(&str, usize); 10] = [
    ("SERVICES", 2),
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
struct Kernel {
    ebpf: Ebpf,
    words: BTreeMap<&'static str, MappedWords>,
    frontends: KernelHash<MapData, Wire<FrontendKey>, u64>,
    fragments: KernelHash<MapData, Wire<FragmentKey>, Wire<FragmentPorts>>,
    affinity: KernelHash<MapData, Wire<AffinityKey>, u64>,
    counters: PerCpuArray<MapData, Wire<Counter>>,
}

/// Loaded once per test binary: the verifier takes seconds.
static KERNEL: OnceLock<Mutex<Kernel>> = OnceLock::new();

impl Kernel {
    fn load() -> Self {
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
        for name in [WORKLOAD_INGRESS, WORKLOAD_EGRESS] {
            if let Err(log) = verify(program(&mut ebpf, name)) {
                panic!("{name} is refused:\n{log}");
            }
        }
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
            counters: hash("COUNTERS").try_into().expect("an array"),
            words: words.into(),
            ebpf,
        }
    }

    fn words(&self, name: &str) -> &[AtomicU64] {
        self.words[name].words()
    }

    fn fill(&self, name: &str, values: impl Iterator<Item = u64>) {
        for (word, value) in self.words(name).iter().zip(values) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Copies every table.
    fn copy(&mut self, tables: &MemoryTables) {
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
    fn reset(&mut self, tables: &MemoryTables) {
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

    fn fragments(&self) -> HashMap<FragmentKey, FragmentPorts> {
        let pairs = self
            .fragments
            .iter()
            .map(|pair| pair.map(|(key, value)| (key.0, value.0)));
        pairs
            .collect::<Result<_, MapError>>()
            .expect("nobody else changes it")
    }

    fn affinity(&self) -> BTreeMap<AffinityKey, AffinityValue> {
        let pairs = self
            .affinity
            .iter()
            .map(|pair| pair.map(|(key, value)| (key.0, AffinityValue(value))));
        pairs
            .collect::<Result<_, MapError>>()
            .expect("nobody else changes it")
    }

    /// Packets and bytes of every reason that was counted.
    fn counts(&self) -> BTreeMap<Reason, (u64, u64)> {
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
    fn opened(&self, name: &str) -> Vec<(u32, u64)> {
        let words = (0_u32..).zip(self.words(name));
        let counts = words.map(|(index, word)| (index, word.load(Ordering::Relaxed)));
        counts.filter(|(_, count)| *count != 0).collect()
    }

    /// Runs one packet; `None` where test-run takes no frame of this length.
    fn run(&mut self, hook: Hook, frame: &[u8]) -> Option<(Code, Vec<u8>)> {
        let name = match hook {
            Hook::Ingress => WORKLOAD_INGRESS,
            Hook::Egress => WORKLOAD_EGRESS,
        };
        let mut out = vec![0; FRAME_ROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
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
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the object has the program");
    program.try_into().expect("it is a classifier")
}

/// Loads a program; the end of the verifier's log if it is refused.
fn verify(program: &mut SchedClassifier) -> Result<(), String> {
    program.load().map_err(|error| {
        let ProgramError::LoadError { verifier_log, .. } = &error else {
            return error.to_string();
        };
        let log = verifier_log.to_string();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    })
}

/// What one packet did, all of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Outcome {
    /// How the packet ended.
    pub ended: Ended,
    /// What was noted on the way.
    pub notes: Vec<Reason>,
    /// Lines of [`host::flows`] that came, with `+`, and went, with `-`; a change is both.
    pub flows: BTreeSet<String>,
}

impl Outcome {
    /// Fails unless the packet went on as `frame`, for this `reason`, and did nothing else than
    /// these changes of flows.
    ///
    /// # Panics
    ///
    /// Otherwise.
    #[track_caller]
    pub fn expect_translated(&self, reason: Reason, frame: &[u8], flows: &BTreeSet<String>) {
        assert_eq!((self.ended.code, self.ended.reason), (Code::Next, reason));
        diff::assert_same(frame, &self.ended.frame);
        assert_eq!(self.flows, *flows);
        assert_eq!(self.notes, []);
    }
}

/// The host's tables and the kernel's, kept equal.
pub struct Bench {
    kernel: MutexGuard<'static, Kernel>,
    /// The host's.
    pub host: MemoryTables,
}

impl Bench {
    /// Fills both with `world`. Other tests of the binary wait until this is dropped.
    pub fn new(world: &World) -> Self {
        let kernel = KERNEL.get_or_init(|| Mutex::new(Kernel::load()));
        let mut kernel = kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let host = MemoryTables::new(world);
        kernel.copy(&host);
        Self { kernel, host }
    }

    /// Changes both.
    pub fn change(&mut self, change: impl FnOnce(&mut MemoryTables)) {
        change(&mut self.host);
        self.kernel.copy(&self.host);
    }

    /// Sends a packet through both.
    ///
    /// # Panics
    ///
    /// If they disagree in anything, or test-run takes no frame of this length.
    #[track_caller]
    pub fn send(&mut self, hook: Hook, frame: &[u8]) -> Outcome {
        let outcome = self.send_if_taken(hook, frame);
        outcome
            .1
            .then_some(outcome.0)
            .expect("test-run takes the frame")
    }

    /// Sends a packet through the host's decision, and through the kernel's if test-run takes a
    /// frame of this length; says whether it did.
    ///
    /// # Panics
    ///
    /// If they disagree in anything.
    #[track_caller]
    pub fn send_if_taken(&mut self, hook: Hook, frame: &[u8]) -> (Outcome, bool) {
        // Entries are stamped with the second, which must be one for both.
        let (now, ran) = loop {
            self.kernel.reset(&self.host);
            let now = flow_seconds();
            let ran = self.kernel.run(hook, frame);
            if flow_seconds() == now {
                break (now, ran);
            }
        };
        if let Some((_, out)) = &ran
            && let Some(port) = changed_port(frame, out)
        {
            self.host.random.set(random_for(port));
        }
        let before = host::flows(&self.host);
        self.host.forget_notes();
        let ended = host::run(&self.host, hook, frame, now);
        if let Some((code, out)) = &ran {
            self.compare(&ended, *code, out, frame);
        }
        let after = host::flows(&self.host);
        let gone = before.difference(&after).map(|line| format!("-{line}"));
        let came = after.difference(&before).map(|line| format!("+{line}"));
        let outcome = Outcome {
            ended,
            notes: self.host.notes.borrow().clone(),
            flows: gone.chain(came).collect(),
        };
        (outcome, ran.is_some())
    }

    #[expect(
        clippy::significant_drop_tightening,
        reason = "borrows of tables that nobody writes meanwhile"
    )]
    #[track_caller]
    fn compare(&self, ended: &Ended, code: Code, out: &[u8], frame: &[u8]) {
        let kernel = &self.kernel;
        let bytes = u64::try_from(frame.len()).expect("a frame is short");
        let mut counts = BTreeMap::from([(ended.reason, (1, bytes))]);
        for &note in self.host.notes.borrow().iter() {
            counts.entry(note).or_insert((0, 0)).0 += 1;
        }
        assert_eq!(
            (kernel.counts(), code),
            (counts, ended.code),
            "the kernel's verdict is on the left, the host's on the right"
        );
        // A dropped frame may be half changed.
        if code != Code::Drop {
            assert!(
                out == ended.frame,
                "the kernel's frame differs from the host's:\n{}",
                diff::diff(&ended.frame, out)
            );
        }
        for (name, words) in [
            ("FLOWS_V4", &self.host.flows_v4),
            ("FLOWS_V6", &self.host.flows_v6),
        ] {
            let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
            let is_same = kernel
                .words(name)
                .iter()
                .map(load)
                .eq(words.iter().map(load));
            assert!(is_same, "{name}: the kernel's words differ from the host's");
        }
        assert_eq!(kernel.fragments(), *self.host.fragments.borrow());
        assert_eq!(kernel.affinity(), *self.host.affinity.borrow());
        let opened = self.host.opened.borrow().clone();
        let services = opened.iter().map(|(service, _)| (service.index(), 1));
        assert_eq!(kernel.opened("SERVICE_STATS"), services.collect::<Vec<_>>());
        let backends = opened.iter().map(|(_, backend)| (backend.index(), 1));
        assert_eq!(kernel.opened("BACKEND_STATS"), backends.collect::<Vec<_>>());
    }
}

/// The source port that came out, if it is another than went in.
fn changed_port(frame: &[u8], out: &[u8]) -> Option<u16> {
    let port = |frame: &[u8]| {
        let mut frame = frame.to_vec();
        let frame = Frame(&mut frame);
        let link = parse_link(&frame).ok()?;
        if link.is_v6 {
            let packet = parse::<lb_common::family::V6>(&frame, link.l3).ok()?;
            Some(packet.tuple()?.source_port)
        } else {
            let packet = parse::<lb_common::family::V4>(&frame, link.l3).ok()?;
            Some(packet.tuple()?.source_port)
        }
    };
    let (before, after) = (port(frame)?, port(out)?);
    (before != after).then_some(after)
}

/// A random number that makes a decision choose `port`: the least one of those that do.
fn random_for(port: u16) -> u32 {
    let number = u64::from(port.saturating_sub(1024)) << 32;
    u32::try_from(number.div_ceil(28_976)).unwrap_or(u32::MAX)
}
