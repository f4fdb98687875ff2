//! Where a packet goes next: the questions to the kernel's routing tables.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_fib_lookup;
use lb_common::family::Family;

use crate::device;

/// `AF_INET`.
const INET: u8 = 2;
/// `AF_INET6`.
const INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS`: route and neighbour are known.
const SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the route is known, the neighbour's MAC is not.
const NO_NEIGHBOUR: i64 = 7;

/// `struct bpf_fib_lookup` of the kernel, its unions laid open.
#[repr(C)]
struct FibLookup {
    family: u8,
    l4_protocol: u8,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    total_length: u16,
    ifindex: u32,
    flow: u32,
    source: [u8; 16],
    destination: [u8; 16],
    vlan: [u8; 4],
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
}

/// A neighbour on a bridge. Not an Option: it travels in a register, which must be defined whole.
#[derive(Clone, Copy)]
pub(crate) struct Hop {
    /// Whether there is one. Its answers to the client are bridged then, whatever is known of it.
    pub(crate) is_on_bridge: bool,
    /// Whether its MAC is known: not before the node has sent something to it.
    pub(crate) is_known: bool,
    /// Its MAC.
    pub(crate) mac: [u8; 6],
}

impl Hop {
    const UNKNOWN: Self = Self {
        is_on_bridge: false,
        is_known: false,
        mac: [0; 6],
    };
}

/// The MAC of `destination`, if the device that the program runs on is a port of a bridge and the
/// bridge reaches the destination directly: then client and backend are neighbours there.
#[inline(never)]
pub(crate) fn bridge_hop<F: Family>(
    skb: *mut __sk_buff,
    source: F::Address,
    destination: F::Address,
) -> Hop {
    let bridge = device::record(skb).bridge();
    if bridge == 0 {
        return Hop::UNKNOWN;
    }
    let mut lookup = FibLookup {
        family: if F::IS_V6 { INET6 } else { INET },
        l4_protocol: 0,
        source_port: [0; 2],
        destination_port: [0; 2],
        total_length: 0,
        ifindex: bridge,
        flow: 0,
        source: address::<F>(source),
        destination: address::<F>(destination),
        vlan: [0; 4],
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };
    // SAFETY: the kernel's struct has this layout and size, and the helper writes only into it.
    let result = unsafe {
        bpf_fib_lookup(
            skb.cast(),
            (&raw mut lookup).cast(),
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    let is_routed = result == SUCCESS || result == NO_NEIGHBOUR;
    let is_on_bridge = is_routed && lookup.ifindex == bridge;
    Hop {
        is_on_bridge,
        is_known: is_on_bridge && result == SUCCESS,
        mac: lookup.destination_mac,
    }
}

/// An address as the helper takes it: an IPv4 one in the first four bytes.
#[inline(always)]
fn address<F: Family>(address: F::Address) -> [u8; 16] {
    let mapped = F::mapped(address);
    if F::IS_V6 {
        return mapped;
    }
    let [.., a, b, c, d] = mapped;
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

const _: () = assert!(size_of::<FibLookup>() == 64);
