//! How often a processor may answer: a token bucket in one word, since refusing a flood must not
//! be one (RFC 4443 §2.4 (f)).

/// Answers a processor may send in a burst.
pub const BURST: u64 = 1000;
/// Nanoseconds that one answer costs: 10 000 a second.
const COST_NANOS: u64 = 100_000;
const BURST_NANOS: u64 = BURST.wrapping_mul(COST_NANOS);

/// Takes one answer out of the bucket at `now` (nanoseconds of any clock that does not run
/// backwards). `empty_since` is the bucket: the time at which it would have been empty, had nothing
/// been added to it since. Says whether there was one, and what the bucket is then.
#[must_use]
#[inline(always)]
pub const fn take(empty_since: u64, now: u64) -> (bool, u64) {
    let oldest = now.saturating_sub(BURST_NANOS);
    let start = if empty_since < oldest {
        oldest
    } else {
        empty_since
    };
    let next = start.saturating_add(COST_NANOS);
    if next > now {
        (false, start)
    } else {
        (true, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_answered_and_then_the_rate_holds() {
        let mut bucket = 0;
        let start = 5_000_000_000;
        let mut answered = 0;
        for _ in 0..BURST * 3 {
            let (allowed, next) = take(bucket, start);
            bucket = next;
            answered += u64::from(allowed);
        }
        assert_eq!(answered, BURST);
        for step in 1..=10_000 {
            let (allowed, next) = take(bucket, start + ((step * COST_NANOS) >> 1));
            bucket = next;
            answered += u64::from(allowed);
        }
        assert_eq!(answered, BURST + 5_000);
    }
}
