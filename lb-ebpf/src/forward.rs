//! Where a packet goes next: the questions to the kernel's routing tables.

use core::ptr;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_check_mtu, bpf_fib_lookup, bpf_get_prandom_u32};
use lb_common::decide::{Way, Ways};
use lb_common::family::Family;
use lb_common::onward::{Answer, Hop, Question, Routes};
use lb_common::table::device::DeviceRecord;
use lb_common::wire::ethernet::Macs;

use crate::device;
use crate::frame::XdpFrame;

/// `AF_INET`.
const INET: u8 = 2;
/// `AF_INET6`.
const INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS`: route and neighbour are known.
const SUCCESS: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the route is known, the neighbour's MAC is not.
const NO_NEIGHBOUR: i64 = 7;
/// `BPF_MTU_CHK_SEGS`: each of the packets that a large one will be cut into.
const SEGMENTS: u64 = 1;
/// One of so many flows begins by tc whatever XDP could do: what the host sends has it ask a stale
/// neighbour whether it is still there.
const BEGIN_BY_TC: u32 = 16;

/// `struct bpf_fib_lookup` of the kernel, its unions laid open. After a lookup `destination` is the next
/// hop's address and `family` that of it.
///
/// Ports, addresses and MACs are as in packets, but as numbers, and the whole is aligned: arrays of bytes
/// would be written byte by byte, cleared in loops, and read by the kernel in words that no store has
/// whole.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct FibLookup {
    pub(crate) family: u8,
    l4_protocol: u8,
    source_port: u16,
    destination_port: u16,
    total_length: u16,
    ifindex: u32,
    class: u32,
    source: [u64; 2],
    pub(crate) destination: [u64; 2],
    vlan: u32,
    source_mac: [u16; 3],
    destination_mac: [u16; 3],
}

/// A device of this host.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    /// Interface index, 0 for none.
    pub(crate) device: u32,
    /// Its MAC.
    pub(crate) mac: [u8; 6],
}

impl FibLookup {
    const EMPTY: Self = Self {
        family: 0,
        l4_protocol: 0,
        source_port: 0,
        destination_port: 0,
        total_length: 0,
        ifindex: 0,
        class: 0,
        source: [0; 2],
        destination: [0; 2],
        vlan: 0,
        source_mac: [0; 3],
        destination_mac: [0; 3],
    };

    /// The question, in the helper's form.
    #[inline(always)]
    fn of<F: Family>(question: &Question<F>) -> Self {
        Self {
            family: if F::IS_V6 { INET6 } else { INET },
            l4_protocol: question.protocol,
            source_port: question.source_port.to_be(),
            destination_port: question.destination_port.to_be(),
            total_length: question.length,
            ifindex: question.device,
            class: u32::from_ne_bytes(question.class),
            source: address::<F>(question.source),
            destination: address::<F>(question.destination),
            ..Self::EMPTY
        }
    }
}

/// The kernel's routing tables, and what they said last.
pub(crate) struct Fib {
    skb: *mut __sk_buff,
    pub(crate) lookup: FibLookup,
}

impl Fib {
    #[inline(always)]
    pub(crate) const fn new(skb: *mut __sk_buff) -> Self {
        Self {
            skb,
            lookup: FibLookup::EMPTY,
        }
    }

    /// Asks; gives what the helper says.
    #[inline(always)]
    fn ask<F: Family>(&mut self, question: &Question<F>) -> i64 {
        self.lookup = FibLookup::of(question);
        // SAFETY: the kernel's struct has this layout and size, and the helper writes only into it.
        unsafe {
            bpf_fib_lookup(
                self.skb.cast(),
                (&raw mut self.lookup).cast(),
                size_of::<FibLookup>() as i32,
                0,
            )
        }
    }

    /// The device that leads to an address, if the next hop there is known: without one the kernel does not
    /// tell the device's MAC.
    #[inline(always)]
    pub(crate) fn device<F: Family>(&mut self, question: &Question<F>) -> Own {
        let device = match self.ask(question) {
            SUCCESS => self.lookup.ifindex,
            _ => 0,
        };
        Own {
            device,
            mac: bytes(self.lookup.source_mac),
        }
    }

    /// Whether the packet will wait for the MAC of the next hop, and carries a route that leads elsewhere: what
    /// no device has received has been routed.
    #[inline(always)]
    pub(crate) fn has_stale_route(&self) -> bool {
        // SAFETY: the context is valid as long as the program runs.
        let received_by = unsafe { (*self.skb).ingress_ifindex };
        received_by == 0 && bytes(self.lookup.destination_mac) == [0; 6]
    }

    /// Whether what the packet will be cut into fits the device.
    #[inline(always)]
    fn fits(&self, ifindex: u32) -> bool {
        // SAFETY: the context is valid as long as the program runs.
        if unsafe { (*self.skb).gso_size } == 0 {
            return true;
        }
        let mut length = 0;
        // SAFETY: the helper writes the device's MTU into `length`, nothing else.
        let result =
            unsafe { bpf_check_mtu(self.skb.cast(), ifindex, &raw mut length, 0, SEGMENTS) };
        result == 0
    }
}

impl Routes for Fib {
    #[inline(always)]
    fn hop<F: Family>(&mut self, question: &Question<F>) -> Hop {
        let result = self.ask(question);
        let answer = match result {
            SUCCESS => Answer::Known,
            NO_NEIGHBOUR => Answer::Unresolved,
            _ => return Hop::NONE,
        };
        let device = self.lookup.ifindex;
        if !self.fits(device) {
            return Hop::NONE;
        }
        let Some(record) = device::record_of(device) else {
            return Hop {
                answer,
                device,
                ..Hop::NONE
            };
        };
        Hop {
            answer,
            device,
            has_programs: true,
            is_clear: record.is_clear(),
            is_open: record.is_open(),
            role: record.role(),
        }
    }
}

/// The kernel's routing tables, asked about a frame.
pub(crate) struct FrameWays {
    frame: XdpFrame,
}

impl FrameWays {
    #[inline(always)]
    pub(crate) const fn new(frame: &XdpFrame) -> Self {
        Self { frame: *frame }
    }

    #[inline(always)]
    fn look_up(&self, lookup: &mut FibLookup) -> i64 {
        // SAFETY: the kernel's struct has this layout and size, and the helper writes only into it.
        unsafe {
            bpf_fib_lookup(
                self.frame.context().cast(),
                ptr::from_mut(lookup).cast(),
                size_of::<FibLookup>() as i32,
                0,
            )
        }
    }
}

impl Ways for FrameWays {
    #[inline(always)]
    fn device(&self) -> u32 {
        // SAFETY: the context is valid as long as the program runs.
        unsafe { (*self.frame.context()).ingress_ifindex }
    }

    #[inline(always)]
    fn record(&self) -> DeviceRecord {
        device::record_of(self.device()).unwrap_or_default()
    }

    #[inline(always)]
    fn is_scattered(&self) -> bool {
        self.frame.is_scattered()
    }

    #[inline(always)]
    fn way<F: Family>(&mut self, question: &Question<F>) -> Option<Way> {
        let mut lookup = FibLookup::of(question);
        if self.look_up(&mut lookup) != SUCCESS {
            return None;
        }
        let record = device::record_of(lookup.ifindex)?;
        let [a, b, c] = lookup.destination_mac.map(u16::from_be);
        let [d, e, f] = lookup.source_mac.map(u16::from_be);
        Some(Way {
            macs: Macs::of_halves([a, b, c, d, e, f]),
            device: lookup.ifindex,
            role: record.role(),
            is_open: record.is_open(),
            takes: record.takes(),
        })
    }

    #[inline(always)]
    fn next_device<F: Family>(&mut self, question: &Question<F>) -> Option<u32> {
        let mut lookup = FibLookup::of(question);
        (self.look_up(&mut lookup) == SUCCESS).then_some(lookup.ifindex)
    }

    #[inline(always)]
    fn may_begin(&mut self) -> bool {
        // SAFETY: the helper takes no argument.
        let number = unsafe { bpf_get_prandom_u32() };
        !number.is_multiple_of(BEGIN_BY_TC)
    }
}

/// A neighbour on a bridge. Not an Option: it travels in a register, which must be defined whole.
#[derive(Clone, Copy)]
pub(crate) struct Neighbour {
    /// Whether there is one. Its answers to the client are bridged then, whatever is known of it.
    pub(crate) is_on_bridge: bool,
    /// Whether its MAC is known: not before the node has sent something to it.
    pub(crate) is_known: bool,
    /// Its MAC.
    pub(crate) mac: [u8; 6],
}

impl Neighbour {
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
) -> Neighbour {
    let bridge = device::record(skb).bridge();
    if bridge == 0 {
        return Neighbour::UNKNOWN;
    }
    let mut lookup = FibLookup {
        family: if F::IS_V6 { INET6 } else { INET },
        ifindex: bridge,
        source: address::<F>(source),
        destination: address::<F>(destination),
        ..FibLookup::EMPTY
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
    Neighbour {
        is_on_bridge,
        is_known: is_on_bridge && result == SUCCESS,
        mac: bytes(lookup.destination_mac),
    }
}

/// An address as the helper takes it: an IPv4 one in the first four bytes.
#[inline(always)]
fn address<F: Family>(address: F::Address) -> [u64; 2] {
    let [high, low] = F::halves(address);
    if F::IS_V6 {
        [high.to_be(), low.to_be()]
    } else {
        [(high << 32).to_be(), 0]
    }
}

/// A MAC as it lies there.
#[inline(always)]
const fn bytes([a, b, c]: [u16; 3]) -> [u8; 6] {
    let ([a, b], [c, d], [e, f]) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes());
    [a, b, c, d, e, f]
}

const _: () = assert!(size_of::<FibLookup>() == 64);
