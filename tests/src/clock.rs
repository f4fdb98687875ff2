//! The one reader of clocks in this crate, and the one way to wait: poll until a deadline.
//!
//! A test must never guess how long something takes, so nothing here sleeps for a fixed time and
//! then assumes: a wait names what it waits for and fails, by that name, when the time is up.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// How often a condition is looked at: short beside anything that is waited for, long beside the
/// cost of looking.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The monotonic clock.
#[expect(
    clippy::disallowed_methods,
    reason = "tests and the demo measure real time, here alone"
)]
pub fn now() -> Instant {
    Instant::now()
}

/// Calls `attempt` until it returns a value, at most for `within`.
///
/// An error of `attempt` ends the wait at once; `Ok(None)` means "not yet".
pub fn eventually<T>(
    what: &str,
    within: Duration,
    attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    eventually_every(POLL_INTERVAL, what, within, attempt)
}

/// [`eventually`], with another pause between two looks: short where time is measured.
pub fn eventually_every<T>(
    pause: Duration,
    what: &str,
    within: Duration,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = now();
    loop {
        if let Some(value) = attempt()? {
            return Ok(value);
        }
        if started.elapsed() >= within {
            bail!("{what}: still not so after {within:?}");
        }
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_never_holds_is_an_error_that_names_it() {
        let error = eventually::<()>("the moon is green", Duration::ZERO, || Ok(None))
            .expect_err("it never is");
        assert!(
            error.to_string().starts_with("the moon is green"),
            "{error}"
        );
    }

    #[test]
    fn a_condition_is_tried_until_it_holds() {
        let mut tries = 0;
        let value = eventually("three tries", Duration::from_secs(5), || {
            tries += 1;
            Ok((tries == 3).then_some(tries))
        });
        assert_eq!(value.expect("the third try holds"), 3);
    }
}
