//! Addresses that this node had and has no more: flows that leave with one of them have to end, and
//! somebody should know.

use std::collections::BTreeMap;
use std::time::Instant;

use lb_common::family::MappedAddress;

use crate::interfaces::GRACE;

/// Walks in a row that met no such flow, after which an address is forgotten: a packet may rebuild half a
/// flow behind the back of the first.
const WALKS_WITHOUT: u32 = 2;

/// Those that are looked for.
#[derive(Debug, Default)]
pub(super) struct LostAddresses {
    lost: BTreeMap<MappedAddress, Lost>,
}

#[derive(Clone, Copy, Debug)]
struct Lost {
    since: Instant,
    walks_without: u32,
}

impl LostAddresses {
    /// No device has `address` any more.
    pub(super) fn lose(&mut self, address: MappedAddress, now: Instant) {
        self.lost.entry(address).or_insert(Lost {
            since: now,
            walks_without: 0,
        });
    }

    /// A device has it, again or for the first time.
    pub(super) fn find(&mut self, address: &MappedAddress) {
        self.lost.remove(address);
    }

    /// Those that have been away for longer than what sets up a network anew takes.
    pub(super) fn gone(&self, now: Instant) -> impl Iterator<Item = MappedAddress> {
        let is_gone = move |lost: &Lost| now.saturating_duration_since(lost.since) >= GRACE;
        let lost = self.lost.iter().filter(move |(_, lost)| is_gone(lost));
        lost.map(|(&address, _)| address)
    }

    /// A walk has ended so many flows of each address that was gone when it began.
    pub(super) fn walked(&mut self, ended: &BTreeMap<MappedAddress, u64>) {
        self.lost.retain(|address, lost| {
            match ended.get(address) {
                None => {}
                Some(0) => lost.walks_without += 1,
                Some(_) => lost.walks_without = 0,
            }
            lost.walks_without < WALKS_WITHOUT
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock;

    const ADDRESS: MappedAddress = [7; 16];

    fn gone(lost: &LostAddresses, now: Instant) -> usize {
        lost.gone(now).count()
    }

    #[test]
    fn an_address_is_gone_after_a_moment_and_not_if_it_comes_back() {
        let (begin, mut lost) = (clock::instant(), LostAddresses::default());
        let later = begin + GRACE;
        lost.lose(ADDRESS, begin + Duration::from_millis(1));
        assert_eq!(gone(&lost, later), 0);
        let later = later + Duration::from_millis(1);
        // That it is still away does not begin the time anew.
        lost.lose(ADDRESS, later);
        assert_eq!(gone(&lost, later), 1);
        lost.find(&ADDRESS);
        assert_eq!(gone(&lost, later), 0);
    }

    #[test]
    fn an_address_is_looked_for_until_two_walks_have_met_no_flow_of_it() {
        let (begin, mut lost) = (clock::instant(), LostAddresses::default());
        let later = begin + GRACE;
        lost.lose(ADDRESS, begin);
        let mut left_after = |ended: &[u64]| {
            for flows in ended {
                lost.walked(&BTreeMap::from([(ADDRESS, *flows)]));
            }
            // A walk that began before the address was gone says nothing of it.
            lost.walked(&BTreeMap::new());
            gone(&lost, later)
        };
        assert_eq!(left_after(&[3, 0]), 1);
        assert_eq!(left_after(&[1, 0]), 1);
        assert_eq!(left_after(&[0]), 0);
    }
}
