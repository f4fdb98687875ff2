//! The kernel's coarse boot clock.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use lb_common::id::Seconds;

/// Nanoseconds of `CLOCK_MONOTONIC_COARSE`: 3 ns to read, exact to a tick; the exact clock costs 28.
#[inline(always)]
pub(crate) fn nanoseconds() -> u64 {
    // SAFETY: the helper takes no argument and only reads a clock.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The same in whole seconds.
#[inline(always)]
pub(crate) fn seconds() -> Seconds {
    Seconds::of_nanoseconds(nanoseconds())
}
