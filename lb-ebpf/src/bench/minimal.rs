//! The least that balances load, to compare with: no options, no extension headers, no fragments, no
//! ICMP, no states, no time. What differs is only how it remembers flows.
//!
//! ```text
//! parse ─► flow known? ──yes──────────────────────────────────► rewrite
//!              │ no
//!              └► frontend's hash ─► slot ─► backend ─► remember both directions ─► rewrite
//! ```

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use lb_common::checksum::{Sum, update};
use lb_common::hash;

use crate::bytes::{load, store};
use crate::medium::{Change, Medium};
use crate::shape::{self, Flow, Offsets};

/// Who is dialled, or who answers.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Frontend<const N: usize> {
    /// As in the packet.
    address: [u32; N],
    /// The port as in the packet in the upper half, the protocol below.
    port_and_protocol: u32,
}

/// Whom packets get instead of whom they had: 8 bytes, or 20 of IPv6.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Target<const N: usize> {
    /// As in the packet.
    address: [u32; N],
    /// The port as in the packet in the lower half, and above it whether it replaces the source. Of a
    /// frontend that is dialled: the first of its slots.
    port: u32,
}

impl<const N: usize> Target<N> {
    const IS_REPLY: u32 = 1 << 16;

    #[inline(always)]
    const fn is_reply(&self) -> bool {
        self.port & Self::IS_REPLY != 0
    }
}

/// Frontend → first of its slots; a backend's address and port → whom to answer for.
#[map]
static BENCH_FRONTS: HashMap<Frontend<1>, Target<1>> = HashMap::with_max_entries(65_536, 0);
#[map]
static BENCH_FRONTS_V6: HashMap<Frontend<4>, Target<4>> = HashMap::with_max_entries(65_536, 0);
/// 256 slots for each service, each a backend.
#[map]
static BENCH_SLOTS: Array<Target<1>> = Array::with_max_entries(65_536, 0);
#[map]
static BENCH_SLOTS_V6: Array<Target<4>> = Array::with_max_entries(65_536, 0);
/// Flows that were not known. Counted on that way alone, so that a known flow pays nothing for it.
#[map]
static BENCH_MISSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BENCH_LRU: LruHashMap<Flow<1>, Target<1>> = LruHashMap::with_max_entries(1 << 21, 0);
#[map]
static BENCH_LRU_V6: LruHashMap<Flow<4>, Target<4>> = LruHashMap::with_max_entries(1 << 21, 0);
#[map]
static BENCH_HASH: HashMap<Flow<1>, Target<1>> = HashMap::with_max_entries(1 << 21, 0);
#[map]
static BENCH_HASH_V6: HashMap<Flow<4>, Target<4>> = HashMap::with_max_entries(1 << 21, 0);

/// The maps of a family.
pub(crate) trait Version<const N: usize> {
    /// Who is dialled, and who answers.
    fn fronts() -> &'static HashMap<Frontend<N>, Target<N>>;
    /// Backends.
    fn slots() -> &'static Array<Target<N>>;
    /// Flows.
    fn lru() -> &'static LruHashMap<Flow<N>, Target<N>>;
    /// Flows.
    fn hash() -> &'static HashMap<Flow<N>, Target<N>>;
}

/// Those of both.
pub(crate) struct Maps;

impl Version<1> for Maps {
    #[inline(always)]
    fn fronts() -> &'static HashMap<Frontend<1>, Target<1>> {
        &BENCH_FRONTS
    }

    #[inline(always)]
    fn slots() -> &'static Array<Target<1>> {
        &BENCH_SLOTS
    }

    #[inline(always)]
    fn lru() -> &'static LruHashMap<Flow<1>, Target<1>> {
        &BENCH_LRU
    }

    #[inline(always)]
    fn hash() -> &'static HashMap<Flow<1>, Target<1>> {
        &BENCH_HASH
    }
}

impl Version<4> for Maps {
    #[inline(always)]
    fn fronts() -> &'static HashMap<Frontend<4>, Target<4>> {
        &BENCH_FRONTS_V6
    }

    #[inline(always)]
    fn slots() -> &'static Array<Target<4>> {
        &BENCH_SLOTS_V6
    }

    #[inline(always)]
    fn lru() -> &'static LruHashMap<Flow<4>, Target<4>> {
        &BENCH_LRU_V6
    }

    #[inline(always)]
    fn hash() -> &'static HashMap<Flow<4>, Target<4>> {
        &BENCH_HASH_V6
    }
}

/// How a balancer remembers.
pub(crate) trait Memory {
    /// Whether answers have to be recognised by their sender alone.
    const IS_FORGETFUL: bool = false;
    /// Where the flow goes.
    fn recall<const N: usize>(flow: &Flow<N>) -> Option<Target<N>>
    where
        Maps: Version<N>;
    /// Remembers one direction; says whether it could.
    fn remember<const N: usize>(flow: &Flow<N>, target: &Target<N>) -> bool
    where
        Maps: Version<N>;
}

/// Not at all.
pub(crate) struct Forgetful;

impl Memory for Forgetful {
    const IS_FORGETFUL: bool = true;

    #[inline(always)]
    fn recall<const N: usize>(_: &Flow<N>) -> Option<Target<N>>
    where
        Maps: Version<N>,
    {
        None
    }

    #[inline(always)]
    fn remember<const N: usize>(_: &Flow<N>, _: &Target<N>) -> bool
    where
        Maps: Version<N>,
    {
        true
    }
}

/// In the kernel's LRU hash.
pub(crate) struct InLruHash;

impl Memory for InLruHash {
    #[inline(always)]
    fn recall<const N: usize>(flow: &Flow<N>) -> Option<Target<N>>
    where
        Maps: Version<N>,
    {
        // SAFETY: a value of the map's, of which any bytes are a valid one.
        Maps::lru().get_ptr(flow).map(|it| unsafe { it.read() })
    }

    #[inline(always)]
    fn remember<const N: usize>(flow: &Flow<N>, target: &Target<N>) -> bool
    where
        Maps: Version<N>,
    {
        Maps::lru().insert(flow, target, 0).is_ok()
    }
}

/// In the kernel's hash.
pub(crate) struct InHash;

impl Memory for InHash {
    #[inline(always)]
    fn recall<const N: usize>(flow: &Flow<N>) -> Option<Target<N>>
    where
        Maps: Version<N>,
    {
        // SAFETY: a value of the map's, of which any bytes are a valid one.
        Maps::hash().get_ptr(flow).map(|it| unsafe { it.read() })
    }

    #[inline(always)]
    fn remember<const N: usize>(flow: &Flow<N>, target: &Target<N>) -> bool
    where
        Maps: Version<N>,
    {
        Maps::hash().insert(flow, target, 0).is_ok()
    }
}

/// Balances one packet.
#[inline(always)]
pub(crate) fn run<M: Memory, C: Medium>(ctx: &C) -> C::Action {
    if let Some((start, flow)) = shape::read::<1>(ctx) {
        return balance::<M, C, 1>(ctx, start, &flow);
    }
    match shape::read::<4>(ctx) {
        Some((start, flow)) => balance::<M, C, 4>(ctx, start, &flow),
        None => C::NEXT,
    }
}

#[inline(always)]
fn balance<M: Memory, C: Medium, const N: usize>(ctx: &C, start: usize, flow: &Flow<N>) -> C::Action
where
    Maps: Version<N>,
{
    match M::recall(flow).or_else(|| choose::<M, N>(flow)) {
        Some(target) => rewrite(ctx, start, flow, &target),
        None => C::NEXT,
    }
}

/// A flow that is not known.
#[inline(always)]
fn choose<M: Memory, const N: usize>(flow: &Flow<N>) -> Option<Target<N>>
where
    Maps: Version<N>,
{
    if let Some(count) = BENCH_MISSES.get_ptr_mut(0) {
        // SAFETY: this processor's own word, which nobody else refers to while the program runs.
        let count = unsafe { &mut *count };
        *count = count.wrapping_add(1);
    }
    if M::IS_FORGETFUL {
        let sender = Frontend {
            address: flow.source,
            port_and_protocol: flow.ports << 16 | flow.protocol,
        };
        if let Some(target) = Maps::fronts().get_ptr(sender) {
            // SAFETY: a value of the map's, of which any bytes are a valid one.
            return Some(unsafe { target.read() });
        }
    }
    let dialled = Frontend {
        address: flow.destination,
        port_and_protocol: flow.ports & 0xffff_0000 | flow.protocol,
    };
    // SAFETY: as above.
    let first = unsafe { (*Maps::fronts().get_ptr(dialled)?).port };
    let slot = first.wrapping_add(hash::scale(hash::lower(flow.hash()), 256));
    // SAFETY: as above.
    let backend = unsafe { Maps::slots().get_ptr(slot)?.read() };
    let answer = Flow {
        source: backend.address,
        destination: flow.source,
        ports: flow.ports << 16 | backend.port & 0xffff,
        protocol: flow.protocol,
    };
    let dialled = Target {
        address: flow.destination,
        port: Target::<N>::IS_REPLY | flow.ports >> 16,
    };
    (M::remember(&answer, &dialled) && M::remember(flow, &backend)).then_some(backend)
}

/// Writes address, port and checksums.
#[inline(always)]
fn rewrite<C: Medium, const N: usize>(
    ctx: &C,
    start: usize,
    flow: &Flow<N>,
    target: &Target<N>,
) -> C::Action {
    let (old_address, old_port, address_at, port_at) = if target.is_reply() {
        let (address_at, port_at) = (Offsets::<N>::SOURCE, Offsets::<N>::PORTS);
        (&flow.source, flow.ports & 0xffff, address_at, port_at)
    } else {
        let (address_at, port_at) = (Offsets::<N>::DESTINATION, Offsets::<N>::PORTS + 2);
        (&flow.destination, flow.ports >> 16, address_at, port_at)
    };
    let (old_port, new_port) = (old_port as u16, target.port as u16);
    let mut address_change = Sum::ZERO;
    for (index, (old, new)) in old_address.iter().zip(&target.address).enumerate() {
        address_change = address_change
            .double(!u32::from_be(*old))
            .double(u32::from_be(*new));
        store::<4>(start + address_at + index * 4, *new);
    }
    let port_change = Sum::ZERO.replace_word(u16::from_be(old_port), u16::from_be(new_port));
    if let Some(offset) = Offsets::<N>::IP_CHECKSUM {
        let checksum = u16::from_be(load::<2>(start + offset) as u16);
        let checksum = update(checksum, address_change).to_be();
        store::<2>(start + offset, u32::from(checksum));
    }
    store::<2>(start + port_at, u32::from(new_port));
    let is_udp = flow.protocol != 6;
    let checksum = if is_udp { 6 } else { 16 };
    let is_fixed = ctx.fix(Change {
        offset: Offsets::<N>::PORTS + checksum,
        is_udp,
        is_v6: Offsets::<N>::IS_V6,
        address: address_change,
        port: port_change,
    });
    if is_fixed { C::NEXT } else { C::DROP }
}
