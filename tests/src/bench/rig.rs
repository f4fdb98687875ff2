//! The driver program and the minimal balancers, loaded; and how a program is timed.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_agent::dataplane::{bpf::Wire, layout::Table};
use lb_common::course::Course;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use rustix::time::{ClockId, clock_gettime};

use super::{ground::Ground, services};
use crate::scenario::to_f64;

/// Names the object with the bench's programs.
const OBJECT_PATH_VARIABLE: &str = "STEERAGE_BENCH_OBJECT_PATH";
/// Room for the frame that comes out.
const FRAME_ROOM: usize = 256;
/// Bytes that no cache of a processor holds beside anything else.
const SWEPT: usize = 64 << 20;
/// Slots of a service in the minimal balancers' table.
const SLOTS: u32 = 256;

/// Flows, each direction for itself, that a kernel's hash holds for each bucket of ours: 2^21 beside
/// our 2^19, since 2^20 would not hold a million flows.
const HASHED_FOR_A_BUCKET: u32 = 4;
/// The maps of the minimal balancers that hold flows.
const HASHES: [&str; 4] = ["BENCH_LRU", "BENCH_LRU_V6", "BENCH_HASH", "BENCH_HASH_V6"];

/// A program that is measured beside ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Baseline {
    /// Returns at once.
    Empty,
    /// Parses, and no more.
    Parse,
    /// Balances without remembering.
    Minimal,
    /// Remembers in the kernel's LRU hash.
    Lru,
    /// Remembers in the kernel's hash.
    Hash,
    /// Reads one line of our flow table.
    FloorOne,
    /// Reads two.
    FloorTwo,
    /// Reads and writes as many as an insertion must.
    FloorInsertion,
}

impl Baseline {
    /// All of them, cheapest first, and the floors.
    pub(super) const ALL: [Self; 8] = [
        Self::Empty,
        Self::Parse,
        Self::Minimal,
        Self::Lru,
        Self::Hash,
        Self::FloorOne,
        Self::FloorTwo,
        Self::FloorInsertion,
    ];
    /// Those that balance.
    pub(super) const BALANCERS: [Self; 3] = [Self::Minimal, Self::Lru, Self::Hash];

    /// How reports call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty program",
            Self::Parse => "parse only",
            Self::Minimal => "minimal, no table",
            Self::Lru => "minimal, LRU hash",
            Self::Hash => "minimal, hash",
            Self::FloorOne => "floor, one line",
            Self::FloorTwo => "floor, two lines",
            Self::FloorInsertion => "floor, an insertion's lines",
        }
    }

    /// Its name in the object.
    const fn program(self) -> &'static str {
        match self {
            Self::Empty => "bench_empty",
            Self::Parse => "bench_parse",
            Self::Minimal => "bench_minimal",
            Self::Lru => "bench_lru",
            Self::Hash => "bench_hash",
            Self::FloorOne => "bench_floor_one",
            Self::FloorTwo => "bench_floor_two",
            Self::FloorInsertion => "bench_floor_insert",
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Run {
    /// Nanoseconds of this thread for each packet, driver and test run included.
    pub(super) nanoseconds: f64,
    /// The last packet as it came out.
    pub(super) frame: Vec<u8>,
}

/// The loaded object.
pub(super) struct Rig {
    object: Ebpf,
    course: Array<MapData, Wire<Course>>,
    under_test: ProgramArray<MapData>,
    misses: PerCpuArray<MapData, u64>,
    swept: Vec<u8>,
}

impl Rig {
    /// Loads it over the ground's flow tables; its own maps are empty but for the services.
    pub(super) fn load(ground: &Ground) -> Result<Self> {
        let path = object_path()?;
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut loader = EbpfLoader::new();
        for table in [Table::FlowsV4, Table::FlowsV6] {
            loader.map_max_entries(table.name(), ground.extent.buckets);
            loader.map_pin_path(table.name(), ground.paths().map(table));
        }
        for name in HASHES {
            loader.map_max_entries(name, ground.extent.buckets * HASHED_FOR_A_BUCKET);
        }
        let mut object = loader.load(&bytes).context("load the bench's object")?;
        let programs = Baseline::ALL.map(Baseline::program);
        for name in programs.into_iter().chain(["bench_driver"]) {
            let program = classifier(&mut object, name)?;
            program.load().with_context(|| format!("load {name}"))?;
        }
        let mut map =
            |name: &'static str| object.take_map(name).with_context(|| format!("no {name}"));
        let mut rig = Self {
            course: map("COURSE")?.try_into()?,
            under_test: map("UNDER_TEST")?.try_into()?,
            misses: map("BENCH_MISSES")?.try_into()?,
            swept: vec![0; SWEPT],
            object,
        };
        rig.fill::<2>(["BENCH_FRONTS", "BENCH_SLOTS"], false)?;
        rig.fill::<5>(["BENCH_FRONTS_V6", "BENCH_SLOTS_V6"], true)?;
        let map = rig.object.take_map("BENCH_MASKS");
        let mut masks: Array<_, u32> = map.context("no BENCH_MASKS")?.try_into()?;
        for version in 0..2 {
            masks.set(version, ground.extent.buckets - 1, 0)?;
        }
        Ok(rig)
    }

    /// Gives the minimal balancers one family of the services: addresses and one more word are `N`.
    fn fill<const N: usize>(&mut self, [fronts, slots]: [&str; 2], is_v6: bool) -> Result<()>
    where
        [u32; N]: Pod,
    {
        let mut map = |name: &str| {
            let map = self.object.take_map(name);
            map.with_context(|| format!("no {name}"))
        };
        let mut fronts: HashMap<_, [u32; N], [u32; N]> = map(fronts)?.try_into()?;
        let mut slots: Array<_, [u32; N]> = map(slots)?.try_into()?;
        let mut first = 0;
        for service in &services::ALL {
            let dialled = service.dialled(is_v6);
            let endpoints = service.endpoints(is_v6);
            for protocol in [6, 17] {
                let key = |socket: SocketAddr| words::<N>(socket, |port| port << 16 | protocol);
                fronts.insert(key(dialled)?, words(dialled, |_| first)?, 0)?;
                for (slot, endpoint) in (0..SLOTS).zip(endpoints.iter().cycle()) {
                    slots.set(first + slot, words::<N>(*endpoint, |port| port)?, 0)?;
                }
                let answered = words(dialled, |port| 1 << 16 | port)?;
                for endpoint in &endpoints {
                    fronts.insert(key(*endpoint)?, answered, 0)?;
                }
                first += SLOTS;
            }
        }
        Ok(())
    }

    /// One of the baselines.
    pub(super) fn baseline(&mut self, baseline: Baseline) -> Result<&mut SchedClassifier> {
        classifier(&mut self.object, baseline.program())
    }

    /// Flows that the minimal balancers did not know, so far.
    pub(super) fn misses(&self) -> Result<u64> {
        Ok(self.misses.get(&0, 0)?.iter().sum())
    }

    /// Fills the caches with what nobody asks for.
    pub(super) fn sweep_caches(&mut self) {
        let next = self.swept[0].wrapping_add(1);
        self.swept.fill(next);
    }

    /// Has `program` handle `count` packets of the course.
    pub(super) fn run(&mut self, program: &ProgramFd, course: &Course, count: u32) -> Result<Run> {
        self.course.set(0, Wire(*course), 0)?;
        self.under_test.set(0, program, 0)?;
        let frame = [
            &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..],
            ether_type(course),
        ]
        .concat();
        let frame = [&frame[..], &course.header].concat();
        let mut out = vec![0; FRAME_ROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut out);
        options.repeat = count;
        let driver = classifier(&mut self.object, "bench_driver")?;
        let before = thread_time();
        let result = driver.test_run(options)?;
        let nanoseconds = (thread_time() - before) / f64::from(count);
        ensure!(
            result.return_value.cast_signed() == -1,
            "a program returned {}",
            result.return_value.cast_signed()
        );
        out.truncate(usize::try_from(result.data_size_out)?);
        Ok(Run {
            nanoseconds,
            frame: out,
        })
    }
}

/// Keeps this thread on the last processor that it may use.
pub(super) fn pin() -> Result<()> {
    let own = Pid::from_raw(0);
    let usable = sched_getaffinity(own)?;
    let mut backwards = (0..CpuSet::count()).rev();
    let last = backwards.find(|cpu| usable.is_set(*cpu) == Ok(true));
    let mut one = CpuSet::new();
    one.set(last.context("no processor may be used")?)?;
    sched_setaffinity(own, &one).context("stay on one processor")
}

/// Nanoseconds that this thread has run. Others' use of the processor is not in it.
pub(super) fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    to_f64(seconds) * 1e9 + to_f64(nanoseconds)
}

/// An address as it lies in a packet, and one more word of the port as it lies there.
fn words<const N: usize>(socket: SocketAddr, last: impl Fn(u32) -> u32) -> Result<[u32; N]> {
    let octets = match socket.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let address = octets.as_chunks::<4>().0.iter().copied();
    let port = u16::from_ne_bytes(socket.port().to_be_bytes());
    let words: Vec<u32> = address
        .map(u32::from_ne_bytes)
        .chain([last(port.into())])
        .collect();
    let count = words.len();
    let words = words.try_into().ok();
    words.with_context(|| format!("{count} words of {socket}, not {N}"))
}

const fn ether_type(course: &Course) -> &'static [u8] {
    if course.ip_checksum == 0 {
        &[0x86, 0xdd]
    } else {
        &[0x08, 0x00]
    }
}

fn classifier<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    let program = object.program_mut(name);
    let program = program.with_context(|| format!("the bench's object has no {name}"))?;
    Ok(program.try_into()?)
}

/// Where xtask left the object.
fn object_path() -> Result<PathBuf> {
    if let Some(path) = env::var_os(OBJECT_PATH_VARIABLE) {
        return Ok(path.into());
    }
    let own = env::current_exe().context("find this program's own path")?;
    let target = own.ancestors().find(|path| path.ends_with("target"));
    let path = target.map(|target| target.join("bpf/steerage-bench-bpf.o"));
    path.filter(|path| path.is_file())
        .with_context(|| format!("run by `cargo xtask bench`, or set {OBJECT_PATH_VARIABLE}"))
}
