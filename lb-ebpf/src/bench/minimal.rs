//! The least that balances IPv4 load, to compare with: no options, no fragments, no ICMP, no states,
//! no time. What differs is only how it remembers flows.
//!
//! ```text
//! parse ─► flow known? ──yes──────────────────────────────────► rewrite
//!              │ no
//!              └► frontend's hash ─► slot ─► backend ─► remember both directions ─► rewrite
//! ```

use aya_ebpf::helpers::bpf_l4_csum_replace;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::TcContext;
use lb_common::checksum::{Sum, update};
use lb_common::hash;

use crate::packet::Skb;
use crate::{DROP, NEXT};

/// A flow as one direction of it sees it: 16 bytes, the first of them the addresses as in the packet.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Flow {
    source: u32,
    destination: u32,
    ports: u32,
    protocol: u32,
}

/// Who is dialled: address as in the packet, port and protocol.
type Frontend = [u32; 2];

/// Address as in the packet in the upper half; below, whether it replaces the source, and the port
/// as in the packet.
#[derive(Clone, Copy)]
struct Target(u64);

impl Target {
    const IS_REPLY: u64 = 1 << 16;

    #[inline(always)]
    const fn address(self) -> u32 {
        hash::upper(self.0)
    }

    #[inline(always)]
    const fn port(self) -> u16 {
        (self.0 & 0xffff) as u16
    }

    #[inline(always)]
    const fn is_reply(self) -> bool {
        self.0 & Self::IS_REPLY != 0
    }
}

/// Frontend → first of its slots; a backend's address and port → whom to answer for, as a
/// [`Target`].
#[map]
static BENCH_FRONTS: HashMap<Frontend, u64> = HashMap::with_max_entries(65_536, 0);
/// 256 slots for each service, each a backend as a [`Target`].
#[map]
static BENCH_SLOTS: Array<u64> = Array::with_max_entries(65_536, 0);
/// Flows that were not known. Counted on that way alone, so that a known flow pays nothing for it.
#[map]
static BENCH_MISSES: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
#[map]
static BENCH_LRU: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(1 << 21, 0);
#[map]
static BENCH_HASH: HashMap<Flow, u64> = HashMap::with_max_entries(1 << 21, 0);

/// How a balancer remembers.
pub(crate) trait Memory {
    /// Where the flow goes.
    fn recall(flow: &Flow) -> Option<u64>;
    /// Remembers one direction; says whether it could.
    fn remember(flow: &Flow, target: u64) -> bool;
    /// Whether answers have to be recognised by their sender alone.
    const IS_FORGETFUL: bool = false;
}

/// Not at all.
pub(crate) struct Forgetful;

impl Memory for Forgetful {
    const IS_FORGETFUL: bool = true;

    #[inline(always)]
    fn recall(_: &Flow) -> Option<u64> {
        None
    }

    #[inline(always)]
    fn remember(_: &Flow, _: u64) -> bool {
        true
    }
}

/// In the kernel's LRU hash.
pub(crate) struct InLruHash;

impl Memory for InLruHash {
    #[inline(always)]
    fn recall(flow: &Flow) -> Option<u64> {
        let value = BENCH_LRU.get_ptr(flow)?;
        // SAFETY: an aligned word of the map's.
        Some(unsafe { value.read_volatile() })
    }

    #[inline(always)]
    fn remember(flow: &Flow, target: u64) -> bool {
        BENCH_LRU.insert(flow, target, 0).is_ok()
    }
}

/// In the kernel's hash.
pub(crate) struct InHash;

impl Memory for InHash {
    #[inline(always)]
    fn recall(flow: &Flow) -> Option<u64> {
        let value = BENCH_HASH.get_ptr(flow)?;
        // SAFETY: an aligned word of the map's.
        Some(unsafe { value.read_volatile() })
    }

    #[inline(always)]
    fn remember(flow: &Flow, target: u64) -> bool {
        BENCH_HASH.insert(flow, target, 0).is_ok()
    }
}

/// Offsets in an untagged frame with an IPv4 header of 20 bytes.
const ETHER_TYPE: usize = 12;
const VERSION: usize = 14;
const PROTOCOL: usize = 23;
const IP_CHECKSUM: usize = 24;
const SOURCE: usize = 26;
const DESTINATION: usize = 30;
const PORTS: usize = 34;
/// Bytes that are looked at or changed: as far as a TCP header goes.
const LENGTH: usize = 54;

/// `BPF_F_PSEUDO_HDR`.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`.
const MANGLED_0: u64 = 1 << 5;

/// Balances one packet.
#[inline(always)]
pub(crate) fn run<M: Memory>(ctx: &TcContext) -> i32 {
    let start = ctx.data();
    if start + LENGTH > ctx.data_end() {
        return NEXT;
    }
    let protocol = load::<1>(start + PROTOCOL);
    if load::<2>(start + ETHER_TYPE) != u32::from(0x0800_u16.to_be())
        || load::<1>(start + VERSION) != 0x45
        || (protocol != 6 && protocol != 17)
    {
        return NEXT;
    }
    let flow = Flow {
        source: load::<4>(start + SOURCE),
        destination: load::<4>(start + DESTINATION),
        ports: load::<4>(start + PORTS),
        protocol,
    };
    let target = match M::recall(&flow) {
        Some(target) => Target(target),
        None => match choose::<M>(&flow) {
            Some(target) => Target(target),
            None => return NEXT,
        },
    };
    rewrite(&Skb::new(ctx.skb.skb), start, &flow, target)
}

/// A flow that is not known.
#[inline(always)]
fn choose<M: Memory>(flow: &Flow) -> Option<u64> {
    if let Some(count) = BENCH_MISSES.get_ptr_mut(0) {
        // SAFETY: this processor's own word, which nobody else refers to while the program runs.
        let count = unsafe { &mut *count };
        *count = count.wrapping_add(1);
    }
    if M::IS_FORGETFUL {
        // Ports are kept as they lie in memory: the source port is the lower half.
        let sender = [flow.source, (flow.ports & 0xffff) << 16 | flow.protocol];
        if let Some(value) = BENCH_FRONTS.get_ptr(sender) {
            // SAFETY: an aligned word of the map's.
            return Some(unsafe { value.read_volatile() });
        }
    }
    let dialled = [flow.destination, flow.ports & 0xffff_0000 | flow.protocol];
    // SAFETY: as above.
    let first = unsafe { BENCH_FRONTS.get_ptr(dialled)?.read_volatile() };
    let addresses = u64::from(flow.source) << 32 | u64::from(flow.destination);
    let mixed = hash::mix(hash::mix(0, addresses), u64::from(flow.ports));
    let slot = hash::lower(first).wrapping_add(hash::scale(hash::lower(mixed), 256));
    // SAFETY: as above.
    let target = unsafe { BENCH_SLOTS.get_ptr(slot)?.read_volatile() };
    let backend = Target(target);
    let answer = Flow {
        source: backend.address(),
        destination: flow.source,
        ports: (flow.ports & 0xffff) << 16 | u32::from(backend.port()),
        protocol: flow.protocol,
    };
    let dialled =
        u64::from(flow.destination) << 32 | Target::IS_REPLY | u64::from(flow.ports >> 16);
    (M::remember(&answer, dialled) && M::remember(flow, target)).then_some(target)
}

/// Writes address, port and checksums.
#[inline(always)]
fn rewrite(packet: &Skb, start: usize, flow: &Flow, target: Target) -> i32 {
    let (old_address, old_port, address_at, port_at) = if target.is_reply() {
        (flow.source, flow.ports & 0xffff, SOURCE, PORTS)
    } else {
        (flow.destination, flow.ports >> 16, DESTINATION, PORTS + 2)
    };
    let old_port = old_port as u16;
    let (old, new) = (u32::from_be(old_address), u32::from_be(target.address()));
    let address_change = Sum::ZERO.double(!old).double(new);
    let port_change = Sum::ZERO.replace_word(u16::from_be(old_port), u16::from_be(target.port()));
    let checksum = u16::from_be(load::<2>(start + IP_CHECKSUM) as u16);
    let checksum = update(checksum, address_change).to_be();
    store::<2>(start + IP_CHECKSUM, u32::from(checksum));
    store::<4>(start + address_at, target.address());
    store::<2>(start + port_at, u32::from(target.port()));
    let (offset, rule) = if flow.protocol == 6 {
        (PORTS + 16, 0)
    } else {
        (PORTS + 6, MANGLED_0)
    };
    let fixes = [(address_change, rule | PSEUDO_HEADER), (port_change, rule)];
    for (change, flags) in fixes {
        let delta = u64::from(change.in_memory_order());
        // SAFETY: the helper checks the offset; no packet pointer is held across it.
        let fixed = unsafe { bpf_l4_csum_replace(packet.skb(), offset as u32, 0, delta, flags) };
        if fixed != 0 {
            return DROP;
        }
    }
    NEXT
}

/// `N` bytes of the packet as they lie there. Where they lie is not aligned, of which a C program
/// takes no notice, and neither must this one: so it is one instruction.
#[inline(always)]
fn load<const N: usize>(place: usize) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: the caller compared the range with the packet's end; the verifier proves it.
        unsafe {
            match N {
                1 => {
                    core::arch::asm!("{0} = *(u8 *)({1} + 0)", out(reg) value, in(reg) place, options(nostack, readonly))
                }
                2 => {
                    core::arch::asm!("{0} = *(u16 *)({1} + 0)", out(reg) value, in(reg) place, options(nostack, readonly))
                }
                _ => {
                    core::arch::asm!("{0} = *(u32 *)({1} + 0)", out(reg) value, in(reg) place, options(nostack, readonly))
                }
            }
        }
        value as u32
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = place;
        N as u32
    }
}

/// The inverse of [`load`].
#[inline(always)]
fn store<const N: usize>(place: usize, value: u32) {
    #[cfg(target_arch = "bpf")]
    {
        let value = u64::from(value);
        // SAFETY: as above.
        unsafe {
            match N {
                2 => {
                    core::arch::asm!("*(u16 *)({0} + 0) = {1}", in(reg) place, in(reg) value, options(nostack))
                }
                _ => {
                    core::arch::asm!("*(u32 *)({0} + 0) = {1}", in(reg) place, in(reg) value, options(nostack))
                }
            }
        }
    }
    #[cfg(not(target_arch = "bpf"))]
    let _ = (place, value);
}
