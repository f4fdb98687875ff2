//! How long it takes from a change in the cluster until this node's tables say it.
//!
//! The controller of `EndpointSlices` notes in an annotation when the change happened that made it
//! write a slice (`endpoints.kubernetes.io/last-change-trigger-time`). These times are collected
//! from each slice until the tables are complete again, or the slice is gone: what it was waiting for
//! will never be seen then.

use std::collections::BTreeMap;

use crate::model::name::ObjectName;

/// Times of changes that the tables do not say yet, in microseconds since the Unix epoch.
#[derive(Clone, Debug)]
pub struct TriggerTimes {
    started_at: i64,
    /// By slice.
    pending: BTreeMap<ObjectName, Vec<i64>>,
}

impl TriggerTimes {
    /// None yet. Changes before `started_at` are not ours: the agent did not run then.
    pub const fn new(started_at: i64) -> Self {
        Self {
            started_at,
            pending: BTreeMap::new(),
        }
    }

    /// A slice is there, or has changed, because of what happened at `triggered`.
    pub fn applied(&mut self, slice: &ObjectName, triggered: Option<i64>) {
        if let Some(triggered) = triggered.filter(|time| *time >= self.started_at) {
            let times = self.pending.entry(slice.clone()).or_default();
            if !times.contains(&triggered) {
                times.push(triggered);
            }
        }
    }

    /// A slice is gone.
    pub fn removed(&mut self, slice: &ObjectName) {
        self.pending.remove(slice);
    }

    /// The tables are complete at `now`: how long each change took, in seconds.
    pub fn settle(&mut self, now: i64) -> impl Iterator<Item = f64> + use<> {
        std::mem::take(&mut self.pending)
            .into_values()
            .flatten()
            .map(move |time| {
                // Clocks of machines differ; no change takes less than no time.
                let micros = u32::try_from(now.saturating_sub(time).max(0)).unwrap_or(u32::MAX);
                f64::from(micros) / 1e6
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ObjectName {
        ObjectName {
            namespace: "default".into(),
            name: name.into(),
        }
    }

    fn settled(times: &mut TriggerTimes) -> Vec<f64> {
        times.settle(10_000_000).collect()
    }

    #[test]
    fn times_are_collected_until_the_tables_are_complete() {
        let mut times = TriggerTimes::new(1_000_000);
        times.applied(&name("web"), Some(2_000_000));
        times.applied(&name("web"), Some(9_500_000));
        times.applied(&name("dns"), Some(4_000_000));
        assert_eq!(settled(&mut times), [6.0, 8.0, 0.5]);
        assert_eq!(settled(&mut times), [0.0; 0]);
    }

    #[test]
    fn what_was_not_seen_to_happen_is_not_measured() {
        let mut times = TriggerTimes::new(1_000_000);
        times.applied(&name("web"), None);
        times.applied(&name("web"), Some(999_999));
        assert_eq!(settled(&mut times), [0.0; 0]);
    }

    #[test]
    fn a_removed_slice_takes_its_times_with_it() {
        let mut times = TriggerTimes::new(0);
        times.applied(&name("web"), Some(1_000_000));
        times.removed(&name("web"));
        assert_eq!(settled(&mut times), [0.0; 0]);
        times.applied(&name("web-1"), Some(1_000_000));
        times.applied(&name("web-2"), Some(3_000_000));
        times.removed(&name("web-1"));
        times.applied(&name("web-1"), Some(8_000_000));
        assert_eq!(settled(&mut times), [2.0, 7.0]);
    }

    #[test]
    fn a_change_from_the_future_took_no_time() {
        let mut times = TriggerTimes::new(0);
        times.applied(&name("web"), Some(11_000_000));
        assert_eq!(settled(&mut times), [0.0]);
    }
}
