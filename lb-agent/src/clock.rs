//! The one reader of clocks: everything else takes the time as an argument.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lb_common::id::Seconds;
use rustix::time::{ClockId, clock_gettime};

/// Seconds of the clock that the kernel programs stamp flows with: `bpf_ktime_get_coarse_ns` is
/// `CLOCK_MONOTONIC_COARSE`, so that the two sides never differ by more than a tick.
pub fn flow_seconds() -> Seconds {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Seconds(u32::try_from(now.tv_sec).unwrap_or(u32::MAX))
}

/// A point in time for deadlines and budgets.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is where clocks are read"
)]
pub fn instant() -> Instant {
    Instant::now()
}

/// A moment by both clocks: one to measure with, which nobody sets, and one that people read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Moment {
    /// Time since some fixed moment before the start, suspended time included.
    pub monotonic: Duration,
    /// Time since the Unix epoch.
    pub unix: Duration,
}

impl Moment {
    /// How much later than `earlier` it is; zero if it is not.
    pub const fn since(self, earlier: Self) -> Duration {
        self.monotonic.saturating_sub(earlier.monotonic)
    }
}

/// This moment.
pub fn moment() -> Moment {
    let read = |clock| {
        let now = clock_gettime(clock);
        Duration::new(
            u64::try_from(now.tv_sec).unwrap_or(0),
            u32::try_from(now.tv_nsec).unwrap_or(0),
        )
    };
    Moment {
        monotonic: read(ClockId::Boottime),
        unix: read(ClockId::Realtime),
    }
}

/// Processor time that this thread has taken.
pub fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Seconds since the Unix epoch, for what people read; 0 on a machine whose clock is before it.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is where clocks are read"
)]
pub fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Microseconds since the Unix epoch, for Kubernetes Events; 0 on a machine whose clock is before
/// it.
#[expect(
    clippy::disallowed_methods,
    reason = "this module is where clocks are read"
)]
pub fn unix_micros() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_micros()).ok())
        .unwrap_or(0)
}
