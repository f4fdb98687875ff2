//! Answers made from the packet that asked.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC;
use aya_ebpf::helpers::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail};
use lb_common::answer::{Refusal, answer_echo};
use lb_common::family::Family;
use lb_common::flow::Hook;
use lb_common::parse::Packet;
use lb_common::verdict::Reason;

use crate::clock;
use crate::hook::tc::DROP;
use crate::maps::REFUSALS;
use crate::packet::Skb;

/// Bytes that the tail is grown by and the front then shrunk by: pulling the front is what clears a
/// half-made checksum, which a device would else finish in the middle of the answer.
const PULL: i32 = 128;
/// `BPF_F_INGRESS`: the packet comes in by the device that it is redirected to.
pub(crate) const INWARDS: u64 = 1;

/// Turns the packet into its refusal and sends it back where it came from.
#[inline(never)]
pub(crate) fn refuse<F: Family>(
    skb: *mut __sk_buff,
    parsed: &Packet<F>,
    hook: Hook,
    reason: Reason,
) -> (i32, Reason) {
    let packet = &mut Skb::new(skb);
    let Some(refusal) = Refusal::new(packet, parsed) else {
        return (DROP, Reason::RefusalSuppressed);
    };
    if !may_answer() {
        return (DROP, Reason::RefusalSuppressed);
    }
    if resize(packet, refusal.length()).is_none() || refusal.write(packet).is_none() {
        return (DROP, Reason::RewriteFailed);
    }
    (send_back(packet, hook), reason)
}

/// Turns an echo request into its reply and sends it back.
#[inline(never)]
pub(crate) fn echo<F: Family>(
    skb: *mut __sk_buff,
    parsed: &Packet<F>,
    hook: Hook,
) -> (i32, Reason) {
    let packet = &mut Skb::new(skb);
    if answer_echo(packet, parsed).is_none() {
        return (DROP, Reason::RewriteFailed);
    }
    (send_back(packet, hook), Reason::EchoReply)
}

/// Sends an answer to who asked: out of the device, or, to this host itself, in by it.
#[inline(always)]
fn send_back(packet: &Skb, hook: Hook) -> i32 {
    let skb = packet.skb();
    // SAFETY: the context is valid as long as the program runs.
    let ifindex = unsafe { (*skb).ifindex };
    // SAFETY: the helper takes numbers only.
    let action = unsafe { bpf_redirect(ifindex, if_of_host(hook)) };
    action as i32
}

/// The flag by which a packet comes in, where those are answered that go out.
#[inline(always)]
const fn if_of_host(hook: Hook) -> u64 {
    match hook {
        Hook::Ingress => 0,
        Hook::Egress => INWARDS,
    }
}

#[inline(always)]
fn resize(packet: &Skb, length: u32) -> Option<()> {
    let skb = packet.skb();
    // SAFETY: the helper changes the packet, of which no pointer is held.
    let grown = unsafe { bpf_skb_change_tail(skb, length + PULL as u32, 0) };
    if grown != 0 {
        return None;
    }
    // SAFETY: as above.
    let pulled = unsafe { bpf_skb_adjust_room(skb, -PULL, BPF_ADJ_ROOM_MAC, 0) };
    (pulled == 0).then_some(())
}

/// Whether this processor may send another answer now (RFC 4443 §2.4 (f)).
#[inline(always)]
fn may_answer() -> bool {
    let Some(bucket) = REFUSALS.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this processor's own word; programs of one processor do not interrupt each other here.
    let bucket = unsafe { &mut *bucket };
    let (allowed, next) = lb_common::limit::take(*bucket, clock::nanoseconds());
    *bucket = next;
    allowed
}
