//! Sends packets on, where `lb_common::onward` says that they can be.

use aya_ebpf::bindings::{__sk_buff, bpf_redir_neigh, bpf_redir_neigh__bindgen_ty_1};
use aya_ebpf::helpers::{bpf_csum_update, bpf_redirect_neigh, bpf_skb_change_tail};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowTuple, Path};
use lb_common::onward::{self, Offer, Reach, Wire};
use lb_common::packet::PacketRead as _;
use lb_common::verdict::Reason;

use crate::count::count;
use crate::forward::Fib;
use crate::hook::tc::NEXT;
use crate::host;
use crate::packet::Skb;

/// `PACKET_HOST`: the packet's destination MAC is the device's.
const FOR_HOST: u32 = 0;
/// `ETH_P_IPV6`, as the context has it.
pub(crate) const IPV6: u32 = 0x86dd_u16.to_be() as u32;

/// Sends a packet that takes this `path` on if it can be, and hands it to the host else; gives what the
/// program returns.
#[inline(never)]
pub(crate) fn send(skb: *mut __sk_buff, path: Path) -> i32 {
    if matches!(path, Path::OfHost) {
        return host::deliver(skb);
    }
    // SAFETY: the context is valid as long as the program runs.
    let action = if unsafe { (*skb).protocol } == IPV6 {
        send_v6(skb)
    } else {
        send_v4(skb)
    };
    let reason = if action == NEXT {
        Reason::NotSentOn
    } else {
        Reason::SentOn
    };
    count(reason, 0);
    action
}

#[inline(never)]
fn send_v4(skb: *mut __sk_buff) -> i32 {
    send_family::<V4>(skb)
}

#[inline(never)]
fn send_v6(skb: *mut __sk_buff) -> i32 {
    send_family::<V6>(skb)
}

#[inline(always)]
fn send_family<F: Family>(skb: *mut __sk_buff) -> i32 {
    let packet = &mut Skb::new(skb);
    let Some(offer) = Offer::<F>::of(packet, wire(skb)) else {
        return NEXT;
    };
    let mut fib = Fib::new(skb);
    let Some(device) = offer.send(packet, &mut fib) else {
        return NEXT;
    };
    if F::IS_V6 {
        forget_sum(packet);
    }
    to_neighbour(device, &fib)
}

/// Hands the packet to `device`, by which the next hop is that `fib` has found; gives what the program
/// returns.
///
/// A packet that waits for the next hop's MAC leaves by the route that it carries, once that is known: one
/// of this host's carries that to the service address, and would go to the wrong neighbour. The kernel gives
/// it another where it is told no next hop, and looks for it itself.
#[inline(always)]
pub(crate) fn to_neighbour(device: u32, fib: &Fib) -> i32 {
    let [a, b, c, d] = words(fib.lookup.destination);
    let mut hop = bpf_redir_neigh {
        nh_family: u32::from(fib.lookup.family),
        __bindgen_anon_1: bpf_redir_neigh__bindgen_ty_1 {
            ipv6_nh: [a, b, c, d],
        },
    };
    let length = if fib.has_stale_route() {
        0
    } else {
        size_of::<bpf_redir_neigh>() as i32
    };
    // SAFETY: the helper reads the next hop, which is whole, or nothing.
    let action = unsafe { bpf_redirect_neigh(device, &raw mut hop, length, 0) };
    action as i32
}

/// [`onward::may_begin`] of the packet, when it has `tuple`.
#[inline(never)]
pub(crate) fn may_begin<F: Family>(
    skb: *mut __sk_buff,
    tuple: &FlowTuple<F>,
    reach: Reach,
) -> bool {
    let Some(offer) = Offer::<F>::of(&mut Skb::new(skb), wire(skb)) else {
        return false;
    };
    let question = offer.question.of_tuple(tuple);
    onward::may_begin(&question, reach, &mut Fib::new(skb))
}

#[inline(always)]
fn wire(skb: *mut __sk_buff) -> Wire {
    // SAFETY: the context is valid as long as the program runs.
    let context = unsafe { &*skb };
    Wire {
        device: context.ifindex,
        segment: context.gso_size,
        is_for_host: context.pkt_type == FOR_HOST,
        has_mark: context.mark != 0,
        has_tag: context.vlan_present != 0,
    }
}

/// Forgets a sum over the whole packet that a device made, as a host does that forwards: nothing in an
/// IPv6 header makes up for a change of another field. Growing the packet is what forgets it.
#[inline(always)]
fn forget_sum(packet: &Skb) {
    let skb = packet.skb();
    // Fails unless there is such a sum.
    // SAFETY: the helper adds nothing.
    if unsafe { bpf_csum_update(skb, 0) } < 0 {
        return;
    }
    let length = packet.length();
    // SAFETY: the helper changes the packet, of which no pointer is held.
    let grown = unsafe { bpf_skb_change_tail(skb, length.wrapping_add(1), 0) };
    if grown == 0 {
        // SAFETY: as above. Cutting off what was put on cannot fail.
        unsafe { bpf_skb_change_tail(skb, length, 0) };
    }
}

/// An address as it lies in memory, four bytes a word.
#[inline(always)]
const fn words([start, end]: [u64; 2]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h] = start.to_ne_bytes();
    let [i, j, k, l, m, n, o, p] = end.to_ne_bytes();
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}
