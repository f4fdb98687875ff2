//! What the tests, the demo and the benches share.

pub mod packets;
