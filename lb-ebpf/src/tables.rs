//! The kernel's side of [`Tables`]: what decisions read and write is what the maps hold.

use core::marker::PhantomData;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id};
use aya_ebpf::maps::lpm_trie::Key;
use lb_common::conntrack::State;
use lb_common::family::{Family, MappedAddress};
use lb_common::flow::{FlowEntry, FlowKey, FlowTuple};
use lb_common::flows::layout::entry_words;
use lb_common::flows::{
    Bucket, Buckets, Contest, FlowTable, Found, Insert as _, Placed, Placement, Probe, SLOTS, Spot,
    Timeouts, Vacancy,
};
use lb_common::id::{BackendId, Seconds, ServiceId};
use lb_common::onward::{Hop, Reach};
use lb_common::room::Room;
use lb_common::table::affinity::{AffinityKey, AffinityValue};
use lb_common::table::backend::BackendRecord;
use lb_common::table::config;
use lb_common::table::fragment::{FragmentKey, FragmentPorts};
use lb_common::table::frontend::FrontendKey;
use lb_common::table::service::{Audience, ServiceWord};
use lb_common::table::source_range::SourceRangeKey;
use lb_common::tables::Tables;
use lb_common::verdict::Reason;

use crate::count::count;
use crate::stand::Stand;
use crate::{atomic, device, flows, maps, region, socket};

/// The maps, as seen from the device that a program runs on.
pub(crate) struct KernelTables<S = *mut __sk_buff> {
    stand: S,
}

impl<S: Stand> KernelTables<S> {
    #[inline(always)]
    pub(crate) const fn new(stand: S) -> Self {
        Self { stand }
    }
}

impl KernelTables {
    /// The maps for an operation that asks nothing about the device.
    #[inline(always)]
    pub(crate) const fn without_packet() -> Self {
        Self {
            stand: core::ptr::null_mut(),
        }
    }
}

/// Reads one word that the agent may be writing.
#[inline(always)]
fn word_of(map: &aya_ebpf::maps::Array<u64>, index: u32) -> Option<u64> {
    let word = map.get_ptr(index)?;
    // SAFETY: the map returned a pointer to an aligned word of its own; values of array maps are
    // never freed.
    Some(unsafe { word.read_volatile() })
}

impl<S: Stand> Tables for KernelTables<S> {
    type Flows<F: Family> = MapBuckets<F>;

    #[inline(always)]
    fn config(&self, word: u32) -> u64 {
        word_of(&maps::CONFIG, word).unwrap_or(0)
    }

    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<u64> {
        let value = maps::FRONTENDS.get_ptr(key)?;
        // SAFETY: the pointer is to an aligned word of the map; another key's value in it is
        // noticed by its fingerprint.
        Some(unsafe { value.read_volatile() })
    }

    #[inline(always)]
    fn service(&self, index: u32, audience: Audience) -> Option<ServiceWord> {
        let words: *const u64 = maps::SERVICES.get_ptr(index)?.cast();
        let word = match audience {
            Audience::Internal => words,
            // SAFETY: the value is three words.
            Audience::External => unsafe { words.add(1) },
            // SAFETY: likewise.
            Audience::Inside => unsafe { words.add(2) },
        };
        // SAFETY: aligned and within the value, as above.
        Some(ServiceWord(unsafe { word.read_volatile() }))
    }

    #[inline(always)]
    fn arena(&self, word: u32) -> Option<u64> {
        word_of(&maps::ARENA, word)
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<BackendRecord> {
        let record = maps::BACKENDS.get_ptr(index)?;
        // SAFETY: array values are never freed; a record is whole before a region names its id.
        Some(unsafe { record.read() })
    }

    #[inline(always)]
    fn service_filter(&self, word: u32) -> u64 {
        word_of(&maps::SERVICE_FILTER, word).unwrap_or(u64::MAX)
    }

    #[inline(always)]
    fn backend_filter(&self, word: u32) -> u64 {
        word_of(&maps::BACKEND_FILTER, word).unwrap_or(u64::MAX)
    }

    #[inline(always)]
    fn node_ports(&self, word: u32) -> u64 {
        word_of(&maps::NODE_PORTS, word).unwrap_or(u64::MAX)
    }

    #[inline(always)]
    fn node_address(&self, address: &MappedAddress) -> Option<u64> {
        let value = maps::NODE_ADDRESSES.get_ptr(address)?;
        // SAFETY: the pointer is to an aligned word of the map; another key's value in it is
        // noticed by its fingerprint.
        Some(unsafe { value.read_volatile() })
    }

    #[inline(always)]
    fn has_source_range(&self, client: &SourceRangeKey) -> bool {
        let key = Key::new(client.prefix(), client.data());
        maps::SOURCE_RANGES.get(key).is_some()
    }

    #[inline(always)]
    fn flows<F: Family>(&self) -> MapBuckets<F> {
        let counts = self.config(config::FLOW_BUCKETS);
        let count = if F::IS_V6 {
            counts >> 32
        } else {
            counts & 0xffff_ffff
        };
        MapBuckets {
            count: count as u32,
            family: PhantomData,
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentPorts> {
        let ports = maps::FRAGMENTS.get_ptr(key)?;
        // SAFETY: four bytes of the map; a reused element is another datagram's, whose tuple then
        // finds no flow or one of the same addresses.
        Some(unsafe { ports.read() })
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, ports: FragmentPorts) {
        // An LRU map always finds room; a failure means a lost datagram, which is counted when its
        // next fragment is dropped.
        maps::FRAGMENTS.insert(key, ports, 0).unwrap_or_default();
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        let value = maps::AFFINITY.get_ptr(key)?;
        // SAFETY: the pointer is to an aligned word of the map; what another key's value in it says
        // is nobody's backend.
        Some(AffinityValue(unsafe { value.read_volatile() }))
    }

    #[inline(always)]
    fn remember_affinity(&self, key: &AffinityKey, value: AffinityValue) {
        // An LRU map finds room but for moments of contention; then the hash chooses once more.
        maps::AFFINITY.insert(key, value.0, 0).unwrap_or_default();
    }

    #[inline(always)]
    fn has_member(&self, offset: u32, count: u16, id: BackendId) -> bool {
        region::has_member(offset, count, id)
    }

    #[inline(always)]
    fn obscure(&self, value: u32, by: u32) -> u32 {
        obscure(u64::from(value), u64::from(by)) as u32
    }

    #[inline(always)]
    fn share_bridge<F: Family>(&self, client: F::Address, backend: F::Address) -> bool {
        self.stand.share_bridge::<F>(client, backend)
    }

    #[inline(always)]
    fn leads_on<F: Family>(&self, tuple: &FlowTuple<F>, reach: Reach) -> bool {
        self.stand.leads_on(tuple, reach)
    }

    #[inline(always)]
    fn source_address<F: Family>(&self) -> F::Address {
        let record = device::record_of(self.stand.device());
        record.unwrap_or_default().source::<F>()
    }

    #[inline(always)]
    fn is_of_host(&self) -> bool {
        self.stand.is_of_host()
    }

    #[inline(always)]
    fn device(&self) -> u32 {
        self.stand.device()
    }

    #[inline(always)]
    fn hop_of_host<F: Family>(&self, tuple: &FlowTuple<F>) -> Hop {
        self.stand.hop_of_host(tuple)
    }

    #[inline(always)]
    fn source_of<F: Family>(&self, device: u32) -> F::Address {
        device::record_of(device).unwrap_or_default().source::<F>()
    }

    #[inline(always)]
    fn has_socket<F: Family>(&self, tuple: &FlowTuple<F>) -> bool {
        socket::is_there(self.stand.context(), tuple)
    }

    #[inline(always)]
    fn note(&self, reason: Reason) {
        count(reason, 0);
    }

    #[inline(always)]
    fn opened(&self, service: ServiceId, backend: BackendId) {
        let shards = self.config(config::STATISTICS_SHARDS) as u32;
        // SAFETY: the helper takes no argument.
        let shard = unsafe { bpf_get_smp_processor_id() } & shards.wrapping_sub(1);
        for (map, index) in [
            (&maps::SERVICE_STATS, service.index()),
            (&maps::BACKEND_STATS, backend.index()),
        ] {
            if let Some(word) = map.get_ptr_mut(index.wrapping_mul(shards).wrapping_add(shard)) {
                // SAFETY: an aligned word of the map, changed by atomic additions only.
                unsafe { atomic::increment(word) };
            }
        }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes no argument.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn search<F: Family>(
        &self,
        key: &FlowKey<F>,
        now: Seconds,
        found: &mut Room<Found<F>>,
    ) -> bool {
        flows::search(key, now, found)
    }

    #[inline(always)]
    fn place<F: Family>(
        &self,
        entry: &FlowEntry<F>,
        state: State,
        now: Seconds,
        placed: &mut Placed,
    ) -> Placement {
        flows::Steps.place(entry, state, now, placed)
    }

    #[inline(always)]
    fn partner<'r, F: Family>(
        &self,
        entry: &FlowEntry<F>,
        room: &'r mut Room<FlowEntry<F>>,
    ) -> Option<&'r FlowEntry<F>> {
        flows::partner(entry, room)
    }

    #[inline(always)]
    fn remove<F: Family>(&self, entry: &FlowEntry<F>, now: Seconds) {
        flows::remove(entry, now);
    }
}

/// The flow table of one family, in its map.
#[derive(Clone, Copy)]
pub(crate) struct MapBuckets<F> {
    count: u32,
    family: PhantomData<F>,
}

impl<F: Family> Buckets<F> for MapBuckets<F> {
    type Bucket = MapBucket<F>;

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<MapBucket<F>> {
        let words: *mut u64 = if F::IS_V6 {
            maps::FLOWS_V6.get_ptr_mut(index)?.cast()
        } else {
            maps::FLOWS_V4.get_ptr_mut(index)?.cast()
        };
        Some(MapBucket {
            words,
            family: PhantomData,
        })
    }

    #[inline(always)]
    fn count(&self) -> u32 {
        self.count
    }

    #[inline(always)]
    fn probe<T: Timeouts>(&self, _: &FlowTable<F, Self, T>, key: &FlowKey<F>, probe: &mut Probe) {
        flows::probe(key, probe);
    }

    #[inline(always)]
    fn holds<T: Timeouts>(
        &self,
        _: &FlowTable<F, Self, T>,
        entry: &FlowEntry<F>,
        placed: &Placed,
    ) -> bool {
        flows::Steps.holds(entry, placed)
    }

    #[inline(always)]
    fn survey_bucket<T: Timeouts>(
        &self,
        _: &FlowTable<F, Self, T>,
        probe: &Probe,
        index: u32,
        now: Seconds,
        best: &mut Vacancy,
    ) -> bool {
        flows::survey::<F>(probe, index, now, best)
    }

    #[inline(always)]
    fn contest_bucket<T: Timeouts>(
        &self,
        _: &FlowTable<F, Self, T>,
        probe: &Probe,
        index: u32,
        own: &Spot,
        now: Seconds,
    ) -> Contest {
        flows::contest::<F>(probe, index, own, now)
    }

    #[inline(always)]
    fn locate_bucket<T: Timeouts>(
        &self,
        _: &FlowTable<F, Self, T>,
        probe: &Probe,
        index: u32,
        now: Seconds,
        spot: &mut Spot,
    ) -> bool {
        flows::locate::<F>(probe, index, now, spot)
    }
}

/// One bucket, in map memory.
pub(crate) struct MapBucket<F> {
    words: *mut u64,
    family: PhantomData<F>,
}

impl<F: Family> MapBucket<F> {
    #[inline(always)]
    fn control_word(&self, slot: usize) -> *mut u64 {
        // SAFETY: a bucket begins with one control word for each slot, and the slot is cut to fit.
        unsafe { self.words.add(slot & (SLOTS - 1)) }
    }

    #[inline(always)]
    fn entry_word(&self, slot: usize, word: usize) -> *mut u64 {
        let entry = (slot & (SLOTS - 1)) * entry_words::<F>();
        // SAFETY: after the control words come as many entries; `word` is a constant below an
        // entry's length everywhere in `layout`.
        unsafe { self.words.add(SLOTS + entry + word) }
    }
}

impl<F: Family> Bucket for MapBucket<F> {
    #[inline(always)]
    fn control(&self, slot: usize) -> u64 {
        // SAFETY: an aligned word of the map, whose values are never freed.
        unsafe { self.control_word(slot).read_volatile() }
    }

    #[inline(always)]
    fn compare_exchange(&self, slot: usize, current: u64, new: u64) -> bool {
        // SAFETY: as above.
        unsafe { atomic::compare_exchange(self.control_word(slot), current, new) }
    }

    #[inline(always)]
    fn word(&self, slot: usize, word: usize) -> u64 {
        // SAFETY: as above; what another processor changes meanwhile is noticed by the control word.
        unsafe { self.entry_word(slot, word).read_volatile() }
    }

    #[inline(always)]
    fn set_word(&self, slot: usize, word: usize, value: u64) {
        // SAFETY: as above; the caller holds the slot's claim.
        unsafe { self.entry_word(slot, word).write_volatile(value) };
    }

    /// A load whose result nobody waits for: BPF has no instruction to prefetch.
    #[inline(always)]
    fn approach(&self) {
        self.control(0);
    }

    #[inline(always)]
    fn obscure(&self, value: u64, by: u64) -> u64 {
        obscure(value, by)
    }
}

/// `value`, of which the verifier knows as little as of `by` afterwards.
#[inline(always)]
fn obscure(value: u64, by: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: two operations on registers, the second of which undoes the first.
        unsafe {
            core::arch::asm!(
                "{0} ^= {1}",
                "{0} ^= {1}",
                inout(reg) value,
                in(reg) by,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = by;
        value
    }
}
