//! Whatever the tables hold and whatever packets come when: see `tests/src/sequence.rs`, which is
//! all of it, and the files that it needs of the tests.

#![no_main]

#[path = "../../src/given.rs"]
#[expect(dead_code, reason = "the kernel tier's tests use more of it")]
mod given;
#[path = "../../src/host.rs"]
mod host;
#[path = "../../src/packets.rs"]
#[expect(dead_code, reason = "the kernel tier's tests use more of it")]
mod packets;
#[path = "../../src/sequence.rs"]
mod sequence;
#[path = "../../src/tables.rs"]
mod tables;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| sequence::check(bytes));
