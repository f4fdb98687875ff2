//! Where a packet goes next: the questions to the kernel's routing tables.

use core::ptr;

use aya_ebpf::bindings::{__sk_buff, xdp_md};
use aya_ebpf::helpers::{bpf_check_mtu, bpf_fib_lookup, bpf_get_prandom_u32};
use lb_common::decide::{Way, Ways, wire};
use lb_common::family::Family;
use lb_common::flow::FlowTuple;
use lb_common::onward::{self, Answer, Hop, Offer, Question, Reach, Routes};
use lb_common::table::device::DeviceRecord;

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
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct FibLookup {
    pub(crate) family: u8,
    l4_protocol: u8,
    source_port: [u8; 2],
    destination_port: [u8; 2],
    total_length: u16,
    ifindex: u32,
    class: [u8; 4],
    source: [u8; 16],
    pub(crate) destination: [u8; 16],
    vlan: [u8; 4],
    source_mac: [u8; 6],
    destination_mac: [u8; 6],
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
        source_port: [0; 2],
        destination_port: [0; 2],
        total_length: 0,
        ifindex: 0,
        class: [0; 4],
        source: [0; 16],
        destination: [0; 16],
        vlan: [0; 4],
        source_mac: [0; 6],
        destination_mac: [0; 6],
    };

    /// The question, in the helper's form.
    #[inline(always)]
    fn of<F: Family>(question: &Question<F>) -> Self {
        Self {
            family: if F::IS_V6 { INET6 } else { INET },
            l4_protocol: question.protocol,
            source_port: question.source_port.to_be_bytes(),
            destination_port: question.destination_port.to_be_bytes(),
            total_length: question.length,
            ifindex: question.device,
            class: question.class,
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
            mac: self.lookup.source_mac,
        }
    }

    /// Whether the packet will wait for the MAC of the next hop, and carries a route that leads elsewhere: what
    /// no device has received has been routed.
    #[inline(always)]
    pub(crate) fn has_stale_route(&self) -> bool {
        // SAFETY: the context is valid as long as the program runs.
        let received_by = unsafe { (*self.skb).ingress_ifindex };
        received_by == 0 && self.lookup.destination_mac == [0; 6]
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
    context: *mut xdp_md,
}

impl FrameWays {
    #[inline(always)]
    pub(crate) const fn new(context: *mut xdp_md) -> Self {
        Self { context }
    }

    #[inline(always)]
    fn look_up(&self, lookup: &mut FibLookup) -> i64 {
        // SAFETY: the kernel's struct has this layout and size, and the helper writes only into it.
        unsafe {
            bpf_fib_lookup(
                self.context.cast(),
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
        unsafe { (*self.context).ingress_ifindex }
    }

    #[inline(always)]
    fn record(&self) -> DeviceRecord {
        device::record_of(self.device()).unwrap_or_default()
    }

    #[inline(always)]
    fn is_scattered(&self) -> bool {
        XdpFrame::new(self.context).is_scattered()
    }

    #[inline(always)]
    fn way<F: Family>(&mut self, question: &Question<F>) -> Option<Way> {
        let mut lookup = FibLookup::of(question);
        if self.look_up(&mut lookup) != SUCCESS {
            return None;
        }
        let record = device::record_of(lookup.ifindex)?;
        let [a, b, c, d, e, f] = lookup.destination_mac;
        let [g, h, i, j, k, l] = lookup.source_mac;
        Some(Way {
            macs: [a, b, c, d, e, f, g, h, i, j, k, l],
            device: lookup.ifindex,
            role: record.role(),
            takes: record.takes(),
        })
    }

    #[inline(always)]
    fn may_begin(&mut self) -> bool {
        // SAFETY: the helper takes no argument.
        let number = unsafe { bpf_get_prandom_u32() };
        !number.is_multiple_of(BEGIN_BY_TC)
    }
}

impl Routes for FrameWays {
    #[inline(always)]
    fn hop<F: Family>(&mut self, question: &Question<F>) -> Hop {
        let mut lookup = FibLookup::of(question);
        // What begins a flow needs the neighbour as well.
        if self.look_up(&mut lookup) != SUCCESS {
            return Hop::NONE;
        }
        let Some(record) = device::record_of(lookup.ifindex) else {
            return Hop::NONE;
        };
        Hop {
            answer: Answer::Known,
            device: lookup.ifindex,
            has_programs: true,
            is_clear: record.is_clear(),
            is_open: record.is_open(),
            role: record.role(),
        }
    }
}

/// [`onward::may_begin`] of the packet in a frame, when it has `tuple`.
#[inline(never)]
pub(crate) fn may_begin<F: Family>(
    context: *mut xdp_md,
    tuple: &FlowTuple<F>,
    reach: Reach,
) -> bool {
    let (mut ways, mut frame) = (FrameWays::new(context), XdpFrame::new(context));
    let own = ways.record();
    let Some(wire) = wire(&mut frame, &own, ways.device()) else {
        return false;
    };
    let Some(offer) = Offer::<F>::of(&frame, wire) else {
        return false;
    };
    let question = offer.question.of_tuple(tuple);
    onward::may_begin(&question, reach, &mut ways)
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
