//! What the agent does to the table: list it, and tidy what the kernel has no reason to touch.

use super::layout::{Value, read_key, sequence};
use super::{Bucket as _, Buckets, Control, FlowTable, Found, Location, Timeouts};
use crate::family::Family;
use crate::id::Seconds;

/// What a slot holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Slot<F: Family> {
    /// Nothing.
    Free,
    /// An entry that is not published. A program is at it for microseconds; one that shows the same
    /// word a whole sweep later was left behind: [`FlowTable::remove`] it.
    Unpublished(Control),
    /// A published entry, live or not.
    Published(Found<F>),
}

/// What [`FlowTable::tidy`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Tidied {
    /// The flow lives, or was used while it was looked at.
    Kept,
    /// This half had outlived its timeout, its partner has not: stamped like the partner.
    Restamped,
    /// This half is gone. Its partner, idle as well, goes when it is looked at itself.
    Removed,
}

impl<F: Family, B: Buckets<F>, T: Timeouts> FlowTable<F, B, T> {
    /// What is at `location`; `None` beyond the table, or where it changed twice while it was read.
    pub fn slot(&self, location: Location) -> Option<Slot<F>> {
        let bucket = self.buckets.bucket(location.bucket)?;
        for _ in 0..2 {
            let before = Control(bucket.control(location.slot));
            if before.is_free() {
                return Some(Slot::Free);
            }
            if before.state().is_none() {
                return Some(Slot::Unpublished(before));
            }
            let key = read_key::<F>(&bucket, location.slot);
            let value = Value::read::<F>(&bucket, location.slot);
            let sequence = sequence::<F>(&bucket, location.slot);
            let control = Control(bucket.control(location.slot));
            if control.is_same_entry(before)
                && sequence == control.sequence()
                && let Some(state) = control.state()
                && let Some(key) = key
            {
                return Some(Slot::Published(Found {
                    entry: value.entry(key),
                    state,
                    control,
                    location,
                }));
            }
        }
        None
    }

    /// Whether `found` is within its timeout, by its own stamp.
    pub fn is_within_timeout(&self, found: &Found<F>, now: Seconds) -> bool {
        self.is_live(found.control, found.state, now)
    }

    /// Removes a half that has been idle for longer than `grace` after its timeout, so that the
    /// kernel has long ceased to find it, unless its partner lives: then it is stamped like the
    /// partner. The kernel stamps both, but either may be lost to a race.
    pub fn tidy(&self, found: &Found<F>, now: Seconds, grace: Seconds) -> Tidied {
        if self.is_live(found.control, found.state, now) {
            return Tidied::Kept;
        }
        if let Some(partner) = self.lookup(&found.entry.partner().key, now) {
            let stamped = found
                .control
                .in_state(partner.state)
                .stamped(partner.control.seconds());
            return if self.exchange(found.location, found.control, stamped) {
                Tidied::Restamped
            } else {
                Tidied::Kept
            };
        }
        let idle = found.control.age(now).0;
        let timeout = self.timeouts.timeout(found.state).0;
        if idle.saturating_sub(timeout) >= grace.0 && self.remove(found.location, found.control) {
            Tidied::Removed
        } else {
            Tidied::Kept
        }
    }
}
