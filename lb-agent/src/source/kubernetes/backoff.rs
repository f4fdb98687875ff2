//! How long to wait before asking again.

use super::Time;

/// Random numbers for spreading requests: nothing secret comes of them.
#[derive(Clone, Debug)]
pub struct Jitter(u64);

impl Jitter {
    /// The numbers that follow from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number (`SplitMix64`, by Steele, Lea and Flood).
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A duration from `low` up to, not including, `high`; `low` if they are the same.
    pub fn between(&mut self, low: Time, high: Time) -> Time {
        let range = high.saturating_sub(low).as_micros();
        let micros = u128::from(self.next()).checked_rem(range).unwrap_or(0);
        low + Time::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

/// Bounds of a wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Time,
    /// The longest wait.
    pub longest: Time,
}

impl Backoff {
    /// The wait after so many failures in a row (at least one): doubled each time, and spread over
    /// its second half, so that the nodes of a cluster do not come all at once.
    pub fn delay(&self, failures: u32, jitter: &mut Jitter) -> Time {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1).min(30));
        let delay = self
            .first
            .saturating_mul(doubled.unwrap_or(u32::MAX))
            .min(self.longest);
        jitter.between(delay / 2, delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_are_spread_over_half_of_it() {
        let backoff = Backoff {
            first: Time::from_millis(200),
            longest: Time::from_secs(30),
        };
        let mut jitter = Jitter::new(7);
        for failures in 1..100 {
            let full =
                (0..failures - 1).fold(backoff.first, |delay, _| (delay * 2).min(backoff.longest));
            for _ in 0..50 {
                let delay = backoff.delay(failures, &mut jitter);
                assert!(delay >= full / 2 && delay < full, "{failures}: {delay:?}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_waits_and_another_seed_others() {
        let waits = |seed| {
            let mut jitter = Jitter::new(seed);
            [0; 8].map(|_: i32| jitter.between(Time::ZERO, Time::from_secs(1)))
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
        assert_eq!(
            Jitter::new(1).between(Time::from_secs(2), Time::from_secs(2)),
            Time::from_secs(2)
        );
    }
}
