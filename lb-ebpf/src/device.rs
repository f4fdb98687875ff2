//! What the agent says of the device that a program runs on.

use aya_ebpf::bindings::__sk_buff;
use lb_common::table::device::DeviceRecord;

use crate::maps::DEVICES;

/// The record of the device; an empty one where the agent has written none, or is writing another
/// one.
#[inline(always)]
pub(crate) fn record(skb: *mut __sk_buff) -> DeviceRecord {
    // SAFETY: the context is valid as long as the program runs.
    let index = unsafe { (*skb).ifindex };
    let first = read(index);
    if first.belongs_to(index) {
        return first;
    }
    // The element was replaced while it was read.
    let second = read(index);
    if second.belongs_to(index) {
        return second;
    }
    DeviceRecord::default()
}

#[inline(always)]
fn read(index: u32) -> DeviceRecord {
    match DEVICES.get_ptr(index) {
        // SAFETY: the map's value has this type, of which any bytes are a valid one; that they are
        // one record's is what the seal says.
        Some(record) => unsafe { record.read_volatile() },
        None => DeviceRecord::default(),
    }
}
