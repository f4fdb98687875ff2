//! The least that balances and sends: the minimal balancer without a table, that asks the kernel's routing
//! tables for the way, writes TTL and MACs and has the device there send the frame. It is what an XDP
//! program has to do besides balancing, if the host is not to see the packet.

use aya_ebpf::bindings::bpf_fib_lookup as Lookup;
use aya_ebpf::helpers::{bpf_fib_lookup, bpf_redirect};
use aya_ebpf::programs::XdpContext;
use lb_common::checksum::{Sum, update};

use crate::bytes::{load, store};
use crate::medium::{Medium as _, write_macs};
use crate::minimal::{self, Forgetful};
use crate::shape::{self, Flow, Offsets};

/// `AF_INET`.
const INET: u8 = 2;
/// `AF_INET6`.
const INET6: u8 = 10;

/// Balances one packet and sends it.
#[inline(always)]
pub(crate) fn run(ctx: &XdpContext) -> u32 {
    if minimal::run::<Forgetful, XdpContext>(ctx) != XdpContext::NEXT {
        return XdpContext::DROP;
    }
    if let Some((start, flow)) = shape::read::<1>(ctx) {
        let mut lookup = question(ctx, &flow, INET);
        let ([source], [destination]) = (flow.source, flow.destination);
        lookup.__bindgen_anon_3.ipv4_src = source;
        lookup.__bindgen_anon_4.ipv4_dst = destination;
        return send::<1>(ctx, start, &mut lookup);
    }
    match shape::read::<4>(ctx) {
        Some((start, flow)) => {
            let mut lookup = question(ctx, &flow, INET6);
            lookup.__bindgen_anon_3.ipv6_src = flow.source;
            lookup.__bindgen_anon_4.ipv6_dst = flow.destination;
            send::<4>(ctx, start, &mut lookup)
        }
        None => XdpContext::DROP,
    }
}

#[inline(always)]
fn question<const N: usize>(ctx: &XdpContext, flow: &Flow<N>, family: u8) -> Lookup {
    // SAFETY: zeros are a valid value of this struct, which is one of numbers.
    let mut lookup: Lookup = unsafe { core::mem::zeroed() };
    lookup.family = family;
    lookup.l4_protocol = flow.protocol as u8;
    lookup.sport = flow.ports as u16;
    lookup.dport = (flow.ports >> 16) as u16;
    lookup.ifindex = ctx.ingress_ifindex() as u32;
    lookup.__bindgen_anon_1.tot_len = (ctx.end() - ctx.start()) as u16 - 14;
    lookup
}

#[inline(always)]
fn send<const N: usize>(ctx: &XdpContext, start: usize, lookup: &mut Lookup) -> u32 {
    let size = size_of::<Lookup>() as i32;
    // SAFETY: the helper writes into the struct alone, which has this size.
    if unsafe { bpf_fib_lookup(ctx.ctx.cast(), lookup, size, 0) } != 0 {
        return XdpContext::DROP;
    }
    let [a, b, c, d, e, f] = lookup.dmac;
    let [g, h, i, j, k, l] = lookup.smac;
    write_macs(start, [a, b, c, d, e, f, g, h, i, j, k, l]);
    // TTL and protocol; in IPv6 protocol and hop limit.
    let place = start + Offsets::<N>::TTL;
    let old = u16::from_be(load::<2>(place) as u16);
    let new = old.wrapping_sub(if Offsets::<N>::IS_V6 { 1 } else { 1 << 8 });
    store::<2>(place, new.to_be().into());
    if let Some(offset) = Offsets::<N>::IP_CHECKSUM {
        let checksum = u16::from_be(load::<2>(start + offset) as u16);
        let checksum = update(checksum, Sum::ZERO.replace_word(old, new));
        store::<2>(start + offset, checksum.to_be().into());
    }
    // SAFETY: the helper takes numbers only.
    let action = unsafe { bpf_redirect(lookup.ifindex, 0) };
    u32::try_from(action).unwrap_or(XdpContext::DROP)
}
