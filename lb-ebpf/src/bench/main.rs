//! Programs that `cargo xtask bench datapath` measures with and against; nothing of them is shipped.
//!
//! `bench_driver` gives each run of a test its own packet and tail-calls the program under test,
//! which is ours or one of the others here: one that returns at once, one that only parses, and a
//! minimal balancer without a table, with the kernel's LRU hash and with the kernel's hash; and those
//! that only touch the memory of our flow table.

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch, core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "core has no compare-and-swap on BPF")
)]
#![expect(
    clippy::cast_possible_truncation,
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
mod minimal;
#[path = "../packet.rs"]
mod packet;
mod shape;

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use lb_common::family::{Family, V4, V6};
use lb_common::parse::{parse, parse_link};

use floor::Touch;
use minimal::{Forgetful, InHash, InLruHash};
use packet::Skb;

/// `TCX_NEXT`: what our programs end with, too.
const NEXT: i32 = -1;
/// `TCX_DROP`: a packet that no measurement expects, so the bench notices.
const DROP: i32 = 2;

/// Makes the next packet of the course and hands it to the program under test.
#[classifier]
fn bench_driver(ctx: TcContext) -> i32 {
    driver::run(&ctx)
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
    let mut parsed = parse::<F>(packet, l3).ok().and_then(|it| it.tuple());
    if parsed.is_none() && packet.pull() {
        parsed = parse::<F>(packet, l3).ok().and_then(|it| it.tuple());
    }
    match parsed {
        // Never so; it keeps the compiler from leaving the parsing out.
        Some(tuple) if tuple.source_port == tuple.destination_port => DROP,
        Some(_) => NEXT,
        None => DROP,
    }
}

/// The minimal balancer that remembers nothing.
#[classifier]
fn bench_minimal(ctx: TcContext) -> i32 {
    minimal::run::<Forgetful>(&ctx)
}

/// The minimal balancer that remembers flows in a `BPF_MAP_TYPE_LRU_HASH`.
#[classifier]
fn bench_lru(ctx: TcContext) -> i32 {
    minimal::run::<InLruHash>(&ctx)
}

/// The minimal balancer that remembers flows in a `BPF_MAP_TYPE_HASH`.
#[classifier]
fn bench_hash(ctx: TcContext) -> i32 {
    minimal::run::<InHash>(&ctx)
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

/// The kernel lets only GPL-compatible programs call the helpers that programs here call.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(not(test))]
#[panic_handler]
const fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
