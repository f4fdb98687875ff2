//! Conntrack expiry: walks the flow tables in small steps and frees what has ended.
//!
//! The kernel takes no notice of expired entries and reuses them, so this is tidying: it keeps
//! tables small to look through, and frees claims that a program left behind.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lb_common::family::{Family, V4, V6};
use lb_common::flow::{FlowEntry, Path};
use lb_common::flows::{Control, Location, Slot, Tidied};
use lb_common::id::Seconds;

use super::flows::{FlowTables, for_each_slot};
use crate::clock;

/// Buckets between two looks at the clock.
const CHUNK: u32 = 256;
/// How long an entry stays after its timeout, so that no program still uses it.
const GRACE: Seconds = Seconds(5);
/// Time between the beginnings of two walks.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Time between two steps.
pub const STEP_INTERVAL: Duration = Duration::from_millis(200);
/// What a step may take: with [`STEP_INTERVAL`], 40 ms a second.
const STEP_BUDGET: Duration = Duration::from_millis(8);

/// What a whole walk found and did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Walk {
    /// Entries that are there, two for each flow.
    pub entries: u64,
    /// Those of them whose packets are sent on at once.
    pub sent_on: u64,
    /// Entries freed.
    pub removed: u64,
    /// Entries whose time stamp was brought up to their partner's.
    pub restamped: u64,
    /// Claims freed that were left behind.
    pub unstuck: u64,
}

impl Walk {
    fn keep<F: Family>(&mut self, entry: &FlowEntry<F>) {
        self.entries += 1;
        self.sent_on += u64::from(entry.path == Path::SentOn);
    }
}

/// Where a walk is.
#[derive(Debug, Default)]
pub struct Sweeper {
    is_v6: bool,
    next_bucket: u32,
    walk: Walk,
    begun: Option<Instant>,
    /// Claims of the last walk and of this one, by family and place.
    stuck_before: HashMap<(bool, u32, usize), Control>,
    stuck_now: HashMap<(bool, u32, usize), Control>,
}

impl Sweeper {
    /// Does what fits into a step's budget; the result of the walk when that completes it.
    pub fn step(&mut self, tables: &FlowTables, now: Seconds) -> Option<Walk> {
        let start = clock::instant();
        match self.begun {
            Some(begun) if self.is_resting() && start.duration_since(begun) < INTERVAL => {
                return None;
            }
            Some(_) if !self.is_resting() => {}
            _ => self.begun = Some(start),
        }
        while clock::instant().duration_since(start) < STEP_BUDGET {
            let is_end = if self.is_v6 {
                self.chunk::<V6>(tables, now)
            } else {
                self.chunk::<V4>(tables, now)
            };
            if is_end {
                self.next_bucket = 0;
                self.is_v6 = !self.is_v6;
                if !self.is_v6 {
                    self.stuck_before = std::mem::take(&mut self.stuck_now);
                    return Some(std::mem::take(&mut self.walk));
                }
            }
        }
        None
    }

    /// Whether no walk is under way.
    const fn is_resting(&self) -> bool {
        !self.is_v6 && self.next_bucket == 0
    }

    /// Walks the next buckets; whether they were the last of their family.
    fn chunk<F: Family>(&mut self, tables: &FlowTables, now: Seconds) -> bool {
        let count = tables.buckets::<F>();
        let end = self.next_bucket.saturating_add(CHUNK).min(count);
        if let Some(table) = tables.table::<F>() {
            for_each_slot(&table, self.next_bucket..end, |location, slot| match slot {
                Slot::Free => {}
                Slot::Published(found) => match table.tidy(&found, now, GRACE) {
                    Tidied::Kept => self.walk.keep(&found.entry),
                    Tidied::Restamped => {
                        self.walk.keep(&found.entry);
                        self.walk.restamped += 1;
                    }
                    Tidied::Removed => self.walk.removed += 1,
                },
                Slot::Unpublished(control) => {
                    let Location { bucket, slot } = location;
                    let place = (F::IS_V6, bucket, slot);
                    if self.stuck_before.get(&place) == Some(&control) {
                        if table.remove(location, control) {
                            self.walk.unstuck += 1;
                        }
                    } else {
                        self.stuck_now.insert(place, control);
                    }
                }
            });
        }
        self.next_bucket = end;
        end >= count
    }
}
