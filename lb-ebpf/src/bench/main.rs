//! Programs that `cargo xtask bench datapath` measures with and against; nothing of them is shipped.
//!
//! `bench_driver` gives each run of a test its own packet and tail-calls the program under test,
//! which is ours or one of the others here: one that returns at once, one that only parses, and a
//! minimal balancer without a table, with the kernel's LRU hash and with the kernel's hash; and those
//! that only touch the memory of our flow table. `bench_x_…` are the same for XDP.

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
    clippy::missing_const_for_fn,
    reason = "the access to packets is the other object's, and has its reasons there"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "aya's entries are given their context by value"
)]
#![deny(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

#[expect(dead_code, reason = "the other object's, which counts by atomics too")]
#[path = "../atomic.rs"]
mod atomic;
mod bytes;
mod driver;
mod floor;
#[expect(
    dead_code,
    reason = "the other object's, which sees frames in several buffers"
)]
#[path = "../frame.rs"]
mod frame;
mod medium;
mod minimal;
#[expect(
    dead_code,
    reason = "the other object's, which changes more than bytes"
)]
#[path = "../packet.rs"]
mod packet;
mod sender;
mod shape;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use lb_common::family::{Family, V4, V6};
use lb_common::flow::FlowTuple;
use lb_common::packet::PacketRead;
use lb_common::parse::{parse, parse_link};

use driver::{FRAMES_TEST, UNDER_TEST};
use floor::Touch;
use frame::XdpFrame;
use medium::Medium;
use minimal::{Forgetful, InHash, InLruHash};
use packet::Skb;

const NEXT: i32 = TcContext::NEXT;
const DROP: i32 = TcContext::DROP;

/// Makes the next packet of the course and hands it to the program under test.
#[classifier]
fn bench_driver(ctx: TcContext) -> i32 {
    driver::run(&ctx, &UNDER_TEST)
}

/// Returns at once: what driver and test run cost.
#[classifier]
fn bench_empty(_: TcContext) -> i32 {
    NEXT
}

/// Parses as ours does, and no more.
#[classifier]
fn bench_parse(ctx: TcContext) -> i32 {
    let packet = Skb::new(ctx.skb.skb);
    match parse_link(&packet) {
        Ok(link) if link.is_v6 => parsed::<V6>(&packet, link.l3),
        Ok(link) => parsed::<V4>(&packet, link.l3),
        Err(_) => DROP,
    }
}

#[inline(always)]
fn parsed<F: Family>(packet: &Skb, l3: u32) -> i32 {
    let mut parsed = tuple::<F>(packet, l3);
    if parsed.is_none() && packet.pull() {
        parsed = tuple::<F>(packet, l3);
    }
    told::<TcContext, F>(parsed)
}

#[inline(always)]
fn tuple<F: Family>(packet: &impl PacketRead, l3: u32) -> Option<FlowTuple<F>> {
    parse::<F>(packet, l3).ok().and_then(|it| it.tuple())
}

#[inline(always)]
fn told<C: Medium, F: Family>(parsed: Option<FlowTuple<F>>) -> C::Action {
    match parsed {
        // Never so; it keeps the compiler from leaving the parsing out.
        Some(tuple) if tuple.source_port == tuple.destination_port => C::DROP,
        Some(_) => C::NEXT,
        None => C::DROP,
    }
}

/// The minimal balancer that remembers nothing.
#[classifier]
fn bench_minimal(ctx: TcContext) -> i32 {
    minimal::run::<Forgetful, _>(&ctx)
}

/// The minimal balancer that remembers flows in a `BPF_MAP_TYPE_LRU_HASH`.
#[classifier]
fn bench_lru(ctx: TcContext) -> i32 {
    minimal::run::<InLruHash, _>(&ctx)
}

/// The minimal balancer that remembers flows in a `BPF_MAP_TYPE_HASH`.
#[classifier]
fn bench_hash(ctx: TcContext) -> i32 {
    minimal::run::<InHash, _>(&ctx)
}

/// Reads one line of our table.
#[classifier]
fn bench_floor_one(ctx: TcContext) -> i32 {
    floor::run(&ctx, Touch::One)
}

/// Reads two.
#[classifier]
fn bench_floor_two(ctx: TcContext) -> i32 {
    floor::run(&ctx, Touch::Two)
}

/// Reads and writes the lines that an insertion must.
#[classifier]
fn bench_floor_insert(ctx: TcContext) -> i32 {
    floor::run(&ctx, Touch::Insertion)
}

/// The driver of those for XDP. `frags` as ours is: a program array holds no others beside it.
#[xdp(frags)]
fn bench_x_driver(ctx: XdpContext) -> u32 {
    driver::run(&ctx, &FRAMES_TEST)
}

/// Returns at once.
#[xdp(frags)]
fn bench_x_empty(_: XdpContext) -> u32 {
    XdpContext::NEXT
}

/// Parses, and no more.
#[xdp(frags)]
fn bench_x_parse(ctx: XdpContext) -> u32 {
    let frame = XdpFrame::new(ctx.ctx);
    match parse_link(&frame) {
        Ok(link) if link.is_v6 => told::<XdpContext, V6>(tuple(&frame, link.l3)),
        Ok(link) => told::<XdpContext, V4>(tuple(&frame, link.l3)),
        Err(_) => XdpContext::DROP,
    }
}

/// The minimal balancer that remembers nothing.
#[xdp(frags)]
fn bench_x_minimal(ctx: XdpContext) -> u32 {
    minimal::run::<Forgetful, _>(&ctx)
}

/// The same, that sends what it has balanced.
#[xdp(frags)]
fn bench_x_sender(ctx: XdpContext) -> u32 {
    sender::run(&ctx)
}

/// The minimal balancer that remembers flows in a `BPF_MAP_TYPE_LRU_HASH`.
#[xdp(frags)]
fn bench_x_lru(ctx: XdpContext) -> u32 {
    minimal::run::<InLruHash, _>(&ctx)
}

/// The minimal balancer that remembers flows in a `BPF_MAP_TYPE_HASH`.
#[xdp(frags)]
fn bench_x_hash(ctx: XdpContext) -> u32 {
    minimal::run::<InHash, _>(&ctx)
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
