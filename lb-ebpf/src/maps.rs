//! Every map in one screen, in the kernel's own types.
//!
//! Sizes here are the smallest that make sense; the agent sets the real ones when it loads. Who
//! writes what, and for how long, is in `docs/maps.md`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use lb_common::family::{MappedAddress, V4, V6};
use lb_common::flows::layout::bucket_words;
use lb_common::table::affinity::AffinityKey;
use lb_common::table::backend::BackendRecord;
use lb_common::table::config::CONFIG_WORDS;
use lb_common::table::counter::Counter;
use lb_common::table::device::DeviceRecord;
use lb_common::table::filter::{BACKEND_FILTER_WORDS, NODE_PORT_WORDS, SERVICE_FILTER_WORDS};
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::SERVICE_WORDS;
use lb_common::verdict::COUNTER_SLOTS;

/// `BPF_F_MMAPABLE`: the agent reads and writes the array in its own memory.
const MMAPABLE: u32 = 1024;

/// A bucket of `FLOWS_V4`: 576 bytes.
pub(crate) type BucketV4 = [u64; bucket_words::<V4>()];
/// A bucket of `FLOWS_V6`: 832 bytes.
pub(crate) type BucketV6 = [u64; bucket_words::<V6>()];

#[map]
pub(crate) static FRONTENDS: HashMap<FrontendKey, u64> = HashMap::with_max_entries(1024, 0);
#[map]
pub(crate) static SERVICES: Array<[u64; SERVICE_WORDS]> = Array::with_max_entries(1024, MMAPABLE);
#[map]
pub(crate) static ARENA: Array<u64> = Array::with_max_entries(65_536, MMAPABLE);
#[map]
pub(crate) static BACKENDS: Array<BackendRecord> = Array::with_max_entries(1024, MMAPABLE);
#[map]
pub(crate) static FLOWS_V4: Array<BucketV4> = Array::with_max_entries(64, MMAPABLE);
#[map]
pub(crate) static FLOWS_V6: Array<BucketV6> = Array::with_max_entries(64, MMAPABLE);
#[map]
pub(crate) static SERVICE_FILTER: Array<u64> =
    Array::with_max_entries(SERVICE_FILTER_WORDS, MMAPABLE);
#[map]
pub(crate) static BACKEND_FILTER: Array<u64> =
    Array::with_max_entries(BACKEND_FILTER_WORDS, MMAPABLE);
#[map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(8192, 0);
#[map]
pub(crate) static AFFINITY: LruHashMap<AffinityKey, u64> = LruHashMap::with_max_entries(1024, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);
#[map]
pub(crate) static CONFIG: Array<u64> = Array::with_max_entries(CONFIG_WORDS, MMAPABLE);
#[map]
pub(crate) static DEVICES: HashMap<u32, DeviceRecord> = HashMap::with_max_entries(1024, 0);
#[map]
pub(crate) static NODE_PORTS: Array<u64> = Array::with_max_entries(NODE_PORT_WORDS, MMAPABLE);
#[map]
pub(crate) static NODE_ADDRESSES: HashMap<MappedAddress, u64> = HashMap::with_max_entries(64, 0);
/// Keys are [`lb_common::table::source_range::SourceRangeKey`], as aya cuts them.
#[map]
pub(crate) static SOURCE_RANGES: LpmTrie<[u8; 20], u8> = LpmTrie::with_max_entries(64, 0);
#[map]
pub(crate) static SERVICE_STATS: Array<u64> = Array::with_max_entries(1024, MMAPABLE);
#[map]
pub(crate) static BACKEND_STATS: Array<u64> = Array::with_max_entries(1024, MMAPABLE);
#[map]
pub(crate) static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Working memory of a packet: see `hook::tc`.
pub(crate) type ScratchWords = [u64; 128];

#[map]
pub(crate) static SCRATCH_V4: PerCpuArray<ScratchWords> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static SCRATCH_V6: PerCpuArray<ScratchWords> = PerCpuArray::with_max_entries(1, 0);

/// Working memory of a frame: see `hook::xdp`.
pub(crate) type PassageWords = [u64; 160];

#[map]
pub(crate) static PASSAGE_V4: PerCpuArray<PassageWords> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub(crate) static PASSAGE_V6: PerCpuArray<PassageWords> = PerCpuArray::with_max_entries(1, 0);

/// The programs for what this host sends: see `hook::tc`. Each family has its own, as below.
#[map]
pub(crate) static HOST_PARTS: ProgramArray = ProgramArray::with_max_entries(2, 0);
pub(crate) const HOST_V4: u32 = 0;
pub(crate) const HOST_V6: u32 = 1;

/// The parts of an XDP program that follow the first: see `hook::xdp`. Two arrays, since the programs in
/// one must all be for scattered frames, or all not.
#[map]
pub(crate) static XDP_PARTS: ProgramArray = ProgramArray::with_max_entries(PARTS, 0);
#[map]
pub(crate) static XDP_PARTS_G: ProgramArray = ProgramArray::with_max_entries(PARTS, 0);
/// The part that decides as the uplink's ingress does.
pub(crate) const ENTER: u32 = 0;
/// The part that decides as the egress of the device does that a frame leaves by; each family has its
/// own, since the verifier's budget does not hold both.
pub(crate) const LEAVE_V4: u32 = 1;
pub(crate) const LEAVE_V6: u32 = 2;
const PARTS: u32 = 3;
