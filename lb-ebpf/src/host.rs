//! Packets of this host to services, and their answers: sent to where `lb_common::decide` says that they go.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_redirect;
use lb_common::family::{Family, V4, V6};
use lb_common::flow::FlowTuple;
use lb_common::onward::{self, Answer, Hop, Routes as _};
use lb_common::packet::{PacketRead as _, PacketWrite as _};
use lb_common::verdict::Reason;

use crate::count::count;
use crate::forward::Fib;
use crate::hook::tc::{DROP, NEXT};
use crate::onward::{IPV6, to_neighbour};
use crate::packet::Skb;
use crate::refuse::INWARDS;

/// Where a packet of this host with `tuple` goes.
#[inline(never)]
pub(crate) fn hop<F: Family>(skb: *mut __sk_buff, tuple: &FlowTuple<F>) -> Hop {
    let protocol = tuple.protocol.number();
    let question = onward::of_host::<F>(tuple.source, tuple.destination, protocol, 0);
    Fib::new(skb).hop(&question)
}

/// Sends a translated packet to where its backend is; gives what the program returns.
#[inline(never)]
pub(crate) fn send(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the context is valid as long as the program runs.
    let action = if unsafe { (*skb).protocol } == IPV6 {
        send_v6(skb)
    } else {
        send_v4(skb)
    };
    if action == DROP {
        count(Reason::NotCarried, Skb::new(skb).length());
    }
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
    // SAFETY: the context is valid as long as the program runs.
    let segment = unsafe { (*skb).gso_size };
    let Some(question) = onward::own::<F>(&Skb::new(skb), segment) else {
        return DROP;
    };
    let mut fib = Fib::new(skb);
    let hop = fib.hop(&question);
    if matches!(hop.answer, Answer::Other) {
        return DROP;
    }
    to_neighbour(hop.device, &fib)
}

/// Hands an answer to the host as if it had come by the device that leads to who gave it, as it now says:
/// a strict reverse-path filter takes it from no other. Gives what the program returns.
#[inline(never)]
pub(crate) fn deliver(skb: *mut __sk_buff) -> i32 {
    // SAFETY: the context is valid as long as the program runs.
    if unsafe { (*skb).protocol } == IPV6 {
        deliver_v6(skb)
    } else {
        deliver_v4(skb)
    }
}

#[inline(never)]
fn deliver_v4(skb: *mut __sk_buff) -> i32 {
    deliver_family::<V4>(skb)
}

#[inline(never)]
fn deliver_v6(skb: *mut __sk_buff) -> i32 {
    deliver_family::<V6>(skb)
}

#[inline(always)]
fn deliver_family<F: Family>(skb: *mut __sk_buff) -> i32 {
    let packet = &mut Skb::new(skb);
    let Some(question) = onward::reverse::<F>(packet) else {
        return NEXT;
    };
    let way = Fib::new(skb).device(&question);
    // SAFETY: the context is valid as long as the program runs.
    let own = unsafe { (*skb).ifindex };
    if way.device == 0 || way.device == own {
        return NEXT;
    }
    if packet.write(0, way.mac).is_none() {
        return DROP;
    }
    // SAFETY: the helper takes numbers only.
    let action = unsafe { bpf_redirect(way.device, INWARDS) };
    action as i32
}
