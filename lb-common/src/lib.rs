//! What Steerage's kernel programs and its agent must agree on, and every decision about a packet
//! that needs no kernel.
//!
//! The same functions run in the kernel (`lb-ebpf`), in host tests and fuzzers, and behind
//! `steerage explain`: they are generic over [`packet::PacketRead`] and [`tables::Tables`], and
//! time is an argument.
//!
//! * **Byte order.** Addresses are byte arrays in network order. Ports and lengths are `u16` and
//!   `u32` in host order wherever they are values; they become big-endian bytes at the edge, in
//!   [`wire`] and [`table`].
//! * **No panics.** An index out of range would be a program that the kernel refuses to load, so
//!   indexing, `unwrap` and unchecked arithmetic are denied here.
//! * **No unsafe code.**

#![no_std]
#![forbid(unsafe_code)]
#![deny(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::float_arithmetic,
    clippy::indexing_slicing,
    clippy::integer_division_remainder_used,
    clippy::panic,
    clippy::unwrap_used
)]

#[cfg(any(test, loom))]
extern crate std;

pub mod answer;
pub mod checksum;
pub mod conntrack;
pub mod course;
pub mod crc32c;
pub mod decide;
pub mod family;
pub mod flow;
pub mod flows;
pub mod hash;
pub mod icmp;
pub mod id;
pub mod limit;
pub mod lookup;
pub mod maglev;
pub mod onward;
pub mod packet;
pub mod parse;
pub mod rewrite;
pub mod room;
pub mod select;
pub mod table;
pub mod tables;
pub mod verdict;
pub mod wire;
