//! The only place that touches counters.

use lb_common::verdict::Reason;

use crate::maps::COUNTERS;

/// Adds one packet of `bytes` to the counter of `reason` on this processor.
#[inline(always)]
pub(crate) fn count(reason: Reason, bytes: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.index()) {
        // SAFETY: the pointer is to this processor's own element, and a tc program is not
        // interrupted by another program on the same processor's element within the addition.
        let counter = unsafe { &mut *counter };
        counter.packets = counter.packets.wrapping_add(1);
        counter.bytes = counter.bytes.wrapping_add(u64::from(bytes));
    }
}
