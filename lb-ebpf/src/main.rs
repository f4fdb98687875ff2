//! Steerage's kernel programs.
//!
//! Nothing is decided here: the programs move bytes, call helpers and run `lb-common`'s decisions
//! over the kernel's maps. An entry is ten lines; one place turns a verdict into an action.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "core has no compare-and-swap on BPF")
)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "helpers take i32 and u32 where Rust has usize and i64; every value here is small"
)]
#![expect(
    clippy::cast_ptr_alignment,
    reason = "functions that are checked by themselves take memory as bytes; who calls them passes the type"
)]
#![expect(
    clippy::missing_const_for_fn,
    reason = "what is an instruction in the kernel is an empty body on the host, where this is linted"
)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's entries are given their context by value"
)]

mod atomic;
mod clock;
mod count;
mod device;
mod flows;
mod forward;
mod frame;
mod hook;
mod host;
mod maps;
mod onward;
mod packet;
mod refuse;
mod region;
mod socket;
mod stand;
mod tables;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::decide::{FromUplink, FromWorkload, ToWorkload};
use lb_common::family::{V4, V6};

/// What a workload sends: host side of its veth, tcx ingress.
#[classifier]
fn lb_workload_ingress(ctx: TcContext) -> i32 {
    hook::tc::run::<FromWorkload>(ctx.skb.skb)
}

/// What a workload receives: host side of its veth, tcx egress.
#[classifier]
fn lb_workload_egress(ctx: TcContext) -> i32 {
    hook::tc::run::<ToWorkload>(ctx.skb.skb)
}

/// What comes from other nodes and from outside: tcx ingress of an uplink.
#[classifier]
fn lb_uplink_ingress(ctx: TcContext) -> i32 {
    hook::tc::run::<FromUplink>(ctx.skb.skb)
}

/// What goes there: tcx egress of an uplink.
#[classifier]
fn lb_uplink_egress(ctx: TcContext) -> i32 {
    hook::tc::leave(&ctx, &maps::HOST_PARTS)
}

/// What this host itself sends there, of IPv4: called by the program above.
#[classifier]
fn lb_host_egress_v4(ctx: TcContext) -> i32 {
    hook::tc::run_of_host::<V4>(ctx.skb.skb, &maps::SCRATCH_V4)
}

/// The same of IPv6.
#[classifier]
fn lb_host_egress_v6(ctx: TcContext) -> i32 {
    hook::tc::run_of_host::<V6>(ctx.skb.skb, &maps::SCRATCH_V6)
}

/// What comes from other nodes and from outside, as the uplink's driver hands it over.
#[xdp(frags)]
fn lb_uplink_xdp(ctx: XdpContext) -> u32 {
    hook::xdp::run(&ctx, &maps::XDP_PARTS)
}

/// Its second part.
#[xdp(frags)]
fn lb_xdp_enter(ctx: XdpContext) -> u32 {
    hook::xdp::enter(&ctx, &maps::XDP_PARTS)
}

/// Its third part, of IPv4.
#[xdp(frags)]
fn lb_xdp_leave_v4(ctx: XdpContext) -> u32 {
    hook::xdp::leave::<V4>(&ctx, &maps::PASSAGE_V4)
}

/// The same of IPv6.
#[xdp(frags)]
fn lb_xdp_leave_v6(ctx: XdpContext) -> u32 {
    hook::xdp::leave::<V6>(&ctx, &maps::PASSAGE_V6)
}

/// The same three, as the host's receive path makes a frame of a packet again. Not for frames in several
/// buffers: for a program that is, kernels from 6.10 on may copy the packet and forget where its MAC
/// header ends, so that tc reads it from the IP header on.
#[xdp]
fn lb_uplink_xdp_g(ctx: XdpContext) -> u32 {
    hook::xdp::run(&ctx, &maps::XDP_PARTS_G)
}

/// See [`lb_uplink_xdp_g`].
#[xdp]
fn lb_xdp_enter_g(ctx: XdpContext) -> u32 {
    hook::xdp::enter(&ctx, &maps::XDP_PARTS_G)
}

/// See [`lb_uplink_xdp_g`].
#[xdp]
fn lb_xdp_leave_v4_g(ctx: XdpContext) -> u32 {
    hook::xdp::leave::<V4>(&ctx, &maps::PASSAGE_V4)
}

/// See [`lb_uplink_xdp_g`].
#[xdp]
fn lb_xdp_leave_v6_g(ctx: XdpContext) -> u32 {
    hook::xdp::leave::<V6>(&ctx, &maps::PASSAGE_V6)
}

/// The kernel lets only GPL-compatible programs call the helpers that programs here call.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
const fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
