//! What the programs here need of whatever their hook is given: the host's packet at tc, a driver's frame
//! at XDP.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::{bpf_l4_csum_replace, bpf_skb_store_bytes, bpf_xdp_store_bytes};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::checksum::Sum;
use lb_common::course::{HEADER, MACS};
use lb_common::rewrite::ChecksumFix;
use lb_common::wire::ethernet;

use crate::bytes::{load, store};

/// `BPF_F_PSEUDO_HDR`.
const PSEUDO_HEADER: u64 = 1 << 4;
/// `BPF_F_MARK_MANGLED_0`.
const MANGLED_0: u64 = 1 << 5;

/// What a transport checksum changes by.
#[derive(Clone, Copy)]
pub(crate) struct Change {
    /// Offset of the checksum in the frame.
    pub(crate) offset: usize,
    /// Of which protocol it is.
    pub(crate) is_udp: bool,
    /// Whether the packet is one of IPv6.
    pub(crate) is_v6: bool,
    /// What the addresses change.
    pub(crate) address: Sum,
    /// What the port changes.
    pub(crate) port: Sum,
}

/// What a hook is given.
pub(crate) trait Medium: EbpfContext {
    /// What a program there returns.
    type Action;
    /// What ends with a packet that goes on.
    const NEXT: Self::Action;
    /// A packet that no measurement expects, so the bench notices.
    const DROP: Self::Action;

    /// Where the bytes begin that can be accessed.
    fn start(&self) -> usize;

    /// Where they end.
    fn end(&self) -> usize;

    /// Makes it the packet with this `header`, as it came; says whether it could.
    fn restore(&self, header: &mut [u8; HEADER]) -> bool;

    /// Changes a transport checksum; says whether it could.
    fn fix(&self, change: Change) -> bool;
}

impl Medium for TcContext {
    type Action = i32;
    /// `TCX_NEXT`: what our programs end with, too.
    const NEXT: i32 = -1;
    const DROP: i32 = 2;

    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    #[inline(always)]
    fn restore(&self, header: &mut [u8; HEADER]) -> bool {
        let offset = ethernet::HEADER_LENGTH;
        let header = header.as_ptr().cast();
        // SAFETY: the helper checks the packet's length and reads as many bytes as the array has.
        (unsafe { bpf_skb_store_bytes(self.skb.skb, offset, header, HEADER as u32, 0) }) == 0
    }

    #[inline(always)]
    fn fix(&self, change: Change) -> bool {
        let rule = if change.is_udp { MANGLED_0 } else { 0 };
        let fixes = [(change.address, rule | PSEUDO_HEADER), (change.port, rule)];
        for (sum, flags) in fixes {
            let delta = u64::from(sum.in_memory_order());
            let offset = change.offset as u32;
            // SAFETY: the helper checks the offset; no packet pointer is used after it.
            if unsafe { bpf_l4_csum_replace(self.skb.skb, offset, 0, delta, flags) } != 0 {
                return false;
            }
        }
        true
    }
}

impl Medium for XdpContext {
    type Action = u32;
    const NEXT: u32 = xdp_action::XDP_PASS;
    const DROP: u32 = xdp_action::XDP_DROP;

    #[inline(always)]
    fn start(&self) -> usize {
        self.data()
    }

    #[inline(always)]
    fn end(&self) -> usize {
        self.data_end()
    }

    /// The MACs, too, which are XDP's to write.
    #[inline(always)]
    fn restore(&self, header: &mut [u8; HEADER]) -> bool {
        let start = self.data();
        if start + MACS.len() > self.data_end() {
            return false;
        }
        write_macs(start, MACS);
        let header = header.as_mut_ptr().cast();
        // SAFETY: the helper checks the frame's length and reads as many bytes as the array has.
        let stored = unsafe {
            bpf_xdp_store_bytes(self.ctx, ethernet::HEADER_LENGTH, header, HEADER as u32)
        };
        stored == 0
    }

    #[inline(always)]
    fn fix(&self, change: Change) -> bool {
        let place = self.data() + change.offset;
        if place + 2 > self.data_end() {
            return false;
        }
        let fix = ChecksumFix {
            offset: change.offset as u32,
            address_delta: change.address.in_memory_order(),
            port_delta: change.port.in_memory_order(),
            is_udp: change.is_udp,
            is_v6: change.is_v6,
        };
        let old = u16::from_be(load::<2>(place) as u16);
        store::<2>(place, fix.apply(old).to_be().into());
        true
    }
}

/// Writes both MACs at the frame's start.
#[inline(always)]
pub(crate) fn write_macs(start: usize, macs: [u8; 12]) {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = macs;
    store::<4>(start, u32::from_ne_bytes([a, b, c, d]));
    store::<4>(start + 4, u32::from_ne_bytes([e, f, g, h]));
    store::<4>(start + 8, u32::from_ne_bytes([i, j, k, l]));
}
