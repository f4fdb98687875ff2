//! Every map in one screen, and the kernel's side of [`Tables`].
//!
//! Sizes here are the smallest that make sense; the agent sets the real ones when it loads. Who
//! writes what, and for how long, is in `docs/maps.md`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use lb_common::family::Family;
use lb_common::flows::{Bucket, Buckets, SLOTS};
use lb_common::table::backend::BackendRecord;
use lb_common::table::config::CONFIG_WORDS;
use lb_common::table::counter::Counter;
use lb_common::table::device::DeviceRecord;
use lb_common::table::filter::FILTER_WORDS;
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::{Audience, SERVICE_WORDS, ServiceWord};
use lb_common::tables::Tables;
use lb_common::verdict::COUNTER_SLOTS;

use crate::atomic;

/// `BPF_F_MMAPABLE`: the agent reads and writes the array in its own memory.
const MMAPABLE: u32 = 1024;

/// Words of a bucket: control words, then entries.
const BUCKET_V4: usize = SLOTS + SLOTS * 8;
const BUCKET_V6: usize = SLOTS + SLOTS * 12;

#[map]
static FRONTENDS: HashMap<FrontendKey, u64> = HashMap::with_max_entries(1024, 0);
#[map]
static SERVICES: Array<[u64; SERVICE_WORDS]> = Array::with_max_entries(1024, MMAPABLE);
#[map]
static ARENA: Array<u64> = Array::with_max_entries(65_536, MMAPABLE);
#[map]
static BACKENDS: Array<BackendRecord> = Array::with_max_entries(1024, MMAPABLE);
#[map]
static FLOWS_V4: Array<[u64; BUCKET_V4]> = Array::with_max_entries(64, MMAPABLE);
#[map]
static FLOWS_V6: Array<[u64; BUCKET_V6]> = Array::with_max_entries(64, MMAPABLE);
#[map]
static SERVICE_FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, MMAPABLE);
#[map]
static BACKEND_FILTER: Array<u64> = Array::with_max_entries(FILTER_WORDS, MMAPABLE);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> = LruHashMap::with_max_entries(8192, 0);
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(COUNTER_SLOTS, 0);
#[map]
static CONFIG: Array<u64> = Array::with_max_entries(CONFIG_WORDS, MMAPABLE);
#[map]
static DEVICES: HashMap<u32, DeviceRecord> = HashMap::with_max_entries(1024, 0);
#[map]
static SERVICE_STATS: Array<u64> = Array::with_max_entries(1024, MMAPABLE);
#[map]
static BACKEND_STATS: Array<u64> = Array::with_max_entries(1024, MMAPABLE);
#[map]
pub(crate) static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// One bucket, in map memory.
pub(crate) struct MapBucket {
    words: *mut u64,
    entry_words: usize,
}

/// The flow table of one family.
#[derive(Clone, Copy)]
pub(crate) struct MapBuckets;
