//! The driver program and the minimal balancers, loaded; and how a program is timed.

use std::{
    env, fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::{ProgramFd, ProgramInfo, SchedClassifier, TestRun as _, TestRunOptions, Xdp},
};
use lb_agent::dataplane::{bpf::Wire, layout::Table};
use lb_common::course::{Course, MACS};
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

/// The most entries of a kernel's hash: a million flows fill it, each direction for itself. Where ours has
/// fewer, the hashes have as many.
const MOST_HASHED: u32 = 1 << 21;
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
    /// The same, and sends the frame as routing tables say; for XDP alone.
    Sender,
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
    /// All of them for tc, cheapest first, and the floors.
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

    /// All of them for XDP.
    pub(super) const FRAMES: [Self; 6] = [
        Self::Empty,
        Self::Parse,
        Self::Minimal,
        Self::Sender,
        Self::Lru,
        Self::Hash,
    ];

    /// How reports call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty program",
            Self::Parse => "parse only",
            Self::Minimal => "minimal, no table",
            Self::Sender => "minimal, no table, sends",
            Self::Lru => "minimal, LRU hash",
            Self::Hash => "minimal, hash",
            Self::FloorOne => "floor, one line",
            Self::FloorTwo => "floor, two lines",
            Self::FloorInsertion => "floor, an insertion's lines",
        }
    }

    /// Its name in the object.
    fn program(self, layer: Layer) -> Result<&'static str> {
        Ok(match (layer, self) {
            (Layer::Packets, Self::Empty) => "bench_empty",
            (Layer::Packets, Self::Parse) => "bench_parse",
            (Layer::Packets, Self::Minimal) => "bench_minimal",
            (Layer::Packets, Self::Lru) => "bench_lru",
            (Layer::Packets, Self::Hash) => "bench_hash",
            (Layer::Packets, Self::FloorOne) => "bench_floor_one",
            (Layer::Packets, Self::FloorTwo) => "bench_floor_two",
            (Layer::Packets, Self::FloorInsertion) => "bench_floor_insert",
            (Layer::Frames, Self::Empty) => "bench_x_empty",
            (Layer::Frames, Self::Parse) => "bench_x_parse",
            (Layer::Frames, Self::Minimal) => "bench_x_minimal",
            (Layer::Frames, Self::Sender) => "bench_x_sender",
            (Layer::Frames, Self::Lru) => "bench_x_lru",
            (Layer::Frames, Self::Hash) => "bench_x_hash",
            _ => bail!("there is no {self:?} for {layer:?}"),
        })
    }
}

/// What a program is run on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Layer {
    /// Packets of the host: it is one for tc.
    Packets,
    /// Frames of a driver: it is one for XDP.
    Frames,
}

/// How programs end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// The packet goes on, as far as the program is concerned.
    Next,
    /// A device has it to send.
    Sent,
}

impl End {
    const fn of(layer: Layer, returned: u32) -> Option<Self> {
        match (layer, returned.cast_signed()) {
            // `TCX_NEXT` and `XDP_PASS`.
            (Layer::Packets, -1) | (Layer::Frames, 2) => Some(Self::Next),
            // `TCX_REDIRECT` and `XDP_REDIRECT`.
            (Layer::Packets, 7) | (Layer::Frames, 4) => Some(Self::Sent),
            _ => None,
        }
    }
}

/// A program that can be run, and what on.
pub(super) struct Runnable {
    /// What the driver calls.
    pub(super) fd: ProgramFd,
    /// What on.
    pub(super) layer: Layer,
    /// Interface index of the device that packets come by or go to, if not the loopback device's.
    pub(super) device: Option<u32>,
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Run {
    /// Nanoseconds of this thread for each packet, driver and test run included.
    pub(super) nanoseconds: f64,
    /// The last packet as it came out.
    pub(super) frame: Vec<u8>,
    /// How the program ended with it.
    pub(super) end: End,
}

/// The loaded object.
pub(super) struct Rig {
    object: Ebpf,
    course: Array<MapData, Wire<Course>>,
    under_test: ProgramArray<MapData>,
    frames_test: ProgramArray<MapData>,
    device: Option<u32>,
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
            loader.map_max_entries(name, MOST_HASHED.min(ground.extent.buckets * 8));
        }
        let mut object = loader.load(&bytes).context("load the bench's object")?;
        for (name, program) in object.programs_mut() {
            let loaded = if name.starts_with("bench_x_") {
                <&mut Xdp>::try_from(program)?.load()
            } else {
                <&mut SchedClassifier>::try_from(program)?.load()
            };
            loaded.with_context(|| format!("load {name}"))?;
        }
        let mut map =
            |name: &'static str| object.take_map(name).with_context(|| format!("no {name}"));
        let mut rig = Self {
            course: map("COURSE")?.try_into()?,
            under_test: map("UNDER_TEST")?.try_into()?,
            frames_test: map("FRAMES_TEST")?.try_into()?,
            device: ground.uplink(),
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
    pub(super) fn baseline(&mut self, baseline: Baseline, layer: Layer) -> Result<Runnable> {
        let name = baseline.program(layer)?;
        let fd = match layer {
            Layer::Packets => classifier(&mut self.object, name)?.fd()?.try_clone()?,
            Layer::Frames => frame_program(&mut self.object, name)?.fd()?.try_clone()?,
        };
        Ok(Runnable {
            fd,
            layer,
            device: self.device,
        })
    }

    /// What the kernel says of it.
    pub(super) fn info(&mut self, baseline: Baseline, layer: Layer) -> Result<ProgramInfo> {
        let name = baseline.program(layer)?;
        Ok(match layer {
            Layer::Packets => classifier(&mut self.object, name)?.info()?,
            Layer::Frames => frame_program(&mut self.object, name)?.info()?,
        })
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

    /// Has `program` handle `count` packets of the course, none of which it keeps.
    pub(super) fn run(&mut self, program: &Runnable, course: &Course, count: u32) -> Result<Run> {
        self.course.set(0, Wire(*course), 0)?;
        let frame = [&MACS[..], ether_type(course), &course.header].concat();
        let context = match (program.layer, program.device) {
            (Layer::Packets, device) => Some(packet_context(device.unwrap_or(LOOPBACK))),
            (Layer::Frames, None) => None,
            (Layer::Frames, Some(device)) => Some(frame_context(device, frame.len())?),
        };
        let mut out = vec![0; FRAME_ROOM];
        let mut options = TestRunOptions::new();
        options.data_in = Some(&frame);
        options.data_out = Some(&mut out);
        options.ctx_in = context.as_deref();
        options.repeat = count;
        let (result, time) = match program.layer {
            Layer::Packets => {
                self.under_test.set(0, &program.fd, 0)?;
                let driver = classifier(&mut self.object, "bench_driver")?;
                let before = thread_time();
                (driver.test_run(options)?, thread_time() - before)
            }
            Layer::Frames => {
                self.frames_test.set(0, &program.fd, 0)?;
                let driver = frame_program(&mut self.object, "bench_x_driver")?;
                let before = thread_time();
                (driver.test_run(options)?, thread_time() - before)
            }
        };
        let returned = result.return_value;
        let end = End::of(program.layer, returned);
        out.truncate(usize::try_from(result.data_size_out)?);
        Ok(Run {
            nanoseconds: time / f64::from(count),
            frame: out,
            end: end.with_context(|| format!("a program returned {}", returned.cast_signed()))?,
        })
    }
}

/// Interface index of the device by which packets come and go for which there is none.
const LOOPBACK: u32 = 1;

/// A `struct __sk_buff` that says nothing but the device, and that one has brought the packet: the host has
/// not made it.
fn packet_context(device: u32) -> Vec<u8> {
    /// Where its fields `ingress_ifindex` and `ifindex` are.
    const FIELDS: usize = 36;
    let mut context = vec![0; 192];
    for field in context[FIELDS..FIELDS + 8].chunks_exact_mut(4) {
        field.copy_from_slice(&device.to_ne_bytes());
    }
    context
}

/// A `struct xdp_md`: data, its end, metadata, the device that it came by, its queue, that it goes to.
fn frame_context(device: u32, length: usize) -> Result<Vec<u8>> {
    let length = u32::try_from(length)?;
    let fields = [0, length, 0, device, 0, 0];
    Ok(fields.map(u32::to_ne_bytes).concat())
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

fn frame_program<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
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
