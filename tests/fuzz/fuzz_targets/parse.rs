//! Reading a packet at any offset neither panics nor returns bytes beyond its end.
#![no_main]

use lb_common::packet::{Frame, PacketRead as _};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    let mut bytes = packet.to_vec();
    let frame = Frame(&mut bytes);
    let length = frame.length();
    for offset in 0..=length.saturating_add(4) {
        assert_eq!(frame.read::<4>(offset).is_some(), offset.saturating_add(4) <= length);
    }
});
