//! What the agent says of devices.

use aya_ebpf::bindings::__sk_buff;
use lb_common::table::device::DeviceRecord;

use crate::maps::DEVICES;

/// The record of the device that the program runs on; an empty one where the agent has written none,
/// or is writing another one.
#[inline(always)]
pub(crate) fn record(skb: *mut __sk_buff) -> DeviceRecord {
    // SAFETY: the context is valid as long as the program runs.
    let index = unsafe { (*skb).ifindex };
    record_of(index).unwrap_or_default()
}

/// The record of the device with this interface `index`.
#[inline(always)]
pub(crate) fn record_of(index: u32) -> Option<DeviceRecord> {
    let first = read(index);
    if first.belongs_to(index) {
        return Some(first);
    }
    // The element was replaced while it was read.
    let second = read(index);
    second.belongs_to(index).then_some(second)
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
