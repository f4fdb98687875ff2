//! The driver program and the minimal balancers, loaded; and how a program is timed.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, SchedClassifier, TestRun as _, TestRunOptions},
};
use lb_agent::dataplane::bpf::Wire;
use lb_common::course::Course;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use rustix::time::{ClockId, clock_gettime};

use super::services::{self, Service};
use crate::scenario::to_f64;

/// Names the object with the bench's programs.
const OBJECT_PATH_VARIABLE: &str = "STEERAGE_BENCH_OBJECT_PATH";
/// Room for the frame that comes out.
const FRAME_ROOM: usize = 256;
/// Bytes that no cache of a processor holds beside anything else.
const SWEPT: usize = 64 << 20;
/// Slots of a service in the minimal balancers' table.
const SLOTS: usize = 256;

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
}

impl Baseline {
    /// All of them, cheapest first.
    pub(super) const ALL: [Self; 5] = [
        Self::Empty,
        Self::Parse,
        Self::Minimal,
        Self::Lru,
        Self::Hash,
    ];

    /// How reports call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty program",
            Self::Parse => "parse only",
            Self::Minimal => "minimal, no table",
            Self::Lru => "minimal, LRU hash",
            Self::Hash => "minimal, hash",
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
    /// Loads it, with empty maps but for the services.
    pub(super) fn load() -> Result<Self> {
        let path = object_path()?;
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let mut object = Ebpf::load(&bytes).context("load the bench's object")?;
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
        rig.fill()?;
        Ok(rig)
    }

    /// Gives the minimal balancers the IPv4 side of the services.
    fn fill(&mut self) -> Result<()> {
        let map = self.object.take_map("BENCH_FRONTS");
        let mut fronts: HashMap<_, [u32; 2], u64> = map.context("no BENCH_FRONTS")?.try_into()?;
        let map = self.object.take_map("BENCH_SLOTS");
        let mut slots: Array<_, u64> = map.context("no BENCH_SLOTS")?.try_into()?;
        let mut first = 0;
        for service in &services::ALL {
            for protocol in [6, 17] {
                let dialled = in_memory(service, None)?;
                let key = [dialled.0, (dialled.1 << 16) | protocol];
                fronts.insert(key, u64::from(first), 0)?;
                let endpoints = service.endpoints(false);
                for slot in 0..SLOTS {
                    let endpoint = in_memory(service, Some(slot % endpoints.len()))?;
                    let target = u64::from(endpoint.0) << 32 | u64::from(endpoint.1);
                    slots.set(first + u32::try_from(slot)?, target, 0)?;
                }
                for index in 0..endpoints.len() {
                    let endpoint = in_memory(service, Some(index))?;
                    let key = [endpoint.0, (endpoint.1 << 16) | protocol];
                    let answered = u64::from(dialled.0) << 32 | 1 << 16 | u64::from(dialled.1);
                    fronts.insert(key, answered, 0)?;
                }
                first += u32::try_from(SLOTS)?;
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
fn thread_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    to_f64(seconds) * 1e9 + to_f64(nanoseconds)
}

/// Address and port as they lie in a packet: what is dialled, or an endpoint.
fn in_memory(service: &Service, endpoint: Option<usize>) -> Result<(u32, u32)> {
    let socket = match endpoint {
        Some(index) => service.endpoints(false).get(index).copied(),
        None => Some(service.dialled(false)),
    };
    let Some(std::net::SocketAddr::V4(socket)) = socket else {
        anyhow::bail!("no such endpoint");
    };
    let port = u16::from_ne_bytes(socket.port().to_be_bytes());
    Ok((u32::from_ne_bytes(socket.ip().octets()), port.into()))
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
