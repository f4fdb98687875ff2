//! Conntrack expiry: walks the flow tables in small steps and frees what has ended.
//!
//! The kernel takes no notice of expired entries and reuses them, so this is tidying: it keeps
//! tables small to look through, and frees claims that a program left behind.
//!
//! A walk also ends flows that leave with an address of this node that it no longer has: their answers
//! go astray, and a client that keeps sending would keep such a flow for ever. Linux's masquerade drops
//! its entries then, too. The next packet is given another address; of a connection the backend then
//! resets what it does not know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use lb_common::family::{Family, MappedAddress, V4, V6};
use lb_common::flow::{Direction, FlowEntry, Hook, Path};
use lb_common::flows::{Control, Location, Slot, Tidied};
use lb_common::id::Seconds;

use super::flows::{FlowTables, for_each_slot, remove_flow};
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
    /// Flows that ended since they left with an address that is gone.
    pub homeless: u64,
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
    /// Addresses that are gone, as of this walk's begin.
    gone: BTreeSet<MappedAddress>,
    /// How many flows of each of them this walk has ended.
    homeless: BTreeMap<MappedAddress, u64>,
}

impl Sweeper {
    /// Flows that leave with one of these addresses are to end. A walk that is under way does not take
    /// them over: what it says of an address holds for all of the tables.
    pub fn set_gone(&mut self, addresses: impl Iterator<Item = MappedAddress>) {
        if self.is_resting() {
            self.gone = addresses.collect();
        }
    }

    /// Of the walk that ended last: for each address that was gone when it began, how many flows it ended.
    pub fn take_homeless(&mut self) -> BTreeMap<MappedAddress, u64> {
        std::mem::take(&mut self.homeless)
    }

    /// Does what fits into a step's budget; the result of the walk when that completes it.
    pub fn step(&mut self, tables: &FlowTables, now: Seconds) -> Option<Walk> {
        let start = clock::instant();
        match self.begun {
            Some(begun) if self.is_resting() && start.duration_since(begun) < INTERVAL => {
                return None;
            }
            Some(_) if !self.is_resting() => {}
            _ => {
                self.begun = Some(start);
                self.homeless = self.gone.iter().map(|address| (*address, 0)).collect();
            }
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
                Slot::Published(found) => {
                    let own = own_source(&found.entry);
                    if let Some(ended) = own.and_then(|own| self.homeless.get_mut(&own)) {
                        remove_flow(&table, location, &found, now);
                        *ended += 1;
                        self.walk.homeless += 1;
                        return;
                    }
                    match table.tidy(&found, now, GRACE) {
                        Tidied::Kept => self.walk.keep(&found.entry),
                        Tidied::Restamped => {
                            self.walk.keep(&found.entry);
                            self.walk.restamped += 1;
                        }
                        Tidied::Removed => self.walk.removed += 1,
                    }
                }
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

/// The address of this node that a flow leaves with, if it was given one: see decision 0012. A pod that
/// dials itself leaves with the service's address, which is nobody's to lose.
fn own_source<F: Family>(entry: &FlowEntry<F>) -> Option<MappedAddress> {
    let original = match entry.direction {
        Direction::Original => *entry,
        Direction::Reply => entry.partner(),
    };
    let (before, after) = (original.key.tuple, original.translated);
    let is_given = original.key.hook == Hook::Egress
        && before.source != after.source
        && before.source != before.destination;
    is_given.then(|| F::mapped(after.source))
}

#[cfg(test)]
mod tests {
    use lb_common::flow::{FlowKey, FlowTuple, Protocol};
    use lb_common::id::{BackendId, ServiceId};

    use super::*;

    const CLIENT: [u8; 4] = [198, 51, 100, 7];
    const BACKEND: [u8; 4] = [10, 0, 0, 2];
    const OWN: [u8; 4] = [192, 0, 2, 1];

    fn entry(hook: Hook, from: [[u8; 4]; 2], to: [[u8; 4]; 2]) -> FlowEntry<V4> {
        let tuple = |[source, destination]: [[u8; 4]; 2]| FlowTuple {
            source,
            destination,
            source_port: 1024,
            destination_port: 80,
            protocol: Protocol::Tcp,
        };
        FlowEntry {
            key: FlowKey {
                tuple: tuple(from),
                hook,
            },
            translated: tuple(to),
            direction: Direction::Original,
            path: Path::Routed,
            is_from_outside: false,
            service: ServiceId::new(1, 1),
            backend: BackendId::new(1, 1),
        }
    }

    #[test]
    fn only_what_leaves_with_an_address_of_this_node_has_one_to_lose() {
        let own = |entry: FlowEntry<V4>| {
            let sources = [own_source(&entry), own_source(&entry.partner())];
            assert_eq!(sources[0], sources[1], "both halves say the same");
            sources[0]
        };
        let leaves = entry(Hook::Egress, [CLIENT, BACKEND], [OWN, BACKEND]);
        assert_eq!(own(leaves), Some(V4::mapped(OWN)));
        // The first pair of that flow, to a node port of this node.
        let arrives = entry(Hook::Ingress, [CLIENT, OWN], [CLIENT, BACKEND]);
        assert_eq!(own(arrives), None);
        // A pod that dialled itself by an address of this node.
        let hairpin = entry(Hook::Egress, [BACKEND, BACKEND], [OWN, BACKEND]);
        assert_eq!(own(hairpin), None);
    }
}
